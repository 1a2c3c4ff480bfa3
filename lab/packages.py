"""Two signed apt repositories: Debian's packages for the nodes, and Kubernetes as upstream packs it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import host, rootfs
from lab.builder import Box
from lab.rootfs import Debian
from lab.store import Store

REVISION = "1.1"
"""Package revision that upstream's repositories carry as well."""

# By what installs them. Each group is resolved on its own against the blank node, so that a
# dependency with alternatives is there for whoever installs only that group.
NODE_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "containerd": ("containerd", "runc"),
    "kubelet": (
        "conntrack",
        "ebtables",
        "ethtool",
        "ipset",
        "iproute2",
        "iptables",
        "mount",
        "socat",
        "util-linux",
    ),
    "docker": ("docker.io",),
    "firewall": ("nftables",),
    "metrics": ("prometheus-node-exporter",),
    "mirror": ("docker-registry", "nginx-light", "skopeo"),
    "storage server": ("e2fsprogs", "nfs-kernel-server", "rsync"),
    "storage client": ("e2fsprogs", "nfs-common", "rsync"),
    "admin": ("gnupg", "jq", "python3-venv"),
    # What bench.converge compares with needs it on the node; Raspberry Pi OS has it.
    "ansible": ("python3-apt",),
}

_KUBELET_UNIT = """\
[Unit]
Description=kubelet: The Kubernetes Node Agent
Documentation=https://kubernetes.io/docs/
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=/usr/bin/kubelet
Restart=always
StartLimitInterval=0
RestartSec=10

[Install]
WantedBy=multi-user.target
"""

# kubeadm relies on these names and paths, so they are upstream's to the letter.
_KUBEADM_DROP_IN = """\
[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/\
bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
# Written by "kubeadm init" and "kubeadm join" while they run.
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
# For the admin's own flags, as a last resort.
EnvironmentFile=-/etc/default/kubelet
ExecStart=
ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS \
$KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS
"""

# Like upstream's package: enabled, not started (kubeadm starts it once there is a configuration).
_KUBELET_POSTINST = """\
#!/bin/sh
set -e
if [ "$1" = configure ] && [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl enable --quiet kubelet.service
fi
"""


