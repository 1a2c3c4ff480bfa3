"""All of a node but Kubernetes on the systems that racks are not made of here: Debian 13, and arm64.

Real systemd, apt, dpkg and salt-call; arm64 by QEMU, which has no netfilter, so docker and the
firewall are left out there. Packages come from Debian's mirror.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab import builder, emulation, host, packages, podman, rootfs, wheels
from lab.cli import CACHE
from lab.podman import Node
from lab.progress import Progress
from lab.rootfs import Debian, System
from lab.store import Store
from tests.unit.rendering import PILLARS, REPO, merged, rack_of

RACK = "systems"
NETWORK = f"saltberry-{RACK}"
# In the order of salt/roles/worker
COMPONENTS = [
    "base",
    "nfs.client",
    "containerd",
    "docker",
    "container_storage",
    "system",
    "firewall",
]
NEEDS_NETFILTER = {"docker", "firewall"}
FOREIGN = "arm64" if host.architecture() == "amd64" else "amd64"
SYSTEMS = [
    System("trixie", host.architecture()),
    System("trixie", FOREIGN),
    System("bookworm", FOREIGN),
]


@dataclass(frozen=True)
class Foreign:
    """A node, and which states are for it."""

    node: Node
    system: System

    @property
    def has_netfilter(self) -> bool:
        return self.system.architecture == host.architecture()

    def apply(self, **options: bool) -> dict[str, dict[str, Any]]:
        """What `state.apply` of all components says, by state."""
        left_out = set() if self.has_netfilter else NEEDS_NETFILTER
        wanted = [name for name in COMPONENTS if name not in left_out]
        done = self.node.run(
            "salt-call", "--local", "--out=json", "state.apply", ",".join(wanted),
            *(f"{name}={value}" for name, value in options.items()), check=False,
        )  # fmt: skip
        told = json.loads(done.stdout)["local"]
        assert isinstance(told, dict), told
        return told

    def call(self, *argv: str) -> Any:
        done = self.node.run("salt-call", "--local", "--out=json", *argv)
        return json.loads(done.stdout)["local"]


def name_servers() -> str:
    """Where a container on this machine asks for names; systemd's own server is of no use there."""
    for path in ("/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"):
        if Path(path).is_file():
            return Path(path).read_text()
    return ""


def pillar_of(node: Node) -> dict[str, Any]:
    """A rack that this node is a worker of, with people and their habits."""
    rack = merged(
        PILLARS["people and their habits"],
        {
            "rack": {"network": "10.77.9.0/24"},
            "nodes": {
                "nfs1": {"ip": "10.77.9.250"},
                "cp1": {"ip": "10.77.9.251"},
                "pi-01": {"ip": node.ip},
            },
            # The lab masks apt's timers.
            "system": {"security_updates": False},
            "docker": {"enabled": node.id.endswith(host.architecture())},
            "firewall": {"enabled": True},
        },
    )
    rack = rack_of(["worker"], rack)
    rack["nodes"][node.id] = rack["nodes"].pop("pi-01")
    rack["node"] |= {"id": node.id, "ip": node.ip}
    return rack


@pytest.fixture(scope="module", params=SYSTEMS, ids=str)
def foreign(request: pytest.FixtureRequest) -> Iterator[Foreign]:
    """A blank node of this system with Salt on it, and the rack's pillar."""
    system: System = request.param
    store, debian = Store(CACHE.resolve(), Progress()), Debian()
    CACHE.mkdir(parents=True, exist_ok=True)
    box = builder.ensure(store, debian)
    emulation.ensure(system.architecture)
    keyring = packages.signing_key(store, box) / "saltberry-lab.gpg"
    root = rootfs.node(store, debian, keyring, system)
    image = f"localhost/saltberry-node:{root.parent.name}"
    podman.import_image(root, image)
    podman.create_network(NETWORK, "10.77.9.0/24", internal=False)
    node = Node(
        id=f"pi-{system.suite}-{system.architecture}",
        rack=RACK,
        image=image,
        ip="10.77.9.21",
        network=NETWORK,
        mounts={REPO: "/checkout:ro", wheels.ensure(store, box, system): "/wheels:ro"},
    )
    node.remove()
    node.create()
    try:
        node.power_on()
        node.write("/etc/resolv.conf", name_servers())
        node.write("/etc/apt/sources.list", debian.sources(suite=system.suite))
        node.run(
            "bash", "/checkout/install/minion.sh", "--id", node.id, "--master", "nfs1",
            "--wheels", "/wheels", "--no-start",
        )  # fmt: skip
        # Seen with QEMU 7.2 and systemd 257: each start, that of its own journal too, ends with "resources"
        if (
            node.run("systemctl", "show", "-P", "Result", "systemd-journald").stdout.strip()
            == "resources"
        ):
            pytest.skip(f"{system}: under this machine's QEMU its systemd starts no service at all")
        node.run("mkdir", "-p", "/srv/pillar")
        node.run("cp", "/checkout/pillar/defaults.sls", "/srv/pillar")
        node.write("/srv/pillar/rack.sls", json.dumps(pillar_of(node)))
        node.write("/srv/pillar/top.sls", json.dumps({"base": {"*": ["defaults", "rack"]}}))
        local = {
            "file_client": "local",
            "file_roots": {"base": ["/checkout/salt"]},
            "pillar_roots": {"base": ["/srv/pillar"]},
            "pillar_source_merging_strategy": "recurse",
            **{f"{kind}_dirs": [f"/checkout/_{kind}"] for kind in ("states", "utils")},
            "module_dirs": ["/checkout/_modules"],
        }
        node.write("/etc/salt/minion.d/local.conf", json.dumps(local))
        yield Foreign(node, system)
    finally:
        node.remove()
        podman.podman("network", "rm", "--force", NETWORK, check=False)


