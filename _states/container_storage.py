"""State of where container data is; see the execution module of the same name."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "container_storage"

__salt__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]

# A move that fails costs a stop of the engines; a highstate does not repeat that at once.
_RETRY_SECONDS = 3600


def __virtual__() -> bool | tuple[bool, str]:
    """Load where the execution module does."""
    if "container_storage.migrate" in __salt__:
        return True
    return False, "container_storage: the execution module container_storage is not loaded"


def managed(  # noqa: PLR0917
    name: str,
    engines: Sequence[str] | None = None,
    margin: float = 0.1,
    purge_old: bool = False,
    drained: bool = False,
    retry_after: int = _RETRY_SECONDS,
) -> dict[str, Any]:
    """Have docker's and containerd's data below a folder, moving it there if it is elsewhere.

    name
        A folder on a mounted disk (``/srv/containers``), or ``local`` for the engines' own folders.
    engines
        ``[docker]``, ``[containerd]`` or None for all that are installed.
    margin
        Room to spare at the target, as a part of the data's size.
    purge_old
        Delete the old folders once the engines run on the new ones.
    drained
        The node may be stopped: it is in no cluster, or drained. A member of a cluster that is not
        drained only writes down what is wanted, and the master moves it, one node at a time.
    retry_after
        Seconds before a move that failed is tried again; 0 tries at once.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        left = __salt__["container_storage.unfinished"]()
        moves = __salt__["container_storage.pending"](name, engines)
        if not moves and left is None:
            return _arrived(ret, name, engines, purge_old)
        ret["changes"] = {engine: {"old": move["from"], "new": move["to"]}
                          for engine, move in moves.items()}  # fmt: skip
        if left is not None:
            ret["changes"]["unfinished move"] = {"old": left["phase"], "new": "finished"}
        elif refusal := _failed_before(name, retry_after):
            ret.update(result=False, changes={}, comment=refusal)
            return ret
        asks = __salt__["container_storage.is_member"]() and not drained and left is None
        if __opts__["test"]:
            ret = _told(ret, name, engines, margin, left)
            if asks and ret["changes"]:
                ret["comment"] += f"\nwould be asked for: {_MASTERS}"
            return ret
        if asks:
            return _ask_master(ret, name, engines, margin)
        done = __salt__["container_storage.migrate"](name, engines, margin)
        __salt__["container_storage.satisfied"]()
    except CommandExecutionError as exc:
        ret.update(result=None if __opts__["test"] else False, changes={}, comment=str(exc))
        return ret
    ret["comment"] = f"{done['message']} (the engines were down for {done['downtime']} s)"
    return _purged(ret) if purge_old else ret


def _arrived(
    ret: dict[str, Any], name: str, engines: Sequence[str] | None, purge_old: bool
) -> dict[str, Any]:
    """Fill in the return of a node with nothing to move."""
    if not __salt__["container_storage.roots"]():
        # In test mode an engine may be about to be installed. It begins at its own folder, so for
        # `local` there will be nothing to do.
        ret["result"] = (True if name == "local" else None) if __opts__["test"] else False
        ret["comment"] = ("neither docker nor containerd is installed on this node: there is nothing "
                          "to move yet")  # fmt: skip
        return ret
    if __salt__["container_storage.wanted"]() and not __opts__["test"]:
        __salt__["container_storage.satisfied"]()
    ret["comment"] = f"container data is at {name}"
    return _purged(ret) if purge_old else ret


def _failed_before(name: str, retry_after: int) -> str:
    """Return why a move that failed is not tried again yet; empty when it may be."""
    end = __salt__["container_storage.last"]()
    if not end or end["ok"] or end["target"] != name:
        return ""
    left = retry_after - (time.time() - end["at"])
    if left <= 0:
        return ""
    return (
        f"the last move to {name} was undone: {end['error']}\nIt is tried again in {left / 60:.0f} "
        f"minutes, or at once with container_storage.migrate {name}"
    )


_MASTERS = "the master drains this node, moves its data and uncordons it, one node at a time"


def _ask_master(
    ret: dict[str, Any], name: str, engines: Sequence[str] | None, margin: float
) -> dict[str, Any]:
    """A member of a cluster waits for the master, which drains it first.

    Not for a move that cannot be done: the pods would leave for nothing, again and again.
    """
    wanted = __salt__["container_storage.wanted"]()
    problems = __salt__["container_storage.plan"](name, engines, margin)["problems"]
    if problems:
        if wanted:
            __salt__["container_storage.satisfied"]()
        ret.update(result=False, changes={}, comment="\n".join(problems))
        return ret
    already = (wanted or {}).get("target") == name
    __salt__["container_storage.want"](name, engines)
    ret.update(changes={} if already else {"wanted": {"old": None, "new": name}},
               comment=f"asked for: {_MASTERS}")  # fmt: skip
    return ret


def _told(
    ret: dict[str, Any],
    name: str,
    engines: Sequence[str] | None,
    margin: float,
    left: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Fill in what a move would do."""
    ret["result"] = None
    if left is not None:
        ret["comment"] = (f"the move to {left['target']} that was cut off ({left['phase']}) would be "
                          "finished or undone first")  # fmt: skip
        return ret
    plan = __salt__["container_storage.plan"](name, engines, margin)
    room = f"where {plan['free_bytes'] or 0:,} bytes are free"
    if plan["problems"] and name != "local" and not os.path.ismount(name):
        # A state before this one may be about to mount it.
        room = f"once it is mounted (now: {'; '.join(plan['problems'])})"
        plan = __salt__["container_storage.plan"](name, engines, margin, mounted=False)
    if plan["problems"]:
        ret.update(changes={}, comment="would be refused: " + "\n".join(plan["problems"]))
        return ret
    running = ", ".join(plan["running_containers"]) or "none"
    lines = [
        f"{plan['bytes']:,} bytes in {plan['files']:,} files would be moved to {name}, {room}",
        f"would be stopped for the last of it: {', '.join(plan['services']) or 'nothing'}",
        f"running containers that this stops for a moment: {running}",
        *plan["warnings"],
    ]
    ret["comment"] = "\n".join(lines)
    return ret


def purged(name: str) -> dict[str, Any]:
    """Have no old folders left from moves.

    name
        Anything.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    return _purged(ret)


def _purged(ret: dict[str, Any]) -> dict[str, Any]:
    """Delete the old folders, or say that they would be."""
    try:
        old = __salt__["container_storage.status"]()["old_roots"]
        if not old:
            ret["comment"] = f"{ret['comment']}; no old folders are left".lstrip("; ")
            return ret
        paths = [entry["path"] for entry in old]
        size = sum(entry["bytes"] for entry in old)
        problems = __salt__["container_storage.purge_problems"]()
        if problems:
            ret["result"] = None if __opts__["test"] else False
            ret["comment"] = f"{ret['comment']}\n".lstrip() + "\n".join(problems)
            return ret
        ret["changes"]["purged"] = {"old": paths, "new": None}
        if __opts__["test"]:
            ret["result"] = None
            ret["comment"] = f"{ret['comment']}\n".lstrip() + (
                f"would be deleted: {', '.join(paths)} ({size:,} bytes)"
            )
            return ret
        __salt__["container_storage.purge"]()
    except CommandExecutionError as exc:
        ret.update(result=False, comment=f"{ret['comment']}\n{exc}".strip())
        return ret
    ret["comment"] = f"{ret['comment']}\ndeleted: {', '.join(paths)} ({size:,} bytes)".strip()
    return ret
