"""What kubeadm's module makes of a node's files, and its words for what cannot be made here.

Against a real API server: ``test_kubeadm_api.py``.
"""

from __future__ import annotations

import base64
import os
import stat
import subprocess
import textwrap
from pathlib import Path

import pytest
import salt.exceptions
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from saltberry_ext.modules import kubeadm
from saltberry_ext.utils import kube_programs, kubeadm_config, rackspec, spki, ticket

from tests.unit import built

from ..utils.test_spki import KEYS, _certificate

Failure = salt.exceptions.CommandExecutionError

REAL = built.PROGRAMS / "kubeadm"
TOKEN = "abcdef.0123456789abcdef"


@pytest.fixture(scope="module")
def ca() -> bytes:
    return _certificate(KEYS["ecdsa-p256"]())


@pytest.fixture(scope="module")
def other_ca() -> bytes:
    return _certificate(KEYS["rsa-2048"]())


@pytest.fixture(scope="module")
def minion_key():
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture
def pillar() -> dict:
    return {
        "rack": {"name": "berry", "domain": "rack.lan"},
        "kubernetes": {"version": "1.20.2", "dns": False},
        "nodes": {
            "cp1": {"ip": "10.0.0.11", "roles": ["control_plane"]},
            "pi-07": {"ip": "10.0.0.27", "roles": ["worker"]},
        },
        "node": {"id": "pi-07", "roles": ["worker"], "ip": "10.0.0.27"},
        "cluster": {},
    }


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
    return {"id": "pi-07", "pki_dir": str(pki)}


@pytest.fixture
def configure_loader_modules(pillar, opts):
    utils = {
        f"{module.__name__.rpartition('.')[2]}.{name}": getattr(module, name)
        for module, names in (
            (ticket, ("seal", "unseal")),
            (spki, ("ca_hash",)),
            (
                kube_programs,
                ("run", "last_lines", "scrub", "kubectl", "kubectl_json", "api_answers"),
            ),
            (rackspec, ("valid_id",)),
            (
                kubeadm_config,
                (
                    "api_version",
                    "cri_socket",
                    "init_config",
                    "join_config",
                    "kubelet_of",
                    "init_token_description",
                ),
            ),
        )
        for name in names
    }
    return {
        kubeadm: {
            "__opts__": opts,
            "__pillar__": pillar,
            "__utils__": utils,
            "__context__": {},
            "__salt__": {},
        }
    }


