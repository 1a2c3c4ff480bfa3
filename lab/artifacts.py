"""Everything a rack is built from, made once and cached: `ensure` is all that the CLI calls.

    cache/builder-HASH/root            Debian 12 to build in
    cache/key-HASH/                    the lab's own package signing key
    cache/node-HASH/root               the blank node
    cache/services-HASH/root       Debian 12 with the programs of services
    cache/kubernetes-HASH/bin          compiled programs
    cache/wheels-HASH/wheels           Salt and what it needs, for the nodes' Python
    cache/helm-HASH/helm               Helm for the control plane
    cache/apt-debian-HASH/debian       Debian's packages for the nodes
    cache/apt-kubernetes-HASH/kubernetes
    cache/registry-HASH/registry       storage of the image registry
    cache/mirror-HASH/                 the five above and keys/, as nfs1 serves them
    cache/log/, cache/lock/            output of the last build of each, and its lock

HASH stands for what the artefact is made from: change that, and it is made anew beside the old.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from lab import binaries, builder, host, images, packages, rootfs, service_images, wheels
from lab.rootfs import Debian
from lab.store import Progress, Store, remove_tree

__all__ = ["Artifacts", "Progress", "ensure", "remove"]

KEYRING = "/usr/share/keyrings/saltberry-lab.gpg"
"""Where a node keeps the public half of the lab's package key."""


@dataclass(frozen=True)
class Artifacts:
    """What `ensure` made. All directories are shared by all racks: mount them read-only."""

    node_root: Path
    """Root file system of a blank node."""
    mirror: Path
    """What nfs1 serves: wheels/ helm/ apt/debian/ apt/kubernetes/ keys/ registry/."""
    kubernetes_version: str
    """Version of the Kubernetes packages in the mirror; empty with ``upstream``."""
    package_revision: str
    """What follows the version in a package's version, without the dash."""
    key_sha256: str
    """SHA-256 of keys/kubernetes.asc."""
    images: list[str] = field(default_factory=list)
    """NAME:TAG of every image in the registry."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds that each artefact took now; about 0 for one that was there."""
    debian_sources: str = ""
    """sources.list of a node with internet: Debian itself, in place of ``apt_source``."""

    def apt_source(self, base: str) -> str:
        """The line for a node's sources.list; ``base`` is the mirror's URL (http: or file:)."""
        url = f"{base.rstrip('/')}/apt/debian"
        return f"deb [signed-by={KEYRING}] {url} {rootfs.SUITE} main"


def ensure(
    cache: Path,
    progress: Progress,
    *,
    mirror_url: str = Debian.mirror,
    kubernetes: str = binaries.VERSION,
    upstream: bool = False,
) -> Artifacts:
    """Make whatever is missing in the cache and return the whole.

    ``mirror_url`` is the Debian mirror to take packages from; ``upstream`` leaves Kubernetes' packages
    and images to the internet. Needs root. Raises StepFailed, which names the step and its log.
    """
    cache.mkdir(parents=True, exist_ok=True)
    store = Store(cache.resolve(), progress)
    debian = Debian(mirror_url)
    box = builder.ensure(store, debian)
    key = packages.signing_key(store, box)
    node = rootfs.node(store, debian, key / "saltberry-lab.gpg")
    parts = {
        "wheels": wheels.ensure(store, box),
        "helm": wheels.helm(store, box),
        "apt/debian": packages.debian_repository(store, box, node, key, debian),
    }
    wanted: list[str] = []
    if not upstream:
        programs = binaries.ensure(store, box, kubernetes)
        wanted = binaries.images(store, box, programs, kubernetes)
        parts["apt/kubernetes"] = packages.kubernetes_repository(
            store, box, programs, kubernetes, key
        )
        services = service_images.root(store, debian)
        more = service_images.definitions()
        parts["registry"] = images.registry(
            store, box, programs, wanted, services=services, more=more
        )
    return Artifacts(
        node_root=node,
        mirror=_mirror(store, parts, key),
        kubernetes_version="" if upstream else kubernetes,
        package_revision="" if upstream else packages.REVISION,
        key_sha256=packages.key_sha256(key),
        images=[] if upstream else [*wanted, images.TEST_IMAGE],
        seconds=store.seconds,
        debian_sources=debian.sources(),
    )


def _mirror(store: Store, parts: dict[str, Path], key: Path) -> Path:
    """One directory of all parts. Hard links: it costs no room, and a container sees real files."""
    inputs = {name: part.parent.name for name, part in parts.items()}
    inputs["key"] = packages.key_sha256(key)

    def build(partial: Path) -> None:
        for name, part in parts.items():
            shutil.copytree(part, partial / name, copy_function=os.link)
        keys = partial / "keys"
        keys.mkdir()
        # One key signs both; in a rack with upstream's packages this is upstream's key.
        shutil.copy(key / "saltberry-lab.asc", keys / "kubernetes.asc")
        shutil.copy(key / "saltberry-lab.gpg", keys / "saltberry-lab.gpg")

    return store.ensure("mirror", inputs, build, "putting the mirror together")


def remove(cache: Path) -> None:
    """Delete the cache, and the containers of builds that were killed."""
    if not cache.exists():
        return
    host.remove_containers([f"{host.LABEL}={cache.resolve()}"])
    remove_tree(cache)
