"""Is a folder fit to hold container data? Found out by trying, before anything is touched.

Each problem is a sentence with the path, what is wrong with it and what to do.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

__virtualname__ = "copy_target"

MARKER = ".saltberry-storage"

# overlayfs needs extended attributes of its own and the type of each name from readdir; a network
# file system keeps neither.
_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "afs", "virtiofs")
_MEMORY = ("tmpfs", "ramfs", "devtmpfs")
_POOR = ("vfat", "msdos", "exfat", "ntfs", "ntfs3", "hfsplus", "iso9660", "squashfs", "udf")

_PROBE = ".saltberry-probe-"
# No trial takes that long; its folder was left behind.
_PROBE_SECONDS = 600
_NO_MOUNT = 32
_TRIAL = f"""
mount -t overlay overlay -o "$1" "$2" || exit {_NO_MOUNT}
cd "$2" && echo upper >written && rm deleted && rm -r replaced && mkdir replaced &&
    mv written replaced/renamed && [ ! -e deleted ] && [ "$(ls replaced)" = renamed ]
"""


def mounts(table: str = "/proc/self/mountinfo") -> list[dict[str, Any]]:
    """Return what is mounted, the last mount on top: ``[{"point", "kind", "device", "root",
    "source", "options", "super"}, …]``.

    table
        A mountinfo file of the kernel's (proc_pid_mountinfo(5)).
    """
    found = []
    for line in Path(table).read_text(errors="surrogateescape").splitlines():
        left, _, right = line.partition(" - ")
        fields, (kind, source, *rest) = left.split(" "), right.split(" ")
        found.append({
            "device": fields[2], "root": _plain(fields[3]), "point": _plain(fields[4]),
            "options": fields[5].split(","), "kind": kind, "source": _plain(source),
            "super": rest[0] if rest else "",
        })  # fmt: skip
    return found


def _plain(path: str) -> str:
    """Return a mountinfo path without its octal escapes."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def inside(path: str, folder: str) -> bool:
    """Say whether a path is a folder or below it, by name alone."""
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def mount_of(path: str) -> dict[str, Any]:
    """Return the mount that a path is on."""
    real = os.path.realpath(path)
    found = [mount for mount in mounts() if inside(real, mount["point"])]
    # Of two on one point the later is on top.
    return max(enumerate(found), key=lambda entry: (len(entry[1]["point"]), entry[0]))[1]


def below(folder: str) -> list[dict[str, Any]]:
    """Return the mounts strictly below a folder."""
    real = os.path.realpath(folder)
    return [mount for mount in mounts() if mount["point"] != real and inside(mount["point"], real)]


def release(folder: str) -> None:
    """Unmount a folder that is mounted on itself, as docker leaves its own behind.

    A disk whose mount point the folder is stays.
    """
    real = os.path.realpath(folder)
    while True:
        on = [mount for mount in mounts() if inside(real, mount["point"])]
        top, above = mount_of(real), [mount for mount in on if mount["point"] != real]
        if top["point"] != real or not above:
            return
        parent = max(above, key=lambda mount: len(mount["point"]))
        origin = os.path.normpath(
            os.path.join(parent["root"], os.path.relpath(real, parent["point"]))  # noqa: PTH118
        )
        if (top["device"], top["root"]) != (parent["device"], origin):
            return
        if subprocess.run(["umount", real], capture_output=True).returncode:
            return


def path_problems(target: str, system_disk: bool = False) -> list[str]:
    """Return why a folder cannot be a target, judged by its path and its file system.

    target
        The folder.
    system_disk
        The system's own disk is fine (it is what ``local`` means).
    """
    if not target.startswith("/"):
        return [f"the target {target!r} is a relative path; give the whole path, like "
                "/srv/containers, or 'local'"]  # fmt: skip
    try:
        real = Path(target).resolve(strict=True)
    except FileNotFoundError:
        return [f"the target {target} does not exist; make the folder, or mount the disk there"]
    except (RuntimeError, OSError) as exc:
        if isinstance(exc, RuntimeError) or exc.errno == errno.ELOOP:
            return [f"the target {target} is a loop of symbolic links; give the real path"]
        return [f"the target {target} cannot be read: {exc.strerror}"]
    if not real.is_dir():
        return [f"the target {target} is no folder"]
    mount = mount_of(str(real))
    return _kind_problems(target, mount) or _place_problems(target, mount, system_disk)


def _kind_problems(target: str, mount: dict[str, Any]) -> list[str]:
    kind = mount["kind"]
    if kind in _NETWORK or kind.startswith("fuse."):
        return [
            f"the target {target} is on a network file system ({kind}, {mount['source']}), where "
            "overlay2 cannot work: overlayfs needs extended attributes and file types that it does "
            "not keep. Use the backend nfs-image instead (container_storage.backend: nfs-image): an "
            "ext4 image on that share, mounted here"
        ]
    if kind in _MEMORY:
        return [f"the target {target} is in memory ({kind}) and gone after a restart; give a folder "
                "on a disk"]  # fmt: skip
    if kind in _POOR:
        return [f"the target {target} is on {kind}, which keeps no Linux owners and attributes; "
                "format the disk as ext4"]  # fmt: skip
    return []


def _place_problems(target: str, mount: dict[str, Any], system_disk: bool) -> list[str]:
    problems = []
    if mount["point"] == "/" and not system_disk:
        problems.append(
            f"nothing is mounted at {target}: it is on the system's own disk, where nothing would be "
            "gained. Is the disk there (lsblk), and mounted? For the system's disk say 'local'"
        )
    if "ro" in mount["options"] or "ro" in mount["super"].split(","):
        problems.append(
            f"the target {target} is mounted read-only; the kernel does that after a disk error "
            "(dmesg), else mount it writable"
        )
    return problems


