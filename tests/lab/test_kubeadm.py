"""What goes wrong in a join ends in its own plain words, and the next look mends what can be mended."""

from __future__ import annotations

from typing import Any

from tests.lab.conftest import Lab

FOREIGN = """
set -e
mkdir -p /etc/kubernetes /tmp/foreign
cd /tmp/foreign
openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 2 -subj /CN=elsewhere 2>/dev/null
cat >/etc/kubernetes/kubelet.conf <<CONF
apiVersion: v1
kind: Config
clusters:
- name: elsewhere
  cluster:
    certificate-authority-data: $(base64 -w0 ca.crt)
    server: https://192.0.2.1:6443
contexts:
- name: elsewhere
  context: {cluster: elsewhere, user: node}
current-context: elsewhere
users:
- name: node
  user: {}
CONF
sha256sum /etc/kubernetes/kubelet.conf
"""


def _plugged(lab: Lab, name: str) -> None:
    lab.plug(name)
    lab.wait(f"{name} answering", lambda: lab.answers(name), 300)
    lab.salt(name, "saltutil.sync_all")


def _reason(lab: Lab, name: str, *words: str) -> dict[str, Any]:
    """Look at the rack; the node's line of rack.status once its reason has one of the words."""
    lab.run("rack.retry", name)
    lab.run("rack.reconcile", "wait=True")

    def ask() -> dict[str, Any] | None:
        entry = lab.status(name)
        return entry if any(word in str(entry["reason"]) for word in words) else None

    return lab.wait(f"{' or '.join(words)} as the reason", ask, 180, every=2)


def test_member_of_another_cluster_is_refused_and_left_as_it_is(lab: Lab, pi: str) -> None:
    with lab.reconcile_by_hand():
        _plugged(lab, pi)
        before = lab.node(pi).run("sh", "-c", FOREIGN).stdout
        entry = _reason(lab, pi, "another cluster")
        assert not entry["joined"] and not entry["ready"], entry
        assert lab.node(pi).run("sha256sum", "/etc/kubernetes/kubelet.conf").stdout in before
        # The remedy that the message gives, then it joins.
        assert "kubeadm.reset" in entry["reason"], entry
        lab.salt(pi, "kubeadm.reset", "force=True")
        lab.run("rack.retry", pi)
        lab.run("rack.reconcile", "wait=True")
    lab.wait_ready(pi)


def test_api_server_out_of_reach_is_said_and_mended_when_it_is_back(lab: Lab, pi: str) -> None:
    with lab.reconcile_by_hand():
        _plugged(lab, pi)
        # The packages first: with them comes iptables.
        done = lab.salt(pi, "state.apply", "queue=True")[pi]
        assert not {
            key: found["comment"] for key, found in done.items() if found["result"] is False
        }
        wall = (
            "OUTPUT",
            "-p",
            "tcp",
            "-d",
            lab.control_plane.ip,
            "--dport",
            "6443",
            "-j",
            "REJECT",
        )
        lab.node(pi).run("iptables", "-I", *wall)
        entry = _reason(lab, pi, "6443", "API server")
        assert not entry["joined"], entry
        lab.node(pi).run("iptables", "-D", *wall)
        lab.run("rack.retry", pi)
        lab.run("rack.reconcile", "wait=True")
    lab.wait_ready(pi)
