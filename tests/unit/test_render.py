"""Every SLS compiles, for every role and for pillars that differ where the SLS files branch.

Salt's own loaders, file client and renderers do the work; only ``node`` and ``cluster``, which the
master's ext_pillar adds, are given here. Last, a highstate in test mode on this very machine: it
must end without a failed state on a node that has nothing of all that yet.
"""

from __future__ import annotations

import functools
import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import salt.config
import yaml
from saltfactories.utils.functional import Loaders

REPO = Path(__file__).resolve().parents[2]
SALT = REPO / "salt"
# Orchestrations are rendered by the master, with a pillar of their own.
SLS = sorted(
    ".".join(path.relative_to(SALT).with_suffix("").parts).removesuffix(".init")
    for path in SALT.rglob("*.sls")
    if path.name != "top.sls" and "orch" not in path.parts
)
IDS = {"storage-master": "nfs1", "control_plane": "cp1", "worker": "pi-01"}
ROLES = (["storage", "master"], ["control_plane"], ["worker"])

NODES: dict[str, dict[str, Any]] = {
    "nfs1": {"ip": "192.168.1.10", "roles": ["storage", "master"]},
    "cp1": {"ip": "192.168.1.11", "roles": ["control_plane"]},
    "pi-01": {"ip": "192.168.1.21"},
    "pi-02": {},
}
CLUSTER = {
    "endpoint": "192.168.1.11:6443",
    "ca_hash": f"sha256:{'0' * 64}",
    "version": "v1.34.2",
    "nodes": {"cp1": {"ip": "192.168.1.11", "pod_cidr": "10.244.0.0/24"}},
}
PILLARS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "with a cluster": {"cluster": CLUSTER},
    "air-gapped": {
        "kubernetes": {
            "version": "1.20.2",
            "image_repository": "192.168.1.10:5000",
            "repo": {"url": "http://192.168.1.10/apt/kubernetes/", "suite": "stable",
                     "key_url": "http://192.168.1.10/keys/k.gpg", "key_sha256": "0" * 64},
        },
        "containerd": {
            "pause_image": "192.168.1.10:5000/pause:3.2",
            "registries": {"192.168.1.10:5000": {"endpoint": "http://192.168.1.10:5000"},
                           "docker.io": {"endpoint": "http://192.168.1.10:5000"}},
        },
        "mirror": {"listen": "192.168.1.10"},
    },
    "no mirror": {"mirror": {"enabled": False}},
    "odd but allowed": {"rack": {"name": "yes: [berry] #1"}},
}  # fmt: skip


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Lay one mapping over another, key by key."""
    both = {**base, **over}
    for key in base.keys() & over.keys():
        if isinstance(base[key], dict) and isinstance(over[key], dict):
            both[key] = merged(base[key], over[key])
    return both


def rack_of(roles: list[str], pillar: dict[str, Any]) -> dict[str, Any]:
    """Return what pillar/rack.sls and the ext_pillar give the node that has these roles."""
    rack = merged({"rack": {"network": "192.168.1.0/24"}, "nodes": NODES, "cluster": {}}, pillar)
    node = IDS.get("-".join(roles), "pi-01")
    rack["node"] = {"id": node, "roles": roles, "ip": NODES[node]["ip"], "named": True}
    return rack


@pytest.fixture(scope="module")
def loaders(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Loaders]:
    """Return a function that makes Salt's loaders for a minion with these roles and this pillar."""

    def make(roles: list[str], pillar: dict[str, Any]) -> Loaders:
        rack = rack_of(roles, pillar)
        tmp_path = tmp_path_factory.mktemp("minion")
        folder = tmp_path / "pillar"
        folder.mkdir()
        shutil.copy(REPO / "pillar/defaults.sls", folder)
        (folder / "rack.sls").write_text(json.dumps(rack))
        (folder / "top.sls").write_text(json.dumps({"base": {"*": ["defaults", "rack"]}}))
        opts = salt.config.minion_config(None)
        opts.update({
            "id": rack["node"]["id"],
            **{key: str(tmp_path / key) for key in
               ("root_dir", "cachedir", "pki_dir", "sock_dir", "extension_modules", "conf_file")},
            "file_client": "local", "local": True, "enable_gpu_grains": False,
            "file_roots": {"base": [str(SALT)]}, "pillar_roots": {"base": [str(folder)]},
            "pillar_source_merging_strategy": "recurse",
            "module_dirs": [str(REPO / "_modules")], "states_dirs": [str(REPO / "_states")],
            "utils_dirs": [str(REPO / "_utils")],
        })  # fmt: skip
        return Loaders(opts)

    return make


