"""What the rack's registry needs of a person. Only for the control plane."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "rack_registry"

__salt__: dict[str, Callable[..., Any]]


def lan_certified(name: str) -> dict[str, Any]:
    """Have certificate, key and passwords for the registry's door to the LAN; nobody but you can make them.

    name
        Any.

    Fails with what is missing and how to make it; the door stays shut until then.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        missing = __salt__["rack_registry.lan_lacks"]()
    except CommandExecutionError as exc:
        return {**ret, "result": False, "comment": str(exc)}
    if not missing:
        return {**ret, "comment": "nothing is missing"}
    files = " ".join(f"--from-file={key}" for key in __salt__["rack_registry.lan_files"]())
    return {
        **ret,
        "result": False,
        "comment": f"services.registry.lan: the Secret lan lacks {', '.join(missing)}, so other machines"
        " cannot use the registry yet; make it (anew) and apply again: kubectl -n registry create secret"
        f" generic lan {files} (docs/services.md has all commands)",
    }
