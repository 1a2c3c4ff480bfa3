"""Locks between processes of the master, as files that the kernel frees when their holder ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def held(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a lock file; yields False at once when another holds it and ``wait`` is not set.

    The kernel gives the lock back when the last process that inherited it ends, so a killed
    reconcile leaves none behind.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield _take(handle, wait)
    finally:
        os.close(handle)


def _take(handle: int, wait: bool) -> bool:
    """Lock an open file; without ``wait``, try for an instant (status tries locks it does not keep)."""
    for _ in range(1 if wait else 4):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            time.sleep(0.05)
        else:
            return True
    return False
