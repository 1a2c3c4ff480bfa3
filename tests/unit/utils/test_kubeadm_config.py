"""kubeadm's configuration: v1beta2 against a real kubeadm, the later ones against the documents.

The tables below are the fields of kubeadm's reference for each version
(kubernetes.io/docs/reference/config-api/kubeadm-config.v1beta4 and its siblings, and ``types.go``).
kubeadm reads strictly, a field that is not there is an error.
"""

from __future__ import annotations

import os
import subprocess

import pytest
import yaml
from saltberry_ext.utils import kubeadm_config as config

from tests.unit import built

KUBEADM = built.PROGRAMS / "kubeadm"
needs_kubeadm = pytest.mark.skipif(
    not os.access(KUBEADM, os.X_OK), reason=f"no kubeadm at {KUBEADM}: `make rack` builds it"
)

TOKEN = "abcdef.0123456789abcdef"
CA = f"sha256:{'0' * 64}"

SETTINGS = {
    "version": "1.20.2",
    "kubeadm": None,
    "cluster_name": "berry",
    "node": "cp1",
    "node_ip": "10.0.0.11",
    "endpoint": "10.0.0.11:6443",
    "api_port": 6443,
    "cert_sans": ["cp1.rack.lan"],
    "pod_network": "10.244.0.0/16",
    "service_network": "10.96.0.0/12",
    "service_domain": "cluster.local",
    "image_repository": "10.0.0.10:5000",
    "ignore_preflight_errors": ["SystemVerification"],
    "kubelet": {"evictionHard": {"memory.available": "50Mi"}},
    "kube_proxy": {"conntrack": {"maxPerCore": 0}},
}

NODE = {"name", "criSocket", "taints", "kubeletExtraArgs", "ignorePreflightErrors"}
ENDPOINT = {"advertiseAddress", "bindPort"}
TOKENS = {"token", "description", "ttl", "expires", "usages", "groups"}
BOOTSTRAP = {"token", "apiServerEndpoint", "caCertHashes", "unsafeSkipCAVerification"}
NETWORKING = {"serviceSubnet", "podSubnet", "dnsDomain"}
COMPONENT = {"extraArgs", "extraVolumes"}
DISCOVERY = {"bootstrapToken", "file", "tlsBootstrapToken"}
INIT = {"apiVersion", "kind", "bootstrapTokens", "nodeRegistration", "localAPIEndpoint",
        "certificateKey"}  # fmt: skip
CLUSTER = {"apiVersion", "kind", "etcd", "networking", "kubernetesVersion", "controlPlaneEndpoint",
           "apiServer", "controllerManager", "scheduler", "dns", "certificatesDir",
           "imageRepository", "featureGates", "clusterName"}  # fmt: skip
JOIN = {"apiVersion", "kind", "nodeRegistration", "caCertPath", "discovery", "controlPlane"}
TIMEOUTS = {"controlPlaneComponentHealthCheck", "kubeletHealthCheck", "kubernetesAPICall",
            "etcdAPICall", "tlsBootstrap", "discovery", "upgradeManifests"}  # fmt: skip

SCHEMA = {
    "v1beta2": {
        "InitConfiguration": INIT,
        "ClusterConfiguration": CLUSTER | {"useHyperKubeImage"},
        "JoinConfiguration": JOIN,
        "nodeRegistration": NODE,
        "apiServer": COMPONENT | {"certSANs", "timeoutForControlPlane"},
        "discovery": DISCOVERY | {"timeout"},
    },
    "v1beta3": {
        "InitConfiguration": INIT | {"skipPhases", "patches"},
        "ClusterConfiguration": CLUSTER,
        "JoinConfiguration": JOIN | {"skipPhases", "patches"},
        "nodeRegistration": NODE | {"imagePullPolicy"},
        "apiServer": COMPONENT | {"certSANs", "timeoutForControlPlane"},
        "discovery": DISCOVERY | {"timeout"},
    },
    "v1beta4": {
        "InitConfiguration": INIT | {"skipPhases", "patches", "dryRun", "timeouts"},
        "ClusterConfiguration": CLUSTER
        | {
            "proxy",
            "encryptionAlgorithm",
            "certificateValidityPeriod",
            "caCertificateValidityPeriod",
        },
        "JoinConfiguration": JOIN | {"skipPhases", "patches", "dryRun", "timeouts"},
        "nodeRegistration": NODE | {"imagePullPolicy", "imagePullSerial"},
        "apiServer": COMPONENT | {"extraEnvs", "certSANs"},
        "discovery": DISCOVERY,
        "timeouts": TIMEOUTS,
    },
}
COMMON = {
    "localAPIEndpoint": ENDPOINT,
    "bootstrapTokens": TOKENS,
    "bootstrapToken": BOOTSTRAP,
    "networking": NETWORKING,
}

