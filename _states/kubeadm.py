"""A node's place in the rack's Kubernetes cluster, as states.

Thin: they look (``kubeadm.facts``), decide, and let the execution module act. Everything comes from
the pillar, see ``pillar/defaults.sls``. In test mode nothing is changed and nothing is sent.

A worker does not join by itself: that takes a ticket, which the master makes for it. So
``kubeadm.joined`` without one says on the event bus that the node is ready for it
(``saltberry/node/prepared``) and leaves it at that; the master's reconcile applies the state again,
with the sealed ticket in the pillar key ``kubeadm_ticket``. The admin's kubeconfig on the NFS Pi
comes the same way, in ``kubeadm_kubeconfig``.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import salt.exceptions

__salt__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]
__pillar__: dict[str, Any]

PREPARED = "saltberry/node/prepared"


def _node_id() -> str:
    return str(__opts__["id"])


def _cluster() -> Mapping[str, Any]:
    return __pillar__.get("cluster") or {}


def _tell_master(wants: str) -> None:
    """Say that this node waits for something sealed; the master brings it."""
    __salt__["event.send"](PREPARED, {"id": _node_id(), "wants": wants})


def _begin(name: str) -> dict[str, Any]:
    return {"name": name, "result": True, "changes": {}, "comment": ""}


def _fail(ret: dict[str, Any], error: object) -> dict[str, Any]:
    ret["result"], ret["changes"], ret["comment"] = False, {}, str(error)
    return ret


def initialized(name: str) -> dict[str, Any]:
    """Make sure that this node is the rack's control plane (``kubeadm init``).

    An init that was cut off is brought to its end. A node that has remains of another cluster, or
    would make a second control plane or a second cluster, is refused with the way out.

    name
        A name for the state; it changes nothing.

    .. code-block:: yaml

        cluster:
          kubeadm.initialized
    """
    ret = _begin(name)
    try:
        found = __salt__["kubeadm.facts"]()
        __salt__["kubeadm.check_init"](found)
        if found["joined"]:
            ret["comment"] = f"{_node_id()} is the control plane of {found['server']}"
            return ret
        old = "half-finished init" if found["half_joined"] else None
        if __opts__["test"]:
            ret["result"] = None
            ret["changes"] = {"initialized": {"old": old, "new": f"control plane {_node_id()}"}}
            ret["comment"] = f"kubeadm init would make {_node_id()} the control plane"
            return ret
        done = __salt__["kubeadm.init"]()
    except salt.exceptions.SaltException as exc:
        return _fail(ret, exc)
    new = f"control plane {_node_id()} at {done['endpoint']}, CA {done['ca_hash']}"
    ret["changes"] = {"initialized": {"old": done["was"], "new": new}}
    ret["comment"] = f"{_node_id()} is the control plane since {done['seconds']} s of kubeadm init"
    return ret


def joined(name: str, ca_hash: str | None = None, role: str = "worker") -> dict[str, Any]:
    """Make sure that this node is a worker of the rack's cluster.

    name
        A name for the state; it changes nothing.
    ca_hash
        The cluster's CA (``sha256:<hex>``); by default what the master knows, ``cluster:ca_hash``.
    role
        ``worker``; more control planes are not supported yet.

    Results:

    * a member of this cluster: True, no changes (leftovers of a join that was cut off are removed);
    * a member of another cluster: False, with the way out; nothing is touched;
    * no member, with a ticket: joins; what a broken-off join left is cleaned up first;
    * no member, no ticket: True, no changes, and the event ``saltberry/node/prepared``.

    .. code-block:: yaml

        cluster:
          kubeadm.joined
    """
    ret = _begin(name)
    if role != "worker":
        return _fail(ret, f"role {role!r} cannot join: more control planes are not supported yet")
    try:
        __salt__["kubeadm.refuse_control_plane"]()
        found = __salt__["kubeadm.facts"]()
        expected = ca_hash or _cluster().get("ca_hash")
        __salt__["kubeadm.check_cluster"](found, expected)
        if found["joined"]:
            return _member(ret, found)
        return _stranger(ret, found)
    except salt.exceptions.SaltException as exc:
        return _fail(ret, exc)


def _member(ret: dict[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """The node is in: finish what a cut-off join left, if it did."""
    ret["comment"] = f"{_node_id()} is a member of the cluster at {found['server']}"
    if __opts__["test"]:
        if found["leftover"]:
            ret["result"] = None
            ret["changes"] = {"mended": {"old": "leftovers of a join", "new": "none"}}
            ret["comment"] += "; leftovers of a join that was cut off would be removed"
        return ret
    # with a ticket at hand the master missed this node in the cluster: have that looked into
    done = __salt__["kubeadm.mend"](registered=bool(__pillar__.get("kubeadm_ticket")))
    if done:
        ret["changes"] = {"mended": {"old": None, "new": "; ".join(done)}}
    return ret


def _stranger(ret: dict[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """The node is not in: join with a ticket, or say that one is wanted."""
    old = "half-finished join" if found["half_joined"] else None
    if __opts__["test"]:
        ret["result"] = None
        ret["changes"] = {"joined": {"old": old, "new": f"{_node_id()} in the rack's cluster"}}
        ret["comment"] = f"{_node_id()} would join the cluster as soon as the master sends a ticket"
        return ret
    if not found["kubeadm"]:
        return _fail(ret, f"kubeadm is not installed on {_node_id()}: apply 'kubernetes' first")
    if not __pillar__.get("kubeadm_ticket"):
        _tell_master("ticket")
        ret["comment"] = "ready to join; the master's reconcile brings the ticket"
        if old:
            ret["comment"] += " and a join that was cut off is begun anew"
        return ret
    done = __salt__["kubeadm.join"]()
    new = f"{_node_id()} in {done['endpoint']}"
    ret["changes"] = {"joined": {"old": done["was"], "new": new}}
    ret["comment"] = f"{_node_id()} joined {done['endpoint']} in {done['seconds']} s"
    return ret


def _file_ca(path: Path) -> str | None:
    """CA of a kubeconfig file; None if it is missing or broken."""
    if not path.is_file():
        return None
    try:
        return str(__salt__["kubeadm.ca_hash"](str(path)))
    except salt.exceptions.CommandExecutionError:
        return None


def _modes(path: Path) -> dict[Path, int]:
    """Modes that the kubeconfig and its folder should have and have not.

    Of folders only one called .kube is ours to tighten; any other is the user's choice.
    """
    wanted = {path: 0o600}
    if path.parent.name == ".kube":
        wanted[path.parent] = 0o700
    return {
        item: mode
        for item, mode in wanted.items()
        if item.exists() and stat.S_IMODE(item.stat().st_mode) != mode
    }


def kubeconfig(name: str) -> dict[str, Any]:
    """Make sure that the cluster admin's kubeconfig is in a file of mode 0600.

    A file for the rack's cluster (``cluster:ca_hash``) is left alone. Otherwise the sealed text in
    the pillar's ``kubeadm_kubeconfig`` is written, and what was there kept beside it as
    ``<name>.before-saltberry``. Without a sealed text the master is told that one is wanted; before
    there is a cluster there is nothing to do.

    name
        The file, for example ``/root/.kube/config``.

    .. code-block:: yaml

        /root/.kube/config:
          kubeadm.kubeconfig
    """
    ret = _begin(name)
    path = Path(name)
    expected = _cluster().get("ca_hash")
    sealed = __pillar__.get("kubeadm_kubeconfig")
    present = _file_ca(path)
    if not expected and not sealed:
        ret["comment"] = "there is no cluster yet"
        return ret
    if present and present == expected:
        ret["comment"] = f"{name} is for the rack's cluster"
        return _tighten(ret, path)
    if __opts__["test"]:
        ret["result"] = None
        ret["changes"] = {"kubeconfig": {"old": present, "new": expected or "sent by the master"}}
        ret["comment"] = f"{name} would be written as soon as the master sends it"
        return ret
    if not sealed:
        _tell_master("kubeconfig")
        ret["comment"] = "ready for the admin's kubeconfig; the master's reconcile brings it"
        return ret
    try:
        new = __salt__["kubeadm.install_kubeconfig"](name, sealed)
    except salt.exceptions.SaltException as exc:
        return _fail(ret, exc)
    ret["comment"] = f"{name} written"
    ret = _tighten(ret, path)
    if present != new:
        ret["changes"]["kubeconfig"] = {"old": present, "new": new}
    return ret


def _tighten(ret: dict[str, Any], path: Path) -> dict[str, Any]:
    """Bring the modes of the kubeconfig and its folder to 0600 and 0700."""
    loose = _modes(path)
    if not loose:
        return ret
    ret["changes"]["mode"] = {str(item): f"{mode:04o}" for item, mode in loose.items()}
    if __opts__["test"]:
        ret["result"] = None
        ret["comment"] += "; its mode would be tightened"
        return ret
    for item, mode in loose.items():
        item.chmod(mode)
    ret["comment"] += "; its mode was tightened"
    return ret
