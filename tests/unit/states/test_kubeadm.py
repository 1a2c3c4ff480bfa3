# ruff: noqa: PLR0917 (pytest hands fixtures over as arguments)
"""The states on real files, through the real execution module; kubeadm itself is a script."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from saltberry_ext.modules import kubeadm as module
from saltberry_ext.states import kubeadm
from saltberry_ext.utils import kube_programs, kubeadm_config, rackspec, spki, ticket

from ..utils.test_spki import KEYS, _certificate

READY = "ready to join; the master's reconcile brings the ticket"


@pytest.fixture(scope="module")
def minion_key():
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture(scope="module")
def ca() -> bytes:
    return _certificate(KEYS["ecdsa-p256"]())


@pytest.fixture(scope="module")
def other_ca() -> bytes:
    return _certificate(KEYS["ecdsa-p256"]())


@pytest.fixture
def opts(tmp_path, minion_key) -> dict:
    pki = tmp_path / "pki"
    pki.mkdir()
    (pki / "minion.pem").write_bytes(
        minion_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return {"id": "pi-07", "pki_dir": str(pki), "test": False}


@pytest.fixture
def pillar() -> dict:
    return {
        "rack": {"name": "berry"},
        "kubernetes": {"version": "1.20.2"},
        "nodes": {"cp1": {"ip": "10.0.0.11", "roles": ["control_plane"]}},
        "node": {"id": "pi-07", "roles": ["worker"], "ip": "10.0.0.27"},
        "cluster": {},
    }


@pytest.fixture
def events() -> list:
    return []


@pytest.fixture
def configure_loader_modules(opts, pillar, events):
    execution = {
        f"kubeadm.{name}": getattr(module, name)
        for name in (
            "facts", "join", "init", "mend", "check_init", "check_cluster", "ca_hash",
            "refuse_control_plane", "install_kubeconfig",
        )
    }  # fmt: skip
    utils = {
        "ticket.seal": ticket.seal,
        "ticket.unseal": ticket.unseal,
        "spki.ca_hash": spki.ca_hash,
        "rackspec.valid_id": rackspec.valid_id,
        "kubeadm_config.api_version": kubeadm_config.api_version,
        "kubeadm_config.cri_socket": kubeadm_config.cri_socket,
        "kubeadm_config.init_config": kubeadm_config.init_config,
        "kubeadm_config.join_config": kubeadm_config.join_config,
        "kubeadm_config.kubelet_of": kubeadm_config.kubelet_of,
        "kubeadm_config.init_token_description": kubeadm_config.init_token_description,
        **{
            f"kube_programs.{name}": getattr(kube_programs, name)
            for name in ("run", "last_lines", "scrub", "kubectl", "kubectl_json", "api_answers")
        },
    }
    send = {"event.send": lambda tag, data: events.append((tag, data))}
    common = {"__opts__": opts, "__pillar__": pillar}
    return {
        module: {**common, "__utils__": utils, "__salt__": {}, "__context__": {}},
        kubeadm: {**common, "__salt__": {**execution, **send}},
    }


def _kubeconfig(path: Path, pem: bytes) -> None:
    cluster = {
        "server": "https://10.0.0.11:6443",
        "certificate-authority-data": base64.b64encode(pem).decode(),
    }
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"client-certificate-data": "eA=="}}],
    }
    path.write_text(yaml.safe_dump(config))


@pytest.fixture
def etc(tmp_path, monkeypatch, ca) -> Path:
    """A blank node with a kubeadm whose join, init and reset work on this folder."""
    folder = tmp_path / "kubernetes"
    folder.mkdir()
    monkeypatch.setattr(module, "KUBERNETES_DIR", folder)
    monkeypatch.setattr(module, "RUN_DIR", tmp_path / "run")
    _kubeconfig(tmp_path / "conf", ca)
    (tmp_path / "ca.crt").write_bytes(ca)
    programs = tmp_path / "bin"
    programs.mkdir()
    script = f"""#!/bin/sh
        PATH=/bin:/usr/bin
        echo "$1" >> {tmp_path}/ran
        case "$1" in
        version) echo v1.20.2 ;;
        reset) rm -rf {folder}/kubelet.conf {folder}/bootstrap-kubelet.conf {folder}/pki ;;
        join) cp {tmp_path}/conf {folder}/kubelet.conf ;;
        init)
            mkdir -p {folder}/manifests {folder}/pki
            cp {tmp_path}/ca.crt {folder}/pki/ca.crt
            cp {tmp_path}/conf {folder}/kubelet.conf; cp {tmp_path}/conf {folder}/admin.conf
            touch {folder}/manifests/kube-apiserver.yaml ;;
        esac
        """
    for name, text in (("kubeadm", script), ("kubectl", "#!/bin/sh\necho '{\"items\": []}'\n")):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    return folder


@pytest.fixture
def ran(tmp_path):
    """What kubeadm was run for, but for its version."""

    def read() -> list[str]:
        path = tmp_path / "ran"
        lines = path.read_text().split() if path.exists() else []
        return [line for line in lines if line != "version"]

    return read


@pytest.fixture
def seal(minion_key, ca):
    public = (
        minion_key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )

    def make(document: dict | None = None, node: str = "pi-07", purpose: str = "join") -> str:
        join = {"token": "abcdef.0123456789abcdef", "endpoint": "10.0.0.11:6443",
                "ca_hash": spki.ca_hash(ca)}  # fmt: skip
        return ticket.seal(document or join, public, node, 600, purpose=purpose)

    return make


def _snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# --- joined ---------------------------------------------------------------------------------------


def test_joined_without_a_ticket_tells_the_master(etc, events, ran):
    ret = kubeadm.joined("cluster")
    assert ret == {"name": "cluster", "result": True, "changes": {}, "comment": READY}
    assert events == [("saltberry/node/prepared", {"id": "pi-07", "wants": "ticket"})]
    assert ran() == []


def test_joined_with_a_ticket(etc, pillar, events, seal, ran):
    pillar["kubeadm_ticket"] = seal()
    ret = kubeadm.joined("cluster")
    assert ret["result"] is True
    assert ret["changes"] == {"joined": {"old": None, "new": "pi-07 in 10.0.0.11:6443"}}
    assert ret["comment"].startswith("pi-07 joined 10.0.0.11:6443 in ")
    assert events == []
    again = kubeadm.joined("cluster")
    assert (again["result"], again["changes"]) == (True, {})
    assert ran() == ["join"]
    del pillar["kubeadm_ticket"]
    pillar["cluster"] = {"ca_hash": module.facts()["ca_hash"]}
    assert kubeadm.joined("cluster")["changes"] == {}
    assert events == [], "a member asks for nothing"


@pytest.mark.parametrize("with_ticket", [False, True])
def test_joined_in_test_mode(etc, opts, pillar, events, seal, ran, with_ticket, tmp_path):
    opts["test"] = True
    if with_ticket:
        pillar["kubeadm_ticket"] = seal()
    ret = kubeadm.joined("cluster")
    assert ret["result"] is None
    assert ret["changes"] == {"joined": {"old": None, "new": "pi-07 in the rack's cluster"}}
    assert "would join" in ret["comment"]
    assert (events, ran(), _snapshot(etc)) == ([], [], {})


def test_joined_in_test_mode_on_a_node_without_kubeadm(etc, opts, monkeypatch):
    """A first dry run on a blank node: the packages are not there yet, and that is no error."""
    opts["test"] = True
    monkeypatch.setenv("PATH", "/nowhere")
    assert kubeadm.joined("cluster")["result"] is None
    opts["test"] = False
    ret = kubeadm.joined("cluster")
    assert ret["result"] is False
    assert "kubeadm is not installed on pi-07" in ret["comment"]


def test_joined_mends_a_join_that_was_cut_off(etc, pillar, seal, ran, events):
    (etc / "bootstrap-kubelet.conf").write_text("token")
    waiting = kubeadm.joined("cluster")
    assert waiting["changes"] == {}
    assert waiting["comment"] == f"{READY} and a join that was cut off is begun anew"
    pillar["kubeadm_ticket"] = seal()
    ret = kubeadm.joined("cluster")
    assert ret["changes"]["joined"]["old"] == "half-finished join"
    assert ran() == ["reset", "join"]


def test_joined_removes_what_a_cut_off_join_left_on_a_member(etc, opts, ca, ran):
    _kubeconfig(etc / "kubelet.conf", ca)
    (etc / "bootstrap-kubelet.conf").write_text("token")
    opts["test"] = True
    ret = kubeadm.joined("cluster")
    assert ret["result"] is None
    assert ret["changes"] == {"mended": {"old": "leftovers of a join", "new": "none"}}
    assert (etc / "bootstrap-kubelet.conf").exists()
    opts["test"] = False
    ret = kubeadm.joined("cluster")
    assert ret["result"] is True
    assert "removed" in ret["changes"]["mended"]["new"]
    assert not (etc / "bootstrap-kubelet.conf").exists()
    assert kubeadm.joined("cluster")["changes"] == {}
    assert ran() == []


@pytest.mark.parametrize("test", [False, True])
@pytest.mark.parametrize("source", ["pillar", "argument"])
def test_joined_leaves_another_clusters_node_alone(etc, opts, pillar, other_ca, test, source):
    opts["test"] = test
    _kubeconfig(etc / "kubelet.conf", other_ca)
    before = _snapshot(etc)
    expected = f"sha256:{'1' * 64}"
    if source == "pillar":
        pillar["cluster"] = {"ca_hash": expected}
    ret = kubeadm.joined("cluster", ca_hash=None if source == "pillar" else expected)
    assert ret["result"] is False
    assert ret["changes"] == {}
    assert ret["comment"].startswith("pi-07 belongs to another cluster: its CA is sha256:")
    assert "salt pi-07 kubeadm.reset force=True" in ret["comment"]
    assert _snapshot(etc) == before


def test_joined_with_a_ticket_of_another_cluster(etc, pillar, other_ca, seal, ran):
    """The pillar does not know the cluster yet, the ticket does."""
    _kubeconfig(etc / "kubelet.conf", other_ca)
    (etc / "kubelet.conf").write_text("")
    (etc / "pki").mkdir()
    (etc / "pki" / "ca.crt").write_bytes(other_ca)
    pillar["kubeadm_ticket"] = seal()
    ret = kubeadm.joined("cluster")
    assert ret["result"] is False
    assert "belongs to another cluster" in ret["comment"]
    assert ran() == []


def test_joined_with_a_bad_ticket(etc, pillar, seal, ran):
    pillar["kubeadm_ticket"] = seal(node="pi-08")
    ret = kubeadm.joined("cluster")
    assert (ret["result"], ret["changes"]) == (False, {})
    assert "ticket is for pi-08, this node is pi-07" in ret["comment"]
    pillar["kubeadm_ticket"] = "**********"
    assert "ticket is broken" in kubeadm.joined("cluster")["comment"]
    assert ran() == []


@pytest.mark.parametrize("test", [False, True])
def test_joined_as_a_control_plane(etc, opts, pillar, test):
    opts["test"] = test
    ret = kubeadm.joined("cluster", role="control_plane")
    assert ret["result"] is False
    assert "more control planes are not supported yet" in ret["comment"]
    pillar["node"]["roles"] = ["control_plane"]
    ret = kubeadm.joined("cluster")
    assert ret["result"] is False
    assert "more than one control plane is not supported yet" in ret["comment"]


# --- initialized ----------------------------------------------------------------------------------


@pytest.fixture
def plane(opts, pillar):
    opts["id"] = "cp1"
    pillar["node"] = {"id": "cp1", "roles": ["control_plane"], "ip": "10.0.0.11"}


@pytest.mark.usefixtures("plane")
def test_initialized(etc, opts, ca, ran):
    opts["test"] = True
    ret = kubeadm.initialized("cluster")
    assert ret["result"] is None
    assert ret["changes"] == {"initialized": {"old": None, "new": "control plane cp1"}}
    assert (ran(), _snapshot(etc)) == ([], {})
    opts["test"] = False
    ret = kubeadm.initialized("cluster")
    assert ret["result"] is True
    new = f"control plane cp1 at 10.0.0.11:6443, CA {spki.ca_hash(ca)}"
    assert ret["changes"] == {"initialized": {"old": None, "new": new}}
    for test in (False, True):
        opts["test"] = test
        again = kubeadm.initialized("cluster")
        assert (again["result"], again["changes"]) == (True, {})
        assert again["comment"] == "cp1 is the control plane of https://10.0.0.11:6443"
    assert ran() == ["init"]


@pytest.mark.parametrize("test", [False, True])
def test_initialized_refuses_the_same_in_test_mode(etc, opts, pillar, ran, test):
    opts["test"] = test
    ret = kubeadm.initialized("cluster")
    assert (ret["result"], ret["changes"]) == (False, {})
    assert "pi-07 is no control plane by the pillar" in ret["comment"]
    opts["id"] = "cp1"
    pillar["cluster"] = {"ca_hash": "sha256:abc"}
    ret = kubeadm.initialized("cluster")
    assert ret["result"] is False
    assert "cp1 is blank: a new init would make another cluster" in ret["comment"]
    assert ran() == []


# --- kubeconfig -----------------------------------------------------------------------------------


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "root" / ".kube" / "config"


def test_kubeconfig_before_there_is_a_cluster(target, events):
    ret = kubeadm.kubeconfig(str(target))
    assert (ret["result"], ret["changes"]) == (True, {})
    assert ret["comment"] == "there is no cluster yet"
    assert events == []


def test_kubeconfig(etc, opts, pillar, events, target, ca, seal):
    _kubeconfig(etc / "admin.conf", ca)
    pillar["cluster"] = {"ca_hash": spki.ca_hash(ca)}

    waiting = kubeadm.kubeconfig(str(target))
    assert (waiting["result"], waiting["changes"]) == (True, {})
    assert events == [("saltberry/node/prepared", {"id": "pi-07", "wants": "kubeconfig"})]

    document = {"kubeconfig": (etc / "admin.conf").read_text()}
    pillar["kubeadm_kubeconfig"] = seal(document, purpose="kubeconfig")
    opts["test"] = True
    dry = kubeadm.kubeconfig(str(target))
    assert dry["result"] is None
    assert not target.parent.exists()

    opts["test"] = False
    ret = kubeadm.kubeconfig(str(target))
    assert ret["result"] is True
    assert ret["changes"] == {"kubeconfig": {"old": None, "new": spki.ca_hash(ca)}}
    assert target.read_text() == document["kubeconfig"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert stat.S_IMODE(target.parent.stat().st_mode) == 0o700

    assert kubeadm.kubeconfig(str(target))["changes"] == {}
    del pillar["kubeadm_kubeconfig"]
    assert kubeadm.kubeconfig(str(target))["changes"] == {}
    assert len(events) == 1


def test_kubeconfig_tightens_modes(opts, pillar, target, ca):
    pillar["cluster"] = {"ca_hash": spki.ca_hash(ca)}
    target.parent.mkdir(parents=True, mode=0o755)
    _kubeconfig(target, ca)
    target.chmod(0o644)
    opts["test"] = True
    assert kubeadm.kubeconfig(str(target))["result"] is None
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    opts["test"] = False
    ret = kubeadm.kubeconfig(str(target))
    assert ret["changes"] == {"mode": {str(target): "0600", str(target.parent): "0700"}}
    assert kubeadm.kubeconfig(str(target))["changes"] == {}


def test_kubeconfig_replaces_an_old_clusters_and_keeps_it(etc, pillar, target, ca, other_ca, seal):
    target.parent.mkdir(parents=True)
    _kubeconfig(target, other_ca)
    old = target.read_text()
    _kubeconfig(etc / "admin.conf", ca)
    pillar["cluster"] = {"ca_hash": spki.ca_hash(ca)}
    document = {"kubeconfig": (etc / "admin.conf").read_text()}
    pillar["kubeadm_kubeconfig"] = seal(document, purpose="kubeconfig")
    ret = kubeadm.kubeconfig(str(target))
    assert ret["changes"]["kubeconfig"] == {"old": spki.ca_hash(other_ca), "new": spki.ca_hash(ca)}
    assert (target.parent / "config.before-saltberry").read_text() == old


def test_kubeconfig_with_a_text_that_is_none(pillar, target, seal):
    pillar["cluster"] = {"ca_hash": "sha256:abc"}
    pillar["kubeadm_kubeconfig"] = seal({"kubeconfig": "rubbish"}, purpose="kubeconfig")
    ret = kubeadm.kubeconfig(str(target))
    assert ret["result"] is False
    assert "is no kubeconfig" in ret["comment"]
    assert not target.exists()
