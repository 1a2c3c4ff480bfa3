"""The cluster's DNS, the rack's authority, and what stands before the ingress: on a real API server."""

from __future__ import annotations

import base64
import datetime
import json
import ssl
import subprocess
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from salt.exceptions import CommandExecutionError
from saltberry_ext.modules import coredns, helm, ingress, manifests, rack_ca
from saltberry_ext.states import coredns as coredns_state
from saltberry_ext.states import rack_ca as rack_ca_state
from saltberry_ext.utils import kube_programs

from . import kube_api

needs_api = pytest.mark.skipif(bool(kube_api.missing()), reason=kube_api.missing())
REPO = Path(__file__).resolve().parents[3]
# As kubeadm 1.20 and 1.34 write it
COREFILE = """\
.:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30
    loop
    reload
    loadbalance
}
"""
ISSUER = json.dumps(
    kube_api.any_kind("cert-manager.io", "clusterissuers", "ClusterIssuer", "Cluster")
)


def pillar() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((REPO / "pillar/defaults.sls").read_text())
    found["rack"]["network"] = "192.168.1.0/24"
    found["nodes"] = {
        "nfs1": {"ip": "192.168.1.10", "roles": ["storage", "master", "worker"]},
        "cp1": {"ip": "192.168.1.11", "roles": ["control_plane"]},
        "pi-01": {"ip": "192.168.1.21"},
        "pi-02": None,
    }
    return found


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kube_api.Api]:
    with kube_api.running(tmp_path_factory.mktemp("api")) as running:
        running.kubectl("create", "namespace", "cert-manager")
        yield running


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The pillar as the modules have it."""
    made = pillar()
    for module in (coredns, rack_ca, ingress, helm):
        monkeypatch.setattr(module, "__pillar__", made, raising=False)
    return made


@pytest.fixture
def control_plane(
    api: kube_api.Api, told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> kube_api.Api:
    monkeypatch.setenv("PATH", str(kube_api.BINARIES), prepend=":")
    names = ("kubectl", "kubectl_json", "last_lines")
    utils = {f"kube_programs.{name}": getattr(kube_programs, name) for name in names}
    salt = {
        f"{part.__virtualname__}.{name}": getattr(part, name)
        for part in (coredns, rack_ca, manifests)
        for name in dir(part)
        if not name.startswith("_")
    }
    for module in (coredns, rack_ca, manifests):
        monkeypatch.setattr(module, "ADMIN_CONF", api.etc / "admin.conf")
        monkeypatch.setattr(module, "__utils__", utils, raising=False)
        monkeypatch.setattr(module, "__salt__", salt, raising=False)
        monkeypatch.setattr(module, "__context__", {}, raising=False)
    for state in (coredns_state, rack_ca_state):
        monkeypatch.setattr(state, "__salt__", salt, raising=False)
        monkeypatch.setattr(state, "__opts__", {"test": False}, raising=False)
    return api


def run(
    function: Callable[[str], dict[str, Any]], state: Any, test: bool = False
) -> dict[str, Any]:
    manifests.__context__.clear()
    state.__opts__["test"] = test
    try:
        return function("any")
    finally:
        state.__opts__["test"] = False


def dns(test: bool = False) -> dict[str, Any]:
    return run(coredns_state.configured, coredns_state, test)


# --- the cluster's DNS -------------------------------------------------------------------------------


def corefile(api: kube_api.Api, text: str | None = None) -> str:
    where = ("-n", "kube-system", "configmap", "coredns")
    if text is not None:
        body = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"Corefile": text, "other": "stays"},
                "metadata": {"name": "coredns", "namespace": "kube-system"}}  # fmt: skip
        api.kubectl("delete", "--ignore-not-found", *where)
        api.kubectl("create", "-f", "-", stdin=json.dumps(body))
    return api.kubectl("get", *where, "-o", "jsonpath={.data.Corefile}")


@needs_api
def test_the_nodes_get_names_and_all_else_of_the_dns_stays(control_plane: kube_api.Api) -> None:
    corefile(control_plane, COREFILE)
    said = dns(test=True)
    assert (said["result"], corefile(control_plane)) == (None, COREFILE)
    assert "+        192.168.1.21 pi-01.rack.lan" in said["changes"]["Corefile"]
    done = dns()
    assert (done["result"], done["changes"]) == (True, said["changes"]), done
    text = corefile(control_plane)
    assert [line for line in text.splitlines() if line not in COREFILE.splitlines()] == [
        "    # Written by Salt: the rack's nodes",
        "    hosts {",
        "        192.168.1.11 cp1.rack.lan",
        "        192.168.1.10 nfs1.rack.lan",
        "        192.168.1.21 pi-01.rack.lan",
        "        ttl 60",
        "        fallthrough",
    ]
    assert text.index("hosts {") < text.index("kubernetes cluster.local")
    for test in (True, False):
        assert dns(test)["changes"] == {}
    other = control_plane.kubectl(
        "get", "-n", "kube-system", "configmap", "coredns", "-o", "jsonpath={.data.other}"
    )
    assert other == "stays"


@needs_api
def test_an_upgrade_that_writes_the_file_anew_is_no_second_block(
    control_plane: kube_api.Api, told: dict[str, Any]
) -> None:
    corefile(control_plane, COREFILE)
    dns()
    # kubeadm's upgrade reads the file and writes it in its own words, without comments
    lines = [line for line in corefile(control_plane).splitlines() if "#" not in line]
    corefile(control_plane, "\n".join(lines) + "\n")
    told["nodes"]["pi-03"] = {"ip": "192.168.1.23"}
    assert dns()["result"] is True
    text = corefile(control_plane)
    assert text.count("hosts {") == 1
    assert "192.168.1.23 pi-03.rack.lan" in text
    told["kubernetes"]["dns_hosts"] = False
    assert dns()["result"] is True
    assert corefile(control_plane) == COREFILE


@needs_api
def test_other_name_servers_are_asked_and_no_longer(
    control_plane: kube_api.Api, told: dict[str, Any]
) -> None:
    corefile(control_plane, COREFILE)
    told["kubernetes"].update(dns_hosts=False, dns_upstream=["192.168.1.1", "9.9.9.9"])
    assert dns()["result"] is True
    assert corefile(control_plane) == COREFILE.replace(
        "/etc/resolv.conf {", "192.168.1.1 9.9.9.9 {"
    )
    told["kubernetes"].update(dns_hosts=True, dns_upstream=[])
    assert dns()["result"] is True
    assert "forward . /etc/resolv.conf {" in corefile(control_plane)


@needs_api
def test_a_corefile_of_a_persons_own_is_left_alone_with_the_reason(
    control_plane: kube_api.Api, told: dict[str, Any]
) -> None:
    own = COREFILE.replace("    ready\n", "    hosts {\n        10.0.0.1 printer\n    }\n")
    for text, words in ((own, "hosts of its own"), (".:53 {\n    whoami\n}\n", "no line 'forward")):
        corefile(control_plane, text)
        for test in (True, False):
            ret = dns(test)
            assert (ret["result"], ret["changes"]) == (False, {})
            assert words in ret["comment"]
        assert corefile(control_plane) == text
    told["kubernetes"]["dns_hosts"] = False
    assert dns()["changes"] == {}
    control_plane.kubectl("delete", "-n", "kube-system", "configmap", "coredns")
    told["kubernetes"]["dns_hosts"] = True
    assert (dns()["result"], dns()["changes"]) == (True, {}), "kubeadm made none"


# --- the rack's authority --------------------------------------------------------------------------------


def authority(test: bool = False) -> dict[str, Any]:
    return run(rack_ca_state.present, rack_ca_state, test)


def secret(api: kube_api.Api) -> dict[str, bytes]:
    found = json.loads(api.kubectl("get", "-n", "cert-manager", "secret", "rack-ca", "-o", "json"))
    return {key: base64.b64decode(value) for key, value in found["data"].items()}


@needs_api
def test_the_authority_is_made_once_and_its_key_is_told_to_nobody(
    control_plane: kube_api.Api, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    said = [authority(test=True)]
    assert said[0]["result"] is None
    assert set(said[0]["changes"]) == {
        "Secret rack-ca", "ConfigMap rack-ca", "ClusterIssuer rack-ca"
    }  # fmt: skip
    control_plane.kubectl("apply", "-f", "-", stdin=ISSUER)
    control_plane.kubectl("wait", "--for=condition=established", "crd", "--all", "--timeout=60s")
    said.append(authority())
    assert (said[1]["result"], said[1]["changes"]) == (True, said[0]["changes"]), said[1]
    made = secret(control_plane)
    said += [authority(), authority(test=True)]
    assert [each["changes"] for each in said[2:]] == [{}, {}], said[2:]
    assert secret(control_plane) == made
    issuer = json.loads(control_plane.kubectl("get", "clusterissuer", "rack-ca", "-o", "json"))
    assert issuer["spec"] == {"ca": {"secretName": "rack-ca"}}
    shown = json.dumps(said) + caplog.text + "".join(capfd.readouterr())
    key = made["tls.key"].decode()
    assert "PRIVATE KEY" not in shown
    for line in key.splitlines()[1:-1]:
        assert line not in shown
    assert rack_ca.certificate() == made["tls.crt"].decode()
    assert "certificates" in manifests.services(), "so the master knows that it is there"


@needs_api
def test_an_authority_that_is_not_the_pillars_is_kept_and_the_way_out_named(
    control_plane: kube_api.Api, told: dict[str, Any]
) -> None:
    control_plane.kubectl("apply", "-f", "-", stdin=ISSUER)
    authority()
    made = secret(control_plane)
    told["services"]["certificates"]["domains"] = ["home.example"]
    for test in (True, False):
        ret = authority(test)
        assert (ret["result"], ret["changes"]) == (False, {})
        assert "made without home.example" in ret["comment"]
        assert "delete secret rack-ca" in ret["comment"]
    assert secret(control_plane) == made
    control_plane.kubectl("delete", "-n", "cert-manager", "secret", "rack-ca")
    assert authority()["result"] is True
    assert secret(control_plane) != made


def sign(ca_key: bytes, ca: bytes, name: str, folder: Path) -> Path:
    """What cert-manager would: a server's certificate by the authority."""
    issuer = x509.load_pem_x509_certificate(ca)
    signer = serialization.load_pem_private_key(ca_key, None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    try:
        names: x509.GeneralName = x509.IPAddress(ip_address(name))
    except ValueError:
        names = x509.DNSName(name)
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([names]), critical=True)
        .sign(signer, hashes.SHA256())
    )
    path = folder / "server.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("shop.rack.lan", True),
        ("web.default.svc.cluster.local", True),
        ("192.168.1.21", True),
        ("bank.example.com", False),
        ("rack.lan.example.com", False),
        ("192.168.2.1", False),
    ],
)
@pytest.mark.usefixtures("told")
def test_whoever_trusts_the_authority_trusts_it_for_the_rack_only(
    tmp_path: Path, name: str, good: bool
) -> None:
    key, public = rack_ca._made("berry", rack_ca.names())
    ca = tmp_path / "ca.pem"
    ca.write_bytes(public)
    ssl.create_default_context(cadata=public.decode())
    server = sign(key, public, name, tmp_path)
    done = subprocess.run(
        ["openssl", "verify", "-CAfile", ca, server], capture_output=True, text=True
    )
    assert (done.returncode == 0) is good, done.stdout + done.stderr


