"""The rack's own certificate authority: a key that is made on the control plane and stays in the cluster.

cert-manager signs with it (the ClusterIssuer ``rack-ca``). The key is in a Secret and nowhere else: it goes
to the API server by standard input of kubectl, and never into a pillar, a job's return, or a file. Whoever
trusts the authority trusts it for the rack's names and addresses only: its certificate says so.
"""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "rack_ca"

__salt__: dict[str, Callable[..., Any]]
__utils__: dict[str, Callable[..., Any]]
__pillar__: dict[str, Any]

ADMIN_CONF = Path("/etc/kubernetes/admin.conf")
SERVICE = "certificates"
NAMESPACE = "cert-manager"
NAME = "rack-ca"
YEARS = 20


def _kubectl_json(*arguments: str) -> dict[str, Any] | None:
    if not ADMIN_CONF.is_file():
        raise CommandExecutionError(
            f"this node is no control plane: {ADMIN_CONF} is missing. Call this on the rack's control plane"
        )
    found: dict[str, Any] | None = __utils__["kube_programs.kubectl_json"](
        *arguments, kubeconfig=ADMIN_CONF
    )
    return found


def certificate() -> str | None:
    """Return the authority's certificate, which is public, as PEM text; None when there is none.

    CLI Example:

    .. code-block:: bash

        salt cp1 rack_ca.certificate
    """
    found = _kubectl_json("get", "secret", f"--namespace={NAMESPACE}", NAME)
    if found is None:
        return None
    try:
        return base64.b64decode(found["data"]["tls.crt"]).decode("ascii")
    except (KeyError, ValueError):
        raise CommandExecutionError(
            f"the Secret {NAME} in {NAMESPACE} is no certificate with its key; delete it, and a new"
            " authority is made"
        ) from None


def names() -> dict[str, list[str]]:
    """Return for what the pillar lets the authority sign: ``{"domains": [...], "networks": [...]}``.

    CLI Example:

    .. code-block:: bash

        salt cp1 rack_ca.names
    """
    rack, kubernetes = __pillar__["rack"], __pillar__["kubernetes"]
    more = __pillar__["services"][SERVICE]["domains"]
    domains = {rack["domain"], kubernetes["service_domain"], "svc", *more}
    return {
        "domains": sorted(domains),
        "networks": [rack["network"], kubernetes["service_network"]],
    }


def problem() -> str:
    """Return why the authority that is there is not what the pillar says, with the way out; empty if it is.

    CLI Example:

    .. code-block:: bash

        salt cp1 rack_ca.problem
    """
    text = certificate()
    if text is None:
        return ""
    anew = (
        f" To make a new one, which all browsers have to be told of: kubectl -n {NAMESPACE} delete"
        f" secret {NAME}, then apply again"
    )
    try:
        signed, until = _read(text)
    except ValueError:
        return f"the certificate in the Secret {NAME} in {NAMESPACE} cannot be read.{anew}"
    if until < datetime.datetime.now(datetime.UTC):
        return f"the rack's authority ended on {until:%Y-%m-%d}.{anew}"
    wanted = set(names()["domains"]) | set(names()["networks"])
    missing = sorted(wanted - signed) if signed else []
    if missing:
        return f"the rack's authority was made without {', '.join(missing)}.{anew}"
    return ""


def _read(text: str) -> tuple[set[str], datetime.datetime]:
    """What a certificate may sign for (nothing said: anything), and until when."""
    from cryptography import x509

    found = x509.load_pem_x509_certificate(text.encode())
    try:
        limits = found.extensions.get_extension_for_class(x509.NameConstraints).value
        permitted = {str(each.value) for each in limits.permitted_subtrees or ()}
    except x509.ExtensionNotFound:
        permitted = set()
    return permitted, found.not_valid_after_utc


def make() -> None:
    """Make the authority where there is none: a key and a certificate by itself, into the cluster.

    Raises CommandExecutionError. One that is there, also one that another made meanwhile, stays.

    CLI Example:

    .. code-block:: bash

        salt cp1 rack_ca.make
    """
    if certificate() is not None:
        return
    key, public = _made(str(__pillar__["rack"]["name"]), names())
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "data": {
            "tls.key": base64.b64encode(key).decode(),
            "tls.crt": base64.b64encode(public).decode(),
        },
    }
    done = __utils__["kube_programs.kubectl"](
        "create", "-f", "-", kubeconfig=ADMIN_CONF, stdin=json.dumps(secret)
    )
    if done.returncode and "AlreadyExists" not in done.stderr:
        # Not its words: they may have the Secret in them
        raise CommandExecutionError(
            f"the API server does not take the Secret {NAME}; is the namespace {NAMESPACE} there?"
        )


def _made(rack: str, limits: dict[str, list[str]]) -> tuple[bytes, bytes]:
    """A new key and its certificate, as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([
        x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, f"rack {rack}"),
        x509.NameAttribute(x509.NameOID.COMMON_NAME, f"{rack} authority"),
    ])  # fmt: skip
    # A Pi's clock may be behind when it has just been switched on
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    permitted: list[x509.GeneralName] = [x509.DNSName(each) for each in limits["domains"]]
    permitted += [x509.IPAddress(IPv4Network(each)) for each in limits["networks"]]
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
         "encipher_only", "decipher_only"), False,
    )  # fmt: skip
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=365 * YEARS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=True, crl_sign=True, **usage),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.NameConstraints(permitted, None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return (
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        made.public_bytes(serialization.Encoding.PEM),
    )


def objects() -> list[dict[str, Any]]:
    """Return what makes the authority usable: the issuer, and its certificate for pods to read.

    CLI Example:

    .. code-block:: bash

        salt cp1 rack_ca.objects
    """
    labels = {"app.kubernetes.io/part-of": SERVICE, "app.kubernetes.io/managed-by": "saltberry"}
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": labels},
            "data": {"ca.crt": certificate() or ""},
        },
        {
            "apiVersion": "cert-manager.io/v1",
            "kind": "ClusterIssuer",
            "metadata": {"name": NAME, "labels": labels},
            "spec": {"ca": {"secretName": NAME}},
        },
    ]


def plan() -> dict[str, str]:
    """Return what :func:`apply` would do, by object.

    CLI Example:

    .. code-block:: bash

        salt cp1 rack_ca.plan
    """
    if certificate() is None:
        return dict.fromkeys(
            (f"Secret {NAME}", f"ConfigMap {NAME}", f"ClusterIssuer {NAME}"), "new"
        )
    return dict(__salt__["manifests.plan"](SERVICE, objects()))


def apply() -> dict[str, str]:
    """Have the authority and its issuer; return what was done, as :func:`plan` said it.

    CLI Example:

    .. code-block:: bash

        salt cp1 rack_ca.apply
    """
    told = plan()
    make()
    __salt__["manifests.apply"](SERVICE, objects())
    return told
