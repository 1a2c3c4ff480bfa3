"""State of the routed pod network; see the execution module of the same name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "routed_cni"

__salt__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]

# How long a node that has just joined may wait for the controller manager to give it a network.
_ASSIGN_SECONDS = 60


def configured(
    name: str, pod_network: str, nodes: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """Have this member's CNI configuration, and routes to the pods of all other members.

    name
        Anything.
    pod_network
        The pod network of the whole cluster, for instance ``10.244.0.0/16``.
    nodes
        Pillar ``cluster.nodes``: ``{id: {"ip": …, "pod_cidr": …}}``. Routes to nodes that are no
        longer in it go.

    A node that is in no cluster has nothing to do here but to lose what an earlier life left: with
    an old configuration it would be Ready in a new cluster at once, and hand out wrong addresses.
    """
    if not __salt__["routed_cni.is_member"]():
        stranger = absent(name)
        return {**stranger, "comment": f"this node is in no cluster yet: {stranger['comment']}"}
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        cidr = _own_cidr(nodes or {})
        if cidr is None:
            return _unassigned(ret)
        todo = __salt__["routed_cni.plan"](nodes or {}, cidr, pod_network)
        if todo and not __opts__["test"]:
            __salt__["routed_cni.apply"](todo, pod_network)
    except (CommandExecutionError, OSError) as exc:
        ret.update(result=False, comment=str(exc))
        return ret
    if not todo:
        ret["comment"] = f"pods here are in {cidr}; the ways to the others' are laid"
        return ret
    # Whole files in a state's changes would hide what matters.
    ret["changes"] = {**todo, "files": sorted(todo["files"])} if "files" in todo else dict(todo)
    what = ", ".join(todo)
    ret["comment"] = f"would be set right: {what}" if __opts__["test"] else f"set right: {what}"
    ret["result"] = None if __opts__["test"] else True
    return ret


def _own_cidr(nodes: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return this node's pod network, asking the API server only when pillar and disk disagree.

    The pillar may still tell of the node's earlier life: a node that joins again gets another
    network. Once disk and pillar agree there is nothing to ask, and a highstate costs no API call.
    """
    told = nodes.get(__opts__["id"], {}).get("pod_cidr")
    if told and told == __salt__["routed_cni.pod_cidr"]():
        return told
    try:
        return __salt__["routed_cni.assigned_pod_cidr"](0 if __opts__["test"] else _ASSIGN_SECONDS)
    except CommandExecutionError:
        if told:
            return told
        raise


def _unassigned(ret: dict[str, Any]) -> dict[str, Any]:
    """Fill in the return of a node without a pod network."""
    if __opts__["test"]:
        ret.update(result=None, comment="the node would wait for its pod network")
        return ret
    ret.update(
        result=False,
        comment=f"the cluster gave this node no pod network in {_ASSIGN_SECONDS} s; is the "
        "controller manager running on the control plane (kubectl -n kube-system get pods)?",
    )
    return ret


def absent(name: str) -> dict[str, Any]:
    """Have nothing of the routed pod network on this node.

    name
        Anything.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        there = __salt__["routed_cni.present"]()
    except CommandExecutionError as exc:
        ret.update(result=False, comment=str(exc))
        return ret
    if not there:
        ret["comment"] = "nothing to do"
        return ret
    ret["changes"] = {"removed": there}
    if __opts__["test"]:
        ret.update(result=None, comment=f"would be removed: {', '.join(there)}")
        return ret
    try:
        __salt__["routed_cni.remove"]()
    except (CommandExecutionError, OSError) as exc:
        ret.update(result=False, changes={}, comment=str(exc))
        return ret
    ret["comment"] = f"removed: {', '.join(there)}"
    return ret