Low = list[dict[str, Any]]


@pytest.fixture(scope="module")
def highstate(loaders: Callable[..., Loaders]) -> Callable[..., Low]:
    """Return a function that compiles the highstate of these roles with one of PILLARS, once."""

    @functools.cache
    def compiled(roles: str, name: str) -> Low:
        low = loaders(roles.split("-"), PILLARS[name]).modules.state.show_lowstate()
        assert all(isinstance(chunk, dict) for chunk in low), low
        return list(low)

    def for_roles(roles: list[str], name: str = "defaults") -> Low:
        return compiled("-".join(roles), name)

    return for_roles


def values(low: Low, state_id: str) -> dict[str, Any]:
    """Return the one state with this id."""
    (chunk,) = [chunk for chunk in low if chunk["__id__"] == state_id]
    return chunk


def test_every_sls_is_found() -> None:
    assert {"roles.worker", "base", "containerd.configured", "cni.routed"} <= set(SLS)
    assert not list(SALT.rglob("__init__.py")), "would shadow the salt library"


@pytest.mark.parametrize("name", PILLARS)
def test_every_sls_compiles(loaders: Any, name: str) -> None:
    """Also those that no role includes, all in one compile: state ids are unique."""
    low = loaders(["worker"], PILLARS[name]).modules.state.show_low_sls(SLS)
    assert all(isinstance(chunk, dict) for chunk in low), low
    assert {"cni.routed", "cni.absent", "base.kernel"} <= {chunk["__sls__"] for chunk in low}


def test_every_component_stands_on_its_own(loaders: Any) -> None:
    """The master applies single ones: cni when nodes come or go, kubeadm.joined with a ticket."""
    modules = loaders(["worker"], {}).modules
    for sls in ("base", "containerd", "kubernetes", "kubeadm.initialized", "kubeadm.joined", "cni",
                "mirror", "kubeconfig", "salt_master", "salt_minion"):  # fmt: skip
        low = modules.state.show_low_sls(sls)
        assert low
        assert all(isinstance(chunk, dict) for chunk in low), low


def test_a_join_is_not_held_up_by_packages(loaders: Any) -> None:
    """What runs between ticket and node: the check, the join, nothing else."""
    low = loaders(["worker"], {}).modules.state.show_low_sls("kubeadm.joined")
    assert [chunk["__id__"] for chunk in low] == ["kubeadm-joined-fit", "kubeadm-joined"]


@pytest.mark.parametrize("roles", [*ROLES, []], ids=lambda roles: "-".join(roles) or "none")
def test_the_top_file_gives_the_roles_and_nothing_else(loaders: Any, roles: list[str]) -> None:
    top = loaders(roles, {}).modules.state.show_top()
    assert top.get("base", []) == [f"roles.{role}" for role in roles]


@pytest.mark.parametrize("name", PILLARS)
@pytest.mark.parametrize("roles", ROLES, ids="-".join)
def test_the_highstate_of_every_role_compiles(highstate: Any, roles: list[str], name: str) -> None:
    low = highstate(roles, name)
    ids = {chunk["__id__"] for chunk in low}
    assert "base-hosts" in ids
    # A role that a node has not is never undone by a highstate.
    assert not any(chunk["__sls__"].startswith(("kubeadm.absent", "cni.absent")) for chunk in low)
    for chunk in low:
        # One of these loads every state and execution module (33 % of a highstate).
        assert not {"unless", "onlyif", "creates"} & chunk.keys(), chunk
        assert chunk["state"] != "cmd", chunk