@pytest.fixture
def etc(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "kubernetes"
    folder.mkdir()
    monkeypatch.setattr(kubeadm, "KUBERNETES_DIR", folder)
    monkeypatch.setattr(kubeadm, "RUN_DIR", tmp_path / "run")
    return folder


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Put a script in the place of a program; it notes its arguments in <name>.argv."""
    folder = tmp_path / "bin"
    folder.mkdir()
    # not the PATH of this machine: a kubeadm that happens to be here must not run
    for tool in ("sh", "cat", "rm", "touch", "mkdir", "sleep", "cp", "dirname", "stat"):
        found = next(Path(d) / tool for d in ("/bin", "/usr/bin") if (Path(d) / tool).exists())
        (folder / tool).symlink_to(found)
    monkeypatch.setenv("PATH", str(folder))

    def write(name: str, body: str) -> Path:
        notes = tmp_path / f"{name}.argv"
        notes.touch()
        path = folder / name
        text = f'#!/bin/sh\necho "$@" >> {notes}\n{textwrap.dedent(body)}'
        path.write_text(text)
        path.chmod(0o755)
        return notes

    return write


def _kubeconfig(path: Path, pem: bytes, user: dict, server: str = "https://10.0.0.11:6443") -> None:
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "ours",
                "contexts": [
                    {"name": "other", "context": {"cluster": "nowhere", "user": "nobody"}},
                    {"name": "ours", "context": {"cluster": "berry", "user": "node"}},
                ],
                "clusters": [
                    {
                        "name": "berry",
                        "cluster": {
                            "server": server,
                            "certificate-authority-data": base64.b64encode(pem).decode(),
                        },
                    }
                ],
                "users": [{"name": "node", "user": user}],
            }
        )
    )


@pytest.fixture
def member(etc, ca, tmp_path):
    """Files of a good worker."""
    certificate = tmp_path / "kubelet-client-current.pem"
    certificate.write_text("certificate and key")
    _kubeconfig(etc / "kubelet.conf", ca, {"client-certificate": str(certificate)})
    (etc / "pki").mkdir()
    (etc / "pki" / "ca.crt").write_bytes(ca)
    return certificate


@pytest.fixture
def control_plane(etc, member, ca, opts, pillar):
    """Files and pillar of a good control plane."""
    _kubeconfig(etc / "admin.conf", ca, {"client-certificate-data": "eA=="})
    (etc / "manifests").mkdir()
    (etc / "manifests" / "kube-apiserver.yaml").write_text("kind: Pod")
    (etc / "pki" / "ca.key").write_text("key")
    opts["id"] = "cp1"
    pillar["node"] = {"id": "cp1", "roles": ["control_plane"], "ip": "10.0.0.11"}


@pytest.fixture
def sealed(minion_key, ca):
    public = (
        minion_key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )

    def seal(node: str = "pi-07", ttl: float = 600, pem: bytes = ca, **more) -> str:
        document = {"token": TOKEN, "endpoint": "10.0.0.11:6443", "ca_hash": spki.ca_hash(pem)}
        return ticket.seal(document, public, node, ttl, **more)

    return seal


# --- CA -------------------------------------------------------------------------------------------


def test_ca_hash_of_certificate_and_kubeconfig(etc, ca, member):
    assert kubeadm.ca_hash(str(etc / "pki/ca.crt")) == spki.ca_hash(ca)
    assert kubeadm.ca_hash(str(etc / "kubelet.conf")) == spki.ca_hash(ca)


def test_ca_hash_of_a_kubeconfig_that_names_a_file(etc, ca):
    (etc / "ca.crt").write_bytes(ca)
    _kubeconfig(etc / "config", ca, {})
    config = yaml.safe_load((etc / "config").read_text())
    config["clusters"][0]["cluster"] = {"server": "https://x", "certificate-authority": "ca.crt"}
    (etc / "config").write_text(yaml.safe_dump(config))
    assert kubeadm.ca_hash(str(etc / "config")) == spki.ca_hash(ca)


@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff\xfe", b"[]", b"a: b", b"{", b"current-context: x"]
)
def test_ca_hash_of_something_else(etc, content):
    (etc / "x").write_bytes(content)
    with pytest.raises(Failure, match="neither a CA certificate nor a kubeconfig"):
        kubeadm.ca_hash(str(etc / "x"))


def test_ca_hash_of_nothing(etc):
    with pytest.raises(Failure, match="cannot be read on pi-07: No such file"):
        kubeadm.ca_hash(str(etc / "x"))


@pytest.mark.skipif(not os.access(REAL, os.X_OK), reason=f"no kubeadm at {REAL}")
def test_ca_hash_of_a_ca_made_by_kubeadm(tmp_path):
    """Compared with the pipeline of kubeadm's documentation."""
    run = [str(REAL), "init", "phase", "certs", "ca", f"--cert-dir={tmp_path}",
           "--kubernetes-version=1.20.2"]  # fmt: skip
    subprocess.run(run, check=True, capture_output=True)
    pipeline = (
        f"openssl x509 -pubkey -in {tmp_path}/ca.crt | openssl rsa -pubin -outform der 2>/dev/null"
        " | openssl dgst -sha256 -hex | sed 's/^.* //'"
    )
    printed = subprocess.run(["sh", "-c", pipeline], check=True, capture_output=True, text=True)
    assert kubeadm.ca_hash(str(tmp_path / "ca.crt")) == f"sha256:{printed.stdout.strip()}"


# --- facts ----------------------------------------------------------------------------------------


def test_facts_of_a_blank_node(etc, program):
    assert kubeadm.facts() == {
        "kubeadm": False,
        "role": None,
        "joined": False,
        "half_joined": False,
        "leftover": False,
        "problems": [],
        "kubelet_conf": False,
        "ca_hash": None,
        "server": None,
    }


def test_facts_of_a_worker(etc, ca, member, program):
    program("kubeadm", "echo v1.20.2")
    found = kubeadm.facts()
    assert found["kubeadm"] is True
    assert found["role"] == "worker"
    assert found["joined"]
    assert found["ca_hash"] == spki.ca_hash(ca)
    assert found["server"] == "https://10.0.0.11:6443"
    assert found["problems"] == []


def test_facts_of_a_control_plane(control_plane, program):
    found = kubeadm.facts()
    assert found["role"] == "control_plane"
    assert found["joined"]


def _truncate(etc: Path, _member: Path) -> None:
    (etc / "kubelet.conf").write_text("")


def _no_certificate(_etc: Path, member: Path) -> None:
    member.unlink()


def _empty_certificate(_etc: Path, member: Path) -> None:
    member.write_text("")


@pytest.mark.parametrize("damage", [_truncate, _no_certificate, _empty_certificate])
def test_a_power_cut_while_files_were_written(etc, ca, member, program, damage):
    damage(etc, member)
    found = kubeadm.facts()
    assert found["half_joined"]
    assert not found["joined"]
    assert found["role"] is None
    assert found["ca_hash"] == spki.ca_hash(ca), "still known, from pki/ca.crt"
    assert "is of no use" in found["problems"][0]


def test_a_join_that_was_killed(etc, program):
    (etc / "bootstrap-kubelet.conf").write_text("x")
    assert kubeadm.facts()["half_joined"]


def test_a_join_that_left_only_the_ca(etc, ca, program):
    (etc / "pki").mkdir()
    (etc / "pki" / "ca.crt").write_bytes(ca)
    assert kubeadm.facts()["half_joined"]
    (etc / "pki" / "ca.key").write_text("the user brought a CA")
    assert not kubeadm.facts()["half_joined"]


def test_an_init_that_was_killed(etc, control_plane, program):
    (etc / kubeadm.INIT_MARKER).write_text("")
    found = kubeadm.facts()
    assert found["half_joined"]
    assert not found["joined"]


# --- processes ------------------------------------------------------------------------------------


def test_missing_program(etc, program):
    with pytest.raises(Failure, match="kubeadm is not installed on this node: apply the state"):
        kubeadm._run(["kubeadm", "version"], 5)


def test_a_program_that_hangs_is_stopped_and_shows_nothing(etc, program):
    program("kubeadm", f"echo {TOKEN}; exec sleep 60")
    with pytest.raises(Failure, match="kubeadm join did not end within 0 s") as caught:
        kubeadm._run(["kubeadm", "join"], 0.3, stdin=TOKEN)
    assert TOKEN not in repr(caught.value)
    assert caught.value.__cause__ is None


def test_output_is_scrubbed():
    text = f"I1123 noise\n[WARNING x]: y\n\nfailed with {TOKEN}.\nTo see the stack trace use -v\n"
    assert kubeadm._last_lines(text) == "failed with <token>."


def test_private_file(etc, tmp_path):
    with kubeadm._private_file("join-", TOKEN) as path:
        assert path.read_text() == TOKEN
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not path.exists()
    with pytest.raises(RuntimeError), kubeadm._private_file("join-", TOKEN) as path:
        raise RuntimeError
    assert not path.exists()


# --- configuration --------------------------------------------------------------------------------


def test_config_api_version():
    assert kubeadm.config_api_version("v1.34.2") == "v1beta4"
    with pytest.raises(Failure, match="not a Kubernetes version"):
        kubeadm.config_api_version("newest")


def test_join_config_shows_no_token(etc, program):
    text = kubeadm.join_config()
    document = yaml.safe_load(text)
    assert document["nodeRegistration"]["name"] == "pi-07"
    assert document["nodeRegistration"]["kubeletExtraArgs"] == {"node-ip": "10.0.0.27"}
    assert document["discovery"]["bootstrapToken"]["apiServerEndpoint"] == "10.0.0.11:6443"
    assert document["discovery"]["tlsBootstrapToken"] == "<from the ticket>"


def test_init_config_from_the_pillar(etc, opts, pillar, program):
    opts["id"] = "cp1"
    pillar["node"] = {"roles": ["control_plane"], "ip": "10.0.0.11"}
    pillar["kubernetes"].update(api_port=7443, pod_network="10.9.0.0/16")
    documents = list(yaml.safe_load_all(kubeadm.init_config()))
    assert documents[0]["localAPIEndpoint"] == {"advertiseAddress": "10.0.0.11", "bindPort": 7443}
    assert documents[1]["controlPlaneEndpoint"] == "10.0.0.11:7443"
    assert documents[1]["networking"]["podSubnet"] == "10.9.0.0/16"
    assert documents[1]["apiServer"]["certSANs"] == ["cp1.rack.lan"]


def test_a_node_without_an_address_uses_the_one_that_leads_to_the_api_server(etc, pillar, program):
    pillar["node"]["ip"] = None
    pillar["cluster"] = {"endpoint": "127.0.0.1:6443"}
    document = yaml.safe_load(kubeadm.join_config())
    assert document["nodeRegistration"]["kubeletExtraArgs"] == {"node-ip": "127.0.0.1"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kubernetes": {}}, "no kubernetes:version"),
        ({"nodes": {}}, "names no control plane with an address"),
        (
            {"nodes": {"cp1": {"roles": ["control_plane"]}}},
            "names no control plane with an address",
        ),
    ],
)
def test_a_pillar_that_lacks_something(etc, pillar, program, change, words):
    pillar.update(change)
    with pytest.raises(Failure, match=words):
        kubeadm.join_config()


