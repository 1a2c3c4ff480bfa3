"""State of the pods' data: on another disk, and seen at its old place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "pod_data"

__salt__: dict[str, Callable[..., Any]]
__utils__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]


def bound(name: str, source: str, target: str, drained: bool = False) -> dict[str, Any]:
    """Have a folder of kubelet's on another disk.

    name
        The folder, for instance ``/var/lib/kubelet/pods``.
    source
        Where its content is, for instance ``/srv/containers/kubelet-pods``.
    target
        The disk, as ``container_storage.managed`` has it: what the master is asked for.
    drained
        The node may be stopped. A member of a cluster that has pods here and is not drained only
        asks the master, as for the engines' data.

    A folder that is on another disk of ours, of another backend, moves from there. What a person has
    mounted stays, and is told.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    if __salt__["systemd_mount.mounted_from"](name, source):
        ret["comment"] = f"{name} is on {source}"
        return ret
    elsewhere = __salt__["systemd_mount.mounted"](name) is not None
    ours = __salt__["systemd_mount.unit_text"](__utils__["mount_unit.name"](name)) != ""
    full = elsewhere or __salt__["systemd_mount.hidden_file"](name) is not None
    if full and __salt__["node.is_member"]() and not drained:
        return _asked(ret, target)
    unit = {"description": f"Pod data: {name}", "fstype": "none", "options": ["bind", "nofail"]}
    todo = __salt__["systemd_mount.plan"](name, source, **unit)
    if "problems" in todo and not (ours if elsewhere else full):
        ret.update(result=False, comment="; ".join(todo["problems"]))
        return ret
    old = "another disk" if elsewhere else "the system's disk"
    ret["changes"] = {name: {"old": old, "new": source}}
    if __opts__["test"]:
        ret.update(result=None, comment=f"{name} would be moved to {source}")
        return ret
    try:
        _bind(name, source, unit, full)
    except (CommandExecutionError, OSError) as exc:
        ret.update(result=False, changes={}, comment=str(exc))
        return ret
    ret["comment"] = f"{name} was moved to {source}"
    return ret


def _asked(ret: dict[str, Any], target: str) -> dict[str, Any]:
    comment = "pods are on this node: the master drains it first, one node at a time"
    if __opts__["test"]:
        ret.update(result=None, comment=f"would be asked for: {comment}")
        return ret
    __salt__["container_storage.want"](target)
    ret["comment"] = f"asked for: {comment}"
    return ret


def _bind(name: str, source: str, unit: dict[str, Any], full: bool) -> None:
    ran = __salt__["pod_data.end_pods"]() if full else False
    try:
        __salt__["file.makedirs_perms"](source, mode="0750")
        if full:
            __salt__["pod_data.move"](name, source)
            __salt__["systemd_mount.unmount"](name)
        __salt__["systemd_mount.write"](name, __salt__["systemd_mount.plan"](name, source, **unit))
        __salt__["systemd_mount.mount"](name)
    finally:
        if ran:
            __salt__["pod_data.start_pods"]()
