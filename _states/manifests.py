"""A service of the cluster: its objects on the API server. Only for the control plane."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "manifests"

__salt__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]
__pillar__: dict[str, Any]


def applied(
    name: str, source: str, values: Mapping[str, Any] | None = None, timeout: float = 300
) -> dict[str, Any]:
    """Have the objects of a file on the API server, and their pods available.

    name
        The service: all its objects have it as a label, and those that are not in the file go, but what
        holds data.
    source
        ``salt://…``, manifests with Jinja.
    values
        For Jinja.
    timeout
        Seconds to wait for the pods; 0: not at all. With the pillar key ``manifests_wait: false``, which
        reconcile gives, nobody waits: while it does, the routes of nodes that come have to wait as well.

    Test mode is the API server's dry run. Where there is no cluster yet, it says what will be.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    timeout = timeout if __pillar__.get("manifests_wait", True) else 0
    try:
        objects = __salt__["manifests.read"](source, name, **(values or {}))
        if not __salt__["manifests.is_here"]():
            return _not_yet(ret, len(objects))
        if __opts__["test"]:
            return _told(ret, __salt__["manifests.plan"](name, objects))
        changes = __salt__["manifests.apply"](name, objects)
        if timeout and not __salt__["manifests.has_room"]():
            comment = "no node takes pods yet: the objects are there, the pods come with a worker"
            return {**ret, "changes": changes, "comment": comment}
        missing = __salt__["manifests.wait"](name, timeout) if timeout else {}
    except CommandExecutionError as exc:
        return {**ret, "result": False, "comment": str(exc)}
    if missing:
        why = "\n".join(f"{key}: {reason}" for key, reason in sorted(missing.items()))
        comment = f"not available after {timeout:.0f} s:\n{why}"
        return {**ret, "result": False, "changes": changes, "comment": comment}
    comment = (
        f"{len(changes)} objects set right" if changes else "all objects are as they should be"
    )
    return {**ret, "changes": changes, "comment": comment}


def absent(name: str) -> dict[str, Any]:
    """Have none of the service's objects, but those that hold data.

    name
        The service.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": "there are none"}
    try:
        if not __salt__["manifests.is_here"]():
            return ret
        there = __salt__["manifests.remove"](name, test=__opts__["test"])
    except CommandExecutionError as exc:
        return {**ret, "result": False, "comment": str(exc)}
    kept = sorted(key for key, what in there.items() if what == "kept")
    gone = {key: what for key, what in there.items() if what == "gone"}
    left = f"; with its data stay: {', '.join(kept)}" if kept else ""
    if not gone:
        return {**ret, "comment": f"there are none{left}"}
    if __opts__["test"]:
        comment = f"{len(gone)} objects would be deleted{left}"
        return {**ret, "result": None, "changes": gone, "comment": comment}
    return {**ret, "changes": gone, "comment": f"{len(gone)} objects deleted{left}"}


def _not_yet(ret: dict[str, Any], count: int) -> dict[str, Any]:
    why = "there is no cluster here yet"
    if __opts__["test"]:
        return {**ret, "result": None, "comment": f"{why}; {count} objects would be applied"}
    return {**ret, "result": False, "comment": f"{why}; apply again when it is there"}


def _told(ret: dict[str, Any], todo: dict[str, str]) -> dict[str, Any]:
    if not todo:
        return {**ret, "comment": "all objects are as they should be"}
    return {
        **ret, "result": None, "changes": todo, "comment": f"{len(todo)} objects would be set right"
    }  # fmt: skip