# --- join -----------------------------------------------------------------------------------------


def _fake_join(etc: Path, member_conf: Path, folder: Path) -> str:
    return f"""
        case "$1" in
        version) echo v1.20.2 ;;
        reset) rm -rf {etc}/kubelet.conf {etc}/bootstrap-kubelet.conf {etc}/pki ;;
        join) cp "$3" {folder}/config.yaml; cp {member_conf} {etc}/kubelet.conf ;;
        esac
        """


def test_no_ticket(etc, program):
    with pytest.raises(Failure, match="no join ticket for pi-07"):
        kubeadm.join()


def test_ticket_from_the_pillar(etc, ca, pillar, program, request):
    sealed, tmp_path = request.getfixturevalue("sealed"), etc.parent
    conf = tmp_path / "kubelet.conf"
    _kubeconfig(conf, ca, {"client-certificate-data": "eA=="})
    argv = program("kubeadm", _fake_join(etc, conf, tmp_path))
    pillar["kubeadm_ticket"] = sealed()
    done = kubeadm.join()
    assert done["joined"]
    assert done["endpoint"] == "10.0.0.11:6443"
    discovery = yaml.safe_load((tmp_path / "config.yaml").read_text())["discovery"]
    assert discovery["bootstrapToken"]["caCertHashes"] == [spki.ca_hash(ca)]
    assert TOKEN not in argv.read_text()
    assert list((tmp_path / "run").iterdir()) == []


