"""The journal of a move: whatever is cut off, the files that engines start from fit each other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from saltberry_ext.utils import move_journal


@pytest.fixture
def files(tmp_path: Path) -> dict[str, dict[str, str | None]]:
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "daemon.json").write_text("old json")
    (folder / "daemon.json").chmod(0o640)
    (folder / "config.toml").write_text("old toml")
    (folder / "dropped").write_text("goes")
    return {
        str(folder / "daemon.json"): {"old": "old json", "new": "new json"},
        str(folder / "config.toml"): {"old": "old toml", "new": "new toml"},
        str(folder / "made"): {"old": None, "new": "made"},
        str(folder / "dropped"): {"old": "goes", "new": None},
    }


@pytest.fixture
def journal(tmp_path: Path) -> Any:
    return move_journal.at(tmp_path / "journal")


def record(files: dict[str, Any]) -> dict[str, Any]:
    return {"phase": "verifying", "moves": {"docker": {}, "containerd": {}}, "files": files}


def cut_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """The power goes after so many changes of files."""
    left = [steps]
    whole, remove = move_journal.write_whole, move_journal.remove

    def count() -> None:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1

    def written(*arguments: Any) -> None:
        count()
        whole(*arguments)

    def removed(*arguments: Any) -> None:
        count()
        remove(*arguments)

    monkeypatch.setattr(move_journal, "write_whole", written)
    monkeypatch.setattr(move_journal, "remove", removed)


@pytest.mark.parametrize("phase", ["switching", "restoring"])
@pytest.mark.parametrize("steps", range(9))
def test_cut_off_anywhere_all_files_are_of_one_side_before_an_engine_starts(
    journal: Any, files: Any, phase: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = record(files)
    journal.save(entry, "verifying" if phase == "switching" else "checking")
    before, after = ("old", "new") if phase == "switching" else ("new", "old")
    move_journal.put_texts(files, before)
    with monkeypatch.context() as patch:
        cut_after(patch, steps)
        try:
            journal.replace_files(entry, phase)
        except KeyboardInterrupt:
            assert steps < 8
    move_journal.recover(journal.directory)
    sides = [side for side in ("old", "new") if move_journal.files_are(files, side)]
    assert sides == [before if steps < 2 else after]
    assert not journal.flag.exists()
    # The record says so by itself: somebody may edit the files before the next run.
    assert move_journal.is_switched(journal.load()) is (sides == ["new"])


@pytest.mark.parametrize("steps", range(7))
def test_recovery_that_is_cut_off_is_finished_by_the_next_one(
    journal: Any, files: Any, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.save(record(files), "switching")
    move_journal.write_whole(journal.flag, "switching")
    with monkeypatch.context() as patch:
        cut_after(patch, steps)
        try:
            move_journal.recover(journal.directory)
        except KeyboardInterrupt:
            assert steps < 6
    move_journal.recover(journal.directory)
    assert move_journal.files_are(files, "new")
    assert journal.load()["phase"] == "starting"
    assert journal.load()["recovered"]


def test_a_replaced_file_keeps_its_rights_and_a_link_stays_one(tmp_path: Path, files: Any) -> None:
    move_journal.put_texts(files, "new")
    assert (tmp_path / "etc/daemon.json").stat().st_mode & 0o777 == 0o640
    (tmp_path / "link").symlink_to(tmp_path / "etc/daemon.json")
    move_journal.write_whole(tmp_path / "link", "through")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "etc/daemon.json").read_text() == "through"


def test_bytes_that_are_no_text_survive(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xff\xfe caf\xe9\n")
    text = move_journal.read_text(tmp_path / "a")
    assert text is not None
    journal = move_journal.at(tmp_path / "journal")
    journal.save(record({"x": {"old": text, "new": None}}))
    move_journal.write_whole(tmp_path / "b", journal.load()["files"]["x"]["old"])
    assert (tmp_path / "b").read_bytes() == b"\xff\xfe caf\xe9\n"


def test_engines_must_not_start_while_somebody_makes_the_last_copy(
    journal: Any, files: Any
) -> None:
    journal.save(record(files), "final")
    with journal.locked():
        with pytest.raises(move_journal.Busy, match="started again when it is done"):
            move_journal.recover(journal.directory)
    # whoever held the lock is dead: the old folders are whole
    assert move_journal.recover(journal.directory) == ""
    assert move_journal.files_are(files, "old")


def test_two_moves_never_run_at_once(journal: Any) -> None:
    with journal.locked(), pytest.raises(move_journal.Busy):
        with journal.locked():
            pass


def test_a_copy_that_outlives_its_parent_holds_the_lock(journal: Any) -> None:
    with journal.locked() as lock:
        child = subprocess.Popen(["sleep", "30"], pass_fds=(lock,))
    try:
        with pytest.raises(move_journal.Busy):
            with journal.locked():
                pass
    finally:
        child.kill()
        child.wait()
    with journal.locked(5):
        pass


def test_a_damaged_journal_is_no_journal_to_go_by(journal: Any, files: Any) -> None:
    journal.save(record(files))
    journal.file.write_text('{"phase": "fin')
    with pytest.raises(ValueError, match="is damaged"):
        journal.load()


def test_it_runs_by_itself_with_no_salt(tmp_path: Path, files: Any) -> None:
    program = tmp_path / "recover.py"
    text = move_journal.program().replace(move_journal.DIRECTORY, str(tmp_path / "journal"))
    program.write_text(text)
    journal = move_journal.at(tmp_path / "journal")
    journal.save(record(files), "switching")
    move_journal.write_whole(journal.flag, "switching")
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(program)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "docker, containerd" in done.stdout
    assert move_journal.files_are(files, "new")
    assert json.loads(journal.file.read_text())["phase"] == "starting"
