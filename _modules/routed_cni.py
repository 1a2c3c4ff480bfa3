"""Pod network without a daemon: a bridge on each node, and host routes between the nodes.

Each node's pods hang on a bridge (CNI plugins ``bridge``, ``host-local``, ``portmap``); every node
has a route to each other node's pod CIDR by way of that node's address on the rack's network. This
needs all nodes on one switch, and in return there is no encapsulation and nothing that can crash.

Facts come from the node: its CNI configuration, and the routes that the kernel has and that carry
our protocol number. The routes to be come from pillar ``cluster.nodes``.
"""

from __future__ import annotations

import ipaddress
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "routed_cni"

__salt__: dict[str, Callable[..., Any]]
__utils__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]

# Tests point this at a folder of their own.
_ROOT = Path("/")

CONFLIST = "/etc/cni/net.d/10-saltberry.conflist"
BATCH = "/etc/saltberry/routes.batch"
RULES = "/etc/saltberry/pods.rules"
UNIT = "saltberry-routes.service"
_UNIT_FILE = f"/etc/systemd/system/{UNIT}"
_KUBELET_CONF = "/etc/kubernetes/kubelet.conf"
_BRIDGE = "cni0"

# The origin that our routes carry (rtnetlink's protocol), so that they can be told from all others
# and stale ones removed. Any number above 4 that iproute2's rt_protos does not list will do.
PROTO = 83

# Our own chains, so that laying the rules again empties and fills these and nothing else.
_NAT_CHAIN = "SALTBERRY-NAT"
_FORWARD_CHAIN = "SALTBERRY-FORWARD"

_POLL_SECONDS = 1


def _at(path: str) -> Path:
    return _ROOT / path.lstrip("/")


def _run(argv: Sequence[str], stdin: str | None = None) -> dict[str, Any]:
    return __salt__["cmd.run_all"](
        list(argv), stdin=stdin, python_shell=False, ignore_retcode=True, output_loglevel="debug"
    )


def _must(argv: Sequence[str], stdin: str | None = None) -> str:
    ret = _run(argv, stdin)
    if ret["retcode"]:
        said = ret["stderr"] or ret["stdout"] or "no output"
        raise CommandExecutionError(f"{' '.join(argv)} failed ({ret['retcode']}): {said}")
    return ret["stdout"]


# --- facts --------------------------------------------------------------------------------------


def is_member() -> bool:
    """Say whether this node is part of a cluster, that is, has a kubelet's certificate.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' routed_cni.is_member
    """
    return _at(_KUBELET_CONF).exists()


def pod_cidr() -> str | None:
    """Return the pod network that this node's CNI configuration gives out, None without one.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' routed_cni.pod_cidr
    """
    try:
        plugins = json.loads(_at(CONFLIST).read_text())["plugins"]
        return plugins[0]["ipam"]["ranges"][0][0]["subnet"]
    except (FileNotFoundError, ValueError, KeyError, IndexError, TypeError):
        return None


def assigned_pod_cidr(wait: int = 0) -> str | None:
    """Ask the API server which pod network this node was given; None when it has none yet.

    wait
        Seconds to go on asking: the controller manager assigns one shortly after a node registers.

    Asked with the kubelet's own certificate, which may read its own node and nothing of others'.
    Raises CommandExecutionError when the API server cannot be asked.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' routed_cni.assigned_pod_cidr
    """
    deadline = time.monotonic() + wait
    while True:
        ret = _run([
            "kubectl", f"--kubeconfig={_at(_KUBELET_CONF)}", "--request-timeout=5s", "get", "node",
            __opts__["id"], "--output=jsonpath={.spec.podCIDR}",
        ])  # fmt: skip
        cidr = ret["stdout"].strip()
        if ret["retcode"] == 0 and cidr:
            return cidr
        if time.monotonic() >= deadline:
            break
        time.sleep(_POLL_SECONDS)
    if ret["retcode"]:
        raise CommandExecutionError(
            f"the API server does not say which pod network {__opts__['id']} has: {ret['stderr']}"
        )
    return None


