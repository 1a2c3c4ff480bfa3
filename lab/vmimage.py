"""The disk that virtual machines start from: a Debian 12 with a kernel of its own and Salt.

The nodes of `./rack` share the kernel of the machine that carries them, which may have no NFS. What
needs a kernel NFS server, a mount of it or a real boot runs in virtual machines (lab/vm.py).
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from lab import host, rootfs
from lab.packages import NODE_PACKAGES
from lab.rootfs import Debian
from lab.store import Store, contents

DISK_SIZE = "4G"
CHECKOUT = Path(__file__).resolve().parent.parent
REPO = "/srv/saltberry/repo"
CHECKOUT_SIZE = "32M"
# What a machine needs to be one, and to be talked to.
SYSTEM_PACKAGES = (
    "apt",
    "busybox-static",
    "dbus",
    "e2fsprogs",
    "initramfs-tools",
    "iproute2",
    "iputils-ping",
    "kmod",
    "netbase",
    "openssl",
    "procps",
    "python3",
    "python3-venv",
    "qemu-guest-agent",
    "systemd",
    "systemd-sysv",
    "udev",
    "zstd",
)
# The states find their packages installed: the machines have no way to a mirror.
COMPONENTS = ("containerd", "docker", "mirror", "storage client", "storage server")
# What the states enable, so that they have something to do; and what only costs time.
DISABLED = (
    "containerd.service",
    "docker-registry.service",
    "docker.service",
    "docker.socket",
    "nfs-blkmap.service",
    "nfs-client.target",
    "nfs-server.service",
    "nginx.service",
    "rpc-statd-notify.service",
    "rpcbind.service",
    "rpcbind.socket",
    "salt-minion.service",
)
MASKED = (
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@tty1.service",
    "serial-getty@ttyS0.service",
    "systemd-binfmt.service",
    "systemd-timesyncd.service",
    "systemd-update-utmp.service",
)
ENABLED = (
    "systemd-networkd.service",
    "systemd-network-generator.service",
    "qemu-guest-agent.service",
)
# A machine gets a name and an address of its own when it is first switched on (lab/vm.py).
FILES = {
    "etc/fstab": "/dev/vda / ext4 noatime 0 1\n",
    "etc/systemd/network/10-lab.network": (
        "[Match]\nName=eth0\n[Network]\nAddress=192.168.78.254/24\nLinkLocalAddressing=no\n"
    ),
    "etc/hostname": "raspberrypi\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/machine-id": "",
    "etc/resolv.conf": "",
    "etc/apt/sources.list": "",
    "etc/initramfs-tools/conf.d/saltberry": "MODULES=list\nCOMPRESS=zstd\n",
    "etc/initramfs-tools/modules": "virtio_pci\nvirtio_blk\next4\n",
    "etc/modules-load.d/saltberry-lab.conf": "virtio_console\nvirtio_net\n",
    # Some images have the agent's unit wait for a udev event that came before it was listening.
    "etc/systemd/system/qemu-guest-agent.service.d/saltberry-lab.conf": (
        "[Unit]\nBindsTo=\nAfter=\nAfter=systemd-modules-load.service\n"
        "[Service]\nRestart=always\nRestartSec=1\n"
    ),
}  # fmt: skip
# Salt as a node gets it, and Python's byte code, which under emulation takes minutes to make.
SCRIPT = """
set -e
update-initramfs -u -k all
bash /checkout/install/minion.sh --id raspberrypi --master nfs1 --wheels /wheels --no-start
/opt/saltberry/salt/bin/python -m compileall -q -j 2 /opt/saltberry/salt/lib >/dev/null || true
python3 -m compileall -q /usr/lib/python3.11 >/dev/null || true
systemctl disable --quiet @DISABLED@
systemctl mask --quiet @MASKED@
systemctl enable --quiet @ENABLED@
rm -f /var/lib/dbus/machine-id
"""


def kernel_package() -> str:
    """Debian's kernel for virtual machines of this architecture."""
    return f"linux-image-cloud-{host.architecture()}"


def packages() -> list[str]:
    """Everything that is installed in the image."""
    parts = [name for component in COMPONENTS for name in NODE_PACKAGES[component]]
    return sorted({*SYSTEM_PACKAGES, *parts, kernel_package()})


