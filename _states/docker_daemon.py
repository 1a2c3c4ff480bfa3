"""State of docker's own settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__virtualname__ = "docker_daemon"

__utils__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]


def configured(name: str, log_max_size: str, log_max_file: int) -> dict[str, Any]:
    """Have the logs of containers rotated; every other setting stays as it is.

    name
        The file, ``/etc/docker/daemon.json``.
    log_max_size
        Size at which a log is rotated, for instance ``10m``.
    log_max_file
        How many are kept.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    old = __utils__["conffiles.read"](name)
    try:
        new = __utils__["daemon_json.with_log_limits"](old, log_max_size, log_max_file)
    except ValueError as exc:
        ret.update(result=False, comment=f"{name} {exc}")
        return ret
    if new == old:
        ret["comment"] = f"{name} is as wanted"
        return ret
    ret["changes"] = {"diff": __utils__["conffiles.diff"](old, new)}
    if __opts__["test"]:
        ret.update(result=None, comment=f"{name} would be changed")
        return ret
    try:
        __utils__["conffiles.write"](name, new)
    except OSError as exc:
        ret.update(result=False, changes={}, comment=f"{name} cannot be written: {exc.strerror}")
        return ret
    ret["comment"] = f"{name} was changed"
    return ret
