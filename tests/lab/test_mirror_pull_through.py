"""What one node pulled, the others get from nfs1, also when the registry that it came from is away.

The lab's own registry stands for those of the internet.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from lab.rack import MIRROR, PILLAR
from tests.lab.conftest import Lab

# The mirror is read-only in the lab: what is written to it lands here.
WRITTEN = "/srv/nfs/pull-through"
NODES = ("cp1", "pi-01")
NOTHING: dict[str, Any] = {node: {} for node in ("nfs1", *NODES)}
IMAGE = "docker.io/library/registry:2.8.3"
OTHER = "quay.io/busybox:lab"
STRANGER = "192.0.2.7"
ENDED = (
    ("saltberry-pull-through", "dead"),
    ("saltberry-pulled", "dead"),
    ("saltberry-pull-through", "absent"),
)


def unit(host: str) -> str:
    return f"saltberry-pull-through@{host}.service"


class Cache:
    """The rack with a cache of two registries, and what a person does with it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.url = f"http://{lab.rack.master_ip}:5002"
        self.before = lab.master.run("cat", PILLAR).stdout

    def want(self, hosts: list[str]) -> None:
        """Have these in the pillar; docker.io also has a mirror, which lacks every image."""
        rack = yaml.safe_load(self.before)
        origin = {"endpoint": f"http://{self.lab.rack.master_ip}:5000"}
        registries = rack["containerd"]["registries"]
        registries["docker.io"] = {"endpoint": f"http://{self.lab.rack.master_ip}"}
        del registries["quay.io"]
        rack["mirror"] = {
            "pull_through": hosts,
            "upstream": {"registries": {"docker.io": origin, "quay.io": origin}},
        }
        self.lab.master.write(PILLAR, yaml.safe_dump(rack))

    def apply(self, *argv: str) -> dict[str, dict[str, Any]]:
        """What the nodes' states changed or failed."""
        return {
            **self.lab.applied(["nfs1"], "mirror", *argv),
            **self.lab.applied(NODES, "containerd", *argv),
        }

    def pull(self, node: str, image: str) -> str:
        """Pull an image that the node has not; empty, or what is said when it cannot be had."""
        self.lab.node(node).run("crictl", "rmi", image, check=False)
        done = self.lab.node(node).run("crictl", "pull", image, check=False, timeout=120)
        return done.stderr if done.returncode else ""

    def stored(self, host: str) -> int:
        """How many parts of images there are; 0 while one is being written."""
        data = f"{MIRROR}/pull-through/{host}/docker/registry/v2"
        look = f"find {data} -path '*/_uploads/*' -type f; find {data}/blobs -name data"
        found = self.lab.master.run("sh", "-c", look, check=False).stdout.split()
        return 0 if any("_uploads" in path for path in found) else len(found)

    @contextlib.contextmanager
    def without_upstream(self) -> Iterator[None]:
        """Packets to upstream are lost, without a word: also those of connections that there are."""
        drop = ("OUTPUT", "-p", "tcp", "--dport", "5000", "-j", "DROP")
        self.lab.master.run("iptables", "-I", *drop)
        try:
            yield
        finally:
            self.lab.master.run("iptables", "-D", *drop)

    def asked(self, *argv: str) -> str:
        """The answer to a request from pi-01, as an HTTP status."""
        done = self.lab.node("pi-01").run(
            "curl", "-s", "-m", "20", "-o", "/dev/null", "-w", "%{http_code}", *argv, check=False
        )
        return done.stdout


@pytest.fixture(scope="module")
def cache(lab: Lab) -> Iterator[Cache]:
    nfs1, made = lab.master, Cache(lab)
    layers = f"lowerdir={MIRROR},upperdir={WRITTEN}/upper,workdir={WRITTEN}/work"
    with lab.reconcile_by_hand():
        nfs1.run("mkdir", "-p", f"{WRITTEN}/upper", f"{WRITTEN}/work")
        nfs1.run("mount", "-t", "overlay", "overlay", "-o", layers, MIRROR)
        try:
            made.want(["docker.io", "quay.io"])
            changed = made.apply()
            assert all(each["result"] for node in changed.values() for each in node.values())
            yield made
        finally:
            nfs1.write(PILLAR, made.before)
            made.apply()
            nfs1.run("umount", "--lazy", MIRROR)
            nfs1.run("rm", "-rf", WRITTEN)


