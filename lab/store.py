"""The cache of everything the lab builds: made once, whole or not at all, shared by all racks."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lab import host


class Progress(Protocol):
    """What the store tells the user while something is built."""

    def step(self, text: str) -> AbstractContextManager[Any]:
        """Around a part that takes long; ``text`` says what is being made."""
        ...

    def note(self, text: str) -> None:
        """One line on how far the step is."""
        ...


class Silent:
    """Progress for nobody."""

    def step(self, text: str) -> AbstractContextManager[Any]:
        return nullcontext()

    def note(self, text: str) -> None:
        pass


def digest(inputs: Mapping[str, Any]) -> str:
    """Name of the result that ``inputs`` define: the same inputs, the same name."""
    text = json.dumps(inputs, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def contents(*files: Path) -> dict[str, str]:
    """SHA-256 of each file by its name, as input of an artefact that is made from them."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def tree_contents(directory: Path) -> dict[str, str]:
    """SHA-256 (with the mode) of every file below a directory, by relative path."""
    found = {}
    for file in sorted(directory.rglob("*")):
        if file.is_file():
            mode = file.stat().st_mode & 0o777
            found[str(file.relative_to(directory))] = (
                f"{mode:o} {hashlib.sha256(file.read_bytes()).hexdigest()}"
            )
    return found


def remove_tree(directory: Path) -> None:
    """Delete a directory, but never through a mount: what is mounted below it is let go first."""
    if not directory.exists():
        return
    prefix = f"{directory.resolve()}/"
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for target in sorted((m for m in mounted if m.startswith(prefix)), reverse=True):
        host.run(["umount", "--lazy", target], step=f"letting go of {target}")
    shutil.rmtree(directory)


@dataclass
class Store:
    """Artefacts in ``cache``, one directory each, named NAME-HASH after what defines them.

    An artefact is built in a hidden directory beside its place and renamed when it is complete, so
    a build that was killed leaves nothing that looks whole; a lock per artefact keeps two racks
    from building it twice.
    """

    cache: Path
    progress: Progress = field(default_factory=Silent)
    seconds: dict[str, float] = field(default_factory=dict)

    def log(self, name: str) -> Path:
        """File that gets the output of whatever builds ``name``."""
        return self.cache / "log" / f"{name}.log"

    def label(self, name: str) -> str:
        """Label of the containers that build ``name`` in this cache."""
        return f"{host.LABEL}.build={self.cache}/{name}"

    def note(self, line: str, mark: str) -> None:
        """Show a line of a build's output if it begins with ``mark``."""
        if line.startswith(mark):
            self.progress.note(line.removeprefix(mark))

    def ensure(
        self,
        name: str,
        inputs: Mapping[str, Any],
        build: Callable[[Path], None],
        text: str,
    ) -> Path:
        """Return the artefact's directory, built now if it is not there.

        ``inputs`` is everything that decides what comes out; ``build`` fills the empty directory
        it gets; ``text`` is what the user reads meanwhile. ``seconds[name]`` gets the time it took.
        """
        started = time.monotonic()
        target = self.cache / f"{name}-{digest(inputs)}"
        if not target.is_dir():
            with self._locked(name):
                if not target.is_dir():  # someone else may have built it while we waited
                    with self.progress.step(text):
                        self._build(name, target, build)
        self.seconds[name] = round(time.monotonic() - started, 1)
        return target

    def _build(self, name: str, target: Path, build: Callable[[Path], None]) -> None:
        host.remove_containers([self.label(name)])  # of a build that was killed
        self.log(name).unlink(missing_ok=True)
        for left in self.cache.glob(f".{name}-*.partial"):
            with suppress(OSError):  # still being written to; the next build finds it
                remove_tree(left)
        # A name of its own: what a killed build started may take a moment to end.
        partial = self.cache / f".{target.name}-{os.getpid()}.partial"
        partial.mkdir()
        try:
            build(partial)
        except BaseException:  # Ctrl-C too: podman would let the container work on
            host.remove_containers([self.label(name)])
            raise
        os.sync()  # a power cut must not leave a complete name on incomplete files
        partial.rename(target)

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        locks = self.cache / "lock"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / name).open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with self.progress.step(f"waiting for another build of {name}"):
                    fcntl.flock(handle, fcntl.LOCK_EX)
            yield
