"""A cluster keeps its pod network; flannel on a real API server, with a node whose files are a folder here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import pytest
import yaml
from saltberry_ext.modules import cni, manifests, node
from saltberry_ext.states import cni as state
from saltberry_ext.states import manifests as manifests_state
from saltberry_ext.utils import kube_programs

from tests.unit import kube_schema

from . import kube_api

REPO = Path(__file__).resolve().parents[3]
SOURCE = "salt://cni/files/flannel.yaml"
ROUTED = "/etc/cni/net.d/10-saltberry.conflist"
needs_api = pytest.mark.skipif(bool(kube_api.missing()), reason=kube_api.missing())


def settings(**kubernetes: Any) -> dict[str, Any]:
    defaults = yaml.safe_load((REPO / "pillar/defaults.sls").read_text())["kubernetes"]
    return {"kubernetes": {**defaults, **kubernetes}, "node": {"roles": ["worker"]}}


class Pi:
    """A node: its files, its pillar, what the module gets from others."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.pillar = settings()
        self.routed: list[str] = []
        self.commands: list[list[str]] = []

    def put(self, path: str, text: str = "{}\n") -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def join(self) -> None:
        self.put("/etc/kubernetes/kubelet.conf")

    def chosen(self, name: str, test: bool = False) -> dict[str, Any]:
        state.__opts__["test"] = test
        try:
            return state.chosen(name)
        finally:
            state.__opts__["test"] = False


@pytest.fixture
def pi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pi:
    made = Pi(tmp_path / "root")
    made.root.mkdir()

    def run(argv: list[str], **_: Any) -> dict[str, Any]:
        made.commands.append(argv)
        return {"retcode": 0}

    salt = {"routed_cni.present": lambda: made.routed, "cmd.run_all": run}
    salt["manifests.pod_reasons"] = manifests.pod_reasons
    monkeypatch.setattr(cni, "_ROOT", made.root)
    monkeypatch.setattr(cni, "ADMIN_CONF", made.root / "etc/kubernetes/admin.conf")
    monkeypatch.setattr(cni, "__salt__", salt, raising=False)
    monkeypatch.setattr(cni, "__pillar__", made.pillar, raising=False)
    monkeypatch.setattr(cni, "__opts__", {"id": "pi-01"}, raising=False)
    utils = {"kube_programs.kubectl_json": kube_programs.kubectl_json}
    monkeypatch.setattr(cni, "__utils__", utils, raising=False)
    names = ("refusal", "leftovers", "remove_leftovers", "wait")
    execution: dict[str, Any] = {f"cni.{name}": getattr(cni, name) for name in names}
    execution["manifests.is_here"] = lambda: manifests.is_here()  # noqa: PLW0108 (patched later)
    monkeypatch.setattr(state, "__salt__", execution, raising=False)
    monkeypatch.setattr(state, "__opts__", {"test": False}, raising=False)
    return made


@pytest.mark.parametrize("test", [True, False])
@pytest.mark.parametrize("has", ["routed", "flannel"])
def test_a_member_keeps_the_pod_network_it_has(pi: Pi, has: str, test: bool) -> None:
    pi.join()
    other = {"routed": "flannel", "flannel": "routed"}[has]
    if has == "routed":
        pi.routed = [ROUTED]
    else:
        pi.put(cni.FLANNEL_CONFLIST)
    ret = pi.chosen(other, test)
    assert (ret["result"], ret["changes"]) == (False, {})
    assert f"kubernetes.cni is {other}, but this cluster was made with {has}" in ret["comment"]
    assert "is here" in ret["comment"] and f"Set kubernetes.cni to {has}" in ret["comment"]
    ret = pi.chosen(has, test)
    assert (ret["result"], ret["changes"]) == (True, {})
    assert pi.commands == []


@pytest.mark.parametrize("test", [True, False])
def test_a_node_that_is_to_join_a_cluster_with_another_one_is_refused(pi: Pi, test: bool) -> None:
    pi.pillar["cluster"] = {"cni": "routed"}
    ret = pi.chosen("flannel", test)
    assert ret["result"] is False
    assert "the control plane has it" in ret["comment"]
    assert pi.chosen("routed", test)["result"] is True


