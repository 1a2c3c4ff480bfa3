"""Tokens, tickets, nodes and joins against a real API server, with the real kubectl and kubeadm.

The only stand-in is for the kubelet: after kubeadm's own discovery has succeeded, a script writes
the kubelet.conf that a kubelet would have written.
"""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import textwrap
import threading
import time
from pathlib import Path

import pytest
import salt.exceptions
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from saltberry_ext.modules import kubeadm
from saltberry_ext.utils import kube_programs, kubeadm_config, rackspec, spki, ticket

from . import kube_api

pytestmark = pytest.mark.skipif(bool(kube_api.missing()), reason=kube_api.missing())

Failure = salt.exceptions.CommandExecutionError


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    with kube_api.running(tmp_path_factory.mktemp("api")) as running:
        yield running


@pytest.fixture(scope="module")
def minion_key():
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture
def pub(minion_key):
    return (
        minion_key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


@pytest.fixture
def restarted():
    return []


@pytest.fixture
def configure_loader_modules(api, minion_key, restarted, tmp_path):
    pki = tmp_path / "pki"
    pki.mkdir()
    (pki / "minion.pem").write_bytes(
        minion_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    return {
        kubeadm: {
            "__opts__": {"id": "pi-07", "pki_dir": str(pki)},
            "__pillar__": {
                "kubernetes": {"version": "1.20.2"},
                "rack": {"name": "berry"},
                "node": {"id": "pi-07", "roles": ["worker"], "ip": None},
                "nodes": {"cp1": {"ip": "10.0.0.11", "roles": ["control_plane"]}},
            },
            "__salt__": {"service.restart": restarted.append},
            "__utils__": {
                "ticket.seal": ticket.seal,
                "ticket.unseal": ticket.unseal,
                "rackspec.valid_id": rackspec.valid_id,
                "spki.ca_hash": spki.ca_hash,
                "kubeadm_config.api_version": kubeadm_config.api_version,
                "kubeadm_config.cri_socket": kubeadm_config.cri_socket,
                "kubeadm_config.join_config": kubeadm_config.join_config,
                "kubeadm_config.kubelet_of": kubeadm_config.kubelet_of,
                "kubeadm_config.init_token_description": kubeadm_config.init_token_description,
                **{
                    f"kube_programs.{name}": getattr(kube_programs, name)
                    for name in (
                        "run",
                        "last_lines",
                        "scrub",
                        "kubectl",
                        "kubectl_json",
                        "api_answers",
                    )
                },
            },
            "__context__": {},
        }
    }


@pytest.fixture(autouse=True)
def _real_binaries(monkeypatch):
    monkeypatch.setenv("PATH", f"{kube_api.BINARIES}:{os.environ['PATH']}")
    # one failed look is enough for a test, kubeadm itself takes a minute of them
    monkeypatch.setattr(kubeadm_config, "DISCOVERY_TIMEOUT", "3s")
    monkeypatch.setattr(kube_programs, "API_WAIT", 0.5)


@pytest.fixture
def control_plane(api, monkeypatch, tmp_path):
    """The module as it runs on cp1."""
    monkeypatch.setattr(kubeadm, "KUBERNETES_DIR", api.etc)
    monkeypatch.setattr(kubeadm, "RUN_DIR", tmp_path / "run")
    yield api
    for token in kubeadm.token_list():
        kubeadm.token_delete(token["id"])


@pytest.fixture
def worker(control_plane, monkeypatch, tmp_path):
    """Switch between the module on cp1 and the module on pi-07."""

    class Worker:
        etc = tmp_path / "etc-kubernetes"
        run = tmp_path / "run"
        seen = tmp_path / "seen"

        def __enter__(self):
            monkeypatch.setattr(kubeadm, "KUBERNETES_DIR", self.etc)

        def __exit__(self, *_):
            monkeypatch.setattr(kubeadm, "KUBERNETES_DIR", control_plane.etc)

    Worker.etc.mkdir()
    _install_kubeadm(Worker, tmp_path / "bin", monkeypatch)
    return Worker()


def _install_kubeadm(worker, folder: Path, monkeypatch) -> None:
    """A kubeadm in front of the real one that keeps its hands off this machine.

    ``join`` runs the real preflight phase, which is kubeadm's discovery: API server, token, CA.
    """
    folder.mkdir()
    script = folder / "kubeadm"
    script.write_text(
        textwrap.dedent(f"""\
        #!/bin/sh
        echo "$@" >> {worker.seen}.argv
        case "$1" in
        join)
            stat -c '%a' "$3" "$(dirname "$3")" > {worker.seen}.modes
            {kube_api.BINARIES}/kubeadm join phase preflight --config "$3" \\
                --ignore-preflight-errors=all || exit
            cp {worker.seen}.kubelet.conf {worker.etc}/kubelet.conf ;;
        reset)
            rm -rf {worker.etc}/kubelet.conf {worker.etc}/bootstrap-kubelet.conf {worker.etc}/pki ;;
        *) exec {kube_api.BINARIES}/kubeadm "$@" ;;
        esac
        """)
    )
    script.chmod(0o755)
    certificate = folder / "kubelet.pem"
    certificate.write_text("a certificate")
    admin = (kubeadm.KUBERNETES_DIR / "admin.conf").read_text()
    lines = [
        f"    client-certificate: {certificate}" if "client-certificate-data" in line else line
        for line in admin.splitlines()
        if "client-key-data" not in line
    ]
    Path(f"{worker.seen}.kubelet.conf").write_text("\n".join(lines))
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def _secret(api, token_id: str) -> dict[str, str]:
    found = api.kubectl("get", "secret", f"bootstrap-token-{token_id}", "-nkube-system", "-ojson")
    return {
        key: base64.b64decode(value).decode() for key, value in json.loads(found)["data"].items()
    }


def test_token_create(control_plane):
    before = time.time()
    made = kubeadm.token_create("by hand", ttl=300)
    assert set(made) == {"id", "expires", "description"}
    assert before + 299 <= made["expires"] <= time.time() + 301
    secret = _secret(control_plane, made["id"])
    assert secret["usage-bootstrap-signing"] == secret["usage-bootstrap-authentication"] == "true"
    assert secret["auth-extra-groups"] == "system:bootstrappers:kubeadm:default-node-token"
    assert len(secret["token-secret"]) == 16
    # kubeadm sees what we see
    listed = subprocess.run(
        ["kubeadm", "token", "list", f"--kubeconfig={control_plane.etc}/admin.conf"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert f"{made['id']}.{secret['token-secret']}" in listed
    assert "authentication,signing" in listed


@pytest.mark.parametrize("ttl", [0, 59, 86401, -1, "600", None, True])
def test_token_ttl_is_bounded(control_plane, ttl):
    with pytest.raises(Failure, match="ttl"):
        kubeadm.token_create("x", ttl=ttl)
    assert kubeadm.token_list() == []


def test_token_list_looks_at_expiry_usages_and_group(control_plane):
    good = kubeadm.token_create("good")["id"]
    for token_id, change in {
        "aaaaaa": {"usage-bootstrap-signing": "false"},
        "bbbbbb": {"auth-extra-groups": "system:bootstrappers:others"},
        "cccccc": {"expiration": "2001-01-01T00:00:00Z"},
    }.items():
        data = {
            "token-id": token_id,
            "token-secret": "0123456789abcdef",
            "usage-bootstrap-signing": "true",
            "usage-bootstrap-authentication": "true",
            "auth-extra-groups": kubeadm.TOKEN_GROUP,
            **change,
        }
        secret = {
            "data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
        }
        found = kubeadm._token_facts(secret, time.time())
        assert not found["usable"]
        assert found["reason"] in (
            "not for signing",
            f"not in the group {kubeadm.TOKEN_GROUP}",
            "expired",
        )
    (listed,) = kubeadm.token_list()
    assert (listed["id"], listed["usable"], listed["reason"]) == (good, True, "")
    assert listed["usages"] == ["authentication", "signing"]
    assert _secret(control_plane, good)["token-secret"] not in json.dumps(listed)


def test_token_delete(control_plane):
    token_id = kubeadm.token_create("x")["id"]
    assert kubeadm.token_delete(token_id) is True
    assert kubeadm.token_delete(token_id) is True, "a token that is gone is no error"
    assert kubeadm.token_list() == []


@pytest.mark.parametrize(
    "token_id", ["abcdef.0123456789abcdef", "ABCDEF", "abc", "../../x", "--all"]
)
def test_token_delete_wants_an_id_alone(control_plane, token_id):
    with pytest.raises(Failure, match="token's id alone") as caught:
        kubeadm.token_delete(token_id)
    assert "0123456789abcdef" not in str(caught.value)


def test_kubeadms_own_init_token_is_found_and_deleted(control_plane):
    """The file of ``kubeadm init`` names no token; what kubeadm makes of it is ours to delete."""
    config = control_plane.etc / "init.yaml"
    subprocess.run(
        ["kubeadm", "init", "phase", "bootstrap-token", "--skip-token-print", f"--config={config}",
         f"--kubeconfig={control_plane.etc}/admin.conf"], check=True, capture_output=True,
    )  # fmt: skip
    (token,) = kubeadm.token_list()
    assert token["description"] == kubeadm_config.INIT_TOKEN_DESCRIPTION
    assert token["expires"] - time.time() <= 60
    kubeadm._delete_init_token()
    assert kubeadm.token_list() == []


def test_ticket_create(control_plane, pub, minion_key):
    made = kubeadm.ticket_create("pi-07", pub, ttl=120)
    secret = _secret(control_plane, made["token_id"])
    assert secret["token-secret"] not in json.dumps(made)
    assert made["endpoint"] == control_plane.endpoint
    assert made["ca_hash"] == kubeadm.ca_hash(str(control_plane.etc / "pki/ca.crt"))
    opened = kubeadm._unseal(made["ticket"], "join")
    assert opened == {
        "token": f"{made['token_id']}.{secret['token-secret']}",
        "endpoint": control_plane.endpoint,
        "ca_hash": made["ca_hash"],
    }
    (token,) = kubeadm.token_list()
    assert token["description"] == "saltberry join ticket for pi-07"
    # the ticket is handed out when the cluster can be discovered with it, not before
    document = control_plane.kubectl("get", "cm", "cluster-info", "-nkube-public", "-ojson")
    assert f"jws-kubeconfig-{made['token_id']}" in json.loads(document)["data"]


def test_a_new_ticket_voids_the_old_one(control_plane, pub):
    kubeadm.ticket_create("pi-07", pub)
    other = kubeadm.ticket_create("pi-08", pub)
    second = kubeadm.ticket_create("pi-07", pub)
    assert {token["id"] for token in kubeadm.token_list()} == {
        other["token_id"],
        second["token_id"],
    }


def test_ticket_revoke(control_plane, pub):
    first = kubeadm.ticket_create("pi-07", pub)["token_id"]
    left_over = kubeadm.token_create("saltberry join ticket for pi-07")["id"]
    others = {
        kubeadm.ticket_create("pi-070", pub)["token_id"],
        kubeadm.token_create("by hand")["id"],
    }
    assert set(kubeadm.ticket_revoke("pi-07")["deleted"]) == {first, left_over}
    assert {token["id"] for token in kubeadm.token_list()} == others
    assert kubeadm.ticket_revoke("pi-07") == {"deleted": []}
    with pytest.raises(Failure, match="a node or a token_id"):
        kubeadm.ticket_revoke()


@pytest.mark.parametrize(
    "node", ["", "*", "Pi-07", "pi_07", "a\nb", "{{ x }}", "-x", "a" * 64, "pi.07"]
)
def test_ticket_for_no_host_name(control_plane, pub, node):
    with pytest.raises(Failure, match="no node id"):
        kubeadm.ticket_create(node, pub)
    assert kubeadm.token_list() == []


def test_ticket_with_a_bad_key_leaves_no_token(control_plane):
    with pytest.raises(Failure, match=r"no ticket for pi-07: .*public key is not readable"):
        kubeadm.ticket_create("pi-07", "rubbish")
    assert kubeadm.token_list() == []


def test_ticket_without_a_signature_leaves_no_token(control_plane, pub, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(kubeadm, "SIGNATURE_WAIT", 0.0)
        patch.setattr(kubeadm, "_kubectl_json", lambda *a, **k: {"items": []})
        with pytest.raises(Failure, match="is kube-controller-manager running"):
            kubeadm.ticket_create("pi-07", pub)
    assert control_plane.kubectl("get", "secrets", "-nkube-system", "-oname") == ""


# --- join: kubeadm's discovery is real ------------------------------------------------------------


def test_join(control_plane, worker, pub):
    made = kubeadm.ticket_create("pi-07", pub)
    secret = _secret(control_plane, made["token_id"])["token-secret"]
    with worker:
        assert kubeadm.facts()["joined"] is False
        done = kubeadm.join(made["ticket"])
        found = kubeadm.facts()
        again = kubeadm.join(made["ticket"])
    assert done["joined"]
    assert done["was"] is None
    assert found["joined"]
    assert found["role"] == "worker"
    assert found["ca_hash"] == made["ca_hash"]
    assert not again["joined"]
    assert again["was"] == "member"
    assert Path(f"{worker.seen}.modes").read_text().split() == ["600", "700"]
    assert secret not in Path(f"{worker.seen}.argv").read_text()
    assert list(worker.run.iterdir()) == [], "the file with the token is gone"


def test_join_cleans_up_a_join_that_was_cut_off(control_plane, worker, pub):
    made = kubeadm.ticket_create("pi-07", pub)
    (worker.etc / "bootstrap-kubelet.conf").write_text("token: abcdef.0123456789abcdef")
    (worker.etc / "pki").mkdir()
    (worker.etc / "pki" / "ca.crt").write_text("half")
    with worker:
        done = kubeadm.join(made["ticket"])
    assert done["was"] == "half-finished join"
    assert (
        "reset --force --cri-socket=/run/containerd/containerd.sock"
        in Path(f"{worker.seen}.argv").read_text()
    )
    assert not (worker.etc / "bootstrap-kubelet.conf").exists()


def test_join_with_a_token_that_is_gone(control_plane, worker, pub):
    made = kubeadm.ticket_create("pi-07", pub)
    secret = _secret(control_plane, made["token_id"])["token-secret"]
    kubeadm.ticket_revoke("pi-07")
    time.sleep(1)  # the signer takes its signature back
    with worker, pytest.raises(Failure, match="join token is no longer good at") as caught:
        kubeadm.join(made["ticket"])
    assert secret not in str(caught.value)
    assert list(worker.run.iterdir()) == []


def test_join_with_a_wrong_secret(control_plane, worker, pub):
    made = kubeadm.ticket_create("pi-07", pub)
    forged = {"token": f"{made['token_id']}.aaaaaaaaaaaaaaaa", "endpoint": made["endpoint"],
              "ca_hash": made["ca_hash"]}  # fmt: skip
    with worker, pytest.raises(Failure, match="join token is no longer good at") as caught:
        kubeadm.join(ticket.seal(forged, pub, "pi-07", 600))
    assert "aaaaaaaaaaaaaaaa" not in str(caught.value)


def test_join_with_another_ca(control_plane, worker, pub):
    made = kubeadm.ticket_create("pi-07", pub)
    token = f"{made['token_id']}.{_secret(control_plane, made['token_id'])['token-secret']}"
    wrong = {"token": token, "endpoint": made["endpoint"], "ca_hash": f"sha256:{'0' * 64}"}
    with worker, pytest.raises(Failure, match="is not the one of the ticket: its CA is not"):
        kubeadm.join(ticket.seal(wrong, pub, "pi-07", 600))


def test_join_with_nobody_there(control_plane, worker, pub):
    made = kubeadm.ticket_create("pi-07", pub)
    away = {
        "token": "abcdef.0123456789abcdef",
        "endpoint": "127.0.0.1:1",
        "ca_hash": made["ca_hash"],
    }
    with worker, pytest.raises(Failure, match=r"API server at 127\.0\.0\.1:1 cannot be reached"):
        kubeadm.join(ticket.seal(away, pub, "pi-07", 600))


def test_join_with_another_nodes_ticket(control_plane, worker, pub):
    made = kubeadm.ticket_create("pi-08", pub)
    with worker, pytest.raises(Failure, match="ticket is for pi-08, this node is pi-07"):
        kubeadm.join(made["ticket"])
    assert not Path(f"{worker.seen}.argv").exists(), "kubeadm was not even asked"


def test_a_member_that_the_api_server_does_not_know_restarts_its_kubelet(
    control_plane, worker, pub, restarted
):
    """Somebody ran `kubectl delete node`: the kubelet registers when it starts."""
    made = kubeadm.ticket_create("pi-07", pub)
    admin = (control_plane.etc / "admin.conf").read_text()
    (worker.etc / "kubelet.conf").write_text(admin)
    with worker:
        assert kubeadm._known_to_api(worker.etc / "kubelet.conf") is False
        done = kubeadm.join(made["ticket"])
    assert restarted == ["kubelet"]
    assert done["mended"] == ["kubelet restarted: the API server had no node of this name"]


def test_mend_finishes_a_join_that_was_cut_off_at_the_end(control_plane, worker, restarted, node):
    node("pi-07")
    (worker.etc / "kubelet.conf").write_text((control_plane.etc / "admin.conf").read_text())
    (worker.etc / "bootstrap-kubelet.conf").write_text("token: abcdef.0123456789abcdef")
    with worker:
        found = kubeadm.facts()
        assert found["joined"]
        assert found["leftover"]
        assert kubeadm.mend(registered=True) == [
            "bootstrap-kubelet.conf of a join that was cut off removed"
        ]
        assert kubeadm.mend(registered=True) == []
        assert kubeadm.facts()["problems"] == []
    assert restarted == []
    annotations = json.loads(control_plane.kubectl("get", "node", "pi-07", "-ojson"))["metadata"]
    assert (
        annotations["annotations"]["kubeadm.alpha.kubernetes.io/cri-socket"]
        == "/run/containerd/containerd.sock"
    )


# --- nodes ----------------------------------------------------------------------------------------


@pytest.fixture
def node(control_plane):
    """Make Node objects as a kubelet would; they are gone afterwards."""
    made = []

    def make(name: str, ready: str | None = None, **labels: str) -> None:
        metadata = {"name": name, "labels": {key.replace("__", "/"): "" for key in labels}}
        manifest = {"apiVersion": "v1", "kind": "Node", "metadata": metadata,
                    "spec": {"podCIDR": "10.244.7.0/24"}}  # fmt: skip
        control_plane.kubectl("create", "-f", "-", stdin=json.dumps(manifest))
        made.append(name)
        if ready:
            report(name, ready)

    def report(name: str, ready: str, message: str = "kubelet is posting ready status") -> None:
        current = json.loads(control_plane.kubectl("get", "node", name, "-ojson"))
        current["status"] = {
            "conditions": [{"type": "Ready", "status": ready, "message": message, "reason": "Test"}],
            "addresses": [{"type": "InternalIP", "address": "10.0.0.27"}],
            "nodeInfo": dict.fromkeys(
                ("architecture", "bootID", "containerRuntimeVersion", "kernelVersion",
                 "kubeProxyVersion", "machineID", "operatingSystem", "osImage", "systemUUID"), ""
            ) | {"kubeletVersion": "v1.20.2"},
        }  # fmt: skip
        path = f"/api/v1/nodes/{name}/status"
        control_plane.kubectl("replace", "--raw", path, "-f", "-", stdin=json.dumps(current))

    make.report = report
    yield make
    for name in made:
        control_plane.kubectl("delete", "node", name, "--wait=false", "--ignore-not-found")


def test_nodes(node):
    assert kubeadm.nodes() == {}
    node("pi-07")
    node("pi-08", "True")
    node("cp1", "False", **{"node-role.kubernetes.io__master": ""})
    found = kubeadm.nodes()
    assert found["pi-07"]["ready"] is False
    assert found["pi-07"]["control_plane"] is False
    assert found["pi-07"]["pod_cidr"] == "10.244.7.0/24"
    assert found["pi-08"] == {
        "ready": True,
        "reason": "",
        "version": "v1.20.2",
        "ip": "10.0.0.27",
        "pod_cidr": "10.244.7.0/24",
        "control_plane": False,
        "schedulable": True,
        "drained_for": "",
    }
    assert found["cp1"]["control_plane"] is True
    assert found["cp1"]["reason"] == "kubelet is posting ready status"


def test_a_node_that_we_drained_is_marked_and_opened_again(node):
    node("pi-08", "True")
    assert kubeadm.drain("pi-08", "a new disk") == {"drained": True, "left": []}
    known = kubeadm.nodes()["pi-08"]
    assert (known["schedulable"], known["drained_for"]) == (False, "a new disk")
    assert kubeadm.uncordon("pi-08") is True
    known = kubeadm.nodes()["pi-08"]
    assert (known["schedulable"], known["drained_for"]) == (True, "")
    assert kubeadm.uncordon("pi-08") is False


def test_a_node_that_a_person_cordoned_stays_theirs(node):
    node("pi-08", "True")
    kubeadm._must_kubectl("cordon", "pi-08")
    kubeadm.drain("pi-08", "a new disk")
    assert kubeadm.uncordon("pi-08") is False
    assert kubeadm.nodes()["pi-08"]["schedulable"] is False


def test_a_node_that_is_not_there_cannot_be_drained(node):
    with pytest.raises(Failure, match="does not know a node pi-66"):
        kubeadm.drain("pi-66", "a test")
    with pytest.raises(Failure):
        kubeadm.drain("--all", "a test")


def test_delete_node(node):
    node("pi-08", "True")
    assert kubeadm.delete_node("pi-08") is True
    assert kubeadm.delete_node("pi-08") is False, "there is none any more"
    for name, said in (("pi-07", "control plane itself"), ("--all", "no node id")):
        with pytest.raises(Failure, match=said):
            kubeadm.delete_node(name)


def test_wait_ready_sees_a_node_that_comes_later(node):
    def later():
        time.sleep(1.0)
        node("pi-07", "False")
        time.sleep(0.5)
        node.report("pi-07", "True")

    thread = threading.Thread(target=later)
    thread.start()
    done = kubeadm.wait_ready("pi-07", timeout=30)
    thread.join()
    assert done["ready"] is True
    assert 1.5 <= done["seconds"] < 10
    assert "retcode" not in kubeadm.__context__


def test_wait_ready_says_why_not(node):
    node("pi-07", "False")
    node.report("pi-07", "False", "cni plugin not initialized")
    done = kubeadm.wait_ready("pi-07", timeout=0.6)
    assert done["ready"] is False
    assert done["reason"] == "cni plugin not initialized"
    assert kubeadm.__context__["retcode"] == 1
    assert (
        kubeadm.wait_ready("pi-09", timeout=0)["reason"] == "the API server does not know this node"
    )


def test_wait_ready_with_a_bad_name(control_plane):
    with pytest.raises(Failure, match="no node id"):
        kubeadm.wait_ready("--all")


# --- the admin's kubeconfig -----------------------------------------------------------------------


def test_kubeconfig_from_the_control_plane_to_the_nfs_pi(control_plane, pub, tmp_path):
    sealed = kubeadm.admin_kubeconfig(pub, node="pi-07")
    admin = (control_plane.etc / "admin.conf").read_text()
    assert not any(line in sealed for line in admin.splitlines() if len(line) > 20)
    path = tmp_path / "home" / ".kube" / "config"
    assert kubeadm.install_kubeconfig(str(path), sealed) == kubeadm.ca_hash(
        str(control_plane.etc / "pki/ca.crt")
    )
    assert path.read_text() == admin
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [item.name for item in path.parent.iterdir()] == ["config"]


def test_kubeconfig_keeps_what_was_there(control_plane, pub, tmp_path):
    path = tmp_path / "config"
    path.write_text("mine")
    kubeadm.install_kubeconfig(str(path), kubeadm.admin_kubeconfig(pub))
    kept = tmp_path / "config.before-saltberry"
    assert kept.read_text() == "mine"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_join_ticket_is_no_kubeconfig(control_plane, pub, tmp_path):
    made = kubeadm.ticket_create("pi-07", pub)
    with pytest.raises(Failure, match="is a join text, not a kubeconfig text"):
        kubeadm.install_kubeconfig(str(tmp_path / "config"), made["ticket"])
    assert not (tmp_path / "config").exists()


# --- an API server that is away -------------------------------------------------------------------


def test_api_server_away(control_plane, monkeypatch, tmp_path):
    etc = tmp_path / "etc"
    etc.mkdir()
    admin = (control_plane.etc / "admin.conf").read_text()
    (etc / "admin.conf").write_text(admin.replace(control_plane.endpoint, "127.0.0.1:1"))
    with monkeypatch.context() as patch:
        patch.setattr(kubeadm, "KUBERNETES_DIR", etc)
        with pytest.raises(Failure, match=r"API server at https://127\.0\.0\.1:1 does not answer"):
            kubeadm.nodes()
        assert kubeadm.wait_ready("pi-07", timeout=0.1)["ready"] is False


def test_off_the_control_plane(control_plane, worker, pub):
    with worker:
        for call in (
            kubeadm.nodes,
            kubeadm.token_list,
            lambda: kubeadm.token_create("x"),
            lambda: kubeadm.ticket_create("pi-07", pub),
            lambda: kubeadm.wait_ready("pi-07"),
            lambda: kubeadm.delete_node("pi-08"),
            lambda: kubeadm.admin_kubeconfig(pub),
        ):
            with pytest.raises(Failure, match="pi-07 is no control plane"):
                call()
