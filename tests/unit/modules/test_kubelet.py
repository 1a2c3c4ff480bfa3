"""What the kubelet of a member is told, against the ConfigMap and the rights of a real API server.

The kubelet itself stands in: a web server on its port of health, which comes up unless it was told a key or
a flag that it does not know.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from saltberry_ext.modules import kubelet
from saltberry_ext.states import kubelet as state
from saltberry_ext.utils import conffiles, kube_programs, kubeadm_config

from . import kube_api

pytestmark = pytest.mark.skipif(bool(kube_api.missing()), reason=kube_api.missing())

FLAGS = (
    'KUBELET_KUBEADM_ARGS="--container-runtime=remote --container-runtime-endpoint=/run/containerd/'
    'containerd.sock --node-ip=10.0.0.27 --pod-infra-container-image=k8s.gcr.io/pause:3.2"\n'
)
PORT = kube_api.free_port()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kube_api.Api]:
    with kube_api.running(tmp_path_factory.mktemp("api")) as running:
        yield running


@pytest.fixture(scope="module")
def credentials(api: kube_api.Api, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The kubelet.conf of a member, with no more rights than that."""
    folder = tmp_path_factory.mktemp("kubelet")
    subprocess.run(
        [
            str(kube_api.BINARIES / "kubeadm"), "init", "phase", "kubeconfig", "kubelet",
            f"--config={api.etc}/init.yaml", f"--kubeconfig-dir={folder}", "--node-name=pi-07",
        ],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return (folder / "kubelet.conf").read_text(encoding="utf-8")


class Kubelet:
    """The part of a kubelet that can be told wrong."""

    def __init__(self, root: Path) -> None:
        self.root, self.starts, self.server = root, 0, None

    def restart(self, name: str) -> None:
        assert name == "kubelet"
        self.starts += 1
        self.stop()
        told = "".join(
            (self.root / path.lstrip("/")).read_text(encoding="utf-8")
            for path in ("var/lib/kubelet/config.yaml", "etc/default/kubelet")
        )
        if "unheardOf" in told or "unheard-of" in told:
            return

        class Healthy(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if self.path == "/healthz" else 404)
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", PORT), Healthy)
        Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None


class Node:
    """A member of the cluster, as kubeadm left it."""

    def __init__(self, root: Path, kubelet_: Kubelet, pillar: dict[str, Any]) -> None:
        self.root, self.kubelet, self.pillar = root, kubelet_, pillar
        self.member = True
        self.asked = 0

    def file(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    @property
    def config(self) -> Path:
        return self.file("var/lib/kubelet/config.yaml")

    @property
    def flags(self) -> Path:
        return self.file("var/lib/kubelet/kubeadm-flags.env")

    @property
    def extra(self) -> Path:
        return self.file("etc/default/kubelet")

    def edit(self, **keys: Any) -> None:
        told = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        self.config.write_text(yaml.safe_dump({**told, **keys}), encoding="utf-8")

    def told(self) -> dict[str, Any]:
        found: dict[str, Any] = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        return found


@pytest.fixture
def node(
    api: kube_api.Api, credentials: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Node]:
    pillar = {
        "kubernetes": {"version": "1.20.2", "kubelet": {"healthzPort": PORT}},
        "node": {"id": "pi-07", "ip": "10.0.0.27"},
        "cluster": {},
    }
    made = Node(tmp_path, Kubelet(tmp_path), pillar)
    for path, text in {
        "etc/kubernetes/kubelet.conf": credentials,
        "etc/default/kubelet": "KUBELET_EXTRA_ARGS=\n",
        "var/lib/kubelet/kubeadm-flags.env": FLAGS,
        # as `kubeadm join` writes it, with what the pillar wanted of it already at init
        "var/lib/kubelet/config.yaml": api.kubectl(
            "--namespace=kube-system", "get", "configmap", "kubelet-config-1.20", "-o",
            "jsonpath={.data.kubelet}",
        ),
    }.items():  # fmt: skip
        made.file(path).parent.mkdir(parents=True, exist_ok=True)
        made.file(path).write_text(text, encoding="utf-8")
    made.edit(healthzPort=PORT, resolvConf="/run/systemd/resolve/resolv.conf")

    def asked(*arguments: str, **options: Any) -> Any:
        made.asked += 1
        return kube_programs.kubectl_json(*arguments, **options)

    monkeypatch.setenv("PATH", f"{kube_api.BINARIES}:/usr/bin:/bin")
    monkeypatch.setattr(kubelet, "_ROOT", tmp_path)
    monkeypatch.setattr(kubelet, "HEALTHY_LIMIT", 2.0)
    functions = {
        "node.is_member": lambda: made.member,
        "service.restart": made.kubelet.restart,
        **{f"kubelet.{name}": getattr(kubelet, name) for name in ("differs", "configure", "remember")},
    }  # fmt: skip
    utils = {
        "conffiles.read": conffiles.read,
        "conffiles.write": conffiles.write,
        "conffiles.diff": conffiles.diff,
        "kube_programs.kubectl_json": asked,
        **{
            f"kubeadm_config.{name}": getattr(kubeadm_config, name)
            for name in ("kubelet", "kubelet_of", "kubelet_config_map", "merge", "cri_socket")
        },
    }
    for module in (kubelet, state):
        monkeypatch.setattr(module, "__salt__", functions, raising=False)
        monkeypatch.setattr(module, "__opts__", {"id": "pi-07", "test": False}, raising=False)
    monkeypatch.setattr(kubelet, "__utils__", utils, raising=False)
    monkeypatch.setattr(kubelet, "__pillar__", pillar, raising=False)
    yield made
    made.kubelet.stop()


def looked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The state in test mode."""
    with monkeypatch.context() as patch:
        patch.setitem(state.__opts__, "test", True)
        return state.configured("kubelet-settings")


def mended(node: Node, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What test mode says is done, once, and with a restart of kubelet."""
    said = looked(monkeypatch)
    assert said["result"] is None
    assert node.kubelet.starts == 0
    done = state.configured("kubelet-settings")
    assert (done["result"], done["changes"]) == (True, said["changes"])
    assert node.kubelet.starts == 1
    assert state.configured("kubelet-settings")["changes"] == {}
    assert looked(monkeypatch)["result"] is True
    assert node.kubelet.starts == 1
    return done


def test_a_node_as_kubeadm_left_it_is_as_it_should_be(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = node.config.read_text()
    assert looked(monkeypatch)["result"] is True
    assert state.configured("kubelet-settings")["changes"] == {}
    assert (node.config.read_text(), node.kubelet.starts) == (before, 0)


def test_the_cluster_is_asked_once_for_a_file_that_stays(node: Node) -> None:
    for _ in range(3):
        assert (
            state.configured("kubelet-settings")["comment"] == "kubelet is told what it should be"
        )
    assert node.asked == 1


def test_a_look_notes_nothing(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(node.root.rglob("*"))
    looked(monkeypatch)
    assert sorted(node.root.rglob("*")) == before


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"rotateCertificates": False}, "-rotateCertificates: false"),
        ({"maxPods": 5}, "-maxPods: 5"),
        ({"cgroupDriver": "cgroupfs"}, "-cgroupDriver: cgroupfs"),
        ({"authentication": {"anonymous": {"enabled": True}}}, "+    enabled: false"),
    ],
)
def test_a_key_changed_by_hand_is_named_and_mended(
    node: Node, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any], line: str
) -> None:
    state.configured("kubelet-settings")  # it was compared and good
    before = node.told()
    node.edit(**keys)
    done = mended(node, monkeypatch)
    assert line in done["changes"]["diff"].splitlines()
    assert done["changes"]["diff"].startswith("/var/lib/kubelet/config.yaml:")
    assert node.told() == before


