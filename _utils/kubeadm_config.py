"""Render kubeadm's configuration files from the rack's settings.

Pure functions: no Salt, no files, no processes. ``settings`` is what ``kubeadm.settings`` of the
execution module gathers from the pillar::

    {"version": "1.34.2", "kubeadm": "v1.34.2", "cluster_name": "berry",
     "node": "pi-01", "node_ip": "192.168.1.21",
     "endpoint": "192.168.1.11:6443", "api_port": 6443, "cert_sans": ["cp1.rack.lan"],
     "pod_network": "10.244.0.0/16", "service_network": "10.96.0.0/12",
     "service_domain": "cluster.local", "image_repository": "registry.k8s.io",
     "ignore_preflight_errors": [], "kubelet": {}, "kube_proxy": {}}

The version of kubeadm's configuration API follows the version of the installed kubeadm (``kubeadm``;
the wanted ``version`` if that is not known): each kubeadm refuses what it does not know, and warns
about or no longer reads what is old. Sources: the reference of
the three versions (kubernetes.io/docs/reference/config-api/kubeadm-config.v1beta4 and siblings)
and the ``types.go`` of each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# kubeadm creates a token that lives for a day if it is given none. This one lives a minute, is
# recognised by its words, and is deleted as soon as init is through.
INIT_TOKEN_DESCRIPTION = "saltberry init (deleted at once)"
INIT_TOKEN_TTL = "1m0s"

CRI_SOCKET = "/run/containerd/containerd.sock"

# A Pi starts etcd and the API server from an SD card: kubeadm's four minutes are not always enough.
CONTROL_PLANE_TIMEOUT = "10m0s"
# kubeadm waits five minutes for an API server that it cannot reach; the master comes again anyway,
# and until then the operator should see why.
DISCOVERY_TIMEOUT = "1m0s"


def parse_version(version: str) -> tuple[int, int]:
    """Major and minor number of a Kubernetes version (``1.34.2``, ``v1.20.2``).

    Raises ValueError for anything else.
    """
    match = re.fullmatch(r"v?(\d+)\.(\d+)(?:\.\d+)?(?:[-+].*)?", str(version).strip())
    if not match:
        raise ValueError(
            f"{version!r} is not a Kubernetes version: write it like 1.34.2, in quotes"
        )
    return int(match[1]), int(match[2])


def api_version(version: str) -> str:
    """Version of kubeadm's configuration API for a Kubernetes version.

    v1beta2 up to 1.21, v1beta3 for 1.22 to 1.30, v1beta4 from 1.31. Raises ValueError below 1.15,
    which knows none of them.
    """
    found = parse_version(version)
    if found < (1, 15):
        raise ValueError(f"Kubernetes {version} is too old: kubeadm from 1.15 on is supported")
    if found <= (1, 21):
        return "v1beta2"
    if found <= (1, 30):
        return "v1beta3"
    return "v1beta4"


def init_token_description() -> str:
    """By what to find the token that ``kubeadm init`` makes."""
    return INIT_TOKEN_DESCRIPTION


def cri_socket(version: str) -> str:
    """Address of containerd's socket, in the form that kubeadm of that version wants.

    A URL from 1.24 on; before, a plain path, which kubeadm itself turned into a URL.
    """
    return f"unix://{CRI_SOCKET}" if parse_version(version) >= (1, 24) else CRI_SOCKET


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``over``; mappings are merged, anything else is replaced."""
    result = dict(base)
    for key, value in over.items():
        present = result.get(key)
        if isinstance(present, Mapping) and isinstance(value, Mapping):
            result[key] = merge(present, value)
        else:
            result[key] = value
    return result


