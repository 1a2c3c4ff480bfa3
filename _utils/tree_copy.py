"""Copies of whole directory trees with rsync, and the proof that a copy is the same as its source.

What is kept: owners by number, modes, times to the nanosecond, hard links, ACLs, extended attributes
of every namespace (``trusted.overlay.*`` above all), device nodes, sockets, holes. Other file systems
mounted inside the source are left out: while containers run, their merged views are mounted there.

The first passes run while the source is being written to, the last ones when it is at rest. An
unchanged size and modification time is then no proof: a program that writes through a mapping
changes a page again without a new time until the kernel has written the page out, and a file that
is unpacked over another may have any time. So the source is written out before the first pass
(:func:`begin`), after which every write has a new change time, and whatever has one since then is
compared by checksum at the end (:func:`recheck`).
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__virtualname__ = "tree_copy"

_OPTIONS = (
    "-aHAXSx", "--numeric-ids",
    # Nanoseconds: two writes within one second are two writes.
    "--modify-window=-1",
)  # fmt: skip
_PROGRESS = ("--info=progress2,stats2", "--no-human-readable", "--outbuf=Line")
# rsync(1): 24 is files that vanished while they were copied, 23 what became of some of those.
_VANISHED = (23, 24)
_FULL = "No space left on device"
# A file system's clock ticks in steps, and may be a little behind.
_CLOCK_SECONDS = 2
_EVENT_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1
# One letter for the kind, then all that a copy must keep. A folder's own size and link count are its
# file system's business.
_FIND = (
    "-type", "d", "-printf", r"d %m %U %G %T@\t%P\0",
    "-o", "-type", "f", "-links", "+1", "-printf", r"h %m %U %G %s %n %T@\t%P\0",
    "-o", "-printf", r"%y %m %U %G %s %n %T@ %l\t%P\0",
)  # fmt: skip
_KINDS = {
    b"f": "files", b"h": "hard_links", b"d": "folders", b"l": "links", b"c": "devices",
    b"b": "block_devices", b"p": "pipes", b"s": "sockets",
}  # fmt: skip
_NEWER = r"%P\0"


class CopyError(RuntimeError):
    """rsync failed; the text is what it said."""


def copy(
    source: str,
    target: str,
    *,
    options: Sequence[str] = ("--delete",),
    live: bool = False,
    lock: int | None = None,
    report: Callable[[int], None] | None = None,
    stdin: bytes | None = None,
) -> dict[str, Any]:
    """Make ``target`` the same as ``source``.

    source, target
        Folders; both must exist.
    options
        More for rsync; by default what is in ``target`` only goes.
    live
        The source is in use: files may vanish meanwhile, and rsync leaves the disk to others.
    lock
        A file descriptor that rsync keeps open, so that a lock lives as long as the last copy.
    report
        Called about once a second with the bytes done so far in this pass.
    stdin
        Names for ``--files-from=-``.

    Returns ``{"files": regular files transferred, "bytes": their size, "seconds", "code"}``. Raises
    CopyError with rsync's own words.
    """
    started = time.monotonic()
    polite = ["ionice", "-c", "2", "-n", "7", "nice", "-n", "10"] if live else []
    argv = [*polite, "rsync", *_OPTIONS, *_PROGRESS, *options, f"{source}/", f"{target}/"]
    code, out, err = _run(argv, lock, report, stdin)
    if code and not (live and code in _VANISHED and _FULL not in err):
        raise CopyError(_failure(code, err))
    files = _number(r"Number of regular files transferred: (\d+)", out)
    size = _number(r"Total transferred file size: (\d+)", out)
    deleted = _number(r"Number of deleted files: (\d+)", out)
    return {
        "files": files, "bytes": size, "deleted": deleted, "code": code,
        "seconds": time.monotonic() - started,
    }  # fmt: skip


def _run(
    argv: Sequence[str],
    lock: int | None,
    report: Callable[[int], None] | None,
    stdin: bytes | None,
) -> tuple[int, str, str]:
    """Run rsync; it dies with the process that began it, also when that is killed."""
    with subprocess.Popen(
        list(argv),
        stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "LC_ALL": "C"},
        pass_fds=() if lock is None else (lock,),
        preexec_fn=_die_with_parent,  # noqa: PLW1509
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            if stdin is not None:
                assert process.stdin is not None
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(stdin)
                    process.stdin.close()
                process.stdin = None
            out = _watch(process.stdout.fileno(), report)
            err = process.stderr.read()
        except BaseException:
            process.kill()
            raise
    return process.returncode, out, err.decode(errors="replace")


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _watch(descriptor: int, report: Callable[[int], None] | None) -> str:
    """Read rsync's output to its end, passing its progress on; return what is no progress."""
    last, kept, rest = 0.0, "", ""
    while chunk := os.read(descriptor, 1 << 16):
        *lines, rest = re.split(r"[\r\n]", rest + chunk.decode(errors="replace"))
        for line in lines:
            done = re.match(r"\s*(\d+)\s+\d+%", line)
            if done is None:
                kept += f"{line}\n"
            elif report is not None and time.monotonic() - last >= _EVENT_SECONDS:
                last = time.monotonic()
                report(int(done[1]))
    return kept + rest


def _failure(code: int, said: str) -> str:
    lines = [line for line in said.strip().splitlines() if line]
    if _FULL in said:
        return f"the target is full (rsync: {next(line for line in lines if _FULL in line)})"
    return f"rsync ended with {code}: {' / '.join(lines[-4:]) or 'it said nothing'}"


