"""kubeadm on one node: what it is, and how to make it part of the rack's cluster.

On every node: ``facts``, ``join``, ``mend``, ``reset``. On a control plane: ``init``, the bootstrap
tokens, the join tickets, and what the API server knows of the nodes. What to do with all this is
decided elsewhere: in ``_states/kubeadm.py`` for one node, in ``_runners/rack.py`` for the rack.

Secrets: a bootstrap token is only ever in this process, on the standard input of kubectl, and in
files of mode 0600; never an argument, never in a return value, and taken out of every message.
kubeadm's and kubectl's output is kept from the log for the same reason, so they are started by
``_run`` below and not by ``cmd.run``.

Values come from ``__pillar__``: ``__salt__["pillar.get"]`` masks them in Salt 3008.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import re
import secrets
import shutil
import socket
import string
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import salt.exceptions

__salt__: dict[str, Callable[..., Any]]
__utils__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]
__pillar__: dict[str, Any]
__context__: dict[str, Any]

log = logging.getLogger(__name__)

KUBERNETES_DIR = Path("/etc/kubernetes")
RUN_DIR = Path("/run/saltberry")

# Present while `kubeadm init` has not come to its end. It must outlive a power cut, hence not /run.
INIT_MARKER = ".saltberry-init"

TOKEN_GROUP = "system:bootstrappers:kubeadm:default-node-token"
TOKEN_TYPE = "bootstrap.kubernetes.io/token"
TOKEN_USAGES = ("authentication", "signing")
TOKEN_TTL_MIN, TOKEN_TTL_MAX = 60, 86400
TICKET_DESCRIPTION = "saltberry join ticket for {node}"

# On a Node object: it was cordoned by us and not by a person, and what for.
DRAINED_FOR = "saltberry/drained-for"
# What kubectl calls pods that nothing would start elsewhere, up to 1.29 and from 1.30.
_UNMANAGED = re.compile(r"declare no controller|have no controller|not managed by")

CRI_SOCKET_ANNOTATION = "kubeadm.alpha.kubernetes.io/cri-socket"

# Phases of `kubeadm init` that are behind us once the API server answers; the others can be
# repeated without harm.
INIT_PHASES_BEFORE_API = (
    "preflight",
    "certs",
    "kubeconfig",
    "kubelet-start",
    "control-plane",
    "etcd",
    "wait-control-plane",
)

# Seconds. kubeadm has its own limits below these; they only catch a process that hangs.
INIT_LIMIT, JOIN_LIMIT, RESET_LIMIT, KUBECTL_LIMIT = 1800, 900, 300, 30
POLL = 0.5
API_WAIT_AFTER_BOOT = 120.0
SIGNATURE_WAIT = 15.0

_TOKEN_ID = re.compile(r"[a-z0-9]{6}")


def __virtual__() -> bool:
    # always: `facts` must answer on a node that has no kubeadm yet
    return True


# --- processes and files --------------------------------------------------------------------------


def _node_id() -> str:
    return str(__opts__["id"])


def _error(message: str) -> salt.exceptions.CommandExecutionError:
    return salt.exceptions.CommandExecutionError(message)


def _last_lines(text: str, count: int = 6) -> str:
    """The last lines of a program's output that say something, without secrets."""
    return str(__utils__["kube_programs.last_lines"](text, count))


def _run(
    argv: list[str], limit: float, stdin: str | None = None, kubeconfig: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program; see ``kube_programs.run``."""
    done: subprocess.CompletedProcess[str] = __utils__["kube_programs.run"](
        argv, limit, stdin, kubeconfig
    )
    return done


@contextlib.contextmanager
def _private_file(prefix: str, text: str) -> Iterator[Path]:
    """A file of mode 0600 below /run/saltberry (0700) that is gone afterwards."""
    RUN_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
    RUN_DIR.chmod(0o700)
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=".yaml", dir=RUN_DIR)
    path = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        yield path
    finally:
        path.unlink(missing_ok=True)


def _remove_secrets() -> None:
    """Remove what a killed join may have left with a token in it."""
    (KUBERNETES_DIR / "bootstrap-kubelet.conf").unlink(missing_ok=True)
    for path in RUN_DIR.glob("join-*.yaml"):
        path.unlink(missing_ok=True)


# --- kubectl --------------------------------------------------------------------------------------


def _admin_conf() -> Path:
    path = KUBERNETES_DIR / "admin.conf"
    if not path.is_file():
        raise _error(
            f"{_node_id()} is no control plane: {path} is missing. "
            "Call this on the rack's control plane"
        )
    return path


def _kubectl(
    *arguments: str, kubeconfig: Path | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run kubectl, as the admin if it is not said otherwise; see ``kube_programs.kubectl``."""
    done: subprocess.CompletedProcess[str] = __utils__["kube_programs.kubectl"](
        *arguments, kubeconfig=kubeconfig or _admin_conf(), **options
    )
    return done


def _kubectl_json(*arguments: str, **options: Any) -> dict[str, Any] | None:
    """What ``kubectl ... -o json`` returns to the admin; None if there is no such object."""
    found: dict[str, Any] | None = __utils__["kube_programs.kubectl_json"](
        *arguments, kubeconfig=_admin_conf(), **options
    )
    return found


# --- certificates and kubeconfigs -----------------------------------------------------------------


def _spki_hash(pem: bytes) -> str:
    """kubeadm's name for a CA; ValueError if this is no certificate."""
    return str(__utils__["spki.ca_hash"](pem))


def _named(entries: Any, name: str, field: str) -> dict[str, Any]:
    """The entry of that name in one of a kubeconfig's lists."""
    for entry in entries or []:
        if entry.get("name") == name:
            return dict(entry.get(field) or {})
    return {}


def _parse_kubeconfig(text: str, folder: Path) -> dict[str, Any]:
    """Server, CA and credential of a kubeconfig's current context; ValueError if it has none."""
    import yaml

    try:
        config = yaml.safe_load(text)
        context = _named(config.get("contexts"), config.get("current-context"), "context")
        cluster = _named(config.get("clusters"), context.get("cluster", ""), "cluster")
        user = _named(config.get("users"), context.get("user", ""), "user")
        if "certificate-authority-data" in cluster:
            ca_pem = base64.b64decode(cluster["certificate-authority-data"])
        else:
            ca_pem = (folder / cluster["certificate-authority"]).read_bytes()
        return {"server": cluster["server"], "ca_hash": _spki_hash(ca_pem), "user": user}
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError, OSError) as exc:
        raise ValueError(
            f"not a kubeconfig with a cluster and its CA ({type(exc).__name__})"
        ) from exc


def _read_kubeconfig(path: Path) -> dict[str, Any] | None:
    """``_parse_kubeconfig`` of a file; None if there is no such file or it is broken."""
    try:
        return _parse_kubeconfig(path.read_text(encoding="utf-8"), path.parent)
    except (OSError, ValueError):
        return None


