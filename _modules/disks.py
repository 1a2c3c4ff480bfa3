"""Disks: what is on one, and a new file system on one that is truly blank.

Making a file system ends whatever was there, so :func:`make_ext4` only ever takes a device on which
nothing at all can be found: no file system, no partition table, no partition, no user of any kind,
and nothing but zeros at its start (an encrypted disk shows no signature, but it does show data).
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "disks"

__salt__: dict[str, Callable[..., Any]]

# How much of a blank disk's start has to be zero. Every known header begins within it.
_ZEROS = 1 << 20
# A stick of a few MB is no disk to share.
_LEAST_BYTES = 16 << 20

_SYS_BLOCK = Path("/sys/class/block")


def __virtual__() -> bool | tuple[bool, str]:
    """Load where there is blkid."""
    if shutil.which("blkid", path=_PATH):
        return True
    return False, "disks: this system has no blkid (package util-linux)"


# A minion's PATH may lack the administrator's folders.
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def _run(argv: Sequence[str]) -> dict[str, Any]:
    return __salt__["cmd.run_all"](
        list(argv), python_shell=False, ignore_retcode=True, output_loglevel="debug",
        env={"PATH": _PATH, "LC_ALL": "C"},
    )  # fmt: skip


def find(spec: str) -> list[str]:
    """Return the devices that hold a file system of this name; usually one or none.

    spec
        ``UUID=…`` or ``LABEL=…``. Every device is read anew; no cache is asked.

    CLI Example:

    .. code-block:: bash

        salt 'nfs1' disks.find LABEL=share
    """
    kind, _, value = spec.partition("=")
    token = f"UUID={value.lower()}" if kind == "UUID" else spec
    ret = _run(["blkid", "-c", "/dev/null", "-o", "device", "-t", token])
    return sorted(ret["stdout"].split())


def probe(device: str) -> dict[str, str]:
    """Return what the start of a device says it holds, as blkid's keys (``TYPE``, ``UUID`` …).

    device
        For instance ``/dev/sda``. Empty when nothing is found. ``{"AMBIVALENT": "yes"}`` when
        more than one file system or partition table is.

    CLI Example:

    .. code-block:: bash

        salt 'nfs1' disks.probe /dev/sda
    """
    ret = _run(["blkid", "-p", "-o", "export", "--", device])
    if ret["retcode"] == 8:
        return {"AMBIVALENT": "yes"}
    rows = (line.partition("=") for line in ret["stdout"].splitlines())
    return {key: value for key, _, value in rows if key != "DEVNAME"}


def signs(device: str) -> list[str]:
    """Return every sign that a device is not blank, as sentences; an empty list for a blank one.

    device
        A path below ``/dev``, for instance ``/dev/disk/by-id/usb-…``. One that is not there, is no
        block device or cannot be written is not blank either.

    CLI Example:

    .. code-block:: bash

        salt 'nfs1' disks.signs /dev/disk/by-id/usb-WD_Elements-0:0
    """
    path = Path(device)
    try:
        real = path.resolve(strict=True)
        mode = real.stat().st_mode
    except OSError:
        return [f"{device} is not there; is the disk plugged in (ls /dev/disk/by-id)?"]
    if not stat.S_ISBLK(mode):
        return [f"{device} is no disk"]
    return [f"{device} ({real}) {sign}" for sign in _signs(real)]


def _signs(real: Path) -> Iterator[str]:
    entry = _SYS_BLOCK / real.name
    yield from _users(real, entry)
    size = int(_read(entry / "size") or 0) * 512
    if size < _LEAST_BYTES:
        yield f"has {size >> 20} MiB; that is no disk to share"
    if _read(entry / "ro") == "1":
        yield "is read-only"
    found = _run(["wipefs", "--no-act", "--noheadings", "--output=TYPE,LABEL", "--", str(real)])
    if found["retcode"]:
        yield f"cannot be read: {found['stderr'].strip()}"
    for line in found["stdout"].splitlines():
        yield f"holds {' '.join(line.split())}"
    told = probe(str(real))
    if told and not found["stdout"].strip():
        yield f"holds {told.get('TYPE') or told.get('PTTYPE') or 'more than one file system'}"
    if size and not _starts_with_zeros(real):
        yield "has data in its first MiB (encrypted, or of a kind that is not known here)"


def _users(real: Path, entry: Path) -> Iterator[str]:
    """Say who uses a device or a part of it right now."""
    parts = [child for child in entry.glob("*") if (child / "partition").exists()]
    for part in sorted(parts):
        yield f"has the partition {part.name}"
    holders = [child.name for child in entry.glob("holders/*")]
    if holders:
        yield f"is part of {', '.join(sorted(holders))}"
    numbers = {_read(folder / "dev"): folder.name for folder in [entry, *parts]}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[2] in numbers:
            yield f"is mounted at {fields[4]}"
    for line in Path("/proc/swaps").read_text().splitlines()[1:]:
        if Path(line.split()[0]).resolve() == real:
            yield "is in use as swap"
    try:
        # The kernel refuses an exclusive open of anything that is mounted, in a RAID or mapped.
        os.close(os.open(real, os.O_RDONLY | os.O_EXCL))
    except OSError as exc:
        yield "is in use" if exc.errno == errno.EBUSY else f"cannot be opened: {exc.strerror}"


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _starts_with_zeros(device: Path) -> bool:
    try:
        with device.open("rb") as file:
            return not any(file.read(_ZEROS))
    except OSError:
        return False


def make_ext4(device: str, spec: str) -> None:
    """Make ext4 on a blank device.

    device
        A path below ``/dev``.
    spec
        ``UUID=…`` or ``LABEL=…``: the name of the new file system.

    Raises CommandExecutionError when there is any sign of data (see :func:`signs`), when a file
    system of this name exists already, or when mkfs fails.

    CLI Example:

    .. code-block:: bash

        salt 'nfs1' disks.make_ext4 /dev/disk/by-id/usb-WD_Elements-0:0 LABEL=share
    """
    there = find(spec)
    if there:
        raise CommandExecutionError(f"{spec} exists already, on {', '.join(there)}")
    against = signs(device)
    if against:
        raise CommandExecutionError(f"{device} is not blank: {'; '.join(against)}")
    kind, _, name = spec.partition("=")
    # Never -F: should somebody be quicker than we, mkfs itself still asks, and nobody answers.
    argv = ["mkfs.ext4", "-q", "-m", "1", "-E", "lazy_itable_init=1,lazy_journal_init=1",
            "-U" if kind == "UUID" else "-L", name, str(Path(device).resolve())]  # fmt: skip
    ret = _run(argv)
    if ret["retcode"]:
        raise CommandExecutionError(f"{' '.join(argv)} failed: {ret['stderr'] or ret['stdout']}")
    if shutil.which("udevadm", path=_PATH):
        # The mount unit waits for the name that udev now gives the device.
        _run(["udevadm", "trigger", "--settle", "--", str(Path(device).resolve())])