def test_join_of_a_member_changes_nothing(etc, member, sealed, program):
    argv = program("kubeadm", "echo v1.20.2")
    done = kubeadm.join(sealed())
    assert (done["joined"], done["was"], done["mended"]) == (False, "member", [])
    assert argv.read_text() == ""


@pytest.mark.usefixtures("member")
@pytest.mark.parametrize("broken", [False, True])
def test_join_of_another_clusters_node_is_refused(etc, other_ca, sealed, program, broken):
    """Also if its kubelet.conf is of no use: what it belonged to is for people to say."""
    argv = program("kubeadm", "echo v1.20.2")
    if broken:
        (etc / "kubelet.conf").write_text("")
    with pytest.raises(Failure, match="pi-07 belongs to another cluster") as caught:
        kubeadm.join(sealed(pem=other_ca))
    assert "salt pi-07 kubeadm.reset force=True" in str(caught.value)
    assert "reset" not in argv.read_text()
    assert (etc / "kubelet.conf").exists()


def test_join_of_a_control_plane_is_refused(etc, control_plane, sealed, program):
    argv = program("kubeadm", "echo v1.20.2")
    with pytest.raises(Failure, match="more than one control plane is not supported yet"):
        kubeadm.join(sealed("cp1"))
    assert argv.read_text() == ""