def _credential_problem(user: Mapping[str, Any]) -> str | None:
    """Why a kubeconfig's user cannot log in, as far as files tell; None if nothing is amiss."""
    certificate = user.get("client-certificate")
    if certificate:
        path = Path(certificate)
        if not path.is_file() or not path.stat().st_size:
            return f"its client certificate {path} is missing or empty"
        return None
    if user.get("client-certificate-data") or user.get("token") or user.get("exec"):
        return None
    return "it names no client certificate"


def ca_hash(path: str = "/etc/kubernetes/pki/ca.crt") -> str:
    """The name that kubeadm gives a cluster's CA: the SHA-256 of its public key.

    Computed in Python over the DER-encoded SubjectPublicKeyInfo, so it is right for RSA and for
    ECDSA keys.

    path
        A CA certificate (PEM; the first one counts), or a kubeconfig (its current context's CA).

    Returns ``sha256:<hex>``. Raises CommandExecutionError if the file is missing or is neither.

    CLI Example:

    .. code-block:: bash

        salt cp1 kubeadm.ca_hash
        salt nfs1 kubeadm.ca_hash /root/.kube/config
    """
    file = Path(path)
    try:
        content = file.read_bytes()
    except OSError as exc:
        raise _error(f"{path} cannot be read on {_node_id()}: {exc.strerror}") from exc
    try:
        if content.lstrip().startswith(b"-----BEGIN CERTIFICATE"):
            return _spki_hash(content)
        found = _parse_kubeconfig(content.decode("utf-8"), file.parent)
    except ValueError as exc:
        raise _error(f"{path} is neither a CA certificate nor a kubeconfig: {exc}") from exc
    return str(found["ca_hash"])


# --- facts ----------------------------------------------------------------------------------------


def _kubeadm_version() -> str | None:
    """Version of the installed kubeadm (``v1.20.2``); None if there is none."""
    if not shutil.which("kubeadm"):
        return None
    done = _run(["kubeadm", "version", "-o", "short"], KUBECTL_LIMIT)
    return done.stdout.strip() or None


def _worker_facts(kubelet_conf: Path) -> dict[str, Any]:
    """What kubelet.conf and the leftovers of a join say."""
    bootstrap = (KUBERNETES_DIR / "bootstrap-kubelet.conf").exists()
    authority = KUBERNETES_DIR / "pki" / "ca.crt"
    problems: list[str] = []
    found: dict[str, Any] = {"joined": False, "half_joined": False, "leftover": bootstrap}
    found["problems"] = problems
    if kubelet_conf.exists():
        parsed = _read_kubeconfig(kubelet_conf)
        problem = _credential_problem(parsed["user"]) if parsed else "it is empty or broken"
        if problem:
            problems.append(f"{kubelet_conf} is of no use: {problem}")
        found["joined"], found["half_joined"] = not problem, bool(problem)
        if bootstrap and not problem:
            problems.append(f"{KUBERNETES_DIR}/bootstrap-kubelet.conf was left over by a join")
    elif bootstrap or (authority.exists() and not authority.with_suffix(".key").exists()):
        # a CA with its key is not a join's: somebody brought the CA for the init to come
        found["half_joined"] = True
        problems.append("a join was begun here and did not come to its end")
    return found


def _facts_ca(kubelet_conf: Path) -> tuple[str | None, str | None]:
    """CA and server that this node belongs to, from the best of what is there."""
    parsed = _read_kubeconfig(kubelet_conf)
    if parsed:
        return parsed["ca_hash"], parsed["server"]
    authority = KUBERNETES_DIR / "pki" / "ca.crt"
    with contextlib.suppress(OSError, ValueError):
        return _spki_hash(authority.read_bytes()), None
    return None, None


def facts() -> dict[str, Any]:
    """What this node is in Kubernetes' terms, from its files; nothing is changed or asked for.

    Returns a dict:

    kubeadm
        Whether it is installed. Its version is not asked for: that takes longer than all the rest.
    role
        ``control_plane``, ``worker``, or None if the node is in no cluster.
    joined
        It has what a member needs: kubelet.conf with a client certificate (and on a control plane
        the admin's kubeconfig).
    half_joined
        An init or a join was begun and did not come to its end.
    leftover
        A bootstrap-kubelet.conf lies there; on a joined node ``mend`` removes it.
    ca_hash, server
        Whose node it is: ``sha256:<hex>`` of the cluster CA and ``https://ip:port``; None unknown.
    kubelet_conf
        Whether kubelet.conf exists at all.
    problems
        Sentences about what is not as it should be.

    CLI Example:

    .. code-block:: bash

        salt pi-01 kubeadm.facts
    """
    kubelet_conf = KUBERNETES_DIR / "kubelet.conf"
    found = _worker_facts(kubelet_conf)
    problems: list[str] = found["problems"]
    role = "worker" if found["joined"] else None
    if (KUBERNETES_DIR / "manifests" / "kube-apiserver.yaml").exists():
        role = "control_plane"
        if not (KUBERNETES_DIR / "admin.conf").exists():
            found["joined"] = False
            problems.append(f"{KUBERNETES_DIR}/admin.conf is missing")
    if (KUBERNETES_DIR / INIT_MARKER).exists():
        found["joined"], found["half_joined"] = False, True
        problems.append("kubeadm init was begun here and did not come to its end")
    authority, server = _facts_ca(kubelet_conf)
    return {
        "kubeadm": shutil.which("kubeadm") is not None,
        "role": role,
        **found,
        "kubelet_conf": kubelet_conf.exists(),
        "ca_hash": authority,
        "server": server,
    }


# --- settings and configuration -------------------------------------------------------------------


def _control_planes() -> list[str]:
    """Ids of the rack's control planes, in the pillar's order."""
    nodes = __pillar__.get("nodes") or {}
    return [
        str(name)
        for name, node in nodes.items()
        if "control_plane" in (node or {}).get("roles", [])
    ]


def _cluster() -> Mapping[str, Any]:
    """What the master knows of the running cluster; empty before the first init."""
    return __pillar__.get("cluster") or {}


def _source_address(endpoint: str) -> str | None:
    """The address that this node's packets to the API server carry; None if there is no way there.

    A node with a cable and a radio, or with no default route, needs to be told which address is the
    rack's. Connecting a UDP socket asks the kernel and sends nothing.
    """
    host, _, port = endpoint.rpartition(":")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, int(port)))
            return str(probe.getsockname()[0])
    except (OSError, ValueError):
        return None


def _endpoint() -> str:
    """``ip:port`` of the API server by the pillar."""
    if _cluster().get("endpoint"):
        return str(_cluster()["endpoint"])
    planes = _control_planes()
    address = (__pillar__["nodes"][planes[0]] or {}).get("ip") if planes else None
    if not address:
        raise _error(
            "the pillar names no control plane with an address: give one node under 'nodes' "
            "roles: [control_plane] and its ip"
        )
    return f"{address}:{(__pillar__.get('kubernetes') or {}).get('api_port', 6443)}"


