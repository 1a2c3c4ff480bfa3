#!/usr/bin/env python3
"""Write a Pi's card onto the boot partition of a stock Raspberry Pi OS Lite (64-bit) image.

    python3 card.py pi-07.card /media/you/bootfs       # the mounted boot partition of an SD card
    python3 card.py pi-07.card raspios-lite.img        # an image file, before it goes onto a card
    python3 card.py pi-07.card /dev/sdX                # a card that is in the reader and not mounted

The salt-master makes the file pi-07.card (``salt-run enrol.card pi-07 bundle=pi-07.card``). It is as
secret as a house key: it opens the rack for one Pi until that Pi has started. Delete it afterwards.

Needs Python 3.9 or newer and nothing else; for images and unmounted cards also mtools. Which way the
image starts things is read from the partition: cloud-init (Trixie), or a first-run script
(Bookworm). A partition that is neither is refused, and nothing is written to it. An empty folder gets
the card's own folder alone, to be carried to a boot partition by hand.

Options: --force replaces a card that is there already. Exit code 1 with one plain line on standard
error when nothing was written, 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FORMAT = 1
FOLDER = "saltberry"
# Where Raspberry Pi OS mounts the partition since Bookworm
MOUNTED_AT = "/boot/firmware"
# What each form of Raspberry Pi OS starts at its first boot
CLOUD_INIT, FIRST_RUN, PLAIN = "cloud-init", "first-run", "plain"
STARTS = {
    CLOUD_INIT: "cloud-init starts it at the first boot",
    FIRST_RUN: "the first boot runs firstrun.sh, restarts, and then starts it",
    PLAIN: f"an empty folder: copy {FOLDER}/ to a boot partition, and run"
    f" sudo bash {MOUNTED_AT}/{FOLDER}/firstboot.sh on the Pi",
}
# The memory cgroup, which the Pi's firmware turns off and kubelet needs. With the flags on the card
# from the start, the Pi needs no restart for them.
BOOT_FLAGS = ("cgroup_enable=memory", "cgroup_memory=1")
FIRST_RUN_FLAGS = (
    f"systemd.run={MOUNTED_AT}/firstrun.sh",
    "systemd.run_success_action=reboot",
    "systemd.unit=kernel-command-line.target",
)
# Groups of the first user of Raspberry Pi OS
GROUPS = "users,adm,dialout,audio,netdev,video,plugdev,cdrom,games,input,gpio,spi,i2c,render,sudo"
FAT_TYPES = (0x01, 0x04, 0x06, 0x0B, 0x0C, 0x0E)
SECTOR = 512


class CardError(Exception):
    """No card was written; the text says why and what to do."""


# --- the file that the master made -----------------------------------------------------------------


def read_bundle(path: Path) -> dict[str, Any]:
    """Read what the master made for one Pi.

    Raises:
        CardError: it cannot be read, or is no such file.
    """
    try:
        bundle = json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise CardError(f"{path} cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise CardError(f"{path} is no file made by salt-run enrol.card") from exc
    check_bundle(bundle, str(path))
    return bundle


def check_bundle(bundle: Any, name: str) -> None:
    """Refuse what was not made by ``enrol.card``, or by another version of it."""
    if not isinstance(bundle, dict) or "saltberry" not in bundle:
        raise CardError(f"{name} is no file made by salt-run enrol.card")
    if bundle["saltberry"] != FORMAT:
        raise CardError(
            f"{name} has format {bundle['saltberry']!r}, this program writes format {FORMAT}:"
            " take the card.py that lies beside it"
        )
    odd = [
        name for name in bundle["files"] if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name)
    ]
    if odd:
        raise CardError(f"{name} names a file that no card has: {odd[0]!a}")


# --- boot partitions -------------------------------------------------------------------------------


class Folder:
    """A boot partition that is mounted, or any folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def names(self) -> set[str]:
        """Return the names at the top of the partition."""
        # What a system leaves on any medium that was mounted is nobody's content
        litter = {"System Volume Information", "lost+found"}
        return {
            path.name
            for path in self.path.iterdir()
            if path.name not in litter and not path.name.startswith(".")
        }

    def read(self, name: str) -> str:
        """Return a file's text."""
        return (self.path / name).read_text(encoding="utf-8", errors="replace")

    def write(self, name: str, text: str) -> None:
        """Replace a file in one step."""
        new = self.path / f".{name}.new"
        new.unlink(missing_ok=True)
        write_file(new, text)
        new.replace(self.path / name)
        self._flush()

    def put_folder(self, name: str, files: Mapping[str, str]) -> None:
        """Put a folder there, whole or not at all; one of that name goes."""
        staging = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=self.path))
        try:
            # mkdtemp made it 0700. On a card (vfat) modes are the mount's.
            write_files(staging, files)
            folder = self.path / name
            if folder.exists():
                shutil.rmtree(folder)
            staging.rename(folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        self._flush()

    def _flush(self) -> None:
        handle = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class Fat:
    """A FAT partition inside an image file or an unmounted device, through mtools."""

    def __init__(self, path: Path, offset: int) -> None:
        self.path = path
        self.drive = f"{path}@@{offset}"

    def __str__(self) -> str:
        return f"the boot partition in {self.path}"

    def _run(self, program: str, *args: str) -> str:
        # No configuration of this machine's: drive letters in it could point elsewhere
        environment = {**os.environ, "MTOOLSRC": os.devnull, "LC_ALL": "C.UTF-8"}
        command = [program, "-i", self.drive, *args]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            said = " ".join((done.stderr or done.stdout).split())[-300:]
            raise CardError(f"{self}: {program} says: {said}")
        return done.stdout

    def names(self) -> set[str]:
        """Return the names at the top of the partition."""
        listed = self._run("mdir", "-b", "::/").splitlines()
        return {line.strip().removeprefix("::/").rstrip("/") for line in listed if line.strip()}

    def read(self, name: str) -> str:
        """Return a file's text."""
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "file"
            self._run("mcopy", "-n", f"::/{name}", str(copy))
            return copy.read_text(encoding="utf-8", errors="replace")

    def write(self, name: str, text: str) -> None:
        """Replace a file."""
        with tempfile.TemporaryDirectory() as folder:
            write_file(Path(folder) / name, text)
            self._run("mcopy", "-D", "o", str(Path(folder) / name), f"::/{name}")
        self._flush()

    def put_folder(self, name: str, files: Mapping[str, str]) -> None:
        """Put a folder there; one of that name goes. Under another name until it is whole."""
        with tempfile.TemporaryDirectory() as folder:
            staging = Path(folder) / f"{name}.new"
            staging.mkdir(mode=0o700)
            write_files(staging, files)
            for old in {name, staging.name} & self.names():
                self._run("mdeltree", f"::/{old}")
            self._run("mcopy", "-s", str(staging), "::/")
            self._run("mren", f"::/{staging.name}", f"::/{name}")
        self._flush()

    def _flush(self) -> None:
        handle = os.open(self.path, os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write new files into a folder; private keys for the owner alone."""
    for name, text in files.items():
        write_file(folder / name, text, 0o600 if name.endswith(".pem") else 0o644)


def write_file(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a new file that survives the card being pulled out right afterwards."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def open_target(path: Path) -> Folder | Fat:
    """Return the boot partition that a person named.

    Raises:
        CardError: there is none, or it is not one that may be written to.
    """
    try:
        mode = path.stat().st_mode
    except OSError as exc:
        raise CardError(
            f"{path} does not exist ({exc.strerror}): is the boot partition mounted there?"
        ) from exc
    if stat.S_ISDIR(mode):
        return Folder(path)
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        raise CardError(f"{path} is no folder, no image file and no device")
    if stat.S_ISBLK(mode):
        check_device(path)
    missing = [name for name in ("mdir", "mcopy", "mdeltree", "mren") if not shutil.which(name)]
    if missing:
        raise CardError(
            f"{path}: writing into an image needs mtools ({missing[0]} is missing):"
            " sudo apt-get install mtools, or mount the boot partition and name its folder"
        )
    return Fat(path, fat_offset(path))


def fat_offset(path: Path) -> int:
    """Return where the first FAT partition of an image or device begins, in bytes.

    Raises:
        CardError: there is none.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(SECTOR)
    except OSError as exc:
        raise CardError(f"{path} cannot be read: {exc.strerror}") from exc
    packed = {
        b"\xfd7zXZ": "xz",
        b"PK\x03\x04": "zip",
        b"\x1f\x8b": "gzip",
        b"\x28\xb5\x2f\xfd": "zstd",
    }
    for magic, name in packed.items():
        if head.startswith(magic):
            raise CardError(
                f"{path} is compressed ({name}): unpack it first, for example with unxz"
            )
    if len(head) < SECTOR or head[510:512] != b"\x55\xaa":
        raise CardError(f"{path} is no image of a disk: it has no partition table")
    # A file system without a table says FAT in its boot sector: a partition that was named itself
    if head[54:57] == b"FAT" or head[82:85] == b"FAT":
        return 0
    for entry in range(446, 510, 16):
        kind = head[entry + 4]
        (first,) = struct.unpack_from("<I", head, entry + 8)
        if kind in FAT_TYPES and first:
            return int(first) * SECTOR
    raise CardError(f"{path} has no FAT partition: is it an image of Raspberry Pi OS?")


# --- devices ---------------------------------------------------------------------------------------


def check_device(path: Path, system: Path = Path("/")) -> None:
    """Refuse a device that is not plainly an SD card in a reader which nobody uses.

    Args:
        path: the device as a person named it.
        system: where ``sys`` and ``proc`` are.

    Raises:
        CardError: it is a link, not removable, or something of it is mounted or in use.
    """
    if path.is_symlink() or path.parent != Path("/dev"):
        raise CardError(
            f"{path} is not the name of a device itself: name it exactly, as `lsblk` shows it,"
            " for example /dev/sdb"
        )
    block = system / "sys/class/block" / path.name
    if not block.exists():
        raise CardError(f"{path} is no device that this system knows")
    disk = block.resolve().parent if (block / "partition").exists() else block.resolve()
    removable = _text(disk / "removable") == "1"
    if not removable and _text(disk / "device/type") != "SD":
        raise CardError(
            f"{path} belongs to {disk.name}, which is no removable disk: a card is never written to"
            " one that may be this machine's own"
        )
    parts = {disk.name, *(entry.name for entry in disk.glob(f"{disk.name}*") if entry.is_dir())}
    mounted = _mounted(system / "proc/self/mountinfo", system / "proc/swaps", disk, parts)
    if mounted:
        raise CardError(
            f"{path}: {mounted} of the same disk is in use. Unmount it first, or name the folder"
            " that the boot partition is mounted at"
        )
    holders = [entry for name in parts for entry in _holders(disk, name)]
    if holders:
        raise CardError(f"{path}: {disk.name} is in use by {holders[0]}")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _holders(disk: Path, name: str) -> list[str]:
    folder = (disk if name == disk.name else disk / name) / "holders"
    return [entry.name for entry in folder.iterdir()] if folder.is_dir() else []


def _mounted(mountinfo: Path, swaps: Path, disk: Path, parts: set[str]) -> str | None:
    """Return the name of a part of the disk that is mounted or swapped to."""
    numbers = {_text((disk if name == disk.name else disk / name) / "dev"): name for name in parts}
    for line in _text(mountinfo).splitlines():
        words = line.split()
        if len(words) > 2 and words[2] in numbers:
            return numbers[words[2]]
        source = words[words.index("-") + 2] if "-" in words else ""
        if source.startswith("/dev/") and source[5:] in parts:
            return source[5:]
    for line in _text(swaps).splitlines():
        if line.startswith("/dev/") and line.split()[0][5:] in parts:
            return line.split()[0][5:]
    return None


# --- what is on the partition ----------------------------------------------------------------------


def kind_of(partition: Folder | Fat) -> str:
    """Say how the system on this partition starts things: ``cloud-init``, ``first-run`` or ``plain``.

    Raises:
        CardError: it is a 32-bit image, an older one, or nothing that is known.
    """
    names = {name.lower() for name in partition.names()}
    if isinstance(partition, Folder) and names <= {FOLDER}:
        return PLAIN
    firmware = {"config.txt", "cmdline.txt"}
    if not firmware <= names:
        raise CardError(
            f"{partition} is no boot partition of a Raspberry Pi: it has no"
            f" {' and no '.join(sorted(firmware - names))}. Name the partition called bootfs"
        )
    if {"kernel.img", "kernel7.img", "kernel7l.img"} & names:
        raise CardError(
            f"{partition} is of a 32-bit Raspberry Pi OS; Kubernetes needs the 64-bit one:"
            " write Raspberry Pi OS Lite (64-bit) to the card"
        )
    if "kernel8.img" not in names:
        raise CardError(
            f"{partition} is not of Raspberry Pi OS (it has no kernel8.img); other systems are not"
            " supported"
        )
    if {"user-data", "meta-data"} <= names:
        return CLOUD_INIT
    if {"user-data", "meta-data"} & names:
        raise CardError(
            f"{partition} has only one of user-data and meta-data: write the image to the card again"
        )
    # Bookworm is the first whose 64-bit image has an initramfs, and the last without cloud-init
    if {"issue.txt", "initramfs8"} <= names:
        return FIRST_RUN
    raise CardError(
        f"{partition} is neither of Raspberry Pi OS Trixie (cloud-init: user-data, meta-data) nor of"
        " Bookworm (issue.txt, initramfs8): write Raspberry Pi OS Lite (64-bit) to the card"
    )


# --- what is written -------------------------------------------------------------------------------


def boot_files(kind: str, bundle: Mapping[str, Any], cmdline: str) -> dict[str, str]:
    """Return the files beside our folder that have it started, by name.

    Args:
        kind: of the partition.
        bundle: what the master made.
        cmdline: text of ``cmdline.txt`` as it is now.
    """
    if kind == CLOUD_INIT:
        instance = f"saltberry-{bundle['id']}-{bundle['made']}"
        return {
            "meta-data": as_yaml({"dsmode": "local", "instance-id": instance}),
            "network-config": as_yaml(network_config(bundle["settings"])),
            "user-data": "#cloud-config\n" + as_yaml(user_data(bundle)),
            # Written by Raspberry Pi Imager, too. It beats meta-data, so an old one must not stay.
            "cmdline.txt": edit_cmdline(cmdline, [*BOOT_FLAGS, f"ds=nocloud;i={instance}"]),
        }
    if kind == FIRST_RUN:
        return {
            "firstrun.sh": first_run(bundle),
            "cmdline.txt": edit_cmdline(cmdline, [*BOOT_FLAGS, *FIRST_RUN_FLAGS]),
        }
    return {}


def as_yaml(value: Any) -> str:
    """Return a value as JSON, which is YAML, and needs no library to be quoted right."""
    return json.dumps(value, indent=2) + "\n"


def edit_cmdline(text: str, flags: list[str]) -> str:
    """Return the kernel's command line, one line, with flags; those that they contradict go."""
    keys = {flag.partition("=")[0] for flag in flags if not flag.startswith("cgroup_")}
    kept = [
        word
        for word in " ".join(text.splitlines()).split()
        if word not in flags
        and word.partition("=")[0] not in keys
        and word != "cgroup_disable=memory"
        and not word.startswith(("systemd.run", "systemd.unit=kernel-command-line"))
    ]
    return " ".join([*kept, *flags]) + "\n"


def user_data(bundle: Mapping[str, Any]) -> dict[str, Any]:
    """Return cloud-init's user-data. Nothing secret: cloud-init keeps copies of it."""
    settings = bundle["settings"]
    data: dict[str, Any] = {"hostname": bundle["id"]}
    if settings["timezone"]:
        data["timezone"] = settings["timezone"]
    if settings["ssh_keys"]:
        data["ssh_pwauth"] = False
        data["users"] = [
            {
                "name": settings["user"],
                "groups": GROUPS,
                "shell": "/bin/bash",
                "lock_passwd": True,
                "sudo": "ALL=(ALL) NOPASSWD:ALL",
                "ssh_authorized_keys": settings["ssh_keys"],
            }
        ]
    # At every boot, and not once: a power cut in the middle costs one more run and no Pi
    start = f"{MOUNTED_AT}/{FOLDER}/start.sh"
    data["bootcmd"] = [["sh", "-c", f"[ ! -e {start} ] || bash {start}"]]
    return data


def network_config(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return cloud-init's network-config (netplan's format)."""
    wired: dict[str, Any] = {"dhcp4": True, "optional": True}
    fixed, wifi = settings["address"], settings["wifi"]
    if fixed and not wifi:
        wired = {"dhcp4": False, "optional": True, **_fixed(settings)}
    interfaces: dict[str, Any] = {"version": 2, "ethernets": {"eth0": wired}}
    if wifi:
        point = {"password": wifi["psk"], **({"hidden": True} if wifi["hidden"] else {})}
        interfaces["wifis"] = {
            "wlan0": {
                "optional": True,
                "regulatory-domain": wifi["country"],
                "access-points": {wifi["ssid"]: point},
                **({"dhcp4": False, **_fixed(settings)} if fixed else {"dhcp4": True}),
            }
        }
    return {"network": interfaces}


def _fixed(settings: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"addresses": [settings["address"]]}
    if settings["gateway"]:
        found["routes"] = [{"to": "default", "via": settings["gateway"]}]
    if settings["dns"]:
        found["nameservers"] = {"addresses": settings["dns"]}
    return found


def first_run(bundle: Mapping[str, Any]) -> str:
    """Return ``firstrun.sh`` of Bookworm: runs once as root, with no network, before a restart."""
    settings = bundle["settings"]
    custom = "/usr/lib/raspberrypi-sys-mods/imager_custom"
    user, keys = shlex.quote(settings["user"]), " ".join(map(shlex.quote, settings["ssh_keys"]))
    lines = [
        "#!/bin/bash",
        f"# Written by Saltberry for {bundle['id']}: runs once, then the Pi restarts.",
        f"exec >>{MOUNTED_AT}/{FOLDER}/firstrun.log 2>&1",
        # What fails here must not keep the Pi from the rack; the log tells.
        "set +e",
        f"{custom} set_hostname {bundle['id']}",
    ]
    if keys:
        # The user first: the keys go to the home that the first user has then. ! is a locked password.
        lines += [f"/usr/lib/userconf-pi/userconf {user} '!'", f"{custom} enable_ssh -k {keys}"]
    if settings["wifi"]:
        wifi = settings["wifi"]
        words = [wifi["ssid"], wifi["psk"], wifi["country"]]
        hidden = "-h " if wifi["hidden"] else ""
        lines.append(f"{custom} set_wlan {hidden}{' '.join(map(shlex.quote, words))}")
    if settings["timezone"]:
        lines.append(f"{custom} set_timezone {shlex.quote(settings['timezone'])}")
    if settings["address"]:
        lines += _connection(settings)
    lines += [
        f"bash {MOUNTED_AT}/{FOLDER}/start.sh --no-start",
        f"rm -f {MOUNTED_AT}/firstrun.sh",
        f"sed -i 's| systemd\\.[^ ]*||g' {MOUNTED_AT}/cmdline.txt",
        "sync",
        "exit 0",
    ]
    return "\n".join(lines) + "\n"


def _connection(settings: Mapping[str, Any]) -> list[str]:
    """Return the lines that give a fixed address to the wired network, or to the wifi if there is one."""
    folder = "/etc/NetworkManager/system-connections"
    address = [
        f"address1={settings['address']}"
        + (f",{settings['gateway']}" if settings["gateway"] else "")
    ]
    if settings["dns"]:
        address.append(f"dns={';'.join(settings['dns'])};")
    if settings["wifi"]:
        # imager_custom has just written this one
        file = f"{folder}/preconfigured.nmconnection"
        manual = r"/^\[ipv4\]$/,/^\[/s|^method=auto|method=manual|"
        script = manual + r";s|^\[ipv4\]$|[ipv4]\n" + r"\n".join(address) + "|"
        return [f"sed -i {shlex.quote(script)} {file}"]
    text = ["[connection]", "id=saltberry", "type=ethernet", "[ipv4]", "method=manual", *address]
    file = f"{folder}/saltberry.nmconnection"
    return [
        f"cat >{file} <<'END'", *text, "[ipv6]", "method=auto", "END",
        f"chmod 600 {file}",
    ]  # fmt: skip


# --- the whole -------------------------------------------------------------------------------------


def prepare(path: Path, force: bool = False) -> tuple[Folder | Fat, str]:
    """Look at a target without touching it; return the partition and its kind.

    Raises:
        CardError: it cannot take a card, or has one and ``force`` is not set.
    """
    partition = open_target(path)
    kind = kind_of(partition)
    if not force and FOLDER in partition.names():
        raise CardError(
            f"{partition} has a card already ({FOLDER}/): take another, or replace it with force"
        )
    return partition, kind


def write(bundle: Mapping[str, Any], partition: Folder | Fat, kind: str) -> None:
    """Write the card. Our folder goes first: what would start it comes when it is whole.

    Raises:
        CardError, OSError: it was not written, or not to its end.
    """
    cmdline = "" if kind == PLAIN else partition.read("cmdline.txt")
    partition.put_folder(FOLDER, bundle["files"])
    for name, text in boot_files(kind, bundle, cmdline).items():
        partition.write(name, text)


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    epilog = "See the head of this file."
    parser = argparse.ArgumentParser(description="Write a Pi's card.", epilog=epilog)
    parser.add_argument("bundle", type=Path, help="the file that salt-run enrol.card made")
    parser.add_argument("target", type=Path, help="boot partition (folder), image file or device")
    parser.add_argument("--force", action="store_true", help="replace a card that is there")
    given = parser.parse_args(argv)
    try:
        bundle = read_bundle(given.bundle)
        partition, kind = prepare(given.target, given.force)
        write(bundle, partition, kind)
    except CardError as exc:
        print(f"card: {exc}", file=sys.stderr)
        return 1
    except OSError as exc:
        print(f"card: {exc.filename or given.target}: {exc.strerror or exc}", file=sys.stderr)
        return 1
    print(f"card: {bundle['id']} is on {partition}; {STARTS[kind]}")
    print(f"card: now delete {given.bundle}: it has the same secret as the card")
    return 0


if __name__ == "__main__":
    sys.exit(main())
