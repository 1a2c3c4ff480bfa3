"""Which pod networks a node must have routes to: computed in one place for node and master.

The nodes lay the routes, the master's reconcile asks each node for the digest of what it has and
compares it with the digest of what it should have. Both come from here, so that they cannot drift
apart. Pure Python, importable without Salt.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import Any

__virtualname__ = "routes"

# Counted up when what a node lays for the same input changes, so that every node is done again.
_FORMAT = 1


def _complete(facts: Mapping[str, Any]) -> bool:
    """Say whether a node's facts are enough to route to it (a fresh node has no pod CIDR yet)."""
    return bool(facts.get("ip")) and bool(facts.get("pod_cidr"))


def table(nodes: Mapping[str, Mapping[str, Any]], own: str) -> dict[str, str]:
    """Return the routes that one node needs to the pods of all the others.

    nodes
        ``{id: {"ip": "192.168.1.21", "pod_cidr": "10.244.1.0/24"}}``, as in pillar
        ``cluster.nodes``. A node without one of the two is left out.
    own
        Id of the node that lays the routes.

    Returns ``{pod CIDR: address of the node that has it}``. Raises ValueError with the node's
    id for an address or a network that is none.
    """
    routes = {}
    for node, facts in nodes.items():
        if node == own or not _complete(facts):
            continue
        try:
            network, via = IPv4Network(facts["pod_cidr"]), IPv4Address(facts["ip"])
        except ValueError as exc:
            raise ValueError(f"cluster.nodes: {node}: {exc}") from exc
        routes[str(network)] = str(via)
    return dict(sorted(routes.items()))


def fingerprint(pod_cidr: str | None, routes: Mapping[str, str]) -> str:
    """Return the digest of one node's own pod CIDR and its routes to the others.

    pod_cidr
        The node's own pod network, or None when it has none.
    routes
        ``{pod CIDR: node address}``, in any order.
    """
    text = json.dumps([_FORMAT, pod_cidr, sorted(routes.items())], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest(nodes: Mapping[str, Mapping[str, Any]], own: str) -> str:
    """Return the digest that ``routed_cni.digest`` on node ``own`` gives once all is in place.

    nodes
        As for :func:`table`.
    own
        Id of the node.
    """
    return fingerprint(nodes.get(own, {}).get("pod_cidr"), table(nodes, own))