def _settings(endpoint: str | None = None) -> dict[str, Any]:
    """What the configuration files need, from the pillar; see ``_utils/kubeadm_config.py``."""
    kubernetes = __pillar__.get("kubernetes") or {}
    if not kubernetes.get("version"):
        raise _error("the pillar has no kubernetes:version: is the pillar of this rack in place?")
    rack = __pillar__.get("rack") or {}
    endpoint = endpoint or _endpoint()
    address = (__pillar__.get("node") or {}).get("ip") or _source_address(endpoint)
    return {
        "version": str(kubernetes["version"]),
        "kubeadm": _kubeadm_version(),
        "cluster_name": rack.get("name", "saltberry"),
        "node": _node_id(),
        "node_ip": address,
        "endpoint": endpoint,
        "api_port": kubernetes.get("api_port", 6443),
        "cert_sans": [f"{_node_id()}.{rack.get('domain', 'rack.lan')}"],
        "pod_network": kubernetes.get("pod_network", "10.244.0.0/16"),
        "service_network": kubernetes.get("service_network", "10.96.0.0/12"),
        "service_domain": kubernetes.get("service_domain", "cluster.local"),
        "image_repository": kubernetes.get("image_repository", "registry.k8s.io"),
        "ignore_preflight_errors": kubernetes.get("ignore_preflight_errors") or [],
        "kubelet": __utils__["kubeadm_config.kubelet_of"](__pillar__),
        "kube_proxy": kubernetes.get("kube_proxy") or {},
    }


def config_api_version(version: str) -> str:
    """Version of kubeadm's configuration API that goes with a Kubernetes version.

    version
        ``1.34.2`` or ``v1.34.2``.

    Returns ``v1beta2`` (up to 1.21), ``v1beta3`` (1.22 to 1.30) or ``v1beta4`` (from 1.31).
    Raises CommandExecutionError for what is no version.

    CLI Example:

    .. code-block:: bash

        salt cp1 kubeadm.config_api_version 1.34.2
    """
    try:
        return str(__utils__["kubeadm_config.api_version"](version))
    except ValueError as exc:
        raise _error(str(exc)) from exc


def init_config() -> str:
    """The file that ``kubeadm init`` would get on this node, from the pillar. It holds no secret.

    Returns YAML text. Raises CommandExecutionError if the pillar lacks something.

    CLI Example:

    .. code-block:: bash

        salt cp1 kubeadm.init_config
    """
    try:
        return str(__utils__["kubeadm_config.init_config"](_settings()))
    except ValueError as exc:
        raise _error(str(exc)) from exc


def join_config() -> str:
    """The file that ``kubeadm join`` would get on this node, with a placeholder for the token.

    Returns YAML text. Raises CommandExecutionError if the pillar lacks something.

    CLI Example:

    .. code-block:: bash

        salt pi-01 kubeadm.join_config
    """
    authority = _cluster().get("ca_hash") or "sha256:<from the ticket>"
    return _join_config("<from the ticket>", _endpoint(), authority)


def _join_config(token: str, endpoint: str, authority: str) -> str:
    try:
        render = __utils__["kubeadm_config.join_config"]
        return str(render(_settings(endpoint), token, endpoint, authority))
    except ValueError as exc:
        raise _error(str(exc)) from exc


# --- bootstrap tokens and join tickets ------------------------------------------------------------


def _random(length: int) -> str:
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(length))


def _timestamp(epoch: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))


def _epoch(timestamp: str) -> float | None:
    """Unix time of an RFC 3339 time; None if it is none."""
    import datetime

    try:
        return datetime.datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp()
    except ValueError:
        return None


def _check_ttl(ttl: float) -> int:
    if isinstance(ttl, bool) or not isinstance(ttl, (int, float)):
        raise _error(f"ttl must be a number of seconds, not {ttl!r}")
    if not TOKEN_TTL_MIN <= ttl <= TOKEN_TTL_MAX:
        raise _error(
            f"ttl {ttl} s is out of bounds: a token may live {TOKEN_TTL_MIN} to {TOKEN_TTL_MAX} s"
        )
    return int(ttl)


def _make_token(description: str, ttl: float) -> dict[str, Any]:
    """Create a bootstrap token and return it whole, with its secret. Not for the CLI."""
    seconds = _check_ttl(ttl)
    token_id, secret = _random(6), _random(16)
    expires = time.time() + seconds
    manifest = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": TOKEN_TYPE,
        "metadata": {"name": f"bootstrap-token-{token_id}", "namespace": "kube-system"},
        "stringData": {
            "token-id": token_id,
            "token-secret": secret,
            "expiration": _timestamp(expires),
            "description": description,
            "auth-extra-groups": TOKEN_GROUP,
            **{f"usage-bootstrap-{usage}": "true" for usage in TOKEN_USAGES},
        },
    }
    done = _kubectl("create", "-f", "-", stdin=json.dumps(manifest))
    # "already exists" after a retry: the first attempt had arrived, only its answer was lost
    if done.returncode and "AlreadyExists" not in done.stderr:
        raise _error(f"the bootstrap token could not be made: {_last_lines(done.stderr, 2)}")
    return {
        "id": token_id,
        "token": f"{token_id}.{secret}",
        "expires": int(expires),
        "description": description,
    }


def token_create(description: str, ttl: float = 600) -> dict[str, Any]:
    """Make a bootstrap token for signing and authentication, in the group of joining nodes.

    The secret half is not returned, because return values are kept in the job cache: to make a node
    join, use ``ticket_create``.

    description
        What it is for; shown by ``token_list`` and ``kubeadm token list``.
    ttl
        Seconds to live, 60 to 86400.

    Returns ``{"id", "expires", "description"}``, expires as Unix time. Raises CommandExecutionError
    off the control plane, for a ttl out of bounds, or if the API server refuses.

    CLI Example:

    .. code-block:: bash

        salt cp1 kubeadm.token_create 'by hand' ttl=300
    """
    made = _make_token(description, ttl)
    return {key: made[key] for key in ("id", "expires", "description")}


def _token_facts(secret: Mapping[str, Any], now: float) -> dict[str, Any]:
    """What may be shown of a token's Secret, and whether a node could join with it."""
    data = {
        key: base64.b64decode(value).decode("utf-8", "replace")
        for key, value in (secret.get("data") or {}).items()
        if key != "token-secret"
    }
    expires = _epoch(data["expiration"]) if data.get("expiration") else None
    usages = [usage for usage in TOKEN_USAGES if data.get(f"usage-bootstrap-{usage}") == "true"]
    groups = [group for group in data.get("auth-extra-groups", "").split(",") if group]
    reason = ""
    if expires is not None and expires <= now:
        reason = "expired"
    elif len(usages) < len(TOKEN_USAGES):
        reason = f"not for {' and '.join(sorted(set(TOKEN_USAGES) - set(usages)))}"
    elif TOKEN_GROUP not in groups:
        reason = f"not in the group {TOKEN_GROUP}"
    return {
        "id": data.get("token-id", ""),
        "description": data.get("description", ""),
        "expires": None if expires is None else int(expires),
        "usages": usages,
        "groups": groups,
        "usable": not reason,
        "reason": reason,
    }


