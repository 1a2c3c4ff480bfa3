"""What a node's kubelet is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "kubelet"

__salt__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]


def configured(name: str) -> dict[str, Any]:
    """Have kubelet's configuration and flags as the cluster and the pillar say.

    name
        Anything; the files and what should be in them are found (``kubelet.differs``).

    On a member kubelet is restarted when something changed; pods go on meanwhile.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        found = __salt__["kubelet.differs"]()
        note = f"; {found['note']}" if found["note"] else ""
        if not found["files"]:
            if found["asked"] and not __opts__["test"]:
                __salt__["kubelet.remember"]()
            return {**ret, "comment": f"kubelet is told what it should be{note}"}
        # One text for all: each line of a diff is looked at for secrets, and shown to people.
        changes = {
            "diff": "\n".join(f"{path}:\n{file['diff']}" for path, file in found["files"].items())
        }
        names = ", ".join(found["files"])
        if __opts__["test"]:
            comment = f"{names} would be changed{note}"
            return {**ret, "result": None, "changes": changes, "comment": comment}
        __salt__["kubelet.configure"]()
    except (CommandExecutionError, OSError) as exc:
        return {**ret, "result": False, "comment": str(exc)}
    return {**ret, "changes": changes, "comment": f"{names} changed{note}"}
