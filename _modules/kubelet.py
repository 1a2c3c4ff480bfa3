"""What the kubelet of a member is told: its configuration and its flags, as cluster and pillar say.

``kubeadm`` writes them once, when a node joins, and looks at them no more. Whoever edits them by hand
changes what the node does from kubelet's next start on, unseen. What they should be:

* ``config.yaml``: what the cluster keeps for its members (a ConfigMap that kubeadm made), with the
  pillar's ``kubernetes.kubelet`` laid over it. The API server is asked only when the file is not the
  one that was compared before, so that a node with nothing to do asks nobody;
* ``kubeadm-flags.env``: the flags that kubeadm gives, with this node's address and engine;
* ``/etc/default/kubelet``: the pillar's ``kubernetes.kubelet_args`` and no other flags.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shlex
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from salt.exceptions import CommandExecutionError

__virtualname__ = "kubelet"

__salt__: dict[str, Callable[..., Any]]
__utils__: dict[str, Callable[..., Any]]
__pillar__: dict[str, Any]
__opts__: dict[str, Any]

log = logging.getLogger(__name__)

# Tests point this at a folder of their own.
_ROOT = Path("/")

_CONFIG = "/var/lib/kubelet/config.yaml"
_FLAGS = "/var/lib/kubelet/kubeadm-flags.env"
_EXTRA = "/etc/default/kubelet"
_KUBECONFIG = "etc/kubernetes/kubelet.conf"
# Which config.yaml was compared with the cluster's. It may be lost, then the cluster is asked again.
_COMPARED = "run/saltberry/kubelet-config.compared"

# kubeadm writes these for the node that it runs on, whatever the cluster's says.
_NODES_OWN = ("resolvConf", "containerRuntimeEndpoint")
# What kubeadm of any version since 1.20 may give by itself.
_KUBEADM_GIVES = {
    "cgroup-driver", "container-runtime", "container-runtime-endpoint", "hostname-override",
    "network-plugin", "node-ip", "pod-infra-container-image", "register-with-taints", "resolv-conf",
}  # fmt: skip
# Kubelet asks for its certificate; reconcile answers only while the pillar wants it so.
_ON_REQUEST = "serverTLSBootstrap"
_VARIABLE = re.compile(r"^\s*(?:export\s+)?(KUBELET_[A-Z]+_ARGS)=")
HEALTHY_LIMIT = 90.0
_POLL = 0.5


def _at(path: str) -> Path:
    return _ROOT / path.lstrip("/")


def _read(path: str) -> str:
    return str(__utils__["conffiles.read"](_at(path)))


def differs() -> dict[str, Any]:
    """Return what this node's kubelet is told otherwise than it should be. Changes nothing.

    Returns ``{"files": {path: {"text", "diff"}}, "note", "asked"}``: the files that differ, with the
    text that they should have; what could not be compared, in plain words; and whether the cluster
    was asked. A node that is no member has only ``/etc/default/kubelet``.

    Raises CommandExecutionError when a member lacks what only kubeadm can write.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' kubelet.differs
    """
    texts = {_EXTRA: _extra(_read(_EXTRA))}
    diffs, note, asked = {}, "", False
    if __salt__["node.is_member"]():
        texts[_FLAGS] = _flags(_read(_FLAGS))
        texts[_CONFIG], diffs[_CONFIG], note, asked = _config(_read(_CONFIG))
    files = {
        path: {"text": text, "diff": diffs.get(path) or _diff(_read(path), text)}
        for path, text in texts.items()
        if text != _read(path)
    }
    return {"files": files, "note": note, "asked": asked}


def _diff(old: str, new: str) -> str:
    return str(__utils__["conffiles.diff"](old, new))


# --- config.yaml -----------------------------------------------------------------------------------


def _ours() -> dict[str, Any]:
    """What the pillar wants of kubelet's configuration."""
    over = __utils__["kubeadm_config.kubelet_of"](__pillar__)
    wanted = __utils__["kubeadm_config.kubelet"](over)
    return {str(key): value for key, value in wanted.items()}


