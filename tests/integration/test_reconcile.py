"""rack.reconcile and rack.status with a real salt-master and real minions.

No Kubernetes runs here, and no state may touch this machine: ``standin/`` replaces the execution
modules that would (kubeadm, node, routed_cni) and the SLS of the roles, in the tests' own copy of the
checkout. What is tested is real: runners, orchestration, locks, keys, jobs, events. That the real
modules do what the stand-ins pretend is tested in ``tests/lab``.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import salt.utils.event
from saltfactories.cli.run import SaltRun
from saltfactories.daemons.master import SaltMaster
from saltfactories.daemons.minion import SaltMinion

from tests.integration.conftest import RACK, REPO, start_minion

sys.path.insert(0, str(REPO / "_utils"))
import routes  # (the master computes digests with the same file)

HERE = Path(__file__).parent / "standin"
SETTINGS = (
    "reconcile: {parallel: 2, backoff_seconds: [600, 3600], ready_timeout: 60}\n"
    "kubernetes: {cni: routed}\n"
)


class Standin:
    """The cluster that is a folder of files, and what the runners left on disk."""

    def __init__(self, folder: Path, state_dir: Path, run_dir: Path) -> None:
        self.folder = folder
        self.state_dir = state_dir
        self.request = run_dir / "reconcile.request"

    def reset(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        for name in ("nodes", "tokens", "routes"):
            (self.folder / name).mkdir(parents=True)
        self.boot()
        for path in self.state_dir.iterdir():
            path.unlink()
        self.request.unlink(missing_ok=True)

    def boot(self) -> None:
        """The nodes were switched off and on (they share this machine, so all of them)."""
        self.set("boot", str(time.time()))

    def set(self, knob: str, text: str = "") -> None:
        (self.folder / knob).write_text(text, encoding="utf-8")

    def unset(self, knob: str) -> None:
        (self.folder / knob).unlink()

    def calls(self, *words: str) -> list[str]:
        """The calls so far that begin with these words, in their order."""
        path = self.folder / "calls"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [line for line in lines if line.split()[: len(words)] == list(words)]

    def tokens(self) -> list[str]:
        return [path.name for path in (self.folder / "tokens").iterdir()]

    def add(self, name: str, number: int) -> None:
        """A member that is Ready."""
        known = {
            "ready": True,
            "reason": "",
            "version": "v1.34.2",
            "ip": f"192.168.1.{10 + number}",
            "pod_cidr": f"10.244.{number}.0/24",
            "control_plane": name == "cp1",
        }
        (self.folder / "nodes" / f"{name}.json").write_text(json.dumps(known), encoding="utf-8")

    def remove(self, name: str) -> None:
        (self.folder / "nodes" / f"{name}.json").unlink()
        self.lay_routes()

    def lay_routes(self) -> None:
        """What the CNI would have done on every member, and the master's record of it."""
        found = {
            path.stem: json.loads(path.read_text()) for path in (self.folder / "nodes").iterdir()
        }
        nodes = {
            name: {"ip": fact["ip"], "pod_cidr": fact["pod_cidr"]} for name, fact in found.items()
        }
        known = {
            "endpoint": "192.168.1.11:6443", "ca_hash": "sha256:5a17", "version": "v1.34.2", "nodes": nodes,
        }  # fmt: skip
        (self.state_dir / "cluster.json").write_text(json.dumps(known), encoding="utf-8")
        for name in nodes:
            (self.folder / "routes" / name).write_text(routes.digest(nodes, name), encoding="utf-8")

    def node(self, name: str, **facts: Any) -> dict[str, Any]:
        """What the cluster knows of a node, changed as given."""
        path = self.folder / "nodes" / f"{name}.json"
        known = {**json.loads(path.read_text(encoding="utf-8")), **facts}
        path.write_text(json.dumps(known), encoding="utf-8")
        return known

    def attempts(self) -> dict[str, Any]:
        path = self.state_dir / "attempts.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def hurry(self, node: str) -> None:
        """Let the pause after a failure end now."""
        book = self.attempts()
        book[node]["next"] = 0
        (self.state_dir / "attempts.json").write_text(json.dumps(book), encoding="utf-8")

    def cluster(self) -> dict[str, Any]:
        return json.loads((self.state_dir / "cluster.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pi_02(master: SaltMaster, workspace: Path) -> Iterator[SaltMinion]:
    daemon = start_minion(master, "pi-02", workspace / "p2")
    with daemon.started():
        yield daemon
    remove_key(master, "pi-02")


@pytest.fixture(scope="module")
def replaced(  # noqa: PLR0917
    master: SaltMaster,
    cp1: SaltMinion,
    pi_01: SaltMinion,
    pi_02: SaltMinion,
    checkout: Path,
    state_dir: Path,
    workspace: Path,
) -> Iterator[Standin]:
    """The stand-ins in place of what would touch this machine; put back afterwards."""
    saved = workspace / "saved"
    standin = Standin(workspace / "standin", state_dir, workspace / "run")
    for name in ("_modules", "salt"):
        shutil.copytree(checkout / name, saved / name, symlinks=True)
        for source in (HERE / name).rglob("*"):
            if source.suffix not in (".py", ".sls"):
                continue
            target = checkout / name / source.relative_to(HERE / name)
            target.parent.mkdir(parents=True, exist_ok=True)
            text = source.read_text(encoding="utf-8")
            target.write_text(text.replace("@STANDIN@", str(standin.folder)), encoding="utf-8")
    runner = checkout / "_runners" / "rack.py"
    program = runner.read_text(encoding="utf-8")
    mark = '"/run/systemd/private"'
    assert mark in program
    runner.write_text(program.replace(mark, f'"{standin.folder}/boot"'), encoding="utf-8")
    rack = (checkout / "pillar" / "rack.sls").read_text(encoding="utf-8")
    (checkout / "pillar" / "rack.sls").write_text(
        RACK.read_text(encoding="utf-8") + SETTINGS, encoding="utf-8"
    )
    try:
        standin.reset()
        assert master.salt_cli(timeout=300).run("saltutil.sync_all", minion_tgt="*").returncode == 0
        yield standin
        standin.reset()
    finally:
        for name in ("_modules", "salt"):
            shutil.rmtree(checkout / name)
            shutil.copytree(saved / name, checkout / name, symlinks=True)
        (checkout / "pillar" / "rack.sls").write_text(rack, encoding="utf-8")
        runner.write_text(program, encoding="utf-8")
        master.salt_cli(timeout=120).run("saltutil.sync_all", minion_tgt="*")


@pytest.fixture
def standin(replaced: Standin) -> Standin:
    """An empty cluster and a master that knows of no attempt."""
    replaced.reset()
    return replaced


@pytest.fixture
def run(master: SaltMaster) -> Callable[..., Any]:
    """Run a runner on the master and return its document."""
    cli: SaltRun = master.salt_run_cli(timeout=600)

    def call(*words: str) -> Any:
        done = cli.run(*words)
        assert done.data is not None, done
        return done.data

    return call


@pytest.fixture
def cluster(standin: Standin) -> Standin:
    """A cluster in which all three nodes are Ready, with all routes; the master knows it."""
    for number, name in enumerate(("cp1", "pi-01", "pi-02"), start=1):
        standin.add(name, number)
    standin.lay_routes()
    return standin


@pytest.fixture
def almost(cluster: Standin) -> Standin:
    """The same, but pi-01 has not joined yet."""
    cluster.remove("pi-01")
    return cluster


def remove_key(master: SaltMaster, minion_id: str) -> None:
    pki = Path(master.config["pki_dir"])
    for kind in ("minions", "minions_pre", "minions_denied", "minions_rejected"):
        (pki / kind / minion_id).unlink(missing_ok=True)


def accept(master: SaltMaster, minion_id: str) -> None:
    """Accept a key under an id that no card would be written for."""
    pub = Path(master.config["pki_dir"]) / "minions" / "cp1"
    (pub.parent / minion_id).write_text(pub.read_text(encoding="ascii"), encoding="ascii")


def salt_run(master: SaltMaster, *words: str) -> subprocess.Popen[str]:
    """`salt-run` as a process of its own, to be killed or waited for."""
    program = Path(sys.executable).with_name("salt-run")
    command = [str(program), "-c", master.config_dir, "--out=json", "--log-level=info", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def row(document: dict[str, Any], node: str) -> dict[str, Any]:
    return next(entry for entry in document["nodes"] if entry["id"] == node)


class Bus:
    """The master's event bus, from now on."""

    def __init__(self, master: SaltMaster) -> None:
        self.event = salt.utils.event.get_master_event(
            dict(master.config), master.config["sock_dir"], listen=True
        )
        self.event.connect_pub()

    def heard(self, seconds: float = 1.0) -> list[tuple[str, dict[str, Any]]]:
        """What came by since the last call; ends when nothing comes for so long."""
        events = []
        while (found := self.event.get_event(wait=seconds, full=True)) is not None:
            events.append((found["tag"], found["data"]))
        return events


@pytest.fixture
def bus(master: SaltMaster) -> Iterator[Bus]:
    listener = Bus(master)
    yield listener
    listener.event.destroy()


# --- the way to Ready ------------------------------------------------------------------------------


def test_a_blank_rack_becomes_a_cluster(
    standin: Standin, run: Callable[..., Any], bus: Bus
) -> None:
    done = run("rack.reconcile")
    assert set(done["nodes"]) == {"cp1", "pi-01", "pi-02"}
    assert all(text.startswith("ready after") for text in done["nodes"].values()), done
    # the control plane before any worker is looked at; every ticket ends with its token
    assert standin.calls("init") == ["init cp1"]
    order = standin.calls()
    assert order.index("wait_ready cp1") < order.index("preflight pi-01 worker")
    for node in ("pi-01", "pi-02"):
        assert standin.calls("join", node) == [f"join {node}"]
        ticket = [line for line in order if line.startswith("ticket") and line.endswith(node)]
        assert ticket == [f"ticket_create {node}", f"ticket_revoke {node}"]
    assert standin.tokens() == []
    facts = standin.cluster()
    assert facts["endpoint"] == "192.168.1.11:6443"
    assert (facts["ca_hash"], facts["version"]) == ("sha256:5a17", "v1.34.2")
    assert set(facts["nodes"]) == {"cp1", "pi-01", "pi-02"}
    assert all(fact["ip"] and fact["pod_cidr"] for fact in facts["nodes"].values())
    # who came first was told about who came later
    assert {p.name for p in (standin.folder / "routes").iterdir()} == set(facts["nodes"])
    assert len(standin.calls("cni", "cp1")) >= 2
    for record in standin.attempts().values():
        assert (record["attempts"], record["reason"], record["running"]) == (0, "", False)
    assert set(standin.attempts()["pi-01"]["seconds"]) == {
        "preflight", "join", "ready",
    }  # fmt: skip
    ready = {data["id"]: data for tag, data in bus.heard() if tag.startswith("saltberry/node/")}
    assert set(ready) == {"cp1", "pi-01", "pi-02"}
    assert ready["pi-01"]["seconds"] > 0
    assert ready["pi-01"]["stages"] == standin.attempts()["pi-01"]["seconds"]


def test_services_come_when_a_worker_is_there_and_once(
    standin: Standin, run: Callable[..., Any], checkout: Path
) -> None:
    rack = checkout / "pillar" / "rack.sls"
    before = rack.read_text(encoding="utf-8")
    rack.write_text(f"{before}\nservices: {{dashboard: {{enabled: true}}}}\n", encoding="utf-8")
    try:
        run("rack.reconcile")
        assert standin.calls("services") == ["services dashboard"]
        order = standin.calls()
        assert order.index("services dashboard") > order.index("wait_ready pi-01")
        run("rack.reconcile")
        assert len(standin.calls("services")) == 1
    finally:
        rack.write_text(before, encoding="utf-8")
    run("rack.reconcile")
    assert len(standin.calls("services")) == 1


def test_modes_of_what_is_written(cluster: Standin, run: Callable[..., Any]) -> None:
    (cluster.state_dir / "cluster.json").unlink()
    assert run("rack.reconcile")["nodes"]["pi-01"] == "ready"
    modes = {path.name: path.stat().st_mode & 0o777 for path in cluster.state_dir.iterdir()}
    assert modes["cluster.json"] == 0o644
    assert modes["attempts.json"] == modes["reconcile.lock"] == 0o600


def test_a_good_rack_is_left_alone(cluster: Standin, run: Callable[..., Any]) -> None:
    before = cluster.calls()
    done = run("rack.reconcile")
    assert done["nodes"] == {"cp1": "ready", "pi-01": "ready", "pi-02": "ready"}
    assert cluster.calls() == before == []


def test_a_member_that_is_not_ready_is_mended_without_a_ticket(
    cluster: Standin, run: Callable[..., Any]
) -> None:
    cluster.node("pi-01", ready=False, reason="cni plugin not initialized")
    before = len(cluster.calls("ticket_create"))
    done = run("rack.reconcile")
    assert done["nodes"]["pi-01"].startswith("ready after")
    assert len(cluster.calls("ticket_create")) == before
    assert cluster.calls("cni", "pi-01")


def test_routes_that_were_lost_are_laid_again(cluster: Standin, run: Callable[..., Any]) -> None:
    (cluster.folder / "routes" / "pi-01").unlink()
    before = len(cluster.calls("cni"))
    run("rack.reconcile")
    assert cluster.calls("cni")[before:] == ["cni pi-01"]


def test_routes_follow_a_node_that_is_gone(cluster: Standin, run: Callable[..., Any]) -> None:
    (cluster.folder / "nodes" / "pi-02.json").unlink()  # and nobody was told
    cluster.set("preflight-pi-02", "this Pi is not wanted\n")
    before = len(cluster.calls("cni"))
    run("rack.reconcile")
    assert set(cluster.cluster()["nodes"]) == {"cp1", "pi-01"}
    assert sorted(cluster.calls("cni")[before:]) == ["cni cp1", "cni pi-01"]


# --- container data moves --------------------------------------------------------------------------


def moves(standin: Standin) -> list[str]:
    """What was done about moving, in its order."""
    return [
        line
        for line in standin.calls()
        if line.split()[0] in ("drain", "move", "reboot", "uncordon")
    ]


def test_nodes_that_want_to_move_are_drained_and_moved_one_at_a_time(
    cluster: Standin, run: Callable[..., Any], bus: Bus
) -> None:
    for name in ("pi-01", "pi-02"):
        cluster.set(f"wants-{name}", "/srv/containers")
    done = run("rack.reconcile")
    assert done["nodes"]["pi-01"].startswith("moved after"), done
    assert done["nodes"]["pi-02"].startswith("moved after"), done
    assert moves(cluster) == [
        "drain pi-01", "move pi-01", "uncordon pi-01", "drain pi-02", "move pi-02", "uncordon pi-02",
    ]  # fmt: skip
    assert {data["id"] for tag, data in bus.heard() if tag.endswith("/moved")} == {"pi-01", "pi-02"}
    assert all(row(run("rack.status"), name)["reason"] == "" for name in ("pi-01", "pi-02"))


def test_a_move_that_fails_is_named_left_alone_for_a_while_and_the_node_takes_pods_again(
    cluster: Standin, run: Callable[..., Any]
) -> None:
    cluster.set("wants-pi-01", "/srv/containers")
    cluster.set("move-fails-pi-01")
    done = run("rack.reconcile")
    assert done["nodes"]["pi-01"].startswith("not moved: move: prepared: "), done
    assert moves(cluster) == ["drain pi-01", "move pi-01", "uncordon pi-01"]
    entry = row(run("rack.status"), "pi-01")
    assert entry["ready"] is True
    assert entry["reason"].startswith("container data not moved: move: prepared: ")
    assert "the disk is full" in entry["reason"]
    # the pause holds, a long one, as each try stops what runs there; then it is tried again
    assert 3500 < cluster.attempts()["pi-01"]["next"] - time.time() <= 3600
    run("rack.reconcile")
    assert len(cluster.calls("move")) == 1
    cluster.unset("move-fails-pi-01")
    cluster.hurry("pi-01")
    assert run("rack.reconcile")["nodes"]["pi-01"].startswith("moved after")
    assert row(run("rack.status"), "pi-01")["reason"] == ""


def test_nodes_that_want_a_reboot_are_drained_and_rebooted_one_at_a_time(
    cluster: Standin, run: Callable[..., Any], bus: Bus
) -> None:
    for name in ("pi-01", "pi-02"):
        cluster.set(f"reboot-{name}", "config.txt was changed")
    done = run("rack.reconcile")
    assert done["nodes"]["pi-01"].startswith("rebooted after"), done
    assert done["nodes"]["pi-02"].startswith("rebooted after"), done
    assert moves(cluster) == [
        "drain pi-01", "reboot pi-01", "uncordon pi-01",
        "drain pi-02", "reboot pi-02", "uncordon pi-02",
    ]  # fmt: skip
    heard = {data["id"] for tag, data in bus.heard() if tag.endswith("/rebooted")}
    assert heard == {"pi-01", "pi-02"}


def test_a_reboot_that_does_not_help_is_not_repeated(
    cluster: Standin, run: Callable[..., Any]
) -> None:
    cluster.set("reboot-pi-01", "a flag that never counts")
    cluster.set("reboot-stays-pi-01")
    run("rack.reconcile")
    again = run("rack.reconcile")
    assert len(cluster.calls("reboot")) == 1
    assert again["nodes"]["pi-01"] == (
        "ready; rebooted, and still wants it: a flag that never counts"
    )
    # another reason is another reboot
    cluster.unset("reboot-stays-pi-01")
    cluster.set("reboot-pi-01", "config.txt was changed")
    run("rack.reconcile")
    assert len(cluster.calls("reboot")) == 2


def test_a_node_left_drained_by_a_killed_master_takes_pods_again(
    cluster: Standin, run: Callable[..., Any]
) -> None:
    cluster.node("pi-01", schedulable=False, drained_for="container data moves")
    run("rack.reconcile")
    assert moves(cluster) == ["uncordon pi-01"]


def test_a_node_that_a_person_cordoned_stays_so_and_status_says_it(
    cluster: Standin, run: Callable[..., Any]
) -> None:
    cluster.node("pi-01", schedulable=False)
    run("rack.reconcile")
    assert moves(cluster) == []
    assert "cordoned" in row(run("rack.status"), "pi-01")["reason"]


# --- failures --------------------------------------------------------------------------------------


def test_who_fails_is_named_and_holds_up_nobody(
    master: SaltMaster, cluster: Standin, run: Callable[..., Any], bus: Bus
) -> None:
    cluster.set("preflight-pi-01", "port 10250 is taken by squatter\nthe clock is wrong\n")
    for name in ("pi-01", "pi-02"):
        cluster.remove(name)
    accept(master, "pi-09")  # a key, and no minion that runs
    try:
        done = run("rack.reconcile")
        status = run("rack.status")
    finally:
        remove_key(master, "pi-09")
    assert done["nodes"]["pi-02"].startswith("ready after"), done
    assert done["nodes"]["pi-09"] == "unreachable"
    assert done["nodes"]["pi-01"] == (
        "failed: preflight: port 10250 is taken by squatter; the clock is wrong"
    )
    entry = row(status, "pi-01")
    assert entry["reason"].startswith(
        "preflight: port 10250 is taken by squatter; the clock is wrong"
    )
    assert (entry["joined"], entry["ready"], entry["attempts"]) == (False, False, 1)
    assert cluster.calls("join", "pi-01") == cluster.calls("ticket_create", "pi-01") == []
    failed = [data for tag, data in bus.heard() if tag == "saltberry/node/pi-01/failed"]
    assert [data["reason"] for data in failed] == [
        "port 10250 is taken by squatter; the clock is wrong"
    ]


def test_pauses_grow_and_end_with_success_or_by_request(
    almost: Standin, run: Callable[..., Any]
) -> None:
    almost.set("preflight-pi-01", "the card is full\n")
    run("rack.reconcile")
    first = almost.attempts()["pi-01"]
    assert first["attempts"] == 1
    assert 500 < first["next"] - time.time() <= 600
    almost.hurry("pi-01")
    run("rack.reconcile")
    second = almost.attempts()["pi-01"]
    assert second["attempts"] == 2
    assert 3500 < second["next"] - time.time() <= 3600
    assert len(almost.calls("preflight", "pi-01")) == 2
    # the pause holds, and the reason stays to be read
    done = run("rack.reconcile")
    assert "the card is full" in done["nodes"]["pi-01"]
    assert len(almost.calls("preflight", "pi-01")) == 2
    almost.unset("preflight-pi-01")
    assert run("rack.retry", "pi-01")["ok"] is True
    assert almost.request.exists()
    run("rack.reconcile")
    assert almost.attempts()["pi-01"]["attempts"] == 0
    assert row(run("rack.status"), "pi-01")["reason"] == ""


def test_the_token_goes_also_when_the_join_fails(almost: Standin, run: Callable[..., Any]) -> None:
    almost.set("join-fails-pi-01")
    done = run("rack.reconcile")
    assert done["nodes"]["pi-01"].startswith("failed: join: joined: "), done
    assert done["nodes"]["pi-01"].endswith("the API server has another CA and says more")
    assert almost.tokens() == []


def test_killed_in_the_middle_and_run_again(
    master: SaltMaster, almost: Standin, run: Callable[..., Any]
) -> None:
    almost.set("slow-pi-01", "6")
    process = salt_run(master, "rack.reconcile")
    deadline = time.monotonic() + 240
    while not almost.calls("join", "pi-01") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert "pi-01" in almost.tokens()
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=180)
    assert "interrupted" in almost.attempts()["pi-01"]["reason"]
    almost.hurry("pi-01")
    # whoever comes next waits for the jobs of the killed one, which the kernel told to stop
    done = run("rack.reconcile", "wait=True")
    # begun again, or in the cluster by itself meanwhile: what the minion runs does not end with a runner
    assert done["nodes"]["pi-01"].startswith("ready"), done
    assert almost.tokens() == []
    assert almost.attempts()["pi-01"]["attempts"] == 0


def test_stopped_by_systemd_takes_its_tickets_back(master: SaltMaster, almost: Standin) -> None:
    almost.set("slow-pi-01", "8")
    process = salt_run(master, "rack.reconcile")
    deadline = time.monotonic() + 240
    while not almost.calls("join", "pi-01") and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=180)
    assert almost.tokens() == []
    record = almost.attempts()["pi-01"]
    assert record["running"] is False
    assert "interrupted" in record["reason"]


def test_a_node_that_lost_power_in_the_middle_is_begun_again(
    master: SaltMaster, almost: Standin
) -> None:
    almost.set("slow-pi-01", "45")
    process = salt_run(master, "rack.reconcile")
    deadline = time.monotonic() + 240
    while not almost.calls("join", "pi-01") and time.monotonic() < deadline:
        time.sleep(0.1)
    almost.unset("slow-pi-01")
    # long ago enough for a node that says it was restarted to be tried at once
    book = almost.attempts()
    book["pi-01"]["last"] -= 600
    (almost.state_dir / "attempts.json").write_text(json.dumps(book), encoding="utf-8")
    almost.boot()
    almost.request.touch()  # what the start event does
    while len(almost.calls("preflight", "pi-01")) < 2 and time.monotonic() < deadline + 240:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    # the first attempt was ended at once, and did not leave its token to the second
    assert len(almost.calls("ticket_revoke", "pi-01")) >= 1
    out, err = process.communicate(timeout=300)
    assert json.loads(out)["nodes"]["pi-01"].startswith("ready after"), err
    assert almost.tokens() == []


def test_a_pause_is_short_for_a_node_that_was_switched_off_and_on(
    almost: Standin, run: Callable[..., Any]
) -> None:
    almost.set("preflight-pi-01", "the cable is loose\n")
    run("rack.reconcile")
    book = almost.attempts()
    book["pi-01"].update(attempts=4, last=time.time() - 700, next=time.time() + 3000)
    (almost.state_dir / "attempts.json").write_text(json.dumps(book), encoding="utf-8")
    almost.unset("preflight-pi-01")
    assert "the cable is loose" in run("rack.reconcile")["nodes"]["pi-01"]
    almost.boot()
    assert run("rack.reconcile")["nodes"]["pi-01"].startswith("ready after")


# --- one at a time, and on request -----------------------------------------------------------------


def test_a_second_one_leaves_its_request_to_the_first(
    standin: Standin, run: Callable[..., Any]
) -> None:
    with (standin.state_dir / "reconcile.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run("rack.reconcile")
        assert done["queued"] is True
        assert standin.request.exists()
        assert run("rack.status")["working"] is True
    assert standin.calls() == []
    assert run("rack.status")["working"] is False


def test_a_request_during_a_run_is_taken_up_by_it(
    master: SaltMaster, cluster: Standin, run: Callable[..., Any]
) -> None:
    for name in ("pi-01", "pi-02"):
        cluster.remove(name)
    cluster.set("preflight-pi-01", "not yet\n")
    cluster.set("slow-pi-02", "10")
    process = salt_run(master, "rack.reconcile")
    deadline = time.monotonic() + 240
    while not cluster.calls("join", "pi-02") and time.monotonic() < deadline:
        time.sleep(0.1)
    cluster.unset("preflight-pi-01")
    assert run("rack.retry", "pi-01")["ok"] is True
    out, err = process.communicate(timeout=300)
    done = json.loads(out)
    assert {text.split()[0] for text in done["nodes"].values()} == {"ready"}, (done, err)
    assert not cluster.request.exists()


def test_waking_only_leaves_a_request(standin: Standin, run: Callable[..., Any]) -> None:
    assert run("rack.wake") is True
    assert standin.request.exists()
    assert standin.calls() == []


# --- ids that are not host names -------------------------------------------------------------------

HOSTILE = ("*", "a\nb", "{{ 1 + 1 }}", "pi-01,pi-02", "PI-01", "-x")


def test_an_id_that_is_no_host_name_is_never_passed_on(
    master: SaltMaster, cluster: Standin, run: Callable[..., Any], bus: Bus
) -> None:
    for name in HOSTILE:
        accept(master, name)
    try:
        cluster.node("pi-01", ready=False, reason="restarting")
        bus.heard(0.2)
        done = run("rack.reconcile")
        status = run("rack.status")
        refused = run("rack.retry", "*")
    finally:
        for name in HOSTILE:
            remove_key(master, name)
    targets = [data["tgt"] for tag, data in bus.heard() if tag.endswith("/new") and "tgt" in data]
    assert targets
    for target in targets:
        assert isinstance(target, list), target
        assert set(target) <= {"cp1", "pi-01", "pi-02"}
    for name in HOSTILE:
        assert "refused" in done["nodes"][ascii(name)]
        entry = row(status, name)
        assert "host name" in entry["reason"]
        assert not entry["joined"] and not entry["ready"]
    assert refused["ok"] is False


# --- status ----------------------------------------------------------------------------------------


def test_status_of_a_good_rack(cluster: Standin, run: Callable[..., Any]) -> None:
    began = time.monotonic()
    document = run("rack.status")
    assert time.monotonic() - began < 10  # 3 on an idle machine; the tests share two cores
    entry = row(document, "pi-01")
    assert {key: entry[key] for key in ("role", "key", "joined", "ready", "version", "reason")} == {
        "role": "worker", "key": "accepted", "joined": True, "ready": True,
        "version": "v1.34.2", "reason": "",
    }  # fmt: skip
    assert row(document, "cp1")["role"] == "control_plane"
    # named by the pillar, and without a minion here
    assert row(document, "nfs1")["key"] == "none"
    assert document["problems"] == []


def test_status_when_the_api_server_is_down(cluster: Standin, run: Callable[..., Any]) -> None:
    cluster.set("api-down")
    entry = row(run("rack.status"), "pi-01")
    assert (entry["joined"], entry["ready"]) == (True, None)
    assert entry["reason"] == "the API server on cp1 does not answer"
    assert entry["ip"]


def test_status_is_json_for_programs_and_a_table_for_people(
    master: SaltMaster, cluster: Standin
) -> None:
    program = str(Path(sys.executable).with_name("salt-run"))
    command = [program, "-c", master.config_dir, "rack.status"]
    for_programs = subprocess.run(
        [*command, "--out=json"], capture_output=True, text=True, check=True
    )
    assert list(json.loads(for_programs.stdout)) == ["nodes", "problems", "working"]
    for_people = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = for_people.stdout.splitlines()
    assert lines[0].split() == ["NODE", "ROLE", "KEY", "JOINED", "READY", "VERSION", "WHY", "NOT"]
    assert [line.split()[:5] for line in lines if line.startswith("pi-01")] == [
        ["pi-01", "worker", "accepted", "yes", "yes"]
    ]


# --- a pillar that describes no rack ---------------------------------------------------------------


def test_a_bad_pillar_stops_everything_before_it_begins(
    master: SaltMaster, standin: Standin, rack_file: Callable[[str | None], Path]
) -> None:
    rack_file(
        "rack: {network: 192.168.1.0/24}\nnodes:\n  cp1: {ip: 10.0.0.1, roles: [control_plain]}\n"
    )
    cli = master.salt_run_cli(timeout=120)
    for function in ("rack.validate", "rack.reconcile"):
        done = cli.run(function)
        assert done.returncode == 1, done
        assert any("control_plain" in problem for problem in done.data["problems"]), done
    assert any("control_plain" in problem for problem in cli.run("rack.status").data["problems"])
    assert standin.calls() == []


def test_a_good_pillar_passes(master: SaltMaster, standin: Standin) -> None:
    done = master.salt_run_cli(timeout=120).run("rack.validate")
    assert (done.returncode, done.data) == (0, {"ok": True, "problems": []})


def test_a_setting_is_explained_by_the_real_master(master: SaltMaster, standin: Standin) -> None:
    cli = master.salt_run_cli(timeout=120)
    done = cli.run("rack.explain", "nodes.pi-01.roles")
    assert (done.returncode, done.data["settings"][0]["key"]) == (0, "nodes.<id>.roles")
    done = cli.run("rack.explain", "kubernetes.versoin")
    assert (done.returncode, done.data["similar"]) == (1, ["kubernetes.version"])


def test_nothing_runs_on_after_the_tests(master: SaltMaster, replaced: Standin) -> None:
    found = subprocess.run(
        ["pgrep", "-f", f"{master.config_dir}.*rack.reconcile"], capture_output=True, text=True
    )
    assert found.stdout == ""
