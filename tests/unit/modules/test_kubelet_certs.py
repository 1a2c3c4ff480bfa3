"""Kubelets' requests for serving certificates on a real API server: the honest one and all the others."""

from __future__ import annotations

import base64
import ipaddress
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from salt.exceptions import CommandExecutionError
from saltberry_ext.modules import kubelet_certs
from saltberry_ext.utils import kube_programs, serving_request

from . import kube_api

pytestmark = pytest.mark.skipif(bool(kube_api.missing()), reason=kube_api.missing())

KEY = ec.generate_private_key(ec.SECP256R1())
OTHER_KEY = ec.generate_private_key(ec.SECP256R1())
NODE, ADDRESS = "pi-01", "192.168.1.21"
PILLAR = {
    "rack": {"network": "192.168.1.0/24"},
    "nodes": {
        "nfs1": {"ip": "192.168.1.10", "roles": ["storage", "master"]},
        "cp1": {"ip": "192.168.1.11", "roles": ["control_plane"]},
        NODE: {"ip": ADDRESS},
        "pi-02": {},
        "pi-03": None,
    },
}
# What each kubelet says of itself
TOLD = {"cp1": "192.168.1.11", NODE: ADDRESS, "pi-02": "192.168.1.22", "pi-03": "192.168.1.10",
        "pi-04": "10.9.9.9", "pi-05": "192.168.1.22"}  # fmt: skip
USAGES = ("digital signature", "key encipherment", "server auth")
_NUMBERS = itertools.count()


def names(*hosts: str) -> x509.SubjectAlternativeName:
    found: list[x509.GeneralName] = []
    for each in hosts:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(each)))
        except ValueError:
            found.append(x509.DNSName(each))
    return x509.SubjectAlternativeName(found)


def request(
    user: str = f"system:node:{NODE}",
    organisation: Sequence[str] = ("system:nodes",),
    extensions: Sequence[x509.ExtensionType] = (names(NODE, ADDRESS),),
) -> str:
    """A request as kubelet makes it, in base64."""
    parts = [x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, each) for each in organisation]
    subject = x509.Name([*parts, x509.NameAttribute(x509.NameOID.COMMON_NAME, user)])
    made = x509.CertificateSigningRequestBuilder().subject_name(subject)
    for each in extensions:
        made = made.add_extension(each, critical=False)
    pem = made.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    return base64.b64encode(pem).decode()


class Cluster:
    """The API server, asked as whoever the test wants."""

    def __init__(self, api: kube_api.Api) -> None:
        self.api = api

    def asks(
        self,
        made: str,
        user: str = f"system:node:{NODE}",
        groups: Sequence[str] = ("system:nodes",),
        usages: Sequence[str] = USAGES,
        signer: str = "kubernetes.io/kubelet-serving",
    ) -> str:
        """Someone asks for a certificate; the request's name."""
        name = f"csr-{next(_NUMBERS)}"
        document = {
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest",
            "metadata": {"name": name},
            "spec": {"signerName": signer, "request": made, "usages": list(usages)},
        }
        who = [f"--as={user}", *(f"--as-group={group}" for group in groups)]
        self.api.kubectl("create", "-f", "-", *who, stdin=json.dumps(document))
        return name

    def decided(self, name: str) -> list[str]:
        text = self.api.kubectl("get", "csr", name, "-o", "json")
        return [each["type"] for each in json.loads(text)["status"].get("conditions", [])]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kube_api.Api]:
    with kube_api.running(tmp_path_factory.mktemp("api")) as running:
        for name, address in TOLD.items():
            node = {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": name},
                "status": {"addresses": [{"type": "InternalIP", "address": address}]},
            }
            running.kubectl("create", "-f", "-", stdin=json.dumps(node))
        # An API server that lets anybody ask: what is approved is our business alone.
        running.kubectl("create", "clusterrole", "ask", "--verb=create",
                        "--resource=certificatesigningrequests")  # fmt: skip
        running.kubectl("create", "clusterrolebinding", "ask", "--clusterrole=ask",
                        "--group=system:authenticated")  # fmt: skip
        yield running


