"""A service's objects on a real API server: module and state together."""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError
from saltberry_ext.modules import manifests
from saltberry_ext.states import manifests as state
from saltberry_ext.utils import kube_programs

from . import kube_api

pytestmark = pytest.mark.skipif(bool(kube_api.missing()), reason=kube_api.missing())

CONTROLLERS = ("namespace", "deployment", "replicaset", "pvc-protection", "serviceaccount")
SOURCE = "salt://services/web/manifests.yaml"
TEXT = """
apiVersion: v1
kind: Namespace
metadata: {name: WEB}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: pages, namespace: WEB}
data: {greeting: hello}
---
apiVersion: v1
kind: Secret
metadata: {name: door, namespace: WEB}
stringData: {password: open-sesame}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: kept, namespace: WEB}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 1Gi}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: server, namespace: WEB}
spec:
  replicas: 1
  selector: {matchLabels: {app: server}}
  template:
    metadata: {labels: {app: server}}
    spec:
      containers: [{name: server, image: "localhost:5000/web:1"}]
"""


# This API server is one that cannot apply it server-side
BESIDE = """
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1.WEB.example.org}
spec:
  group: WEB.example.org
  version: v1
  service: {name: server, namespace: WEB}
  groupPriorityMinimum: 100
  versionPriority: 100
  insecureSkipTLSVerify: true
"""
MADE = """
apiVersion: v1
kind: Secret
metadata:
  name: made
  namespace: WEB
  annotations: {saltberry/generated: "admin, reader"}
"""
WORKER = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "pi-01"},
    "spec": {"taints": []},
    "status": {"conditions": [{"type": "Ready", "status": "True"}]},
}
ALL = (
    "Namespace",
    "ConfigMap pages",
    "Secret door",
    "PersistentVolumeClaim kept",
    "Deployment server",
)
_NUMBERS = itertools.count()


class Files:
    """What the file server has, as Salt's renderer would give it; each test has a service of its own."""

    def __init__(self) -> None:
        self.text = TEXT
        self.service = f"web{next(_NUMBERS)}"

    def keys(self, *names: str) -> set[str]:
        """Names of objects in the service's namespace, and of this itself."""
        return {
            f"Namespace {self.service}"
            if name == "Namespace"
            else name.replace(" ", f" {self.service}/")
            for name in names or ALL
        }

    def render(self, path: str, default_renderer: str, **values: Any) -> str:
        assert (path, default_renderer) == (SOURCE, "jinja")
        return self.text.replace("WEB", self.service)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kube_api.Api]:
    with kube_api.running(tmp_path_factory.mktemp("api"), CONTROLLERS) as running:
        yield running


@pytest.fixture
def files() -> Files:
    return Files()


@pytest.fixture
def cluster(api: kube_api.Api, files: Files, monkeypatch: pytest.MonkeyPatch) -> kube_api.Api:
    """The module as it runs on the control plane, before anybody applied anything."""
    monkeypatch.setenv("PATH", str(kube_api.BINARIES), prepend=":")
    monkeypatch.setattr(manifests, "ADMIN_CONF", api.etc / "admin.conf")
    utils = {
        f"kube_programs.{name}": getattr(kube_programs, name) for name in ("kubectl", "last_lines")
    }
    monkeypatch.setattr(manifests, "__utils__", utils, raising=False)
    monkeypatch.setattr(manifests, "__context__", {}, raising=False)
    monkeypatch.setattr(manifests, "__salt__", {"slsutil.renderer": files.render}, raising=False)
    execution = {
        f"manifests.{name}": getattr(manifests, name)
        for name in ("read", "is_here", "plan", "apply", "remove", "wait", "found", "has_room")
    }
    monkeypatch.setattr(state, "__salt__", execution, raising=False)
    monkeypatch.setattr(state, "__opts__", {"test": False}, raising=False)
    monkeypatch.setattr(state, "__pillar__", {}, raising=False)
    return api


def applied(files: Files, test: bool = False) -> dict[str, Any]:
    """A run of its own: what another saw may have changed since."""
    manifests.__context__.clear()
    state.__opts__["test"] = test
    try:
        return state.applied(files.service, SOURCE, timeout=0)
    finally:
        state.__opts__["test"] = False


@pytest.mark.usefixtures("cluster")
def test_what_test_mode_says_is_done_and_once(files: Files) -> None:
    told = applied(files, test=True)
    assert (told["result"], told["changes"]) == (None, dict.fromkeys(files.keys(), "new"))
    assert manifests.found(files.service) == []
    done = applied(files)
    assert (done["result"], done["changes"]) == (True, told["changes"])
    again = applied(files)
    assert (again["result"], again["changes"]) == (True, {}), again
    again = applied(files, test=True)
    assert (again["result"], again["changes"]) == (True, {}), again