def token_list() -> list[dict[str, Any]]:
    """The bootstrap tokens that the API server knows, without their secrets.

    Returns a list of ``{"id", "description", "expires", "usages", "groups", "usable", "reason"}``;
    expires is Unix time, None for a token that never does; usable says whether a node could join
    with it now, reason why not. Raises CommandExecutionError off the control plane or if the API
    server does not answer.

    CLI Example:

    .. code-block:: bash

        salt cp1 kubeadm.token_list
    """
    selector = f"--field-selector=type={TOKEN_TYPE}"
    found = _kubectl_json("get", "secrets", "--namespace=kube-system", selector) or {}
    now = time.time()
    return [_token_facts(secret, now) for secret in found.get("items", [])]


def token_delete(token_id: str) -> bool:
    """Delete a bootstrap token; no error if there is none.

    token_id
        The public half, six characters. A whole token is refused: it would be in the job cache.

    Returns True once it is gone. Raises CommandExecutionError for anything that is no token id, off
    the control plane, or if the API server refuses.

    CLI Example:

    .. code-block:: bash

        salt cp1 kubeadm.token_delete abcdef
    """
    if not _TOKEN_ID.fullmatch(str(token_id)):
        raise _error("token_delete wants the token's id alone: six characters of a-z and 0-9")
    name = f"bootstrap-token-{token_id}"
    done = _kubectl("delete", "secret", name, "--namespace=kube-system", "--ignore-not-found")
    if done.returncode:
        raise _error(f"token {token_id} could not be deleted: {_last_lines(done.stderr, 2)}")
    return True


def _delete_tokens(description: str) -> list[str]:
    """Delete every token with exactly this description; the ids of those deleted."""
    ids = [str(token["id"]) for token in token_list() if token["description"] == description]
    for token_id in ids:
        token_delete(token_id)
    return ids


def _wait_signed(token_id: str) -> None:
    """Wait until the cluster's discovery document is signed with the token.

    kubeadm looks for the signature every five seconds: a ticket handed out before it is there costs
    the join that much.
    """
    end = time.monotonic() + SIGNATURE_WAIT
    while True:
        document = (
            _kubectl_json("get", "configmap", "cluster-info", "--namespace=kube-public") or {}
        )
        if f"jws-kubeconfig-{token_id}" in (document.get("data") or {}):
            return
        if time.monotonic() >= end:
            raise _error(
                f"the control plane did not sign its discovery document for the new token within "
                f"{SIGNATURE_WAIT:.0f} s: is kube-controller-manager running? On it: crictl ps"
            )
        time.sleep(POLL / 2)


def _check_node_name(node: str) -> None:
    if not __utils__["rackspec.valid_id"](node):
        raise _error(
            f"{node!r} is no node id: lower-case letters, digits and hyphens, at most 63 characters"
        )


def ticket_create(node: str, pub: str, ttl: float = 600) -> dict[str, Any]:
    """Make a join ticket: a fresh bootstrap token, sealed to the node that is to join.

    Tokens of earlier tickets for the node are deleted first.

    node
        Id of the minion that is to join.
    pub
        Its public key as PEM text, as the master keeps it.
    ttl
        Seconds for which token and ticket are good, 60 to 86400.

    Returns ``{"ticket", "token_id", "expires", "endpoint", "ca_hash"}``: the sealed text, safe to
    be seen, and what it is about. Raises CommandExecutionError for a bad id, key or ttl, off the
    control plane, or if the API server refuses; no token is left over then.

    CLI Example:

    .. code-block:: bash

        salt cp1 kubeadm.ticket_create pi-07 pub="$(cat /etc/salt/pki/master/minions/pi-07)"
    """
    _check_node_name(node)
    _check_ttl(ttl)
    server = _read_kubeconfig(_admin_conf())
    if not server:
        raise _error(
            f"{_admin_conf()} is broken: restore it with kubeadm init phase kubeconfig admin"
        )
    description = TICKET_DESCRIPTION.format(node=node)
    _delete_tokens(description)
    made = _make_token(description, ttl)
    endpoint = str(server["server"]).removeprefix("https://")
    document = {
        "token": made["token"],
        "endpoint": endpoint,
        "ca_hash": server["ca_hash"],
    }
    try:
        sealed = __utils__["ticket.seal"](document, pub, node, ttl)
        _wait_signed(made["id"])
    except Exception as exc:
        token_delete(made["id"])
        if isinstance(exc, ValueError):
            raise _error(f"no ticket for {node}: {exc}") from exc
        raise
    return {
        "ticket": sealed,
        "token_id": made["id"],
        "expires": made["expires"],
        "endpoint": endpoint,
        "ca_hash": server["ca_hash"],
    }


def ticket_revoke(node: str | None = None, token_id: str | None = None) -> dict[str, list[str]]:
    """Delete the tokens behind a node's join tickets, also those that an earlier run left over.

    node
        Id of the node whose tickets are to be void.
    token_id
        One token's id, as ``ticket_create`` returned it.

    Returns ``{"deleted": [ids]}``. Raises CommandExecutionError if neither is given, off the
    control plane, or if the API server refuses.

    CLI Example:

    .. code-block:: bash

        salt cp1 kubeadm.ticket_revoke pi-07
    """
    if node is None and token_id is None:
        raise _error("ticket_revoke wants a node or a token_id: it does not delete everything")
    deleted: list[str] = []
    if token_id is not None:
        token_delete(token_id)
        deleted.append(token_id)
    if node is not None:
        _check_node_name(node)
        deleted += _delete_tokens(TICKET_DESCRIPTION.format(node=node))
    return {"deleted": list(dict.fromkeys(deleted))}


def _unseal(sealed: str, purpose: str) -> dict[str, Any]:
    key = Path(__opts__["pki_dir"]) / "minion.pem"
    try:
        private_key = key.read_text(encoding="ascii")
    except (OSError, ValueError):
        raise _error(f"the private key {key} of {_node_id()} cannot be read") from None
    try:
        opened: dict[str, Any] = __utils__["ticket.unseal"](
            sealed, private_key, _node_id(), purpose
        )
    except ValueError as exc:
        raise _error(str(exc)) from None
    return opened


# --- joining --------------------------------------------------------------------------------------


def _verdict(stderr: str) -> str:
    """What kubeadm gave up with: its last error, without the attempts that it logged before."""
    return stderr[max(stderr.rfind("error execution phase"), 0) :]


