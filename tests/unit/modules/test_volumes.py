"""Volumes on the share and the registry's Secret, on a real API server; exports and folders."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from salt.exceptions import CommandExecutionError
from saltberry_ext.modules import nfs, rack_registry, volumes
from saltberry_ext.states import rack_registry as registry_state
from saltberry_ext.states import volumes as state
from saltberry_ext.utils import kube_programs, rackspec

from tests.unit.rendering import merged, rack_of

from . import kube_api

REPO = Path(__file__).resolve().parents[3]
DEFAULTS = yaml.safe_load((REPO / "pillar/defaults.sls").read_text())
STORAGE = {
    "enabled": True,
    "volumes": {
        "registry": {"size": "50G"},
        "data": {"size": "1G", "claim": "web/data", "owner": 999},
        "free": {"size": "1G"},
    },
}
UTILS = {
    **{f"kube_programs.{name}": getattr(kube_programs, name) for name in ("kubectl", "last_lines")},
    **{f"rackspec.{name}": getattr(rackspec, name)
       for name in ("share_uid", "registry_address", "registry_claim")},
}  # fmt: skip


def has(monkeypatch: pytest.MonkeyPatch, roles: list[str], **pillar: Any) -> None:
    """The modules run on the node with these roles, with this pillar."""
    rack = merged(DEFAULTS, rack_of(roles, pillar))
    for module in (nfs, volumes, rack_registry):
        monkeypatch.setattr(module, "__pillar__", rack, raising=False)
        monkeypatch.setattr(module, "__utils__", UTILS, raising=False)
        functions = {
            "nfs.storage_node": nfs.storage_node, "volumes.folders": volumes.folders,
            "volumes.owner": volumes.owner,
        }  # fmt: skip
        monkeypatch.setattr(module, "__salt__", functions, raising=False)
    monkeypatch.setattr(nfs, "__opts__", {"id": rack["node"]["id"]}, raising=False)


def test_each_volume_is_exported_to_the_nodes_as_its_own_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    has(monkeypatch, ["storage", "master"], services={"storage": STORAGE})
    tree = nfs.folders()
    assert tree["/srv/nfs/volumes/data"] == {"uid": 999, "mode": "0770"}
    assert tree["/srv/nfs/volumes/free"] == {"uid": 100000, "mode": "0770"}
    lines = {line.split()[0]: line for line in nfs.exports().splitlines()[1:]}
    data = lines["/srv/nfs/volumes/data"]
    assert "192.168.1.21(rw,sync," in data
    assert data.count("all_squash,anonuid=999,anongid=999") == 2, (
        "cp1 and pi-01, which have addresses"
    )
    assert "192.168.1.10" not in data
    assert "/srv/nfs/volumes/dynamic" not in tree


def test_a_storage_node_that_runs_pods_mounts_their_volumes_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = {"nfs1": {"ip": "192.168.1.10", "roles": ["storage", "master", "worker"]}}
    has(monkeypatch, ["storage", "master"], services={"storage": STORAGE}, nodes=nodes)
    lines = {line.split()[0]: line for line in nfs.exports().splitlines()[1:]}
    assert " 192.168.1.10(rw," in lines["/srv/nfs/volumes/data"]
    assert "192.168.1.10" not in lines["/srv/nfs/nodes/pi-01"]


def test_switched_off_nothing_is_exported_and_no_folder_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    has(monkeypatch, ["storage", "master"], services={"storage": {**STORAGE, "enabled": False}})
    assert not [path for path in nfs.folders() if path.startswith("/srv/nfs/volumes/")]
    assert "volumes" not in nfs.exports()


def test_pods_volumes_are_mounted_by_kubelet_and_not_by_the_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nfs, "kernel_has", lambda _: True)
    has(monkeypatch, ["worker"], services={"storage": STORAGE}, nfs={"volumes": {"media": {}}})
    assert [each["where"] for each in nfs.mounts()] == [
        "/srv/share/node",
        "/srv/share/volumes/media",
    ]


@pytest.mark.parametrize(
    ("network", "address"),
    [("10.96.0.0/12", "10.96.0.50"), ("10.98.0.0/28", "10.98.0.14"), ("10.9.0.0/26", "10.9.0.50")],
)
def test_the_registry_has_an_address_in_any_network(
    monkeypatch: pytest.MonkeyPatch, network: str, address: str
) -> None:
    has(monkeypatch, ["worker"], kubernetes={"service_network": network})
    assert rack_registry.address() == address
    assert rackspec.check(merged(DEFAULTS, rack_of(["worker"], {
        "kubernetes": {"service_network": network},
        "services": {"registry": {"cluster_ip": address}},
    }))) == []  # fmt: skip


needs_api = pytest.mark.skipif(bool(kube_api.missing()), reason=kube_api.missing())


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kube_api.Api]:
    controllers = ("namespace", "persistentvolume-binder", "pvc-protection", "pv-protection")
    with kube_api.running(tmp_path_factory.mktemp("api"), controllers) as made:
        made.kubectl("create", "namespace", "web")
        made.kubectl("create", "namespace", "registry")
        yield made


@pytest.fixture
def cluster(
    api: kube_api.Api, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[kube_api.Api, pytest.MonkeyPatch]]:
    monkeypatch.setenv("PATH", str(kube_api.BINARIES), prepend=":")
    for module in (volumes, rack_registry):
        monkeypatch.setattr(module, "ADMIN_CONF", api.etc / "admin.conf")
    has(monkeypatch, ["control_plane"], services={"storage": STORAGE})
    told = {"volumes.released": volumes.released, "volumes.open_again": volumes.open_again}
    monkeypatch.setattr(state, "__salt__", told, raising=False)
    monkeypatch.setattr(state, "__opts__", {"test": False}, raising=False)
    lacks = {
        f"rack_registry.{name}": getattr(rack_registry, name) for name in ("lan_lacks", "lan_files")
    }
    monkeypatch.setattr(registry_state, "__salt__", lacks, raising=False)
    yield api, monkeypatch


def volume(name: str, claim: str | None) -> dict[str, Any]:
    """A PersistentVolume as the manifests have it."""
    spec: dict[str, Any] = {
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany"], "storageClassName": "",
        "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": f"/srv/{name}"},
    }  # fmt: skip
    if claim:
        namespace, _, own = claim.partition("/")
        spec["claimRef"] = {"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                            "namespace": namespace, "name": own}  # fmt: skip
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": spec,
    }


def claim(name: str, of: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": "web"},
        "spec": {"accessModes": ["ReadWriteMany"], "storageClassName": "", "volumeName": of,
                 "resources": {"requests": {"storage": "1Mi"}}},
    }  # fmt: skip


def put(api: kube_api.Api, *things: dict[str, Any]) -> None:
    for thing in things:
        api.kubectl("apply", "-f", "-", stdin=json.dumps(thing))


def phase(api: kube_api.Api, name: str, wanted: str) -> None:
    """Wait until the volume is so."""
    argv = ("get", "pv", name, "-o", "jsonpath={.status.phase}")
    for _ in range(200):
        if (said := api.kubectl(*argv)) == wanted:
            return
    raise AssertionError(f"{name} is {said}, not {wanted}")


@needs_api
def test_a_reserved_volume_goes_to_the_next_claim_of_its_name_with_its_data(
    cluster: tuple[kube_api.Api, pytest.MonkeyPatch],
) -> None:
    api, monkeypatch = cluster
    put(api, volume("data", "web/data"), volume("free", None), claim("data", "data"),
        claim("other", "free"))  # fmt: skip
    for name in ("data", "free"):
        phase(api, name, "Bound")
    assert state.claimable("storage")["changes"] == {}
    for name in ("data", "other"):
        api.kubectl("delete", "pvc", "-n", "web", name)
    for name in ("data", "free"):
        phase(api, name, "Released")
    monkeypatch.setitem(state.__opts__, "test", True)
    told = state.claimable("storage")
    assert (told["result"], told["changes"]) == (None, {"data": "open to its claim again"})
    phase(api, "data", "Released")
    monkeypatch.setitem(state.__opts__, "test", False)
    assert state.claimable("storage")["result"] is True
    put(api, claim("data", "data"))
    phase(api, "data", "Bound")
    # one that is reserved for nobody is nobody's to open: it may hold a stranger's data
    phase(api, "free", "Released")
    assert state.claimable("storage")["changes"] == {}


@needs_api
def test_the_door_to_the_lan_stays_shut_until_its_certificate_is_there(
    cluster: tuple[kube_api.Api, pytest.MonkeyPatch],
) -> None:
    api, monkeypatch = cluster
    lan = {"enabled": True, "password": True}
    has(monkeypatch, ["control_plane"], services={"storage": STORAGE, "registry": {"lan": lan}})
    told = registry_state.lan_certified("registry")
    assert told["result"] is False
    for word in ("tls.crt, tls.key, htpasswd", "kubectl -n registry create secret generic lan"):
        assert word in told["comment"]
    assert rack_registry.values()["lan"] is None
    data = {key: base64.b64encode(b"open sesame").decode() for key in ("tls.crt", "tls.key")}
    secret = {"apiVersion": "v1", "kind": "Secret", "data": data,
              "metadata": {"name": "lan", "namespace": "registry"}}  # fmt: skip
    put(api, secret)
    told = registry_state.lan_certified("registry")
    assert (told["result"], "lacks htpasswd," in told["comment"]) == (False, True)
    has(monkeypatch, ["control_plane"],
        services={"storage": STORAGE, "registry": {"lan": {**lan, "password": False}}})  # fmt: skip
    assert registry_state.lan_certified("registry")["result"] is True
    first = rack_registry.values()
    assert first["lan"]["port"] == 30500
    assert "sesame" not in str(first)
    put(api, {**secret, "data": {**data, "tls.crt": "bmV3"}})
    assert rack_registry.values()["secret"] != first["secret"], "a new certificate reaches the pod"


def test_without_a_cluster_nothing_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in (volumes, rack_registry):
        monkeypatch.setattr(module, "ADMIN_CONF", tmp_path / "none")
    lan = {"enabled": True}
    has(monkeypatch, ["control_plane"], services={"storage": STORAGE, "registry": {"lan": lan}})
    assert rack_registry.lan_lacks() == []
    assert rack_registry.values()["lan"]["enabled"] is True
    assert volumes.released() == []


@needs_api
def test_an_api_server_that_refuses_is_a_failed_state(
    cluster: tuple[kube_api.Api, pytest.MonkeyPatch],
) -> None:
    with pytest.raises(CommandExecutionError, match="kubectl patch persistentvolume failed"):
        volumes.open_again("nothing")
