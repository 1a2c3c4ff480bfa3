"""The firewall on real nodes, against a stranger on the same switch whose address is not the rack's."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from ipaddress import IPv4Network
from typing import Any, NamedTuple

import pytest
import yaml

from lab import host, lifecycle, podman
from lab.podman import Node
from lab.rack import PILLAR
from tests.lab.conftest import Lab

UNIT = "saltberry-firewall.service"
TABLE = "table inet saltberry"
GUARDED = ("pi-01", "nfs1")
NODE_PORT = 30080
# What listens there, and is the rack's business alone: ssh, kubelet; master, mirror, registry, ssh.
DOORS = {"pi-01": (22, 10250), "nfs1": (22, 80, 4505, 4506, 5000)}


class Site(NamedTuple):
    """The rack with the firewall on two of its nodes, and a stranger."""

    lab: Lab
    stranger: str

    def stranger_reaches(self, address: str, port: int) -> bool:
        """Whether a connection from the stranger's container comes about."""
        knock = f"timeout 3 bash -c '</dev/tcp/{address}/{port}' 2>/dev/null && echo open || true"
        return "open" in podman.podman("exec", self.stranger, "sh", "-c", knock)

    def reaches(self, name: str, address: str, port: int) -> bool:
        """Whether a connection from a node of the rack comes about."""
        knock = f"timeout 3 bash -c '</dev/tcp/{address}/{port}'"
        return self.lab.node(name).run("sh", "-c", knock, check=False).returncode == 0

    def open_to_stranger(self) -> set[tuple[str, int]]:
        """The doors of DOORS, and the NodePort, that the stranger finds open."""
        doors = [(name, port) for name, ports in DOORS.items() for port in ports]
        return {
            (name, port)
            for name, port in [*doors, ("pi-01", NODE_PORT)]
            if self.stranger_reaches(self.lab.node(name).ip, port)
        }


def configure(lab: Lab, rack: dict[str, Any], **firewall: Any) -> None:
    """Have this firewall on the guarded nodes, in a rack whose network is the lower half of the switch."""
    lower = next(IPv4Network(lab.rack.subnet).subnets())
    nodes = {**rack["nodes"]}
    for name in GUARDED:
        nodes[name] = {**(nodes.get(name) or {}), "firewall": firewall}
    changed = {**rack, "rack": {**rack["rack"], "network": str(lower)}, "nodes": nodes}
    lab.master.write(PILLAR, yaml.safe_dump(changed))


def apply(lab: Lab, *argv: str) -> dict[str, dict[str, Any]]:
    """`state.apply firewall` on the guarded nodes: what is not content, by node and id."""
    return lab.applied(GUARDED, "firewall", *argv)


def tables_of_others(node: Node) -> dict[str, str]:
    """The tables in the node's kernel but ours, as nft lists them without their counters."""
    names = node.run("nft", "list", "tables").stdout.splitlines()
    return {
        name: node.run("nft", "--stateless", "list", *name.split()).stdout
        for name in names
        if name != TABLE
    }


def from_pod(node: Node, address: str, url: str) -> str:
    """What a URL answers to the pod with this address: curl of the node in the pod's network."""
    script = (
        'for space in /run/netns/*; do nsenter --net="$space" ip -4 address | grep -q " $1/" ||'
        ' continue; nsenter --net="$space" curl -s -m 5 "$2"; done'
    )
    return node.run("sh", "-c", script, "sh", address, url, check=False).stdout.strip()


