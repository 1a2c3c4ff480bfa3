"""The pod network that a cluster was made with; see the execution module of the same name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "cni"

__salt__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]


def chosen(name: str) -> dict[str, Any]:
    """Have nothing on this node that speaks against this pod network.

    name
        ``flannel`` or ``routed``.

    A member of a cluster with another one is refused with the reason; test mode says so, too. On a node
    that is in no cluster, what an earlier life left of flannel goes (for ``routed`` see its own state).
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        why = __salt__["cni.refusal"](name)
    except CommandExecutionError as exc:
        why = str(exc)
    if why:
        return {**ret, "result": False, "comment": why}
    return absent(name)


def absent(name: str) -> dict[str, Any]:
    """Have nothing of flannel on a node that is in no cluster.

    name
        Anything.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": "nothing to do"}
    there = __salt__["cni.leftovers"]()
    if not there:
        return ret
    ret["changes"] = {"removed": there}
    if __opts__["test"]:
        return {**ret, "result": None, "comment": f"would be removed: {', '.join(there)}"}
    try:
        __salt__["cni.remove_leftovers"]()
    except OSError as exc:
        return {**ret, "result": False, "changes": {}, "comment": str(exc)}
    return {**ret, "comment": f"removed: {', '.join(there)}"}


def here(name: str, timeout: float = 240) -> dict[str, Any]:
    """Have flannel's pod on this very node configure it.

    name
        Anything.
    timeout
        Seconds at most.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    if not __salt__["manifests.is_here"]():
        why = "there is no cluster here yet"
        return {**ret, "result": None if __opts__["test"] else False, "comment": why}
    try:
        why = __salt__["cni.wait"](0 if __opts__["test"] else timeout)
    except CommandExecutionError as exc:
        return {**ret, "result": False, "comment": str(exc)}
    if not why:
        return {**ret, "comment": f"{name} has configured this node"}
    if __opts__["test"]:
        return {**ret, "result": None, "comment": f"{name} would be waited for: {why}"}
    return {**ret, "result": False, "comment": f"{name} is not here after {timeout:.0f} s: {why}"}
