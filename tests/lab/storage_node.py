"""One Pi without a cluster: real docker and containerd, Salt, and disks to move their data to.

Its image is the lab's blank node with docker, containerd and Salt installed from the lab's mirror,
made once. `/var/lib/docker`, `/var/lib/containerd` and `/srv/containers` are volumes, that is, ext4.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import artifacts, host, podman
from lab.artifacts import Artifacts
from lab.podman import Node
from lab.rack import CHECKOUT, MIRROR, REPO
from lab.store import Progress, digest

TARGET = "/srv/containers"
HERE = Path(__file__).parent / "storage"
ID = "pi-01"
LABEL = f"{host.LABEL}.test=storage"

_VOLUMES = {
    "docker": "/var/lib/docker",
    "containerd": "/var/lib/containerd",
    "target": TARGET,
    "scratch": "/srv/scratch",
    "journal": "/var/log/journal",
}
_PACKAGES = "docker.io containerd runc iptables rsync"
_INSTALL = f"""set -e
echo '@SOURCE@' >/etc/apt/sources.list
apt-get -q update
DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends {_PACKAGES}
bash {REPO}/install/minion.sh --id {ID} --master 127.0.0.1 --wheels {MIRROR}/wheels --no-start
cat >/etc/salt/minion.d/zz-local.conf <<END
file_client: local
file_roots: {{base: [{REPO}/salt]}}
pillar_roots: {{base: [/srv/pillar]}}
module_dirs: [{REPO}/_modules]
states_dirs: [{REPO}/_states]
utils_dirs: [{REPO}/_utils]
END
systemctl disable -q lab-route.service saltberry-firstboot.service
systemctl disable -q salt-minion.service
apt-get clean; rm -rf /var/lib/apt/lists/*
"""


def image(cache: Path, progress: Progress) -> str:
    """The node's image, made if podman does not have it."""
    built = artifacts.ensure(cache, progress)
    base = f"localhost/saltberry-node:{built.node_root.parent.name}"
    name = f"localhost/saltberry-storage:{_key(built)}"
    if podman.exists("image", name):
        return name
    podman.import_image(built.node_root, base)
    with progress.step("installing docker on a node"):
        _install(built, base, name)
    return name


def _key(built: Artifacts) -> str:
    made_from = {"node": built.node_root.parent.name, "install": _INSTALL,
                 "minion": (CHECKOUT / "install/minion.sh").read_text(),
                 "mirror": built.mirror.name}  # fmt: skip
    return digest(made_from)


def _install(built: Artifacts, base: str, name: str) -> None:
    container = f"saltberry-storage-build-{random.randrange(1 << 32):x}"
    script = _INSTALL.replace("@SOURCE@", built.apt_source(f"file:{MIRROR}"))
    try:
        podman.podman(
            "run", "--name", container, "--label", LABEL, "--network", "none", *host.ulimit_flags(),
            "-v", f"{CHECKOUT}:{REPO}:ro", "-v", f"{built.mirror}:{MIRROR}:ro", base, "bash", "-c", script,
            timeout=900,
        )  # fmt: skip
        podman.podman("commit", "-q", container, name)
    finally:
        podman.podman("rm", "--force", container, check=False)


@dataclass
class StorageNode(Node):
    """The Pi, and what a test does to it in a person's words."""

    @classmethod
    def make(cls, image_name: str, name: str = "storage") -> StorageNode:
        """Put it together and give it power."""
        node = cls(rack="", id=ID, ip="", image=image_name, network=f"saltberry-{name}")
        node.remove()
        node.create()
        node.power_on()
        node.push(HERE / "pi.py", "/usr/local/sbin/pi")
        return node

    def create(self) -> None:
        volumes: list[str] = []
        for kind, path in _VOLUMES.items():
            podman.podman("volume", "create", "--label", LABEL, self._volume(kind))
            volumes += ["-v", f"{self._volume(kind)}:{path}"]
        podman.podman(
            "create", "--name", self.container, "--hostname", self.id, "--label", LABEL,
            "--privileged", "--cgroupns", "private", "--systemd=always", *host.ulimit_flags(),
            "--network", "none", "--no-hosts", *volumes, "-v", f"{CHECKOUT}:{REPO}:ro",
            self.image, *podman.INIT,
        )  # fmt: skip

    def remove(self) -> None:
        podman.podman("rm", "--force", "--time", "0", self.container, check=False)
        for kind in _VOLUMES:
            podman.podman("volume", "rm", "--force", self._volume(kind), check=False)

    def push(self, source: Path, target: str) -> None:
        """Put one of the tests' programs on the node."""
        self.write(target, source.read_text(), "0755")

    # --- Salt ---

    def call(self, function: str, *argv: str, check: bool = True) -> Any:
        """`salt-call` a function; what it returned, or its words when it failed."""
        done = self.run("salt-call", "--local", "--out=json", "--log-level=critical",
                        "--retcode-passthrough", function, *argv, check=False, timeout=900)  # fmt: skip
        try:
            told = json.loads(done.stdout)["local"]
        except (ValueError, KeyError, TypeError):
            told = (done.stdout + done.stderr).strip()
            if check:
                raise AssertionError(f"{function}: {told}") from None
        return told

    def move(self, target: str, *argv: str) -> dict[str, Any]:
        """Move the data; fails when that fails."""
        told = self.call("container_storage.migrate", target, *argv)
        assert isinstance(told, dict), told
        return told

    def refused(self, target: str, *argv: str) -> str:
        """What the move says that cannot be done."""
        told = self.call("container_storage.migrate", target, *argv, check=False)
        assert isinstance(told, str), f"it was done: {told}"
        return told

    def state(self, name: str, *argv: str) -> dict[str, Any]:
        """One state's return."""
        told = self.call("state.single", name, *argv)
        assert isinstance(told, dict), told
        return next(iter(told.values()))

    # --- what the tests' own program on the node does ---

    def pi(self, *argv: str, timeout: float = 600) -> Any:
        """Run the tests' program on the node; its answer."""
        done = self.run("/usr/local/sbin/pi", *argv, timeout=timeout)
        return json.loads(done.stdout) if done.stdout.strip() else None

    def facts(self) -> dict[str, Any]:
        """Everything that must be the same after a move."""
        return self.pi("facts")

    def roots(self) -> dict[str, str]:
        """The folders that the running engines use."""
        return self.pi("roots")

    def wait_engines(self, seconds: float = 90) -> None:
        """Wait until docker and containerd answer."""
        deadline = time.monotonic() + seconds
        while self.run("docker", "info", check=False, timeout=60).returncode:
            assert time.monotonic() < deadline, self.run(
                "systemctl", "status", "docker", "containerd", "--no-pager", check=False
            ).stdout
            time.sleep(0.3)