def test_a_new_control_plane_is_not_bound_by_the_cluster_before(pi: Pi) -> None:
    pi.pillar["cluster"] = {"cni": "routed"}
    pi.pillar["node"] = {"roles": ["control_plane"]}
    assert pi.chosen("flannel")["result"] is True


def test_what_an_earlier_life_left_goes_before_a_node_joins_again(pi: Pi) -> None:
    pi.put(cni.FLANNEL_CONFLIST)
    pi.put("/run/flannel/subnet.env")
    (pi.root / "sys/class/net/flannel.1").mkdir(parents=True)
    told = pi.chosen("flannel", test=True)
    assert told["result"] is None
    assert (pi.root / "run/flannel/subnet.env").exists()
    assert pi.chosen("flannel")["changes"] == told["changes"]
    assert not (pi.root / "run/flannel").exists()
    assert ["ip", "link", "delete", "flannel.1"] in pi.commands
    (pi.root / "sys/class/net/flannel.1").rmdir()  # what the command would have done
    assert pi.chosen("flannel")["changes"] == {}


def test_a_kernel_without_vxlan_is_told_in_the_preflight(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pillar = settings()
    monkeypatch.setattr(node, "__pillar__", pillar, raising=False)
    monkeypatch.setattr(node, "_ROOT", tmp_path)
    monkeypatch.setattr(node, "container", lambda: False)
    monkeypatch.setattr(node, "modules_missing", lambda names: names)
    monkeypatch.setattr(node, "_can_load", lambda name: False)
    (problem,) = node._check_pod_network()
    assert "no module vxlan" in problem and "linux-modules-extra-raspi" in problem
    pillar["kubernetes"]["flannel"] = {**pillar["kubernetes"]["flannel"], "backend": "host-gw"}
    assert node._check_pod_network() == []
    pillar.update(settings(cni="routed"))
    assert node._check_pod_network() == []
    pillar.update(settings())
    monkeypatch.setattr(node, "_can_load", lambda name: True)
    assert node._check_pod_network() == []
    # The kernel of a container is its host's, and nothing can be loaded there
    monkeypatch.setattr(node, "container", lambda: True)
    assert len(node._check_pod_network()) == 1


# --- on a real API server ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kube_api.Api]:
    with kube_api.running(
        tmp_path_factory.mktemp("api"), ("daemonset", "serviceaccount-token")
    ) as running:
        yield running


@pytest.fixture
def control_plane(pi: Pi, api: kube_api.Api, monkeypatch: pytest.MonkeyPatch) -> Pi:
    """A member with the admin's way to the cluster."""
    monkeypatch.setenv("PATH", str(kube_api.BINARIES), prepend=":")
    pi.join()
    for module in (cni, manifests):
        monkeypatch.setattr(module, "ADMIN_CONF", api.etc / "admin.conf")
    pi.pillar["node"] = {"roles": ["control_plane"]}
    programs = SimpleNamespace(**{
        name: getattr(kube_programs, name) for name in ("kubectl", "last_lines", "kubectl_json")
    })  # fmt: skip
    utils = {f"kube_programs.{name}": each for name, each in vars(programs).items()}

    def render(path: str, default_renderer: str, **values: Any) -> str:
        text = (REPO / "salt" / path.removeprefix("salt://")).read_text()
        environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
        environment.filters["json"] = json.dumps
        return environment.from_string(text).render(values)

    monkeypatch.setattr(manifests, "__utils__", utils, raising=False)
    monkeypatch.setattr(manifests, "__context__", {}, raising=False)
    monkeypatch.setattr(manifests, "__salt__", {"slsutil.renderer": render}, raising=False)
    names = ("read", "is_here", "plan", "apply", "remove", "wait", "found", "has_room")
    execution = {f"manifests.{name}": getattr(manifests, name) for name in names}
    monkeypatch.setattr(manifests_state, "__salt__", execution, raising=False)
    monkeypatch.setattr(manifests_state, "__opts__", {"test": False}, raising=False)
    monkeypatch.setattr(manifests_state, "__pillar__", {}, raising=False)
    return pi


def applied(test: bool = False) -> dict[str, Any]:
    manifests.__context__.clear()
    manifests_state.__opts__["test"] = test
    return manifests_state.applied("flannel", SOURCE, values=cni.flannel_values(), timeout=0)


@needs_api
@pytest.mark.parametrize("version", [*kube_schema.MINORS, kube_schema.NEWEST])
def test_every_version_of_kubernetes_knows_every_field(control_plane: Pi, version: str) -> None:
    found = manifests.read(SOURCE, "flannel", **cni.flannel_values())
    assert [said for each in found for said in kube_schema.problems(each, version)] == []


@needs_api
def test_flannel_is_applied_once_without_waiting_for_anybody(
    control_plane: Pi, api: kube_api.Api
) -> None:
    told = applied(test=True)
    assert told["result"] is None
    assert "DaemonSet kube-flannel/kube-flannel" in told["changes"]
    assert applied()["changes"] == told["changes"]
    for test in (True, False):
        assert applied(test)["changes"] == {}
    # Known on the cluster before its first pod has written a file, and not to be changed any more
    ret = control_plane.chosen("routed")
    assert ret["result"] is False
    assert "the cluster has the namespace kube-flannel" in ret["comment"]
    assert control_plane.chosen("flannel")["result"] is True
    for key, other in (
        ("flannel", {**control_plane.pillar["kubernetes"]["flannel"], "backend": "host-gw"}),
        ("pod_network", "10.99.0.0/16"),
    ):
        before = control_plane.pillar["kubernetes"][key]
        control_plane.pillar["kubernetes"][key] = other
        ret = control_plane.chosen("flannel", test=True)
        assert ret["result"] is False
        assert "of this cluster was made with" in ret["comment"], ret["comment"]
        control_plane.pillar["kubernetes"][key] = before


@needs_api
def test_a_control_plane_without_flannels_pod_says_why(
    control_plane: Pi, api: kube_api.Api
) -> None:
    applied()
    assert "no pod of flannel on pi-01" in state.here("flannel", timeout=0)["comment"]
    ready = {
        "metadata": {"name": "pi-01", "labels": {"kubernetes.io/os": "linux"}},
        "apiVersion": "v1",
        "kind": "Node",
    }
    api.kubectl("apply", "-f", "-", stdin=json.dumps(ready))

    def pods() -> list[dict[str, Any]]:
        found = api.kubectl("get", "pods", "-n", "kube-flannel", "-o", "json")
        return list(json.loads(found)["items"])

    for _ in range(100):
        if pods():
            break
        kube_programs.time.sleep(0.2)
    events = api.kubectl("get", "events", "-A", "-o", "jsonpath={.items[*].message}")
    assert len(pods()) == 1, events
    (pod,) = pods()
    # There is no scheduler and no kubelet here: what they would have said
    binding = {
        "apiVersion": "v1", "kind": "Binding",
        "metadata": {"name": pod["metadata"]["name"], "namespace": "kube-flannel"},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "pi-01"},
    }  # fmt: skip
    path = f"/api/v1/namespaces/kube-flannel/pods/{pod['metadata']['name']}"
    api.kubectl("create", "--raw", f"{path}/binding", "-f", "-", stdin=json.dumps(binding))
    (pod,) = pods()
    waiting = {"reason": "ImagePullBackOff", "message": "ghcr.io does not answer"}
    pod["status"]["initContainerStatuses"] = [{
        "name": "plugin", "ready": False, "restartCount": 0, "image": "x", "imageID": "",
        "state": {"waiting": waiting},
    }]  # fmt: skip
    api.kubectl("replace", "--raw", f"{path}/status", "-f", "-", stdin=json.dumps(pod))
    ret = state.here("flannel", timeout=0)
    assert ret["result"] is False
    assert "ImagePullBackOff: ghcr.io does not answer" in ret["comment"], ret["comment"]
    state.__opts__["test"] = True
    assert state.here("flannel")["result"] is None
    state.__opts__["test"] = False
    control_plane.put(cni.FLANNEL_CONFLIST)
    assert state.here("flannel", timeout=0)["result"] is True