def overlay_problem(folder: str) -> str:
    """Return why overlay2 would not work in a folder, empty if it does; tried with a real mount.

    A lower and an upper layer are made and mounted over each other; a file is written through the
    mount, another deleted (which makes a device node), a folder replaced (an extended attribute).
    Nothing of it is left: the mount is in a namespace of its own, and ends with its process.
    """
    try:
        _clear_probes(folder)
        place = Path(tempfile.mkdtemp(prefix=_PROBE, dir=folder))
    except OSError as exc:
        return _cannot_write(folder, exc)
    try:
        return _try_times(place) or _try_overlay(place)
    except OSError as exc:
        return _cannot_write(folder, exc)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _clear_probes(folder: str) -> None:
    """Remove what is left of trials that were killed."""
    for left in Path(folder).glob(f"{_PROBE}*"):
        if time.time() - left.stat().st_mtime > _PROBE_SECONDS:
            shutil.rmtree(left, ignore_errors=True)


def _try_times(place: Path) -> str:
    file = place / "time"
    file.write_text("")
    exact = 1_000_000_000_123_456_789
    os.utime(file, ns=(exact, exact))
    if file.stat().st_mtime_ns == exact:
        return ""
    return (
        f"the file system of {place.parent} keeps no times below a second, so that changes could be "
        "missed; make it anew with larger inodes (mkfs.ext4 -I 256)"
    )


def _cannot_write(folder: str, exc: OSError) -> str:
    if exc.errno == errno.ENOSPC:
        return f"{folder} is full: not even a folder can be made there"
    if exc.errno == errno.EROFS:
        return f"{folder} is on a read-only file system; mount it writable"
    return f"{folder} cannot be written to: {exc.strerror}"


def _try_overlay(place: Path) -> str:
    for name in ("lower/replaced", "upper", "work", "merged"):
        (place / name).mkdir(parents=True)
    (place / "lower/deleted").write_text("lower")
    (place / "lower/replaced/file").write_text("lower")
    options = f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work"
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _TRIAL, "sh", options,
            str(place / "merged")]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode == _NO_MOUNT:
        return (
            f"overlay2 cannot work on {place.parent}: the kernel refuses an overlay there "
            f"({done.stderr.strip()}); the file system needs extended attributes and d_type: ext4 does"
        )
    if done.returncode:
        return (
            f"overlay2 cannot work on {place.parent}: {done.stderr.strip() or 'deleted files show'}"
        )
    return ""


def room(folder: str) -> dict[str, int | None]:
    """Return ``{"bytes", "files"}`` that can still be written below a folder.

    ``files`` is None on a file system that makes inodes as it needs them.
    """
    found = os.statvfs(folder)
    return {
        "bytes": found.f_bavail * found.f_frsize,
        "files": found.f_favail if found.f_files else None,
    }


def has_files(folder: str) -> bool:
    """Say whether there is anything but folders below a folder."""
    argv = ["find", folder, "-xdev", "-not", "-type", "d", "-print", "-quit"]
    return bool(subprocess.run(argv, capture_output=True).stdout)


def owner(target: str) -> dict[str, str]:
    """Return whose container data a folder holds, as its marker says; empty without one."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((Path(target) / MARKER).read_text())
        if isinstance(found, dict):
            return found
    return {}


def own(target: str, node: str, machine: str) -> None:
    """Mark a folder as holding a node's container data. Raises OSError.

    node
        The minion's id.
    machine
        The system's machine-id, which a new card changes.
    """
    text = json.dumps({"node": node, "machine": machine,
                       "what": "container data moved here by Saltberry"})  # fmt: skip
    file = Path(target) / MARKER
    if owner(target) == json.loads(text):
        return
    with file.open("w") as handle:
        handle.write(f"{text}\n")
        handle.flush()
        os.fsync(handle.fileno())


# --- who uses a folder --------------------------------------------------------------------------


def users(folder: str) -> list[str]:
    """Return what on this machine uses a folder, in words: mounts from it, and processes in it.

    Looks into every process's own mounts as well, so that a container's volume counts.
    """
    real = os.path.realpath(folder)
    home = mount_of(real)
    path = os.path.relpath(real, home["point"])
    origin = os.path.normpath(os.path.join(home["root"], path))  # noqa: PTH118
    found: dict[str, None] = {}
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda entry: int(entry.name)):
        with contextlib.suppress(OSError):
            for use in _uses(process, real, home["device"], origin):
                found[use] = None
    return list(found)


def _uses(process: Path, folder: str, device: str, origin: str) -> list[str]:
    name = (process / "comm").read_text().strip()
    who = f"{name} (process {process.name})"
    found = []
    for mount in mounts(f"{process}/mountinfo"):
        layers = [part.split("=", 1)[1].split(":")[0] for part in mount["super"].split(",")
                  if part.startswith(("upperdir=", "workdir="))]  # fmt: skip
        bound = mount["device"] == device and inside(mount["root"], origin)
        # The folder's own mount is no use of it.
        if bound and mount["point"] == folder:
            continue
        if bound or any(inside(layer, folder) for layer in layers):
            found.append(f"a mount at {mount['point']}")
    if process.name == str(os.getpid()):
        return found
    links = [process / "cwd", process / "root", process / "exe", *(process / "fd").iterdir()]
    for link in links:
        with contextlib.suppress(OSError):
            if inside(str(link.readlink()), folder):
                found.append(who)
                break
    return found
