"""The Pi's ``config.txt``, which its firmware reads at boot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "firmware"

__salt__: dict[str, Callable[..., Any]]
__utils__: dict[str, Callable[..., Any]]

# Tests point this at a folder of their own.
_ROOT = Path("/")


def _at(path: str) -> Path:
    return _ROOT / path.lstrip("/")


def path() -> str | None:
    """Return the Pi's ``config.txt``; None where there is none (a PC, a container).

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' firmware.path
    """
    for path_ in ("/boot/firmware/config.txt", "/boot/config.txt"):
        if _at(path_).is_file():
            return path_
    return None


def current() -> str:
    """Return the text of ``config.txt``; empty where there is none.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' firmware.current
    """
    found = path()
    return __utils__["conffiles.read"](_at(found)) if found else ""


def write(values: Mapping[str, Any]) -> None:
    """Put lines into ``config.txt``, and note that the node wants a reboot.

    values
        For instance ``{"gpu_mem": 16, "dtparam": ["spi=on", "i2c_arm=on"]}``. They replace those
        that were put there before; everything else stays.

    Raises CommandExecutionError where there is no such file, or it cannot be written.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' firmware.write '{gpu_mem: 16}'
    """
    found = path()
    if found is None:
        raise CommandExecutionError("there is no config.txt on this node: it is no Raspberry Pi")
    try:
        text = __utils__["conffiles.config_txt_with"](current(), values)
        __utils__["conffiles.write"](_at(found), text)
    except OSError as exc:
        raise CommandExecutionError(f"{found}: {exc}") from exc
    __salt__["node.want_reboot"]("firmware", f"{found} was changed")
