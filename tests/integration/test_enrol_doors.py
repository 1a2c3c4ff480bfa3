"""Who is let in, who waits, who stays out: a real master, real minions, and strangers' own words."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import salt.channel.client
import salt.config
import salt.crypt
from saltfactories.daemons.master import SaltMaster
from saltfactories.daemons.minion import SaltMinion

from tests.integration.conftest import (
    INJECTED,
    JINJA,
    REPO,
    answers,
    configured_minion,
    runners,
    running,
)

SOON = 0.0006  # hours: two seconds
FINGERPRINT = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){31}")
KINDS = ("minions", "minions_pre", "minions_denied", "minions_rejected")


class Doors:
    """The master's side as a person sees it, and strangers who knock."""

    def __init__(self, master: SaltMaster, folder: Path, state_dir: Path) -> None:
        self.master = master
        self.folder = folder
        self.record = state_dir / "cards.json"
        self.pki = Path(master.config["pki_dir"])

    def run(self, function: str, *words: str) -> Any:
        """`salt-run enrol.…`; its return, with the exit code that goes with it."""
        done = self.master.salt_run_cli(timeout=180).run(f"enrol.{function}", *words)
        if isinstance(done.data, dict) and "ok" in done.data:
            assert done.returncode == (0 if done.data["ok"] else 1), done
        return done.data

    def refused(self, function: str, *words: str) -> str:
        done = self.run(function, *words)
        assert done["ok"] is False, done
        reason: str = done["reason"]
        assert "\n" not in reason
        return reason

    def pair(self) -> tuple[str, str, str]:
        """A key pair and the fingerprint that Salt prints for it on the Pi."""
        private, public = salt.crypt.gen_keys(2048)
        path = self.folder / f"{uuid.uuid4()}.pub"
        path.write_text(public)
        return private, public, salt.utils.crypt.pem_finger(path=str(path))

    def knock(self, node: str, public: str) -> Any:
        """Ask to be let in, in a minion's words; the master's answer."""
        opts = copy.deepcopy(salt.config.DEFAULT_MINION_OPTS)
        port = self.master.config["ret_port"]
        opts |= {
            "id": node, "__role": "minion", "master_ip": "127.0.0.1", "master_port": port,
            "master_uri": f"tcp://127.0.0.1:{port}", "pki_dir": str(self.folder), "zmq_filtering": False,
        }  # fmt: skip
        load = {
            "cmd": "_auth", "id": node, "nonce": uuid.uuid4().hex, "pub": public,
            "enc_algo": "OAEP-SHA224", "sig_algo": "PKCS1v15-SHA224",
        }  # fmt: skip
        with salt.channel.client.ReqChannel.factory(opts, crypt="clear") as channel:
            return channel.send(load, tries=2, timeout=30)

    def held(self, node: str) -> dict[str, str]:
        """The keys that the master holds for an id, as files: {state: text}."""
        paths = {kind: self.pki / kind / node for kind in KINDS}
        return {kind: path.read_text() for kind, path in paths.items() if path.exists()}

    def row(self, node: str) -> dict[str, Any]:
        """What enrol.pending says of an id."""
        rows = [row for row in self.run("pending") if row["id"] == node]
        assert len(rows) == 1, rows
        return dict(rows[0])

    def card(self, node: str, *words: str) -> dict[str, str]:
        """Make a card as a file; its files and fingerprint."""
        file = self.folder / f"{node}.card"
        made = self.run("card", node, f"bundle={file}", *words)
        assert made["ok"], made
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        files: dict[str, str] = json.loads(file.read_text())["files"]
        return {**files, "fingerprint": made["fingerprint"]}

    def answers(self, node: str) -> bool:
        return answers(self.master, node)

    @contextmanager
    def minion(self, node: str, keys: tuple[str, str] | None = None) -> Iterator[SaltMinion]:
        """A minion with a key pair that it was given, or makes."""
        root = Path(self.folder / f"m{uuid.uuid4().hex[:4]}")
        daemon = configured_minion(self.master, node, root)
        if keys:
            pki = Path(daemon.config["pki_dir"])
            (pki / "minion.pem").write_text(keys[0])
            (pki / "minion.pem").chmod(0o400)
            (pki / "minion.pub").write_text(keys[1])
        with running(daemon):
            yield daemon