def ensure(store: Store, debian: Debian, wheels: Path) -> Path:
    """Directory with disk.raw (one ext4, no partitions), vmlinuz and initrd.

    ``wheels`` is what install/minion.sh installs Salt from. Raises StepFailed.
    """
    install = CHECKOUT / "install"
    inputs: dict[str, Any] = {
        "suite": rootfs.SUITE,
        "architecture": host.architecture(),
        "packages": packages(),
        "size": DISK_SIZE,
        "files": FILES,
        "script": _script(),
        "wheels": wheels.parent.name,
        "installer": contents(install / "minion.sh", CHECKOUT / "etc/minion.d/saltberry.conf.in"),
    }

    def build(partial: Path) -> None:
        root = partial / "root"
        flags = [f"--dpkgopt=path-exclude={pattern}" for pattern in rootfs.NODE_EXCLUDES]
        rootfs.bootstrap(store, "vm", root, packages(), debian, flags=flags)
        _settle(store, root, install, wheels)
        for name in ("vmlinuz", "initrd"):
            (found,) = (root / "boot").glob(f"{name}*-cloud-*")
            shutil.copy(found, partial / name)
        make_disk(partial / "disk.raw", root, DISK_SIZE, "saltberry-root", store.log("vm"))
        shutil.rmtree(root)

    return store.ensure("vm", inputs, build, "making the virtual machines' disk (two minutes)")


def make_disk(disk: Path, tree: Path, size: str, label: str, log: Path | None = None) -> None:
    """Write a sparse ext4 disk of ``size`` (as 4G) with the files below ``tree``."""
    host.run(
        ["mkfs.ext4", "-q", "-F", "-L", label, "-E", "root_owner=0:0", "-d", str(tree), str(disk), size],
        step=f"writing the disk {disk.name}",
        log=log,
    )  # fmt: skip


def checkout_disk(directory: Path) -> Path:
    """A disk with this checkout as git has it, with what is new and not ignored."""
    listed = subprocess.run(
        ["git", "-C", str(CHECKOUT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True, capture_output=True, text=True,
    ).stdout.split("\0")  # fmt: skip
    tree = directory / "checkout"
    for name in filter(None, listed):
        source, target = CHECKOUT / name, tree / name
        if source.is_symlink() or source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    tree.chmod(0o755)
    disk = directory / "checkout.raw"
    make_disk(disk, tree, CHECKOUT_SIZE, "saltberry-repo")
    shutil.rmtree(tree)
    return disk


def _script() -> str:
    names = {"DISABLED": DISABLED, "MASKED": MASKED, "ENABLED": ENABLED}
    text = SCRIPT
    for name, units in names.items():
        text = text.replace(f"@{name}@", " ".join(units))
    return text


def _settle(store: Store, root: Path, install: Path, wheels: Path) -> None:
    """Turn a fresh Debian into a machine that was never booted, with Salt but without an id."""
    _write_files(root)
    for name in (
        REPO.lstrip("/"),
        *(f"srv/saltberry/{part}" for part in ("lower", "upper", "work")),
    ):
        (root / name).mkdir(parents=True, exist_ok=True)
    # minion.sh looks for the configuration in the checkout around it.
    mounts = {
        install: "/checkout/install:ro",
        CHECKOUT / "etc": "/checkout/etc:ro",
        wheels: "/wheels:ro",
    }
    volumes = [f"--volume={source}:{target}" for source, target in mounts.items()]
    labels = ["--label", store.label("vm"), "--label", f"{host.LABEL}={store.cache}"]
    host.run(
        host.podman(
            "run", "--rm", "--network", "none", *labels, *host.ulimit_flags(), *volumes,
            "--rootfs", str(root), "bash", "-c", _script(),
        ),
        step="installing Salt in the virtual machines' disk",
        log=store.log("vm"),
    )  # fmt: skip
    # Podman leaves its mount points, and its own hosts file.
    for name in ("checkout/install", "checkout/etc", "checkout", "wheels"):
        (root / name).rmdir()
    _write_files(root)
    for directory in ("var/lib/apt/lists", "var/cache/apt/archives"):
        for left in (root / directory).glob("*"):
            if left.is_file():
                left.unlink()


def _write_files(root: Path) -> None:
    for name, content in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(content)