@dataclass(frozen=True)
class Package:
    """One .deb: its control fields and its files (path: source file, or text; PATH/: directory)."""

    name: str
    version: str
    description: str
    files: Mapping[str, Path | str]
    depends: tuple[str, ...] = ()
    conffiles: tuple[str, ...] = ()
    postinst: str = ""

    @property
    def file_name(self) -> str:
        return f"{self.name}_{self.version}_{host.architecture()}.deb"

    def control(self) -> str:
        """Text of the control file."""
        fields = {
            "Package": self.name,
            "Version": self.version,
            "Architecture": host.architecture(),
            "Maintainer": "Saltberry lab <lab@saltberry.invalid>",
            "Section": "admin",
            "Priority": "optional",
            "Homepage": "https://kubernetes.io",
            "Depends": ", ".join(self.depends),
            "Description": self.description,
        }
        return "".join(f"{key}: {value}\n" for key, value in fields.items() if value)

    def unpack(self, directory: Path) -> None:
        """Write the tree that dpkg-deb packs."""
        for path, content in self.files.items():
            target = directory / path.lstrip("/")
            if path.endswith("/"):
                target.mkdir(parents=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                shutil.copy(content, target)
                target.chmod(0o755)
            else:
                target.write_text(content)
                target.chmod(0o644)
        control = directory / "DEBIAN"
        control.mkdir(mode=0o755)
        (control / "control").write_text(self.control())
        if self.conffiles:
            (control / "conffiles").write_text("".join(f"{path}\n" for path in self.conffiles))
        if self.postinst:
            (control / "postinst").write_text(self.postinst)
            (control / "postinst").chmod(0o755)


def kubernetes_packages(
    version: str, programs: Path, cni_plugins: Path, cni_version: str
) -> list[Package]:
    """The five packages under upstream's names, in upstream's layout.

    ``programs`` holds the compiled binaries, ``cni_plugins`` those of the CNI project.
    """
    full = f"{version}-{REVISION}"
    minor = ".".join(version.split(".")[:2])
    return [
        Package(
            name="kubelet",
            version=full,
            description="Node agent for Kubernetes clusters",
            depends=(
                "iptables (>= 1.4.21)",
                "kubernetes-cni (>= 0.8.7)",
                "iproute2",
                "socat",
                "mount",
                "util-linux",
                "ebtables",
                "ethtool",
                "conntrack",
                "libc6",
            ),
            files={
                "/usr/bin/kubelet": programs / "kubelet",
                "/usr/lib/systemd/system/kubelet.service": _KUBELET_UNIT,
                "/etc/default/kubelet": "KUBELET_EXTRA_ARGS=\n",
                # Owned and empty: kubeadm refuses to join over anything in manifests.
                "/etc/kubernetes/manifests/": "",
                "/var/lib/kubelet/": "",
            },
            conffiles=("/etc/default/kubelet",),
            postinst=_KUBELET_POSTINST,
        ),
        Package(
            name="kubeadm",
            version=full,
            description="Command-line utility for administering a Kubernetes cluster",
            depends=(
                "kubelet (>= 1.13.0)",
                "kubectl (>= 1.13.0)",
                "kubernetes-cni (>= 0.8.7)",
                "cri-tools (>= 1.13.0)",
            ),
            files={
                "/usr/bin/kubeadm": programs / "kubeadm",
                "/usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf": _KUBEADM_DROP_IN,
            },
        ),
        Package(
            name="kubectl",
            version=full,
            description="Command-line utility for interacting with a Kubernetes cluster",
            files={"/usr/bin/kubectl": programs / "kubectl"},
        ),
        Package(
            name="cri-tools",
            version=f"{minor}.0-{REVISION}",
            description="Command-line utility for the CRI (the lab's own subset of crictl)",
            files={"/usr/bin/crictl": programs / "crictl"},
        ),
        Package(
            name="kubernetes-cni",
            version=f"{cni_version}-{REVISION}",
            description="Binaries of the CNI plugins",
            depends=("libc6",),
            files={
                f"/opt/cni/bin/{plugin.name}": plugin for plugin in sorted(cni_plugins.iterdir())
            },
        ),
    ]


def signing_key(store: Store, box: Box) -> Path:
    """Directory with the lab's own package key, made once per cache.

    home/ is its gpg home, saltberry-lab.gpg and saltberry-lab.asc the public key.
    """

    def build(partial: Path) -> None:
        (partial / "home").mkdir(mode=0o700)
        script = """
            set -e
            export GNUPGHOME=/key/home
            gpg --batch --quiet --passphrase '' --quick-generate-key \
                'Saltberry lab <lab@saltberry.invalid>' rsa3072 sign never
            gpg --batch --export >/key/saltberry-lab.gpg
            gpg --batch --export --armor >/key/saltberry-lab.asc
            gpgconf --kill all
        """
        box.run(
            "key",
            ["bash", "-c", script],
            step="making the lab's package key",
            mounts={partial: "/key"},
            network="none",
        )

    return store.ensure("key", {"type": "rsa3072"}, build, "making the lab's package key")


def key_sha256(key: Path) -> str:
    """SHA-256 of the armored public key, as a user would pin it."""
    return hashlib.sha256((key / "saltberry-lab.asc").read_bytes()).hexdigest()


def debian_repository(store: Store, box: Box, node: Path, key: Path, debian: Debian) -> Path:
    """An apt repository with everything that the states install on a blank node, and no more.

    Laid out like a Debian mirror (dists/SUITE, pool/main), so that its apt line looks like one.
    """
    inputs: dict[str, Any] = {
        "suite": rootfs.SUITE,
        "architecture": host.architecture(),
        "packages": dict(NODE_PACKAGES),
        "node": node.parent.name,
        "key": key_sha256(key),
        "recommends": False,
    }

    def build(partial: Path) -> None:
        pool = partial / "debian/pool/main"
        pool.mkdir(parents=True)
        _download(Box(store, node), pool, debian)
        arch = host.architecture()
        index = f"dists/{rootfs.SUITE}/main/binary-{arch}"
        (partial / "debian" / index).mkdir(parents=True)
        fields = {
            "Origin": "Debian",
            "Label": "Saltberry lab",
            "Suite": rootfs.SUITE,
            "Codename": rootfs.SUITE,
            "Architectures": arch,
            "Components": "main",
        }
        script = f"""
            apt-ftparchive packages pool >{index}/Packages
            gzip -n -k -1 {index}/Packages
        """ + _sign(f"dists/{rootfs.SUITE}", fields)
        _in_repository(box, "apt-debian", partial / "debian", key, script)

    text = "collecting Debian's packages for the nodes"
    return store.ensure("apt-debian", inputs, build, text) / "debian"


def _download(blank: Box, pool: Path, debian: Debian) -> None:
    """Let the blank node's own apt say what it would need, and fetch just that."""
    # Without what is only recommended: apt on a node then leaves that out by itself.
    options = (
        "--yes --no-install-recommends "
        "-o APT::Sandbox::User=root -o Debug::NoLocking=true -o Dir::Cache::Archives=/pool"
    )
    lines = ["set -e", "cat >/etc/apt/sources.list", "mkdir -p /pool/partial", "apt-get update"]
    for packages in NODE_PACKAGES.values():
        lines.append(f"apt-get {options} --download-only install {' '.join(packages)}")
    lines.append("rm -rf /pool/partial /pool/lock")
    blank.run(
        "apt-debian",
        ["bash", "-c", "\n".join(lines)],
        step="downloading Debian's packages for the nodes",
        mounts={pool: "/pool"},
        env={"DEBIAN_FRONTEND": "noninteractive"},
        stdin=debian.sources(),
    )


def kubernetes_repository(store: Store, box: Box, programs: Path, version: str, key: Path) -> Path:
    """An apt repository like upstream's for one minor version: flat, ``deb URL /``."""
    inputs = {
        "architecture": host.architecture(),
        "programs": programs.parent.name,
        "builder": box.root.parent.name,
        "key": key_sha256(key),
        "packages": [
            (package.control(), sorted(package.files), package.postinst, package.conffiles)
            for package in kubernetes_packages(version, programs, box.root / "usr/lib/cni", "")
        ],
        "units": [_KUBELET_UNIT, _KUBEADM_DROP_IN],
        "layout": 1,
    }

    def build(partial: Path) -> None:
        repository = partial / "kubernetes"
        repository.mkdir()
        staging = partial / "staging"
        cni_version = _upstream_version(box, "containernetworking-plugins")
        packages = kubernetes_packages(version, programs, box.root / "usr/lib/cni", cni_version)
        lines = [f"mkdir {host.architecture()}"]
        for package in packages:
            package.unpack(staging / package.name)
            target = f"{host.architecture()}/{package.file_name}"
            # Quick to unpack: the packages only cross a bridge inside this machine.
            lines.append(
                "dpkg-deb --root-owner-group -Zzstd -z3 "
                f"--build /staging/{package.name} {target} >/dev/null"
            )
        fields = {"Origin": "Saltberry lab", "Label": "Kubernetes", "Suite": "stable"}
        fields["Architectures"] = host.architecture()
        lines += [
            f"apt-ftparchive packages {host.architecture()} >Packages",
            "gzip -n -k -1 Packages",
        ]
        script = "\n".join(lines) + "\n" + _sign(".", fields)
        _in_repository(
            box, "apt-kubernetes", repository, key, script, mounts={staging: "/staging:ro"}
        )
        shutil.rmtree(staging)

    text = "packing Kubernetes"
    return store.ensure("apt-kubernetes", inputs, build, text) / "kubernetes"


def _upstream_version(box: Box, package: str) -> str:
    """Version of a package in the builder without Debian's additions, as 1.1.1."""
    said = box.run(
        "apt-kubernetes",
        ["dpkg-query", "--show", "--showformat=${source:Upstream-Version}", package],
        step=f"asking for the version of {package}",
    )
    return said.strip().split("+")[0]


def _sign(directory: str, fields: Mapping[str, str]) -> str:
    """Shell lines that write a Release file for a directory and sign it."""
    options = " ".join(
        f"-o 'APT::FTPArchive::Release::{name}={value}'" for name, value in fields.items()
    )
    return f"""
        apt-ftparchive {options} release {directory} >/tmp/Release
        mv /tmp/Release {directory}/Release
        gpg --batch --yes --clearsign --output {directory}/InRelease {directory}/Release
        gpg --batch --yes --armor --detach-sign --output {directory}/Release.gpg {directory}/Release
        gpgconf --kill all
    """


def _in_repository(
    box: Box,
    name: str,
    repository: Path,
    key: Path,
    script: str,
    *,
    mounts: Mapping[Path, str] | None = None,
) -> None:
    """Run shell lines in the repository's directory, with the signing key at hand."""
    box.run(
        name,
        ["bash", "-c", f"set -e\ncd /repository\n{script}"],
        step=f"signing the repository {name}",
        mounts={repository: "/repository", key / "home": "/key", **(mounts or {})},
        env={"GNUPGHOME": "/key"},
        network="none",
    )
