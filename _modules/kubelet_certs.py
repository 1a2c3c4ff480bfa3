"""The certificates that kubelets serve their port with: approved when each is for the node that asks.

With ``serverTLSBootstrap`` a kubelet asks the cluster for its certificate, when it starts and again
before it ends, and serves nothing until somebody approved it. Kubernetes does not, because it cannot know
whose an address is. The pillar does. Only for the control plane; the master's reconcile calls it.
"""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "kubelet_certs"

__salt__: dict[str, Callable[..., Any]]
__utils__: dict[str, Callable[..., Any]]
__pillar__: dict[str, Any]

ADMIN_CONF = Path("/etc/kubernetes/admin.conf")
_API = "/apis/certificates.k8s.io/v1/certificatesigningrequests"


def _kubectl_json(*arguments: str) -> dict[str, Any]:
    if not ADMIN_CONF.is_file():
        raise CommandExecutionError(
            f"this node is no control plane: {ADMIN_CONF} is missing. Call this on the rack's control plane"
        )
    found: dict[str, Any] | None = __utils__["kube_programs.kubectl_json"](
        *arguments, kubeconfig=ADMIN_CONF
    )
    return found or {}


def pending() -> dict[str, str]:
    """Return the kubelets' requests that nobody decided on: ``{name: why not, "" if it may be approved}``.

    Raises CommandExecutionError off the control plane, or when the API server does not answer.

    CLI Example:

    .. code-block:: bash

        salt cp1 kubelet_certs.pending
    """
    return {name: why for name, (why, _) in _judged().items()}


def _judged() -> dict[str, tuple[str, dict[str, Any]]]:
    signer = __utils__["serving_request.signer"]()
    found = _kubectl_json("get", "csr", f"--field-selector=spec.signerName={signer}")
    waiting = [
        each for each in found.get("items", []) if not (each.get("status") or {}).get("conditions")
    ]
    if not waiting:
        return {}
    nodes = _kubectl_json("get", "nodes").get("items", [])
    told = {node["metadata"]["name"]: _told_address(node) for node in nodes}
    return {each["metadata"]["name"]: (_why_not(each["spec"], told), each) for each in waiting}


def _told_address(node: Mapping[str, Any]) -> str:
    """The address that a kubelet says it has."""
    addresses = (node.get("status") or {}).get("addresses") or []
    return next((each["address"] for each in addresses if each["type"] == "InternalIP"), "")


def _why_not(spec: Mapping[str, Any], told: Mapping[str, str]) -> str:
    node = __utils__["serving_request.node_of"](spec)
    if node not in told:
        return f"{spec.get('username')!a} asks, which is no node of the cluster"
    address = (_pillar_nodes().get(node) or {}).get("ip")
    if not address:
        address = told[node]
        problem = _problem_of_address(node, address, told)
        if problem:
            return problem
    return str(__utils__["serving_request.problem"](spec, node, str(address)))


def _pillar_nodes() -> Mapping[str, Any]:
    return __pillar__.get("nodes") or {}


def _problem_of_address(node: str, address: str, told: Mapping[str, str]) -> str:
    """Say why an address, of which only the node's own word is known, is not believed.

    A worker need not be named in the pillar. What it says must be an address of the rack that nobody
    else has.
    """
    try:
        inside = ipaddress.ip_address(address) in ipaddress.ip_network(
            __pillar__["rack"]["network"]
        )
    except (KeyError, ValueError):
        inside = False
    if not inside:
        return f"{node} says that it has {address or 'no address'!a}, which is not in rack.network"
    others = {name: (body or {}).get("ip") for name, body in _pillar_nodes().items()}
    others = {**told, **{name: ip for name, ip in others.items() if ip}}
    owners = sorted(name for name, ip in others.items() if ip == address and name != node)
    return f"{node} says that it has {address}, which is {owners[0]}'s" if owners else ""


def approve() -> dict[str, Any]:
    """Approve the kubelets' requests that are each for the node that asks, and no others.

    A request may be approved when the node that asks is a member, and the request is for its id and
    its address in the pillar alone, for a server alone. For a node without an address in the pillar it is
    the one that it joined with, if that is in ``rack.network`` and nobody else's.

    Returns ``{"approved": [ids], "refused": {name of the request: why}}``. Those refused stay as they
    are; Kubernetes forgets them after a day. Raises CommandExecutionError off the control plane, or when
    the API server does not answer.

    CLI Example:

    .. code-block:: bash

        salt cp1 kubelet_certs.approve
    """
    approved, refused = [], {}
    for name, (why, request) in _judged().items():
        if why:
            refused[name] = why
        else:
            _approve(name, request)
            approved.append(__utils__["serving_request.node_of"](request["spec"]))
    return {"approved": sorted(set(approved)), "refused": refused}


def _approve(name: str, request: Mapping[str, Any]) -> None:
    """Approve exactly what was judged: the API server compares its version."""
    condition = {
        "type": "Approved",
        "status": "True",
        "reason": "SaltberryKubeletServing",
        "message": "It is for the node that asks.",
        "lastUpdateTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    text = json.dumps({**request, "status": {"conditions": [condition]}})
    done = __utils__["kube_programs.kubectl"](
        "replace", "--raw", f"{_API}/{name}/approval", "-f", "-", kubeconfig=ADMIN_CONF, stdin=text
    )
    if done.returncode:
        said = __utils__["kube_programs.last_lines"](done.stderr, 2)
        raise CommandExecutionError(f"the request {name} could not be approved: {said}")