VERSIONS = [
    ("1.15.0", "v1beta2"),
    ("1.20.2", "v1beta2"),
    ("v1.21.14", "v1beta2"),
    ("1.22.0", "v1beta3"),
    ("1.23.17", "v1beta3"),
    ("1.30.9", "v1beta3"),
    ("1.31.0", "v1beta4"),
    ("1.34.2", "v1beta4"),
    ("1.35.0-rc.1", "v1beta4"),
]


def _init(version: str, **more) -> dict[str, dict]:
    text = config.init_config({**SETTINGS, "version": version, **more})
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def _join(version: str, **more) -> dict:
    settings = {**SETTINGS, "version": version, "node": "pi-01", "node_ip": "10.0.0.21", **more}
    return yaml.safe_load(config.join_config(settings, TOKEN, "10.0.0.11:6443", CA))


def _check(document: dict, allowed: set[str], schema: dict[str, set[str]]) -> None:
    """Every field of a document, and of what is in it, is in the tables."""
    assert set(document) <= allowed
    for key, value in document.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict) and key in schema:
                _check(item, schema[key], schema)


@pytest.mark.parametrize(("version", "api"), VERSIONS)
def test_api_version(version, api):
    assert config.api_version(version) == api


@pytest.mark.parametrize("version", ["", "latest", "1", "1.x", "stable-1", "1.34.2\n--- {}", None])
def test_no_version(version):
    with pytest.raises(ValueError, match=r"not a Kubernetes version: write it like 1\.34\.2"):
        config.api_version(version)


def test_too_old():
    with pytest.raises(ValueError, match=r"1\.14\.0 is too old"):
        config.api_version("1.14.0")


@pytest.mark.parametrize(("version", "api"), VERSIONS)
def test_fields_are_documented(version, api):
    schema = {**SCHEMA[api], **COMMON}
    documents = {**_init(version), "JoinConfiguration": _join(version)}
    for kind in ("InitConfiguration", "ClusterConfiguration", "JoinConfiguration"):
        assert documents[kind]["apiVersion"] == f"kubeadm.k8s.io/{api}"
        _check(documents[kind], schema[kind], schema)


@pytest.mark.parametrize(("version", "api"), VERSIONS)
def test_node_registration(version, api):
    """Extra arguments are a mapping up to v1beta3 and a list of pairs from v1beta4."""
    registration = _join(version)["nodeRegistration"]
    pairs = [{"name": "node-ip", "value": "10.0.0.21"}]
    wanted = pairs if api == "v1beta4" else {"node-ip": "10.0.0.21"}
    assert registration["kubeletExtraArgs"] == wanted
    assert registration["name"] == "pi-01"
    assert registration["ignorePreflightErrors"] == ["SystemVerification"]
    # not `taints: []`: that would let workloads onto the control plane
    assert "taints" not in registration
    assert registration.get("imagePullPolicy") == (None if api == "v1beta2" else "IfNotPresent")


@pytest.mark.parametrize(
    ("version", "address"),
    [
        ("1.20.2", "/run/containerd/containerd.sock"),
        ("1.23.17", "/run/containerd/containerd.sock"),
        ("1.24.0", "unix:///run/containerd/containerd.sock"),
        ("1.34.2", "unix:///run/containerd/containerd.sock"),
    ],
)
def test_cri_socket(version, address):
    assert _join(version)["nodeRegistration"]["criSocket"] == address


def test_without_an_address_kubelet_chooses():
    assert "kubeletExtraArgs" not in _join("1.34.2", node_ip=None)["nodeRegistration"]


def test_timeouts_moved_in_v1beta4():
    assert _join("1.34.2")["timeouts"] == {"discovery": "1m0s"}
    assert "timeout" not in _join("1.34.2")["discovery"]
    assert _join("1.30.0")["discovery"]["timeout"] == "1m0s"
    new, old = _init("1.34.2"), _init("1.30.0")
    assert new["InitConfiguration"]["timeouts"]["controlPlaneComponentHealthCheck"] == "10m0s"
    assert "timeoutForControlPlane" not in new["ClusterConfiguration"]["apiServer"]
    assert old["ClusterConfiguration"]["apiServer"]["timeoutForControlPlane"] == "10m0s"


def test_the_installed_kubeadm_decides_the_api():
    """Between a new pillar and the new package, kubeadm is still the old one."""
    documents = _init("1.31.4", kubeadm="v1.30.9")
    cluster = documents["ClusterConfiguration"]
    assert cluster["apiVersion"] == "kubeadm.k8s.io/v1beta3"
    assert cluster["kubernetesVersion"] == "v1.31.4"


def test_cluster():
    cluster = _init("1.34.2")["ClusterConfiguration"]
    assert cluster["clusterName"] == "berry"
    assert cluster["kubernetesVersion"] == "v1.34.2"
    assert cluster["controlPlaneEndpoint"] == "10.0.0.11:6443"
    assert cluster["imageRepository"] == "10.0.0.10:5000"
    assert cluster["networking"] == {
        "podSubnet": "10.244.0.0/16",
        "serviceSubnet": "10.96.0.0/12",
        "dnsDomain": "cluster.local",
    }


