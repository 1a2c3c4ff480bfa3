"""Root file systems: the builder that everything is made in, and the blank node."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import host
from lab.store import Store, tree_contents

SUITE = "bookworm"
NODE_FILES = Path(__file__).resolve().parent / "node"

# A stock Raspberry Pi OS Lite, as far as Saltberry meets it: no Salt, no containerd, no kubelet.
NODE_PACKAGES = (
    "apt",
    "ca-certificates",
    "curl",
    "dbus",
    "e2fsprogs",
    "iproute2",
    "iputils-ping",
    "kmod",
    "less",
    "nano",
    "netbase",
    "openssh-server",
    "procps",
    "python3",
    "python3-venv",
    "rsync",
    "sudo",
    "systemd",
    "systemd-sysv",
    "udev",
)

# What nobody reads in a lab; dpkg keeps these rules, so packages installed later stay small too.
NODE_EXCLUDES = (
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/lintian/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
)

# A node is a privileged container: what these would touch is the machine's, not the node's.
_NODE_MASKED = (
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "console-getty.service",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@.service",
    "proc-sys-fs-binfmt_misc.automount",
    "run-rpc_pipefs.mount",
    "serial-getty@.service",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-binfmt.service",
    "systemd-journald-audit.socket",
    "systemd-logind.service",
    "systemd-udev-settle.service",
    "systemd-udev-trigger.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "systemd-udevd.service",
)

_NODE_ENABLED = ("lab-route.service", "saltberry-firstboot.service")


@dataclass(frozen=True)
class System:
    """Which Debian, and for which processor (in Debian's words, as amd64)."""

    suite: str = SUITE
    architecture: str = field(default_factory=host.architecture)

    def __str__(self) -> str:
        return f"{self.suite}, {self.architecture}"


@dataclass(frozen=True)
class Debian:
    """Where Debian comes from."""

    mirror: str = "http://deb.debian.org/debian"

    @property
    def security(self) -> str:
        """The security archive beside the mirror (Debian's own, and most mirrors', layout)."""
        base = self.mirror.rstrip("/")
        return f"{base}-security"

    def sources(self, *, signed_by: str = "", source: bool = False, suite: str = SUITE) -> str:
        """Lines for sources.list; ``source`` adds the source packages."""
        option = f"[signed-by={signed_by}] " if signed_by else ""
        lines = []
        for kind in ("deb", "deb-src") if source else ("deb",):
            lines += [
                f"{kind} {option}{self.mirror} {suite} main",
                f"{kind} {option}{self.mirror} {suite}-updates main",
                f"{kind} {option}{self.security} {suite}-security main",
            ]
        return "\n".join(lines) + "\n"


def keyring() -> str:
    """Path of Debian's archive keys on this machine (Ubuntu has them in a package of its own)."""
    for name in ("debian-archive-keyring.gpg", "debian-archive-keyring.pgp"):
        path = Path("/usr/share/keyrings") / name
        if path.exists():
            return str(path)
    raise host.StepFailed(
        "Debian's archive keys are not on this machine: apt-get install debian-archive-keyring"
    )


def bootstrap(
    store: Store,
    name: str,
    root: Path,
    packages: Sequence[str],
    debian: Debian,
    *,
    flags: Sequence[str] = (),
    system: System | None = None,
) -> None:
    """Fill ``root`` with Debian and the packages. Raises StepFailed with mmdebstrap's last words.

    This machine has to be able to run the system's programs (``emulation.ensure``).
    """
    system = system or System()
    root.mkdir()
    root.chmod(0o755)
    command = [
        "mmdebstrap",
        "--mode=root",
        "--variant=apt",
        f"--architectures={system.architecture}",
        f"--include={','.join(packages)}",
        *flags,
        system.suite,
        str(root),
    ]
    host.run(
        command,
        step=f"making the root file system {name} with mmdebstrap",
        log=store.log(name),
        stdin=debian.sources(signed_by=keyring(), suite=system.suite),
    )


def node(store: Store, debian: Debian, lab_keyring: Path, system: System | None = None) -> Path:
    """The blank node's root file system, trusting the lab's package key.

    It has no apt source: whoever creates a node writes the one of its rack.
    """
    system = system or System()
    inputs: dict[str, Any] = {
        "suite": system.suite,
        "architecture": system.architecture,
        "packages": NODE_PACKAGES,
        "excludes": NODE_EXCLUDES,
        "masked": _NODE_MASKED,
        "enabled": _NODE_ENABLED,
        "files": tree_contents(NODE_FILES),
        "keyring": lab_keyring.read_bytes().hex(),
    }

    def build(partial: Path) -> None:
        root = partial / "root"
        flags = [f"--dpkgopt=path-exclude={pattern}" for pattern in NODE_EXCLUDES]
        bootstrap(store, "node", root, NODE_PACKAGES, debian, flags=flags, system=system)
        _settle(root, lab_keyring)

    time = "about a minute" if system.architecture == host.architecture() else "about four minutes"
    text = f"making the blank node's root file system ({system}; {time})"
    return store.ensure("node", inputs, build, text) / "root"


def _settle(root: Path, lab_keyring: Path) -> None:
    """Turn a fresh Debian into a node that was never booted."""
    shutil.copytree(NODE_FILES, root, dirs_exist_ok=True)
    shutil.copy(lab_keyring, root / "usr/share/keyrings/saltberry-lab.gpg")
    units = root / "etc/systemd/system"
    for unit in _NODE_MASKED:
        _link(units / unit, "/dev/null")
    for unit in _NODE_ENABLED:
        _link(units / "multi-user.target.wants" / unit, f"/etc/systemd/system/{unit}")
    # systemd-sysctl would write Debian's values into the machine's own kernel. Only the vendors'
    # files are silenced: what Saltberry writes below /etc/sysctl.d is read.
    for file in sorted((root / "usr/lib/sysctl.d").glob("*.conf")):
        _link(root / "etc/sysctl.d" / file.name, "/dev/null")
    _link(root / "etc/sysctl.d/99-sysctl.conf", "/dev/null")
    # Each node makes its own identity at its first boot.
    (root / "etc/machine-id").write_text("")
    (root / "var/lib/dbus/machine-id").unlink(missing_ok=True)
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    # What mmdebstrap took over from this machine. Without a name server lookups fail at once;
    # with one that can't be reached, kubelet stands still for 10 s at each of them.
    (root / "etc/hostname").write_text("raspberrypi\n")
    (root / "etc/resolv.conf").write_text("")
    (root / "etc/resolv.conf").chmod(0o644)
    (root / "etc/apt/sources.list").write_text("")
    for directory in ("var/lib/apt/lists", "var/cache/apt/archives"):
        for left in (root / directory).glob("*"):
            if left.is_file():
                left.unlink()
    (root / "boot/firmware").mkdir(parents=True, exist_ok=True)


def _link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)