def _kubernetes() -> Mapping[str, Any]:
    return __pillar__.get("kubernetes") or {}


def _config(old: str) -> tuple[str, str, str, bool]:
    """Return the text of config.yaml, how it differs, what was not compared, and who was asked."""
    now = _parsed(old)
    cluster, note, asked = now, "", False
    if _read(_COMPARED) != _mark(old):
        asked = True
        try:
            cluster = _of_cluster()
        except CommandExecutionError as exc:
            if now is None:
                raise CommandExecutionError(f"{_CONFIG} is of no use, and {exc}") from exc
            note, asked = f"{_CONFIG} was not compared with the cluster's: {exc}", False
    own = {key: (now or {})[key] for key in _NODES_OWN if key in (now or {})}
    wanted = __utils__["kubeadm_config.merge"]({**(cluster or {}), **own}, _ours())
    if not _ours().get(_ON_REQUEST):
        # The cluster may have been made when a service wanted it that is off now.
        wanted.pop(_ON_REQUEST, None)
    if wanted == now:
        return old, "", note, asked
    new = _dumped(wanted)
    return new, _diff(old if now is None else _dumped(now), new), note, asked


def _parsed(text: str) -> dict[str, Any] | None:
    """Return a KubeletConfiguration; None if the text is none."""
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        return None
    return found if isinstance(found, dict) and found.get("kind") else None


def _dumped(config: Mapping[str, Any]) -> str:
    return str(yaml.safe_dump(json.loads(json.dumps(config)), sort_keys=True))


def _of_cluster() -> dict[str, Any]:
    """Return what the cluster keeps for its members.

    Raises CommandExecutionError when the API server does not answer, or does not give it.
    """
    name = __utils__["kubeadm_config.kubelet_config_map"](
        str((__pillar__.get("cluster") or {}).get("version") or _kubernetes().get("version"))
    )
    found = __utils__["kube_programs.kubectl_json"](
        "--namespace=kube-system", "get", "configmap", name, kubeconfig=_at(_KUBECONFIG), attempts=1
    )
    config = _parsed(str(((found or {}).get("data") or {}).get("kubelet", "")))
    if config is None:
        raise CommandExecutionError(f"the cluster has no {name} in kube-system")
    return config


def _mark(text: str) -> str:
    """Name a config.yaml, and the pillar's part in it."""
    return hashlib.sha256(f"{json.dumps(_ours(), sort_keys=True)}\n{text}".encode()).hexdigest()


def remember() -> None:
    """Note that config.yaml, as it is now, was compared with the cluster's and is as wanted.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' kubelet.remember
    """
    _at(_COMPARED).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    __utils__["conffiles.write"](_at(_COMPARED), _mark(_read(_CONFIG)), 0o600)


# --- flags -----------------------------------------------------------------------------------------


def _extra(old: str) -> str:
    """Return ``/etc/default/kubelet`` with the pillar's flags, and with what else is in it."""
    arguments = _kubernetes().get("kubelet_args") or {}
    wanted = " ".join(f"--{name}={_flag_value(value)}" for name, value in arguments.items())
    lines = old.splitlines()
    given = [line for line in lines if _VARIABLE.match(line)]
    if not wanted and all(_value_of(line, "KUBELET_EXTRA_ARGS") == [] for line in given):
        return old
    if len(given) == 1 and _value_of(given[0], "KUBELET_EXTRA_ARGS") == wanted.split():
        return old
    # A variable of kubeadm's, given here, would take the place of kubeadm's own.
    kept = [line for line in lines if not _VARIABLE.match(line)]
    line = f'KUBELET_EXTRA_ARGS="{wanted}"' if wanted else "KUBELET_EXTRA_ARGS="
    return "\n".join([*kept, line]) + "\n"


