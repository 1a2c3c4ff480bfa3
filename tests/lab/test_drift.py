"""Drift on a real rack: what is broken by hand is named, all of it and nothing else, and mended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import yaml

from lab.rack import PILLAR
from tests.lab.conftest import Lab

UNITS = "/etc/systemd/system"
SSHD = "/etc/ssh/sshd_config.d/10-saltberry.conf"
# What makes states of all kinds: people, docker, a journal that is not as the image has it
SETTINGS = {
    "docker": {"enabled": True},
    "users": {"anna": {"sudo": True, "ssh_keys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 anna@laptop"]}},
    "system": {"journal": "memory"},
}
# An older kubectl, by its number: no mirror has two versions, and states need one that works.
DOWNGRADE = (
    "mkdir -p /tmp/old/DEBIAN /tmp/old/usr/bin && cd /tmp && cp /usr/bin/kubectl old/usr/bin && printf "
    r"'Package: kubectl\nVersion: 1.19.0\nArchitecture: all\nMaintainer: eve\nDescription: old\n' "
    ">old/DEBIAN/control && dpkg-deb --build old old.deb && dpkg --install --force-all old.deb"
)


class Break(NamedTuple):
    """Something that a person might do to a node by hand."""

    node: str
    state: str
    """Id of the state that drift must name."""
    command: str
    """For the node's shell."""


# What a kernel of its own is needed for (modules, swap, NFS exports) is broken in tests/vm.
BREAKS = [
    # files
    Break("pi-01", "base-sysctl", "sed -i /ip_forward/d /etc/sysctl.d/99-saltberry.conf"),
    Break("pi-01", "base-hosts", "sed /cp1/d /etc/hosts >/tmp/h && cat /tmp/h >/etc/hosts"),
    Break("pi-01", "containerd-config", "sed -i /SystemdCgroup/d /etc/containerd/config.toml"),
    Break("pi-01", "containerd-registry-{mirror}:5000", "rm /etc/containerd/certs.d/{mirror}:5000/hosts.toml"),
    Break("pi-01", "kubernetes-crictl", "sed -i s/10/99/ /etc/crictl.yaml"),
    Break("pi-01", "kubernetes-source", "echo '# mine' >>/etc/apt/sources.list.d/saltberry-kubernetes.sources"),
    Break("pi-01", "salt-minion-config", "echo 'log_level: debug' >>/etc/salt/minion.d/saltberry.conf"),
    Break("pi-01", "docker-config", "echo '{}' >/etc/docker/daemon.json"),
    Break("cp1", "base-hosts", "echo '127.0.1.1 cp1' >>/etc/hosts"),
    Break("cp1", "kubernetes-source", "rm /etc/apt/sources.list.d/saltberry-kubernetes.sources"),
    Break("cp1", "kubernetes-key", "for f in /etc/apt/keyrings/saltberry-*; do : >$f; done"),
    Break("nfs1", "mirror-nginx-site", "sed -i 's/deny all/allow all/' /etc/nginx/conf.d/saltberry-mirror.conf"),
    Break("nfs1", "mirror-nginx-no-default-site", "touch /etc/nginx/sites-enabled/default"),
    Break("nfs1", "mirror-registry-config", "sed -i s/warn/info/ /etc/docker/registry/config.yml"),
    Break("nfs1", "reconcile-saltberry-reconcile.timer", f"echo '# mine' >>{UNITS}/saltberry-reconcile.timer"),
    Break("nfs1", "drift-saltberry-drift.service", f"rm {UNITS}/saltberry-drift.service"),
    Break("nfs1", "base-hosts", "sed '/BEGIN salt/,/END salt/d' /etc/hosts >/tmp/h; cat /tmp/h >/etc/hosts"),
    Break("pi-01", "users-sudo", "echo 'eve ALL=(ALL) NOPASSWD: ALL' >>/etc/sudoers.d/saltberry"),
    Break("pi-01", "sshd-hardened", f"echo 'PasswordAuthentication yes' >>{SSHD}"),
    Break("cp1", "users-anna-keys", "echo 'ssh-ed25519 AAAAeve eve' >>~anna/.ssh/authorized_keys"),
    Break("cp1", "journal-config", "rm /etc/systemd/journald.conf.d/90-saltberry.conf"),
    # what kubelet is told: kubeadm's flags, the admin's, its configuration
    Break("pi-01", "kubelet-settings", "sed -i 's/=\"/=\"--max-pods=5 /' /var/lib/kubelet/kubeadm-flags.env"
          " && sed -i 's/^rotateCertificates: true/rotateCertificates: false/' /var/lib/kubelet/config.yaml"),
    Break("cp1", "kubelet-settings", "echo KUBELET_EXTRA_ARGS=--read-only-port=10255 >/etc/default/kubelet"),
    # modes and owners
    Break("cp1", "kubernetes-crictl", "chmod 0666 /etc/crictl.yaml"),
    Break("nfs1", "nfs-folder-/srv/nfs/nodes/pi-01", "chmod 0777 /srv/nfs/nodes/pi-01"),
    Break("nfs1", "nfs-folder-/srv/nfs/nodes/cp1", "chown root:root /srv/nfs/nodes/cp1"),
    # packages
    Break("pi-01", "kubernetes-packages", "apt-mark unhold kubelet"),
    Break("pi-01", "kubernetes-tools", "dpkg --remove --force-depends socat"),
    Break("cp1", "kubernetes-tools", "dpkg --remove --force-depends ethtool"),
    Break("nfs1", "kubeconfig-kubectl", "apt-mark unhold kubectl"),
    # units
    Break("pi-01", "kubernetes-kubelet-enabled", "systemctl disable kubelet"),
    Break("cp1", "containerd-running", "systemctl disable containerd"),
    Break("nfs1", "reconcile-saltberry-reconcile.path-running", "systemctl stop saltberry-reconcile.path"),
    Break("nfs1", "drift-timer-running", "systemctl disable --now saltberry-drift.timer"),
    Break("nfs1", "salt-master-enabled", "systemctl disable salt-master"),
    # what the kernel has now
    Break("cp1", "base-sysctl", "sysctl -w net.ipv4.ip_forward=0"),
    Break("cp1", "base-hostname", "echo other >/etc/hostname"),
    Break("pi-01", "cni-routed", "ip route | grep 10.244 | grep via | head -1 | xargs ip route del"),
    Break("cp1", "cni-routed", "rm -f /etc/cni/net.d/*saltberry*"),
]  # fmt: skip


