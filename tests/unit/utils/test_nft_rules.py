"""The firewall's rules: who comes in and who does not, as text and as nft itself understands it."""

from __future__ import annotations

import os
import subprocess

import pytest
from saltberry_ext.utils import nft_rules

from lab import doctor

RACK = ["192.168.1.0/24", "10.244.0.0/16", "10.96.0.0/12"]
PORTS = [{"port": 6443, "from": ["192.168.7.0/24"]}, {"port": 53, "proto": "udp"}]
EVERYTHING = nft_rules.rules(
    RACK, ["192.168.0.0/16", "10.1.2.3"], PORTS, ["0.0.0.0/0"], interfaces=["docker0"]
)


def chain(text: str) -> list[str]:
    """The rules in their order."""
    return [line.strip() for line in text.splitlines() if line.startswith("\t\t")][1:]


def test_the_rack_comes_in_and_the_rest_is_dropped_and_counted() -> None:
    rules = chain(nft_rules.rules(RACK))
    assert (
        'ip saddr { 10.96.0.0/12, 10.244.0.0/16, 192.168.1.0/24 } accept comment "the rack"'
        in rules
    )
    assert rules[-1] == 'counter drop comment "the rest"'
    assert [rule for rule in rules if "dport" in rule and "DHCP" not in rule] == []


def test_only_our_table_is_touched() -> None:
    commands = [line for line in EVERYTHING.splitlines() if line[:1] not in ("", "#", "\t", "}")]
    assert commands == [
        "table inet saltberry",
        "delete table inet saltberry",
        "table inet saltberry {",
    ]
    assert "flush" not in EVERYTHING
    assert "hook forward" not in EVERYTHING


def test_what_is_asked_for_comes_in() -> None:
    rules = chain(EVERYTHING)
    assert 'ip saddr { 10.1.2.3/32, 192.168.0.0/16 } tcp dport 22 accept comment "ssh"' in rules
    assert "ip saddr { 192.168.7.0/24 } tcp dport 6443 accept" in rules
    assert "udp dport 53 accept" in rules
    assert any("meta nfproto ipv4" in rule and "dport 30000-32767" in rule for rule in rules)
    assert any(rule.startswith('iifname "docker0"') for rule in rules)


def test_networks_in_each_other_are_one() -> None:
    rules = nft_rules.rules(RACK, ["10.0.0.5", "10.0.0.0/24", "10.0.1.0/24"])
    (ssh,) = [rule for rule in chain(rules) if "dport 22" in rule]
    assert "{ 10.0.0.0/23 }" in ssh


@pytest.mark.parametrize("wrong", ["fe80::/64", "} accept; drop {", ""])
def test_what_is_no_network_makes_no_rules(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"not permitted|Expected 4|cannot be empty|Only"):
        nft_rules.rules([wrong])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may load rules, and install nft")
@pytest.mark.parametrize("text", [nft_rules.rules(RACK), EVERYTHING], ids=["least", "most"])
def test_nft_takes_them_twice_and_leaves_the_tables_of_others_byte_for_byte(text: str) -> None:
    script = """
        nft 'table ip other { chain c { type filter hook input priority 0; ip saddr 10.0.0.1 drop; }; }'
        before=$(nft list ruleset)
        nft -f /dev/stdin <<<"$1"
        nft -f /dev/stdin <<<"$1"
        nft list tables
        nft delete table inet saltberry
        [ "$before" = "$(nft list ruleset)" ]
    """
    doctor.install_packages({"nftables": "nft"})
    command = ["unshare", "--net", "bash", "-ec", script, "bash", text]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.splitlines() == ["table ip other", "table inet saltberry"]
