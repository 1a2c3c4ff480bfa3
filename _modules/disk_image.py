"""A file system in a file: made whole or not at all, grown, checked, never mounted twice.

An ext4 image on an NFS share gives a node what NFS itself lacks (extended attributes, file types in
directories), so that overlayfs works on it. The file is sparse: it takes the room that is in use,
and gives it back when files in it are deleted (mount option ``discard``, NFS 4.2).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "disk_image"

__salt__: dict[str, Callable[..., Any]]
__utils__: dict[str, Callable[..., Any]]

# mkfs makes smaller ones, without a journal: a crash would be more than a moment's fsck.
_LEAST_BYTES = 16 << 20
# A last block group smaller than its own tables is left unused.
_TAIL_BYTES = 8 << 20
# A minion's PATH may lack the administrator's folders.
_ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}


def __virtual__() -> bool | tuple[bool, str]:
    """Load where there is e2fsprogs."""
    if any(Path(folder, "mkfs.ext4").exists() for folder in _ENV["PATH"].split(":")):
        return True
    return False, "disk_image: this system has no mkfs.ext4 (package e2fsprogs)"


def _run(argv: Sequence[str]) -> dict[str, Any]:
    return __salt__["cmd.run_all"](
        list(argv), python_shell=False, ignore_retcode=True, output_loglevel="debug", env=_ENV
    )


def _must(argv: Sequence[str]) -> str:
    ret = _run(argv)
    if ret["retcode"]:
        said = ret["stderr"] or ret["stdout"] or "no output"
        raise CommandExecutionError(f"{' '.join(argv)} failed ({ret['retcode']}): {said}")
    return ret["stdout"]


# --- facts --------------------------------------------------------------------------------------


def status(path: str) -> dict[str, Any] | None:
    """Return what an image is, None when there is none.

    path
        The image file. Keys, sizes in bytes: ``size`` (what it may grow to), ``used`` (what it
        takes on the share), ``file_system`` (size of the file system in it, None when it holds
        none), ``clean`` (was it unmounted properly), ``loops`` (loop devices on this node),
        ``mounted`` (where, on this node), ``holder`` (who wrote itself into the lock file).

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' disk_image.status /srv/share/node/containers.img
    """
    file = Path(path)
    try:
        stat = file.stat()
    except FileNotFoundError:
        return None
    loops = _loops(path)
    # While it is attached the kernel's own view is the newer one.
    header = _header(loops[0] if loops else path)
    return {
        "size": stat.st_size,
        "used": stat.st_blocks * 512,
        "file_system": header.get("bytes"),
        "clean": header.get("clean"),
        "loops": loops,
        "mounted": _mounted(loops),
        "holder": _holder(path),
    }


def _header(path: str) -> dict[str, Any]:
    """Return size and state of the ext4 in a file; empty when it holds none."""
    ret = _run(["dumpe2fs", "-h", path])
    fields = dict(re.findall(r"^([^:\n]+):\s+(.*)$", ret["stdout"], re.MULTILINE))
    if ret["retcode"] or "Block count" not in fields:
        return {}
    needs_recovery = "needs_recovery" in fields.get("Filesystem features", "")
    return {
        "bytes": int(fields["Block count"]) * int(fields["Block size"]),
        "clean": fields.get("Filesystem state") == "clean" and not needs_recovery,
    }


def _loops(path: str) -> list[str]:
    ret = _run(["losetup", "--json", "--list", "--output=NAME", "--associated", path])
    return [
        row["name"] for row in json.loads(ret["stdout"] or '{"loopdevices": []}')["loopdevices"]
    ]


def _mounted(loops: Sequence[str]) -> str | None:
    mounts = __utils__["mount_unit.parse_mountinfo"](Path("/proc/self/mountinfo").read_text())
    return next((mount["where"] for mount in mounts if mount["source"] in loops), None)


def _holder(path: str) -> str | None:
    try:
        return _lock_file(path).read_text().strip() or None
    except OSError:
        return None


def _lock_file(path: str) -> Path:
    return Path(f"{path}.lock")


# --- what is to be done -------------------------------------------------------------------------


def plan(path: str, size: str) -> dict[str, Any]:
    """Return what lacks until an image may grow to a size; an empty dict when nothing does.

    path
        The image file.
    size
        As in the pillar, for instance ``32G``.

    Keys: ``create`` or ``grow`` (bytes wanted), ``from`` (bytes now), ``problems`` (sentences; with
    one of them nothing may be done).

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' disk_image.plan /srv/share/node/containers.img 32G
    """
    wanted = __utils__["rackspec.size_bytes"](size)
    if wanted < _LEAST_BYTES:
        return {"problems": [f"{size} is too small for an image; use 256M or more"]}
    file = Path(path)
    if not file.is_absolute():
        return {"problems": [f"{path} is a relative path; write it from the root"]}
    if not file.parent.is_dir():
        return {"problems": [f"{file.parent} is not there; is the share mounted?"]}
    if not file.exists():
        return _plan_new(file, wanted)
    if not file.is_file():
        return {"problems": [f"{path} is no file"]}
    return _plan_existing(path, wanted)


def _plan_new(file: Path, wanted: int) -> dict[str, Any]:
    room = os.statvfs(file.parent)
    free = room.f_bavail * room.f_frsize
    # The journal and the first tables; the rest comes as it is used.
    least = min(wanted, 64 << 20)
    if free < least:
        return {
            "problems": [
                f"{file.parent} has {free >> 20} MiB free; an image needs {least >> 20} to begin with"
            ]
        }
    return {"create": wanted, "from": 0}


def _plan_existing(path: str, wanted: int) -> dict[str, Any]:
    have = status(path) or {}
    if have["file_system"] is None:
        return {
            "problems": [
                f"{path} is there and holds no ext4; move it away if nobody needs it, it is not"
                " overwritten"
            ]
        }
    if have["file_system"] > wanted:
        return {
            "problems": [
                f"{path} is {_human(have['file_system'])} and container_storage.size says"
                f" {_human(wanted)}; an image is never shrunk. Set the size back, or move the data"
                " to local and remove the image"
            ]
        }
    if have["file_system"] < wanted - _TAIL_BYTES:
        return {"grow": wanted, "from": have["file_system"]}
    return {}


def shortage(path: str, size: str) -> str:
    """Return that the share has less room than an image may still take, empty when it has enough.

    path
        The image file, there or to be made; its folder must be there.
    size
        As in the pillar, for instance ``32G``.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' disk_image.shortage /srv/share/node/containers.img 32G
    """
    file = Path(path)
    taken = file.stat().st_blocks * 512 if file.exists() else 0
    more = __utils__["rackspec.size_bytes"](size) - taken
    room = os.statvfs(file.parent)
    free = room.f_bavail * room.f_frsize
    if more <= free:
        return ""
    return (
        f"{path} may take {_human(more)} more and {file.parent} has {_human(free)} free: when that is"
        " full, the file system in the image takes errors and becomes read-only. Make room, or a"
        " smaller container_storage.size for images that are still to be made"
    )


def _human(size: int) -> str:
    unit, shift = ("T", 40) if size >= 1 << 40 else ("G", 30) if size >= 1 << 30 else ("M", 20)
    return f"{size / (1 << shift):.4g}{unit}"


# --- doing it -----------------------------------------------------------------------------------


def create(path: str, size: str) -> None:
    """Make a sparse ext4 image. Raises CommandExecutionError; an existing file is never replaced.

    path
        The image file.
    size
        As in the pillar, for instance ``32G``.

    It is made under another name and appears in one step, so a power cut leaves no half image.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' disk_image.create /srv/share/node/containers.img 32G
    """
    todo = plan(path, size)
    if "create" not in todo:
        reason = "; ".join(todo.get("problems", [])) or "it exists already"
        raise CommandExecutionError(f"{path} is not made: {reason}")
    with _locked(path):
        spare = Path(f"{path}.new")
        spare.unlink(missing_ok=True)
        try:
            with spare.open("xb") as file:
                os.truncate(file.fileno(), todo["create"])
            spare.chmod(0o600)
            _must([
                "mkfs.ext4", "-q", "-F", "-m", "1", "-L", "containers", "-e", "remount-ro",
                "-E", "lazy_itable_init=1,lazy_journal_init=1", str(spare),
            ])  # fmt: skip
            _sync(spare)
            # Unlike a rename, this never replaces what somebody else has put there meanwhile.
            os.link(spare, path)
        except OSError as exc:
            raise CommandExecutionError(f"{path} cannot be made: {exc.strerror}") from exc
        finally:
            spare.unlink(missing_ok=True)
        _sync(Path(path).parent)


def grow(path: str, size: str) -> None:
    """Let an image grow to a size, mounted or not. Raises CommandExecutionError.

    path
        The image file.
    size
        As in the pillar, for instance ``64G``.

    Cut off anywhere it is whole, and the next call ends what was begun.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' disk_image.grow /srv/share/node/containers.img 64G
    """
    todo = plan(path, size)
    if "problems" in todo:
        raise CommandExecutionError("; ".join(todo["problems"]))
    if "grow" not in todo:
        return
    have = status(path) or {}
    if have["mounted"]:
        # Whoever has it mounted holds the lock.
        _grow_mounted(path, have["loops"], todo["grow"])
        return
    with _locked(path):
        if have["size"] < todo["grow"]:
            os.truncate(path, todo["grow"])
        _check(path, force=True)
        _must(["resize2fs", path, f"{todo['grow'] >> 10}K"])


def _grow_mounted(path: str, loops: Sequence[str], wanted: int) -> None:
    if Path(path).stat().st_size < wanted:
        os.truncate(path, wanted)
    for loop in loops:
        _must(["losetup", "--set-capacity", loop])
        ret = _run(["resize2fs", loop])
        if ret["retcode"] and "Permission denied" in ret["stderr"]:
            raise CommandExecutionError(
                f"{path} cannot grow while it is mounted: this node lacks CAP_SYS_RESOURCE (it is a"
                " container). It grows when this is applied again while it is unmounted"
            )
        if ret["retcode"]:
            raise CommandExecutionError(f"{path} cannot grow: {ret['stderr'] or ret['stdout']}")


def check(path: str, force: bool = False) -> str:
    """Check the file system in an image that is not mounted, and mend what is safe to mend.

    path
        The image file.
    force
        Also when it says that it is clean.

    Returns what e2fsck said. Raises CommandExecutionError when a person has to decide, and, with
    nothing touched, for an image that is mounted or that another node has.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' disk_image.check /srv/share/node/containers.img
    """
    have = status(path)
    if have is None:
        raise CommandExecutionError(f"{path} is not there; is the share mounted?")
    if have["mounted"]:
        raise CommandExecutionError(
            f"{path} is mounted at {have['mounted']}, and what is mounted cannot be checked; it is"
            " checked at each boot, before it is mounted"
        )
    with _locked(path):
        return _check(path, force)


def _check(path: str, force: bool) -> str:
    ret = _run(["e2fsck", "-p", *(["-f"] if force else []), path])
    # 1: errors were mended. Anything above is not for a machine to decide.
    if ret["retcode"] > 1:
        raise CommandExecutionError(
            f"{path} has damage that is not mended by itself: {ret['stdout']} {ret['stderr']}. Look"
            f" at it with 'e2fsck -f {path}' while it is not mounted"
        )
    return ret["stdout"].strip()


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """Hold the lock of an image, which whoever mounts it holds too.

    Raises CommandExecutionError when another process, here or on another node, has it.
    """
    # NFS turns the lock into one of byte ranges, which has to be writable for an exclusive one.
    descriptor = os.open(_lock_file(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise CommandExecutionError(
                f"{path} is in use by {_holder(path) or 'somebody'}; one image belongs to one node"
            ) from exc
        yield
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
