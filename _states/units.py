"""Units of systemd that should not run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

__virtualname__ = "units"

__salt__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]


def dead(name: str, ours: str = "") -> dict[str, Any]:
    """Have a unit stopped, and not started at boot, if the node has it at all.

    name
        The unit; without a suffix a service.
    ours
        A file that is only there when Saltberry set the unit up: without it, the unit is somebody
        else's and left alone. Empty: the unit can only be ours.

    Salt's own ``service.dead`` answers None in test mode for a unit that the node has not, which a drift
    check counts; and an ``onlyif`` before it loads every module of Salt (issue 68606).
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    if not __salt__["service.available"](name):
        return {**ret, "comment": f"there is no {name}"}
    if ours and not Path(ours).exists():
        return {**ret, "comment": f"{name} is not ours: there is no {ours}"}
    todo = {}
    if __salt__["service.status"](name):
        todo["stop"] = "stopped"
    if __salt__["service.enabled"](name):
        todo["disable"] = "disabled"
    if not todo:
        return {**ret, "comment": f"{name} is stopped and disabled"}
    done = " and ".join(todo.values())
    changes = {name: done}
    if __opts__["test"]:
        return {**ret, "result": None, "changes": changes, "comment": f"{name} would be {done}"}
    for function, participle in todo.items():
        if not __salt__[f"service.{function}"](name):
            return {**ret, "result": False, "comment": f"{name} could not be {participle}"}
    return {**ret, "changes": changes, "comment": f"{name} is {done}"}