def test_what_was_changed_by_hand_is_told_as_a_diff_and_set_right(
    cluster: kube_api.Api, files: Files
) -> None:
    applied(files)
    patch = json.dumps({"data": {"greeting": "bye"}})
    cluster.kubectl("patch", "-n", files.service, "configmap", "pages", "--patch", patch)
    told = applied(files, test=True)
    assert set(told["changes"]) == files.keys("ConfigMap pages")
    assert (
        "-  greeting: bye\n+  greeting: hello"
        in told["changes"][f"ConfigMap {files.service}/pages"]
    )
    assert applied(files)["changes"] == told["changes"]
    assert applied(files, test=True)["changes"] == {}


@pytest.mark.usefixtures("cluster")
def test_a_changed_line_of_a_configuration_file_is_told_as_that_line(files: Files) -> None:
    files.text = TEXT.replace("{greeting: hello}", '{file.conf: "one\\ntwo: 2\\nthree\\n"}')
    applied(files)
    files.text = files.text.replace("two: 2", "two: 3")
    told = applied(files, test=True)["changes"][f"ConfigMap {files.service}/pages"]
    changed = [line for line in told.splitlines()[2:] if line[0] in "+-"]
    assert changed == ["-    two: 2", "+    two: 3"]


def test_fields_of_others_stay(cluster: kube_api.Api, files: Files) -> None:
    files.text = TEXT.replace("  replicas: 1\n", "")
    applied(files)
    cluster.kubectl("scale", "-n", files.service, "deployment", "server", "--replicas=3")
    assert applied(files)["changes"] == {}
    scaled = cluster.kubectl(
        "get", "-n", files.service, "deployment", "server", "-o", "jsonpath={.spec.replicas}"
    )
    assert scaled == "3"


@pytest.mark.usefixtures("cluster")
def test_what_is_no_longer_wanted_goes_and_claims_stay(files: Files) -> None:
    applied(files)
    documents = TEXT.split("---")
    files.text = "---".join(
        each for each in documents if "ConfigMap" not in each and "kept" not in each
    )
    told = applied(files, test=True)
    assert told["changes"] == dict.fromkeys(files.keys("ConfigMap pages"), "gone")
    assert applied(files)["changes"] == told["changes"]
    left = {manifests._key(each) for each in manifests.found(files.service)}
    assert left == files.keys() - files.keys("ConfigMap pages")


def test_what_is_on_its_way_out_is_no_change_to_come(cluster: kube_api.Api, files: Files) -> None:
    applied(files)
    pages = ("-n", files.service, "configmap", "pages")
    hold = {"metadata": {"finalizers": ["example.org/hold"]}}
    cluster.kubectl("patch", *pages, "-p", json.dumps(hold))
    cluster.kubectl("delete", "--wait=false", *pages)
    files.text = "---".join(each for each in TEXT.split("---") if "ConfigMap" not in each)
    assert applied(files, test=True)["changes"] == {}
    cluster.kubectl("patch", *pages, "--type=merge", "-p", '{"metadata": {"finalizers": null}}')


@pytest.mark.usefixtures("cluster")
def test_secrets_are_never_told(files: Files) -> None:
    applied(files)
    files.text = TEXT.replace("open-sesame", "other-words")
    told = applied(files, test=True)
    assert set(told["changes"]) == files.keys("Secret door")
    for secret in ("open-sesame", "other-words", "b3Blbi1zZXNhbWU", "b3RoZXItd29yZHM"):
        assert secret not in str(told)
    assert applied(files)["changes"]
    assert applied(files)["changes"] == {}


def test_an_api_beside_the_clusters_own_comes_changes_and_goes(
    cluster: kube_api.Api, files: Files
) -> None:
    beside = f"APIService v1.{files.service}.example.org"
    files.text = f"{TEXT}---\n{BESIDE}"
    told = applied(files, test=True)
    assert (told["result"], told["changes"][beside]) == (None, "new")
    assert applied(files)["changes"] == told["changes"]
    assert applied(files)["changes"] == {}
    asked = ("get", "apiservice", beside.split()[1])
    files.text = files.text.replace("versionPriority: 100", "versionPriority: 50")
    told = applied(files, test=True)
    assert set(told["changes"]) == {beside}
    assert "+  versionPriority: 50" in told["changes"][beside]
    assert applied(files)["changes"] == told["changes"]
    files.text = TEXT
    assert applied(files)["changes"] == {beside: "gone"}
    assert cluster.kubectl(*asked, "--ignore-not-found") == ""


def passwords(cluster: kube_api.Api, files: Files) -> dict[str, str]:
    """What is in the Secret ``made``, as the API server has it."""
    text = cluster.kubectl("get", "-n", files.service, "secret", "made", "-o", "json")
    return dict(json.loads(text).get("data") or {})


