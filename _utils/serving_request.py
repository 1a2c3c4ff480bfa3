"""Judge a kubelet's request for the certificate that it serves its port with.

Kubernetes leaves this to the cluster's owner, for it cannot know which address is whose. Pure functions:
the request as the API server has it, and what this project knows of the node.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

SIGNER = "kubernetes.io/kubelet-serving"
_GROUP = "system:nodes"
_GROUPS = {_GROUP, "system:authenticated"}
# With an elliptic curve there is nothing to encipher, and newer kubelets do not ask for it.
_USAGES = (
    {"digital signature", "server auth"},
    {"digital signature", "key encipherment", "server auth"},
)


def signer() -> str:
    """Return the name of who signs such requests."""
    return SIGNER


def node_of(spec: Mapping[str, Any]) -> str:
    """Return the id of the node that asks, by the name with which it logged in; "" if it is none."""
    user = str(spec.get("username", ""))
    return user.removeprefix("system:node:") if user.startswith("system:node:") else ""


def problem(spec: Mapping[str, Any], node: str, address: str) -> str:
    """Say why a request must not be approved; empty when it may be.

    spec
        ``spec`` of a CertificateSigningRequest.
    node
        Id of the node that may have it.
    address
        The node's address.

    What the API server wrote itself (who asks) and what the node wrote (the request) must both say the
    same node, the request must be for a server and nothing else, and for this name and address alone.
    """
    if spec.get("signerName") != SIGNER:
        return f"it is not for {SIGNER}"
    if spec.get("username") != f"system:node:{node}":
        return f"{spec.get('username')!a} asks, and not system:node:{node}"
    if set(spec.get("groups") or ()) != _GROUPS:
        return f"who asks is in the groups {_listed(spec.get('groups'))}"
    if set(spec.get("usages") or ()) not in _USAGES:
        return f"it is for {_listed(spec.get('usages'))}, and not for a server alone"
    return _problem_inside(spec.get("request"), node, address)


def _listed(words: Sequence[Any] | None) -> str:
    return ascii(", ".join(sorted(map(str, words or ()))) or "none")


def _problem_inside(request: Any, node: str, address: str) -> str:
    """Judge the request itself (PKCS #10)."""
    # Imported here: it takes a Pi a second, and nearly always there is no request.
    from cryptography import x509

    try:
        asked = x509.load_pem_x509_csr(base64.b64decode(str(request), validate=True))
        extensions = list(asked.extensions)
        subject = [(each.oid.dotted_string, each.value) for each in asked.subject]
        signed = asked.is_signature_valid
    except (binascii.Error, ValueError, x509.DuplicateExtension) as exc:
        return f"it cannot be read ({type(exc).__name__})"
    if not signed:
        return "it is not signed with its own key"
    organisation, name = x509.NameOID.ORGANIZATION_NAME, x509.NameOID.COMMON_NAME
    wanted = [(organisation.dotted_string, _GROUP), (name.dotted_string, f"system:node:{node}")]
    if sorted(subject) != sorted(wanted):
        return f"it names {asked.subject.rfc4514_string()!a}, and not O={_GROUP}, CN=system:node:{node}"
    names = [
        each.value for each in extensions if isinstance(each.value, x509.SubjectAlternativeName)
    ]
    if len(extensions) != 1 or len(names) != 1:
        return "it asks for more than the names of a server"
    has = {_kind_and_value(each) for each in names[0]}
    may_have = {("DNSName", node), ("IPAddress", address)}
    if has != may_have:
        strange = sorted(f"{kind} {value}" for kind, value in has ^ may_have)
        return f"its names are not {node} and {address} alone; what differs: {_listed(strange)}"
    return ""


def _kind_and_value(name: Any) -> tuple[str, str]:
    return type(name).__name__, str(name.value)
