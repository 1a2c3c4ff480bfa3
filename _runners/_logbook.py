"""What the drift checks have found so far, as files: the last state of each node, the past, the run
that goes on now.

Pure Python, no Salt. Two folders, for two reasons: ``folder`` is on the big disk and may be away;
``state`` is where the master keeps what it must know in any case. Every file is replaced whole, or
gets one line more, so that a power cut leaves no half of one.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Entry = dict[str, Any]

# A check that begins so late, in parts of its interval, was not just delayed by the timer's jitter
LATE = 1.75
# Missed checks are told in one line each; more than that is one long gap
_WEEK = 7 * 86400


class Logbook:
    """The files of the drift checks.

    Args:
        folder: where results and history are kept; made when it is missing (0700).
        state: the master's state folder.
        keep: how many checks to remember.
    """

    def __init__(self, folder: Path, state: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep
        self._running = state / "drift.running.json"
        self._told = state / "drift.told.json"

    # --- the run that goes on ---

    def running(self) -> Entry | None:
        """Return ``{"began", "pid", "tgt"}`` of the check that runs, or was cut off; None for none."""
        found = _read(self._running)
        return found if isinstance(found, dict) and _is_moment(found.get("began")) else None

    def begin(self, now: float, tgt: str | None) -> None:
        """Note that a check begins."""
        write(self._running, {"began": now, "pid": os.getpid(), "tgt": tgt})

    def end(self) -> None:
        """Note that no check runs."""
        self._running.unlink(missing_ok=True)

    # --- what was found ---

    def latest(self) -> Entry:
        """Return ``{"nodes": {id: row}, "check": {…} or None, "success": seconds or None}``."""
        found = _read(self.folder / "latest.json")
        if not isinstance(found, dict) or not isinstance(found.get("nodes"), dict):
            return {"nodes": {}, "check": None, "success": None}
        return found

    def record(self, document: Mapping[str, Any], line: Mapping[str, Any]) -> None:
        """Keep a check: whole as a file, in short in the history, its nodes as the last known.

        Args:
            document: the check.
            line: the same as a line of the history.

        Raises:
            OSError: a file could not be written.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        runs = self.folder / "runs"
        runs.mkdir(mode=0o700, exist_ok=True)
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(document["began"]))
        write(runs / f"{stamp}-{document['began'] % 1 * 1000:03.0f}.json", document)
        write(self.folder / "latest.json", self._merged(document))
        self.note(line)
        for old in sorted(runs.glob("*.json"))[: -self.keep]:
            old.unlink(missing_ok=True)

    def _merged(self, document: Mapping[str, Any]) -> Entry:
        """Return the last known state of all nodes: of a check of some, the others stay as they were."""
        before = self.latest()
        if document["tgt"] is not None:
            return {**before, "nodes": {**before["nodes"], **document["nodes"]}}
        ended = document["began"] + document["seconds"]
        keys = ("began", "seconds", "exit", "problems")
        # A rack of which nothing could be asked is still the rack that it was
        nodes = document["nodes"] or before["nodes"]
        return {
            "nodes": nodes,
            "check": {key: document[key] for key in keys} | {"ended": ended},
            "success": ended if document["exit"] in (0, 1) else before.get("success"),
        }

    def note(self, line: Mapping[str, Any]) -> None:
        """Add a line to the history, and drop the oldest beyond ``keep``."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.folder / "history.jsonl"
        lines = [*self.lines(), dict(line)]
        if len(lines) > self.keep:
            text = "".join(f"{json.dumps(entry)}\n" for entry in lines[-self.keep :])
            replace(path, text)
            return
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(handle, "ab") as file:
            # A line that a power cut left unfinished ends here, and takes no other with it
            broken = file.tell() and not path.read_bytes().endswith(b"\n")
            file.write(f"{chr(10) if broken else ''}{json.dumps(dict(line))}\n".encode())
            file.flush()
            os.fsync(file.fileno())

    def lines(self) -> list[Entry]:
        """Return the history as it was written, oldest first; damaged lines are left out."""
        try:
            text = (self.folder / "history.jsonl").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []
        return [entry for line in text.splitlines() if (entry := _line(line))]

    def history(self, now: float, every: float) -> list[Entry]:
        """Return the past, oldest first, with what did not happen in its place.

        Args:
            now: seconds since the epoch.
            every: seconds from one check to the next, 0 when none are due.
        """
        found: list[Entry] = []
        last: Entry | None = None
        for entry in self.lines():
            if _counts(entry):
                found += missed(last, entry["began"])
                last = {**entry, "every": entry.get("every") or 0}
            found.append(entry)
        running = self.running()
        if running is not None:
            found.append(_going_on(running, now, every))
        elif last is not None:
            found += missed({**last, "every": min(last["every"], every)}, now)
        return found

    # --- who was told ---

    def told(self) -> Any:
        """Return what the last notice was about; None when there was none."""
        return _read(self._told)

    def tell(self, verdict: Any) -> None:
        """Note what people have been told."""
        write(self._told, verdict)


def missed(last: Mapping[str, Any] | None, until: float) -> list[Entry]:
    """Return a line for the checks that should have been between one and the next; often none.

    Args:
        last: a line of the history, with ``every`` (seconds to the next one; 0: none is due).
        until: when the next one began, or the present.
    """
    every = float((last or {}).get("every") or 0)
    if last is None or every <= 0:
        return []
    gap = until - last["began"]
    if gap <= LATE * every:
        return []
    count = max(1, round(gap / every) - 1)
    about = "a check" if count == 1 else f"{count} checks"
    return [{
        "kind": "missed", "began": last["began"] + every, "seconds": None, "exit": None,
        "reason": f"{about} did not happen (was the master off, or the timer?)",
    }]  # fmt: skip


def _counts(entry: Mapping[str, Any]) -> bool:
    """Say whether a line of the history is of a check of the whole rack, whatever became of it."""
    return entry["kind"] in ("check", "cut off") and entry.get("tgt") is None


def _going_on(running: Mapping[str, Any], now: float, every: float) -> Entry:
    """Return the line of a check that has begun and not ended."""
    seconds = now - running["began"]
    alive = Path(f"/proc/{int(running.get('pid') or 0)}").exists()
    kind, reason = "running", f"since {seconds:.0f} s"
    if not alive:
        kind, reason = "cut off", "its process is gone: killed, or the power was"
    elif every and seconds > every:
        kind, reason = (
            "hung",
            f"since {seconds / 60:.0f} min, longer than from one check to the next",
        )
    return {
        "kind": kind, "began": running["began"], "seconds": None, "exit": None,
        "tgt": running.get("tgt"), "reason": reason,
    }  # fmt: skip


def _line(text: str) -> Entry | None:
    """Return a line of the history, None for one that was cut in its middle."""
    with contextlib.suppress(ValueError):
        found = json.loads(text)
        if isinstance(found, dict) and isinstance(found.get("kind"), str):
            return found if _is_moment(found.get("began")) else None
    return None


def _is_moment(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e11


def unfinished(entries: Sequence[Mapping[str, Any]], now: float) -> int:
    """Return how many checks of the last week were missed, skipped, cut off or hang."""
    bad = ("missed", "skipped", "cut off", "hung")
    return sum(entry["kind"] in bad and entry["began"] > now - _WEEK for entry in entries)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write(path: Path, content: Any, mode: int = 0o600) -> None:
    """Replace a file by data as JSON, whole or not at all."""
    replace(path, json.dumps(content, indent=1) + "\n", mode)


def replace(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace a text file, whole or not at all.

    Args:
        path: the file; its folder must exist.
        text: its new content.
        mode: permissions of the new file.

    Raises:
        OSError: it could not be written; the old one is as it was.
    """
    # Not a fixed name: two writers would write into one file. Nor one that ends as the others do:
    # the node exporter reads *.prom
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
