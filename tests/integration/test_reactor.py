"""The shipped reactor on a real master: every event ends in one note, whatever is in the event."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from saltfactories.daemons.master import SaltMaster
from saltfactories.daemons.minion import SaltMinion

from tests.integration.conftest import INJECTED, JINJA, REPO, runners


@pytest.fixture
def request_file(master: SaltMaster, workspace: Path) -> Path:
    path = workspace / "run" / "reconcile.request"
    path.unlink(missing_ok=True)
    return path


def appears(path: Path, seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    return path.exists()


def test_files_are_short_and_use_nothing_of_the_event() -> None:
    for path in (REPO / "reactor").glob("*.sls"):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 10
        assert "data[" not in text and "data." not in text
        assert "rack.wake" in text or "enrol.check" in text


@pytest.mark.parametrize(
    "tag",
    [
        "salt/minion/pi-01/start",
        "saltberry/node/prepared",
        "saltberry/node/pi-01/storage/wanted",
    ],
)
def test_crafted_events_only_ask_for_a_look(
    request_file: Path, bus: Any, workspace: Path, tag: str
) -> None:
    proof = workspace / "proof"
    jinja = JINJA.replace("@PROOF@", str(proof))
    for value in (INJECTED, jinja, "*", {"a": [INJECTED]}, None):
        bus.fire_event({"id": value, "pub": value, "data": value, "act": "pend"}, tag)
    bus.fire_event({"id": "pi-01"}, f"salt/minion/{jinja}/start")
    assert appears(request_file)
    assert set(runners(bus, 5)) == {"runner.rack.wake"}
    assert not proof.exists()


def test_a_minion_that_starts_asks_for_a_look(request_file: Path, pi_01: SaltMinion) -> None:
    pi_01.terminate()
    pi_01.start()
    assert appears(request_file)