def test_there_are_enough_kinds_of_things_to_break() -> None:
    assert len(BREAKS) >= 25
    assert len({(made.node, made.state) for made in BREAKS}) == len(BREAKS)


@pytest.fixture(scope="module")
def mended(lab: Lab) -> Iterator[Lab]:
    """The rack with SETTINGS, as its states want it."""
    lab.wait(
        "the admin's kubeconfig, which the master brings when the cluster is there",
        lambda: lab.master.run("test", "-s", "/root/.kube/config", check=False).returncode == 0,
    )
    before = lab.master.run("cat", PILLAR).stdout
    rack = {**yaml.safe_load(before), **SETTINGS}
    lab.master.write(PILLAR, yaml.safe_dump(rack))
    try:
        for name in ("nfs1", "cp1", "pi-01"):
            assert_clean(name, fix(lab, name))
        yield lab
    finally:
        # Whoever is left out of the pillar is left alone: what SETTINGS brought goes by being told to.
        rack |= {"users": {"anna": {"absent": True}}, "system": {"journal": "as-is"}}
        lab.master.write(PILLAR, yaml.safe_dump(rack))
        for name in ("nfs1", "cp1", "pi-01"):
            fix(lab, name)
        lab.master.write(PILLAR, before)


def drift(lab: Lab, *words: str) -> dict[str, Any]:
    """`salt-run drift.…`; waits for the end of one that the timer has started."""

    def asked() -> dict[str, Any] | None:
        done = lab.master.run("salt-run", "--out=json", *words, check=False, timeout=900)
        said: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == said["retcode"]
        busy = any("another check or fix" in problem for problem in said.get("problems", ()))
        return None if busy else said

    found: dict[str, Any] = lab.wait("the end of another check", asked, 300, every=3)
    return found


def check(lab: Lab) -> dict[str, Any]:
    return drift(lab, "drift.check", "nfs1,cp1,pi-01")


def fix(lab: Lab, name: str) -> dict[str, Any]:
    return drift(lab, "drift.fix", name)


def assert_clean(name: str, done: dict[str, Any]) -> None:
    """Fail with what differs, and not with the first characters of everything."""
    entry = done["nodes"][name]
    left = [(state["id"], state["comment"], state["changes"]) for state in entry["drift"]]
    assert (entry["status"], left, entry["reason"], done["applied"]["problem"]) == (
        "clean",
        [],
        "",
        "",
    )


def causes(found: dict[str, Any]) -> dict[str, set[str]]:
    """The states that differ by themselves, by node."""
    return {
        name: {state["id"] for state in entry["drift"] if not state["follows"]}
        for name, entry in found["nodes"].items()
    }