def failed(told: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {key: found["comment"] for key, found in told.items() if found["result"] is False}


def changed(told: dict[str, dict[str, Any]]) -> set[str]:
    return {key for key, found in told.items() if found["changes"]}


def test_a_node_is_prepared_as_test_mode_said_and_once(foreign: Foreign) -> None:
    promised = foreign.apply(test=True)
    assert failed(promised) == {}
    assert not foreign.node.run("getent", "passwd", "anna", check=False).stdout
    done = foreign.apply()
    assert failed(done) == {}
    assert changed(done) <= {key for key, found in promised.items() if found["result"] is None}
    assert {"containerd-packages", "system-packages", "users-anna"} <= {
        found["__id__"] for found in done.values() if found["changes"]
    }
    assert changed(foreign.apply()) == set()


def test_what_was_prepared_is_there(foreign: Foreign) -> None:
    node = foreign.node
    facts = foreign.call("grains.item", "osarch", "osmajorrelease", "saltversion")
    assert facts["osarch"] == foreign.system.architecture
    assert facts["osmajorrelease"] == {"bookworm": 12, "trixie": 13}[foreign.system.suite]
    assert node.run("systemctl", "is-active", "containerd").stdout.strip() == "active"
    assert node.run("sshd", "-T").stdout.count("usedns no") == 1
    assert "Europe/Berlin" in node.run("readlink", "/etc/localtime").stdout
    assert "NOPASSWD: ALL" in node.run("sudo", "-l", "-U", "anna").stdout
    assert " cp1" in node.run("cat", "/etc/hosts").stdout
    if foreign.has_netfilter:
        assert "the rack" in node.run("nft", "list", "table", "inet", "saltberry").stdout
        limits = node.run("docker", "info", "--format", "{{.LoggingDriver}}").stdout
        assert limits.strip() == "json-file"


# Images in containerd's store: docker 29's default, and a feature that can be switched on before.
CONTAINERD_STORE = """set -e
python3 - <<'END'
import json, pathlib
file = pathlib.Path("/etc/docker/daemon.json")
settings = json.loads(file.read_text())
file.write_text(json.dumps({**settings, "features": {"containerd-snapshotter": True}}))
END
systemctl restart docker
DEBIAN_FRONTEND=noninteractive apt-get -q -y install busybox-static >/dev/null
mkdir -p /tmp/image/bin /tmp/image/data
cp "$(command -v busybox)" /tmp/image/bin/
for name in sh cat sleep; do ln -sf busybox /tmp/image/bin/$name; done
tar -C /tmp/image -c . | docker import - lab/busybox >/dev/null
docker run -d --name web --restart=always --network=none -v kept:/data lab/busybox \
    sh -c 'test -e /layer || echo layer >/layer; test -e /data/file || echo volume >/data/file
           trap exit TERM; while :; do sleep 1; done' >/dev/null
until docker exec web cat /data/file; do sleep 0.2; done
truncate -s 2G /var/lib/kubelet/disk.img
mkfs.ext4 -q /var/lib/kubelet/disk.img
mkdir -p /srv/moved
mount -o loop /var/lib/kubelet/disk.img /srv/moved
"""


def test_docker_that_keeps_its_images_in_containerd_moves_whole(foreign: Foreign) -> None:
    if not foreign.has_netfilter:
        pytest.skip("docker is left out on this system")
    node = foreign.node
    node.run("bash", "-c", CONTAINERD_STORE)
    try:
        images = node.run("docker", "images", "-q", "--no-trunc").stdout
        assert images
        alone = foreign.call("container_storage.plan", "/srv/moved", "engines=[docker]")
        assert "docker's images are in containerd's store" in " ".join(alone["warnings"])
        moved = foreign.call("container_storage.migrate", "/srv/moved")
        assert moved["moves"]["containerd"]["to"] == "/srv/moved/containerd", moved
        # With the old folders gone nothing can come from there.
        assert sorted(foreign.call("container_storage.purge")["removed"]) == [
            "/var/lib/containerd",
            "/var/lib/docker",
        ]
        assert foreign.call("container_storage.verify") == {"ok": True, "problems": []}
        node.run("docker", "restart", "-t", "1", "web")
        assert node.run("docker", "exec", "web", "cat", "/layer", "/data/file").stdout == (
            "layer\nvolume\n"
        )
        assert node.run("docker", "images", "-q", "--no-trunc").stdout == images
        snapshots = "/srv/moved/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots"
        assert node.run("find", snapshots, "-name", "busybox").stdout
        assert foreign.call("container_storage.rollback")["changed"] is True
        assert node.run("docker", "exec", "web", "cat", "/layer").stdout == "layer\n"
    finally:
        node.run("bash", "-c", "docker rm -f web; umount /srv/moved", check=False)


def test_the_nodes_wheels_are_for_its_own_python(foreign: Foreign) -> None:
    """Salt's parts in C were built for this processor and this Python, and load."""
    python = "/opt/saltberry/salt/bin/python"
    told = foreign.node.run(
        python, "-c", "import msgpack._cmsgpack, platform; print(platform.machine())"
    )
    assert (
        told.stdout.strip() == {"amd64": "x86_64", "arm64": "aarch64"}[foreign.system.architecture]
    )