@pytest.fixture(scope="module")
def pods(lab: Lab) -> Iterator[dict[str, str]]:
    """A pod on each Kubernetes node that answers on 8080, the worker's also by NodePort; their addresses."""
    items: list[dict[str, Any]] = [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "doors"},
            "spec": {
                "type": "NodePort",
                "selector": {"at": "pi-01"},
                "ports": [{"port": 8080, "nodePort": NODE_PORT}],
            },
        }
    ]
    names = {"cp1": "doors-cp1", "pi-01": "doors-pi-01"}
    for node, pod in names.items():
        container = {
            "name": "web",
            "image": f"{lab.rack.master_ip}:5000/busybox:lab",
            "command": ["busybox", "sh", "-c", "hostname >/index.html; exec httpd -f -p 8080 -h /"],
        }
        items.append(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": pod, "labels": {"at": node}},
                "spec": {
                    "nodeName": node,
                    "tolerations": [{"operator": "Exists"}],
                    "terminationGracePeriodSeconds": 0,
                    "containers": [container],
                },
            }
        )
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    lab.control_plane.run(*lifecycle.KUBECTL, "apply", "-f", "-", stdin=text.encode())

    def addresses() -> dict[str, str]:
        told = json.loads(lab.kubectl("get", "pods", "-o", "json"))["items"]
        found = {item["metadata"]["name"]: item["status"].get("podIP") for item in told}
        return {node: found[pod] for node, pod in names.items() if found.get(pod)}

    try:
        lab.wait("addresses of both pods", lambda: len(addresses()) == 2, 120)
        yield addresses()
    finally:
        lab.kubectl("delete", "service/doors", *(f"pod/{pod}" for pod in names.values()))


@pytest.fixture(scope="module")
def rack_sls(lab: Lab) -> Iterator[dict[str, Any]]:
    """The rack's own pillar, which is there again afterwards."""
    before = lab.master.run("cat", PILLAR).stdout
    try:
        yield yaml.safe_load(before)
    finally:
        lab.master.write(PILLAR, before)
        with contextlib.suppress(AssertionError):
            apply(lab)


@pytest.fixture(scope="module")
def site(lab: Lab, rack_sls: dict[str, Any], pods: dict[str, str]) -> Iterator[Site]:
    """The firewall is on; before it was, the stranger found everything open."""
    name = f"{lab.rack.network}-stranger"
    upper = list(IPv4Network(lab.rack.subnet).subnets())[1]
    podman.podman(
        "run", "--detach", "--replace", "--name", name, "--label", f"{podman.LABEL}={lab.rack.name}",
        *host.ulimit_flags(), "--network", lab.rack.network, "--ip", str(upper[72]),
        lab.rack.image, "sleep", "infinity",
    )  # fmt: skip
    made = Site(lab, name)
    try:
        for guarded in GUARDED:
            lab.node(guarded).run("systemctl", "start", "ssh")
        doors = {(node, port) for node, ports in DOORS.items() for port in ports}
        doors.add(("pi-01", NODE_PORT))
        lab.wait("the way for strangers in", lambda: made.open_to_stranger() == doors, 60)
        configure(lab, rack_sls, enabled=True)
        told = apply(lab, "test=True")
        for guarded in GUARDED:
            assert {each["result"] for each in told[guarded].values()} == {None}, told
            assert "firewall-rules" in told[guarded]
        for changed in apply(lab).values():
            assert {each["result"] for each in changed.values()} == {True}, changed
        yield made
    finally:
        podman.podman("rm", "--force", "--time", "0", name, check=False)


def test_a_stranger_gets_nothing_and_a_node_of_the_rack_everything(site: Site) -> None:
    assert site.open_to_stranger() == set()
    for name, ports in DOORS.items():
        for port in ports:
            assert site.reaches("cp1", site.lab.node(name).ip, port), (name, port)
    assert site.reaches("cp1", site.lab.node("pi-01").ip, NODE_PORT)
    assert site.stranger_reaches(site.lab.node("cp1").ip, 6443), "it has no firewall"
    listed = site.lab.node("pi-01").run("nft", "list", *TABLE.split()).stdout
    assert "counter packets 0 " not in listed, "what is dropped is counted"


def test_pods_reach_each_other_and_the_master_its_minions(site: Site, pods: dict[str, str]) -> None:
    lab = site.lab
    for here, there in (("cp1", "pi-01"), ("pi-01", "cp1")):
        said = from_pod(lab.node(here), pods[here], f"http://{pods[there]}:8080/")
        assert said == f"doors-{there}"
    node_port = f"http://{lab.node('pi-01').ip}:{NODE_PORT}/"
    assert from_pod(lab.node("cp1"), pods["cp1"], node_port) == "doors-pi-01"
    for name in ("nfs1", "cp1", "pi-01"):
        assert lab.answers(name)
    assert lab.is_ready("pi-01")


