"""Which pod network a node has: found out from the node and the cluster, so that it is never changed by accident.

A cluster keeps the pod network that it was made with. Its pods have addresses of it, the nodes have
routes and interfaces of it; with another one beside it, pods of the two would not reach each other and
nobody would say so. Another value in the pillar is refused.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__virtualname__ = "cni"

__salt__: dict[str, Callable[..., Any]]
__utils__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]
__pillar__: dict[str, Any]

# Tests point this at a folder of their own.
_ROOT = Path("/")
ADMIN_CONF = Path("/etc/kubernetes/admin.conf")

FLANNEL_CONFLIST = "/etc/cni/net.d/10-flannel.conflist"
_FLANNEL_FILES = (FLANNEL_CONFLIST, "/run/flannel", "/var/lib/cni/flannel")
_FLANNEL_LINKS = ("flannel.1", "cni0")
_KUBELET_CONF = "/etc/kubernetes/kubelet.conf"
_CONFIG_MAP = ("configmap", "--namespace=kube-flannel", "kube-flannel-cfg")
_POLL_SECONDS = 2


def _at(path: str) -> Path:
    return _ROOT / path.lstrip("/")


def _settings() -> dict[str, Any]:
    settings: dict[str, Any] = __pillar__["kubernetes"]
    return settings


def present() -> dict[str, list[str]]:
    """Return what of each pod network is on this node: ``{"flannel": [...], "routed": [...]}``.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' cni.present
    """
    flannel = [path for path in _FLANNEL_FILES if _at(path).exists()]
    if _at("sys/class/net/flannel.1").exists():
        flannel.append("interface flannel.1")
    return {"flannel": flannel, "routed": list(__salt__["routed_cni.present"]())}


def in_use() -> dict[str, str]:
    """Return which pod network this cluster's member has, and how that is known; empty if none is seen.

    Returns for instance ``{"cni": "routed", "because": "/etc/cni/net.d/10-saltberry.conflist is here"}``.
    On the control plane the cluster's objects are asked, too, on a worker its own files.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' cni.in_use
    """
    if not _at(_KUBELET_CONF).exists():
        return {}
    for name, there in present().items():
        if there:
            return {"cni": name, "because": f"{there[0]} is here"}
    if _flannel_config() is not None:
        return {"cni": "flannel", "because": "the cluster has the namespace kube-flannel"}
    return {}


def _flannel_config() -> dict[str, Any] | None:
    """What flannel on the cluster was told; None without one, or on a node that cannot ask."""
    if not ADMIN_CONF.is_file():
        return None
    found = __utils__["kube_programs.kubectl_json"]("get", *_CONFIG_MAP, kubeconfig=ADMIN_CONF)
    if found is None:
        return None
    try:
        return dict(json.loads(found["data"]["net-conf.json"]))
    except (KeyError, TypeError, ValueError):
        return {}


def refusal(name: str) -> str:
    """Return why this node's cluster cannot have this pod network, with the way out; empty if it can.

    name
        ``flannel`` or ``routed``, as the pillar has it.

    CLI Example:

    .. code-block:: bash

        salt 'cp1' cni.refusal flannel
    """
    used = in_use() or _heard_of()
    if used and used["cni"] != name:
        return (
            f"kubernetes.cni is {name}, but this cluster was made with {used['cni']}"
            f" ({used['because']}); pods of both would not reach each other. Set kubernetes.cni to"
            f" {used['cni']}, or make the cluster anew, see docs/services/network.md"
        )
    return _flannel_refusal() if name == "flannel" else ""


def _heard_of() -> dict[str, str]:
    """What the master says of the cluster that this node is to join; the control plane makes its own."""
    told = (__pillar__.get("cluster") or {}).get("cni")
    if not told or "control_plane" in (__pillar__.get("node") or {}).get("roles", []):
        return {}
    return {"cni": str(told), "because": "the control plane has it"}


def _flannel_refusal() -> str:
    """Why the cluster's flannel cannot be changed to what the pillar says."""
    config = _flannel_config()
    if not config:
        return ""
    wanted = _net_conf()
    pairs = {
        "kubernetes.flannel.backend": (
            (config.get("Backend") or {}).get("Type"), wanted["Backend"]["Type"]
        ),
        "kubernetes.pod_network": (config.get("Network"), wanted["Network"]),
    }  # fmt: skip
    for key, (there, said) in pairs.items():
        if there != said:
            return (
                f"{key} is {said}, but flannel of this cluster was made with {there}; the nodes'"
                f" interfaces and routes are of that. Set {key} to {there}, or make the cluster anew,"
                " see docs/services/network.md"
            )
    return ""


def _net_conf() -> dict[str, Any]:
    settings = _settings()
    return {
        "Network": settings["pod_network"],
        "Backend": {"Type": settings["flannel"]["backend"]},
    }


def flannel_values() -> dict[str, Any]:
    """Return what flannel's manifest takes from the pillar.

    CLI Example:

    .. code-block:: bash

        salt cp1 cni.flannel_values
    """
    flannel: Mapping[str, Any] = _settings()["flannel"]
    net_conf = json.dumps(_net_conf(), sort_keys=True)
    return {
        "image": flannel["image"],
        "plugin_image": flannel["plugin_image"],
        "net_conf": net_conf,
        "digest": hashlib.sha256(net_conf.encode()).hexdigest()[:16],
    }


def leftovers() -> list[str]:
    """Return what an earlier life left of flannel on this node, which is in no cluster.

    With an old configuration it would be Ready in a new cluster at once, and hand out wrong addresses.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' cni.leftovers
    """
    return [] if _at(_KUBELET_CONF).exists() else present()["flannel"]


def remove_leftovers() -> list[str]:
    """Remove what :func:`leftovers` names; return it.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' cni.remove_leftovers
    """
    gone = leftovers()
    for path in (_at(name) for name in _FLANNEL_FILES):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for link in _FLANNEL_LINKS if gone else ():
        if _at(f"sys/class/net/{link}").exists():
            __salt__["cmd.run_all"](
                ["ip", "link", "delete", link], python_shell=False, ignore_retcode=True
            )
    return gone


def wait(timeout: float = 240) -> str:
    """Wait until flannel has configured this node; return why it has not, empty if it has.

    timeout
        Seconds at most.

    CLI Example:

    .. code-block:: bash

        salt cp1 cni.wait
    """
    deadline = time.monotonic() + timeout
    while not _at(FLANNEL_CONFLIST).exists():
        if time.monotonic() >= deadline:
            return _why_not_here()
        time.sleep(_POLL_SECONDS)
    return ""


def _why_not_here() -> str:
    """What flannel's pod on this node says."""
    node = __opts__["id"]
    pods = __utils__["kube_programs.kubectl_json"](
        "get", "pods", "--namespace=kube-flannel", "--selector=app=flannel",
        f"--field-selector=spec.nodeName={node}", kubeconfig=ADMIN_CONF,
    )  # fmt: skip
    found = (pods or {}).get("items", [])
    if not found:
        return f"there is no pod of flannel on {node} yet: kubectl -n kube-flannel describe ds kube-flannel"
    return "; ".join(__salt__["manifests.pod_reasons"](found)) or "its pod has not come up yet"