@pytest.mark.usefixtures("control_plane")
def test_a_broken_control_plane_that_the_pillar_calls_a_worker_is_left_alone(
    etc, opts, pillar, sealed, program
):
    argv = program("kubeadm", "echo v1.20.2")
    opts["id"], pillar["node"]["roles"] = "pi-07", ["worker"]
    (etc / "kubelet.conf").write_text("")
    with pytest.raises(Failure, match="is a control plane by its files and a worker by the pillar"):
        kubeadm.join(sealed())
    assert "reset" not in argv.read_text()


def test_join_without_kubeadm(etc, sealed, program):
    with pytest.raises(Failure, match="kubeadm is not installed on pi-07"):
        kubeadm.join(sealed())


def test_expired_ticket(etc, sealed, program):
    with pytest.raises(Failure, match="the ticket expired"):
        kubeadm.join(sealed(ttl=-60))


def test_a_failed_join_leaves_no_token(etc, sealed, program, tmp_path):
    body = f"""
        [ "$1" = version ] && {{ echo v1.20.2; exit; }}
        cp "$3" {etc}/bootstrap-kubelet.conf
        echo 'error execution phase kubelet-start: timed out waiting for the condition' >&2
        exit 1
        """
    program("kubeadm", body)
    with pytest.raises(Failure, match="kubelet on pi-07 did not come up"):
        kubeadm.join(sealed())
    assert not (etc / "bootstrap-kubelet.conf").exists()
    assert list((tmp_path / "run").iterdir()) == []


def test_a_hanging_join_leaves_no_token(etc, sealed, program, tmp_path, monkeypatch):
    body = f"""
        [ "$1" = version ] && {{ echo v1.20.2; exit; }}
        cp "$3" {etc}/bootstrap-kubelet.conf
        exec sleep 60
        """
    program("kubeadm", body)
    monkeypatch.setattr(kubeadm, "JOIN_LIMIT", 0.5)
    with pytest.raises(Failure, match="kubeadm join did not end within"):
        kubeadm.join(sealed())
    assert not (etc / "bootstrap-kubelet.conf").exists()
    assert list((tmp_path / "run").iterdir()) == []


def test_a_join_that_made_no_member(etc, sealed, program):
    program("kubeadm", '[ "$1" = version ] && echo v1.20.2; exit 0')
    with pytest.raises(Failure, match="kubeadm join ended well on pi-07, but"):
        kubeadm.join(sealed())


# What kubeadm wrote on other occasions, or writes in later versions (its sources), as it stands.
STDERR = {
    'couldn\'t validate the identity of the API Server: token id "abcdef" is invalid for this '
    'cluster or it has expired. Use "kubeadm token create"': "token is no longer good",
    "couldn't validate the identity of the API Server: failed to request the cluster-info ConfigMap: "
    'Get "https://10.0.0.11:6443/api": dial tcp 10.0.0.11:6443: connect: no route to host': (
        "cannot be reached from pi-07"
    ),
    "couldn't validate the identity of the API Server: client rate limiter Wait returned an error: "
    "context deadline exceeded": "cannot be reached from pi-07",
    'couldn\'t validate the identity of the API Server: Get "https://10.0.0.11:6443": x509: '
    "certificate has expired or is not yet valid: current time is before": r"set the clock",
    "couldn't validate the identity of the API Server: x509: certificate signed by unknown "
    "authority": "is not the one of the ticket",
    'a Node with name "pi-07" and status "Ready" already exists in the cluster. You must delete the '
    "existing Node": "kubectl delete node pi-07",
    "the HTTP call equal to 'curl -sSL http://127.0.0.1:10248/healthz' returned error: Get "
    '"http://127.0.0.1:10248/healthz": dial tcp 127.0.0.1:10248: connect: connection refused': (
        "kubelet on pi-07 did not come up"
    ),
    "[preflight] Some fatal errors occurred:\n\t[ERROR Swap]: running with swap on is not supported."
    "\n\t[ERROR NumCPU]: the number of available CPUs 1 is less than the required 2\n"
    "[preflight] If you know what you are doing": (
        "checks on pi-07 failed: Swap: running with swap on is not supported.; NumCPU: the number"
    ),
    "something new under the sun": "kubeadm join failed on pi-07: error execution phase x: something",
}