def _failed_checks(output: str) -> str | None:
    """What kubeadm's preflight found; None if it is not what failed."""
    failed = re.findall(r"\[ERROR ([^\]]+)\]: (.+)", output)
    if not failed:
        return None
    reasons = "; ".join(f"{check}: {text.strip()}" for check, text in failed)
    return __utils__["kube_programs.scrub"](
        f"kubeadm's own checks on {_node_id()} failed: {reasons}"
    )


def _failed_kubelet(output: str) -> str | None:
    """Words for a kubelet that did not come up; None if it is not what failed."""
    # 10248 is its health port
    if not re.search(r":10248|kubelet is not running|timed out waiting for the condition", output):
        return None
    return (
        f"the kubelet on {_node_id()} did not come up, or got no certificate in time: "
        f"journalctl -u kubelet on {_node_id()} says why"
    )


def _discovery_failures(endpoint: str, authority: str) -> tuple[tuple[str, str], ...]:
    """What kubeadm writes when it cannot join a cluster, and what that means."""
    node = _node_id()
    return (
        (
            r"could not find a JWS signature|invalid for this cluster or it has expired"
            r"|failed to verify JWS|: Unauthorized",
            f"the join token is no longer good at {endpoint}: it expired or was deleted. "
            "Run the join again, it brings a new one",
        ),
        (
            r"are pinned|cluster CA found in cluster-info ConfigMap is invalid"
            r"|different from the first|signed by unknown authority",
            f"the API server at {endpoint} is not the one of the ticket: its CA is not "
            f"{authority}. Either the cluster was made anew since (run the join again), or another "
            "machine answers at this address (find out before going on)",
        ),
        (
            r"certificate has expired or is not yet valid",
            f"the certificate of {endpoint} is not valid by the clock of {node} "
            f"({_timestamp(time.time())}): set the clock (timedatectl), then run the join again",
        ),
        (
            r'a Node with name "[^"]*" and status "Ready" already exists',
            f"the cluster has another node {node} that is Ready: two machines have one name, or "
            "this one was re-imaged a moment ago. If the other is gone: "
            f"kubectl delete node {node}, then run the join again",
        ),
        (
            r"connection refused|no route to host|network is unreachable|i/o timeout"
            r"|deadline exceeded|no such host|TLS handshake timeout|Client\.Timeout",
            f"the API server at {endpoint} cannot be reached from {node}: "
            "is the control plane up, and is the network between them open?",
        ),
    )


def _explain_join(stdout: str, stderr: str, endpoint: str, authority: str) -> str:
    """A failed ``kubeadm join`` in plain words: what is wrong, and what to do."""
    verdict = _verdict(stderr)
    plain = _failed_checks(stderr) or _failed_kubelet(verdict)
    if plain:
        return plain
    for pattern, words in _discovery_failures(endpoint, authority):
        if re.search(pattern, verdict):
            return f"{words} [{_last_lines(verdict, 1)}]"
    return f"kubeadm join failed on {_node_id()}: {_last_lines(verdict or stdout)}"


def _explain_init(stdout: str, stderr: str) -> str:
    """A failed ``kubeadm init`` in plain words."""
    said = _last_lines(stderr or stdout)
    plain = _failed_checks(stderr) or _failed_kubelet(f"{stdout}\n{stderr}")
    if plain:
        return plain if "checks" in plain else f"{plain} [{said}]"
    return f"kubeadm init failed on {_node_id()}: {said}"


def check_cluster(found: Mapping[str, Any] | None = None, expected: str | None = None) -> bool:
    """Raise if this node's kubelet belongs to another cluster than the rack's.

    found
        What ``facts`` returned; asked anew by default.
    expected
        The CA of the rack's cluster, ``sha256:<hex>``; by default what the master knows, pillar
        ``cluster:ca_hash``. If that is not known either, nothing is refused.

    Returns True otherwise. Raises CommandExecutionError with the command that takes the node out.

    CLI Example:

    .. code-block:: bash

        salt pi-01 kubeadm.check_cluster
    """
    found = facts() if found is None else found
    expected = expected or _cluster().get("ca_hash")
    if not (found["kubelet_conf"] and expected and found["ca_hash"]):
        return True
    if found["ca_hash"] != expected:
        raise _error(
            f"{_node_id()} belongs to another cluster: its CA is {found['ca_hash']}"
            f"{' at ' + found['server'] if found['server'] else ''}, the rack's is {expected}. "
            "To take it out of that cluster and into this one: "
            f"salt {_node_id()} kubeadm.reset force=True"
        )
    return True


def _check_installed(found: Mapping[str, Any]) -> None:
    if not found["kubeadm"]:
        raise _error(
            f"kubeadm is not installed on {_node_id()}: apply the state 'kubernetes' first"
        )


def join(ticket: str | None = None) -> dict[str, Any]:
    """Make this node a worker of the cluster that a join ticket is for.

    A join that was begun and broken off here is cleaned up first. A node that is already a member
    is left alone, apart from what ``mend`` does.

    ticket
        The sealed text of ``ticket_create``; by default the pillar's ``kubeadm_ticket``.

    Returns ``{"joined": whether it joined now, "was": what was found before or None, "endpoint",
    "ca_hash", "mended": [...], "seconds"}``. Raises CommandExecutionError, in words of its own,
    for: no ticket; a ticket that is broken, expired or another node's; a node that belongs to
    another cluster; a control plane; kubeadm missing; an expired token; an API server that is
    unreachable or has another CA; a failed check of kubeadm.

    CLI Example:

    .. code-block:: bash

        salt pi-07 kubeadm.join ticket='sbt1....'
    """
    started = time.monotonic()
    sealed = ticket or __pillar__.get("kubeadm_ticket")
    if not sealed:
        raise _error(f"no join ticket for {_node_id()}: salt-run rack.reconcile brings one")
    refuse_control_plane()
    opened = _unseal(sealed, "join")
    found = facts()
    check_cluster(found, opened["ca_hash"])
    result = {
        "joined": False,
        "was": None,
        "endpoint": opened["endpoint"],
        "ca_hash": opened["ca_hash"],
        "mended": [],
        "seconds": 0.0,
    }
    if found["joined"]:
        return {**result, "was": "member", "mended": mend(registered=True)}
    _check_installed(found)
    if found["role"] == "control_plane":
        raise _error(
            f"{_node_id()} is a control plane by its files and a worker by the pillar: nothing was "
            f"touched. To make it a worker: salt {_node_id()} kubeadm.reset force=True"
        )
    if found["half_joined"]:
        result["was"] = "half-finished join"
        _reset()
    _kubeadm_join(opened)
    after = facts()
    if not after["joined"]:
        raise _error(
            f"kubeadm join ended well on {_node_id()}, but: {'; '.join(after['problems'])}"
        )
    return {**result, "joined": True, "seconds": round(time.monotonic() - started, 1)}