def eventually(ask: Callable[[], Any], seconds: float = 150) -> Any:
    deadline = time.monotonic() + seconds
    while not (answer := ask()) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert answer, f"not within {seconds} s"
    return answer


@pytest.fixture(scope="module", autouse=True)
def shipped(checkout: Path) -> None:
    """What a card carries, in the checkout of the master."""
    for name in ("install", "etc"):
        shutil.copytree(REPO / name, checkout / name, dirs_exist_ok=True)


@pytest.fixture
def doors(
    master: SaltMaster, workspace: Path, state_dir: Path, nobody_accepts: None
) -> Iterator[Doors]:
    """The doors, with a mirror; afterwards the master knows whom it knew before."""
    wheels = workspace / "mirror" / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    (wheels / "salt.lock").write_text("# saltberry wheelhouse: test\nsalt==3008.3\n")
    conf = Path(master.config_dir) / "master.d" / "zz-test.conf"
    before = conf.read_text(encoding="utf-8")
    conf.write_text(before.replace("run_dir:", f"mirror_dir: {wheels.parent}, run_dir:"))
    pki = Path(master.config["pki_dir"])
    known = {path: path.read_bytes() for kind in KINDS for path in (pki / kind).glob("*")}
    short = workspace / f"d{uuid.uuid4().hex[:4]}"  # unix sockets want short paths
    short.mkdir()
    yield Doors(master, short, state_dir)
    conf.write_text(before, encoding="utf-8")
    for path in {path for kind in KINDS for path in (pki / kind).glob("*")} - set(known):
        path.unlink()
    for path, content in known.items():
        path.write_bytes(content)
    for name in ("cards.json", "expecting"):
        (state_dir / name).unlink(missing_ok=True)
    shutil.rmtree(short, ignore_errors=True)


def test_a_stranger_waits_and_is_let_in_by_one_command(doors: Doors) -> None:
    with doors.minion("pi-40") as minion:
        eventually(lambda: "minions_pre" in doors.held("pi-40"))
        row = doors.row("pi-40")
        assert row["state"] == "pending" and row["why"] == "nobody expects it"
        assert row["since"].startswith(time.strftime("%Y-%m-%d", time.gmtime()))
        config = ["--config-dir", minion.config_dir]
        said = minion.salt_call_cli(timeout=60).run("--local", *config, "key.finger")
        assert row["fingerprint"] == said.data
        wrong = row["fingerprint"].replace("a", "b").replace("0", "1")
        assert "has the fingerprint" in doors.refused("accept", "pi-40", f"fingerprint={wrong}")
        assert "write all 64" in doors.refused("accept", "pi-40", "fingerprint=ab:cd")
        assert list(doors.held("pi-40")) == ["minions_pre"]
        done = doors.run("accept", "pi-40", f"fingerprint={row['fingerprint']}")
        assert done["ok"], done
        assert list(doors.held("pi-40")) == ["minions"]
        eventually(lambda: doors.answers("pi-40"))
        assert doors.run("pending") == []


def test_an_expected_key_comes_in_by_itself_and_only_once(doors: Doors) -> None:
    private, public, print_ = doors.pair()
    done = doors.run("expect", "pi-41", f"fingerprint={print_}", "hours=1")
    assert done["ok"] and done["accepted"] is False, done
    assert stat.S_IMODE(doors.record.stat().st_mode) == 0o600
    with doors.minion("pi-41", (private, public)):
        eventually(lambda: "minions" in doors.held("pi-41"))
        eventually(lambda: doors.answers("pi-41"))
    assert json.loads(doors.record.read_text())["expected"]["pi-41"]["used"]
    (doors.pki / "minions/pi-41").unlink()
    doors.knock("pi-41", public)
    time.sleep(5)
    assert list(doors.held("pi-41")) == ["minions_pre"], "once was enough"
    assert "let in once" in doors.row("pi-41")["why"]