def _flag_value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _value_of(line: str, name: str) -> list[str] | None:
    """Return the flags that a line of a systemd environment file gives to a variable.

    None if it is another variable, or cannot be read.
    """
    found, _, value = line.partition("=")
    if found.strip() != name:
        return None
    try:
        return [word for part in shlex.split(value) for word in part.split()]
    except ValueError:
        return None


def _flags(old: str) -> str:
    """Return ``kubeadm-flags.env`` with kubeadm's own flags, this node's address and its engine.

    Raises CommandExecutionError when it has no flags at all: the engine's are not ours to guess.
    """
    lines = [line for line in old.splitlines() if line.strip()]
    given = _value_of(lines[0], "KUBELET_KUBEADM_ARGS") if lines else None
    if not given:
        raise CommandExecutionError(
            f"{_FLAGS}, which kubeadm writes, is missing or broken: kubelet would not find its engine. "
            f"`salt {__opts__['id']} kubeadm.reset force=True` has the node join anew"
        )
    wanted = _corrected(given)
    if wanted == given and len(lines) == 1:
        return old
    return f'KUBELET_KUBEADM_ARGS="{" ".join(wanted)}"\n'


def _corrected(given: list[str]) -> list[str]:
    """Return kubeadm's flags without those that kubeadm never gives, and with the values known here."""
    address = (__pillar__.get("node") or {}).get("ip")
    socket = str(__utils__["kubeadm_config.cri_socket"]("1.34.0"))
    known = {"container-runtime": "remote", "hostname-override": str(__opts__["id"])}
    if address:
        known["node-ip"] = str(address)
    wanted = []
    for flag in given:
        name, _, value = flag.removeprefix("--").partition("=")
        if name not in _KUBEADM_GIVES:
            continue
        if name == "container-runtime-endpoint":
            # up to 1.23 a path, later a URL
            value = value if value in (socket, socket.removeprefix("unix://")) else socket
        wanted.append(f"--{name}={known.get(name, value)}")
    names = {flag.partition("=")[0] for flag in wanted}
    return wanted + [f"--node-ip={address}"] * bool(address and "--node-ip" not in names)


# --- the change ------------------------------------------------------------------------------------


def configure() -> list[str]:
    """Have kubelet told what it should be, and on a member restart it when it was told otherwise.

    Pods go on meanwhile. When kubelet does not come up with it, the files are put back.

    Returns the files that were changed. Raises CommandExecutionError when kubelet does not come up,
    or a member lacks what only kubeadm can write.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' kubelet.configure
    """
    found = differs()
    before = {path: _read(path) for path in found["files"]}
    for path, file in found["files"].items():
        __utils__["conffiles.write"](_at(path), file["text"])
    if before and __salt__["node.is_member"]():
        __salt__["service.restart"]("kubelet")
        problem = _unwell()
        if problem:
            for path, text in before.items():
                __utils__["conffiles.write"](_at(path), text)
            __salt__["service.restart"]("kubelet")
            raise CommandExecutionError(
                f"kubelet did not come up with what it was told ({problem}); the old files are back. "
                f"kubernetes.kubelet and kubelet_args in the pillar: does this kubelet know them all? "
                f"journalctl -u kubelet on {__opts__['id']} names what it refused"
            )
    if found["asked"]:
        remember()
    return list(before)


def _unwell() -> str:
    """Wait until kubelet says that it is well; return why not when it does not within the limit."""
    config = _parsed(_read(_CONFIG)) or {}
    port = config.get("healthzPort") or 10248
    address = config.get("healthzBindAddress") or "127.0.0.1"
    if address in ("0.0.0.0", "::"):
        address = "127.0.0.1"
    url = f"http://{address}:{port}/healthz"
    end = time.monotonic() + HEALTHY_LIMIT
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return ""
        except (OSError, urllib.error.URLError) as exc:
            problem = f"{url}: {getattr(exc, 'reason', exc)}"
        if time.monotonic() >= end:
            return problem
        time.sleep(_POLL)
