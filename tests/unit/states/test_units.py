"""A unit that should not run: the state over a systemd of one unit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from saltberry_ext.states import units as state


class Systemd:
    """What is known of a unit, and what was asked of it."""

    def __init__(self) -> None:
        self.there = self.running = self.at_boot = True
        self.refuses = ""
        self.asked: list[str] = []

    def _ask(self, what: str) -> bool:
        self.asked.append(what)
        if self.refuses == what:
            return False
        if what == "stop":
            self.running = False
        else:
            self.at_boot = False
        return True

    @property
    def functions(self) -> dict[str, Any]:
        return {
            "service.available": lambda _: self.there,
            "service.status": lambda _: self.running,
            "service.enabled": lambda _: self.at_boot,
            "service.stop": lambda _: self._ask("stop"),
            "service.disable": lambda _: self._ask("disable"),
        }


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch) -> Systemd:
    made = Systemd()
    monkeypatch.setattr(state, "__salt__", made.functions, raising=False)
    monkeypatch.setattr(state, "__opts__", {"test": False}, raising=False)
    return made


@pytest.mark.parametrize("test", [True, False])
def test_a_unit_that_never_was_is_no_drift(
    systemd: Systemd, monkeypatch: pytest.MonkeyPatch, test: bool
) -> None:
    monkeypatch.setitem(state.__opts__, "test", test)
    systemd.there = False
    ret = state.dead("some.timer")
    assert (ret["result"], ret["changes"]) == (True, {})
    assert systemd.asked == []


@pytest.mark.parametrize(
    ("is_", "asked", "change"),
    [
        ({"running", "at boot"}, ["stop", "disable"], "stopped and disabled"),
        ({"running"}, ["stop"], "stopped"),
        ({"at boot"}, ["disable"], "disabled"),
    ],
)
def test_what_test_mode_says_is_done_and_once(
    systemd: Systemd,
    monkeypatch: pytest.MonkeyPatch,
    is_: set[str],
    asked: list[str],
    change: str,
) -> None:
    systemd.running, systemd.at_boot = "running" in is_, "at boot" in is_
    monkeypatch.setitem(state.__opts__, "test", True)
    told = state.dead("some.timer")
    assert (told["result"], told["changes"], systemd.asked) == (None, {"some.timer": change}, [])
    monkeypatch.setitem(state.__opts__, "test", False)
    done = state.dead("some.timer")
    assert (done["result"], done["changes"], systemd.asked) == (True, told["changes"], asked)
    assert state.dead("some.timer")["changes"] == {}
    assert systemd.asked == asked


def test_a_unit_that_does_not_stop_is_named(systemd: Systemd) -> None:
    systemd.refuses = "stop"
    ret = state.dead("some.timer")
    assert (ret["result"], ret["changes"]) == (False, {})
    assert ret["comment"] == "some.timer could not be stopped"


def test_a_unit_of_somebody_else_is_left_alone(systemd: Systemd, tmp_path: Path) -> None:
    mark = tmp_path / "saltberry.conf"
    ret = state.dead("exporter", ours=str(mark))
    assert (ret["result"], ret["changes"], systemd.asked) == (True, {}, [])
    mark.touch()
    assert state.dead("exporter", ours=str(mark))["changes"]
    assert systemd.asked == ["stop", "disable"]