@pytest.mark.parametrize("stderr", STDERR)
def test_words_for_what_kubeadm_says(etc, stderr):
    noise = "W1123 10:00:00.1 x.go:1] dial tcp: lookup pi-07: no such host\n"
    said = f"{noise}error execution phase x: {stderr}\nTo see the stack trace of this error execute"
    words = kubeadm._explain_join("", said, "10.0.0.11:6443", "sha256:abc")
    assert kubeadm.re.search(STDERR[stderr], words), words
    assert len(words) < 700


def test_transient_answers_of_the_api_server_are_tried_again(etc, control_plane, program, tmp_path):
    """A 503, then one that hangs up, then an answer; in between it is asked whether it is ready."""
    body = f"""
        case "$*" in
        *readyz*) exit 0 ;;
        esac
        echo x >> {tmp_path}/count
        case "$(cat {tmp_path}/count)" in
        x) echo 'Error from server (ServiceUnavailable): the server is currently unable' >&2; exit 1 ;;
        "x
        x") echo 'The connection to the server was refused - did you specify the right host' >&2
            exit 1 ;;
        esac
        echo '{{"items": []}}'
        """
    argv = program("kubectl", body)
    assert kubeadm.nodes() == {}
    asked = argv.read_text().splitlines()
    assert [line.split()[1] for line in asked] == [
        "nodes", "--raw=/readyz", "nodes", "--raw=/readyz", "nodes",
    ]  # fmt: skip


def test_a_refusal_of_the_api_server_is_not_tried_again(etc, control_plane, program):
    argv = program(
        "kubectl", "echo 'Error from server (Forbidden): nodes is forbidden' >&2; exit 1"
    )
    with pytest.raises(Failure, match=r"\(Forbidden\): nodes is forbidden"):
        kubeadm.nodes()
    assert len(argv.read_text().splitlines()) == 1


# --- reset ----------------------------------------------------------------------------------------


def test_reset_of_a_good_member_wants_force(etc, member, program, tmp_path):
    argv = program("kubeadm", _fake_join(etc, member, tmp_path))
    with pytest.raises(Failure, match=r"good member of https://10\.0\.0\.11:6443") as caught:
        kubeadm.reset()
    assert "kubeadm.reset force=True" in str(caught.value)
    assert "reset" not in argv.read_text()
    assert kubeadm.reset(force=True)["reset"]
    assert "reset --force --cri-socket=/run/containerd/containerd.sock" in argv.read_text()


def test_reset_of_a_control_plane_wants_force(etc, control_plane, program):
    with pytest.raises(Failure, match="a reset destroys its cluster"):
        kubeadm.reset()


def test_reset_of_another_clusters_node_wants_force(etc, member, other_ca, pillar, program):
    pillar["cluster"] = {"ca_hash": spki.ca_hash(other_ca)}
    member.unlink()
    with pytest.raises(Failure, match="belongs to another cluster"):
        kubeadm.reset()


def test_reset_of_a_half_finished_join(etc, program, tmp_path):
    program("kubeadm", _fake_join(etc, tmp_path, tmp_path))
    (etc / "bootstrap-kubelet.conf").write_text("x")
    assert kubeadm.reset()["was"]["half_joined"]
    assert not kubeadm.facts()["half_joined"]


def test_reset_that_fails(etc, program):
    program("kubeadm", '[ "$1" = version ] && { echo v1.34.2; exit; }; echo "no root" >&2; exit 1')
    with pytest.raises(Failure, match="kubeadm reset failed on pi-07: no root"):
        kubeadm.reset(force=True)


# --- init -----------------------------------------------------------------------------------------


@pytest.fixture
def plane_to_be(opts, pillar, etc):
    opts["id"] = "cp1"
    pillar["node"] = {"id": "cp1", "roles": ["control_plane"], "ip": "10.0.0.11"}
    return etc


