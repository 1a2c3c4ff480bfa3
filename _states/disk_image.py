"""State of an image: there, and as large as it may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "disk_image"

__salt__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]


def __virtual__() -> bool | tuple[bool, str]:
    """Load where the execution module does."""
    if "disk_image.plan" in __salt__:
        return True
    return False, "disk_image: the execution module disk_image is not loaded"


def present(name: str, size: str) -> dict[str, Any]:
    """Have a sparse ext4 image that may grow to a size; an existing one is grown, never shrunk.

    Warns when its disk has less room than that.

    name
        The image file. In test mode its folder may still be missing: the share is mounted by an
        earlier state.
    size
        As in the pillar, for instance ``32G``.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    todo = __salt__["disk_image.plan"](name, size)
    problems = todo.get("problems", [])
    if problems and not (__opts__["test"] and problems[0].endswith("is the share mounted?")):
        ret.update(result=False, comment="; ".join(problems))
        return ret
    short = "" if problems else __salt__["disk_image.shortage"](name, size)
    if short:
        ret["warnings"] = [short]
    if not todo:
        ret["comment"] = f"{name} may grow to {size}"
        return ret
    grow = "grow" in todo
    ret["changes"] = {name: {"old": todo.get("from") or None, "new": size}}
    if __opts__["test"]:
        what = f"would be grown to {size}" if grow else f"would be made, {size} at most"
        ret.update(result=None, comment=f"{name} {what}")
        return ret
    try:
        __salt__["disk_image.grow" if grow else "disk_image.create"](name, size)
    except (CommandExecutionError, OSError) as exc:
        ret.update(result=False, changes={}, comment=str(exc))
        return ret
    ret["comment"] = f"{name} was {'grown to' if grow else 'made, at most'} {size}"
    return ret