def test_init_leaves_no_token_for_a_day():
    (token,) = _init("1.34.2")["InitConfiguration"]["bootstrapTokens"]
    assert token == {"description": config.init_token_description(), "ttl": "1m0s"}


def test_user_settings_are_merged():
    kubelet = _init("1.34.2")["KubeletConfiguration"]
    assert kubelet["cgroupDriver"] == "systemd"
    assert kubelet["failSwapOn"] is True
    assert kubelet["evictionHard"] == {"memory.available": "50Mi"}
    proxy = _init("1.34.2", kube_proxy={"mode": "ipvs"})["KubeProxyConfiguration"]
    assert proxy["mode"] == "ipvs"
    assert (
        _init("1.34.2", kubelet={"failSwapOn": False})["KubeletConfiguration"]["failSwapOn"]
        is False
    )


def test_merge_keeps_what_is_not_named_and_changes_nothing_in_place():
    base = {"a": {"b": 1, "c": [1]}, "d": 1}
    assert config.merge(base, {"a": {"c": [2]}, "e": 3}) == {
        "a": {"b": 1, "c": [2]},
        "d": 1,
        "e": 3,
    }
    assert base == {"a": {"b": 1, "c": [1]}, "d": 1}


def test_a_value_cannot_add_a_document():
    nasty = _init("1.34.2", cluster_name="x\n---\nkind: Evil")
    assert set(nasty) == {
        "InitConfiguration",
        "ClusterConfiguration",
        "KubeletConfiguration",
        "KubeProxyConfiguration",
    }


def test_join_pins_the_ca():
    discovery = _join("1.34.2")["discovery"]
    assert discovery["bootstrapToken"] == {
        "apiServerEndpoint": "10.0.0.11:6443",
        "token": TOKEN,
        "caCertHashes": [CA],
    }
    assert discovery["tlsBootstrapToken"] == TOKEN


def _kubeadm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(KUBEADM), *arguments], capture_output=True, text=True, timeout=120, check=False
    )


@needs_kubeadm
def test_real_kubeadm_takes_the_init_file(tmp_path):
    """All four documents go through kubeadm's own strict reader."""
    path = tmp_path / "init.yaml"
    path.write_text(config.init_config(SETTINGS))
    done = _kubeadm("config", "images", "list", "--config", str(path))
    assert done.returncode == 0, done.stderr
    assert "10.0.0.10:5000/kube-apiserver:v1.20.2" in done.stdout
    assert "unknown field" not in done.stderr
    assert "strict" not in done.stderr.lower()


@needs_kubeadm
def test_real_kubeadm_would_have_complained(tmp_path):
    """The check above can fail: a field that is not there is named."""
    path = tmp_path / "init.yaml"
    path.write_text(config.init_config(SETTINGS).replace("imageRepository:", "imageRepositary:"))
    done = _kubeadm("config", "images", "list", "--config", str(path))
    assert "unknown field" in done.stderr


@needs_kubeadm
def test_real_kubeadm_writes_what_the_file_says(tmp_path):
    """Through a phase: names of the certificate, the API server's address, the kubelet's server."""
    init = config.init_config(SETTINGS)
    path = tmp_path / "init.yaml"
    path.write_text(init.replace("clusterName:", f"certificatesDir: {tmp_path}/pki\nclusterName:"))
    assert _kubeadm("init", "phase", "certs", "ca", "--config", str(path)).returncode == 0
    done = _kubeadm("init", "phase", "certs", "apiserver", "--config", str(path))
    assert done.returncode == 0, done.stderr
    for name in ("cp1", "cp1.rack.lan", "10.0.0.11", "10.96.0.1"):
        assert name in done.stdout
    arguments = ("--config", str(path), "--kubeconfig-dir", str(tmp_path))
    done = _kubeadm("init", "phase", "kubeconfig", "admin", *arguments)
    assert done.returncode == 0, done.stderr
    admin = yaml.safe_load((tmp_path / "admin.conf").read_text())
    assert admin["clusters"][0] == {
        "name": "berry",
        "cluster": {
            "server": "https://10.0.0.11:6443",
            "certificate-authority-data": admin["clusters"][0]["cluster"][
                "certificate-authority-data"
            ],
        },
    }


@needs_kubeadm
def test_real_kubeadm_takes_the_join_file(tmp_path):
    """It reads it and goes on to the network, where nobody answers."""
    path = tmp_path / "join.yaml"
    settings = {**SETTINGS, "node": "pi-01", "ignore_preflight_errors": []}
    text = config.join_config(settings, TOKEN, "127.0.0.1:1", CA)
    path.write_text(text.replace("timeout: 1m0s", "timeout: 1s"))
    done = _kubeadm("join", "phase", "preflight", "--config", str(path),
                    "--ignore-preflight-errors=all")  # fmt: skip
    assert "unknown field" not in done.stderr
    assert "127.0.0.1:1: connect: connection refused" in done.stderr
