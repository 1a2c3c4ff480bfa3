"""`test=True` on a Pi that nothing was done to: no error, a true list, nothing touched."""

from __future__ import annotations

import subprocess

from tests.lab.conftest import Lab

# What may differ without a state having done it: Salt's own caches, logs, time stamps.
OURS = ("/etc", "/usr/lib/systemd", "/opt/cni", "/var/lib/dpkg")


def _fingerprint(lab: Lab, name: str) -> str:
    """Checksums of all that a state could have changed, and the kernel's view of the network."""
    script = (
        f"find {' '.join(OURS)} -xdev -type f -not -path '/etc/salt/*' -not -path '/var/lib/dpkg/lock*'"
        " -exec sha256sum {} + 2>/dev/null | sort; ip route; sysctl -a 2>/dev/null | grep -E '^net.ipv4.ip_forward'"
    )
    return lab.node(name).run("sh", "-c", script).stdout


def test_test_mode_on_a_blank_node_tells_the_truth_and_touches_nothing(lab: Lab, pi: str) -> None:
    with lab.reconcile_by_hand():
        lab.plug(pi)
        lab.wait(f"{pi} answering", lambda: lab.answers(pi), 300)
        lab.salt(pi, "saltutil.sync_all")
        before = _fingerprint(lab, pi)
        told = lab.salt(pi, "state.apply", "queue=True", "test=True")[pi]
        assert isinstance(told, dict), told
        assert not {
            key: found["comment"] for key, found in told.items() if found["result"] is False
        }
        after = _fingerprint(lab, pi)
        assert before == after
        promised = {key for key, found in told.items() if found["result"] is None}
        assert promised
        done = lab.salt(pi, "state.apply", "queue=True")[pi]
        assert not {
            key: found["comment"] for key, found in done.items() if found["result"] is False
        }
        changed = {key for key, found in done.items() if found["changes"]}
        # All that was done had been told; what was told and not done is only the join, which
        # waits for its ticket.
        assert changed <= promised, changed - promised
        # kubelet's package enables its own unit, before our state comes to it.
        expected = ("kubeadm", "routed_cni", "kubernetes-kubelet-enabled")
        left = {key for key in promised - changed if not any(word in key for word in expected)}
        assert not left, left


def test_host_wide_kernel_settings_of_the_lab_machine_stay_as_they_were(lab: Lab) -> None:
    keys = ("vm.overcommit_memory", "kernel.panic", "kernel.panic_on_oops", "vm.swappiness")
    host = subprocess.run(["sysctl", *keys], capture_output=True, text=True).stdout
    lab.salt("pi-01", "state.apply", "queue=True")
    assert subprocess.run(["sysctl", *keys], capture_output=True, text=True).stdout == host