def test_passwords_are_made_once_and_told_to_nobody(cluster: kube_api.Api, files: Files) -> None:
    files.text = f"{TEXT}---\n{MADE}"
    told = applied(files, test=True)
    assert told["changes"] == dict.fromkeys(files.keys(*ALL, "Secret made"), "new")
    done = applied(files)
    first = passwords(cluster, files)
    assert set(first) == {"admin", "reader"}
    assert all(len(base64.b64decode(value)) >= 32 for value in first.values())
    assert len(set(first.values())) == 2
    for test in (True, False):
        again = applied(files, test)
        assert (again["result"], again["changes"]) == (True, {}), again
    assert passwords(cluster, files) == first
    for value in first.values():
        assert value not in str(done)
        assert base64.b64decode(value).decode() not in str(done)


def test_a_password_that_was_deleted_or_is_new_is_made_and_the_others_stay(
    cluster: kube_api.Api, files: Files
) -> None:
    files.text = f"{TEXT}---\n{MADE}"
    applied(files)
    first = passwords(cluster, files)
    patch = json.dumps({"data": {"reader": None}})
    cluster.kubectl("patch", "-n", files.service, "secret", "made", "--patch", patch)
    files.text = files.text.replace("admin, reader", "admin, reader, writer")
    told = applied(files, test=True)
    assert set(told["changes"]) == files.keys("Secret made")
    assert applied(files)["changes"] == told["changes"]
    then = passwords(cluster, files)
    assert set(then) == {"admin", "reader", "writer"}
    assert then["admin"] == first["admin"]
    assert then["reader"] != first["reader"]
    patch = json.dumps({"data": {"reader": None}})
    cluster.kubectl("patch", "-n", files.service, "secret", "made", "--patch", patch)
    told = applied(files, test=True)
    assert told["changes"] == {f"Secret {files.service}/made": "to be made: reader"}
    assert applied(files)["changes"] == told["changes"]
    assert applied(files)["changes"] == {}


def test_pods_start_anew_when_their_configuration_changes(
    cluster: kube_api.Api, files: Files
) -> None:
    volume = "      volumes: [{name: pages, configMap: {name: pages}}]\n"
    files.text = TEXT + volume
    applied(files)

    def template() -> str:
        path = "jsonpath={.spec.template}"
        return cluster.kubectl("get", "-n", files.service, "deployment", "server", "-o", path)

    before = template()
    files.text = TEXT.replace("{greeting: hello}", "{greeting: bye}") + volume
    done = applied(files)
    assert set(done["changes"]) == files.keys("ConfigMap pages", "Deployment server")
    assert template() != before
    assert applied(files)["changes"] == {}


def test_absent_leaves_nothing_but_the_data(cluster: kube_api.Api, files: Files) -> None:
    applied(files)
    state.__opts__["test"] = True
    told = state.absent(files.service)
    state.__opts__["test"] = False
    assert told["result"] is None
    assert set(told["changes"]) == files.keys("ConfigMap pages", "Secret door", "Deployment server")
    done = state.absent(files.service)
    assert (done["result"], done["changes"]) == (True, told["changes"])
    assert f"PersistentVolumeClaim {files.service}/kept" in done["comment"]
    left = cluster.kubectl("get", "-n", files.service, "pvc,configmap,secret,deployment", "-o", "name",
                           f"--selector={manifests.PART_OF}={files.service}")  # fmt: skip
    assert left.split() == ["persistentvolumeclaim/kept"]
    assert state.absent(files.service)["changes"] == {}


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (TEXT.replace("accessModes: [ReadWriteOnce]", "accessModes: [Never]"), "kept.*Never"),
        (TEXT.replace("kind: ConfigMap", "kind: Confmap"), "Confmap"),
        ("just: a mapping", "without apiVersion, kind and metadata"),
        ("a: [", "is no YAML"),
    ],
)
def test_what_the_api_server_refuses_is_named_and_nothing_is_touched(
    files: Files, wrong: str, words: str
) -> None:
    applied(files)
    before = manifests.found(files.service)
    files.text = wrong
    ret = applied(files)
    assert ret["result"] is False
    assert ret["changes"] == {}
    assert re.search(words, ret["comment"]), ret["comment"]
    assert manifests.found(files.service) == before


