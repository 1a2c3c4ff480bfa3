"""Podman, as the lab uses it: networks, images made from a root file system, nodes that run systemd.

A node is a Pi: its container's own layer is the SD card (kept over a power cut), four
volumes stand for the directories where overlay2 needs a real file system below it.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab import host

LABEL = "saltberry.rack"

# overlay2 on top of the node's own overlay does not work; on a volume (ext4) it does.
VOLUMES = {
    "containerd": "/var/lib/containerd",
    "docker": "/var/lib/docker",
    "kubelet": "/var/lib/kubelet",
    "etcd": "/var/lib/etcd",
    # In systemd mode podman mounts a tmpfs here, which a power cut would empty.
    "journal": "/var/log/journal",
}


# On cgroup v1 podman lays the machine's whole systemd hierarchy over the container's own. Each node's
# systemd would then run on the machine's root, and one that boots would clear away the others' groups.
_OWN_CGROUPS = """\
own=/sys/fs/cgroup/systemd
if [ "$(grep -c " $own " /proc/self/mountinfo)" -gt 1 ]; then umount "$own/release_agent" "$own"; fi
exec /lib/systemd/systemd "$@"
"""
# What a node runs; options for systemd may follow.
INIT = ("/bin/sh", "-c", _OWN_CGROUPS, "init")


class PodmanError(RuntimeError):
    """Podman refused; the text is what it said."""


def podman(
    *args: str, check: bool = True, stdin: bytes | None = None, timeout: float | None = 300
) -> str:
    """Run podman and return what it printed.

    Raises:
        PodmanError: podman's own words, when it failed and `check` is set.
    """
    done = subprocess.run(host.podman(*args), input=stdin, capture_output=True, timeout=timeout)
    if check and done.returncode:
        said = done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"
        raise PodmanError(f"podman {args[0]}: {said}")
    return done.stdout.decode(errors="replace")


def exists(kind: str, name: str) -> bool:
    """Whether podman knows a container, image, network or volume of that name."""
    command = ["podman", kind, "exists", name]
    return subprocess.run(command, capture_output=True).returncode == 0


def import_image(root: Path, name: str) -> None:
    """Make a podman image of a root file system, unless it is there already."""
    if exists("image", name):
        return
    tar = subprocess.Popen(
        ["tar", "--numeric-owner", "--xattrs", "-C", str(root), "-c", "."], stdout=subprocess.PIPE
    )
    done = subprocess.run(
        ["podman", "import", "-q", "-", name], stdin=tar.stdout, capture_output=True
    )
    if tar.wait() or done.returncode:
        raise PodmanError(f"podman import {name}: {done.stderr.decode(errors='replace').strip()}")


def create_network(name: str, subnet: str, internal: bool) -> None:
    """Give a rack its own switch; `internal` closes it to the outside.

    Podman's DNS stays off: a rack must find its nodes by what Salt writes, not by the lab.
    """
    if exists("network", name):
        return
    gate = ["--internal"] if internal else []
    podman("network", "create", *gate, "--disable-dns", "--subnet", subnet, "--label", LABEL, name)


@dataclass
class Node:
    """One simulated Pi of a rack."""

    rack: str
    id: str
    ip: str
    image: str
    network: str
    mounts: dict[Path, str] = field(default_factory=dict)

    @property
    def container(self) -> str:
        return f"{self.network}-{self.id}"

    def _volume(self, kind: str) -> str:
        return f"{self.container}-{kind}"

    def exists(self) -> bool:
        return exists("container", self.container)

    def running(self) -> bool:
        """Whether the Pi has power."""
        out = podman("inspect", "-f", "{{.State.Running}}", self.container, check=False)
        return out.strip() == "true"

    def create(self) -> None:
        """Put the Pi together (no power yet)."""
        label = f"{LABEL}={self.rack}"
        volumes: list[str] = []
        for kind, path in VOLUMES.items():
            if not exists("volume", self._volume(kind)):
                podman("volume", "create", "--label", label, self._volume(kind))
            volumes += ["-v", f"{self._volume(kind)}:{path}"]
        for source, target in self.mounts.items():
            volumes += ["-v", f"{source}:{target}"]
        podman(
            "create", "--name", self.container, "--hostname", self.id, "--label", label,
            "--privileged", "--cgroupns", "private", "--systemd=always",
            *host.ulimit_flags(),
            "--network", self.network, "--ip", self.ip,
            # The node's own /etc/hosts and resolv.conf, as on a card: not podman's.
            "--no-hosts", "--dns=none",
            "--sysctl", "net.ipv4.ip_forward=1",
            *volumes, self.image, *INIT,
        )  # fmt: skip

    def power_on(self) -> None:
        """Plug the power in and wait until systemd has a bus to talk to."""
        podman("start", self.container)
        self.wait_booted()

    def wait_booted(self, seconds: float = 180) -> None:
        """Wait for systemd to say that start-up is over (`degraded` counts: it is up)."""
        deadline = time.monotonic() + seconds
        state = ""
        while time.monotonic() < deadline:
            done = self.run("systemctl", "is-system-running", check=False)
            state = done.stdout.strip() or done.stderr.strip()
            if state in ("running", "degraded"):
                return
            if done.returncode > 100 and not self.running():
                raise PodmanError(
                    f"{self.id} died while it booted: the machine that carries it is out of something "
                    "(`./rack doctor` knows the usual limits)"
                )
            time.sleep(0.2)
        raise PodmanError(f"{self.id} did not boot within {seconds:.0f} s: systemd says {state!r}")

    def power_cut(self) -> None:
        """Pull the plug: every process dies at once, nothing is written any more."""
        podman("kill", "--signal", "KILL", self.container, check=False)
        podman("wait", self.container, check=False)

    def remove(self) -> None:
        """Take the Pi away with its card."""
        podman("rm", "--force", "--time", "0", self.container, check=False)
        for kind in VOLUMES:
            podman("volume", "rm", "--force", self._volume(kind), check=False)

    def journal(self) -> Path:
        """Where this machine has the node's journal, also while the Pi has no power."""
        out = podman("volume", "inspect", "-f", "{{.Mountpoint}}", self._volume("journal"))
        return Path(out.strip())

    def command(self, argv: Sequence[str], *, tty: bool = False, stdin: bool = False) -> list[str]:
        """The host command line that runs `argv` in the node."""
        flags = [*(["-i"] if stdin or tty else []), *(["-t"] if tty else [])]
        return ["podman", "exec", *flags, self.container, *argv]

    def run(
        self,
        *argv: str,
        check: bool = True,
        stdin: bytes | None = None,
        timeout: float | None = 600,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the node and return what it said.

        Raises:
            PodmanError: it failed and `check` is set.
        """
        done = subprocess.run(
            self.command(argv, stdin=stdin is not None),
            input=stdin,
            capture_output=True,
            timeout=timeout,
        )
        text = subprocess.CompletedProcess(
            argv,
            done.returncode,
            done.stdout.decode(errors="replace"),
            done.stderr.decode(errors="replace"),
        )
        if check and text.returncode:
            tail = "\n".join((text.stdout + text.stderr).strip().splitlines()[-15:])
            raise PodmanError(
                f"{self.id}: `{' '.join(argv)}` ended with {text.returncode}:\n{tail}"
            )
        return text

    def write(self, path: str, content: str, mode: str = "0644") -> None:
        """Put a file on the node, running or not."""
        staged = host.scratch_file(content, int(mode, 8))
        try:
            podman("cp", str(staged), f"{self.container}:{path}")
        finally:
            staged.unlink()

    def copy_tree(self, archive: bytes, target: str) -> None:
        """Unpack a tar archive into a directory of the running node."""
        self.run("mkdir", "-p", target)
        self.run("tar", "-x", "-C", target, "-f", "-", "--no-same-owner", stdin=archive)


def racks() -> list[str]:
    """Names of the racks that have containers."""
    out = podman("ps", "-a", "--filter", f"label={LABEL}", "--format", "json")
    found = {c["Labels"][LABEL] for c in json.loads(out or "[]") if c.get("Labels")}
    return sorted(found)