def test_an_expected_id_with_another_key_waits(doors: Doors) -> None:
    _, _, expected = doors.pair()
    _, public, print_ = doors.pair()
    assert doors.run("expect", "pi-42", f"fingerprint={expected}")["ok"]
    doors.knock("pi-42", public)
    time.sleep(5)
    assert list(doors.held("pi-42")) == ["minions_pre"]
    row = doors.row("pi-42")
    assert row["fingerprint"] == print_
    assert "another fingerprint" in row["why"] and expected[:11] in row["why"]


def test_a_key_that_comes_too_late_waits(doors: Doors) -> None:
    _, public, print_ = doors.pair()
    assert doors.run("expect", "pi-43", f"fingerprint={print_}", f"hours={SOON}")["ok"]
    time.sleep(3)
    doors.knock("pi-43", public)
    time.sleep(5)
    assert list(doors.held("pi-43")) == ["minions_pre"]
    assert "was expected until" in doors.row("pi-43")["why"]


def test_one_who_waits_already_is_let_in_when_announced(doors: Doors) -> None:
    _, public, print_ = doors.pair()
    doors.knock("pi-44", public)
    # however it is written
    done = doors.run("expect", "pi-44", f"fingerprint=SHA256:{print_.upper().replace(':', '')}")
    assert done["accepted"] is True, done
    assert doors.held("pi-44") == {"minions": public.strip()}


def test_a_second_key_for_an_id_is_denied_with_the_reason(doors: Doors, pi_01: SaltMinion) -> None:
    _, public, print_ = doors.pair()
    before = doors.held("pi-01")
    doors.knock("pi-01", public)
    row = doors.row("pi-01")
    assert row["state"] == "denied" and row["fingerprint"] == print_
    assert "a second key" in row["why"] and "enrol.reissue pi-01" in row["why"]
    assert "no second one" in doors.refused("accept", "pi-01", f"fingerprint={print_}")
    assert "another key" in doors.refused("expect", "pi-01", f"fingerprint={print_}")
    assert doors.held("pi-01")["minions"] == before["minions"]
    assert doors.answers("pi-01")
    assert doors.run("reject", "pi-01")["ok"]
    assert doors.held("pi-01") == before


def test_a_rejected_key_stays_out(doors: Doors) -> None:
    _, public, _ = doors.pair()
    doors.knock("pi-45", public)
    assert doors.run("reject", "pi-45")["ok"]
    doors.knock("pi-45", public)
    assert list(doors.held("pi-45")) == ["minions_rejected"]
    row = doors.row("pi-45")
    assert row["state"] == "rejected" and "rejected by a person" in row["why"]
    assert "no key of 'pi-46' waits" in doors.refused("reject", "pi-46")


@pytest.mark.parametrize("node", ["PI_9", "*", "a b", "{{ 1 }}", "pi-1\nroot"])
def test_an_id_that_is_no_host_name_is_shown_quoted_and_never_let_in(
    doors: Doors, node: str
) -> None:
    _, public, print_ = doors.pair()
    doors.knock(node, public)
    row = doors.row(ascii(node))
    assert "no host name" in row["why"]
    assert "no host name" in doors.refused("accept", node, f"fingerprint={print_}")
    assert "no host name" in doors.refused("expect", node, f"fingerprint={print_}")
    assert not (doors.pki / "minions" / node).exists()
    assert doors.run("reject", ascii(node))["ok"]
    assert doors.run("pending") == []


