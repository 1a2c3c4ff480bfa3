"""The journal of a move of container data: what was going on when the power went.

One file, ``journal.json``, is there exactly while a move is unfinished. It is replaced as a whole at
each step, so it always tells the step that was begun last:

=============  ===============================================  ================================
phase          meaning                                          killed here, the next run …
=============  ===============================================  ================================
planned        the target was found good, nothing is copied     copies
copying        copies while the engines run                     copies what is left
stopping       stops the engines                                copies again, then goes on
final          last difference, engines stopped                 copies again, then goes on
verifying      compares source and copy                         copies again, then goes on
switching      replaces the configuration files                 replaces the rest, or begins again
starting       starts the engines on the new folders            starts them, or rolls back
checking       is all there that was there?                     checks, or rolls back
restoring      puts the old configuration files back            puts the rest of them back
restarting     starts the engines on the old folders            starts them
=============  ===============================================  ================================

While configuration files are being replaced there is a second file, ``switching``. A service that
every start of an engine waits for runs this very file as a program (a copy beside the journal):
after a power cut in the middle it replaces the rest of the files before any engine starts, so that
docker and containerd never run on one old and one new folder.

No import but Python's own: it must run at boot, whatever became of Salt.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__virtualname__ = "move_journal"

DIRECTORY = "/var/lib/saltberry/container-storage"
UNIT = "saltberry-container-storage-recover.service"

# The engines are down, and the files they start from are the old ones.
STOPPED = ("stopping", "final", "verifying")
# The files are being replaced.
REPLACING = {"switching": "new", "restoring": "old"}
# What comes after. Written down before the flag goes: without one, nothing was replaced yet.
_REPLACED = {"switching": "starting", "restoring": "restarting"}
# The files are the new ones, or about to be the old ones again.
SWITCHED = ("starting", "checking", "restoring")

_WAIT_SECONDS = 60
_POLL_SECONDS = 0.1


class Busy(RuntimeError):
    """Another process is at work on the same move."""


def write_whole(path: str | Path, text: str, mode: int = 0o600) -> None:
    """Replace a file so that a power cut leaves the old or the new text. Raises OSError.

    An existing file keeps its permissions and owner; a symbolic link stays one.
    """
    target = Path(path).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    spare = target.with_name(f".{target.name}.saltberry")
    with spare.open("w", encoding="utf-8", errors="surrogateescape") as file:
        with contextlib.suppress(FileNotFoundError):
            have = target.stat()
            mode = have.st_mode & 0o7777
            os.fchown(file.fileno(), have.st_uid, have.st_gid)
        os.fchmod(file.fileno(), mode)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    spare.replace(target)
    _sync_folder(target.parent)


def remove(path: str | Path) -> None:
    """Remove a file for good; one that is not there is fine."""
    target = Path(path)
    with contextlib.suppress(FileNotFoundError):
        target.unlink()
        _sync_folder(target.parent)


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_text(path: str | Path) -> str | None:
    """Return a file's text, bytes that are no UTF-8 included; None without the file."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return None


