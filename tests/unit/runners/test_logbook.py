"""The history: kept, rotated, whole after a power cut; and it shows what did not happen."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from saltberry_ext.runners import _logbook as logbook

HOUR = 3600.0
BEGAN = 1_795_467_000.0


@pytest.fixture
def book(tmp_path: Path) -> Any:
    (tmp_path / "state").mkdir()
    return logbook.Logbook(tmp_path / "disk" / "drift", tmp_path / "state", keep=5)


def line(hour: float, **more: Any) -> dict[str, Any]:
    return {"kind": "check", "began": BEGAN + hour * HOUR, "seconds": 9.0, "exit": 0, "tgt": None,
            "every": HOUR, **more}  # fmt: skip


def document(
    hour: float = 0, code: int = 0, tgt: str | None = None, **nodes: Any
) -> dict[str, Any]:
    return {"kind": "check", "began": BEGAN + hour * HOUR, "seconds": 9.0, "exit": code, "tgt": tgt,
            "problems": [], "nodes": nodes}  # fmt: skip


def kinds(book: Any, hour: float, every: float = HOUR) -> list[str]:
    return [entry["kind"] for entry in book.history(BEGAN + hour * HOUR, every)]


def test_nothing_is_known_at_first(book: Any) -> None:
    assert book.history(BEGAN, HOUR) == []
    assert book.latest() == {"nodes": {}, "check": None, "success": None}
    assert book.running() is None
    assert book.told() is None


def test_a_check_is_kept_whole_in_short_and_as_the_last_one(book: Any) -> None:
    book.record(document(cp1={"status": "clean"}), line(0))
    (run,) = (book.folder / "runs").iterdir()
    assert json.loads(run.read_text())["nodes"] == {"cp1": {"status": "clean"}}
    assert book.lines() == [line(0)]
    assert book.latest()["nodes"] == {"cp1": {"status": "clean"}}
    assert book.latest()["check"]["ended"] == book.latest()["success"] == BEGAN + 9
    assert {path.stat().st_mode & 0o777 for path in book.folder.rglob("*.json*")} == {0o600}
    assert book.folder.stat().st_mode & 0o777 == 0o700


def test_a_check_of_some_changes_those_and_is_no_check_of_the_rack(book: Any) -> None:
    book.record(document(0, 1, a={"n": 1}, b={"n": 1}), line(0))
    book.record(document(1, 0, "b", b={"n": 2}), line(1, tgt="b"))
    assert book.latest()["nodes"] == {"a": {"n": 1}, "b": {"n": 2}}
    assert book.latest()["check"]["began"] == BEGAN
    book.record(document(2, 0, a={"n": 3}), line(2))
    assert book.latest()["nodes"] == {"a": {"n": 3}}, "b has left the rack"


def test_the_last_success_is_the_last_check_that_reached_all(book: Any) -> None:
    book.record(document(0, 1, a={}), line(0))
    book.record(document(1, 2, a={}), line(1))
    assert book.latest()["success"] == BEGAN + 9
    assert book.latest()["check"]["exit"] == 2
    book.record(document(2, 2), line(2))
    assert book.latest()["nodes"] == {"a": {}}, (
        "a check that could ask nobody says nothing of the nodes"
    )


def test_the_oldest_go(book: Any) -> None:
    for hour in range(9):
        book.record(document(hour, a={"n": hour}), line(hour))
    assert [entry["began"] for entry in book.lines()] == [
        BEGAN + hour * HOUR for hour in range(4, 9)
    ]
    runs = sorted((book.folder / "runs").iterdir())
    assert [json.loads(run.read_text())["nodes"]["a"]["n"] for run in runs] == [4, 5, 6, 7, 8]


def test_a_line_cut_by_a_power_cut_costs_no_other(book: Any) -> None:
    book.note(line(0))
    path = book.folder / "history.jsonl"
    with path.open("a") as file:
        file.write('{"kind": "check", "beg')
    book.note(line(1))
    assert book.lines() == [line(0), line(1)]
    path.write_text(
        "\x00\xff[1]\n{}\n"
        + path.read_text()
        + '{"kind": 1, "began": 1}\n{"kind": "x", "began": "y"}\n'
    )
    assert book.lines() == [line(0), line(1)]


def test_a_damaged_file_is_as_none(book: Any) -> None:
    book.record(document(a={}), line(0))
    for text in ("", "{", "[]", '{"nodes": 1}'):
        (book.folder / "latest.json").write_text(text)
        assert book.latest()["nodes"] == {}


def test_a_file_is_replaced_whole_or_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.prom"
    logbook.replace(path, "old", 0o644)

    def no(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no)
    with pytest.raises(OSError, match="No space"):
        logbook.replace(path, "new")
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["x.prom"]
    assert path.stat().st_mode & 0o777 == 0o644


# --- what did not happen -----------------------------------------------------------------------------


def test_checks_that_are_a_little_late_are_not_missed(book: Any) -> None:
    for hour in (0, 1.1, 2.05, 3.7):
        book.note(line(hour))
    assert kinds(book, 5.3) == ["check"] * 4


def test_missed_checks_are_counted_in_their_place(book: Any) -> None:
    book.note(line(0))
    book.note(line(5))
    found = book.history(BEGAN + 5.5 * HOUR, HOUR)
    assert [entry["kind"] for entry in found] == ["check", "missed", "check"]
    assert found[1]["reason"].startswith("4 checks did not happen")
    assert logbook.unfinished(found, BEGAN + 6 * HOUR) == 1


def test_a_timer_that_has_stopped_is_seen_without_a_new_check(book: Any) -> None:
    book.note(line(0))
    assert kinds(book, 1.5) == ["check"]
    assert kinds(book, 2.5) == ["check", "missed"]
    assert kinds(book, 2.5, every=0) == ["check"], "switched off on purpose"


def test_checks_by_hand_of_some_nodes_do_not_hide_that_the_timer_has_stopped(book: Any) -> None:
    book.note(line(0))
    book.note(line(2.9, tgt="pi-01"))
    book.note(line(2.95, kind="skipped"))
    assert kinds(book, 3) == ["check", "check", "skipped", "missed"]


def test_another_interval_is_no_miss(book: Any) -> None:
    book.note(line(0, every=24 * HOUR))
    book.note(line(24))
    assert kinds(book, 24.5) == ["check", "check"]


def test_a_check_that_runs_hangs_or_was_killed_is_told_apart(book: Any) -> None:
    book.begin(BEGAN, None)
    assert kinds(book, 0.1) == ["running"]
    assert kinds(book, 1.1) == ["hung"]
    running = book.running()
    path = next(iter((book.folder.parent.parent / "state").glob("drift.running*")))
    gone = 2**22 + 1  # beyond what the kernel gives out
    path.write_text(json.dumps({**running, "pid": gone}))
    assert kinds(book, 0.1) == ["cut off"]
    book.end()
    assert kinds(book, 0.1) == []
