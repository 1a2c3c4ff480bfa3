"""The record of what was tried on each node, and when to try again.

Pure Python, no Salt: the master's reconcile keeps one file, ``attempts.json``::

    {"pi-07": {"attempts": 2, "last": 1795434718.1, "next": 1795434778.1, "running": false,
               "stage": "states", "reason": "containerd-running: unit failed",
               "seconds": {"sync": 2.1, "states": 31.0}, "boot": "4711/1795434000.0",
               "work": "join"}}

``attempts`` counts failures in a row; a success sets it to 0. Times are seconds since the epoch,
by the master's clock. A record is written *before* the work starts, already worded as the failure
it is if the master loses power in the middle; nothing has to notice the crash later.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]
Book = dict[str, Record]

INTERRUPTED = "interrupted: the master stopped while it worked on this node; it will try again"
DEFAULT_STEPS = (15, 60, 300, 900)


def backoff(attempts: int, steps: Sequence[float] = DEFAULT_STEPS) -> float:
    """Say how long to leave a node alone.

    Args:
        attempts: failures in a row, this one included (1 = the first).
        steps: pauses in seconds; the last one is used for all further failures.

    Returns:
        Seconds; 0 with no failure or no steps.
    """
    if attempts < 1 or not steps:
        return 0.0
    return float(steps[min(attempts, len(steps)) - 1])


def load(path: str | os.PathLike[str]) -> Book:
    """Read the file; a missing or damaged one is an empty record (the work is idempotent anyway)."""
    try:
        book = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(book, dict):
        return {}
    return {str(key): value for key, value in book.items() if isinstance(value, dict)}


def write_json(path: str | os.PathLike[str], value: Any, mode: int = 0o600) -> None:
    """Replace a JSON file so that a reader, or a power cut, meets the old file or the new one.

    Args:
        path: the file; its folder is made with mode 0700 when it is missing.
        value: what to write.
        mode: permissions of the file.

    Raises:
        OSError: the file cannot be written.
    """
    target = Path(path)
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(value, stream, indent=1, sort_keys=True)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def started(record: Mapping[str, Any], now: float, steps: Sequence[float]) -> Record:
    """Return the record of an attempt that begins now, worded as if it had been cut off."""
    failures = int(record.get("attempts", 0)) + 1
    return {
        "attempts": failures,
        "last": now,
        "next": now + backoff(failures, steps),
        "running": True,
        "stage": "",
        "reason": INTERRUPTED,
        "seconds": {},
        "boot": record.get("boot", ""),
    }


def failed(
    record: Mapping[str, Any],
    now: float,
    steps: Sequence[float],
    *,
    stage: str,
    reason: str,
    seconds: Mapping[str, float],
) -> Record:
    """Return the record of an attempt that ended badly; the pause counts from its end."""
    failures = max(1, int(record.get("attempts", 1)))
    return {
        **record,
        "attempts": failures,
        "next": now + backoff(failures, steps),
        "running": False,
        "stage": stage,
        "reason": reason,
        "seconds": dict(seconds),
    }


def succeeded(record: Mapping[str, Any], seconds: Mapping[str, float] | None = None) -> Record:
    """Return the record of a node that is in and Ready (``seconds`` None keeps the known ones)."""
    return {
        **record,
        "attempts": 0,
        "next": 0,
        "running": False,
        "stage": "",
        "reason": "",
        "seconds": dict(record.get("seconds", {}) if seconds is None else seconds),
    }


def retry(record: Mapping[str, Any]) -> Record:
    """Return the record with its pause and its count of failures forgotten."""
    return {**record, "attempts": 0, "next": 0}


def restarted(
    record: Mapping[str, Any], boot: str, steps: Sequence[float] = DEFAULT_STEPS
) -> Record:
    """Shorten the pause of a node that was switched off and on since the last attempt.

    Somebody who repaired a node and switched it on again should not wait a quarter of an hour. The
    pause shrinks to its first step and not to nothing: ``boot`` is the node's own word, and a node
    that lies about it must not get the master to try without end.

    Args:
        record: the node's record.
        boot: a mark that differs from one start of the node to the next; "" = not known.
        steps: pauses in seconds.

    Returns:
        The record, changed only when the mark differs from the one of the last attempt.
    """
    if not boot or not record.get("boot") or boot == record["boot"]:
        return dict(record)
    soonest = float(record.get("last", 0)) + backoff(1, steps)
    return {
        **record,
        "attempts": min(1, int(record.get("attempts", 0))),
        "next": min(float(record.get("next", 0)), soonest),
        "boot": boot,
    }


def due(record: Mapping[str, Any], now: float) -> bool:
    """Say whether a node may be tried now (a clock that was set back does not lock it out)."""
    pause_ends = float(record.get("next", 0))
    return pause_ends <= now or float(record.get("last", 0)) > now
