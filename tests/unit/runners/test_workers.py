"""Jobs in processes of their own: results, failures, limits, and ends of every kind."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from saltberry_ext.runners import _workers as workers


@pytest.fixture
def jobs() -> Any:
    made = workers.Workers()
    yield made
    made.stop_all("the test is over")


def wait_for(jobs: Any, seconds: float = 20) -> dict[str, Any]:
    """Everything that ends, by name."""
    ended: dict[str, Any] = {}
    deadline = time.monotonic() + seconds
    while len(jobs) and time.monotonic() < deadline:
        ended.update({done.name: done for done in jobs.finished(0.2)})
    return ended


def double(number: int) -> int:
    return 2 * number


def test_results_come_back_from_another_process(jobs: Any) -> None:
    jobs.start("a", double, 21, limit=30)
    jobs.start("b", os.getpid, limit=30)
    assert "a" in jobs and len(jobs) == 2
    ended = wait_for(jobs)
    assert (ended["a"].result, ended["a"].problem) == (42, "")
    assert ended["b"].result != os.getpid()
    assert len(jobs) == 0


def test_one_that_raises_or_dies_says_so_and_takes_nobody_along(jobs: Any) -> None:
    jobs.start("raises", int, "x", limit=30)
    jobs.start("exits", os._exit, 7, limit=30)
    jobs.start("good", double, 1, limit=30)
    ended = wait_for(jobs)
    assert ended["good"].result == 2
    assert "code 1" in ended["raises"].problem
    assert "code 7" in ended["exits"].problem


def clean_up(path: str) -> None:
    try:
        time.sleep(60)
    finally:
        Path(path).touch()


def test_one_that_is_stopped_runs_its_finally_blocks(jobs: Any, tmp_path: Path) -> None:
    jobs.start("slow", clean_up, str(tmp_path / "cleaned"), limit=60)
    time.sleep(0.5)
    jobs.stop("slow", "it was switched off")
    ended = wait_for(jobs)
    assert ended["slow"].problem == "it was switched off"
    assert (tmp_path / "cleaned").exists()


def test_one_that_takes_too_long_is_stopped(jobs: Any, tmp_path: Path) -> None:
    jobs.start("slow", clean_up, str(tmp_path / "cleaned"), limit=0.5)
    began = time.monotonic()
    ended = wait_for(jobs)
    assert "gave up" in ended["slow"].problem
    assert time.monotonic() - began < 10


def test_asking_with_nothing_to_wait_for_returns(jobs: Any) -> None:
    assert jobs.finished(timeout=5) == []


def test_a_name_is_used_once(jobs: Any) -> None:
    jobs.start("a", time.sleep, 5, limit=30)
    with pytest.raises(ValueError, match="a job called a"):
        jobs.start("a", time.sleep, 5, limit=30)


def test_jobs_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    """No orphan goes on joining a node after a new reconcile has begun."""
    folder = Path(workers.__file__).parent
    script = textwrap.dedent(f"""
        import sys, time
        sys.path.insert(0, {str(folder)!r})
        import _workers as workers
        from pathlib import Path

        def work():
            Path({str(tmp_path / "began")!r}).touch()
            try:
                time.sleep(60)
            finally:
                Path({str(tmp_path / "cleaned")!r}).touch()

        jobs = workers.Workers()
        jobs.start("a", work, limit=60)
        time.sleep(60)
    """)
    parent = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 20
    while not (tmp_path / "began").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    while not (tmp_path / "cleaned").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (tmp_path / "cleaned").exists()
