"""Plug in a Pi and it joins: also through power cuts, a killed master, lost and doubled events."""

from __future__ import annotations

import contextlib
import json
import time

import pytest

from tests.lab.conftest import Lab


def _stage(lab: Lab, name: str) -> str:
    """What the master's record says the node is doing."""
    text = lab.master.run("cat", "/var/lib/saltberry/attempts.json", check=False).stdout
    try:
        return str(json.loads(text)[name].get("stage"))
    except (ValueError, KeyError):
        return ""


def _kubeadm_runs(lab: Lab, name: str) -> bool:
    return lab.node(name).run("pgrep", "-f", "kubeadm join", check=False).returncode == 0


def test_first_nodes_are_ready_and_known(lab: Lab) -> None:
    known = {entry["id"]: entry for entry in lab.rack.status()}
    assert {"nfs1", "cp1", "pi-01"} <= set(known)
    for name, role in (("cp1", "control_plane"), ("pi-01", "worker")):
        assert known[name]["ready"] and known[name]["joined"], known[name]
        assert known[name]["key"] == "accepted"
        assert role in known[name]["role"]
        assert known[name]["version"].startswith("v1.")
    assert not known["nfs1"]["joined"]


def test_the_admin_on_the_master_may_ask_the_cluster(lab: Lab) -> None:
    config = "/root/.kube/config"
    lab.wait(
        "the admin's kubeconfig on nfs1",
        lambda: lab.master.run("test", "-s", config, check=False).returncode == 0,
    )
    assert lab.master.run("stat", "-c", "%a %U", config).stdout.strip() == "600 root"
    listed = lab.master.run("kubectl", "get", "nodes", "-o", "name").stdout.split()
    assert {"node/cp1", "node/pi-01"} <= set(listed)


def test_plugged_pi_becomes_ready_and_its_pods_answer(lab: Lab, pi: str) -> None:
    from lab import lifecycle

    lab.plug(pi)
    lab.wait_ready(pi)
    lifecycle.prove_pod(lab.rack, pi, lab.progress)
    assert lab.status(pi)["ready"]


def test_power_cut_in_the_middle_of_the_join_is_mended_by_power(lab: Lab, pi: str) -> None:
    node = lab.plug(pi)
    lab.wait(f"kubeadm join running on {pi}", lambda: _kubeadm_runs(lab, pi), 300, every=0.1)
    node.power_cut()
    assert not lab.is_ready(pi)
    node.power_on()
    lab.wait_ready(pi)


def test_master_killed_in_the_middle_of_the_join_finishes_it_later(lab: Lab, pi: str) -> None:
    lab.plug(pi)
    lab.wait(f"kubeadm join running on {pi}", lambda: _kubeadm_runs(lab, pi), 300, every=0.1)
    lab.master.power_cut()
    time.sleep(5)
    lab.master.power_on()
    lab.wait_ready(pi)
    lab.wait("no join token left", lambda: lab.kubectl(
        "-n", "kube-system", "get", "secrets", "--field-selector", "type=bootstrap.kubernetes.io/token", "-o", "name"
    ).strip() == "", 120)  # fmt: skip


def test_lost_start_event_is_caught_by_the_sweep(lab: Lab, pi: str) -> None:
    with lab.reconcile_by_hand(), contextlib.ExitStack() as afterwards:
        lab.plug(pi)
        lab.wait(f"{pi} answering", lambda: lab.answers(pi), 300)
        lab.master.run("rm", "-f", "/run/saltberry/reconcile.request")
        time.sleep(10)
        assert not lab.is_ready(pi), "joined though every event was lost: this test tests nothing"
        drop_in = "/run/systemd/system/saltberry-reconcile.timer.d"
        afterwards.callback(lab.master.run, "systemctl", "daemon-reload", check=False)
        afterwards.callback(lab.master.run, "rm", "-rf", drop_in, check=False)
        lab.master.run("mkdir", "-p", drop_in)
        lab.master.write(f"{drop_in}/soon.conf", "[Timer]\nOnActiveSec=2s\n")
        lab.master.run("systemctl", "daemon-reload")
        lab.master.run("systemctl", "start", "saltberry-reconcile.timer")
        lab.wait_ready(pi)


