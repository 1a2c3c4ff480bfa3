"""When a node is tried again: the arithmetic, and the file it is kept in."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from saltberry_ext.runners import _attempts as attempts

STEPS = (15, 60, 300, 900)


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 0), (1, 15), (2, 60), (4, 900), (5, 900), (1000, 900), (-1, 0)]
)
def test_backoff_grows_to_its_last_step(failures: int, seconds: float) -> None:
    assert attempts.backoff(failures, STEPS) == seconds


def test_backoff_without_steps_is_none() -> None:
    assert attempts.backoff(3, ()) == 0


def test_a_started_attempt_is_already_worded_as_the_failure_of_a_power_cut() -> None:
    record = attempts.started({"attempts": 1, "boot": "b1"}, 1000.0, STEPS)
    assert record["attempts"] == 2
    assert record["next"] == 1060.0
    assert record["running"] is True
    assert "interrupted" in record["reason"]
    assert record["boot"] == "b1"


def test_a_failure_counts_once_and_pauses_from_its_end() -> None:
    begun = attempts.started({}, 1000.0, STEPS)
    record = attempts.failed(
        begun, 1500.0, STEPS, stage="states", reason="no space", seconds={"sync": 1.5}
    )
    assert (record["attempts"], record["next"]) == (1, 1515.0)
    assert (record["stage"], record["reason"]) == ("states", "no space")
    assert record["last"] == 1000.0
    assert not attempts.due(record, 1514.0)
    assert attempts.due(record, 1515.0)


def test_success_forgets_failures_and_keeps_the_seconds() -> None:
    record = attempts.succeeded(
        {"attempts": 3, "next": 9e9, "reason": "x", "running": True}, {"join": 12.0}
    )
    assert (record["attempts"], record["next"], record["reason"]) == (0, 0, "")
    assert record["seconds"] == {"join": 12.0}
    assert attempts.succeeded(record)["seconds"] == {"join": 12.0}


def test_retry_is_due_at_once() -> None:
    assert attempts.due(attempts.retry({"attempts": 4, "next": 9e9, "last": 5.0}), 10.0)


@pytest.mark.parametrize(
    ("boot", "pause_ends"),
    [("b1", 5000.0), ("", 5000.0), ("b2", 1015.0)],
    ids=["same start", "not known", "switched off and on"],
)
def test_a_restart_of_the_node_shortens_its_pause(boot: str, pause_ends: float) -> None:
    record = {"attempts": 4, "last": 1000.0, "next": 5000.0, "boot": "b1"}
    assert attempts.restarted(record, boot, STEPS)["next"] == pause_ends


def test_a_node_that_lies_about_its_restarts_is_not_tried_without_end() -> None:
    record: dict[str, Any] = {"attempts": 4, "last": 1000.0, "next": 5000.0, "boot": "b1"}
    again = attempts.restarted(record, "b2", STEPS)
    assert not attempts.due(again, 1001.0)
    assert attempts.restarted(again, "b3", STEPS)["next"] == again["next"]


def test_a_clock_that_was_set_back_locks_nobody_out() -> None:
    assert attempts.due({"last": 9000.0, "next": 9015.0}, 100.0)


def test_nothing_known_is_due() -> None:
    assert attempts.due({}, 1.0)


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"pi-01": 3}', "\x00\x01"])
def test_a_damaged_file_is_an_empty_record(tmp_path: Path, content: str) -> None:
    path = tmp_path / "attempts.json"
    path.write_text(content, encoding="utf-8")
    assert attempts.load(path) == {}
    assert attempts.load(tmp_path / "missing") == {}


def test_writing_replaces_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "new" / "attempts.json"
    attempts.write_json(path, {"a": {"x": 1}})
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o600
    attempts.write_json(path, {"b": {}}, mode=0o644)
    assert json.loads(path.read_text(encoding="utf-8")) == {"b": {}}
    assert path.stat().st_mode & 0o777 == 0o644
    assert os.listdir(path.parent) == ["attempts.json"]  # noqa: PTH208


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "attempts.json"
    attempts.write_json(path, {"a": {}})
    with pytest.raises(TypeError):
        attempts.write_json(path, {"a": object()})
    assert attempts.load(path) == {"a": {}}
    assert [entry.name for entry in tmp_path.iterdir()] == ["attempts.json"]