def _fake_init(etc: Path, admin: Path, folder: Path, exit_code: int = 0) -> str:
    return f"""
        case "$1" in
        version) echo v1.20.2; exit ;;
        reset) rm -rf {etc}/kubelet.conf {etc}/manifests {etc}/admin.conf {etc}/pki; exit ;;
        esac
        for last; do :; done
        cp "$last" {folder}/config.yaml
        stat -c %a "$last" > {folder}/mode
        cp {etc}/{kubeadm.INIT_MARKER} {folder}/marker
        mkdir -p {etc}/manifests {etc}/pki
        cp {folder}/ca.crt {etc}/pki/ca.crt
        [ {exit_code} = 0 ] || {{ echo 'error execution phase x: boom' >&2; exit {exit_code}; }}
        cp {admin} {etc}/admin.conf; cp {admin} {etc}/kubelet.conf
        touch {etc}/manifests/kube-apiserver.yaml
        """


@pytest.fixture
def admin(tmp_path, ca):
    path = tmp_path / "admin.conf"
    _kubeconfig(path, ca, {"client-certificate-data": "eA=="})
    (tmp_path / "ca.crt").write_bytes(ca)
    return path


def test_init(plane_to_be, admin, ca, program, tmp_path):
    argv = program("kubeadm", _fake_init(plane_to_be, admin, tmp_path))
    kubectl = program("kubectl", """echo '{"items": []}'""")
    done = kubeadm.init()
    assert done["initialized"]
    assert done["endpoint"] == "10.0.0.11:6443"
    assert done["ca_hash"] == spki.ca_hash(ca)
    command = argv.read_text().splitlines()[-1]
    assert command.startswith("init --skip-token-print --skip-phases=addon/coredns --config ")
    assert (tmp_path / "mode").read_text().strip() == "600"
    assert (tmp_path / "marker").exists()
    assert not (plane_to_be / kubeadm.INIT_MARKER).exists()
    assert "get secrets" in kubectl.read_text(), "kubeadm's own token is looked for"
    again = kubeadm.init()
    assert not again["initialized"]
    assert argv.read_text().count("init ") == 1


def test_init_with_dns(plane_to_be, admin, pillar, program, tmp_path):
    pillar["kubernetes"]["dns"] = True
    argv = program("kubeadm", _fake_init(plane_to_be, admin, tmp_path))
    program("kubectl", """echo '{"items": []}'""")
    kubeadm.init()
    assert "skip-phases" not in argv.read_text()


def test_a_failed_check_does_not_make_a_half_finished_init(plane_to_be, admin, program, tmp_path):
    program("kubeadm", _fake_init(plane_to_be, admin, tmp_path, exit_code=1))
    with pytest.raises(Failure, match="kubeadm init failed on cp1: error execution phase x: boom"):
        kubeadm.init()
    assert not (plane_to_be / kubeadm.INIT_MARKER).exists()


def test_an_init_that_was_cut_off_is_finished_by_its_last_phases(
    control_plane, etc, admin, program, tmp_path
):
    """The API server is up: nothing is reset."""
    argv = program("kubeadm", _fake_init(etc, admin, tmp_path))
    program("kubectl", """echo '{"items": []}'""")
    (etc / kubeadm.INIT_MARKER).write_text("")
    done = kubeadm.init()
    assert done["was"] == "half-finished init"
    text = argv.read_text()
    assert "reset" not in text
    assert "--skip-phases=preflight,certs,kubeconfig,kubelet-start,control-plane,etcd," in text
    assert not (etc / kubeadm.INIT_MARKER).exists()


def _dead_api(program) -> None:
    program("kubectl", "echo 'connect: connection refused' >&2; exit 1")


