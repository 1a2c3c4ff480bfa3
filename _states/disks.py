"""State of disks: a file system on a blank one, and never on any other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "disks"

__salt__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]


def __virtual__() -> bool | tuple[bool, str]:
    """Load where the execution module does."""
    if "disks.signs" in __salt__:
        return True
    return False, "disks: the execution module disks is not loaded"


def formatted(name: str, spec: str) -> dict[str, Any]:
    """Have a file system, made on this device if there is none of that name.

    name
        The device, by a name that stays the same: ``/dev/disk/by-id/…``.
    spec
        ``UUID=…`` or ``LABEL=…``. A file system of this name, wherever it is, ends the matter:
        nothing is made.

    Fails, and touches nothing, when the device has any sign of data.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    there = __salt__["disks.find"](spec)
    if there:
        ret["comment"] = f"{spec} is on {', '.join(there)}; nothing is formatted"
        return ret
    against = __salt__["disks.signs"](name)
    if against:
        ret.update(
            result=False,
            comment=f"not formatted: {'; '.join(against)}. Nothing was changed. To use what is on it,"
            " name that file system in nfs.disk and set nfs.format to null; to give it up, wipe the"
            " disk yourself (wipefs --all, then zeros over its first MiB)",
        )
        return ret
    ret["changes"] = {name: {"old": "blank", "new": f"ext4, {spec}"}}
    if __opts__["test"]:
        ret.update(result=None, comment=f"ext4 would be made on {name}, named {spec}")
        return ret
    try:
        __salt__["disks.make_ext4"](name, spec)
    except CommandExecutionError as exc:
        ret.update(result=False, changes={}, comment=str(exc))
        return ret
    ret["comment"] = f"ext4 was made on {name}, named {spec}"
    return ret