def test_a_card_that_nobody_uses_in_time_opens_nothing(doors: Doors) -> None:
    card = doors.card("pi-47", f"hours={SOON}")
    doors.card("pi-39")
    time.sleep(3)
    assert doors.run("expire") == ["pi-47"]
    assert doors.held("pi-47") == {}
    assert list(doors.held("pi-39")) == ["minions"], "not before its time"
    doors.knock("pi-47", card["minion.pub"])
    assert list(doors.held("pi-47")) == ["minions_pre"]
    row = doors.row("pi-47")
    assert "never used and expired" in row["why"]
    # a person who knows the card may still let it in
    assert doors.run("accept", "pi-47", f"fingerprint={row['fingerprint']}")["ok"]


def test_a_card_that_was_used_stays_in(doors: Doors) -> None:
    card = doors.card("pi-48", f"hours={SOON * 5}")
    with doors.minion("pi-48", (card["minion.pem"], card["minion.pub"])):
        eventually(lambda: doors.answers("pi-48"))
        time.sleep(max(0, SOON * 5 * 3600))
        assert doors.run("expire") == []
    assert json.loads(doors.record.read_text())["cards"]["pi-48"]["used"]
    assert doors.run("expire") == [], "also when it is off"
    assert list(doors.held("pi-48")) == ["minions"]


def test_reconcile_takes_back_what_expired(doors: Doors) -> None:
    doors.card("pi-49", f"hours={SOON}")
    time.sleep(3)
    done = doors.master.salt_run_cli(timeout=300).run("rack.reconcile")
    assert done.returncode == 0, done
    assert doors.held("pi-49") == {}
    assert "expired" in json.loads(doors.record.read_text())["cards"]["pi-49"]["why"]


def test_only_the_card_of_one_who_answered_is_used(doors: Doors) -> None:
    """What reconcile says of the nodes that it met."""
    doors.card("pi-49")
    doors.card("pi-50")
    assert doors.run("met", "[pi-50, pi-97]") == ["pi-50"]
    assert doors.run("met", "[pi-50]") == [], "once"
    cards = json.loads(doors.record.read_text())["cards"]
    assert cards["pi-50"]["used"] and not cards["pi-49"]["used"]


def test_a_lost_card_is_revoked_and_stays_out(doors: Doors) -> None:
    card = doors.card("pi-51")
    done = doors.run("revoke", "pi-51")
    assert done["ok"] and done["key"] == "removed", done
    assert doors.held("pi-51") == {}
    doors.knock("pi-51", card["minion.pub"])
    assert list(doors.held("pi-51")) == ["minions_pre"]
    row = doors.row("pi-51")
    assert "was revoked" in row["why"]
    said = f"fingerprint={row['fingerprint']}"
    assert "stays out" in doors.refused("accept", "pi-51", said)
    assert "stays out" in doors.refused("expect", "pi-51", said)
    assert "knows no key" in doors.refused("revoke", "pi-99")


def test_a_revoked_pi_cannot_speak_any_more(doors: Doors) -> None:
    card = doors.card("pi-52")
    with doors.minion("pi-52", (card["minion.pem"], card["minion.pub"])):
        eventually(lambda: doors.answers("pi-52"))
        assert doors.run("revoke", "pi-52")["ok"]
        assert not doors.answers("pi-52")


def test_reissue_replaces_the_key_once(doors: Doors) -> None:
    old = doors.card("pi-53")
    assert "how shall it come in" in doors.refused("reissue", "pi-53")
    file = doors.folder / "new.card"
    done = doors.run("reissue", "pi-53", f"bundle={file}")
    assert done["ok"], done
    assert done["cluster"].startswith(("had nothing", "not cleaned")), done
    new = json.loads(file.read_text())["files"]["minion.pub"]
    assert doors.held("pi-53")["minions"].split() == new.split()
    doors.knock("pi-53", old["minion.pub"])
    row = doors.row("pi-53")
    assert row["state"] == "denied" and "a second key" in row["why"]
    assert doors.held("pi-53")["minions"].split() == new.split()
    assert "does not know pi-98" in doors.refused("reissue", "pi-98", f"bundle={file}")


