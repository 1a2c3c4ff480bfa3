"""The cluster's DNS: what the pillar says of it, in the configuration that kubeadm made.

kubeadm writes the ConfigMap ``coredns`` when the cluster is made; at an upgrade it carries the text over,
in the next version's words. So nothing of it is replaced here: two things are changed inside of it, and the
rest stays to the letter. CoreDNS reads it anew by itself (its plugin ``reload``).
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "coredns"

__utils__: dict[str, Callable[..., Any]]
__pillar__: dict[str, Any]

ADMIN_CONF = Path("/etc/kubernetes/admin.conf")
_WHERE = ("--namespace=kube-system", "coredns")
_NOTE = "# Written by Salt: the rack's nodes"
# Known by its form: an upgrade by kubeadm writes the file anew, without comments. CoreDNS takes one such
# block and no second.
_OURS = re.compile(
    r"""(?mx) (?:^[ \t]*\#[ ]Written[ ]by[ ]Salt:.*\n)? ^[ \t]*hosts[ \t]*\{[ \t]*\n
    (?:[ \t]*[0-9.]+[ \t]+[a-z0-9.-]+[ \t]*\n)* [ \t]*ttl[ \t]+60[ \t]*\n
    [ \t]*fallthrough[ \t]*\n [ \t]*\}[ \t]*\n"""
)
# The line, or the head of a block, that says whom to ask for what the cluster does not know
_FORWARD = re.compile(
    r"^(?P<head>[ \t]*forward[ \t]+\.[ \t]+)(?P<to>[^{\n]*?)(?P<rest>[ \t]*\{?[ \t]*)$", re.M
)
_NODE_FILE = "/etc/resolv.conf"


def current() -> str | None:
    """Return the Corefile that the cluster has; None where kubeadm made none.

    CLI Example:

    .. code-block:: bash

        salt cp1 coredns.current
    """
    found = __utils__["kube_programs.kubectl_json"](
        "get", "configmap", *_WHERE, kubeconfig=ADMIN_CONF
    )
    return None if found is None else str((found.get("data") or {}).get("Corefile", ""))


def wanted(corefile: str) -> str:
    """Return a Corefile as the pillar wants it: other name servers, and the rack's nodes by name.

    corefile
        As it is.

    Raises CommandExecutionError for one that has no ``forward .``, or no ``kubernetes`` to stand before.

    CLI Example:

    .. code-block:: bash

        salt cp1 coredns.wanted "$(kubectl -n kube-system get cm coredns -o jsonpath={.data.Corefile})"
    """
    settings: Mapping[str, Any] = __pillar__["kubernetes"]
    servers = " ".join(settings["dns_upstream"]) or _NODE_FILE
    text = _OURS.sub("", corefile)
    text, count = _FORWARD.subn(lambda found: f"{found['head']}{servers}{found['rest']}", text)
    place = re.search(r"^(?P<indent>[ \t]*)kubernetes[ \t]", text, re.M)
    if not count or place is None:
        raise CommandExecutionError(
            "the cluster's Corefile has no line 'forward . …' or no 'kubernetes …'; somebody wrote another"
            " one: kubectl -n kube-system edit configmap coredns. Without kubernetes.dns_upstream and"
            " kubernetes.dns_hosts it is left alone"
        )
    if settings["dns_hosts"] and re.search(r"^[ \t]*hosts[ \t]", text, re.M):
        raise CommandExecutionError(
            "the cluster's Corefile has hosts of its own, and CoreDNS takes them once; take them out (kubectl"
            " -n kube-system edit configmap coredns), or set kubernetes.dns_hosts to false"
        )
    hosts = _hosts(place["indent"]) if settings["dns_hosts"] else ""
    return text[: place.start()] + hosts + text[place.start() :]


def _hosts(indent: str) -> str:
    """The nodes that have an address in the pillar, in the words of CoreDNS.

    What is none of them goes on to the next plugin.
    """
    domain = __pillar__["rack"]["domain"]
    addresses = {
        node: body["ip"]
        for node, body in (__pillar__.get("nodes") or {}).items()
        if body and body.get("ip")
    }
    lines = [f"    {ip} {node}.{domain}" for node, ip in sorted(addresses.items())]
    block = [_NOTE, "hosts {", *lines, "    ttl 60", "    fallthrough", "}"]
    return "".join(f"{indent}{line}\n" for line in block)


def plan() -> str:
    """Return a diff of what :func:`apply` would change; empty if nothing, or if there is no CoreDNS.

    CLI Example:

    .. code-block:: bash

        salt cp1 coredns.plan
    """
    there = current()
    if there is None or not _is_asked_for(there):
        return ""
    lines = difflib.unified_diff(
        there.splitlines(), wanted(there).splitlines(), "is", "should be", lineterm="", n=2
    )
    return "\n".join(lines)


def _is_asked_for(corefile: str) -> bool:
    """Whether the pillar says anything, or an earlier one has: else a text of a person's own stays."""
    settings = __pillar__["kubernetes"]
    return bool(settings["dns_upstream"] or settings["dns_hosts"] or _OURS.search(corefile))


def apply() -> str:
    """Have the Corefile as the pillar says; return what was changed, as a diff.

    One field is changed and no other; if kubeadm writes at the same moment, its text is read anew.

    CLI Example:

    .. code-block:: bash

        salt cp1 coredns.apply
    """
    told = plan()
    if not told:
        return ""
    there = str(current())
    patch = [
        {"op": "test", "path": "/data/Corefile", "value": there},
        {"op": "replace", "path": "/data/Corefile", "value": wanted(there)},
    ]
    done = __utils__["kube_programs.kubectl"](
        "patch", "configmap", *_WHERE, "--type=json", f"--patch={json.dumps(patch)}",
        "--field-manager=saltberry", kubeconfig=ADMIN_CONF,
    )  # fmt: skip
    if done.returncode:
        said = __utils__["kube_programs.last_lines"](done.stderr, 2)
        raise CommandExecutionError(f"the cluster's DNS could not be configured: {said}")
    return told