@pytest.fixture
def cluster(api: kube_api.Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv("PATH", str(kube_api.BINARIES), prepend=":")
    monkeypatch.setattr(kubelet_certs, "ADMIN_CONF", api.etc / "admin.conf")
    utils: dict[str, Any] = {
        f"kube_programs.{name}": getattr(kube_programs, name)
        for name in ("kubectl", "kubectl_json", "last_lines")
    }
    utils |= {
        f"serving_request.{name}": getattr(serving_request, name)
        for name in ("signer", "node_of", "problem")
    }
    monkeypatch.setattr(kubelet_certs, "__utils__", utils, raising=False)
    monkeypatch.setattr(kubelet_certs, "__pillar__", PILLAR, raising=False)
    yield Cluster(api)
    api.kubectl("delete", "csr", "--all")


def test_a_node_gets_the_certificate_of_its_own_name_and_address_once(cluster: Cluster) -> None:
    name = cluster.asks(request())
    assert kubelet_certs.pending() == {name: ""}
    assert cluster.decided(name) == []
    assert kubelet_certs.approve() == {"approved": [NODE], "refused": {}}
    assert cluster.decided(name) == ["Approved"]
    assert kubelet_certs.approve() == {"approved": [], "refused": {}}


def test_a_newer_kubelet_that_does_not_want_to_encipher_gets_it_too(cluster: Cluster) -> None:
    name = cluster.asks(request(), usages=("digital signature", "server auth"))
    assert kubelet_certs.approve()["approved"] == [NODE]
    assert cluster.decided(name) == ["Approved"]


def test_a_node_without_an_address_in_the_pillar_gets_it_for_the_one_it_joined_with(
    cluster: Cluster,
) -> None:
    made = request("system:node:pi-02", extensions=[names("pi-02", "192.168.1.22")])
    # pi-05 says that it has the same address: nobody gets it then
    name = cluster.asks(made, "system:node:pi-02")
    assert "pi-05's" in kubelet_certs.approve()["refused"][name]
    cluster.api.kubectl("delete", "node", "pi-05")
    assert kubelet_certs.approve() == {"approved": ["pi-02"], "refused": {}}


FORGED = {
    "another node's name": (
        {"extensions": [names("cp1", ADDRESS)]}, {}, r"DNSName cp1"),
    "another node's address": (
        {"extensions": [names(NODE, "192.168.1.11")]}, {}, r"IPAddress 192\.168\.1\.11"),
    "another node's address as well": (
        {"extensions": [names(NODE, ADDRESS, "192.168.1.11")]}, {}, r"IPAddress 192\.168\.1\.11"),
    "a name of the API server as well": (
        {"extensions": [names(NODE, ADDRESS, "kubernetes.default.svc")]}, {}, "kubernetes.default"),
    "no address": ({"extensions": [names(NODE)]}, {}, f"IPAddress {ADDRESS}"),
    "its address as a name": (
        {"extensions": [x509.SubjectAlternativeName([x509.DNSName(NODE), x509.DNSName(ADDRESS)])]},
        {}, f"DNSName {ADDRESS}"),
    "a mail address": (
        {"extensions": [x509.SubjectAlternativeName([
            *names(NODE, ADDRESS), x509.RFC822Name("a@b")])]}, {}, "RFC822Name"),
    "no names at all": ({"extensions": []}, {}, "more than the names of a server"),
    "to be an authority": (
        {"extensions": [names(NODE, ADDRESS), x509.BasicConstraints(True, None)]},
        {}, "more than the names of a server"),
    "another subject": ({"user": "system:node:cp1"}, {}, "names .*cp1"),
    "the admins' group": ({"organisation": ["system:masters"]}, {}, "system:masters"),
    "a second group": (
        {"organisation": ["system:nodes", "system:masters"]}, {}, "system:masters"),
    "another node asks": ({}, {"user": "system:node:cp1"}, "names .*cp1|CN=system:node:cp1"),
    "a person asks": ({}, {"user": "eve"}, "no node of the cluster"),
    "a node that is none": (
        {"user": "system:node:eve", "extensions": [names("eve", "192.168.1.99")]},
        {"user": "system:node:eve"}, "no node of the cluster"),
    "in no group of nodes": ({}, {"groups": ["eve"]}, "in the groups"),
    "in another group as well": (
        {}, {"groups": ["system:nodes", "system:masters"]}, "in the groups"),
    "for a client": (
        {}, {"usages": ["digital signature", "key encipherment", "client auth"]}, "is for"),
    "for a client as well": ({}, {"usages": [*USAGES, "client auth"]}, "is for"),
    "an address of the pillar's other node, unnamed itself": (
        {"user": "system:node:pi-03", "extensions": [names("pi-03", "192.168.1.10")]},
        {"user": "system:node:pi-03"}, "nfs1's"),
    "an address outside of the rack": (
        {"user": "system:node:pi-04", "extensions": [names("pi-04", "10.9.9.9")]},
        {"user": "system:node:pi-04"}, "not in rack.network"),
}  # fmt: skip


@pytest.mark.parametrize("what", FORGED)
def test_nothing_else_is_approved_and_the_reason_is_told(cluster: Cluster, what: str) -> None:
    made, asked, words = FORGED[what]
    name = cluster.asks(request(**made), **asked)
    found = kubelet_certs.approve()
    assert found["approved"] == []
    assert set(found["refused"]) == {name}
    assert cluster.decided(name) == []
    assert re.search(words, found["refused"][name]), found["refused"][name]


def test_requests_for_other_signers_are_none_of_its_business(cluster: Cluster) -> None:
    name = cluster.asks(
        request(extensions=[]),
        usages=("digital signature", "key encipherment", "client auth"),
        signer="kubernetes.io/kube-apiserver-client-kubelet",
    )
    assert kubelet_certs.approve() == {"approved": [], "refused": {}}
    assert "Approved" not in cluster.decided(name)


def test_a_request_that_is_not_signed_with_its_own_key_is_refused() -> None:
    pem = base64.b64decode(request())
    made = x509.load_pem_x509_csr(pem)
    der = made.public_bytes(serialization.Encoding.DER)
    own = KEY.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    other = OTHER_KEY.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    forged = x509.load_der_x509_csr(der.replace(own, other))
    text = base64.b64encode(forged.public_bytes(serialization.Encoding.PEM)).decode()
    spec = {
        "signerName": serving_request.SIGNER,
        "username": f"system:node:{NODE}",
        "groups": ["system:nodes", "system:authenticated"],
        "usages": list(USAGES),
    }
    assert serving_request.problem({**spec, "request": request()}, NODE, ADDRESS) == ""
    assert "its own key" in serving_request.problem({**spec, "request": text}, NODE, ADDRESS)
    assert "cannot be read" in serving_request.problem({**spec, "request": "?"}, NODE, ADDRESS)


def test_a_request_that_changed_since_it_was_judged_is_not_approved(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = cluster.asks(request())
    judged = kubelet_certs._judged()
    cluster.api.kubectl("delete", "csr", name)
    document = {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": name},
        "spec": {
            "signerName": serving_request.SIGNER,
            "request": request(extensions=[names("cp1")]),
            "usages": list(USAGES),
        },
    }
    who = [f"--as=system:node:{NODE}", "--as-group=system:nodes"]
    cluster.api.kubectl("create", "-f", "-", *who, stdin=json.dumps(document))
    monkeypatch.setattr(kubelet_certs, "_judged", lambda: judged)
    with pytest.raises(CommandExecutionError, match="could not be approved"):
        kubelet_certs.approve()
    assert cluster.decided(name) == []