def _kubeadm_join(opened: Mapping[str, Any]) -> None:
    """Run ``kubeadm join`` with the token in a file that only root can read, and only meanwhile."""
    endpoint, authority = opened["endpoint"], opened["ca_hash"]
    _remove_secrets()
    try:
        with _private_file("join-", _join_config(opened["token"], endpoint, authority)) as path:
            done = _run(["kubeadm", "join", "--config", str(path)], JOIN_LIMIT)
    finally:
        # on success kubeadm has done it; after a failure or a kill the token must not stay
        _remove_secrets()
    if done.returncode:
        raise _error(_explain_join(done.stdout, done.stderr, endpoint, authority))


def refuse_control_plane() -> bool:
    """Raise if the pillar makes this node a control plane: a second one cannot join yet.

    Returns True otherwise.

    CLI Example:

    .. code-block:: bash

        salt pi-07 kubeadm.refuse_control_plane
    """
    if "control_plane" in (__pillar__.get("node") or {}).get("roles", []):
        raise _error(
            f"{_node_id()} has the role control_plane: more than one control plane is not "
            "supported yet. The first is made by the state kubeadm.initialized; "
            "give the others another role"
        )
    return True


def _known_to_api(kubelet_conf: Path) -> bool | None:
    """Whether the API server has a Node of this name, asked with the node's own certificate.

    None if that cannot be said: no kubectl here, no answer, or no right to ask.
    """
    if not shutil.which("kubectl"):
        return None
    try:
        done = _kubectl(
            "get", "node", _node_id(), "--output=name", kubeconfig=kubelet_conf, attempts=2
        )
    except salt.exceptions.CommandExecutionError:
        return None
    if done.returncode == 0:
        return True
    return False if "(NotFound)" in done.stderr else None


def _annotate_runtime(kubelet_conf: Path) -> None:
    """The last step of a join that was cut off: note the runtime for ``kubeadm upgrade``."""
    if not shutil.which("kubectl"):
        return
    socket_url = __utils__["kubeadm_config.cri_socket"](_kubeadm_version() or "1.34.0")
    note = f"{CRI_SOCKET_ANNOTATION}={socket_url}"
    done = _kubectl("annotate", "node", _node_id(), note, "--overwrite", kubeconfig=kubelet_conf)
    if done.returncode:
        raise _error(
            f"the join of {_node_id()} was cut off and cannot be finished yet: "
            f"{_last_lines(done.stderr, 1)}"
        )


def mend(registered: bool = False) -> list[str]:
    """Finish on a member what a join that was cut off left undone.

    A power cut between the node's certificate and kubeadm's last step leaves a good member with a
    stale bootstrap-kubelet.conf and without the note about its container runtime.

    registered
        Also ask the API server whether it has this node (somebody may have deleted it), and restart
        the kubelet if not, which makes it register again.

    Returns what was done, as short sentences; empty if there was nothing to do. Raises
    CommandExecutionError if the API server is needed and does not answer.

    CLI Example:

    .. code-block:: bash

        salt pi-07 kubeadm.mend registered=True
    """
    found = facts()
    done: list[str] = []
    if not found["joined"]:
        return done
    kubelet_conf = KUBERNETES_DIR / "kubelet.conf"
    if registered and _known_to_api(kubelet_conf) is False:
        __salt__["service.restart"]("kubelet")
        done.append("kubelet restarted: the API server had no node of this name")
    if found["leftover"]:
        # the token goes at once; the empty file stays as a mark until the API server was asked
        (KUBERNETES_DIR / "bootstrap-kubelet.conf").write_text("", encoding="ascii")
        _annotate_runtime(kubelet_conf)
        _remove_secrets()
        done.append("bootstrap-kubelet.conf of a join that was cut off removed")
    return done


def _reset() -> None:
    """``kubeadm reset``, and the files that it leaves."""
    version = _kubeadm_version()
    _check_installed({"kubeadm": version})
    runtime = __utils__["kubeadm_config.cri_socket"](version)
    done = _run(["kubeadm", "reset", "--force", f"--cri-socket={runtime}"], RESET_LIMIT)
    if done.returncode:
        raise _error(f"kubeadm reset failed on {_node_id()}: {_last_lines(done.stderr)}")
    _remove_secrets()
    if (KUBERNETES_DIR / "kubelet.conf").exists():
        raise _error(f"kubeadm reset left {KUBERNETES_DIR}/kubelet.conf on {_node_id()}")
    (KUBERNETES_DIR / INIT_MARKER).unlink(missing_ok=True)


def reset(force: bool = False) -> dict[str, Any]:
    """Undo a join or an init on this node (``kubeadm reset``).

    Its node object stays in the cluster, and so does the CNI configuration on the node.

    force
        Also when the node is a good member, a control plane, or belongs to another cluster. On a
        control plane this destroys the cluster's data.

    Returns ``{"reset": True, "was": facts before}``. Raises CommandExecutionError if force is
    needed, or if kubeadm is missing or fails.

    CLI Example:

    .. code-block:: bash

        salt pi-07 kubeadm.reset
        salt pi-07 kubeadm.reset force=True
    """
    found = facts()
    if not force:
        again = f"To do it all the same: salt {_node_id()} kubeadm.reset force=True"
        if found["role"] == "control_plane":
            raise _error(f"{_node_id()} is a control plane: a reset destroys its cluster. {again}")
        check_cluster(found)
        if found["joined"]:
            raise _error(f"{_node_id()} is a good member of {found['server']}. {again}")
    _reset()
    return {"reset": True, "was": found}


# --- making a cluster -----------------------------------------------------------------------------


def _refuse_second_control_plane() -> None:
    planes = _control_planes()
    if _node_id() not in planes:
        raise _error(
            f"{_node_id()} is no control plane by the pillar: roles: [control_plane] under 'nodes'"
        )
    if planes[0] != _node_id():
        raise _error(
            f"{planes[0]} is the rack's control plane; {_node_id()} would be a second one, which "
            "is not supported yet: give it another role"
        )


def _init_took_hold() -> bool:
    """Whether an init came so far that it cannot simply be begun again.

    Before that there are only certificates, which kubeadm takes up again; they may be the user's.
    """
    started = ("kubelet.conf", "manifests/kube-apiserver.yaml", "manifests/etcd.yaml")
    return any((KUBERNETES_DIR / name).exists() for name in started)


def _kubeadm_init(skip: tuple[str, ...] = ()) -> None:
    """Run ``kubeadm init``, whole or what is left of it, and delete the token that it makes."""
    phases = list(skip)
    if not (__pillar__.get("kubernetes") or {}).get("dns", True):
        phases.append("addon/coredns")
    argv = ["kubeadm", "init", "--skip-token-print"]
    if phases:
        argv.append(f"--skip-phases={','.join(phases)}")
    marker = KUBERNETES_DIR / INIT_MARKER
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.write_text("kubeadm init is under way, or was cut off\n", encoding="ascii")
    with _private_file("init-", init_config()) as path:
        done = _run([*argv, "--config", str(path)], INIT_LIMIT)
    if done.returncode:
        if not _init_took_hold():
            marker.unlink()
        raise _error(_explain_init(done.stdout, done.stderr))
    _delete_init_token()
    marker.unlink(missing_ok=True)