def test_what_one_node_pulled_comes_to_another_without_the_internet(cache: Cache) -> None:
    assert cache.pull("pi-01", IMAGE) == ""
    cache.lab.wait("the image in the cache", lambda: cache.stored("docker.io"), 30)
    with cache.without_upstream():
        assert cache.pull("cp1", IMAGE) == ""
        # as after a power cut that took the router, too
        cache.lab.master.run("systemctl", "restart", unit("docker.io"))
        assert cache.pull("cp1", IMAGE) == ""
        never = cache.pull("cp1", "docker.io/library/registry:1")
        assert "https://registry-1.docker.io/v2/library/registry/manifests/1" in never
    assert cache.apply("test=True") == NOTHING


def test_nothing_is_lost_when_the_cache_is_away(cache: Cache) -> None:
    """A node asks further: the registry itself, which the lab has not, is what it names."""
    cache.lab.master.run("systemctl", "stop", unit("quay.io"))
    said = cache.pull("pi-01", OTHER)
    assert "https://quay.io/v2/busybox/manifests/lab" in said
    named = cache.apply("test=True")
    assert list(named["nfs1"]) == ["saltberry-pull-through-quay.io-running"]
    assert "saltberry-pull-through-quay.io-running" in cache.apply()["nfs1"]
    assert cache.pull("pi-01", OTHER) == ""


def test_it_is_for_the_rack_and_gives_without_taking(cache: Cache) -> None:
    manifest = f"{cache.url}/v2/busybox/manifests/lab"
    assert cache.asked(f"{manifest}?ns=quay.io") == "200"
    assert cache.asked(f"{manifest}?ns=ghcr.io") == "404"
    assert cache.asked(manifest) == "404"
    assert cache.asked("-X", "POST", f"{cache.url}/v2/busybox/blobs/uploads/?ns=quay.io") == "403"
    assert cache.asked(f"http://{cache.lab.rack.master_ip}/pull-through/quay.io/") == "403"
    pi, nfs1 = cache.lab.node("pi-01"), cache.lab.master
    pi.run("ip", "addr", "add", f"{STRANGER}/32", "dev", "lo")
    nfs1.run("ip", "route", "add", STRANGER, "via", pi.ip)
    try:
        assert cache.asked("--interface", STRANGER, f"{manifest}?ns=quay.io") == "403"
    finally:
        nfs1.run("ip", "route", "del", STRANGER)
        pi.run("ip", "addr", "del", f"{STRANGER}/32", "dev", "lo")


def test_a_registry_leaves_the_list_and_its_images_stay(cache: Cache) -> None:
    assert cache.apply() == NOTHING
    cache.want(["docker.io"])
    foretold = cache.apply("test=True")
    changed = cache.apply()
    assert {node: set(states) for node, states in foretold.items()} == {
        node: set(states) for node, states in changed.items()
    }
    assert {f"{part}-quay.io-{end}" for part, end in ENDED} <= changed["nfs1"].keys()
    assert list(changed["pi-01"]) == ["containerd-registry-quay.io-absent"]
    assert cache.apply() == NOTHING
    units = "systemctl list-units --plain --no-legend 'saltberry-pull*@*'"
    running = cache.lab.master.run("sh", "-c", units).stdout
    assert unit("docker.io") in running
    assert "quay.io" not in running
    assert cache.stored("quay.io")
    cache.want([])
    cache.apply()
    assert cache.apply() == NOTHING
    assert cache.lab.master.run("sh", "-c", units).stdout == ""
    assert cache.lab.master.run("ss", "-Hltn", "sport = :5002").stdout == ""
    assert cache.stored("docker.io")
