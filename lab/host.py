"""Facts about the machine that carries the lab, and the one way to run a command on it."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

LABEL = "saltberry.lab"
"""Label of the containers that build something, with the cache they build for as its value."""

_TAIL_LINES = 25
_MOST_FILES = 1_048_576
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class StepFailed(RuntimeError):
    """A step of the lab failed.

    ``step`` says in words what was being done, ``log`` is the file with its whole output (or
    None), ``tail`` the last lines of it.
    """

    def __init__(self, step: str, log: Path | None = None, tail: Sequence[str] = ()) -> None:
        self.step = step
        self.log = log
        self.tail = list(tail)
        super().__init__(self._text())

    def _text(self) -> str:
        lines = [f"failed: {self.step}", *(f"    {line}" for line in self.tail)]
        if self.log is not None:
            lines.append(f"    (all of it: {self.log})")
        return "\n".join(lines)


def architecture() -> str:
    """Debian's name for this machine's architecture; StepFailed on one the lab does not know."""
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        known = ", ".join(_ARCHITECTURES)
        raise StepFailed(f"this machine is {machine}; the lab runs on {known}")
    return _ARCHITECTURES[machine]


def cgroup_v2(mounts: str | None = None) -> bool:
    """True when /sys/fs/cgroup is the unified hierarchy (``mounts``: text of /proc/mounts)."""
    text = Path("/proc/mounts").read_text() if mounts is None else mounts
    for line in text.splitlines():
        _, target, kind, *_ = line.split()
        if target == "/sys/fs/cgroup":
            return kind == "cgroup2"
    return False


def podman_runtime() -> str:
    """The OCI runtime for podman here: crun where it runs, as it starts a container faster.

    crun refuses the v1 and the hybrid cgroup layout; runc takes all of them.
    """
    return "crun" if cgroup_v2() and shutil.which("crun") else "runc"


def podman(*args: str) -> list[str]:
    """A podman command line with the runtime that this machine needs."""
    return ["podman", "--runtime", podman_runtime(), *args]


def scratch_file(content: str, mode: int = 0o644) -> Path:
    """Write ``content`` to a new temporary file with that mode; the caller deletes it."""
    handle, name = tempfile.mkstemp(prefix="saltberry-")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(content)
    path = Path(name)
    path.chmod(mode)
    return path


def ulimit_flags() -> list[str]:
    """podman flags for the limits of a container.

    podman's defaults lie above the hard limits of some machines, and raising a hard limit needs
    CAP_SYS_RESOURCE, which root does not have everywhere (in a container, for one). podman itself
    starts with no more processes than there can be ids for.
    """
    most_processes = int(Path("/proc/sys/kernel/pid_max").read_text())
    limits = (
        ("nofile", resource.RLIMIT_NOFILE, _MOST_FILES),
        ("nproc", resource.RLIMIT_NPROC, min(most_processes, _MOST_FILES)),
    )
    flags = []
    for name, number, most in limits:
        hard = resource.getrlimit(number)[1]
        value = most if hard == resource.RLIM_INFINITY else min(hard, most)
        flags += ["--ulimit", f"{name}={value}:{value}"]
    return flags


def run(
    command: Sequence[str],
    *,
    step: str,
    log: Path | None = None,
    on_line: Callable[[str], None] | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
) -> str:
    """Run a command to its end and return what it printed (both streams, as they came).

    ``log`` gets the output appended while it comes; ``on_line`` sees each line; ``env`` is added
    to this process's environment; ``stdin`` is small text for the command. Raises StepFailed, with
    ``step`` and the last lines, on an exit code other than 0 and when there is no such command.
    """
    lines: list[str] = []
    environment = {**os.environ, "LC_ALL": "C.UTF-8", **(env or {})}
    if shutil.which(command[0]) is None:
        raise StepFailed(f"{step}: {command[0]} is not installed")
    process = subprocess.Popen(
        # When this process is killed the command must not work on unseen.
        ["setpriv", "--pdeathsig", "TERM", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        text=True,
        errors="replace",
    )
    log_file = log or Path(os.devnull)
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with process, log_file.open("a", encoding="utf-8") as sink:
        assert process.stdin is not None and process.stdout is not None
        sink.write(f"$ {' '.join(command)}\n")
        try:
            process.stdin.write(stdin)
            process.stdin.close()
        except BrokenPipeError:
            pass  # it ended without reading; its exit code says whether that was right
        for line in process.stdout:
            sink.write(line)
            sink.flush()
            lines.append(line)
            if on_line is not None:
                on_line(line.rstrip("\n"))
    if process.returncode:
        tail = deque((line.rstrip("\n") for line in lines), maxlen=_TAIL_LINES)
        raise StepFailed(f"{step} (exit code {process.returncode})", log, list(tail))
    return "".join(lines)


def containers(labels: Iterable[str]) -> list[str]:
    """Ids of all podman containers, running or not, that carry every one of ``labels``."""
    filters = [flag for label in labels for flag in ("--filter", f"label={label}")]
    command = podman("ps", "--all", "--quiet", "--no-trunc", *filters)
    return run(command, step="listing the lab's containers").split()


def remove_containers(labels: Iterable[str]) -> int:
    """Stop and remove the containers with all of ``labels``, and return how many there were."""
    ids = containers(labels)
    if ids:
        command = podman("rm", "--force", "--time", "0", "--volumes", *ids)
        run(command, step="removing the lab's containers")
    return len(ids)