def _delete_init_token() -> None:
    """Delete kubeadm's own token: nothing of ours uses it. It lives a minute if this fails."""
    try:
        _delete_tokens(__utils__["kubeadm_config.init_token_description"]())
    except salt.exceptions.CommandExecutionError as exc:
        log.warning("the token of kubeadm init was not deleted, it expires by itself: %s", exc)


def _resume_init(found: Mapping[str, Any], expected: str | None) -> None:
    """Bring an init that was cut off to its end: by its last phases if the API server is up."""
    if not _init_took_hold():
        _kubeadm_init()
        return
    admin = KUBERNETES_DIR / "admin.conf"
    if (
        found["role"] == "control_plane"
        and admin.exists()
        and __utils__["kube_programs.api_answers"](admin, API_WAIT_AFTER_BOOT)
    ):
        _kubeadm_init(skip=INIT_PHASES_BEFORE_API)
        return
    if expected and found["ca_hash"] == expected:
        raise _error(
            f"the API server of {_node_id()} does not answer, and its cluster is in use: nothing "
            "was reset. On it: crictl ps -a, journalctl -u kubelet"
        )
    _reset()
    _kubeadm_init()


def init() -> dict[str, Any]:
    """Make this node the rack's control plane (``kubeadm init``), from the pillar.

    An init that was cut off is brought to its end: by its last phases if its API server is up,
    from the beginning if not (it was never in use then). A control plane is left alone.

    Returns ``{"initialized": whether it was done now, "was": "half-finished init" or None,
    "endpoint", "ca_hash", "seconds"}``. Raises CommandExecutionError for: a node that is no control
    plane by the pillar, or a second one; a rack that has a cluster already while this node is blank
    or belongs to another; kubeadm missing; a failed check or start of kubeadm.

    CLI Example:

    .. code-block:: bash

        salt cp1 kubeadm.init
    """
    started = time.monotonic()
    found = facts()
    expected = _cluster().get("ca_hash")
    check_init(found)
    result = {"initialized": False, "was": None, "endpoint": _endpoint()}
    if found["joined"]:
        return {**result, "ca_hash": found["ca_hash"], "seconds": 0.0}
    _check_installed(found)
    if (KUBERNETES_DIR / INIT_MARKER).exists():
        result["was"] = "half-finished init"
        _resume_init(found, expected)
    else:
        _kubeadm_init()
    return {
        **result,
        "initialized": True,
        "ca_hash": ca_hash(str(KUBERNETES_DIR / "pki" / "ca.crt")),
        "seconds": round(time.monotonic() - started, 1),
    }


def check_init(found: Mapping[str, Any] | None = None) -> bool:
    """Raise if this node must not become, or is not, the control plane of this rack's cluster.

    found
        What ``facts`` returned; asked anew by default.

    Returns True otherwise. Raises CommandExecutionError in the words that ``init`` would use.

    CLI Example:

    .. code-block:: bash

        salt cp1 kubeadm.check_init
    """
    _refuse_second_control_plane()
    found = facts() if found is None else found
    expected = _cluster().get("ca_hash")
    record = "delete /var/lib/saltberry/cluster.json on the master and run again"
    begun = (KUBERNETES_DIR / INIT_MARKER).exists()
    if found["joined"] and found["role"] == "worker":
        raise _error(
            f"{_node_id()} is a worker of {found['server']} and is to be a control plane: "
            f"salt {_node_id()} kubeadm.reset force=True takes it out of there"
        )
    if expected and found["ca_hash"] and found["ca_hash"] != expected:
        raise _error(
            f"{_node_id()} belongs to another cluster: its CA is {found['ca_hash']}, the rack's is "
            f"{expected}. If this node is right and the master's record is old: {record}"
        )
    if expected and not found["ca_hash"] and not begun:
        raise _error(
            f"the rack has a cluster (CA {expected}) but {_node_id()} is blank: a new init would "
            f"make another cluster, and no worker would belong to it. Restore {KUBERNETES_DIR} and "
            f"/var/lib/etcd from a backup; or, to begin anew: {record}"
        )
    if not found["joined"] and not begun and (found["role"] or found["kubelet_conf"]):
        raise _error(
            f"{_node_id()} has the remains of another kubeadm ({'; '.join(found['problems'])}): "
            f"salt {_node_id()} kubeadm.reset force=True clears them"
        )
    return True


# --- what the API server knows --------------------------------------------------------------------


def _node_facts(node: Mapping[str, Any]) -> dict[str, Any]:
    """What is of interest in one Node object."""
    status = node.get("status") or {}
    metadata, spec = node.get("metadata") or {}, node.get("spec") or {}
    ready = next((c for c in status.get("conditions") or [] if c.get("type") == "Ready"), None)
    addresses = status.get("addresses") or []
    labels = metadata.get("labels") or {}
    if not ready:
        reason = "the kubelet has not reported yet"
    elif ready.get("status") == "True":
        reason = ""
    else:
        reason = str(ready.get("message") or ready.get("reason") or "no reason given")
    return {
        "ready": bool(ready) and not reason,
        "reason": reason,
        "version": (status.get("nodeInfo") or {}).get("kubeletVersion", ""),
        "ip": next((a["address"] for a in addresses if a.get("type") == "InternalIP"), None),
        "pod_cidr": spec.get("podCIDR"),
        "schedulable": not spec.get("unschedulable"),
        "drained_for": (metadata.get("annotations") or {}).get(DRAINED_FOR, ""),
        # the second label is what kubeadm gave up to 1.23
        "control_plane": "node-role.kubernetes.io/control-plane" in labels
        or "node-role.kubernetes.io/master" in labels,
    }


def nodes() -> dict[str, dict[str, Any]]:
    """The nodes that the API server knows.

    Returns ``{name: {"ready", "reason", "version", "ip", "pod_cidr", "control_plane", "schedulable",
    "drained_for"}}``; reason is empty for a ready node, drained_for unless :func:`drain` drained it.
    Raises CommandExecutionError off the control plane or if the API server
    does not answer after some tries.

    CLI Example:

    .. code-block:: bash

        salt cp1 kubeadm.nodes
    """
    found = _kubectl_json("get", "nodes") or {}
    return {item["metadata"]["name"]: _node_facts(item) for item in found.get("items", [])}


def wait_ready(node: str, timeout: float = 180) -> dict[str, Any]:
    """Wait until the API server reports a node Ready; looks twice a second.

    node
        Its name.
    timeout
        Seconds to wait at most.

    Returns ``{"ready", "seconds", "reason"}``; the exit code is 1 if it is not ready. Raises
    CommandExecutionError for a bad name or off the control plane. An API server that is away for a
    while is waited for too.

    CLI Example:

    .. code-block:: bash

        salt cp1 kubeadm.wait_ready pi-07 timeout=60
    """
    _check_node_name(node)
    _admin_conf()
    started = time.monotonic()
    while True:
        ready, reason = _look(node)
        seconds = time.monotonic() - started
        if ready or seconds >= timeout:
            break
        time.sleep(POLL)
    if not ready:
        __context__["retcode"] = 1
    return {"ready": ready, "seconds": round(seconds, 1), "reason": reason}


