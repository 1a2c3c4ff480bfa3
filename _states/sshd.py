"""What the ssh server of a node should be told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "sshd"

__salt__: dict[str, Callable[..., Any]]
__utils__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]


def hardened(name: str, passwords: bool = False) -> dict[str, Any]:
    """Have the ssh server not wait for name servers, and take keys only.

    name
        Anything.
    passwords
        True: passwords too. They also stay as long as nobody who may become root has a key, for a Pi
        that nobody can log in to has to be opened; the comment says so.
    """
    why_not = __salt__["sshd.why_not"]()
    if why_not:
        return _ret(name, why_not)
    new = __salt__["sshd.wanted"](passwords)
    open_ = not passwords and "PasswordAuthentication" not in new
    note = "; passwords stay, for nobody with sudo has a key here" if open_ else ""
    return _written(name, new, note)


def as_is(name: str) -> dict[str, Any]:
    """Have nothing of ours in the ssh server's settings.

    name
        Anything.
    """
    return _written(name, "", "")


def _ret(name: str, comment: str) -> dict[str, Any]:
    return {"name": name, "result": True, "changes": {}, "comment": comment}


def _written(name: str, new: str, note: str) -> dict[str, Any]:
    old, path = __salt__["sshd.current"](), __salt__["sshd.path"]()
    if new == old:
        return _ret(name, f"{path} is as wanted{note}")
    changes = {"diff": __utils__["conffiles.diff"](old, new)}
    if __opts__["test"]:
        return {**_ret(name, f"{path} would be changed{note}"), "result": None, "changes": changes}
    try:
        __salt__["sshd.write"](new)
    except (CommandExecutionError, OSError) as exc:
        return {**_ret(name, f"{path}: {exc}"), "result": False}
    return {**_ret(name, f"{path} was changed{note}"), "changes": changes}
