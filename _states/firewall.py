"""What may come in to a node; see the execution module of the same name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "firewall"

__salt__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]


def loaded(name: str) -> dict[str, Any]:
    """Have the pillar's rules in the file and in the kernel.

    name
        Anything.

    Looks at what the kernel has, so a table that was flushed or changed by hand is named, and mended.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        todo = __salt__["firewall.plan"]()
        if todo and not __opts__["test"]:
            __salt__["firewall.load"]()
    except (CommandExecutionError, OSError) as exc:
        return {**ret, "result": False, "comment": str(exc)}
    if not todo:
        return {**ret, "comment": "the rules are in the file and in the kernel"}
    what = " and ".join(todo)
    if __opts__["test"]:
        comment = f"would be set right: {what}"
        return {**ret, "result": None, "changes": todo, "comment": comment}
    return {**ret, "changes": todo, "comment": f"set right: {what}"}


def absent(name: str) -> dict[str, Any]:
    """Have nothing of the firewall; the tables of others stay.

    name
        Anything.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        there = __salt__["firewall.present"]()
        if there and not __opts__["test"]:
            __salt__["firewall.remove"]()
    except (CommandExecutionError, OSError) as exc:
        return {**ret, "result": False, "comment": str(exc)}
    if not there:
        return {**ret, "comment": "there is none"}
    ret["changes"] = {"removed": there}
    if __opts__["test"]:
        return {**ret, "result": None, "comment": f"would be removed: {', '.join(there)}"}
    return {**ret, "comment": f"removed: {', '.join(there)}"}