def _look(node: str) -> tuple[bool, str]:
    """One look at a node: whether it is ready, and why not."""
    try:
        found = _kubectl_json("get", "node", node, attempts=1)
    except salt.exceptions.CommandExecutionError as exc:
        return False, str(exc)
    if not found:
        return False, "the API server does not know this node"
    known = _node_facts(found)
    return known["ready"], known["reason"]


def drain(node: str, why: str, timeout: float = 300) -> dict[str, Any]:
    """Let a node take no new pods, and have those that run there started elsewhere.

    Pods without a controller are started elsewhere by nobody: ``kubectl drain`` would delete them for
    good. A node that has some is only cordoned; its pods start again where they are.

    node
        Its name.
    why
        What it is drained for. Kept in an annotation, so that :func:`uncordon` knows that it was us.
        A node that a person cordoned before gets none.
    timeout
        Seconds that the pods have to end; a PodDisruptionBudget may hold them longer.

    Returns ``{"drained": bool, "left": ["namespace/pod", ...]}``. Raises CommandExecutionError for a
    bad name, off the control plane, and for pods that do not go in time, with kubectl's words.

    CLI Example:

    .. code-block:: bash

        salt cp1 kubeadm.drain pi-07 why='a new disk'
    """
    _check_node_name(node)
    found = _kubectl_json("get", "node", node)
    if not found:
        raise _error(f"the API server does not know a node {node}; kubectl get nodes lists them")
    if _node_facts(found)["schedulable"]:
        # First the mark: a cordon that nobody knows the reason of would stay for ever.
        _must_kubectl("annotate", "--overwrite", "node", node, f"{DRAINED_FOR}={why}")
        _must_kubectl("cordon", node)
    argv = ["kubectl", "drain", node, "--ignore-daemonsets", f"--timeout={timeout:.0f}s"]
    done = _run(
        [*argv, "--delete-emptydir-data"], timeout + KUBECTL_LIMIT, kubeconfig=_admin_conf()
    )
    if done.returncode == 0:
        return {"drained": True, "left": []}
    if _UNMANAGED.search(done.stderr):
        return {"drained": False, "left": _unmanaged_pods(node)}
    raise _error(f"the pods of {node} do not go: {_last_lines(done.stderr, 2)}")


def _unmanaged_pods(node: str) -> list[str]:
    """The pods of a node that nothing would start elsewhere."""
    found = _kubectl_json("get", "pods", "-A", f"--field-selector=spec.nodeName={node}") or {}
    metadata = [pod["metadata"] for pod in found.get("items", [])]
    return sorted(f"{m['namespace']}/{m['name']}" for m in metadata if not m.get("ownerReferences"))


def uncordon(node: str) -> bool:
    """Let a node take pods again that :func:`drain` drained.

    node
        Its name.

    Returns whether that was done now: a node that a person cordoned stays as it is. Raises
    CommandExecutionError for a bad name, off the control plane, or in kubectl's words.

    CLI Example:

    .. code-block:: bash

        salt cp1 kubeadm.uncordon pi-07
    """
    _check_node_name(node)
    found = _kubectl_json("get", "node", node)
    if not found or not _node_facts(found)["drained_for"]:
        return False
    _must_kubectl("uncordon", node)
    _must_kubectl("annotate", "node", node, f"{DRAINED_FOR}-")
    return True


def delete_node(node: str) -> bool:
    """Delete the node object of a node that is gone, or was imaged anew.

    node
        Name of the node; not this control plane's own.

    Returns whether there was one. Raises CommandExecutionError for a bad name, for this node itself,
    off the control plane, or in kubectl's words.

    CLI Example:

    .. code-block:: bash

        salt cp1 kubeadm.delete_node pi-07
    """
    _check_node_name(node)
    if node == _node_id():
        raise _error(f"{node} is this control plane itself: its node object stays")
    done = _kubectl("delete", "node", node, "--ignore-not-found", "--wait=false", "-o", "name")
    if done.returncode:
        raise _error(f"node {node} could not be deleted: {_last_lines(done.stderr, 2)}")
    return bool(done.stdout.strip())


def _must_kubectl(*arguments: str) -> None:
    """Run kubectl for its effect; raise CommandExecutionError in its words if it failed."""
    done = _kubectl(*arguments)
    if done.returncode:
        raise _error(f"kubectl {' '.join(arguments[:2])} failed: {_last_lines(done.stderr, 2)}")


# --- the admin's kubeconfig -----------------------------------------------------------------------


def admin_kubeconfig(pub: str, node: str | None = None, ttl: float = 600) -> str:
    """The cluster admin's kubeconfig, sealed to one minion.

    pub
        The minion's public key as PEM text.
    node
        Its id, to be refused elsewhere; None: whoever holds the key.
    ttl
        Seconds for which the sealed text can be opened, 60 to 86400.

    Returns the sealed text, safe to be seen. Raises CommandExecutionError off the control plane or
    for a bad key.

    CLI Example:

    .. code-block:: bash

        salt cp1 kubeadm.admin_kubeconfig "$(cat /etc/salt/pki/master/minions/nfs1)" node=nfs1
    """
    _check_ttl(ttl)
    document = {"kubeconfig": _admin_conf().read_text(encoding="utf-8")}
    try:
        return str(__utils__["ticket.seal"](document, pub, node, ttl, purpose="kubeconfig"))
    except ValueError as exc:
        raise _error(str(exc)) from exc


def install_kubeconfig(path: str, sealed: str) -> str:
    """Write a sealed kubeconfig to a file of mode 0600; what was there is kept beside it.

    path
        Where to; the folder is made with mode 0700 if it is missing.
    sealed
        What ``admin_kubeconfig`` returned.

    Returns the CA of the new file, ``sha256:<hex>``. Raises CommandExecutionError for a text that
    cannot be opened or is no kubeconfig.

    CLI Example:

    .. code-block:: bash

        salt nfs1 kubeadm.install_kubeconfig /root/.kube/config 'sbt1....'
    """
    file = Path(path)
    text = str(_unseal(sealed, "kubeconfig").get("kubeconfig", ""))
    try:
        authority = str(_parse_kubeconfig(text, file.parent)["ca_hash"])
    except ValueError as exc:
        raise _error(f"what the control plane sent is no kubeconfig: {exc}") from None
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if file.exists():
        keep = file.with_name(f"{file.name}.before-saltberry")
        shutil.copy2(file, keep)
        keep.chmod(0o600)
    handle, temporary = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    Path(temporary).replace(file)
    return authority
