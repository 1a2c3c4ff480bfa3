"""What the ingress takes from the pillar: where it answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__virtualname__ = "ingress"

__pillar__: dict[str, Any]


def values() -> dict[str, Any]:
    """Return what the manifests of ``services.ingress`` are rendered with.

    ``image``; ``addresses``, those for the load balancer, none without one; ``only`` and ``never``, the host
    names of nodes on which it runs, and does not.

    CLI Example:

    .. code-block:: bash

        salt cp1 ingress.values
    """
    settings: Mapping[str, Any] = __pillar__["services"]["ingress"]
    balanced = settings["load_balancer"] == "metallb"
    return {
        "image": settings["image"],
        "addresses": [_as_range(each) for each in settings["addresses"]] if balanced else [],
        "only": list(settings["nodes"]),
        "never": [] if balanced or settings["nodes"] else _with_port_80(),
    }


def _as_range(address: str) -> str:
    """MetalLB takes ranges and networks, but no single address."""
    return address if "-" in address or "/" in address else f"{address}/32"


def _with_port_80() -> list[str]:
    """The nodes on which something of the rack answers on port 80 or 443 already."""
    mirror = (__pillar__.get("mirror") or {}).get("enabled")
    page = __pillar__.get("page") or {}
    taken = set()
    for node, body in (__pillar__.get("nodes") or {}).items():
        roles = (body or {}).get("roles") or []
        served = page.get("enabled") and page.get("port") in (80, 443) and "master" in roles
        if ("storage" in roles and mirror) or served:
            taken.add(node)
    return sorted(taken)
