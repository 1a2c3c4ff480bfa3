"""The node's clock: who keeps it, whether it is right, its time zone.

A Pi has no battery clock. Until its time is right it takes the cluster's certificates for not yet
valid, and its tokens for expired, so :func:`judge` speaks up in the preflight.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "clock"

__salt__: dict[str, Callable[..., Any]]
__utils__: dict[str, Callable[..., Any]]

# Tests point this at a folder of their own.
_ROOT = Path("/")

_DROPIN = "etc/systemd/timesyncd.conf.d/90-saltberry.conf"
_OTHERS = {"chrony": "usr/sbin/chronyd", "ntp": "usr/sbin/ntpd", "openntpd": "usr/sbin/openntpd"}
# A clock that shows less than this (November 2023) has run from nothing since the power came.
_PLAUSIBLE = 1_700_000_000
_ZONES = "usr/share/zoneinfo"


def _at(path: str) -> Path:
    return _ROOT / path.lstrip("/")


def _run(argv: Sequence[str]) -> dict[str, Any]:
    return __salt__["cmd.run_all"](
        list(argv), python_shell=False, ignore_retcode=True, output_loglevel="debug"
    )


def daemon() -> str:
    """Say who keeps this node's clock: ``host``, ``chrony``, ``ntp``, ``openntpd`` or ``timesyncd``.

    ``host`` in a container. ``timesyncd`` unless somebody has installed another one: the packages
    shut each other out, and who chose one has a reason.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' clock.daemon
    """
    if __salt__["node.container"]():
        return "host"
    return next((name for name, path in _OTHERS.items() if _at(path).exists()), "timesyncd")


def battery() -> bool:
    """Say whether the node has a clock that runs on without power, and has been set.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' clock.battery
    """
    for path in sorted(_at("sys/class/rtc").glob("rtc*/since_epoch")):
        try:
            if int(path.read_text().strip()) > _PLAUSIBLE:
                return True
        except (OSError, ValueError):
            continue
    return False


def synchronised() -> bool | None:
    """Say whether the kernel's clock follows a source of time; None where that cannot be told.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' clock.synchronised
    """
    if not shutil.which("timedatectl"):
        return None
    said = _run(["timedatectl", "show", "--property=NTPSynchronized", "--value"])["stdout"].strip()
    return {"yes": True, "no": False}.get(said)


def wait(seconds: int = 30) -> bool:
    """Wait until the clock is synchronised; return whether it is (True where nobody can tell).

    seconds
        How long at most.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' clock.wait 60
    """
    end = time.monotonic() + seconds
    while synchronised() is False:
        if time.monotonic() >= end:
            return False
        time.sleep(1)
    return True


def judge() -> dict[str, str]:
    """Return what keeps this node from joining because of its clock, and what should be known.

    ``{"problem": sentence or "", "warning": sentence or ""}``. An unsynchronised clock is a problem
    on a node without a battery clock, once our settings are in place: before that the states of the
    join are about to write them.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' clock.judge
    """
    quiet = {"problem": "", "warning": ""}
    keeper = daemon()
    if keeper == "host" or synchronised() is not False:
        return quiet
    now = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
    said = (
        f"the clock is not synchronised (it says {now} UTC); if it is wrong the cluster's"
        " certificates will not be accepted"
    )
    settings = __salt__["node.system"]()
    ours = keeper != "timesyncd" or not config_wrong(settings["ntp_servers"])
    if not settings["wait_for_clock"] or battery() or not ours:
        return {**quiet, "warning": said}
    remedy = (
        "; name servers that this network reaches in system.ntp_servers, or set"
        " system.wait_for_clock to false"
    )
    return {**quiet, "problem": said + remedy}


# --- timesyncd ----------------------------------------------------------------------------------


def config(servers: Sequence[str]) -> str:
    """Return timesyncd's settings; empty when it is to ask whom the distribution says.

    servers
        Names or addresses; those that DHCP names count besides.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' clock.config '[192.168.1.10]'
    """
    if not servers:
        return ""
    return f"# Written by Salt, from the pillar's system\n[Time]\nNTP={' '.join(servers)}\n"


def config_wrong(servers: Sequence[str]) -> bool:
    """Say whether timesyncd's settings have to be written, or it is not running.

    servers
        As for :func:`config`.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' clock.config_wrong '[]'
    """
    text = __utils__["conffiles.read"](_at(_DROPIN))
    return text != config(servers) or not running()


def running() -> bool:
    """Say whether timesyncd runs, and will after a boot.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' clock.running
    """
    unit = "systemd-timesyncd.service"
    return not any(_run(["systemctl", ask, "--quiet", unit])["retcode"] for ask in
                   ("is-active", "is-enabled"))  # fmt: skip


def configure(servers: Sequence[str]) -> None:
    """Write timesyncd's settings and have it run with them. Raises CommandExecutionError.

    servers
        As for :func:`config`.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' clock.configure '[192.168.1.10]'
    """
    text = config(servers)
    if text:
        __utils__["conffiles.write"](_at(_DROPIN), text)
    else:
        _at(_DROPIN).unlink(missing_ok=True)
    for verb in ("enable", "restart"):
        ret = _run(["systemctl", verb, "systemd-timesyncd.service"])
        if ret["retcode"]:
            raise CommandExecutionError(f"systemctl {verb} systemd-timesyncd: {ret['stderr']}")


def config_path() -> str:
    """Return the file that :func:`configure` writes.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' clock.config_path
    """
    return f"/{_DROPIN}"


# --- time zone ----------------------------------------------------------------------------------


def timezone() -> str:
    """Return the node's time zone, for instance ``Europe/Berlin``; empty when it has none of its own.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' clock.timezone
    """
    try:
        target = str(_at("etc/localtime").readlink())
    except OSError:
        return ""
    found = re.search(r"zoneinfo/(?:posix/)?(.+)$", target)
    return found.group(1) if found else ""


def timezone_known(name: str) -> bool | None:
    """Say whether the node knows a time zone; None when it has no list of them (no tzdata).

    name
        For instance ``Europe/Berlin``.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' clock.timezone_known Europe/Berlin
    """
    return _at(f"{_ZONES}/{name}").is_file() if _at(_ZONES).is_dir() else None


def set_timezone(name: str) -> None:
    """Give the node a time zone. Raises CommandExecutionError for one that it does not know.

    name
        For instance ``Europe/Berlin``.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' clock.set_timezone Europe/Berlin
    """
    if not timezone_known(name):
        raise CommandExecutionError(
            f"there is no time zone {name!r} in /{_ZONES}; `timedatectl list-timezones` lists them"
        )
    link, spare = _at("etc/localtime"), _at("etc/.localtime.saltberry")
    spare.unlink(missing_ok=True)
    spare.symlink_to(f"/{_ZONES}/{name}")
    spare.replace(link)
    # What Debian's own tools ask, where it is; new ones only have the link
    if _at("etc/timezone").exists():
        __utils__["conffiles.write"](_at("etc/timezone"), f"{name}\n")
