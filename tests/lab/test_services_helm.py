"""Charts from the pillar on a real rack; and a cluster that keeps its pod network."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.rack import PILLAR, REPO
from tests.lab.conftest import Lab

CHECKOUT = Path(__file__).resolve().parents[2]
VALUES = "/etc/saltberry/greeter.yaml"
SECRET = "open-sesame-of-the-lab"


class Site:
    """The rack, and what its pillar says beside the rack's own."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.rack: dict[str, Any] = yaml.safe_load(lab.master.run("cat", PILLAR).stdout)

    def describe(self, **more: Any) -> None:
        self.lab.master.write(PILLAR, yaml.safe_dump({**self.rack, **more}))

    def bring_chart(self) -> None:
        """What a person lays on the master and on the control plane."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.add(CHECKOUT / "docs/examples/chart", arcname=".")
        self.lab.master.run("mkdir", "-p", f"{REPO}/salt/charts/greeter")
        self.lab.master.copy_tree(archive.getvalue(), f"{REPO}/salt/charts/greeter")
        self.lab.control_plane.write(VALUES, f"password: {SECRET}\n")
        self.lab.control_plane.run("chmod", "600", VALUES)

    def want(self, **values: Any) -> None:
        image = f"{self.lab.rack.master_ip}:5000/busybox:lab"
        release = {
            "namespace": "web", "file": "salt://charts/greeter", "values_from": VALUES,
            "values": {"image": image, **values},
        }  # fmt: skip
        self.describe(helm={"releases": {"greeter": release}})

    def apply(self, node: str, sls: str, *argv: str) -> dict[str, dict[str, Any]]:
        """`state.apply SLS` on a node: what is not content, by state id."""
        done = self.lab.salt(node, "state.apply", sls, "queue=True", *argv)[node]
        assert isinstance(done, dict), done
        return {
            each["__id__"]: each
            for each in done.values()
            if each["changes"] or each["result"] is not True
        }

    def page(self) -> str:
        """What a pod of the release says, by way of its Service."""
        address = self.lab.kubectl(
            "get", "-n", "web", "service", "greeter", "-o", "jsonpath={.spec.clusterIP}"
        )
        ask = f"import urllib.request as u; print(u.urlopen('http://{address}/', timeout=5).read().decode())"
        return self.lab.control_plane.run("python3", "-c", ask, check=False).stdout.strip()


@pytest.fixture
def site(lab: Lab) -> Iterator[Site]:
    made = Site(lab)
    made.bring_chart()
    try:
        yield made
    finally:
        made.describe()
        lab.salt("cp1", "state.apply", "helm", "queue=True")
        lab.kubectl("delete", "namespace", "web", "--ignore-not-found", "--wait=false")
        lab.master.run("rm", "-rf", f"{REPO}/salt/charts")
        lab.control_plane.run("rm", "-f", VALUES)


def test_a_chart_goes_its_way_from_the_pillar_to_pods_and_away(site: Site) -> None:
    lab = site.lab
    site.want(greeting="hello")
    assert site.apply("nfs1", "helm.mirror") == {}, "the mirror has it already"
    told = site.apply("cp1", "helm", "test=True")
    assert set(told) == {"helm-installed", "helm-release-greeter"}
    assert all(each["result"] is None for each in told.values()), told
    assert lab.kubectl("get", "namespaces", "-o", "name").count("web") == 0
    done = site.apply("cp1", "helm")
    assert {name: each["result"] for name, each in done.items()} == dict.fromkeys(told, True), done
    assert site.page() == "hello", "it was waited for"
    key = lab.kubectl("get", "-n", "web", "secret", "greeter", "-o", "jsonpath={.data.password}")
    assert key
    assert site.apply("cp1", "helm") == {}
    assert site.apply("cp1", "helm", "test=True") == {}

    site.want(greeting="bye")
    told = site.apply("cp1", "helm", "test=True")
    assert set(told) == {"helm-release-greeter"}
    assert "+  index.html: bye" in json.dumps(told).replace("\\n", "\n")
    assert site.page() == "hello"
    assert site.apply("cp1", "helm")["helm-release-greeter"]["result"] is True
    lab.wait("the new page", lambda: site.page() == "bye")

    lab.kubectl("scale", "-n", "web", "deployment", "greeter", "--replicas=0")
    found = lab.run("drift.check", "cp1")
    assert "helm-release-greeter" in json.dumps(found)
    assert site.apply("cp1", "helm")["helm-release-greeter"]["result"] is True
    lab.wait("its pod again", lambda: site.page() == "bye")

    # A pod that never comes up: the page stays, and the reason is told
    site.want(greeting="broken", image=f"{lab.rack.master_ip}:5000/nowhere:1")
    broken = yaml.safe_load(lab.master.run("cat", PILLAR).stdout)
    broken["helm"]["releases"]["greeter"]["timeout"] = 20
    lab.master.write(PILLAR, yaml.safe_dump(broken))
    said = site.apply("cp1", "helm")["helm-release-greeter"]
    assert said["result"] is False
    assert "ImagePull" in said["comment"] or "ErrImage" in said["comment"], said["comment"]
    assert "back at revision" in said["comment"]
    assert site.page() == "bye"

    for node in (lab.master, lab.control_plane):
        logs = ("/var/log/salt", "/var/cache/salt", "/var/lib/saltberry")
        hits = node.run("grep", "-rlF", SECRET, *logs, check=False).stdout.split()
        assert hits == []

    site.describe()
    told = site.apply("cp1", "helm", "test=True")
    assert told["helm-releases-absent"]["changes"] == {"web/greeter": "gone"}
    gone = site.apply("cp1", "helm")
    assert set(gone) == {"helm-releases-absent", "helm-absent"}
    assert lab.kubectl("get", "-n", "web", "deployment,service,configmap,secret",
                       "-l", "app.kubernetes.io/managed-by=Helm", "-o", "name") == ""  # fmt: skip
    assert lab.control_plane.run("sh", "-c", "ls -d /opt/saltberry/helm-* || true").stdout == ""
    assert site.apply("cp1", "helm") == {}


def test_a_cluster_keeps_its_pod_network(site: Site) -> None:
    """Said by the control plane, by a member, and to a node that is to join; and nothing is touched."""
    lab = site.lab
    kubernetes = {**site.rack["kubernetes"], "cni": "flannel"}
    # Routes to a Pi that another test took away go first.
    assert lab.run("rack.reconcile", "wait=True")
    before = {name: lab.node(name).run("ip", "route").stdout for name in ("cp1", "pi-01")}
    with contextlib.ExitStack() as stack:
        stack.callback(site.describe)
        site.describe(kubernetes=kubernetes)
        for name in ("cp1", "pi-01"):
            for argv in (("test=True",), ()):
                said = site.apply(name, "cni", *argv)
                assert said["cni-chosen"]["result"] is False
                assert "this cluster was made with routed" in said["cni-chosen"]["comment"]
                assert not any(each["changes"] for each in said.values()), said
    assert {name: lab.node(name).run("ip", "route").stdout for name in before} == before
    assert "kube-flannel" not in lab.kubectl("get", "namespaces", "-o", "name")
    assert lab.run("rack.reconcile")
    known = json.loads(lab.master.run("cat", "/var/lib/saltberry/cluster.json").stdout)
    assert known["cni"] == "routed", "what a node that is to join is told"


def test_pods_find_the_racks_nodes_by_name(site: Site) -> None:
    """What the cluster's DNS is told; the lab's stand-in for CoreDNS does not read it."""
    site.apply("cp1", "kubernetes_dns")
    text = site.lab.kubectl(
        "get", "-n", "kube-system", "configmap", "coredns", "-o", "jsonpath={.data.Corefile}"
    )
    assert f"{site.lab.rack.master_ip} nfs1.rack.lan" in text
    assert site.apply("cp1", "kubernetes_dns") == {}
