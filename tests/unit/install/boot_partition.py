"""Boot partitions as the stock images have them, as far as a card's writer looks; also on real FAT."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from lab import doctor

CMDLINE = "console=serial0,115200 console=tty1 root=PARTUUID=4d5f2fa9-02 rootfstype=ext4 fsck.repair=yes rootwait"
_COMMON = {
    "config.txt": "# For more options and information see\n# http://rptl.io/configtxt\narm_64bit=1\n",
    "kernel8.img": "kernel",
    "kernel_2712.img": "kernel",
    "initramfs8": "initramfs",
    "initramfs_2712": "initramfs",
    "issue.txt": "Raspberry Pi reference 2025-05-13\nGenerated using pi-gen, stage2\n",
}
TRIXIE = {
    **_COMMON,
    "cmdline.txt": f"{CMDLINE} resize\n",
    "meta-data": "dsmode: local\ninstance_id: rpios-image\n",
    "network-config": "network:\n  version: 2\n  ethernets:\n    eth0: {dhcp4: true, optional: true}\n",
    "user-data": "#cloud-config\n# nothing yet\n",
}
BOOKWORM = {
    **_COMMON,
    "cmdline.txt": f"{CMDLINE} quiet init=/usr/lib/raspberrypi-sys-mods/firstboot\n",
}
BITS32 = {**BOOKWORM, "kernel7.img": "kernel", "kernel7l.img": "kernel", "initramfs7": "initramfs"}
BULLSEYE = {key: value for key, value in BOOKWORM.items() if not key.startswith("initramfs")}
UBUNTU = {
    key: value for key, value in TRIXIE.items() if not key.startswith(("kernel", "initramfs"))
} | {"vmlinuz": "kernel"}

# By package, a program that it brings
TOOLS = {"mtools": "mcopy", "dosfstools": "mkfs.vfat", "fdisk": "sfdisk"}
START = 8192  # sectors, as on the images
SIZE = 48  # MiB


def fill(folder: Path, files: Mapping[str, str]) -> Path:
    """Write the files of a partition into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def image(path: Path, files: Mapping[str, str], work: Path) -> Path:
    """Make an image of a disk: a partition table, a FAT32 partition with the files, a Linux partition."""
    if doctor.missing_packages(TOOLS) and os.geteuid() != 0:
        pytest.skip(f"FAT images want {', '.join(doctor.missing_packages(TOOLS))}")
    doctor.install_packages(TOOLS)
    size = (START + SIZE * 2048 + 2048) * 512
    with path.open("wb") as stream:
        stream.truncate(size)
    table = (
        f"label: dos\nstart={START}, size={SIZE * 2048}, type=c\n"
        f"start={START + SIZE * 2048}, type=83\n"
    )
    subprocess.run(["sfdisk", "-q", path], input=table, text=True, check=True)
    make = ["mkfs.vfat", "-F", "32", "-n", "bootfs", "--offset", str(START), path, str(SIZE * 1024)]
    subprocess.run(make, check=True, capture_output=True)
    fill(work, files)
    names = [str(work / name) for name in files]
    mtools(path, "mcopy", *names, "::/")
    return path


def mtools(path: Path, program: str, *args: str) -> str:
    """Run a program of mtools on the image's FAT partition."""
    done = subprocess.run(
        [program, "-i", f"{path}@@{START * 512}", *args],
        env={**os.environ, "MTOOLSRC": os.devnull},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def unpack(path: Path, folder: Path) -> Path:
    """Copy everything off the image's FAT partition."""
    folder.mkdir()
    mtools(path, "mcopy", "-s", "-n", "::/", str(folder))
    return folder