def _plain(value: Any) -> Any:
    """The same data in plain dicts and lists: the pillar's own classes do not serialise."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _dump(*documents: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump_all([_plain(doc) for doc in documents], sort_keys=False)


def _extra_args(arguments: Mapping[str, str], api: str) -> Any:
    """Extra arguments of a component: a mapping up to v1beta3, a list of pairs from v1beta4."""
    if api == "v1beta4":
        return [{"name": name, "value": value} for name, value in arguments.items()]
    return dict(arguments)


def _api(settings: Mapping[str, Any]) -> str:
    return api_version(_kubeadm(settings))


def _kubeadm(settings: Mapping[str, Any]) -> str:
    return str(settings.get("kubeadm") or settings["version"])


def _node_registration(settings: Mapping[str, Any], api: str) -> dict[str, Any]:
    # `taints` is left out on purpose: kubeadm then taints control planes and nobody else
    registration: dict[str, Any] = {
        "name": settings["node"],
        "criSocket": cri_socket(_kubeadm(settings)),
    }
    if settings.get("node_ip"):
        arguments = {"node-ip": str(settings["node_ip"])}
        registration["kubeletExtraArgs"] = _extra_args(arguments, api)
    if settings.get("ignore_preflight_errors"):
        registration["ignorePreflightErrors"] = list(settings["ignore_preflight_errors"])
    if api != "v1beta2":
        registration["imagePullPolicy"] = "IfNotPresent"
    return registration


def _init_document(settings: Mapping[str, Any], api: str) -> dict[str, Any]:
    document: dict[str, Any] = {
        "apiVersion": f"kubeadm.k8s.io/{api}",
        "kind": "InitConfiguration",
        "bootstrapTokens": [{"description": INIT_TOKEN_DESCRIPTION, "ttl": INIT_TOKEN_TTL}],
        "nodeRegistration": _node_registration(settings, api),
        "localAPIEndpoint": {
            "advertiseAddress": str(settings["node_ip"]),
            "bindPort": int(settings["api_port"]),
        },
    }
    if api == "v1beta4":
        document["timeouts"] = {"controlPlaneComponentHealthCheck": CONTROL_PLANE_TIMEOUT}
    return document


def _cluster_document(settings: Mapping[str, Any], api: str) -> dict[str, Any]:
    server: dict[str, Any] = {"certSANs": list(settings.get("cert_sans") or [])}
    if api != "v1beta4":
        server["timeoutForControlPlane"] = CONTROL_PLANE_TIMEOUT
    return {
        "apiVersion": f"kubeadm.k8s.io/{api}",
        "kind": "ClusterConfiguration",
        "clusterName": settings["cluster_name"],
        "kubernetesVersion": f"v{str(settings['version']).lstrip('v')}",
        "controlPlaneEndpoint": settings["endpoint"],
        "imageRepository": settings["image_repository"],
        "networking": {
            "podSubnet": settings["pod_network"],
            "serviceSubnet": settings["service_network"],
            "dnsDomain": settings["service_domain"],
        },
        "apiServer": server,
    }


def kubelet(over: Mapping[str, Any] | None) -> dict[str, Any]:
    """What this project wants of kubelet's configuration, with the pillar's keys laid over it."""
    ours = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        # the driver that containerd is configured for, and the only one that fits systemd
        "cgroupDriver": "systemd",
        "failSwapOn": True,
    }
    merged: dict[str, Any] = _plain(merge(ours, over or {}))
    return merged


def asks_for_serving_certificates(pillar: Mapping[str, Any]) -> bool:
    """Say whether kubelets ask the cluster for the certificates that they serve their port with.

    Those who measure pods check it; nobody else does. ``kubernetes.kubelet`` has the last word.
    """
    own = (pillar.get("kubernetes") or {}).get("kubelet") or {}
    metrics = (pillar.get("services") or {}).get("metrics") or {}
    return bool(own.get("serverTLSBootstrap", metrics.get("enabled")))


def kubelet_of(pillar: Mapping[str, Any]) -> dict[str, Any]:
    """What the pillar lays over this project's kubelet configuration, with what its services need."""
    own: dict[str, Any] = _plain((pillar.get("kubernetes") or {}).get("kubelet") or {})
    if asks_for_serving_certificates(pillar):
        return {**own, "serverTLSBootstrap": True}
    return own


def kubelet_config_map(version: str) -> str:
    """Name of the ConfigMap in kube-system that holds the cluster's kubelet configuration.

    Named after the minor version up to 1.23. Raises ValueError for what is no version.
    """
    major, minor = parse_version(version)
    return "kubelet-config" if (major, minor) >= (1, 24) else f"kubelet-config-{major}.{minor}"


def init_config(settings: Mapping[str, Any]) -> str:
    """Configuration of ``kubeadm init``: four YAML documents. It holds no secret.

    Raises ValueError for a version that is not one.
    """
    api = _api(settings)
    proxy = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
    }
    return _dump(
        _init_document(settings, api),
        _cluster_document(settings, api),
        kubelet(settings.get("kubelet")),
        merge(proxy, settings.get("kube_proxy") or {}),
    )


def join_config(settings: Mapping[str, Any], token: str, endpoint: str, ca_hash: str) -> str:
    """Configuration of ``kubeadm join`` for a worker. It holds the token: 0600, and not for long.

    token
        The bootstrap token, ``abcdef.0123456789abcdef``.
    endpoint
        ``ip:port`` of the API server.
    ca_hash
        ``sha256:<hex>`` of the cluster CA's public key; the only CA that kubeadm will accept.

    Raises ValueError for a version that is not one.
    """
    api = _api(settings)
    document: dict[str, Any] = {
        "apiVersion": f"kubeadm.k8s.io/{api}",
        "kind": "JoinConfiguration",
        "nodeRegistration": _node_registration(settings, api),
        "discovery": {
            "bootstrapToken": {
                "apiServerEndpoint": endpoint,
                "token": token,
                "caCertHashes": [ca_hash],
            },
            "tlsBootstrapToken": token,
        },
    }
    if api == "v1beta4":
        document["timeouts"] = {"discovery": DISCOVERY_TIMEOUT}
    else:
        document["discovery"]["timeout"] = DISCOVERY_TIMEOUT
    return _dump(document)
