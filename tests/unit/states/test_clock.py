"""The clock: the states over the real module, on a root folder and a recorded systemd."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError
from saltberry_ext.modules import clock
from saltberry_ext.states import clock as state
from saltberry_ext.utils import conffiles

DROPIN = "etc/systemd/timesyncd.conf.d/90-saltberry.conf"


class Node:
    """A root folder, what systemd says, and what it was asked to do."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.running = True
        self.synchronised = "yes"
        self.in_container = False
        self.system: dict[str, Any] = {"ntp_servers": [], "wait_for_clock": True}
        self.calls: list[str] = []

    def run_all(self, argv: list[str], **_: Any) -> dict[str, Any]:
        self.calls.append(" ".join(argv))
        if argv[0] == "timedatectl":
            return {"retcode": 0, "stdout": self.synchronised, "stderr": ""}
        if argv[1] in ("enable", "restart"):
            self.running = True
        return {"retcode": 0 if self.running else 3, "stdout": "", "stderr": ""}

    def put(self, path: str, text: str = "") -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setattr(clock, "_ROOT", tmp_path)
    monkeypatch.setattr(clock.shutil, "which", lambda _: "/usr/bin/timedatectl")
    made = Node(tmp_path)
    made.put("usr/share/zoneinfo/Europe/Berlin", "TZif")
    return made


@pytest.fixture
def configure_loader_modules(node: Node) -> dict[Any, Any]:
    utils = {f"conffiles.{name}": getattr(conffiles, name) for name in ("read", "write", "diff")}
    salt = {
        "cmd.run_all": node.run_all,
        "node.container": lambda: node.in_container,
        "node.system": lambda: node.system,
    }
    functions = {f"clock.{name}": getattr(clock, name) for name in dir(clock) if name[0] != "_"}
    return {
        clock: {"__salt__": salt, "__utils__": utils},
        state: {"__salt__": {**salt, **functions}, "__opts__": {"test": False}},
    }


@pytest.fixture
def test_mode(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setitem(state.__opts__, "test", True)


# --- who keeps it ---


@pytest.mark.parametrize(
    ("path", "keeper"),
    [("usr/sbin/chronyd", "chrony"), ("usr/sbin/ntpd", "ntp"), ("usr/bin/other", "timesyncd")],
)
def test_a_daemon_that_somebody_chose_is_left_to_it(node: Node, path: str, keeper: str) -> None:
    node.put(path)
    node.running = False
    assert clock.daemon() == keeper
    ret = state.followed("clock", ["192.168.1.1"])
    assert bool(ret["changes"]) is (keeper == "timesyncd")
    assert ret["result"] is True


def test_in_a_container_the_clock_is_the_hosts(node: Node) -> None:
    node.in_container, node.running, node.synchronised = True, False, "no"
    assert state.followed("clock", ["192.168.1.1"])["changes"] == {}
    assert clock.judge() == {"problem": "", "warning": ""}
    assert not (node.root / DROPIN).exists()


def test_servers_are_written_once_and_taken_away_again(node: Node) -> None:
    first = state.followed("clock", ["192.168.1.1", "pool.ntp.org"])
    assert first["changes"] == {f"/{DROPIN}": "follow 192.168.1.1, pool.ntp.org"}
    assert "NTP=192.168.1.1 pool.ntp.org\n" in (node.root / DROPIN).read_text()
    assert "systemctl restart systemd-timesyncd.service" in node.calls
    assert state.followed("clock", ["192.168.1.1", "pool.ntp.org"])["changes"] == {}
    assert state.followed("clock", [])["changes"]
    assert not (node.root / DROPIN).exists()


def test_a_daemon_that_was_stopped_by_hand_is_started(node: Node) -> None:
    node.running = False
    assert state.followed("clock", [])["changes"]
    assert node.running
    assert state.followed("clock", [])["changes"] == {}


def test_a_test_run_says_it_and_leaves_the_clock_alone(
    node: Node, test_mode: Callable[[], None]
) -> None:
    test_mode()
    node.running = False
    assert state.followed("clock", ["192.168.1.1"])["result"] is None
    assert state.timezone("Europe/Berlin")["result"] is None
    assert not node.running
    assert not (node.root / DROPIN).exists()
    assert clock.timezone() == ""


def test_no_answer_from_the_servers_fails_nothing_yet(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.synchronised = "no"
    monkeypatch.setattr(clock.time, "sleep", lambda _: None)
    monkeypatch.setattr(clock.time, "monotonic", iter(range(0, 1000, 10)).__next__)
    ret = state.followed("clock", ["192.168.1.1"])
    assert (ret["result"], "no answer within" in ret["comment"]) == (True, True)


# --- may it join ---


@pytest.mark.parametrize(
    ("synchronised", "battery", "more", "said"),  # more: system.wait_for_clock, timesyncd runs
    [
        ("no", "0", (True, True), "problem"),
        ("no", "", (True, True), "problem"),
        ("no", "1800000000", (True, True), "warning"),
        ("no", "0", (False, True), "warning"),
        ("no", "0", (True, False), "warning"),
        ("yes", "0", (True, True), ""),
        ("what?", "0", (True, True), ""),
    ],
)
def test_a_join_waits_for_the_time_where_nothing_keeps_it(
    node: Node, synchronised: str, battery: str, more: tuple[bool, bool], said: str
) -> None:
    waits, node.running = more
    node.synchronised = synchronised
    node.system["wait_for_clock"] = waits
    if battery:
        node.put("sys/class/rtc/rtc0/since_epoch", f"{battery}\n")
    told = clock.judge()
    assert [what for what, text in told.items() if text] == ([said] if said else [])
    if said:
        assert "the clock is not synchronised" in told[said]
    assert ("system.ntp_servers" in told["problem"]) is (said == "problem")


# --- time zone ---


def test_a_time_zone_is_set_and_stays(node: Node) -> None:
    node.put("etc/timezone", "Etc/UTC\n")
    ret = state.timezone("Europe/Berlin")
    assert ret["changes"] == {"timezone": {"old": "", "new": "Europe/Berlin"}}
    assert (node.root / "etc/localtime").readlink() == Path("/usr/share/zoneinfo/Europe/Berlin")
    assert (node.root / "etc/timezone").read_text() == "Europe/Berlin\n"
    assert state.timezone("Europe/Berlin")["changes"] == {}


def test_a_zone_that_there_is_not_is_refused_by_its_name(node: Node) -> None:
    ret = state.timezone("Europe/Berln")
    assert (ret["result"], "'Europe/Berln'" in ret["comment"]) == (False, True)
    assert not (node.root / "etc/localtime").is_symlink()
    with pytest.raises(CommandExecutionError, match="timedatectl list-timezones"):
        clock.set_timezone("Europe/Berln")
