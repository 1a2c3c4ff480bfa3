"""The rack's own registry of images, as ``services.registry`` in the pillar describes it.

Its data is a volume of ``services.storage``. On every node that runs pods ``localhost:<port>`` leads to it;
for other machines there is TLS on a NodePort, whose certificate, key and passwords are in a Secret that a
person makes: they never pass through the pillar, which each node may read.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "rack_registry"

__salt__: dict[str, Callable[..., Any]]
__utils__: dict[str, Callable[..., Any]]
__pillar__: dict[str, Any]

ADMIN_CONF = Path("/etc/kubernetes/admin.conf")
NAMESPACE = "registry"
SECRET = "lan"


def _settings() -> dict[str, Any]:
    found: dict[str, Any] = __pillar__["services"]["registry"]
    return found


def address() -> str:
    """Return the registry's address among the services of the cluster.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' rack_registry.address
    """
    return str(__utils__["rackspec.registry_address"](__pillar__))


def values() -> dict[str, Any]:
    """Return what the registry's manifests take.

    ``lan`` is null as long as the Secret with its certificate is not there: the rack's own nodes get their
    registry all the same. ``secret`` changes with it, so that a new certificate reaches the pod.

    CLI Example:

    .. code-block:: bash

        salt 'cp1' rack_registry.values
    """
    registry = _settings()
    lan = registry["lan"] if registry["lan"]["enabled"] and not lan_lacks() else None
    secret = (_secret() if lan else None) or {"metadata": {}}
    return {
        "image": registry["image"],
        "volume": registry["volume"],
        "owner": __salt__["volumes.owner"](registry["volume"]),
        "address": address(),
        "untagged": registry["collect_untagged"],
        "lan": lan,
        "secret": secret["metadata"].get("resourceVersion", ""),
    }


def lan_lacks() -> list[str]:
    """Return which of :func:`lan_files` the Secret for the LAN lacks.

    Empty where nothing is asked for, and where there is no cluster yet.

    CLI Example:

    .. code-block:: bash

        salt 'cp1' rack_registry.lan_lacks
    """
    there = _secret() if _settings()["lan"]["enabled"] else None
    if there is None:
        return []
    content = there.get("data") or {}
    return [key for key in lan_files() if not content.get(key)]


def lan_files() -> list[str]:
    """Return what has to be in the Secret for the LAN.

    CLI Example:

    .. code-block:: bash

        salt 'cp1' rack_registry.lan_files
    """
    return ["tls.crt", "tls.key", *(["htpasswd"] if _settings()["lan"]["password"] else [])]


def _secret() -> dict[str, Any] | None:
    """The Secret for the LAN, empty if there is none; None without a cluster.

    Its content is looked at here and goes nowhere.
    """
    if not ADMIN_CONF.is_file():
        return None
    done = __utils__["kube_programs.kubectl"](
        "get", "secret", SECRET, f"--namespace={NAMESPACE}", "--ignore-not-found", "-o", "json",
        kubeconfig=ADMIN_CONF,
    )  # fmt: skip
    if done.returncode:
        said = __utils__["kube_programs.last_lines"](done.stderr, 2)
        raise CommandExecutionError(f"kubectl get secret failed: {said}")
    found: dict[str, Any] = json.loads(done.stdout) if done.stdout.strip() else {"metadata": {}}
    return found
