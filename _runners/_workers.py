"""Run a few long jobs side by side, each in a process of its own.

Pure Python, no Salt. Two orchestrations in one process mix up their pillars (salt issue #30353), and
what one of them took of memory is not given back; a forked process has neither fault, and shares the
modules that the parent has loaded, which matters on a Pi with 1 GB.

A job that is told to stop (SIGTERM) gets :data:`GRACE` seconds to run its ``finally`` blocks. A job
whose parent dies is told the same by the kernel, so that no orphan goes on working.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

GRACE = 60
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Done(NamedTuple):
    """A job that has ended."""

    name: str
    result: Any
    """What the job returned; None when it did not get that far."""
    problem: str
    """Why there is no result, in a few words; "" when there is one."""
    seconds: float


class _Job(NamedTuple):
    process: Any
    pipe: Connection
    began: float
    limit: float
    stopped: list[str]


class Workers:
    """A set of running jobs, by name."""

    def __init__(self) -> None:
        self._jobs: dict[str, _Job] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._jobs

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._jobs))

    def start(self, name: str, function: Callable[..., Any], *args: Any, limit: float) -> None:
        """Start a job.

        Args:
            name: what to call it; must not be running.
            function: runs in the new process; its return value must be picklable.
            args: handed to the function.
            limit: seconds after which it is stopped.
        """
        if name in self._jobs:
            raise ValueError(f"a job called {name} runs already")
        fork = multiprocessing.get_context("fork")
        ours, theirs = fork.Pipe(duplex=False)
        process = fork.Process(target=_run, args=(os.getpid(), theirs, function, args), name=name)
        process.start()
        theirs.close()
        self._jobs[name] = _Job(process, ours, time.monotonic(), limit, [])

    def stop(self, name: str, why: str) -> None:
        """Tell a job to stop; :meth:`finished` reports it with ``why`` when it has."""
        job = self._jobs[name]
        if not job.stopped:
            job.stopped.append(why)
            job.process.terminate()

    def finished(self, timeout: float) -> list[Done]:
        """Wait until a job ends, and return the jobs that have.

        Args:
            timeout: seconds to wait at most; returns at once when nothing runs.
        """
        for name, job in self._jobs.items():
            ran = time.monotonic() - job.began
            if ran > job.limit:
                self.stop(name, f"gave up after {job.limit / 60:.0f} minutes")
            if ran > job.limit + GRACE + 10:
                job.process.kill()
        wait([job.pipe for job in self._jobs.values()], timeout)
        return [self._reap(name) for name, job in list(self._jobs.items()) if job.pipe.poll()]

    def _reap(self, name: str) -> Done:
        """Take a job off the list whose pipe has a result, or was closed by its end."""
        job = self._jobs.pop(name)
        try:
            result = job.pipe.recv()
        except (EOFError, OSError):
            result = None
        job.pipe.close()
        job.process.join(GRACE)
        if job.process.is_alive():
            job.process.kill()
            job.process.join()
        problem = ""
        if job.stopped:
            result, problem = None, job.stopped[0]
        elif result is None:
            problem = f"its process ended with code {job.process.exitcode}"
        job.process.close()
        return Done(name, result, problem, round(time.monotonic() - job.began, 1))

    def stop_all(self, why: str) -> list[Done]:
        """Stop every job, wait for their ends, and return them."""
        for name in self:
            self.stop(name, why)
        ended: list[Done] = []
        deadline = time.monotonic() + GRACE + 10
        while self._jobs and time.monotonic() < deadline:
            ended += self.finished(1.0)
        for name in self:
            self._jobs[name].process.kill()
            ended.append(self._reap(name))
        return ended


def _run(
    parent: int, pipe: Connection, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    """Run a job in its own process (the target of the fork)."""
    # What the parent has open is the parent's to close: a connection that the garbage collector closed
    # here would be taken out of the parent's event loop, too, which the fork shares.
    gc.freeze()
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the line above
        return
    with contextlib.suppress(BrokenPipeError):
        pipe.send(function(*args))


def _leave(signum: int, frame: Any) -> None:
    """End the job by an exception, so that its ``finally`` blocks run; but not for ever."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(GRACE)
    raise SystemExit(128 + signum)
