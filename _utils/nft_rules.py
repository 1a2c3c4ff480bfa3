"""The firewall's one table as text for ``nft -f``, as a pure function of what may come in.

The chain stands before the destination of a packet is changed (the hook prerouting, before the priority
of destination NAT). kube-proxy, docker and the plugin portmap hand packets for a node's port on to a pod
or a container there; behind that, in the hook input, such ports would be open to everybody whatever a
chain there says. Packets that only pass through a node are let go: they are the business of those others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Network, collapse_addresses
from typing import Any

__virtualname__ = "nft_rules"

FAMILY, TABLE = "inet", "saltberry"
# After connections are known (-200), before the others' mangle (-150) and destination NAT (-100)
_PRIORITY = -160
# kube-apiserver's --service-node-port-range
_NODE_PORTS = "30000-32767"
_ANYWHERE = IPv4Network("0.0.0.0/0")

_FRAME = """\
# Written by Salt, from the pillar's firewall; edits here are lost.
# The first two lines make sure that there is a table to replace. It is one transaction, and no table
# but this one is touched.
table {family} {table}
delete table {family} {table}
table {family} {table} {{
	chain to_this_node {{
		type filter hook prerouting priority {priority}; policy accept;
		fib daddr type unicast accept comment "passes through"
{rules}
		counter drop comment "the rest"
	}}
}}
"""

_ALWAYS = (
    "ct state established,related accept",
    'iifname "lo" accept',
    # With neighbour discovery, without which there is no IPv6, and what multicast needs
    "meta l4proto { icmp, igmp, ipv6-icmp } accept",
    'udp sport 67 udp dport 68 accept comment "DHCP"',
    'ip6 saddr fe80::/10 udp sport 547 udp dport 546 accept comment "DHCPv6"',
)


def rules(
    rack: Sequence[str],
    ssh: Sequence[str] = (),
    ports: Iterable[Mapping[str, Any]] = (),
    node_ports: Sequence[str] = (),
    interfaces: Sequence[str] = (),
) -> str:
    """Return the file that replaces the table, and nothing else, in one transaction.

    rack
        Networks from which everything is let in: the rack's, the pods', the services'.
    ssh
        Networks or addresses from which ssh is let in as well.
    ports
        What else is let in: ``{"port": 80, "proto": "tcp", "from": [networks or addresses]}``; without
        ``proto`` tcp, without ``from`` from anywhere.
    node_ports
        Networks or addresses from which the cluster's NodePorts are let in as well.
    interfaces
        Interfaces of this node whose other side is on this node too, like docker's bridge.

    Raises ValueError for what is no IPv4 address or network.
    """
    lines = [*_ALWAYS]
    lines += [f'iifname "{name}" accept comment "containers here"' for name in interfaces]
    lines.append(f'{_from(rack)} accept comment "the rack"')
    if ssh:
        lines.append(f'{_from(ssh)} tcp dport 22 accept comment "ssh"')
    for opened in ports:
        source = f"{_from(opened['from'])} " if opened.get("from") else ""
        lines.append(f"{source}{opened.get('proto', 'tcp')} dport {opened['port']} accept")
    if node_ports:
        ports_of = f"meta l4proto {{ tcp, udp }} th dport {_NODE_PORTS}"
        lines.append(f'{_from(node_ports)} {ports_of} accept comment "NodePorts"')
    return _FRAME.format(
        family=FAMILY,
        table=TABLE,
        priority=_PRIORITY,
        rules="\n".join(f"\t\t{line}" for line in lines),
    )


def _from(networks: Iterable[str]) -> str:
    """Return the match for these sources; nft takes no networks that lie in each other in one set."""
    merged = list(collapse_addresses(IPv4Network(each) for each in networks))
    if merged == [_ANYWHERE]:
        return "meta nfproto ipv4"
    return f"ip saddr {{ {', '.join(map(str, merged))} }}"
