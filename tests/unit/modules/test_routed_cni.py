"""The routed pod network, laid in a network namespace of its own with the real tools."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError
from saltberry_ext.modules import routed_cni
from saltberry_ext.states import routed_cni as state
from saltberry_ext.utils import conffiles, routes

NETWORK = "10.244.0.0/16"
NODES = {
    "cp1": {"ip": "192.168.1.11", "pod_cidr": "10.244.0.0/24"},
    "pi-01": {"ip": "192.168.1.21", "pod_cidr": "10.244.1.0/24"},
    "pi-02": {"ip": "192.168.1.22", "pod_cidr": "10.244.2.0/24"},
}
# Programs that act on the network; all others run beside it.
NETWORKING = ("ip", "iptables", "iptables-restore")


@pytest.fixture
def namespace() -> Iterator[str]:
    """A network namespace whose only link is ``rack`` with 192.168.1.21."""
    if os.geteuid() or not all(map(shutil.which, NETWORKING)):
        pytest.skip("needs root, iproute2 and iptables")
    name = f"sb-{uuid.uuid4().hex[:8]}"
    if subprocess.run(["ip", "netns", "add", name], check=False).returncode:
        pytest.skip("this container may not make network namespaces")
    try:
        for command in (
            "link add rack type bridge",
            "address add 192.168.1.21/24 dev rack",
            "link set rack up",
        ):
            subprocess.run(["ip", "-n", name, *command.split()], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


class Node:
    """A node's folders, network namespace and API server, and the dunders that lead there."""

    def __init__(self, root: Path, name: str | None = None) -> None:
        self.root, self.namespace = root, name
        self.commands: list[list[str]] = []
        self.enabled = False
        # what the API server answers when it is asked: the pod network, or an error
        self.answers: list[tuple[int, str]] = []

    def run_all(self, argv: list[str], stdin: str | None = None, **_: Any) -> dict[str, Any]:
        self.commands.append(argv)
        if argv[0] == "systemctl":
            return {"retcode": 0, "stdout": "", "stderr": ""}
        if argv[0] == "kubectl":
            code, said = self.answers.pop(0)
            return {"retcode": code, "stdout": "" if code else said, "stderr": said if code else ""}
        if not self.namespace:
            # a node with an empty network; the machine's own is not ours to touch
            return {"retcode": 0, "stdout": "[]", "stderr": ""}
        inside = ["ip", "netns", "exec", self.namespace, *argv]
        done = subprocess.run(inside, input=stdin, capture_output=True, text=True, check=False)
        return {"retcode": done.returncode, "stdout": done.stdout, "stderr": done.stderr}

    def enable(self, _: str) -> None:
        self.enabled = True

    def join(self) -> None:
        file = self.root / "etc/kubernetes/kubelet.conf"
        file.parent.mkdir(parents=True)
        file.write_text("")

    def ip(self, *argv: str) -> str:
        ret = self.run_all(["ip", *argv])
        assert ret["retcode"] == 0, ret
        return ret["stdout"]

    def rules(self, table: str) -> list[str]:
        return self.run_all(["iptables", "-w", "-t", table, "-S"])["stdout"].splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.fixture
def opts() -> dict[str, Any]:
    return {"id": "pi-01", "test": False}


@pytest.fixture
def configure_loader_modules(machine: Node, opts: dict[str, Any]) -> dict[Any, dict[str, Any]]:
    functions: dict[str, Callable[..., Any]] = {
        "cmd.run_all": machine.run_all,
        "node.unit_enabled": lambda name: machine.enabled,
        "node.enable_unit": machine.enable,
    }
    for name in dir(routed_cni):
        if name[0] != "_" and callable(getattr(routed_cni, name)):
            functions[f"routed_cni.{name}"] = getattr(routed_cni, name)
    utils = {f"conffiles.{name}": getattr(conffiles, name) for name in ("read", "write")}
    utils |= {f"routes.{name}": getattr(routes, name) for name in ("table", "fingerprint")}
    dunders = {"__salt__": functions, "__utils__": utils, "__opts__": opts}
    return {routed_cni: dunders, state: dunders}