def test_with_metrics_on_a_member_asks_for_its_certificate_and_off_no_more(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = node.told()
    node.pillar["services"] = {"metrics": {"enabled": True}}
    mended(node, monkeypatch)
    assert node.told() == {**before, "serverTLSBootstrap": True}
    node.pillar["services"]["metrics"]["enabled"] = False
    state.configured("kubelet-settings")
    assert node.told() == before


def test_a_cluster_that_was_made_with_metrics_on_does_not_keep_them_on(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = node.told()
    node.edit(serverTLSBootstrap=True)
    made = kubelet._of_cluster()
    monkeypatch.setattr(kubelet, "_of_cluster", lambda: {**made, "serverTLSBootstrap": True})
    mended(node, monkeypatch)
    assert node.told() == before


def test_what_the_pillar_says_of_kubelets_certificates_counts_more_than_a_service(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.pillar["services"] = {"metrics": {"enabled": True}}
    node.pillar["kubernetes"]["kubelet"]["serverTLSBootstrap"] = False
    assert looked(monkeypatch)["result"] is True
    assert not kubeadm_config.asks_for_serving_certificates(node.pillar)
    node.pillar["services"] = {}
    node.pillar["kubernetes"]["kubelet"]["serverTLSBootstrap"] = True
    assert kubeadm_config.asks_for_serving_certificates(node.pillar)
    mended(node, monkeypatch)
    assert node.told()["serverTLSBootstrap"] is True


@pytest.mark.parametrize("broken", ["", "{{{", "- a list"])
def test_a_file_that_is_none_is_written_anew(
    node: Node, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    before = {key: value for key, value in node.told().items() if key != "resolvConf"}
    node.config.write_text(broken)
    mended(node, monkeypatch)
    assert node.told() == before


def test_a_setting_of_the_pillar_reaches_a_member_and_leaves_it_again(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = node.told()
    node.pillar["kubernetes"]["kubelet"]["maxPods"] = 50
    mended(node, monkeypatch)
    assert node.told() == {**before, "maxPods": 50}
    del node.pillar["kubernetes"]["kubelet"]["maxPods"]
    state.configured("kubelet-settings")
    assert node.told() == before


def test_what_is_the_nodes_own_is_left_to_it(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.edit(
        resolvConf="/etc/another", containerRuntimeEndpoint="unix:///run/containerd/containerd.sock"
    )
    assert looked(monkeypatch)["result"] is True


@pytest.mark.parametrize(
    ("by_hand", "gone"),
    [
        (FLAGS.replace("--node", "--max-pods=5 --node"), "--max-pods=5"),
        (FLAGS.replace("10.0.0.27", "10.6.6.6"), "10.6.6.6"),
        (FLAGS.replace("--node-ip=10.0.0.27 ", ""), None),
        (FLAGS.replace("/run/containerd/containerd.sock", "/run/mine.sock"), "mine.sock"),
        (FLAGS.replace("remote", "docker"), "docker"),
        (FLAGS + 'KUBELET_EXTRA_ARGS="--v=9"\n', "--v=9"),
    ],
)
def test_a_flag_changed_by_hand_is_named_and_mended(
    node: Node, monkeypatch: pytest.MonkeyPatch, by_hand: str, gone: str | None
) -> None:
    node.flags.write_text(by_hand)
    done = mended(node, monkeypatch)
    assert done["changes"]["diff"].startswith("/var/lib/kubelet/kubeadm-flags.env:")
    flags = node.flags.read_text()
    assert gone is None or gone not in flags
    assert sorted(flags.split()[1:]) != [] and "--node-ip=10.0.0.27" in flags
    assert "--pod-infra-container-image=k8s.gcr.io/pause:3.2" in flags


def test_flags_of_kubeadm_that_are_gone_are_said_and_nothing_is_guessed(node: Node) -> None:
    node.flags.unlink()
    done = state.configured("kubelet-settings")
    assert (done["result"], done["changes"], node.kubelet.starts) == (False, {}, 0)
    assert "kubeadm.reset force=True" in done["comment"]


@pytest.mark.parametrize(
    "by_hand",
    [
        'KUBELET_EXTRA_ARGS="--max-pods=5"\n',
        "KUBELET_EXTRA_ARGS=--read-only-port=10255\n",
        "# mine\nKUBELET_EXTRA_ARGS=\n KUBELET_KUBEADM_ARGS='--container-runtime=docker'\n",
        'KUBELET_EXTRA_ARGS="--v=2\n',
    ],
)
def test_flags_of_the_packages_file_are_named_and_mended(
    node: Node, monkeypatch: pytest.MonkeyPatch, by_hand: str
) -> None:
    node.extra.write_text(by_hand)
    done = mended(node, monkeypatch)
    assert done["changes"]["diff"].startswith("/etc/default/kubelet:")
    lines = node.extra.read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == ["KUBELET_EXTRA_ARGS="]
    assert ("# mine" in lines) == ("# mine" in by_hand)


def test_flags_of_the_pillar_are_given_and_what_else_is_in_the_file_stays(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.extra.write_text("HTTP_PROXY=http://192.168.1.1\nKUBELET_EXTRA_ARGS=\n")
    node.pillar["kubernetes"]["kubelet_args"] = {"v": 2, "register-node": True}
    mended(node, monkeypatch)
    assert node.extra.read_text().splitlines() == [
        "HTTP_PROXY=http://192.168.1.1",
        'KUBELET_EXTRA_ARGS="--v=2 --register-node=true"',
    ]


@pytest.mark.parametrize(
    "setting", [{"kubelet": {"unheardOf": 1}}, {"kubelet_args": {"unheard-of": 1}}]
)
def test_what_kubelet_does_not_take_is_put_back_and_said(
    node: Node, monkeypatch: pytest.MonkeyPatch, setting: dict[str, Any]
) -> None:
    node.kubelet.restart("kubelet")
    before = {path: path.read_bytes() for path in (node.config, node.flags, node.extra)}
    for name, keys in setting.items():
        kept = node.pillar["kubernetes"].get(name, {})
        node.pillar["kubernetes"][name] = {**kept, **keys}
    done = state.configured("kubelet-settings")
    assert (done["result"], done["changes"]) == (False, {})
    assert "the old files are back" in done["comment"]
    assert {path: path.read_bytes() for path in before} == before
    assert node.kubelet.server is not None, "it does not run on what it had"
    assert looked(monkeypatch)["result"] is None, "the difference is still there to be seen"


def test_without_an_api_server_what_the_pillar_says_is_compared_all_the_same(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = node.file("etc/kubernetes/kubelet.conf")
    conf.write_text(
        conf.read_text().replace(node_endpoint(conf), f"127.0.0.1:{kube_api.free_port()}")
    )
    said = looked(monkeypatch)
    assert said["result"] is True
    assert "was not compared with the cluster's: the API server" in said["comment"]
    node.edit(failSwapOn=False)
    assert "-failSwapOn: false" in looked(monkeypatch)["changes"]["diff"]
    # and is not taken as compared
    assert state.configured("kubelet-settings")["result"] is True
    assert not node.file("run/saltberry/kubelet-config.compared").exists()


def node_endpoint(conf: Path) -> str:
    server: str = yaml.safe_load(conf.read_text())["clusters"][0]["cluster"]["server"]
    return server.removeprefix("https://")


def test_a_node_that_is_no_member_is_told_its_flags_and_kubelet_is_not_started(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.member = False
    node.config.unlink()
    node.flags.unlink()
    assert looked(monkeypatch)["result"] is True
    node.pillar["kubernetes"]["kubelet_args"] = {"v": 2}
    assert looked(monkeypatch)["result"] is None
    assert state.configured("kubelet-settings")["result"] is True
    assert (node.kubelet.starts, node.asked) == (0, 0)
    assert node.extra.read_text() == 'KUBELET_EXTRA_ARGS="--v=2"\n'


def test_errors_name_the_way_out() -> None:
    with pytest.raises(ValueError, match="is not a Kubernetes version"):
        kubeadm_config.kubelet_config_map("latest")
    assert kubeadm_config.kubelet_config_map("v1.23.4") == "kubelet-config-1.23"
    assert kubeadm_config.kubelet_config_map("1.34.2") == "kubelet-config"