@pytest.mark.usefixtures("control_plane")
def test_an_init_that_never_came_up_is_begun_again(etc, admin, program, tmp_path, monkeypatch):
    monkeypatch.setattr(kubeadm, "API_WAIT_AFTER_BOOT", 0.1)
    monkeypatch.setattr(kube_programs, "API_WAIT", 0.1)
    argv = program("kubeadm", _fake_init(etc, admin, tmp_path))
    _dead_api(program)
    (etc / kubeadm.INIT_MARKER).write_text("")
    assert kubeadm.init()["was"] == "half-finished init"
    assert [line.split()[0] for line in argv.read_text().splitlines() if "version" not in line] == [
        "reset", "init",
    ]  # fmt: skip


@pytest.mark.usefixtures("control_plane")
def test_an_init_whose_cluster_is_in_use_is_never_reset(etc, ca, pillar, program, monkeypatch):
    monkeypatch.setattr(kubeadm, "API_WAIT_AFTER_BOOT", 0.1)
    argv = program("kubeadm", "echo v1.20.2")
    _dead_api(program)
    (etc / kubeadm.INIT_MARKER).write_text("")
    pillar["cluster"] = {"ca_hash": spki.ca_hash(ca)}
    with pytest.raises(Failure, match="its cluster is in use: nothing was reset"):
        kubeadm.init()
    assert "reset" not in argv.read_text()


def test_init_keeps_a_ca_that_the_user_brought(plane_to_be, admin, ca, program, tmp_path):
    (plane_to_be / "pki").mkdir()
    (plane_to_be / "pki" / "ca.crt").write_bytes(ca)
    (plane_to_be / "pki" / "ca.key").write_text("key")
    argv = program("kubeadm", _fake_init(plane_to_be, admin, tmp_path))
    program("kubectl", """echo '{"items": []}'""")
    kubeadm.init()
    assert "reset" not in argv.read_text()


def test_init_on_a_worker_by_the_pillar(etc, program):
    with pytest.raises(Failure, match="pi-07 is no control plane by the pillar"):
        kubeadm.init()


def test_a_second_control_plane(plane_to_be, pillar, opts, program):
    pillar["nodes"]["cp2"] = {"ip": "10.0.0.12", "roles": ["control_plane"]}
    opts["id"] = "cp2"
    with pytest.raises(Failure, match="cp1 is the rack's control plane; cp2 would be a second one"):
        kubeadm.init()


def test_a_blank_control_plane_of_a_rack_with_a_cluster(plane_to_be, pillar, program):
    pillar["cluster"] = {"ca_hash": "sha256:abc", "endpoint": "10.0.0.11:6443"}
    with pytest.raises(Failure, match=r"cp1 is blank: a new init would make another cluster"):
        kubeadm.init()


def test_a_control_plane_of_another_cluster(control_plane, pillar, program):
    pillar["cluster"] = {"ca_hash": "sha256:abc"}
    with pytest.raises(Failure, match="cp1 belongs to another cluster"):
        kubeadm.init()


def test_a_worker_that_is_to_be_a_control_plane(plane_to_be, member, program):
    with pytest.raises(Failure, match=r"is a worker of https://10\.0\.0\.11:6443 and is to be"):
        kubeadm.init()


def test_remains_of_another_kubeadm(control_plane, etc, program):
    (etc / "admin.conf").unlink()
    with pytest.raises(Failure, match=r"remains of another kubeadm .*admin\.conf is missing"):
        kubeadm.init()


def test_init_without_kubeadm(plane_to_be, program):
    with pytest.raises(Failure, match="kubeadm is not installed on cp1"):
        kubeadm.init()


def test_every_public_function_has_an_example():
    """And nothing is public by accident: Salt's loader offers every function without an underscore."""
    public = {
        name
        for name, value in vars(kubeadm).items()
        if not name.startswith("_") and callable(value) and hasattr(value, "__code__")
    }
    assert public == {
        "admin_kubeconfig", "ca_hash", "check_cluster", "check_init", "config_api_version",
        "delete_node", "drain", "facts", "init", "init_config", "install_kubeconfig", "join",
        "join_config", "mend", "nodes", "refuse_control_plane", "reset", "ticket_create",
        "ticket_revoke", "token_create", "token_delete", "token_list", "uncordon", "wait_ready",
    }  # fmt: skip
    for name in public:
        assert "CLI Example:" in vars(kubeadm)[name].__doc__, name