def test_reissue_for_a_pi_that_made_its_own_key(doors: Doors) -> None:
    doors.card("pi-54")
    private, public, print_ = doors.pair()
    with doors.minion("pi-54", (private, public)):
        eventually(lambda: "minions_denied" in doors.held("pi-54"))
        said = doors.row("pi-54")["fingerprint"]
        assert said == print_
        done = doors.run("reissue", "pi-54", f"fingerprint={said}")
        assert done["ok"], done
        # it knocks again by itself
        eventually(lambda: doors.held("pi-54") == {"minions": public.strip()})
        eventually(lambda: doors.answers("pi-54"))


def test_a_card_without_a_key_leaves_the_master_as_it_was(doors: Doors) -> None:
    file = doors.folder / "own.card"
    done = doors.run("card", "pi-55", f"bundle={file}", "key=False")
    assert done["ok"] and done["fingerprint"] is None, done
    files = json.loads(file.read_text())["files"]
    assert not {"minion.pem", "minion.pub"} & set(files)
    assert doors.held("pi-55") == {}


@pytest.mark.parametrize("function", ["card", "revoke", "reissue"])
def test_the_masters_own_minion_is_left_alone(doors: Doors, function: str) -> None:
    words = () if function == "revoke" else (f"bundle={doors.folder / 'x.card'}", "force=True")
    assert "salt-master's own minion" in doors.refused(function, "nfs1", *words)


def test_a_damaged_record_is_no_open_door(doors: Doors) -> None:
    doors.card("pi-56")
    doors.record.write_text("{")
    assert "is damaged" in doors.refused("revoke", "pi-56")
    _, _, print_ = doors.pair()
    assert "is damaged" in doors.refused("expect", "pi-57", f"fingerprint={print_}")


# --- the reactor -----------------------------------------------------------------------------------


def test_crafted_knocks_start_one_runner_or_none(doors: Doors, bus: Any) -> None:
    proof = doors.folder / "proof"
    jinja = JINJA.replace("@PROOF@", str(proof))

    def knock_badly() -> list[str]:
        for value in (INJECTED, jinja, "*", {"a": [INJECTED]}, None):
            bus.fire_event({"id": value, "pub": value, "act": value, "result": value}, "salt/auth")
        doors.knock("pi-60", INJECTED)
        doors.knock(jinja, jinja)
        return runners(bus, 8)

    assert knock_badly() == [], "nobody is expected, so nothing runs"
    _, _, print_ = doors.pair()
    assert doors.run("expect", "pi-61", f"fingerprint={print_}")["ok"]
    runners(bus, 1)
    assert set(knock_badly()) == {"runner.enrol.check"}
    assert not proof.exists()
    assert os.listdir(doors.pki / "minions_pre")  # noqa: PTH208 (ids are strangers' words)


def test_many_knocks_start_few_looks(doors: Doors, bus: Any) -> None:
    _, public, _ = doors.pair()
    _, _, print_ = doors.pair()
    assert doors.run("expect", "pi-62", f"fingerprint={print_}")["ok"]
    runners(bus, 1)
    began = time.monotonic()
    for number in range(100):
        doors.knock(f"stranger-{number}", public)
    looks = runners(bus, 8)
    seconds = time.monotonic() - began
    assert set(looks) == {"runner.enrol.check"}
    assert len(looks) <= seconds / 2 + 1


# --- whom the key store knows ----------------------------------------------------------------------


def test_names_that_the_pillar_knows_are_written_down_for_the_key_store(doors: Doors) -> None:
    known = doors.record.with_name("known.json")
    doors.master.salt_run_cli(timeout=180).run("enrol.note_known", "[pi-02, pi-01]", "keys=7")
    assert json.loads(known.read_text()) == {"names": ["pi-01", "pi-02"], "keys": 7}
    assert stat.S_IMODE(known.stat().st_mode) == 0o600
    doors.master.salt_run_cli(timeout=180).run("enrol.note_known", "[pi-01]")
    assert json.loads(known.read_text()) == {"names": ["pi-01"]}
    known.unlink()
