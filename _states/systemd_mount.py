"""Mounts by systemd units, what waits for them, and what may not start without them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "systemd_mount"

__salt__: dict[str, Callable[..., Any]]
__utils__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]


def __virtual__() -> bool | tuple[bool, str]:
    """Load where the execution module does."""
    if "systemd_mount.plan" in __salt__:
        return True
    return False, "systemd_mount: the execution module systemd_mount is not loaded"


def _ret(name: str, comment: str = "") -> dict[str, Any]:
    return {"name": name, "result": True, "changes": {}, "comment": comment}


def mounted(
    name: str, what: str, unit: Mapping[str, Any], must: bool = True, away: str = ""
) -> dict[str, Any]:
    """Have something mounted at a folder, now and at boot.

    name
        The mount point.
    what
        As for mount(8). ``UUID=…`` and ``LABEL=…`` are waited for.
    unit
        The rest of the unit: ``description``, ``fstype``, ``options``, ``needs``, ``wanted_by``,
        ``timeout``; see ``_utils/mount_unit.py``.
    must
        False for what another machine serves: when that is away, the unit stays, something else
        tries again, and the state only warns.
    away
        A sentence, when it is known beforehand that mounting would fail: it is not tried.

    Options that changed count from the next mount. Never mounts over files, nor over another
    mount.
    """
    ret = _ret(name)
    todo = __salt__["systemd_mount.plan"](name, what, **unit)
    if "problems" in todo:
        ret.update(result=False, comment="; ".join(todo["problems"]))
        return ret
    if not todo:
        ret["comment"] = f"{what} is mounted at {name}"
        return ret
    changes = _changes(name, what, todo)
    mounts = "mount" in todo
    if __opts__["test"]:
        later = f"the unit of {name} would be changed; it counts from the next mount"
        comment = f"{what} would be mounted at {name}" if mounts else later
        ret.update(result=None, changes=changes, comment=comment)
        return ret
    try:
        __salt__["systemd_mount.write"](name, todo)
        if mounts and away:
            raise CommandExecutionError(f"{name} is not mounted: {away}")
        if mounts:
            __salt__["systemd_mount.mount"](name)
    except (CommandExecutionError, OSError) as exc:
        changes.pop("mounted", None)
        return _failed({**ret, "changes": changes}, str(exc), must)
    later = f"the unit of {name} was changed; it counts from the next mount"
    ret.update(changes=changes, comment=f"{what} was mounted at {name}" if mounts else later)
    return ret


def _changes(name: str, what: str, todo: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state's changes; the whole text of a unit would hide what matters."""
    changes: dict[str, Any] = {}
    if "mount" in todo:
        changes["mounted"] = {"old": None, "new": f"{what} at {name}"}
    if "file" in todo:
        old = __salt__["systemd_mount.unit_text"](__utils__["mount_unit.name"](name))
        changes["unit"] = __utils__["conffiles.diff"](old, todo["file"])
    if "enable" in todo:
        changes["enabled"] = todo["enable"]
    return changes


def _failed(ret: dict[str, Any], reason: str, must: bool) -> dict[str, Any]:
    """Fill in the return of a mount that did not work, or that is just not served now."""
    if must:
        return {**ret, "result": False, "comment": reason}
    comment = f"{reason}; the node goes on without it and keeps trying"
    return {**ret, "comment": comment, "warnings": [comment]}


def awaited(
    name: str, mounts: Sequence[str], description: str, then: Sequence[str] = ()
) -> dict[str, Any]:
    """Have a service that tries to mount until it works, at every boot, and starts what waited.

    name
        The service, for instance ``saltberry-share.service``.
    mounts
        Mount points that have units.
    description
        What is waited for, for ``systemctl status``.
    then
        Services to start when it has come; only those that are enabled.
    """
    ret = _ret(name)
    text = __utils__["mount_unit.waiter"](description, list(mounts), list(then))
    old = __salt__["systemd_mount.unit_text"](name)
    enabled = __salt__["node.unit_enabled"](name)
    running = __salt__["systemd_mount.is_active"](name)
    changes: dict[str, Any] = {}
    if old != text:
        changes["unit"] = __utils__["conffiles.diff"](old, text)
    if not enabled:
        changes["enabled"] = name
    if not running:
        changes["running"] = name
    if not changes:
        ret["comment"] = f"{name} is in place"
        return ret
    if __opts__["test"]:
        ret.update(result=None, changes=changes, comment=f"{name} would be set up")
        return ret
    try:
        if old != text:
            __salt__["systemd_mount.write_unit"](name, text)
        if not enabled:
            __salt__["node.enable_unit"](name)
        __salt__["systemd_mount.restart"](name)
    except (CommandExecutionError, OSError) as exc:
        ret.update(result=False, comment=str(exc))
        return ret
    ret.update(changes=changes, comment=f"{name} was set up")
    return ret


def unit(name: str, text: str) -> dict[str, Any]:
    """Have a unit file of this content.

    name
        File below ``/etc/systemd/system``.
    text
        Its content. What it changes counts from the unit's next start.
    """
    ret = _ret(name)
    old = __salt__["systemd_mount.unit_text"](name)
    if old == text:
        ret["comment"] = f"{name} is in place"
        return ret
    ret["changes"] = {"diff": __utils__["conffiles.diff"](old, text)}
    if __opts__["test"]:
        ret.update(result=None, comment=f"{name} would be changed")
        return ret
    try:
        __salt__["systemd_mount.write_unit"](name, text)
    except (CommandExecutionError, OSError) as exc:
        ret.update(result=False, changes={}, comment=str(exc))
        return ret
    ret["comment"] = f"{name} was changed"
    return ret


def needed_by(
    name: str, units: Sequence[str], mounts: Sequence[str] | None = None
) -> dict[str, Any]:
    """Have services that never start without a mount.

    name
        The mount point.
    units
        The services, installed or not.
    mounts
        All mount points that they need; default: just ``name``.
    """
    ret = _ret(name)
    text = __utils__["mount_unit.dropin"](list(mounts or [name]))
    dropins = {unit: __salt__["systemd_mount.dropin_of"](unit) for unit in units}
    wrong = {
        unit: dropin
        for unit, dropin in dropins.items()
        if __salt__["systemd_mount.unit_text"](dropin) != text
    }
    if not wrong:
        ret["comment"] = f"{', '.join(units)}: only with {name}"
        return ret
    ret["changes"] = {unit: {"old": None, "new": f"RequiresMountsFor={name}"} for unit in wrong}
    if __opts__["test"]:
        ret.update(result=None, comment=f"would be bound to {name}: {', '.join(wrong)}")
        return ret
    try:
        for dropin in wrong.values():
            __salt__["systemd_mount.write_unit"](dropin, text)
    except (CommandExecutionError, OSError) as exc:
        ret.update(result=False, changes={}, comment=str(exc))
        return ret
    ret["comment"] = f"bound to {name}: {', '.join(wrong)}"
    return ret