@pytest.fixture(autouse=True)
def root(machine: Node, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(routed_cni, "_ROOT", machine.root)
    monkeypatch.setattr(routed_cni, "_POLL_SECONDS", 0.01)
    return machine.root


# --- texts ---


def test_the_conflist_names_the_nodes_own_network(root: Path) -> None:
    assert routed_cni.pod_cidr() is None
    conffiles.write(root / routed_cni.CONFLIST.lstrip("/"), routed_cni.conflist("10.244.1.0/24"))
    assert routed_cni.pod_cidr() == "10.244.1.0/24"
    plugins = json.loads(routed_cni.conflist("10.244.1.0/24"))["plugins"]
    assert [plugin["type"] for plugin in plugins] == ["bridge", "portmap"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"plugins": []}', '{"plugins": [{"ipam": {}}]}'])
def test_a_broken_conflist_is_none(root: Path, text: str) -> None:
    conffiles.write(root / routed_cni.CONFLIST.lstrip("/"), text)
    assert routed_cni.pod_cidr() is None


def test_the_unit_lays_what_the_module_lays() -> None:
    text = routed_cni.unit(NETWORK)
    assert f"ExecStart=ip -force -batch {routed_cni.BATCH}\n" in text
    assert f"iptables-restore --wait --noflush {routed_cni.RULES}\n" in text
    assert f"-A POSTROUTING -s {NETWORK} -j SALTBERRY-NAT'" in text
    assert "Restart=on-failure" in text
    # the unit is there before the first other node: a batch file without a route must be read too
    assert routed_cni.batch({})


# --- which pod network ---


def test_no_member_has_nothing_to_do(machine: Node) -> None:
    ret = state.configured("cni", NETWORK, NODES)
    assert (ret["result"], ret["changes"]) == (True, {})
    assert "no cluster yet" in ret["comment"]


def test_what_an_earlier_life_left_goes(machine: Node, opts: dict[str, Any]) -> None:
    file = machine.root / routed_cni.CONFLIST.lstrip("/")
    conffiles.write(file, routed_cni.conflist("10.244.9.0/24"))
    opts["test"] = True
    assert state.configured("cni", NETWORK, NODES)["result"] is None
    assert file.exists()


def test_what_an_earlier_life_left_goes_for_real(member: Node) -> None:
    member.answers = [(0, "10.244.1.0/24")]
    state.configured("cni", NETWORK, NODES)
    (member.root / "etc/kubernetes/kubelet.conf").unlink()
    assert state.configured("cni", NETWORK, NODES)["changes"]["removed"]
    assert routed_cni.present() == []
    assert state.configured("cni", NETWORK, NODES)["changes"] == {}


def test_the_api_is_asked_until_a_network_is_assigned(machine: Node) -> None:
    machine.answers = [(1, "connection refused"), (0, ""), (0, "10.244.1.0/24")]
    assert routed_cni.assigned_pod_cidr(wait=5) == "10.244.1.0/24"
    assert machine.commands[0][-2] == "pi-01"
    machine.answers = [(0, "")]
    assert routed_cni.assigned_pod_cidr() is None
    machine.answers = [(1, "connection refused")]
    with pytest.raises(CommandExecutionError, match="connection refused"):
        routed_cni.assigned_pod_cidr()


def test_the_pillars_word_counts_when_the_api_is_silent(
    machine: Node, opts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "_ASSIGN_SECONDS", 0)
    machine.join()
    machine.answers = [(1, "refused")]
    assert state._own_cidr(NODES) == "10.244.1.0/24"
    machine.answers = [(1, "refused")]
    assert state.configured("cni", NETWORK)["result"] is False
    machine.answers = [(0, "")]
    ret = state.configured("cni", NETWORK)
    assert ret["result"] is False
    assert "controller manager" in ret["comment"]
    opts["test"] = True
    machine.answers = [(0, "")]
    assert state.configured("cni", NETWORK)["result"] is None


# --- the real thing ---


@pytest.fixture
def member(machine: Node, namespace: str) -> Node:
    machine.namespace = namespace
    machine.join()
    return machine


def test_a_nodes_life(member: Node, opts: dict[str, Any]) -> None:
    # a foreign route and rule, to be left alone
    member.ip("route", "add", "10.99.0.0/16", "via", "192.168.1.1")
    member.run_all(["iptables", "-w", "-t", "nat", "-A", "POSTROUTING", "-j", "ACCEPT"])

    # just joined: the pillar does not know it yet, the API server does
    member.answers = [(0, "10.244.1.0/24")]
    opts["test"] = True
    ret = state.configured("cni", NETWORK)
    assert ret["result"] is None
    assert not (member.root / "etc/cni").exists()
    assert not any("SALTBERRY" in rule for rule in member.rules("nat"))

    opts["test"] = False
    member.answers = [(0, "10.244.1.0/24")]
    ret = state.configured("cni", NETWORK)
    assert ret["result"] is True, ret
    assert member.enabled
    assert routed_cni.digest() == routes.digest({"pi-01": NODES["pi-01"]}, "pi-01")

    # the others: nobody is asked any more
    ret = state.configured("cni", NETWORK, NODES)
    assert ret["changes"]["routes"] == routes.table(NODES, "pi-01")
    assert routed_cni.routes() == routes.table(NODES, "pi-01")
    assert routed_cni.digest() == routes.digest(NODES, "pi-01")
    assert f"-A POSTROUTING -s {NETWORK} -j SALTBERRY-NAT" in member.rules("nat")
    assert "-A FORWARD -j SALTBERRY-FORWARD" in member.rules("filter")
    assert state.configured("cni", NETWORK, NODES)["changes"] == {}

    # one has gone, one has moved
    fewer = {**NODES, "pi-02": {"ip": "192.168.1.99", "pod_cidr": "10.244.2.0/24"}}
    del fewer["cp1"]
    ret = state.configured("cni", NETWORK, fewer)
    assert ret["changes"]["stale"] == ["10.244.0.0/24"]
    assert routed_cni.routes() == {"10.244.2.0/24": "192.168.1.99"}
    assert "10.99.0.0/16" in member.ip("route")

    # somebody emptied our chain
    member.run_all(["iptables", "-w", "-t", "nat", "-F", "SALTBERRY-NAT"])
    assert state.configured("cni", NETWORK, fewer)["changes"] == {"rules": ["nat"]}
    assert member.rules("nat").count(f"-A POSTROUTING -s {NETWORK} -j SALTBERRY-NAT") == 1

    # out of the cluster
    opts["test"] = True
    assert state.absent("cni")["result"] is None
    opts["test"] = False
    assert state.absent("cni")["result"] is True
    assert routed_cni.present() == []
    assert state.absent("cni")["changes"] == {}
    assert "10.99.0.0/16" in member.ip("route")
    assert not any("SALTBERRY" in rule for rule in member.rules("nat") + member.rules("filter"))
    assert "-A POSTROUTING -j ACCEPT" in member.rules("nat")


def test_a_node_that_joins_again_gets_its_new_network(member: Node) -> None:
    member.answers = [(0, "10.244.1.0/24")]
    state.configured("cni", NETWORK, NODES)
    member.ip("link", "add", "cni0", "type", "bridge")
    member.ip("address", "add", "10.244.1.1/24", "dev", "cni0")
    assert state.configured("cni", NETWORK, NODES)["changes"] == {}

    again = {**NODES, "pi-01": {"ip": "192.168.1.21", "pod_cidr": "10.244.7.0/24"}}
    member.answers = [(0, "10.244.7.0/24")]
    ret = state.configured("cni", NETWORK, again)
    assert ret["changes"]["bridge"] == "10.244.1.1"
    assert routed_cni.pod_cidr() == "10.244.7.0/24"
    assert "cni0" not in member.ip("link")


def test_a_node_on_another_network_is_a_plain_error(member: Node) -> None:
    member.answers = [(0, "10.244.1.0/24")]
    far = {**NODES, "pi-09": {"ip": "172.16.0.9", "pod_cidr": "10.244.9.0/24"}}
    ret = state.configured("cni", NETWORK, far)
    assert ret["result"] is False
    assert "rack.network" in ret["comment"]
    # the others are reachable all the same
    assert routed_cni.routes() == routes.table(NODES, "pi-01")
