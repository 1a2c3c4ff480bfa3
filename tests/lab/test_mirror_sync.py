"""A mirror filled by `salt-run mirror.sync`, from which a blank Pi is built that has no other way out.

The lab's own mirror stands for the internet: its addresses are names that only nfs1 knows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import yaml

from lab.rack import MIRROR, PILLAR
from tests.lab.conftest import Lab

FOLDER = "/srv/nfs/mirror"
OUTSIDE = "debian.lab kubernetes.lab"
SYNC = ("mirror.sync", f"folder={FOLDER}")


class Synced(NamedTuple):
    lab: Lab
    foretold: dict[str, Any]
    done: dict[str, Any]


def upstream(lab: Lab) -> dict[str, Any]:
    registry = {"endpoint": f"http://{lab.rack.master_ip}:5000"}
    key = f"{MIRROR}/keys/saltberry-lab.gpg"
    return {
        "debian": [f"deb [signed-by={key}] http://debian.lab/apt/debian bookworm main"],
        "kubernetes": "http://kubernetes.lab/apt/kubernetes/",
        "kubernetes_key": f"http://{lab.rack.master_ip}/keys/kubernetes.asc",
        "kubernetes_key_sha256": lab.rack.kubernetes["key_sha256"],
        "registries": {"registry.k8s.io": registry, "docker.io": registry},
    }


@pytest.fixture(scope="module")
def synced(lab: Lab) -> Iterator[Synced]:
    """A mirror beside the real one, filled in two goes: the first was killed."""
    nfs1, text = lab.master, lab.master.run("cat", PILLAR).stdout
    hosts = nfs1.run("cat", "/etc/hosts").stdout
    rack = yaml.safe_load(text)
    rack["mirror"] = {"packages": True, "upstream": upstream(lab)}
    rack["kubernetes"]["repo"]["url"] = (
        f"http://{lab.rack.master_ip}/apt/kubernetes.lab/apt/kubernetes/"
    )
    rack["services"] = {
        "storage": {"enabled": True, "volumes": {"registry": {"size": "1G"}}},
        "registry": {"enabled": True},
    }
    # The services are there to be synced for; the sweep would bring them.
    nfs1.run("systemctl", "stop", "saltberry-reconcile.timer")
    try:
        lab.master.write(PILLAR, yaml.safe_dump(rack))
        nfs1.write("/etc/hosts", f"{hosts}{lab.rack.master_ip} {OUTSIDE}\n")
        applied = lab.salt("nfs1", "state.apply", "mirror", "queue=True")["nfs1"]
        assert all(each["result"] for each in applied.values()), applied
        foretold = lab.run(*SYNC, "test=True")
        assert nfs1.run("ls", FOLDER, check=False).returncode != 0, "test mode wrote something"
        # Salt's wheels come from elsewhere (install/wheelhouse.sh); they are there already.
        nfs1.run("mkdir", FOLDER)
        nfs1.run("cp", "-a", f"{MIRROR}/wheels", f"{FOLDER}/wheels")
        nfs1.run("timeout", "--signal=KILL", "6", "salt-run", *SYNC, check=False)
        yield Synced(lab, foretold, lab.run(*SYNC))
    finally:
        lab.master.write(PILLAR, text)
        nfs1.write("/etc/hosts", hosts)
        lab.salt("nfs1", "state.apply", "mirror", "queue=True")
        nfs1.run("rm", "-rf", FOLDER)
        nfs1.run("systemctl", "start", "saltberry-reconcile.timer")


@contextlib.contextmanager
def in_place(lab: Lab) -> Iterator[None]:
    """The new mirror is the one that nfs1 serves."""
    restart = ("systemctl", "restart", "nginx", "docker-registry")
    lab.master.run("mount", "--bind", FOLDER, MIRROR)
    try:
        lab.master.run(*restart)
        yield
    finally:
        lab.master.run("umount", "--lazy", MIRROR)
        lab.master.run(*restart)


def test_what_is_foretold_is_fetched_once(synced: Synced) -> None:
    lab, foretold, done = synced
    assert foretold["ok"], foretold
    assert "kubelet=1.20.2-1.1" in foretold["packages"]
    assert "docker.io/library/registry:2.8.3" in foretold["images"]
    assert "registry.k8s.io/kube-apiserver:v1.20.2" in foretold["images"]
    # Of these, it is kubeadm that knows which belong to its version, and that is not there yet.
    assert "etcd, coredns and pause" in foretold["note"]
    # How much of it the one that was killed had fetched already is a matter of luck.
    assert done["ok"], done
    known_later = ("etcd", "coredns", "pause")
    told = {
        image for image in done["images"] if image.split("/")[-1].split(":")[0] not in known_later
    }
    assert told <= set(foretold["images"])
    again = lab.run(*SYNC)
    # The lab's Debian is what a blank node lacks, and no more.
    assert "has to be on every node" in again.pop("note")
    assert again == {"ok": True, "packages": 0, "images": [], "folder": FOLDER}
    listed = lab.run("mirror.list", f"folder={FOLDER}")
    assert (listed["ok"], listed["missing"]) == (True, [])
    assert any("/etcd:" in image for image in listed["images"])
    assert "note" not in listed
    foretold = lab.run(*SYNC, "test=True")
    assert foretold["images"] == []
    # those that Debian's packages here are not, and what nobody installs in the lab
    assert "containerd" not in foretold["packages"]


def test_without_the_internet_it_says_so_and_keeps_what_it_has(synced: Synced) -> None:
    lab = synced.lab
    hosts = lab.master.run("cat", "/etc/hosts").stdout
    before = lab.master.run("find", FOLDER, "-name", "*.deb").stdout
    try:
        lab.master.write("/etc/hosts", hosts.replace(OUTSIDE, "nobody.lab"))
        told = lab.run(*SYNC)
        assert told["ok"] is False
        assert "debian.lab" in told["reason"]
    finally:
        lab.master.write("/etc/hosts", hosts)
    assert lab.master.run("find", FOLDER, "-name", "*.deb").stdout == before


def test_a_blank_pi_becomes_ready_from_the_synced_mirror_alone(synced: Synced, pi: str) -> None:
    lab = synced.lab
    usual = lab.rack.apt_source
    # The images of services were synced; that a node which joins has them brought is not wanted here.
    rack = yaml.safe_load(lab.master.run("cat", PILLAR).stdout)
    del rack["services"]
    lab.master.write(PILLAR, yaml.safe_dump(rack))
    with in_place(lab):
        try:
            lab.rack.apt_source = usual.replace("@MIRROR@", "http://debian.lab")
            node = lab.plug(pi)
            lab.wait_ready(pi)
        finally:
            lab.rack.apt_source = usual
            lab.rack.save()
        assert node.run("getent", "hosts", "debian.lab", check=False).returncode != 0
        policy = node.run("apt-cache", "policy", "containerd").stdout
        assert "http://debian.lab/apt/debian" in policy
        node.run("crictl", "pull", "docker.io/library/registry:2.8.3")