def test_a_clean_rack_reports_nothing_ten_times_in_a_row(mended: Lab) -> None:
    for _ in range(10):
        found = check(mended)
        assert causes(found) == {"nfs1": set(), "cp1": set(), "pi-01": set()}
        assert (found["retcode"], found["problems"]) == (0, [])


def test_everything_broken_by_hand_is_named_exactly_and_mended(mended: Lab) -> None:
    lab = mended
    # The reconcile would mend some of it by itself, which is another test's business
    lab.master.run("systemctl", "stop", "saltberry-reconcile.timer")
    try:
        for made in BREAKS:
            command = made.command.replace("{mirror}", lab.rack.master_ip)
            lab.node(made.node).run("sh", "-c", command)
        found = check(lab)
        expected: dict[str, set[str]] = {"nfs1": set(), "cp1": set(), "pi-01": set()}
        for made in BREAKS:
            expected[made.node].add(made.state.replace("{mirror}", lab.rack.master_ip))
        expected["nfs1"].add("reconcile-saltberry-reconcile.timer-running")
        named = causes(found)
        for name, states in expected.items():
            assert (named[name] - states, states - named[name]) == (set(), set()), name
        assert found["retcode"] == 1
        for name, states in expected.items():
            done = fix(lab, name)
            assert_clean(name, done)
            shown = {state["id"] for state in done["applied"]["changed"]}
            assert states <= shown, "it does not show what it did"
        assert causes(check(lab)) == {"nfs1": set(), "cp1": set(), "pi-01": set()}
    finally:
        lab.master.run("systemctl", "start", "saltberry-reconcile.timer", check=False)
    lab.wait_ready("cp1")
    lab.wait_ready("pi-01")


def test_an_older_kubernetes_is_named_and_left_to_the_upgrade(mended: Lab) -> None:
    lab = mended
    lab.node("cp1").run("sh", "-c", DOWNGRADE)
    try:
        assert causes(check(lab))["cp1"] == {"kubernetes-packages"}
        done = fix(lab, "cp1")["nodes"]["cp1"]
        assert [state["id"] for state in done["drift"]] == ["kubernetes-packages"]
        assert "kubectl 1.19.0" in done["drift"][0]["comment"]
        assert "upgrade" in done["drift"][0]["comment"]
    finally:
        mend = (
            "apt-get install -y --allow-change-held-packages 'kubectl=1.20.2*' >&2"
            " && apt-mark hold kubectl"
        )
        lab.node("cp1").run("sh", "-c", mend)
    assert causes(check(lab))["cp1"] == set()


def test_a_change_by_hand_is_on_the_page_after_the_timers_next_run(mended: Lab) -> None:
    lab = mended
    before = lab.master.run("cat", PILLAR).stdout
    url = f"http://{lab.rack.master_ip}:8080/"
    curl = ("curl", "-s", "-m", "10", "-w", "\n%{http_code}", url)
    page = {"enabled": True, "allow": [f"{lab.node('cp1').ip}/32"]}
    lab.master.write(PILLAR, yaml.safe_dump({**yaml.safe_load(before), "page": page}))
    try:
        assert_clean("nfs1", fix(lab, "nfs1"))
        lab.node("pi-01").run("sh", "-c", "echo '# made by hand' >>/etc/crictl.yaml")
        lab.wait("no check going on", lambda: lab.master.run(
            "systemctl", "start", "saltberry-drift.service", check=False).returncode == 0, 300)  # fmt: skip

        def shown() -> str:
            text = lab.node("cp1").run(*curl, check=False).stdout
            return text if "made by hand" in text else ""

        text = lab.wait("the change on the page", shown, 120, every=2)
        assert text.endswith("200")
        assert "kubernetes-crictl" in text
        assert lab.node("pi-01").run(*curl, check=False).stdout.endswith("403")
        assert fix(lab, "pi-01")["retcode"] == 0
        lab.master.run("systemctl", "start", "saltberry-page.service")
        assert "made by hand" not in lab.node("cp1").run(*curl).stdout
    finally:
        lab.master.write(PILLAR, before)
        fix(lab, "nfs1")
    assert lab.node("cp1").run(*curl, check=False).stdout.strip().endswith("000")


def test_no_key_of_the_cluster_is_in_what_the_checks_keep(mended: Lab) -> None:
    kept = mended.master.run("sh", "-c", "cat /srv/nfs/drift/*.json* /srv/nfs/drift/runs/*").stdout
    assert "kubernetes-crictl" in kept
    for secret in ("PRIVATE KEY", "client-key-data: LS0", "BEGIN CERTIFICATE"):
        assert secret not in kept
    modes = mended.master.run("find", "/srv/nfs/drift", "-perm", "/077").stdout
    assert modes == ""
