"""What a node's clock should be like: its time zone, and who it follows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "clock"

__salt__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]

# A first answer takes some seconds; a join that starts meanwhile would fail for nothing.
_PATIENCE = 30


def timezone(name: str) -> dict[str, Any]:
    """Have the node in a time zone.

    name
        For instance ``Europe/Berlin``. One that the node's list of zones lacks is refused: it would
        silently be UTC.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    have, known = __salt__["clock.timezone"](), __salt__["clock.timezone_known"](name)
    if have == name:
        ret["comment"] = f"the time zone is {name}"
        return ret
    if known is False:
        remedy = "write one that `timedatectl list-timezones` has"
        ret.update(result=False, comment=f"system.timezone: there is no {name!r}; {remedy}")
        return ret
    changes = {"timezone": {"old": have, "new": name}}
    if __opts__["test"]:
        ret.update(result=None, changes=changes, comment=f"the time zone would be {name}")
        return ret
    try:
        __salt__["clock.set_timezone"](name)
    except (CommandExecutionError, OSError) as exc:
        ret.update(result=False, comment=str(exc))
        return ret
    ret.update(changes=changes, comment=f"the time zone is {name} now")
    return ret


def followed(name: str, servers: Sequence[str]) -> dict[str, Any]:
    """Have the clock follow a source of time, by systemd-timesyncd.

    name
        Anything.
    servers
        Whom to ask; empty: whom the distribution says.

    In a container the clock is the host's, and with chrony or ntpd it is theirs: nothing is done. A
    clock that has no source yet fails nothing here; a join waits for it (``clock.judge``).
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    keeper = __salt__["clock.daemon"]()
    if keeper != "timesyncd":
        ret["comment"] = f"the clock is kept by: {keeper}"
        return ret
    if not __salt__["clock.config_wrong"](servers):
        ret["comment"] = "systemd-timesyncd runs as wanted"
        return ret
    whom = ", ".join(servers) or "the distribution's servers"
    changes = {__salt__["clock.config_path"](): f"follow {whom}"}
    if __opts__["test"]:
        ret.update(result=None, changes=changes, comment=f"the clock would follow {whom}")
        return ret
    try:
        __salt__["clock.configure"](servers)
    except (CommandExecutionError, OSError) as exc:
        ret.update(result=False, comment=str(exc))
        return ret
    there = __salt__["clock.wait"](_PATIENCE)
    late = "" if there else f"; no answer within {_PATIENCE} seconds"
    ret.update(changes=changes, comment=f"the clock follows {whom}{late}")
    return ret
