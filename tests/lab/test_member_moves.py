"""A member of a real cluster whose pillar says that its container data shall be elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from lab import lifecycle
from lab.rack import PILLAR
from tests.lab.conftest import Lab

MOUNT = "/srv/containers"


@pytest.fixture
def moving(lab: Lab, pi: str) -> Iterator[str]:
    """A worker that runs pods, and whose pillar then names another backend."""
    lab.plug(pi)
    lab.wait_ready(pi)
    before = lab.master.run("cat", PILLAR).stdout
    rack = yaml.safe_load(before)
    own = {"ip": lab.node(pi).ip, "container_storage": {"backend": "nfs-image", "size": "2G"}}
    rack["nodes"][pi] = {**(rack["nodes"].get(pi) or {}), **own}
    _deploy(lab)
    lab.master.write(PILLAR, yaml.safe_dump(rack))
    try:
        yield pi
    finally:
        lab.kubectl("delete", "deployment,pod", "-l", "app=moving", "--wait=false", check=False)
        lab.master.write(PILLAR, before)


def _apply(lab: Lab, thing: dict[str, Any]) -> None:
    lab.control_plane.run(*lifecycle.KUBECTL, "apply", "-f", "-", stdin=json.dumps(thing).encode())


def _pod(lab: Lab) -> dict[str, Any]:
    web = {
        "name": "web",
        "image": f"{lab.rack.master_ip}:5000/busybox:lab",
        "command": ["sleep", "9999"],
    }
    return {
        "metadata": {"labels": {"app": "moving"}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [web]},
    }


def _deploy(lab: Lab) -> None:
    """Pods that are started elsewhere when their node is drained."""
    spec = {"replicas": 4, "selector": {"matchLabels": {"app": "moving"}}, "template": _pod(lab)}
    named = {"name": "moving", "labels": {"app": "moving"}}
    _apply(lab, {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": named, "spec": spec})
    lab.wait("the pods", lambda: len(_running(lab)) == 4, 180)


def _running(lab: Lab) -> dict[str, str]:
    """The pods that run, with their nodes."""
    found = json.loads(lab.kubectl("get", "pods", "-l", "app=moving", "-o", "json"))["items"]
    return {
        pod["metadata"]["name"]: pod["spec"]["nodeName"]
        for pod in found
        if any("running" in each["state"] for each in pod["status"].get("containerStatuses", []))
    }


def _storage(lab: Lab, node: str) -> dict[str, Any]:
    return lab.salt(node, "container_storage.status")[node]


def test_backend_in_the_pillar_drains_moves_and_opens_a_member(lab: Lab, moving: str) -> None:
    here = {pod for pod, node in _running(lab).items() if node == moving}
    assert here, "none of its pods: this test tests nothing"
    images = lab.node(moving).run("crictl", "images", "-q").stdout.split()
    assert images
    asked = lab.salt(moving, "state.apply", "queue=True")[moving]
    state = next(found for key, found in asked.items() if "container-storage-managed" in key)
    assert state["result"] is True, state
    assert "the master drains this node" in state["comment"]

    def arrived() -> bool:
        known = lab.status(moving)
        root = _storage(lab, moving)["engines"]["containerd"]["root"]
        return bool(root.startswith(MOUNT) and known["ready"] and known["move"] is None)

    lab.wait("the container data on the image", arrived, 420, every=2)
    lab.wait("pods allowed on the node again", lambda: not json.loads(
        lab.kubectl("get", "node", moving, "-o", "json"))["spec"].get("unschedulable"), 60)  # fmt: skip
    # what it had is there, and what ran runs: elsewhere, or again
    assert set(images) <= set(lab.node(moving).run("crictl", "images", "-q").stdout.split())
    lab.wait("all pods running", lambda: len(_running(lab)) == 4, 120)
    assert not here & set(_running(lab)), "it was not drained"
    mounted = lab.node(moving).run("findmnt", "-no", "FSTYPE,SOURCE", MOUNT).stdout
    assert mounted.startswith("ext4") and "loop" in mounted
    again = lab.salt(moving, "state.apply", "queue=True")[moving]
    assert not {key: found["changes"] for key, found in again.items() if found["changes"]}
    assert {found["result"] for found in again.values()} == {True}
    # and it outlives a power cut
    lab.node(moving).power_cut()
    lab.node(moving).power_on()
    lab.wait_ready(moving)
    assert _storage(lab, moving)["engines"]["containerd"]["root"].startswith(MOUNT)


def test_a_pod_that_nothing_would_start_elsewhere_is_named_and_stays(lab: Lab) -> None:
    alone = {"apiVersion": "v1", "kind": "Pod", **_pod(lab)}
    alone["metadata"] = {"name": "alone", "labels": {"app": "alone"}}
    alone["spec"] = {**alone["spec"], "nodeName": "pi-01"}
    _apply(lab, alone)
    try:
        why = "why='a test'"
        said = lab.salt("cp1", "kubeadm.drain", "pi-01", why)["cp1"]
        assert said == {"drained": False, "left": ["default/alone"]}
        assert lab.status("pi-01")["reason"] == "takes no pods: a test"
        assert "alone" in lab.kubectl("get", "pods", "-o", "name")
        assert lab.salt("cp1", "kubeadm.uncordon", "pi-01")["cp1"] is True
        assert lab.status("pi-01")["reason"] == ""
        # one that a person closed is the person's
        lab.kubectl("cordon", "pi-01")
        assert lab.salt("cp1", "kubeadm.drain", "pi-01", why)["cp1"]["drained"] is False
        assert lab.salt("cp1", "kubeadm.uncordon", "pi-01")["cp1"] is False
    finally:
        lab.kubectl("uncordon", "pi-01")
        lab.kubectl("delete", "pod", "alone", "--wait=false")