def test_a_second_apply_changes_nothing(site: Site) -> None:
    assert apply(site.lab) == {name: {} for name in GUARDED}
    assert apply(site.lab, "test=True") == {name: {} for name in GUARDED}


@pytest.mark.parametrize(
    "by_hand",
    [
        "nft delete table inet saltberry",
        "nft flush table inet saltberry",
        "nft insert rule inet saltberry to_this_node tcp dport 22 accept",
    ],
)
def test_what_is_done_to_the_table_by_hand_is_named_and_mended(site: Site, by_hand: str) -> None:
    pi = site.lab.node("pi-01")
    pi.run(*by_hand.split())
    assert site.stranger_reaches(pi.ip, 22)
    told = apply(site.lab, "test=True")
    assert {name: set(found) for name, found in told.items()} == {
        "pi-01": {"firewall-rules"},
        "nfs1": set(),
    }
    assert set(told["pi-01"]["firewall-rules"]["changes"]) == {"table"}
    assert site.stranger_reaches(pi.ip, 22), "test mode changed something"
    assert apply(site.lab)["pi-01"]["firewall-rules"]["result"] is True
    assert not site.stranger_reaches(pi.ip, 22)
    assert apply(site.lab) == {name: {} for name in GUARDED}


def test_what_the_pillar_lets_in_comes_in_and_nothing_else(
    site: Site, rack_sls: dict[str, Any]
) -> None:
    switch = site.lab.rack.subnet
    try:
        configure(
            site.lab,
            rack_sls,
            enabled=True,
            allow=[switch],
            ports=[{"port": 80, "from": [switch]}],
            node_ports=[switch],
        )
        apply(site.lab)
        open_ = site.open_to_stranger()
        assert open_ == {("pi-01", 22), ("nfs1", 22), ("nfs1", 80), ("pi-01", NODE_PORT)}
    finally:
        configure(site.lab, rack_sls, enabled=True)
        apply(site.lab)
    assert site.open_to_stranger() == set()


def test_after_a_power_cut_it_is_there_again_before_anybody_applies(site: Site) -> None:
    pi = site.lab.node("pi-01")
    pi.power_cut()
    pi.power_on()
    assert pi.run("systemctl", "is-active", UNIT).stdout.strip() == "active"
    pi.run("systemctl", "start", "ssh")
    assert site.reaches("cp1", pi.ip, 22)
    assert not site.stranger_reaches(pi.ip, 22)
    site.lab.wait_ready("pi-01")
    site.lab.wait("pi-01's minion", lambda: site.lab.answers("pi-01"), 120)


def test_absent_takes_our_table_away_and_leaves_those_of_others_byte_for_byte(
    site: Site, rack_sls: dict[str, Any]
) -> None:
    pi = site.lab.node("pi-01")
    site.lab.wait("kube-proxy's rules", lambda: site.reaches("cp1", pi.ip, NODE_PORT), 120, every=1)
    configure(site.lab, rack_sls, enabled=False)
    before = tables_of_others(pi)
    assert before
    told = apply(site.lab, "test=True")
    assert {name: set(found) for name, found in told.items()} == {
        name: {"firewall-absent"} for name in GUARDED
    }
    assert apply(site.lab)["pi-01"]["firewall-absent"]["result"] is True
    assert tables_of_others(pi) == before
    for name in GUARDED:
        node = site.lab.node(name)
        assert TABLE not in node.run("nft", "list", "tables").stdout
        # /etc/saltberry itself is also where the routes of the pod network are.
        ours = f"/etc/saltberry/firewall* /etc/systemd/system/{UNIT}"
        left = node.run("sh", "-c", f"ls -d {ours}", check=False)
        assert left.stdout == ""
        assert node.run("systemctl", "is-enabled", UNIT, check=False).returncode != 0
    assert ("pi-01", 22) in site.open_to_stranger()
    assert apply(site.lab) == {name: {} for name in GUARDED}