def test_doubled_events_make_one_join(lab: Lab, pi: str) -> None:
    node = lab.plug(pi)
    lab.wait(f"{pi} answering", lambda: lab.answers(pi), 300)
    for _ in range(5):
        node.run("salt-call", "event.send", f"salt/minion/{pi}/start", f'{{"id": "{pi}"}}')
    lab.wait_ready(pi)
    lab.wait_idle()
    journal = node.run("journalctl", "-o", "cat", "--no-pager").stdout
    assert (
        journal.count("Starting kubelet.service") + journal.count("Started kubelet.service") <= 2
    ), journal
    record = json.loads(lab.master.run("cat", "/var/lib/saltberry/attempts.json").stdout)[pi]
    assert record["attempts"] <= 1, record


def test_pi_that_fails_preflight_is_named_and_holds_nobody_up(lab: Lab, pi: str) -> None:
    bad = f"{pi}-bad"
    try:
        node = lab.plug(bad)
        # A port that kubelet needs is taken: preflight must say so.
        node.run("systemd-run", "--unit", "squatter", "python3", "-m", "http.server", "10250")
        lab.plug(pi)
        lab.wait_ready(pi)
        reason = lab.wait(
            "a reason for the bad Pi", lambda: lab.status(bad)["reason"], 300, every=2
        )
        entry = lab.wait(
            "preflight named as the reason",
            lambda: next((e for e in [lab.status(bad)] if "10250" in str(e["reason"])), None), 300, every=2,
        )  # fmt: skip
        assert not entry["ready"], (reason, entry)
        # nobody has to come by for the next try
        timers = lab.master.run("systemctl", "list-timers", "--no-legend", "saltberry-retry.timer")
        assert "saltberry-retry.timer" in timers.stdout
        node.run("systemctl", "stop", "squatter")
        lab.run("rack.retry", bad)
        lab.wait_ready(bad)
    finally:
        lab.take_away(bad)


@pytest.mark.parametrize("name", ["nfs1", "cp1", "pi-01"])
def test_second_apply_changes_nothing(lab: Lab, name: str) -> None:
    first = lab.salt(name, "state.apply", "queue=True")[name]
    assert isinstance(first, dict), first
    failed = {key: found["comment"] for key, found in first.items() if found["result"] is False}
    assert not failed
    second = lab.salt(name, "state.apply", "queue=True")[name]
    changed = {key: found["changes"] for key, found in second.items() if found["changes"]}
    assert not changed
    pending = lab.salt(name, "state.apply", "queue=True", "test=True")[name]
    assert {found["result"] for found in pending.values()} == {True}


def test_routes_follow_nodes_that_come_and_go(lab: Lab, pi: str) -> None:
    lab.plug(pi)
    lab.wait_ready(pi)
    cidr = lab.kubectl("get", "node", pi, "-o", "jsonpath={.spec.podCIDR}")
    route = f"{cidr} via {lab.node(pi).ip}"
    lab.wait(
        "the new node's route on pi-01",
        lambda: route in lab.node("pi-01").run("ip", "route").stdout,
        60,
    )
    lab.take_away(pi)
    lab.run("rack.reconcile")
    lab.wait(
        "no route to the gone node",
        lambda: cidr not in lab.node("pi-01").run("ip", "route").stdout,
        60,
    )


def test_routes_and_pods_are_back_after_a_power_cut(lab: Lab) -> None:
    node = lab.node("pi-01")
    before = set(node.run("ip", "route", "show", "proto", "83").stdout.split("\n")) - {""}
    assert before
    node.power_cut()
    node.power_on()
    lab.wait_ready("pi-01")
    lab.wait(
        "the same routes",
        lambda: before <= set(node.run("ip", "route", "show", "proto", "83").stdout.split("\n")), 120,
    )  # fmt: skip