def test_roles_hold_what_they_should(highstate: Any) -> None:
    ids = {"-".join(roles): {chunk["__id__"] for chunk in highstate(roles)} for roles in ROLES}
    assert {"base-swap", "containerd-running", "kubeadm-joined", "cni-routed"} <= ids["worker"]
    assert {"base-swap", "kubeadm-initialized", "cni-routed"} <= ids["control_plane"]
    storage = ids["storage-master"]
    assert {"base-hosts", "mirror-nginx-running", "kubeconfig-admin"} <= storage
    assert not {"base-swap", "containerd-running", "kubernetes-packages"} & storage
    assert "kubeadm-joined" not in ids["control_plane"]


def test_what_is_written_for_an_air_gapped_rack(highstate: Any) -> None:
    low = highstate(["worker"], "air-gapped")
    source = values(low, "kubernetes-source")["contents"]
    assert dict(line.split(": ") for line in source.splitlines()[1:]) == {
        "Types": "deb",
        "URIs": "http://192.168.1.10/apt/kubernetes/",
        "Suites": "stable",
        "Components": "main",
        "Signed-By": "/etc/apt/keyrings/saltberry-kubernetes.gpg",
    }
    own = values(low, "containerd-registry-192.168.1.10:5000")["contents"]
    assert 'server = "http://192.168.1.10:5000"' in own
    mirror = values(low, "containerd-registry-docker.io")
    assert mirror["name"] == "/etc/containerd/certs.d/docker.io/hosts.toml"
    assert "server" not in mirror["contents"]
    assert '[host."http://192.168.1.10:5000"]' in mirror["contents"]
    pinned = values(low, "kubernetes-packages")["packages"]
    assert set(pinned.values()) == {"1.20.2-1.1"}


@pytest.mark.parametrize(
    ("name", "pause"),
    [("defaults", "registry.k8s.io/pause:3.10.1"), ("air-gapped", "192.168.1.10:5000/pause:3.2")],
)
def test_the_containerd_configuration_is_toml(highstate: Any, name: str, pause: str) -> None:
    low = highstate(["worker"], name)
    files = [chunk for chunk in low if chunk.get("name", "").endswith(".toml")]
    parsed = {chunk["__id__"]: tomllib.loads(chunk["contents"]) for chunk in files}
    cri = parsed["containerd-config"]["plugins"]["io.containerd.grpc.v1.cri"]
    assert cri["sandbox_image"] == pause
    assert cri["registry"]["config_path"] == "/etc/containerd/certs.d"
    assert isinstance(cri["restrict_oom_score_adj"], bool)
    assert cri["containerd"]["runtimes"]["runc"]["options"]["SystemdCgroup"] is True


@pytest.mark.parametrize(("name", "listen"), [("defaults", None), ("air-gapped", "192.168.1.10")])
def test_the_mirror_is_for_the_rack(highstate: Any, name: str, listen: str | None) -> None:
    low = highstate(["storage", "master"], name)
    site = values(low, "mirror-nginx-site")["contents"]
    assert "allow 192.168.1.0/24;" in site
    assert "deny all;" in site
    assert f"listen {listen or '*'}:80;" in site
    registry = yaml.safe_load(values(low, "mirror-registry-config")["contents"])
    assert registry["http"]["addr"] == f"{listen or ''}:5000"
    assert registry["storage"]["maintenance"]["readonly"]["enabled"] is True


@pytest.mark.skipif(not Path("/usr/bin/dpkg-query").exists(), reason="needs Debian's dpkg")
@pytest.mark.parametrize("roles", ROLES, ids="-".join)
def test_a_test_run_on_a_blank_node_fails_nowhere(loaders: Any, roles: list[str]) -> None:
    returned = loaders(roles, PILLARS["air-gapped"]).modules.state.apply(test=True)
    assert [ret for ret in returned if ret.result is False] == []
    assert any(ret.result is None for ret in returned)