@pytest.mark.usefixtures("told")
def test_an_authority_that_has_ended_or_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _, public = rack_ca._made("berry", rack_ca.names())
    monkeypatch.setattr(rack_ca, "certificate", public.decode)
    assert rack_ca.problem() == ""
    monkeypatch.setattr(rack_ca, "certificate", lambda: "nonsense")
    assert "cannot be read" in rack_ca.problem()
    with monkeypatch.context() as patch:
        patch.setattr(rack_ca, "YEARS", 0)
        _, ended = rack_ca._made("berry", rack_ca.names())
    monkeypatch.setattr(rack_ca, "certificate", ended.decode)
    assert "ended on" in rack_ca.problem()


@pytest.mark.usefixtures("told")
def test_without_a_control_plane_it_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(rack_ca, "ADMIN_CONF", tmp_path / "none")
    with pytest.raises(CommandExecutionError, match="no control plane"):
        rack_ca.certificate()


# --- the ingress -----------------------------------------------------------------------------------------


def test_the_ingress_keeps_off_the_port_of_the_mirror_unless_told_where(
    told: dict[str, Any],
) -> None:
    settings = told["services"]["ingress"]
    assert (ingress.values()["only"], ingress.values()["never"]) == ([], ["nfs1"])
    settings["nodes"] = ["pi-01"]
    assert (ingress.values()["only"], ingress.values()["never"]) == (["pi-01"], [])
    settings["nodes"] = []
    told["mirror"]["enabled"] = False
    assert ingress.values()["never"] == []
    told["page"].update(enabled=True, port=443)
    assert ingress.values()["never"] == ["nfs1"]
    settings.update(
        load_balancer="metallb", addresses=["192.168.1.240-192.168.1.249", "192.168.1.99"]
    )
    assert ingress.values()["addresses"] == ["192.168.1.240-192.168.1.249", "192.168.1.99/32"]
    assert ingress.values()["never"] == [], "it answers on addresses of its own"


def test_operators_come_by_their_own_charts_and_only_when_wanted(told: dict[str, Any]) -> None:
    assert helm.wanted() == {}
    told["services"]["certificates"]["enabled"] = True
    assert helm.wanted()["cert-manager"]["oci"] == "oci://quay.io/jetstack/charts/cert-manager"
    told["services"]["ingress"]["enabled"] = True
    assert set(helm.wanted()) == {"cert-manager"}
    told["services"]["ingress"]["load_balancer"] = "metallb"
    told["helm"]["releases"]["mine"] = {"file": "/srv/chart"}
    assert set(helm.wanted()) == {"cert-manager", "metallb", "mine"}
    assert helm.wanted()["metallb"]["version"] == "0.15.3"
