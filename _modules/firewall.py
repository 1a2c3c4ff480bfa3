"""The node's firewall: one table of nftables, as the pillar wants it and as the kernel has it.

What is loaded is found out by asking the kernel, never from a mark. To compare, nft itself loads the
wanted rules into a network namespace of their own and lists them: so both sides are in its words, whatever
its version, and rules that it refuses are refused before anything is changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "firewall"

__salt__: dict[str, Callable[..., Any]]
__utils__: dict[str, Callable[..., Any]]
__pillar__: dict[str, Any]
__opts__: dict[str, Any]

# Tests point this at a folder of their own.
_ROOT = Path("/")

_NFT = "usr/sbin/nft"
_RULES = "etc/saltberry/firewall.nft"
_UNIT = "etc/systemd/system/saltberry-firewall.service"
_TABLE = ("inet", "saltberry")
_LIST = f"/{_NFT} --stateless list table {' '.join(_TABLE)}"


def _at(path: str) -> Path:
    return _ROOT / path


def _run(argv: Sequence[str], stdin: str | None = None) -> dict[str, Any]:
    return __salt__["cmd.run_all"](
        list(argv),
        python_shell=False,
        ignore_retcode=True,
        output_loglevel="debug",
        **({} if stdin is None else {"stdin": stdin}),
    )


def _must(argv: Sequence[str], stdin: str | None = None) -> str:
    """Run one program; raise CommandExecutionError with its own words when it fails."""
    ret = _run(argv, stdin)
    if ret["retcode"]:
        said = ret["stderr"] or ret["stdout"] or "no output"
        raise CommandExecutionError(f"{' '.join(argv)} failed ({ret['retcode']}): {said}")
    return str(ret["stdout"])


def settings() -> dict[str, Any]:
    """Return the pillar's ``firewall`` as it is for this node (``nodes.<id>.firewall`` laid over it).

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' firewall.settings
    """
    return __utils__["rackspec.firewall"](__pillar__, __opts__["id"])


def path() -> str:
    """Return the file with the rules.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' firewall.path
    """
    return f"/{_RULES}"


def wanted() -> str:
    """Return the rules that the pillar wants on this node, as text for ``nft -f``.

    The rack's page is let in from where ``page.allow`` lets it be seen.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' firewall.wanted
    """
    mine, kubernetes, page = settings(), __pillar__["kubernetes"], __pillar__["page"]
    ports = list(mine["ports"])
    if page["enabled"] and "master" in __pillar__["node"]["roles"]:
        ports.append({"port": page["port"], "from": page["allow"]})
    return __utils__["nft_rules.rules"](
        rack=[
            __pillar__["rack"]["network"],
            kubernetes["pod_network"],
            kubernetes["service_network"],
        ],
        ssh=mine["allow"],
        ports=ports,
        node_ports=mine["node_ports"],
        interfaces=["docker0"] if __pillar__["docker"]["enabled"] else [],
    )


def live() -> str:
    """Return our table as nft lists it, without its counters; empty if the kernel has none.

    Raises CommandExecutionError when nft cannot say.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' firewall.live
    """
    if not _at(_NFT).exists():
        return ""
    ret = _run(_LIST.split())
    if ret["retcode"] == 0:
        return str(ret["stdout"])
    # That there is none and that nft can tell nothing end with the same code
    if f"table {' '.join(_TABLE)}" in _must([f"/{_NFT}", "list", "tables"]).splitlines():
        raise CommandExecutionError(f"{_LIST} failed: {ret['stderr'] or ret['stdout']}")
    return ""


def listed(text: str) -> str:
    """Return rules as nft would list them once they are loaded; nothing is changed.

    text
        As :func:`wanted`.

    Raises CommandExecutionError with nft's words when it refuses them.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' firewall.listed "$(cat /etc/saltberry/firewall.nft)"
    """
    return _must(["unshare", "--net", "/bin/sh", "-c", f"/{_NFT} -f - && {_LIST}"], stdin=text)


def plan() -> dict[str, str]:
    """Return what is not as :func:`wanted`: ``{"file": diff, "table": diff}``, empty if nothing.

    Raises CommandExecutionError when nft refuses the rules, or cannot say what there is.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' firewall.plan
    """
    text, diff = wanted(), __utils__["conffiles.diff"]
    found = {}
    old = __utils__["conffiles.read"](_at(_RULES))
    if old != text:
        found["file"] = diff(old, text)
    if not _at(_NFT).exists():
        return {**found, "table": "none yet: nft is not installed"}
    have, want = live(), listed(text)
    if have != want:
        found["table"] = diff(have, want)
    return found


def load() -> None:
    """Write the rules and have the kernel take them, in one transaction; other tables stay as they are.

    Raises CommandExecutionError when nft refuses them; all is as before then.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' firewall.load
    """
    text = wanted()
    listed(text)
    __utils__["conffiles.write"](_at(_RULES), text)
    _must([f"/{_NFT}", "-f", f"/{_RULES}"])


def present() -> list[str]:
    """Return what of the firewall is on this node: its table, its files.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' firewall.present
    """
    files = [f"/{path}" for path in (_RULES, _UNIT) if _at(path).exists()]
    return [*([f"table {' '.join(_TABLE)}"] if live() else []), *files]


def remove() -> None:
    """Take our table, its file and its unit away, and nothing else. Raises CommandExecutionError.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' firewall.remove
    """
    if _at(_UNIT).exists():
        _must(["systemctl", "disable", "--now", Path(_UNIT).name])
    if live():
        _must([f"/{_NFT}", "delete", "table", *_TABLE])
    for path in (_RULES, _UNIT):
        _at(path).unlink(missing_ok=True)
    # Others may keep something there
    with contextlib.suppress(OSError):
        _at(_RULES).parent.rmdir()
    _must(["systemctl", "daemon-reload"])