def test_pods_that_do_not_come_are_told_of(cluster: kube_api.Api, files: Files) -> None:
    applied(files)
    assert set(manifests.wait(files.service, timeout=0)) == files.keys("Deployment server")
    ret = state.applied(files.service, SOURCE, timeout=0.1)
    assert (ret["result"], ret["changes"]) == (True, {})
    assert "no node takes pods yet" in ret["comment"]
    node = {**WORKER, "spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}}
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(node))
    assert not manifests.has_room()
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(WORKER))
    try:
        ret = state.applied(files.service, SOURCE, timeout=0.1)
    finally:
        cluster.kubectl("delete", "node", "pi-01")
    assert ret["result"] is False
    assert f"Deployment {files.service}/server: " in ret["comment"]
    state.__pillar__["manifests_wait"] = False
    assert state.applied(files.service, SOURCE, timeout=300)["result"] is True


def test_services_that_left_but_their_data_are_told_apart(
    cluster: kube_api.Api, files: Files
) -> None:
    applied(files)
    assert files.service in manifests.services()
    state.absent(files.service)
    assert files.service not in manifests.services()
    assert {each["kind"] for each in manifests.found(files.service)} == {
        "Namespace", "PersistentVolumeClaim"
    }  # fmt: skip


@pytest.mark.usefixtures("cluster")
def test_without_a_cluster_test_mode_says_what_will_be(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: Files
) -> None:
    monkeypatch.setattr(manifests, "ADMIN_CONF", tmp_path / "none")
    told = applied(files, test=True)
    assert (told["result"], told["changes"]) == (None, {})
    assert "5 objects would be applied" in told["comment"]
    assert applied(files)["result"] is False
    assert state.absent(files.service)["result"] is True
    with pytest.raises(CommandExecutionError, match="no control plane"):
        manifests.found(files.service)


def test_a_node_that_is_off_is_no_fault_of_a_service(cluster: kube_api.Api, files: Files) -> None:
    files.text = """
apiVersion: v1
kind: Namespace
metadata: {name: WEB}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: everywhere, namespace: WEB}
spec:
  selector: {matchLabels: {app: everywhere}}
  template:
    metadata: {labels: {app: everywhere}}
    spec: {containers: [{name: one, image: "localhost:5000/web:1"}]}
"""
    applied(files)

    def set_status(path: str, status: dict[str, Any]) -> None:
        thing = json.loads(cluster.kubectl("get", "--raw", path))
        thing["status"] = status
        cluster.kubectl("replace", "--raw", f"{path}/status", "-f", "-", stdin=json.dumps(thing))

    def ready(yes: bool) -> dict[str, Any]:
        return {"conditions": [{"type": "Ready", "status": str(yes)}]}

    space = f"/namespaces/{files.service}"
    # What the controller and the kubelets would say of two nodes
    counts = {"desiredNumberScheduled": 2, "numberAvailable": 1, "updatedNumberScheduled": 2,
              "currentNumberScheduled": 2, "numberMisscheduled": 0, "numberReady": 1,
              "observedGeneration": 1}  # fmt: skip
    set_status(f"/apis/apps/v1{space}/daemonsets/everywhere", counts)
    names = ("pi-on", "pi-off")
    for name in names:
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
        cluster.kubectl("create", "-f", "-", stdin=json.dumps(node))
        pod = {"apiVersion": "v1", "kind": "Pod",
               "metadata": {"name": name, "namespace": files.service, "labels": {"app": "everywhere"}},
               "spec": {"nodeName": name, "automountServiceAccountToken": False,
                        "containers": [{"name": "one", "image": "localhost:5000/web:1"}]}}  # fmt: skip
        cluster.kubectl("create", "-f", "-", stdin=json.dumps(pod))
    try:
        set_status(f"/api/v1{space}/pods/pi-on", ready(True))
        set_status("/api/v1/nodes/pi-on", ready(True))
        set_status("/api/v1/nodes/pi-off", ready(True))
        assert set(manifests.wait(files.service, timeout=0)) == files.keys("DaemonSet everywhere")
        set_status("/api/v1/nodes/pi-off", ready(False))
        assert manifests.wait(files.service, timeout=0) == {}
        set_status(f"/api/v1{space}/pods/pi-on", ready(False))
        assert manifests.wait(files.service, timeout=0) != {}
    finally:
        for name in names:
            cluster.kubectl("delete", "node", name)


@pytest.mark.parametrize(
    ("status", "up"),
    [
        ({"replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}, True),
        ({"replicas": 1, "updatedReplicas": 0, "availableReplicas": 1}, False),
        ({"replicas": 2, "updatedReplicas": 1, "availableReplicas": 1}, False),
        ({"replicas": 1, "updatedReplicas": 1, "availableReplicas": 0}, False),
    ],
    ids=["new one up", "none new yet", "old one up, new one not", "not up"],
)
def test_an_old_pod_is_not_taken_for_the_new_one(status: dict[str, int], up: bool) -> None:
    each = {"kind": "Deployment", "metadata": {"generation": 2}, "spec": {"replicas": 1},
            "status": {"observedGeneration": 2, **status}}  # fmt: skip
    assert manifests._available(each) is up