class Journal:
    """The journal in one folder."""

    def __init__(self, directory: str | Path = DIRECTORY) -> None:
        self.directory = Path(directory)
        self.file = self.directory / "journal.json"
        self.flag = self.directory / "switching"
        self.history_file = self.directory / "history.json"

    def load(self) -> dict[str, Any] | None:
        """Return the unfinished move, None without one. Raises ValueError for a damaged file."""
        text = read_text(self.file)
        if text is None:
            return None
        try:
            record = json.loads(text)
            record["phase"], record["moves"], record["files"]
        except (ValueError, KeyError, TypeError) as exc:
            raise ValueError(
                f"{self.file} is damaged ({exc}); compare the folders in it with what the engines "
                "use, then remove it"
            ) from exc
        return record

    def save(self, record: dict[str, Any], phase: str | None = None) -> None:
        """Write an unfinished move down, as of a new phase if one is given."""
        if phase is not None:
            record.update(phase=phase, changed=time.time())
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(self.file, json.dumps(record, indent=1))

    def close(self) -> None:
        """The move is over."""
        remove(self.file)

    def replace_files(self, record: dict[str, Any], phase: str) -> None:
        """Replace the configuration files, all or none as seen by any engine that starts.

        phase
            ``switching`` for the new texts, ``restoring`` for the old ones.

        Leaves the record in the phase that follows.
        """
        self.save(record, phase)
        write_whole(self.flag, phase)
        put_texts(record["files"], REPLACING[phase])
        self.save(record, _REPLACED[phase])
        remove(self.flag)

    def history(self) -> dict[str, Any]:
        """Return what earlier moves left: ``old_roots``, and ``last``, the last move's end."""
        text = read_text(self.history_file)
        try:
            found = json.loads(text) if text else {}
        except ValueError:
            found = {}
        return {"old_roots": [], "last": None, **found}

    def save_history(self, history: Mapping[str, Any]) -> None:
        """Write down what moves left."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(self.history_file, json.dumps(history, indent=1))

    @contextlib.contextmanager
    def locked(self, wait: float = 0) -> Iterator[int]:
        """Hold the one lock of all moves; yields its file descriptor.

        A child that inherits the descriptor holds the lock too, until it ends: a copy that outlives
        the process that began it is never joined by a second one. Raises Busy after ``wait`` seconds.
        """
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        deadline = time.monotonic() + wait
        with (self.directory / "lock").open("a") as handle:
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise Busy("another process is moving container data") from None
                    time.sleep(_POLL_SECONDS)
            yield handle.fileno()


def at(directory: str | Path = DIRECTORY) -> Journal:
    """Return the journal in a folder."""
    return Journal(directory)


def program() -> str:
    """Return this very file, to be copied where it is found at boot without Salt."""
    return Path(__file__).read_text(encoding="utf-8")


def put_texts(files: Mapping[str, Mapping[str, str | None]], which: str) -> None:
    """Give each file its ``old`` or ``new`` text; None removes the file."""
    for path, texts in files.items():
        text = texts[which]
        if text is None:
            remove(path)
        elif read_text(path) != text:
            write_whole(path, text, 0o644)


def files_are(files: Mapping[str, Mapping[str, str | None]], which: str) -> bool:
    """Say whether every file has its ``old`` or ``new`` text."""
    return all(read_text(path) == texts[which] for path, texts in files.items())


def is_switched(record: Mapping[str, Any]) -> bool:
    """Say whether a move that nobody is at work on has given the engines their new folders.

    By its phase, not by the files: people edit those, and the data on the new side then counts.
    """
    return record["phase"] in SWITCHED


def recover(directory: str | Path = DIRECTORY) -> str:
    """Make it safe for an engine to start, whatever a move was doing; return what was done.

    Raises Busy when the engines must not start: a living process has stopped them for its last
    copy. Called by the unit before each start of an engine while a move is unfinished.
    """
    journal = Journal(directory)
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        record = journal.load()
        if record is None:
            return ""
        if not journal.flag.exists() and record["phase"] not in STOPPED:
            return ""
        try:
            with journal.locked():
                return finish_files(journal)
        except Busy:
            if record["phase"] in STOPPED or time.monotonic() > deadline:
                raise Busy(
                    "container data is being moved, and the engines were stopped for the last "
                    "copy; they are started again when it is done"
                ) from None
        time.sleep(_POLL_SECONDS)


def finish_files(journal: Journal) -> str:
    """Replace the rest of the configuration files, if somebody was cut off there; return what was.

    The caller holds the lock.
    """
    record, flag = journal.load(), read_text(journal.flag)
    if record is None or flag is None:
        return ""
    which = REPLACING[flag]
    put_texts(record["files"], which)
    record["recovered"] = True
    journal.save(record, _REPLACED[flag])
    remove(journal.flag)
    return f"the {which} configuration of {', '.join(record['moves'])} is in place"


def unit(program: str, directory: str = DIRECTORY) -> str:
    """Return the unit that runs :func:`recover` before an engine starts.

    program
        The command that runs a copy of this file.
    """
    return (
        "# Written by Salt (container_storage) while a move of container data is unfinished.\n"
        "[Unit]\n"
        "Description=Saltberry: finish a move of container data that was cut off\n"
        f"ConditionPathExists={directory}/journal.json\n"
        f"RequiresMountsFor={directory}\n"
        # docker.socket is started before basic.target, which others wait for.
        "DefaultDependencies=no\n"
        "After=systemd-remount-fs.service\n"
        "Before=containerd.service docker.service docker.socket kubelet.service\n"
        "Conflicts=shutdown.target\n"
        "Before=shutdown.target\n"
        # Each start of each engine asks for it, and a move that fails is three starts and three more.
        "StartLimitIntervalSec=0\n"
        "\n"
        "[Service]\n"
        "Type=oneshot\n"
        f"ExecStart={program}\n"
    )


def guard() -> str:
    """Return the drop-in that lets an engine start only after :func:`recover`."""
    return (
        "# Written by Salt (container_storage) while a move of container data is unfinished.\n"
        f"[Unit]\nRequires={UNIT}\nAfter={UNIT}\n"
    )


def main() -> int:
    """Recover at boot; 1 keeps the engine from starting."""
    try:
        done = recover()
    except (Busy, ValueError, OSError) as exc:
        print(exc, file=sys.stderr)
        return 1
    if done:
        print(done)
        # A drop-in may be among the files.
        subprocess.run(["systemctl", "daemon-reload"], check=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
