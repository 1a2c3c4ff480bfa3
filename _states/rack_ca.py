"""The rack's own certificate authority; see the execution module of the same name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "rack_ca"

__salt__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]


def present(name: str) -> dict[str, Any]:
    """Have the rack's authority in the cluster, with a ClusterIssuer that signs with it.

    name
        Anything.

    One that is there is never replaced: what it has signed would be worth nothing any more. Where it is not
    what the pillar says, the state fails with the way out.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        if not __salt__["manifests.is_here"]():
            why = "there is no cluster here yet"
            return {**ret, "result": None if __opts__["test"] else False, "comment": why}
        problem = __salt__["rack_ca.problem"]()
        if problem:
            return {**ret, "result": False, "comment": problem}
        changes = __salt__["rack_ca.plan" if __opts__["test"] else "rack_ca.apply"]()
    except CommandExecutionError as exc:
        return {**ret, "result": False, "comment": str(exc)}
    if not changes:
        return {**ret, "comment": "the rack's authority is there, and signs"}
    if __opts__["test"]:
        comment = "the rack's authority would be set up"
        return {**ret, "result": None, "changes": changes, "comment": comment}
    return {**ret, "changes": changes, "comment": "the rack's authority is set up"}
