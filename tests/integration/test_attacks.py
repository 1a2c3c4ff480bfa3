"""What a stranger on the network, and a node that was taken over, can do to the master: nothing.

The node is pi-01 with its own key, asking as it likes (``channel``); the stranger has no accepted key.
After each attack the master must still serve.
"""

from __future__ import annotations

import fnmatch
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import salt.channel.client
import salt.crypt
import salt.minion
import salt.payload
import zmq
from saltfactories.cli.run import SaltRun
from saltfactories.cli.salt import Salt
from saltfactories.daemons.master import SaltMaster
from saltfactories.daemons.minion import SaltMinion

from tests.integration.conftest import INJECTED, JINJA, Channel, event_bus, runners

BAD = "bad load"


@pytest.fixture(autouse=True)
def still_serving(salt_cli: Salt) -> Iterator[None]:
    """Whatever is tried, the nodes can be reached afterwards."""
    yield
    done = salt_cli.run("test.ping", minion_tgt="cp1")
    assert done.data is True, done


# --- a node that was taken over ------------------------------------------------------------------


class Forger(threading.Thread):
    """Answers the master's questions to cp1 in cp1's name, as pi-01.

    A real attacker reads the job's id from the publication, which reaches every minion; here it is
    read from the master's bus.
    """

    def __init__(self, master: SaltMaster, channel: Channel, answer: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self.channel, self.answer = channel, answer
        self.bus = event_bus(master)
        self.forged: list[str] = []
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            event = self.bus.get_event(wait=0.2, full=True)
            if not event or not fnmatch.fnmatch(event["tag"], "salt/job/*/new"):
                continue
            jid = event["data"]["jid"]
            forged = {
                "id": "cp1", "jid": jid, "return": self.answer, "retcode": 0, "success": True,
                "fun": event["data"]["fun"], "cmd": "_return",
            }  # fmt: skip
            # What is fired under a prefix is fired without a look at the tag.
            self.channel.ask(
                "_minion_event", id="pi-01", pretag=f"salt/job/{jid}/ret", events=[{"tag": "cp1", "data": forged}]
            )  # fmt: skip
            self.forged.append(f"salt/job/{jid}/ret/cp1")

    def close(self) -> None:
        self.over.set()
        self.join(10)
        self.bus.destroy()


def test_an_answer_in_the_name_of_another_node_is_believed_by_nobody(
    master: SaltMaster, cp1: SaltMinion, channel: Channel, salt_run_cli: SaltRun, bus: Any
) -> None:
    known = {"ready": True, "reason": "", "version": "v6.6.6", "ip": "192.168.1.66"}
    answer = {"kubeadm.nodes": {"evil": known, "cp1": known}, "kubeadm.facts": {"ca_hash": "evil"}}
    cp1.terminate()  # so that the forged answer is the only one
    forger = Forger(master, channel, answer)
    forger.start()
    try:
        status = salt_run_cli.run("rack.status").data
        assert forger.forged, "nothing was forged: this test tests nothing"
        heard = bus.get_event(tag=forger.forged[0], wait=10)
        assert heard and heard["id"] == "cp1", "the forged answer was not even on the bus"
    finally:
        forger.close()
        cp1.start()
    assert "evil" not in {row["id"] for row in status["nodes"]}
    entry = next(row for row in status["nodes"] if row["id"] == "cp1")
    assert entry["version"] is None
    assert entry["ready"] is None, entry


# What tells a refusal from an answer: the master's words, or that the reply cannot be decrypted.
REFUSED = ("bad load", "Authentication", "HMAC", "unhashable", "decrypt", "timed out")


@pytest.mark.parametrize("outside", ["pi-01", "cp1"])
@pytest.mark.parametrize(
    ("cmd", "load"),
    [
        ("_pillar", {"grains": {"id": "cp1"}, "saltenv": "base", "pillarenv": None, "ver": "2"}),
        ("_return", {"jid": "20260101000000000000", "return": True, "fun": "test.ping"}),
        ("_minion_event", {"tag": "forged/by/pi-01", "data": {}}),
        ("_serve_file", {"path": "top.sls", "saltenv": "base", "loc": 0}),
        ("revoke_auth", {}),
    ],
)
def test_nothing_is_done_in_the_name_of_another(  # noqa: PLR0917
    cmd: str, load: dict[str, Any], outside: str, channel: Channel, master: SaltMaster, bus: Any
) -> None:
    try:
        answer = channel.forge(cmd, said="cp1", outside=outside, **load)
    except Exception as exc:
        answer = f"{type(exc).__name__}: {exc}"
    assert any(word in str(answer) for word in REFUSED), answer
    assert (Path(master.config["pki_dir"]) / "minions" / "cp1").exists()
    assert bus.get_event(tag="forged/by", wait=0.5) is None
    if cmd in ("_serve_file", "_minion_event"):  # in its own name it works
        answer = channel.ask(cmd, **load)
        assert answer or bus.get_event(tag="forged/by", wait=10)


def test_the_pillar_of_a_node_is_its_own_whatever_its_grains_say(channel: Channel) -> None:
    """Grains are the node's word: roles and the pillar follow the key."""
    load = {
        "grains": {"id": "cp1", "host": "cp1", "roles": ["control_plane"]},
        "saltenv": "base",
        "pillarenv": None,
        "ver": "2",
        "cmd": "_pillar",
        "id": "cp1",
    }
    pillar = channel.pillar(load)
    assert pillar["node"]["id"] == "pi-01"
    assert pillar["node"]["roles"] == ["worker"]


@pytest.mark.parametrize(
    ("cmd", "load"),
    [
        ("minion_pub", {"fun": "test.ping", "arg": [], "tgt": "*", "tgt_type": "glob", "ret": ""}),
        ("minion_publish", {"fun": "cmd.run", "arg": ["id"], "tgt": "cp1", "ret": ""}),
        ("minion_runner", {"fun": "rack.retry", "arg": ["pi-01"]}),
        ("minion_runner", {"fun": "enrol.card", "arg": ["pi-66"]}),
        ("minion_runner", {"fun": "salt.cmd", "arg": ["cmd.run", "id"]}),
        ("pub_ret", {"jid": "20260101000000000000"}),
        ("_mine_get", {"tgt": "*", "fun": "network.ip_addrs", "tgt_type": "glob"}),
    ],
)
def test_a_node_runs_nothing_on_others_or_on_the_master(
    cmd: str, load: dict[str, Any], channel: Channel, salt_cli: Salt
) -> None:
    answer = channel.ask(cmd, id="pi-01", **load)
    assert not answer, answer


def test_commands_that_are_the_masters_own_are_not_a_nodes_to_give(channel: Channel) -> None:
    for cmd in (
        "publish",
        "runner",
        "wheel",
        "mk_token",
        "get_token",
        "_syndic_return",
        "_handle_aes",
    ):
        try:
            answer = channel.ask(cmd, id="pi-01", fun="key.accept", tgt="*", match="*", arg=[])
        except Exception as exc:
            answer = str(exc)
        assert not answer or isinstance(answer, str) or "error" in answer, (cmd, answer)


def test_a_nodes_own_key_opens_no_other_name(
    channel: Channel, stranger: Callable[..., Any], master: SaltMaster, pi_01: SaltMinion
) -> None:
    """pi-01 says that it is cp1, with its own key: denied, and cp1's stays."""
    accepted = Path(master.config["pki_dir"]) / "minions" / "cp1"
    before = accepted.read_bytes()
    own = (Path(pi_01.config["pki_dir"]) / "minion.pub").read_text(encoding="ascii")
    answer = stranger("_auth", id="cp1", pub=own)
    assert not _let_in(answer), answer
    assert accepted.read_bytes() == before
    denied = Path(master.config["pki_dir"]) / "minions_denied" / "cp1"
    denied.unlink(missing_ok=True)


def test_events_that_look_like_ours_only_ask_for_a_look(  # noqa: PLR0917
    channel: Channel,
    bus: Any,
    workspace: Path,
    master: SaltMaster,
    state_dir: Path,
    nobody_accepts: None,
) -> None:
    """What the rack does is never taken from an event, whoever is said to have sent it."""
    pki = Path(master.config["pki_dir"])
    before = {
        path: path.read_bytes()
        for path in (*pki.rglob("*"), *state_dir.glob("*.json"))
        if path.is_file()
    }
    proof = workspace / "proof"
    jinja = JINJA.replace("@PROOF@", str(proof))
    tags = [
        "saltberry/node/cp1/ready", "saltberry/node/prepared", "saltberry/node/cp1/storage/wanted",
        "saltberry/node/cp1/failed", "salt/auth", "salt/key", "minion_start", "salt/minion/cp1/start",
        "salt/run/20260101000000000000/ret", "salt/presence/change", f"saltberry/node/{jinja}/storage/wanted",
        "key_rotate_aes", "__master_req_channel_payload",
    ]  # fmt: skip
    for tag in tags:
        for value in ("cp1", INJECTED, jinja, "*", {"a": [jinja]}):
            data = {
                "id": value, "act": "accept", "result": True, "pub": value, "data": value, "fun": "enrol.card",
                "lost": [value], "user": "root", "rotate_aes_key": True,
            }  # fmt: skip
            channel.ask("_minion_event", id="pi-01", tag=tag, data=data)
            channel.ask("_minion_event", id="pi-01", events=[{"tag": tag, "data": data}])
    assert set(runners(bus, 6)) <= {"runner.rack.wake", "runner.enrol.check"}
    assert not proof.exists()
    assert {path: path.read_bytes() for path in before} == before
    assert {path.name for path in (workspace / "run").iterdir()} <= {"reconcile.request"}


def test_a_node_reads_no_answer_that_another_one_gave(
    channel: Channel, salt_cli: Salt, bus: Any, pi_01: SaltMinion
) -> None:
    """Job ids reach every minion; what came of the job, also a sealed ticket, does not."""
    assert salt_cli.run("test.ping", minion_tgt="cp1").data is True
    jobs = []
    while (event := bus.get_event(wait=2, full=True)) is not None:
        if fnmatch.fnmatch(event["tag"], "salt/job/*/ret/cp1"):
            jobs.append(event["data"]["jid"])
    assert jobs
    for jid in jobs:
        assert not channel.ask("pub_ret", id="pi-01", jid=jid)
        for fun in ("jobs.lookup_jid", "jobs.list_job", "cache.grains", "pillar.show_pillar"):
            assert not channel.ask("minion_runner", id="pi-01", fun=fun, arg=[jid])


def test_two_thousand_start_events_leave_one_note(
    channel: Channel, workspace: Path, salt_cli: Salt
) -> None:
    for _ in range(20):
        events = [
            {"tag": f"salt/minion/pi-{n}/start", "data": {"id": f"pi-{n}"}} for n in range(100)
        ]
        channel.ask("_minion_event", id="pi-01", events=events)
    began = time.monotonic()
    assert salt_cli.run("test.ping", minion_tgt="pi-01").data is True
    assert time.monotonic() - began < 100, "the master is out of breath"
    assert {path.name for path in (workspace / "run").iterdir()} <= {"reconcile.request"}


# --- a stranger ----------------------------------------------------------------------------------


def _let_in(answer: Any) -> bool:
    """Whether an answer to _auth holds the keys of the bus."""
    if isinstance(answer, dict) and isinstance(answer.get("load"), bytes):
        answer = salt.payload.loads(answer["load"])
    return isinstance(answer, dict) and ("aes" in answer or "session" in answer)


@pytest.fixture
def stranger(master: SaltMaster, pi_01: SaltMinion) -> Iterator[Callable[..., Any]]:
    """Send a request as somebody who has no key at the master."""
    opts = {**pi_01.config, "id": "stranger"}
    opts.update(salt.minion.prep_ip_port(opts))
    opts.update(salt.minion.resolve_dns(opts))
    channel = salt.channel.client.ReqChannel.factory(opts, crypt="clear")

    def send(cmd: str, **load: Any) -> Any:
        load = {
            "nonce": uuid.uuid4().hex, "enc_algo": opts["encryption_algorithm"],
            "sig_algo": opts["signing_algorithm"], **load,
        }  # fmt: skip
        return channel.send({"cmd": cmd, **load}, timeout=30)

    yield send
    channel.close()


@pytest.fixture(scope="module")
def own_key(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A good public key that nobody knows."""
    folder = tmp_path_factory.mktemp("stranger")
    salt.crypt.write_keys(str(folder), "stranger", 2048)
    return (folder / "stranger.pub").read_text(encoding="ascii")


@pytest.mark.parametrize(
    ("cmd", "load"),
    [
        ("publish", {"fun": "cmd.run", "arg": ["id"], "tgt": "*", "user": "root", "key": "x", "ret": ""}),
        ("runner", {"fun": "rack.retry", "kwarg": {}, "user": "root", "key": "x", "token": "x"}),
        ("wheel", {"fun": "key.accept", "match": "*", "user": "root", "key": "x", "token": "x"}),
        ("wheel", {"fun": "key.accept", "match": "*", "eauth": "auto", "username": "root"}),
        ("mk_token", {"eauth": "auto", "username": "root", "password": "x"}),
        ("_prep_auth_info", {}),
        ("_pillar", {"id": "cp1", "grains": {}, "saltenv": "base"}),
        ("_serve_file", {"path": "top.sls", "saltenv": "base", "loc": 0}),
        ("_file_list", {"saltenv": "base"}),
        ("_file_recv", {"id": "cp1", "path": ["evil"], "loc": 0, "data": b"x", "tok": b"x"}),
        ("_mine_get", {"id": "cp1", "tgt": "*", "fun": "network.ip_addrs", "tgt_type": "glob"}),
        ("_mine", {"id": "cp1", "data": {"network.ip_addrs": ["6.6.6.6"]}}),
        ("_minion_event", {"id": "cp1", "tag": "forged/by/a/stranger", "data": {}}),
        ("_return", {"id": "cp1", "jid": "20260101000000000000", "return": "evil", "fun": "test.ping"}),
        ("_master_opts", {"id": "cp1"}),
        ("minion_pub", {"id": "cp1", "fun": "test.ping", "arg": [], "tgt": "*", "tgt_type": "glob", "ret": ""}),
        ("minion_publish", {"id": "cp1", "fun": "cmd.run", "arg": ["id"], "tgt": "*", "ret": ""}),
        ("minion_runner", {"id": "cp1", "fun": "rack.retry", "arg": ["cp1"]}),
        ("pub_ret", {"id": "cp1", "jid": "20260101000000000000"}),
        ("revoke_auth", {"id": "cp1", "tok": b"x"}),
        ("request_master_sign", {"id": "cp1"}),
    ],
)  # fmt: skip
def test_a_stranger_gets_nothing(
    cmd: str, load: dict[str, Any], stranger: Callable[..., Any], bus: Any, master: SaltMaster
) -> None:
    try:
        answer = stranger(cmd, **load)
    except Exception as exc:
        answer = str(exc)
    text = str(answer)
    assert not answer or "error" in text or BAD in text or "Some exception" in text, answer
    assert bus.get_event(tag="forged/by", wait=0.3) is None
    assert not list(Path(master.config["cachedir"]).rglob("evil"))
    assert (Path(master.config["pki_dir"]) / "minions" / "cp1").exists()


@pytest.mark.parametrize("name", ["cp1", "pi-01", "pi-77", "*", ""])
@pytest.mark.parametrize("text", [b"", b"x" * 7, bytes(4096), b"HMAC" * 64], ids=len)
def test_a_stranger_who_speaks_as_if_encrypted_is_not_understood(
    name: str, text: bytes, master: SaltMaster, bus: Any
) -> None:
    """An envelope with the id of a node that is in, and nothing that its key has made."""
    sent = {"enc": "aes", "load": text, "id": name, "version": 3, "nonce": uuid.uuid4().hex}
    answer = _send_raw(master, salt.payload.dumps(sent))
    assert answer is None or BAD in str(answer) or "Some exception" in str(answer), answer
    assert bus.get_event(tag="salt/job", wait=0.3) is None


@pytest.mark.parametrize(
    "message",
    [
        b"", b"\x00", b"\xc1", b"GET / HTTP/1.1\r\n\r\n", b"\x81" * 2000, b"\xdf\xff\xff\xff\xff",
        *map(salt.payload.dumps, ([], 7, "x", {}, {"enc": "clear"}, {"enc": "clear", "load": 7}, {"enc": ["x"]},
                                 {"enc": "clear", "load": {"cmd": ["_auth"]}}, {"enc": "clear", "load": {}})),
    ],
)  # fmt: skip
def test_what_is_no_message_is_survived(message: bytes, master: SaltMaster) -> None:
    answer = _send_raw(master, message)
    assert not _let_in(answer), answer


def test_a_request_that_was_recorded_does_nothing_that_it_did_not_do_before(
    channel: Channel, pi_01: SaltMinion, master: SaltMaster, bus: Any
) -> None:
    """Whoever has heard a node's words may say them again: what comes back he cannot read."""
    recorded = channel.record(
        "_minion_event", id="pi-01", tag="said/by/pi-01", data={"secret": 5417}
    )
    assert bus.get_event(tag="said/by/pi-01", wait=10), "it was not sent even once"
    assert b"5417" not in recorded and b"said/by" not in recorded, "it went over the wire in clear"
    pillar = channel.record(
        "_pillar", id="pi-01", grains={"id": "pi-01"}, saltenv="base", pillarenv=None, ver="2"
    )
    answer = _send_raw(master, pillar)
    assert b"192.168.1" not in salt.payload.dumps(answer), "a pillar in clear"
    # In another's name the same words are not understood.
    forged = {**salt.payload.loads(recorded), "id": "cp1"}
    answer = _send_raw(master, salt.payload.dumps(forged))
    assert answer is None or BAD in str(answer) or "Some exception" in str(answer), answer
    assert bus.get_event(tag="said/by/pi-01", wait=1) is None


def _send_raw(master: SaltMaster, message: bytes) -> Any:
    """Send bytes to the master's port as they are; its answer, or None when it gives none."""
    context = zmq.Context()
    socket = context.socket(zmq.REQ)
    socket.linger = 0
    try:
        socket.connect(f"tcp://127.0.0.1:{master.config['ret_port']}")
        socket.send(message)
        if not socket.poll(5000):
            return None
        answer = socket.recv()
    finally:
        socket.close()
        context.term()
    try:
        return salt.payload.loads(answer)
    except Exception:
        return answer


@pytest.mark.parametrize(
    "name",
    [
        "*", "pi-*", "pi-01\nevil", "../../../../tmp/evil", "/etc/cron.d/evil", "a/b", ".hidden", "",
        "{{ salt['cmd.run']('touch @PROOF@') }}", "x: [1]\ny: !!python/object:os.system", "é", "a" * 300, "cp1\0x",
    ],
)  # fmt: skip
def test_a_crafted_name_opens_nothing(  # noqa: PLR0917
    name: str,
    stranger: Callable[..., Any],
    own_key: str,
    master: SaltMaster,
    workspace: Path,
    tmp_path: Path,
) -> None:
    pki = Path(master.config["pki_dir"])
    proof = tmp_path / "proof"
    before = set(workspace.rglob("*evil*"))
    accepted = sorted(path.name for path in (pki / "minions").iterdir())
    pub = own_key + "\npwned:\n  runner.test.arg:\n    - args: [owned]\n"
    for key in (own_key, pub):
        try:
            answer = stranger("_auth", id=name.replace("@PROOF@", str(proof)), pub=key)
        except Exception as exc:
            answer = str(exc)
        assert not _let_in(answer), answer
    assert not proof.exists()
    assert sorted(path.name for path in (pki / "minions").iterdir()) == accepted
    assert not Path("/tmp/evil").exists() and not Path("/etc/cron.d/evil").exists()
    grown = set(workspace.rglob("*evil*")) - before
    waiting = [pki / "minions_pre", pki / "minions_denied"]
    assert all(path.parent in waiting for path in grown), grown
    for folder in waiting:
        for path in folder.iterdir():
            path.unlink()


@pytest.mark.parametrize("name", [7, None, True, [], ["cp1"], {"cp1": 1}, b"\xff\xfe", 1.5])
def test_a_name_that_is_no_text_opens_nothing(
    name: Any, stranger: Callable[..., Any], own_key: str, master: SaltMaster
) -> None:
    pki = Path(master.config["pki_dir"])
    before = sorted(path.name for path in (pki / "minions").iterdir())
    for load in (
        {"id": name, "pub": own_key},
        {"id": name},
        {"pub": own_key},
        {"id": "cp1", "pub": name},
    ):
        try:
            answer = stranger("_auth", **load)
        except Exception as exc:
            answer = str(exc)
        assert not _let_in(answer), answer
    assert sorted(path.name for path in (pki / "minions").iterdir()) == before


class Door:
    """The folders in which keys wait, with a bound of the test's own."""

    MOST = 20

    def __init__(self, master: SaltMaster, state_dir: Path) -> None:
        self.pki, self.log = Path(master.config["pki_dir"]), Path(master.config["log_file"])
        self.note = state_dir / "known.json"
        self.note.write_text(json.dumps({"names": ["pi-02"], "keys": self.MOST}), encoding="utf-8")
        self.stamps = [state_dir / f"strangers-{kind}" for kind in ("many", "long")]
        self.clear()

    def waiting(self) -> list[Path]:
        folders = (self.pki / "minions_pre", self.pki / "minions_denied")
        return [path for folder in folders for path in folder.iterdir()]

    def lines(self) -> list[str]:
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return [line for line in text.splitlines() if "stranger" in line and "localfs_key" in line]

    def clear(self) -> None:
        for path in (*self.waiting(), *self.stamps):
            path.unlink(missing_ok=True)


@pytest.fixture
def door(
    master: SaltMaster, state_dir: Path, nobody_accepts: None, still_serving: None
) -> Iterator[Door]:
    made = Door(master, state_dir)
    yield made
    made.clear()
    made.note.unlink()


# What is sent as a public key: in each of them the id and a number are put where %s is.
TEXTS = [
    "%s", "x\n\n%s\n" + INJECTED, JINJA + "%s", "*%s", "../../../../tmp/evil%s", "%s" + "x" * 10_000, "", "\0%s",
    "-----BEGIN PUBLIC KEY-----\n%s\n-----END PUBLIC KEY-----", "{a: &a [*a, %s]}", "é☃%s" * 600,
]  # fmt: skip
NAMES = [
    "pi-%s",
    "%s\n[CRITICAL] evil",
    "{{ %s }}",
    "* %s",
    "..%s",
    "x: [%s]",
    "é%s",
    "%s" + "a" * 200,
]


def test_a_thousand_strangers_leave_no_more_than_the_bound(
    door: Door, stranger: Callable[..., Any], own_key: str, salt_cli: Salt, tmp_path: Path
) -> None:
    """And the master answers meanwhile, and a Pi that the pillar names waits where it was."""
    proof = tmp_path / "proof"
    stranger("_auth", id="pi-02", pub=own_key)
    quiet = _seconds_of_a_ping(salt_cli)
    told = len(door.lines())
    slowest, most = 0.0, 0
    for number in range(1000):
        name = NAMES[number % len(NAMES)].replace("%s", uuid.uuid4().hex)
        text = TEXTS[number % len(TEXTS)].replace("%s", str(number)).replace("@PROOF@", str(proof))
        assert not _let_in(stranger("_auth", id=name, pub=text))
        most = max(most, len(door.waiting()))
        if number % 250 == 249:
            slowest = max(slowest, _seconds_of_a_ping(salt_cli))
    assert most <= door.MOST + 2, "the Pi of the pillar, and a file that is just being written"
    held = door.waiting()
    assert len(held) == door.MOST + 1
    assert sum(path.stat().st_size for path in held) <= (door.MOST + 1) * 4096
    assert (door.pki / "minions_pre/pi-02").read_text() == own_key.strip()
    assert not proof.exists()
    assert slowest < 10 * quiet + 10, f"{slowest:.1f} s, in quiet times {quiet:.1f} s"
    said = door.lines()[told:]
    assert len([line for line in said if "more than 20 keys of strangers wait" in line]) == 1, said
    assert len(said) <= 3, said


def _seconds_of_a_ping(salt_cli: Salt) -> float:
    began = time.monotonic()
    assert salt_cli.run("test.ping", minion_tgt="cp1").data is True
    return time.monotonic() - began


def test_a_stranger_who_was_forgotten_is_there_again_at_the_next_knock(
    door: Door, stranger: Callable[..., Any], own_key: str
) -> None:
    stranger("_auth", id="pi-waits", pub=own_key)
    for number in range(2 * door.MOST):
        stranger("_auth", id=f"crowd-{number}", pub="x")
    path = door.pki / "minions_pre/pi-waits"
    assert not path.exists()
    stranger("_auth", id="pi-waits", pub=own_key)
    assert path.read_text() == own_key.strip()