def _number(pattern: str, text: str) -> int:
    match = re.search(pattern, text)
    return int(match[1]) if match else 0


def begin(source: str) -> float:
    """Write out what is dirty in ``source``; return since when :func:`recheck` has to look.

    The time is taken before, in seconds since the epoch. Raises CopyError.
    """
    now = time.time()
    settle(source)
    return now


def recheck(source: str, target: str, since: float, lock: int | None = None) -> dict[str, Any]:
    """Copy again, compared by checksum, every file that was touched after a time.

    since
        What :func:`begin` returned before the first copy: seconds since the epoch.

    Folders get new times by it, and what is gone from ``source`` stays: a :func:`copy` has to follow.
    Returns as that. Raises CopyError.
    """
    names = touched(source, since, files=True)
    if not names:
        return {"files": 0, "bytes": 0, "deleted": 0, "code": 0, "seconds": 0.0}
    # --force: a file may be where a full folder was.
    options = ("--checksum", "--force", "--from0", "--files-from=-")
    return copy(source, target, options=options, lock=lock, stdin=names)


def touched(root: str, since: float, files: bool = False) -> bytes:
    """Return the names below ``root``, each ended by a zero, that were changed in any way since.

    since
        Seconds since the epoch. By the change time, which nobody can set: a file that is unpacked
        over another may have any modification time.
    files
        Regular files only.
    """
    # Whole seconds, for older finds.
    argv = ["find", root, "-xdev", *(["-type", "f"] if files else []),
            "-newerct", f"@{int(since) - _CLOCK_SECONDS}", "-printf", _NEWER]  # fmt: skip
    names = subprocess.run(argv, capture_output=True, check=True).stdout
    # The root itself has no name.
    return names.lstrip(b"\0")


def settle(path: str) -> None:
    """Have everything that was written to a path's file system on its disk. Raises CopyError."""
    done = subprocess.run(["sync", "--file-system", path], capture_output=True, text=True)
    if done.returncode:
        raise CopyError(
            f"what was written to {path} does not reach its disk: {done.stderr.strip()}"
        )


# --- is it the same? ----------------------------------------------------------------------------


def differences(source: str, target: str, names: bytes | None = None, most: int = 20) -> list[str]:
    """Return what rsync would still change in ``target``, as its own lines, at most ``most``.

    names
        Only these, as from :func:`touched`; None for all, and for what is in ``target`` only.

    Compares content by size and time, and everything else as it is: extended attributes, ACLs, hard
    links, device numbers, owners. Raises CopyError.
    """
    which = ["--delete"] if names is None else ["--from0", "--files-from=-"]
    argv = [
        "rsync",
        *_OPTIONS,
        *which,
        "--dry-run",
        "--itemize-changes",
        f"{source}/",
        f"{target}/",
    ]
    done = subprocess.run(argv, input=names or b"", capture_output=True)
    if done.returncode:
        raise CopyError(_failure(done.returncode, done.stderr.decode(errors="replace")))
    lines = done.stdout.decode(errors="replace").splitlines()
    return [line for line in lines if line.strip()][:most]


def tally(root: str) -> dict[str, Any]:
    """Return what a tree consists of, found without rsync.

    Returns ``{"files", "folders", "links", "devices", "block_devices", "pipes", "sockets",
    "hard_links", "digest"}``:
    ``hard_links`` counts names of files that have more than one, ``digest`` stands for the type,
    owner, mode, size, time, link count and target of every name. Raises CopyError.
    """
    environment = {**os.environ, "LC_ALL": "C"}
    found: dict[str, Any] = dict.fromkeys(_KINDS.values(), 0)
    digest = hashlib.blake2b(digest_size=16)
    with (
        subprocess.Popen(
            ["find", root, "-xdev", *_FIND],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
        ) as find,
        # Two trees give their names in two orders. sort does it in a bounded room.
        subprocess.Popen(
            ["sort", "--zero-terminated", "--buffer-size=64M"],
            stdin=find.stdout, stdout=subprocess.PIPE, env=environment,
        ) as sort,
    ):  # fmt: skip
        assert find.stdout is not None
        assert find.stderr is not None
        assert sort.stdout is not None
        find.stdout.close()
        last = b"\0"
        while chunk := sort.stdout.read(1 << 20):
            digest.update(chunk)
            # No work for each name in Python: the engines are down meanwhile.
            for letter, kind in _KINDS.items():
                found[kind] += (last + chunk).count(b"\0" + letter)
            last = chunk[-1:]
        said = find.stderr.read().decode(errors="replace").strip()
    if find.returncode or sort.returncode:
        raise CopyError(f"{root} cannot be read: {said}")
    found["files"] += found["hard_links"]
    return {**found, "digest": digest.hexdigest()}


def measure(root: str) -> dict[str, int]:
    """Return ``{"bytes": room taken on disk, "files": names}`` of a tree, other mounts left out.

    A tree that is in use may lose files meanwhile; what du could count counts.
    """
    if not Path(root).is_dir():
        return {"bytes": 0, "files": 0}
    found = {}
    for key, option in (("bytes", "--block-size=1"), ("files", "--inodes")):
        done = subprocess.run(["du", "-sx", option, root], capture_output=True, text=True)
        found[key] = int(done.stdout.split()[0]) if done.stdout else 0
    return found
