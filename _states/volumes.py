"""PersistentVolumes that are there for the claims that the pillar names. Only for the control plane."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "volumes"

__salt__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]


def claimable(name: str) -> dict[str, Any]:
    """Have the reserved volumes open to their claims, also after these were deleted and made again.

    name
        Any.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        closed = __salt__["volumes.released"]()
        if not closed:
            return {**ret, "comment": "no reserved volume waits for a claim of the past"}
        ret["changes"] = dict.fromkeys(closed, "open to its claim again")
        if __opts__["test"]:
            comment = f"{', '.join(closed)} would be opened to their claims again"
            return {**ret, "result": None, "comment": comment}
        for each in closed:
            __salt__["volumes.open_again"](each)
    except CommandExecutionError as exc:
        return {**ret, "result": False, "changes": {}, "comment": str(exc)}
    return {**ret, "comment": f"{', '.join(closed)}: open to their claims again"}
