"""The builder: a Debian 12 in which everything Debian-specific happens, whatever the host is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import host, rootfs
from lab.rootfs import Debian
from lab.store import Store

PACKAGES = (
    # compiling Kubernetes
    "dpkg-dev",
    "gcc",
    "git",
    "golang-github-modern-go-reflect2-dev",
    "golang-go",
    "libc6-dev",
    "make",
    "rsync",
    "which",
    # wheels for the nodes' Python
    "ca-certificates",
    "curl",
    "python3-dev",
    "python3-venv",
    # package repositories
    "apt-utils",
    "gnupg",
    "xz-utils",
    # images, and what goes into them
    "busybox-static",
    "conntrack",
    "containernetworking-plugins",
    "docker-registry",
    "ebtables",
    "etcd-client",
    "etcd-server",
    "ipset",
    "iptables",
    "kmod",
    "skopeo",
)


@dataclass(frozen=True)
class Box:
    """A root file system to run build commands in, each in a throw-away container over it."""

    store: Store
    root: Path

    def run(
        self,
        name: str,
        command: Sequence[str],
        *,
        step: str,
        mounts: Mapping[Path, str] | None = None,
        env: Mapping[str, str] | None = None,
        network: str = "host",
        on_line: Callable[[str], None] | None = None,
        stdin: str = "",
    ) -> str:
        """Run a command as root and return its output.

        ``name`` is the artefact it is for (log file, label); ``mounts`` maps paths of this machine
        to PATH or PATH:ro inside. What it writes elsewhere is gone afterwards. Raises StepFailed.
        """
        flags = ["--rm", "--interactive", "--network", network, "--label", self.store.label(name)]
        flags += ["--label", f"{host.LABEL}={self.store.cache}", *host.ulimit_flags()]
        for source, target in (mounts or {}).items():
            flags += ["--volume", f"{source}:{target}"]
        for key, value in (env or {}).items():
            flags += ["--env", f"{key}={value}"]
        podman = host.podman("run", *flags, "--rootfs", f"{self.root}:O", *command)
        log = self.store.log(name)
        return host.run(podman, step=step, log=log, on_line=on_line, stdin=stdin)


def ensure(store: Store, debian: Debian) -> Box:
    """The builder's root file system, made if it is not in the cache."""
    inputs = {
        "suite": rootfs.SUITE,
        "architecture": host.architecture(),
        "packages": PACKAGES,
        "layout": 1,
    }

    def build(partial: Path) -> None:
        root = partial / "root"
        rootfs.bootstrap(store, "builder", root, PACKAGES, debian)
        (root / "etc/apt/sources.list").write_text(debian.sources(source=True))

    text = "making the root file system to build in (a minute or two)"
    return Box(store, store.ensure("builder", inputs, build, text) / "root")