def routes() -> dict[str, str]:
    """Return the routes of ours that the kernel has: ``{pod CIDR: node address}``.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' routed_cni.routes
    """
    shown = _must(["ip", "-json", "-4", "route", "show", "proto", str(PROTO)])
    return {_network(row["dst"]): row.get("gateway", "") for row in json.loads(shown or "[]")}


def _network(destination: str) -> str:
    """Return a destination as iproute2 shows it (``10.0.0.1`` for a /32) as a CIDR."""
    return str(ipaddress.IPv4Network(destination))


def digest() -> str:
    """Return a digest of this node's pod CIDR and of the routes that its kernel has now.

    Equal to ``routes.digest`` over ``cluster.nodes`` on the master exactly when all is in place.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' routed_cni.digest
    """
    return __utils__["routes.fingerprint"](pod_cidr(), routes())


# --- what should be -----------------------------------------------------------------------------


def conflist(cidr: str) -> str:
    """Return the CNI configuration of a node whose pods are in ``cidr``.

    cidr
        For instance ``10.244.1.0/24``.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' routed_cni.conflist 10.244.1.0/24
    """
    bridge = {
        "type": "bridge",
        "bridge": _BRIDGE,
        "isGateway": True,
        # Pods keep their address on the way to other pods; what leaves the pod network is
        # masqueraded by our own chain, which knows the whole pod network.
        "ipMasq": False,
        # A pod may reach itself by way of its Service.
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": cidr}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    # 0.4.0 is what the plugins of every Kubernetes since 1.16 understand.
    whole = {"cniVersion": "0.4.0", "name": "saltberry", "plugins": [bridge, portmap]}
    return json.dumps(whole, indent=2) + "\n"


def batch(wanted: Mapping[str, str]) -> str:
    """Return the input of ``ip -batch`` that lays routes.

    wanted
        ``{pod CIDR: node address}``.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' routed_cni.batch '{10.244.2.0/24: 192.168.1.22}'
    """
    lines = [f"route replace {cidr} via {via} proto {PROTO}" for cidr, via in wanted.items()]
    # Never empty: the unit that reads it is there before the first other node.
    return "".join(f"{line}\n" for line in ["# Written by Salt (routed_cni).", *lines])


def _chains(network: str) -> dict[str, dict[str, list[str]]]:
    """Return ``{table: {chain: rules}}`` of our own chains.

    Pods that talk to anything outside the pod network get their node's address, for nothing else
    knows the way back. Pods' packets are let through the node even where docker has set the
    policy of FORWARD to drop.
    """
    return {
        "nat": {_NAT_CHAIN: [f"-d {network} -j RETURN", "-d 224.0.0.0/4 -j RETURN",
                             "-j MASQUERADE"]},
        "filter": {_FORWARD_CHAIN: [f"-s {network} -j ACCEPT", f"-d {network} -j ACCEPT"]},
    }  # fmt: skip


def _jumps(network: str) -> dict[str, tuple[str, ...]]:
    """Return ``{table: rule}``: where packets enter our chains."""
    return {
        "nat": ("POSTROUTING", "-s", network, "-j", _NAT_CHAIN),
        "filter": ("FORWARD", "-j", _FORWARD_CHAIN),
    }


def rules(network: str) -> str:
    """Return our chains as input of ``iptables-restore --noflush``, which refills just those.

    network
        The pod network of the whole cluster, for instance ``10.244.0.0/16``.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' routed_cni.rules 10.244.0.0/16
    """
    lines = []
    for table, chains in _chains(network).items():
        lines.append(f"*{table}")
        for chain, chain_rules in chains.items():
            lines.append(f":{chain} - [0:0]")
            lines += [f"-A {chain} {rule}" for rule in chain_rules]
        lines.append("COMMIT")
    return "".join(f"{line}\n" for line in lines)


def unit(network: str) -> str:
    """Return the systemd unit that lays routes and rules again at boot.

    network
        The pod network of the whole cluster.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' routed_cni.unit 10.244.0.0/16
    """
    jumps = "".join(
        f"ExecStart=/bin/sh -c 'iptables -w -t {table} -C {' '.join(rule)} 2>/dev/null"
        f" || iptables -w -t {table} -A {' '.join(rule)}'\n"
        for table, rule in _jumps(network).items()
    )
    return (
        "# Written by Salt (routed_cni).\n"
        "[Unit]\n"
        "Description=Saltberry: routes to the pods of the other nodes\n"
        "Wants=network-online.target\n"
        "After=network-online.target\n"
        "\n"
        "[Service]\n"
        "Type=oneshot\n"
        "RemainAfterExit=yes\n"
        f"ExecStart=ip -force -batch {BATCH}\n"
        f"ExecStart=iptables-restore --wait --noflush {RULES}\n"
        f"{jumps}"
        "# The rack's network may come up after systemd believes it is.\n"
        "Restart=on-failure\n"
        "RestartSec=5\n"
        "\n"
        "[Install]\n"
        "WantedBy=multi-user.target\n"
    )


def plan(nodes: Mapping[str, Mapping[str, Any]], cidr: str, network: str) -> dict[str, Any]:
    """Return what on this node is not as it should be; an empty dict when all is in place.

    nodes
        Pillar ``cluster.nodes``.
    cidr
        This node's own pod network.
    network
        The pod network of the whole cluster.

    Keys: ``files`` ``{path: text}``, ``routes`` ``{CIDR: address}`` to lay, ``stale`` ``[CIDR]`` to
    remove, ``rules`` (tables whose rules lack), ``unit`` (not enabled), ``bridge`` (has another
    network's address).

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' routed_cni.plan '{}' 10.244.1.0/24 10.244.0.0/16
    """
    try:
        wanted = __utils__["routes.table"](nodes, __opts__["id"])
    except ValueError as exc:
        raise CommandExecutionError(str(exc)) from exc
    have = routes()
    files = {CONFLIST: conflist(cidr), BATCH: batch(wanted), RULES: rules(network),
             _UNIT_FILE: unit(network)}  # fmt: skip
    todo = {
        "files": {
            path: text
            for path, text in files.items()
            if __utils__["conffiles.read"](_at(path)) != text
        },
        "routes": {to: via for to, via in wanted.items() if have.get(to) != via},
        "stale": sorted(set(have) - set(wanted)),
        "rules": _tables_lacking(network),
        "unit": not __salt__["node.unit_enabled"](UNIT),
        "bridge": _bridge_address_outside(cidr),
    }
    return {key: value for key, value in todo.items() if value}


def _tables_lacking(network: str) -> list[str]:
    """Return the tables in which our chains or the way into them are not as they should be."""
    lacking = []
    for table, rule in _jumps(network).items():
        jump = _run(["iptables", "-w", "-t", table, "-C", *rule])
        if jump["retcode"] or any(
            _run(["iptables", "-w", "-t", table, "-S", chain])["stdout"].splitlines()
            != [f"-N {chain}", *(f"-A {chain} {line}" for line in chain_rules)]
            for chain, chain_rules in _chains(network)[table].items()
        ):
            lacking.append(table)
    return lacking


def _bridge_address_outside(cidr: str) -> str | None:
    """Return the bridge's address when it is not in ``cidr``: a node that joined a second time.

    The bridge plugin refuses to add pods to a bridge that has another network's address.
    """
    ret = _run(["ip", "-json", "-4", "address", "show", "dev", _BRIDGE])
    if ret["retcode"]:
        return None
    own = ipaddress.ip_network(cidr)
    for link in json.loads(ret["stdout"] or "[]"):
        for address in link.get("addr_info", []):
            if ipaddress.ip_address(address["local"]) not in own:
                return address["local"]
    return None


# --- doing it -----------------------------------------------------------------------------------


def apply(todo: Mapping[str, Any], network: str) -> None:
    """Do what :func:`plan` found. Raises CommandExecutionError, OSError.

    todo
        What :func:`plan` returned.
    network
        The pod network of the whole cluster.

    Routes that stay are not touched, so packets keep flowing. The CNI configuration is written
    last: with it the node becomes Ready, and by then it can reach the others.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' routed_cni.apply '{"stale": ["10.244.9.0/24"]}' 10.244.0.0/16
    """
    files = dict(todo.get("files", {}))
    text = files.pop(CONFLIST, None)
    for path, content in files.items():
        __utils__["conffiles.write"](_at(path), content)
    _lay_routes(todo.get("routes", {}), todo.get("stale", []))
    if todo.get("rules") or RULES in files:
        _lay_rules(network)
    if _UNIT_FILE in files:
        _must(["systemctl", "daemon-reload"])
    if todo.get("unit"):
        __salt__["node.enable_unit"](UNIT)
    if todo.get("bridge"):
        _must(["ip", "link", "delete", _BRIDGE])
    if text is not None:
        __utils__["conffiles.write"](_at(CONFLIST), text)


def _lay_routes(wanted: Mapping[str, str], stale: Sequence[str]) -> None:
    if not wanted and not stale:
        return
    gone = "".join(f"route del {cidr} proto {PROTO}\n" for cidr in stale)
    ret = _run(["ip", "-force", "-batch", "-"], stdin=batch(wanted) + gone)
    if ret["retcode"]:
        raise CommandExecutionError(
            f"the kernel refuses routes to other nodes' pods: {ret['stderr']}. The routed CNI needs "
            "all nodes on one network (rack.network), without a router between them"
        )


def _lay_rules(network: str) -> None:
    _must(["iptables-restore", "--wait", "--noflush"], stdin=rules(network))
    for table, rule in _jumps(network).items():
        if _run(["iptables", "-w", "-t", table, "-C", *rule])["retcode"]:
            _must(["iptables", "-w", "-t", table, "-A", *rule])


def remove() -> list[str]:
    """Undo everything: routes, rules, unit, bridge, files. Returns what was there.

    For a node that leaves the cluster. Rules whose pod network is not known any more are found by
    the name of their chain.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' routed_cni.remove
    """
    gone = present()
    _run(["systemctl", "disable", UNIT])
    stale = list(routes())
    _lay_routes({}, stale)
    for table, start, chain in (
        ("nat", "POSTROUTING", _NAT_CHAIN),
        ("filter", "FORWARD", _FORWARD_CHAIN),
    ):
        _remove_chain(table, start, chain)
    for path in (CONFLIST, BATCH, RULES, _UNIT_FILE):
        _at(path).unlink(missing_ok=True)
    _run(["systemctl", "daemon-reload"])
    _run(["ip", "link", "delete", _BRIDGE])
    return gone


def present() -> list[str]:
    """Return what of ours is on this node: files and routes.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' routed_cni.present
    """
    files = [path for path in (CONFLIST, BATCH, RULES, _UNIT_FILE) if _at(path).exists()]
    # A blank node may not even have iproute2.
    laid = routes() if shutil.which("ip") else {}
    return [*files, *(f"route {cidr}" for cidr in laid)]


def _remove_chain(table: str, start: str, chain: str) -> None:
    for line in _run(["iptables", "-w", "-t", table, "-S", start])["stdout"].splitlines():
        if line.endswith(f"-j {chain}"):
            _run(["iptables", "-w", "-t", table, "-D", *line.split()[1:]])
    _run(["iptables", "-w", "-t", table, "-F", chain])
    _run(["iptables", "-w", "-t", table, "-X", chain])
