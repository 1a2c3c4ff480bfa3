"""The storage node's caches of other registries, as ``mirror.pull_through`` in the pillar names them.

Debian's docker-registry proxies one registry each, so there is one process for each, behind one port.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__virtualname__ = "pull_through"

__salt__: dict[str, Callable[..., Any]]
__utils__: dict[str, Callable[..., Any]]
__pillar__: dict[str, Any]

CONFIGS = Path("/etc/docker/registry/pull-through")
# Of docker.io no registry answers under its own name
_ELSEWHERE = {"docker.io": "https://registry-1.docker.io"}


def hosts() -> list[str]:
    """Return the registries that the storage node keeps images of, by the names that images have.

    CLI Example:

    .. code-block:: bash

        salt 'nfs1' pull_through.hosts
    """
    return list(__pillar__["mirror"]["pull_through"])


def port() -> int:
    """Return the port of the storage node that leads to all of them.

    CLI Example:

    .. code-block:: bash

        salt 'nfs1' pull_through.port
    """
    return int(__utils__["rackspec.pull_through_port"]())


def url() -> str:
    """Return where nodes ask for these images.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' pull_through.url
    """
    return f"http://{__salt__['nfs.storage_node']()['ip']}:{port()}"


def upstreams() -> dict[str, str]:
    """Return ``{host: URL}``: where each image comes from that is not there yet.

    CLI Example:

    .. code-block:: bash

        salt 'nfs1' pull_through.upstreams
    """
    told = __pillar__["mirror"]["upstream"]["registries"] or {}
    return {
        host: told[host]["endpoint"].rstrip("/")
        if host in told
        else _ELSEWHERE.get(host, f"https://{host}")
        for host in hosts()
    }


def left(wanted: Sequence[str] = ()) -> list[str]:
    """Return the registries that this node is still set up for, although they are not wanted.

    wanted
        Those that shall stay.

    CLI Example:

    .. code-block:: bash

        salt 'nfs1' pull_through.left
    """
    return sorted(path.stem for path in CONFIGS.glob("*.yml") if path.stem not in wanted)
