"""Mounts that systemd keeps: what is mounted where, and units that mount it at boot.

Used for the share and its disk on the storage node, for the share on the others, and for the file
system under the container engines. See ``_utils/mount_unit.py`` for why units.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "systemd_mount"

__salt__: dict[str, Callable[..., Any]]
__utils__: dict[str, Callable[..., Any]]

# Tests point these elsewhere.
_UNITS = Path("/etc/systemd/system")
_MOUNTINFO = Path("/proc/self/mountinfo")

_DROPIN = "saltberry-storage.conf"


def __virtual__() -> bool | tuple[bool, str]:
    """Load where there is systemd."""
    if any(Path(path).exists() for path in ("/usr/bin/systemctl", "/bin/systemctl")):
        return True
    return False, "systemd_mount: this system has no systemctl"


def _run(argv: Sequence[str]) -> dict[str, Any]:
    return __salt__["cmd.run_all"](
        list(argv), python_shell=False, ignore_retcode=True, output_loglevel="debug"
    )


def _must(argv: Sequence[str]) -> str:
    ret = _run(argv)
    if ret["retcode"]:
        said = ret["stderr"] or ret["stdout"] or "no output"
        raise CommandExecutionError(f"{' '.join(argv)} failed ({ret['retcode']}): {said}")
    return ret["stdout"]


# --- facts --------------------------------------------------------------------------------------


def mounted(where: str) -> dict[str, str] | None:
    """Return what is mounted at a folder, None when nothing is.

    where
        The mount point. Keys ``source``, ``fstype``, ``options``, ``root``, ``device``
        (major:minor); of several mounts at one place it is the one that is seen.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' systemd_mount.mounted /srv/share/node
    """
    found = [
        entry
        for entry in __utils__["mount_unit.parse_mountinfo"](_MOUNTINFO.read_text())
        if entry["where"] == where
    ]
    return dict(found[-1]) if found else None


def status(where: str) -> dict[str, Any]:
    """Return what a person asks of a mount: ``{"unit", "mounted", "source", "state", "reason"}``.

    where
        The mount point. ``state`` is systemd's word (``active``, ``activating``, ``failed``,
        ``inactive``); ``reason`` is the last thing that mount(8) said when it failed.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' systemd_mount.status /srv/share/node
    """
    unit = __utils__["mount_unit.name"](where)
    have = mounted(where)
    state = _run(["systemctl", "is-active", "--", unit])["stdout"].strip() or "unknown"
    return {
        "unit": unit,
        "mounted": have is not None,
        "source": have["source"] if have else None,
        "state": state,
        "reason": "" if have else _reason(unit),
    }


def _reason(unit: str) -> str:
    """Return why a mount unit did not start, as mount(8) said it or what had to come before it.

    Empty when the journal has nothing.
    """
    ret = _run([
        "journalctl", "--unit", unit, "--lines=8", "--output=cat", "--no-pager", "--quiet",
    ])  # fmt: skip
    said = [line for line in ret["stdout"].splitlines() if line.startswith(("mount", "e2fsck"))]
    return _disk_missing(unit) or _reason_before(unit) or (said[-1] if said else "")


def _disk_missing(unit: str) -> str:
    """Return that no disk has the name that a mount unit waits for, empty when one has."""
    what = _run(["systemctl", "show", "--property=What", "--value", "--", unit])["stdout"].strip()
    if not what.startswith("/dev/") or Path(what).exists():
        return ""
    kind, _, name = what.removeprefix("/dev/disk/by-").partition("/")
    spec = f"{kind.upper()}={name}" if name else what
    return f"no disk of this node is {spec}; is it plugged in? lsblk -f shows what there is"


def _reason_before(unit: str) -> str:
    """Return the last words of a failed unit without which this one does not start."""
    needed = _run(["systemctl", "show", "--property=Requires", "--value", "--", unit])["stdout"]
    for name in needed.split():
        if _run(["systemctl", "is-failed", "--quiet", "--", name])["retcode"]:
            continue
        said = _run([
            "journalctl", f"_SYSTEMD_UNIT={name}", "_TRANSPORT=stdout",
            "--lines=1", "--output=cat", "--no-pager", "--quiet",
        ])["stdout"].strip()  # fmt: skip
        return said or f"{name} failed, see journalctl -u {name}"
    return ""


def mounted_from(where: str, what: str) -> bool:
    """Say whether what is mounted at a folder is ``what``.

    where
        The mount point.
    what
        ``UUID=…``, ``LABEL=…``, a device, an image file, a folder (bind) or ``server:/path``.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' systemd_mount.mounted_from /srv/containers LABEL=engines
    """
    have = mounted(where)
    if have is None:
        return False
    source = Path(__utils__["mount_unit.source"](what))
    if have["source"].startswith("/dev/loop"):
        backing = Path(f"/sys/dev/block/{have['device']}/loop/backing_file")
        file = backing.read_text().strip() if backing.exists() else ""
        # As text: to look at the file itself would wait for a share that is away.
        if file == str(source):
            return True
    if source.is_block_device():
        number = source.stat().st_rdev
        return have["device"] == f"{os.major(number)}:{os.minor(number)}"
    if source.is_dir():
        return source.samefile(where)
    return have["source"].rstrip("/") == what.rstrip("/")


def hidden_file(where: str) -> str | None:
    """Return a file that a mount at this folder would hide, None when there is none.

    where
        The mount point, mounted or not yet there. Empty folders are nothing to lose.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' systemd_mount.hidden_file /srv/containers
    """
    for folder, folders, files in os.walk(where):
        others = [n for n in folders if Path(folder, n).is_symlink()]
        if files or others:
            return str(Path(folder, sorted(files + others)[0]))
    return None


# --- what is to be done -------------------------------------------------------------------------


def plan(where: str, what: str, **unit: Any) -> dict[str, Any]:
    """Return what lacks until ``what`` is mounted at ``where``, now and at boot.

    where, what
        Mount point and source, see :func:`mounted_from`.
    unit
        The other arguments of ``mount_unit.mount``.

    Keys, each only when there is something to do: ``file`` (the unit's new text), ``enable``,
    ``mount``. ``problems`` are sentences; with one of them nothing may be done.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' systemd_mount.plan /srv/containers LABEL=engines fstype=ext4 options='[noatime]'
    """
    name = __utils__["mount_unit.name"](where)
    text = __utils__["mount_unit.mount"](where, what, **unit)
    have = mounted(where)
    todo: dict[str, Any] = {}
    if have and not mounted_from(where, what):
        # Behind an automatic mount, or a stale one: whose it is, a person has to say.
        todo["problems"] = [
            f"{where}: {have['source']} is mounted there and not {what}; unmount it first"
        ]
        return todo
    if not have:
        hidden = hidden_file(where)
        if hidden:
            todo["problems"] = [
                f"{where}: {hidden} would be hidden by the mount; move what is in {where} away first"
            ]
            return todo
        todo["mount"] = what
    if __utils__["conffiles.read"](_UNITS / name) != text:
        todo["file"] = text
    if unit.get("wanted_by") and not __salt__["node.unit_enabled"](name):
        todo["enable"] = name
    return todo


def write(where: str, todo: Mapping[str, Any]) -> None:
    """Write and enable what :func:`plan` found, without mounting. Raises CommandExecutionError.

    where
        The mount point.
    todo
        What :func:`plan` returned.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' systemd_mount.write /srv/containers '{"enable": "srv-containers.mount"}'
    """
    if "file" in todo:
        __utils__["conffiles.write"](_UNITS / __utils__["mount_unit.name"](where), todo["file"])
        reload_units()
    if "enable" in todo:
        __salt__["node.enable_unit"](todo["enable"])


def mount(where: str) -> None:
    """Start the mount unit of a folder. Raises CommandExecutionError with mount(8)'s reason.

    where
        The mount point; it is made.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' systemd_mount.mount /srv/containers
    """
    unit = __utils__["mount_unit.name"](where)
    ret = _run(["systemctl", "start", "--", unit])
    if ret["retcode"] or mounted(where) is None:
        reason = _reason(unit) or ret["stderr"].strip() or "systemd gives no reason"
        raise CommandExecutionError(f"{where} cannot be mounted: {reason}")


def unmount(where: str) -> None:
    """Stop the mount unit of a folder; one that is not mounted is fine. Raises CommandExecutionError.

    where
        The mount point. Units that need it stop with it.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' systemd_mount.unmount /var/lib/kubelet/pods
    """
    if mounted(where) is None:
        return
    unit = __utils__["mount_unit.name"](where)
    ret = _run(["systemctl", "stop", "--", unit])
    if ret["retcode"] or mounted(where) is not None:
        reason = _reason(unit) or ret["stderr"].strip() or "something is still mounted there"
        raise CommandExecutionError(f"{where} cannot be unmounted: {reason}")


def write_unit(name: str, text: str) -> None:
    """Write a unit or a drop-in and have systemd read it. Raises OSError.

    name
        File below ``/etc/systemd/system``, for instance ``docker.service.d/saltberry-storage.conf``.
    text
        Its content.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' systemd_mount.write_unit x.service '[Unit]'
    """
    __utils__["conffiles.write"](_UNITS / name, text)
    reload_units()


def remove_units(names: Sequence[str]) -> None:
    """Remove units or drop-ins of ours and have systemd forget them.

    names
        Files below ``/etc/systemd/system``; those that are absent already are passed over.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' systemd_mount.remove_units '[docker.service.d/saltberry-storage.conf]'
    """
    for name in names:
        (_UNITS / name).unlink(missing_ok=True)
    reload_units()


def unit_text(name: str) -> str:
    """Return a unit or drop-in that was written by :func:`write_unit`, empty when it is not there.

    name
        File below ``/etc/systemd/system``.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' systemd_mount.unit_text docker.service.d/saltberry-storage.conf
    """
    return __utils__["conffiles.read"](_UNITS / name)


def dropin_of(unit: str) -> str:
    """Return the name of our drop-in of a service, below ``/etc/systemd/system``.

    unit
        For instance ``docker.service``.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' systemd_mount.dropin_of docker.service
    """
    return f"{unit}.d/{_DROPIN}"


def reload_units() -> None:
    """Have systemd read its units again. Raises CommandExecutionError.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' systemd_mount.reload_units
    """
    _must(["systemctl", "daemon-reload"])


def is_active(unit: str) -> bool:
    """Say whether a unit is up, or on its way there.

    unit
        For instance ``saltberry-share.service``.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' systemd_mount.is_active saltberry-share.service
    """
    word = _run(["systemctl", "is-active", "--", unit])["stdout"].strip()
    return word in ("active", "activating", "reloading")


def restart(unit: str) -> None:
    """Restart a unit without waiting for it. Raises CommandExecutionError.

    unit
        For instance ``saltberry-share.service``.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' systemd_mount.restart saltberry-share.service
    """
    _must(["systemctl", "restart", "--no-block", "--", unit])
