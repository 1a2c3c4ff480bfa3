"""What the Pi's ``config.txt`` should say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "firmware"

__salt__: dict[str, Callable[..., Any]]
__utils__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]


def config_txt(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Have lines in the Pi's ``config.txt``, in a block of their own at its end.

    name
        Anything; the file is found (``firmware.path``).
    values
        ``{name: value or list of values}``; empty: no block.

    They count from the next boot. Nothing is rebooted here: reconcile does that in its turn.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    path = __salt__["firmware.path"]()
    if path is None:
        ret["comment"] = "no config.txt here: this is no Raspberry Pi"
        return ret
    old = __salt__["firmware.current"]()
    new = __utils__["conffiles.config_txt_with"](old, values)
    if new == old:
        ret["comment"] = f"{path} is as wanted"
        return ret
    ret["changes"] = {"diff": __utils__["conffiles.diff"](old, new)}
    if __opts__["test"]:
        ret.update(result=None, comment=f"{path} would be changed, and count from the next boot")
        return ret
    try:
        __salt__["firmware.write"](values)
    except CommandExecutionError as exc:
        ret.update(result=False, changes={}, comment=str(exc))
        return ret
    ret["comment"] = f"{path} was changed; it counts from the next boot"
    return ret
