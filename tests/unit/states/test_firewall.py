"""The firewall compares itself with what the kernel has: state over module, with a recorded nft."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError
from saltberry_ext.modules import firewall
from saltberry_ext.states import firewall as state
from saltberry_ext.utils import conffiles, nft_rules, rackspec

RULES = "etc/saltberry/firewall.nft"
UNIT = "etc/systemd/system/saltberry-firewall.service"
TABLE = "table inet saltberry"


class Node:
    """A root folder, and a kernel that has at most our table and somebody's."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.table = ""
        self.refuses = ""
        self.broken = ""
        self.calls: list[str] = []
        self.put("usr/sbin/nft")

    def put(self, path: str, text: str = "") -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def text(self, path: str) -> str:
        return conffiles.read(self.root / path)

    def run_all(self, argv: list[str], stdin: str = "", **_: Any) -> dict[str, Any]:
        said = " ".join(argv)
        self.calls.append(said)
        code, out, err = 0, "", self.broken
        if self.broken:
            code = 1
        elif argv[0] == "unshare":
            code, out, err = (1, "", self.refuses) if self.refuses else (0, stdin, "")
        elif said.endswith("list tables"):
            out = f"table ip nat\n{TABLE if self.table else ''}"
        elif "list table " in said:
            code, out = int(not self.table), self.table
            err = "" if self.table else "Error: No such file or directory"
        elif "nft -f" in said:
            self.table = self.text(RULES)
        elif "delete table" in said or "--now" in argv:
            self.table = ""
        return {"retcode": code, "stdout": out, "stderr": err}

    @property
    def changes(self) -> list[str]:
        """What was called and does something."""
        return [call for call in self.calls if "list" not in call]


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setattr(firewall, "_ROOT", tmp_path)
    return Node(tmp_path)


@pytest.fixture
def pillar() -> dict[str, Any]:
    return {
        "rack": {"network": "192.168.1.0/24"},
        "kubernetes": {"pod_network": "10.244.0.0/16", "service_network": "10.96.0.0/12"},
        "docker": {"enabled": False},
        "page": {"enabled": True, "port": 8080, "allow": ["10.9.0.0/16"]},
        "firewall": {"enabled": True, "allow": [], "ports": [], "node_ports": []},
        "nodes": {"pi-01": {"firewall": {"allow": ["192.168.0.0/16"]}}},
        "node": {"roles": ["worker"]},
    }


@pytest.fixture
def opts() -> dict[str, Any]:
    return {"id": "pi-01", "test": False}


@pytest.fixture
def configure_loader_modules(
    node: Node, pillar: dict[str, Any], opts: dict[str, Any]
) -> dict[Any, Any]:
    utils = {
        **{f"conffiles.{name}": getattr(conffiles, name) for name in ("read", "write", "diff")},
        "rackspec.firewall": rackspec.firewall,
        "nft_rules.rules": nft_rules.rules,
    }
    own = [name for name in dir(firewall) if name[0] != "_"]
    functions = {f"firewall.{name}": getattr(firewall, name) for name in own}
    return {
        firewall: {
            "__salt__": {"cmd.run_all": node.run_all},
            "__utils__": utils,
            "__pillar__": pillar,
            "__opts__": opts,
        },
        state: {"__salt__": functions, "__opts__": opts},
    }


def test_the_first_apply_loads_it_and_the_second_does_nothing(node: Node) -> None:
    first = state.loaded("firewall")
    assert (first["result"], set(first["changes"])) == (True, {"file", "table"})
    assert node.table == node.text(RULES) == firewall.wanted()
    del node.calls[:]
    assert state.loaded("firewall")["changes"] == {}
    assert node.changes == []


def test_a_table_flushed_by_hand_is_named_and_mended(node: Node, opts: dict[str, Any]) -> None:
    state.loaded("firewall")
    node.table = ""
    opts["test"] = True
    told = state.loaded("firewall")
    assert (told["result"], set(told["changes"])) == (None, {"table"})
    assert "+table inet saltberry {" in told["changes"]["table"]
    assert node.table == ""
    opts["test"] = False
    assert state.loaded("firewall")["result"] is True
    assert node.table == firewall.wanted()


def test_a_rule_added_by_hand_is_shown_with_its_line(node: Node) -> None:
    state.loaded("firewall")
    node.table = node.table.replace("\t\tcounter drop", "\t\ttcp dport 23 accept\n\t\tcounter drop")
    assert "-\t\ttcp dport 23 accept" in state.loaded("firewall")["changes"]["table"]


def test_on_a_blank_node_test_mode_says_that_nft_will_come(
    node: Node, opts: dict[str, Any]
) -> None:
    (node.root / "usr/sbin/nft").unlink()
    opts["test"] = True
    told = state.loaded("firewall")
    assert told["result"] is None
    assert "not installed" in told["changes"]["table"]
    assert node.calls == []


def test_rules_that_nft_refuses_replace_nothing(node: Node) -> None:
    state.loaded("firewall")
    before = node.text(RULES)
    node.table, node.refuses = "old", "Error: syntax error"
    ret = state.loaded("firewall")
    assert (ret["result"], ret["changes"]) == (False, {})
    assert "syntax error" in ret["comment"]
    assert (node.text(RULES), node.table) == (before, "old")


def test_a_kernel_without_nftables_is_a_failure_and_not_an_empty_table(node: Node) -> None:
    node.broken = "netlink: Error: cache initialization failed: Operation not supported"
    ret = state.loaded("firewall")
    assert ret["result"] is False
    assert "not supported" in ret["comment"]
    with pytest.raises(CommandExecutionError):
        firewall.live()


def test_what_one_node_has_of_its_own_counts_there() -> None:
    assert "ip saddr { 192.168.0.0/16 } tcp dport 22" in firewall.wanted()


def test_the_page_is_open_where_it_is_served_to_whom_it_is_for(pillar: dict[str, Any]) -> None:
    assert "8080" not in firewall.wanted()
    pillar["node"]["roles"] = ["storage", "master"]
    assert "ip saddr { 10.9.0.0/16 } tcp dport 8080 accept" in firewall.wanted()
    pillar["page"]["enabled"] = False
    assert "8080" not in firewall.wanted()


def test_absent_takes_table_file_and_unit_and_nothing_else(
    node: Node, opts: dict[str, Any]
) -> None:
    state.loaded("firewall")
    node.put(UNIT)
    node.put("etc/saltberry/mine")
    opts["test"] = True
    told = state.absent("firewall")
    assert told["result"] is None
    assert told["changes"]["removed"] == [TABLE, f"/{RULES}", f"/{UNIT}"]
    assert node.table
    opts["test"] = False
    assert state.absent("firewall")["result"] is True
    assert (node.table, node.text(RULES)) == ("", "")
    assert not (node.root / UNIT).exists()
    assert (node.root / "etc/saltberry/mine").exists()
    del node.calls[:]
    assert state.absent("firewall")["changes"] == {}
    assert node.changes == []


def test_absent_asks_nothing_of_a_node_that_never_had_nft(node: Node) -> None:
    (node.root / "usr/sbin/nft").unlink()
    assert state.absent("firewall")["comment"] == "there is none"
    assert node.calls == []
