"""People, ssh, journal and their drift on a node of a real rack."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from lab.podman import Node
from lab.rack import PILLAR
from tests.lab.conftest import Lab

NODE = "pi-01"
SLS = "system"
SSHD = "/etc/ssh/sshd_config.d/10-saltberry.conf"
AS_ANNA = "ssh -n -o StrictHostKeyChecking=no -o BatchMode=yes -i /root/anna anna@127.0.0.1"


@pytest.fixture
def node(lab: Lab) -> Iterator[Node]:
    """pi-01, with a rack.sls that names people; afterwards the pillar and the node are as before."""
    pi = lab.node(NODE)
    pi.run("sh", "-c", "test -e /root/anna || ssh-keygen -q -t ed25519 -N '' -f /root/anna")
    key = pi.run("cat", "/root/anna.pub").stdout.strip()
    before = lab.master.run("cat", PILLAR).stdout
    rack = yaml.safe_load(before)
    rack["users"] = {"anna": {"ssh_keys": [key], "sudo": True}, "ben": None}
    rack["system"] = {**(rack.get("system") or {}), "journal": "memory"}
    lab.master.write(PILLAR, yaml.safe_dump(rack))
    try:
        yield pi
    finally:
        rack["users"] = {"anna": {"absent": True}, "ben": {"absent": True}}
        rack["system"]["journal"] = "as-is"
        lab.master.write(PILLAR, yaml.safe_dump(rack))
        applied(lab)
        lab.master.write(PILLAR, before)


def applied(lab: Lab, *argv: str) -> dict[str, Any]:
    """`salt pi-01 state.apply system`: what each state that is not content said, by id."""
    done = lab.salt(NODE, "state.apply", SLS, "queue=True", *argv)[NODE]
    assert isinstance(done, dict), done
    return {
        found["__id__"]: found
        for found in done.values()
        if found["changes"] or found["result"] is not True
    }


def test_people_of_the_pillar_come_in_with_keys_and_nobody_with_a_password(
    lab: Lab, node: Node
) -> None:
    told = applied(lab, "test=True")
    assert {"users-anna", "users-anna-keys", "users-sudo", "users-ben"} <= set(told), told
    assert {found["result"] for found in told.values()} == {None}
    assert "anna" not in node.run("getent", "passwd").stdout
    done = applied(lab)
    assert {found["result"] for found in done.values()} == {True}, done
    assert applied(lab) == {}
    node.run("systemctl", "start", "ssh")
    said = node.run("sh", "-c", f"{AS_ANNA} 'id -un; sudo -n id -un'").stdout.split()
    assert said == ["anna", "root"]
    effective = node.run("sshd", "-T").stdout
    assert "passwordauthentication no" in effective
    assert "usedns no" in effective
    assert "volatile" in node.run("sh", "-c", "cat /etc/systemd/journald.conf.d/*.conf").stdout

    # What is changed by hand is named, each by its state, and mended.
    node.run("sh", "-c", f"echo 'PasswordAuthentication yes' >{SSHD};"
             "echo 'ben ALL=(ALL) NOPASSWD: ALL' >>/etc/sudoers.d/saltberry;"
             "echo 'ssh-ed25519 AAAA evil' >>/home/anna/.ssh/authorized_keys;"
             "sed -i s/volatile/persistent/ /etc/systemd/journald.conf.d/*.conf")  # fmt: skip
    drifted = applied(lab, "test=True")
    # the journal's file, and the restart that follows it
    journal = {name for name in drifted if name.startswith("journal")}
    assert "journal-config" in journal
    assert set(drifted) - journal == {"sshd-hardened", "users-sudo", "users-anna-keys"}
    assert {found["result"] for found in applied(lab).values()} == {True}
    assert applied(lab) == {}


def test_a_fault_in_the_ssh_server_s_settings_is_named_and_nothing_is_made_worse(
    lab: Lab, node: Node
) -> None:
    applied(lab)
    good = node.run("cat", SSHD).stdout
    node.run("sh", "-c", f"echo 'UsePAMM yes' >>/etc/ssh/sshd_config; rm {SSHD}")
    try:
        failed = applied(lab)["sshd-hardened"]
        assert failed["result"] is False
        assert "UsePAMM" in failed["comment"]
        assert node.run("test", "-e", SSHD, check=False).returncode == 1
    finally:
        node.run("sed", "-i", "/UsePAMM/d", "/etc/ssh/sshd_config")
    assert applied(lab)["sshd-hardened"]["result"] is True
    assert node.run("cat", SSHD).stdout == good


def test_docker_goes_on_request_and_what_is_on_the_disk_stays(lab: Lab) -> None:
    node, before = lab.node(NODE), lab.master.run("cat", PILLAR).stdout

    def apply(sls: str, *argv: str) -> dict[str, Any]:
        done = lab.salt(NODE, "state.apply", sls, "queue=True", *argv)[NODE]
        assert isinstance(done, dict), done
        return {
            found["__id__"]: found["result"]
            for found in done.values()
            # what failhard left out has no id
            if "__id__" in found and (found["changes"] or found["result"] is not True)
        }

    rack = yaml.safe_load(before)
    try:
        lab.master.write(PILLAR, yaml.safe_dump({**rack, "docker": {"enabled": True}}))
        assert set(apply("docker").values()) <= {True}
        node.run("docker", "volume", "create", "kept")
        assert apply("docker.absent") == {"docker-wanted": False}, "the pillar wants it"
        node.run("docker", "info")
        lab.master.write(PILLAR, before)
        told = apply("docker.absent", "test=True")
        assert told["docker-packages-removed"] is None
        node.run("docker", "info")
        done = apply("docker.absent")
        assert set(done) == set(told) and set(done.values()) == {True}
        assert apply("docker.absent") == {}
    finally:
        lab.master.write(PILLAR, before)
    assert node.run("sh", "-c", "command -v dockerd", check=False).returncode != 0
    node.run("test", "-d", "/var/lib/docker/volumes/kept")
    node.run("systemctl", "is-active", "containerd")
    lab.wait_ready(NODE)


def test_kubernetes_is_not_removed_from_a_member(lab: Lab) -> None:
    done = lab.salt(NODE, "state.apply", "kubernetes.absent", "queue=True")[NODE]
    assert [found["__id__"] for found in done.values() if "__id__" in found] == [
        "kubernetes-in-use"
    ]
    lab.node(NODE).run("kubelet", "--version")
