"""What this machine lacks to carry a rack, in plain words and with the fix."""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

# Debian 12, Debian 13 and Ubuntu 24.04 all carry these.
PACKAGES = {
    "podman": "podman",
    "conmon": "conmon",
    "netavark": "/usr/lib/podman/netavark",
    "iptables": "iptables",
    "mmdebstrap": "mmdebstrap",
    "rsync": "rsync",
    "debian-archive-keyring": "/usr/share/keyrings/debian-archive-keyring.gpg",
    "openssl": "openssl",
}
# Virtual machines, which only `make vm` and bench/card start.
_QEMU = {
    "x86_64": {"qemu-system-x86": "qemu-system-x86_64"},
    "aarch64": {"qemu-system-arm": "qemu-system-aarch64"},
}
# crun refuses the hybrid cgroup layout ("cgroups in hybrid mode not supported"); runc runs on all.
RUNTIME = {"runc": "runc"}
LOCK = Path("/run/lock/saltberry-apt")
INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
INOTIFY_INSTANCES = 1024
DISK_GIB = 20
MEMORY_GIB = 6
RELEASES = {("debian", "12"), ("debian", "13"), ("ubuntu", "24.04")}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or doubtful, and what to do about it."""

    fatal: bool
    text: str
    fix: str


def vm_packages() -> dict[str, str]:
    """What virtual machines need beside a rack's packages; values as in PACKAGES."""
    tools = {"qemu-utils": "qemu-img", "e2fsprogs": "mkfs.ext4"}
    return {**_QEMU.get(platform.machine(), {}), **tools}


def missing_packages(wanted: Mapping[str, str] | None = None) -> list[str]:
    """Debian packages that this machine has not got, of those wanted.

    Args:
        wanted: by package, a program or a file (absolute) that it brings; default: what a rack needs.
    """
    found = []
    for package, proof in ({**PACKAGES, **RUNTIME} if wanted is None else wanted).items():
        there = Path(proof).exists() if proof.startswith("/") else shutil.which(proof)
        if not there:
            found.append(package)
    return found


def raise_limits() -> None:
    """Give the nodes inotify handles: each systemd and kubelet holds some, and the usual 128 are
    used up by a dozen nodes, which then die while they boot. Lasts until this machine restarts."""
    if int(INOTIFY.read_text()) < INOTIFY_INSTANCES:
        INOTIFY.write_text(f"{INOTIFY_INSTANCES}\n")


def install_packages(wanted: Mapping[str, str] | None = None) -> None:
    """Install what `missing_packages` names.

    Raises:
        subprocess.CalledProcessError: apt-get failed; its words are in `.output`.
    """
    missing = missing_packages(wanted)
    if not missing:
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # apt does not wait for another one that reads the lists, and suites of tests run side by side
    with LOCK.open("w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (
            ["apt-get", "update", "-qq"],
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing],
        ):
            subprocess.run(
                command, env=environment, check=True, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip


def examine(directory: Path) -> list[Finding]:
    """Everything that keeps (fatal) or may keep a rack from running here.

    Args:
        directory: where the lab keeps its caches; its file system must have the room.
    """
    return [finding for check in CHECKS for finding in check(directory)]


def _root(_: Path) -> Iterator[Finding]:
    if os.geteuid() != 0:
        yield Finding(
            True, "not running as root", "run it with sudo: nodes are privileged containers"
        )


def _release(_: Path) -> Iterator[Finding]:
    system = platform.freedesktop_os_release()
    here = (system.get("ID", "?"), system.get("VERSION_ID", "?"))
    if here not in RELEASES:
        yield Finding(
            False,
            f"this is {system.get('PRETTY_NAME', here)}; Debian 12, Debian 13 and Ubuntu 24.04 are known to work",
            "go on if you like; missing packages are the likely trouble",
        )
    if platform.machine() not in ("x86_64", "aarch64"):
        yield Finding(
            True, f"{platform.machine()} is not a 64-bit PC or Pi", "use x86_64 or aarch64"
        )


def _packages(_: Path) -> Iterator[Finding]:
    missing = missing_packages()
    if missing:
        yield Finding(
            False,
            f"not installed: {', '.join(missing)}",
            f"`./rack up` installs them, or: apt-get install {' '.join(missing)}",
        )


def _room(directory: Path) -> Iterator[Finding]:
    place = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(place).free / 2**30
    if free < DISK_GIB:
        yield Finding(
            True,
            f"{place} has {free:.0f} GiB free; building Kubernetes and four nodes take {DISK_GIB} GiB",
            "make room, or set SALTBERRY_CACHE to a directory on a larger disk",
        )


def _memory(_: Path) -> Iterator[Finding]:
    text = Path("/proc/meminfo").read_text()
    total = int(text.split("MemTotal:")[1].split()[0]) / 2**20
    if total < MEMORY_GIB:
        yield Finding(
            False,
            f"{total:.1f} GiB of memory; the rack of the README uses about 4, building Kubernetes 6",
            "close other programs, or run a smaller rack",
        )
    if len(Path("/proc/swaps").read_text().splitlines()) > 1:
        yield Finding(
            False,
            "this machine has swap, which every node then sees; kubelet refuses to start with it",
            "`swapoff -a` while the rack is up",
        )


def _handles(_: Path) -> Iterator[Finding]:
    if int(INOTIFY.read_text()) < INOTIFY_INSTANCES:
        yield Finding(
            False,
            f"fs.inotify.max_user_instances is {INOTIFY.read_text().strip()}, enough for about ten nodes",
            f"`./rack up` sets it until the next restart: sysctl fs.inotify.max_user_instances={INOTIFY_INSTANCES}",
        )


def _overlay(_: Path) -> Iterator[Finding]:
    if "overlay" not in Path("/proc/filesystems").read_text():
        yield Finding(True, "the kernel has no overlay file system", "`modprobe overlay`")


def _firewall(_: Path) -> Iterator[Finding]:
    if shutil.which("iptables") is None:
        return  # a fresh machine: `_packages` names it, `./rack up` installs it
    nat = subprocess.run(["iptables", "-t", "nat", "-S"], capture_output=True)
    if nat.returncode:
        yield Finding(
            True,
            f"iptables has no nat table: {nat.stderr.decode().strip()}",
            "`modprobe ip_tables iptable_nat nf_nat`; kube-proxy can't work without it",
        )
    bridged = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if bridged.exists() and bridged.read_text().strip() == "1":
        policy = subprocess.run(
            ["iptables", "-S", "FORWARD"], capture_output=True, text=True
        ).stdout
        if "-P FORWARD DROP" in policy:
            yield Finding(
                False,
                "bridged packets pass this machine's firewall, which drops what it does not know "
                "(docker sets this up); pods on different nodes may not reach each other",
                "`sysctl net.bridge.bridge-nf-call-iptables=0` while the rack is up",
            )


def _source(_: Path) -> Iterator[Finding]:
    if platform.machine() == "aarch64":
        yield Finding(
            False, "the lab has been tried on x86_64 only", "tell us how it went on arm64"
        )


CHECKS = (_root, _release, _packages, _room, _memory, _handles, _overlay, _firewall, _source)
