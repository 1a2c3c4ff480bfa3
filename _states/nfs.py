"""States of the share: the exports, which the NFS server reads again, and whether it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "nfs"

__salt__: dict[str, Callable[..., Any]]
__utils__: dict[str, Callable[..., Any]]
__states__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]


def exported(name: str) -> dict[str, Any]:
    """Have the folders of the share exported as the pillar says, and nothing else from this file.

    name
        The exports file, below ``/etc/exports.d``.

    A server that is not running reads it when it starts.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        text = __salt__["nfs.exports"]()
    except CommandExecutionError as exc:
        ret.update(result=False, comment=str(exc))
        return ret
    old = __utils__["conffiles.read"](name)
    if old != text:
        ret["changes"] = {"diff": __utils__["conffiles.diff"](old, text)}
        would, done = f"{name} would be changed", f"{name} was changed"
    elif missing := __salt__["nfs.not_served"]():
        ret["changes"] = {"served": dict.fromkeys(missing, "again")}
        what = f"{len(missing)} exports, taken back by hand,"
        would, done = f"{what} would be served again", f"{what} are served again"
    else:
        ret["comment"] = "the exports are as wanted"
        return ret
    if __opts__["test"]:
        ret.update(result=None, comment=would)
        return ret
    try:
        if old != text:
            __utils__["conffiles.write"](name, text)
        if __salt__["nfs.server_running"]():
            __salt__["nfs.export"]()
    except (CommandExecutionError, OSError) as exc:
        ret.update(result=False, comment=str(exc))
        return ret
    ret["comment"] = done
    return ret


def mounted(name: str, what: str, unit: Mapping[str, Any]) -> dict[str, Any]:
    """Have a folder of the share mounted; when the storage node is away, be ready for its return.

    name, what, unit
        As for ``systemd_mount.mounted``. A server that does not answer is a warning: the node goes
        on, and ``saltberry-share.service`` goes on trying. Nobody waits here for a timeout.
    """
    away = ""
    if not __opts__["test"] and __salt__["systemd_mount.mounted"](name) is None:
        away = "" if __salt__["nfs.answers"]() else _away()
    return __states__["systemd_mount.mounted"](name, what, unit, must=False, away=away)


def _away() -> str:
    node = __salt__["nfs.storage_node"]()
    return f"the storage node {node['id']} ({node['ip']}) does not answer on port 2049"


def answering(name: str) -> dict[str, Any]:
    """Have the storage node's NFS server answer, before anything touches what is on the share.

    name
        Where the share is mounted here. A program that touches it while the server is away waits
        until it is back, and so would the states that follow.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    if __salt__["nfs.why_not"]("client") or __salt__["nfs.answers"]():
        ret["comment"] = "the share can be used"
        return ret
    comment = f"{_away()}; what is on the share waits for it, and goes on when it is back"
    there = __salt__["systemd_mount.mounted"](name) is not None
    # On a blank node the test run may well come before the storage node has its server.
    ret.update(result=None if __opts__["test"] and not there else False, comment=comment)
    return ret
