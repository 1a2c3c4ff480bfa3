"""Edits of system files, on texts as they are on real systems."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from saltberry_ext.utils import conffiles

FLAGS = ["cgroup_enable=memory", "cgroup_memory=1"]
ADDED = " cgroup_enable=memory cgroup_memory=1"

# One line each, as Raspberry Pi OS ships it.
BOOKWORM = (
    "console=serial0,115200 console=tty1 root=PARTUUID=4e639091-02 rootfstype=ext4 fsck.repair=yes "
    "rootwait quiet init=/usr/lib/raspberrypi-sys-mods/firstboot"
)
TRIXIE = (
    "console=serial0,115200 console=tty1 root=PARTUUID=8a438930-02 rootfstype=ext4 fsck.repair=yes "
    "rootwait cfg80211.ieee80211_regdom=DE ds=nocloud;i=rpi-imager-1760000000"
)
BUSTER = (
    "dwc_otg.lpm_enable=0 console=serial0,115200 console=tty1 root=PARTUUID=738a4d67-02 "
    "rootfstype=ext4 elevator=deadline fsck.repair=yes rootwait"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(f"{BOOKWORM}\n", f"{BOOKWORM}{ADDED}\n", id="bookworm"),
        pytest.param(f"{TRIXIE}\n", f"{TRIXIE}{ADDED}\n", id="trixie"),
        pytest.param(BUSTER, f"{BUSTER}{ADDED}", id="buster, no newline at the end"),
        pytest.param(f"{BOOKWORM}\r\n", f"{BOOKWORM}{ADDED}\r\n", id="edited on Windows"),
        pytest.param("root=x \n", f"root=x{ADDED}\n", id="space at the end"),
        pytest.param("a  b\troot=x\n", f"a  b\troot=x{ADDED}\n", id="spaces inside stay"),
        pytest.param("\nroot=x\n# note\n", f"\nroot=x{ADDED}\n# note\n", id="other lines stay"),
        pytest.param(
            "root=x cgroup_memory=1 y\n",
            "root=x cgroup_memory=1 y cgroup_enable=memory\n",
            id="one is there",
        ),
        pytest.param(
            "cgroup_enable=cpuset,memory cgroup_memory=1 root=x",
            "cgroup_enable=cpuset,memory cgroup_memory=1 root=x",
            id="both are there, in a list",
        ),
        pytest.param(
            "root=x cgroup_disable=memory  quiet\n", f"root=x quiet{ADDED}\n", id="contradiction"
        ),
        pytest.param(
            "cgroup_disable=cpuset,memory root=x cgroup_memory=0",
            f"cgroup_disable=cpuset root=x{ADDED}",
            id="contradictions in a list and at the end",
        ),
        pytest.param(
            "root=x xcgroup_enable=memory cgroup_enable=memory2",
            f"root=x xcgroup_enable=memory cgroup_enable=memory2{ADDED}",
            id="look-alikes",
        ),
    ],
)
def test_cmdline_gets_its_flags_once(text: str, expected: str) -> None:
    new = conffiles.cmdline_with(text, FLAGS)
    assert new == expected
    assert conffiles.cmdline_with(new, FLAGS) == new
    assert conffiles.cmdline_missing(new, FLAGS) == []


@pytest.mark.parametrize("text", ["", "\n", "  \n\n"])
def test_an_empty_cmdline_is_left_alone(text: str) -> None:
    with pytest.raises(ValueError, match="root="):
        conffiles.cmdline_with(text, FLAGS)


RACK = {
    "192.168.1.21": ["pi-01", "pi-01.rack.lan"],
    "192.168.1.10": ["nfs1", "nfs1.rack.lan"],
    "192.168.1.9": ["cp1", "cp1.rack.lan"],
}
BLOCK = (
    f"{conffiles.HOSTS_BEGIN}\n"
    "192.168.1.9\tcp1 cp1.rack.lan\n"
    "192.168.1.10\tnfs1 nfs1.rack.lan\n"
    "192.168.1.21\tpi-01 pi-01.rack.lan\n"
    f"{conffiles.HOSTS_END}\n"
)
HEAD = "127.0.0.1\tlocalhost\n::1\t\tlocalhost ip6-localhost ip6-loopback\n\n"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        pytest.param(HEAD, HEAD, id="nothing in the way"),
        pytest.param("", "", id="no file"),
        pytest.param(HEAD.rstrip("\n"), HEAD.rstrip("\n") + "\n", id="no newline at the end"),
        pytest.param(f"{HEAD}127.0.1.1\tpi-01\n", HEAD, id="own name on loopback"),
        pytest.param(
            f"{HEAD}127.0.1.1 pi-01.rack.lan pi-01 printer # mine\n",
            f"{HEAD}127.0.1.1\tprinter # mine\n",
            id="own name among others on loopback",
        ),
        pytest.param(f"{HEAD}192.168.1.99 nfs1\n", HEAD, id="old address of another node"),
        pytest.param(
            f"{HEAD}192.168.1.21 pi-01 box\n", f"{HEAD}192.168.1.21 pi-01 box\n", id="same address"
        ),
        pytest.param(
            f"{HEAD}fd00::21 pi-01\n::1 cp1\n", f"{HEAD}fd00::21 pi-01\n", id="IPv6 beside it"
        ),
        pytest.param(
            f"{HEAD}# 127.0.1.1 pi-01\nnonsense pi-01\n",
            f"{HEAD}# 127.0.1.1 pi-01\nnonsense pi-01\n",
            id="comments and nonsense stay",
        ),
        pytest.param(
            f"# BEGIN saltberry: of old\n1.2.3.4 gone\n# END saltberry\n{HEAD}",
            HEAD,
            id="old block",
        ),
        pytest.param(f"{HEAD}# BEGIN saltberry\n1.2.3.4 gone\n", HEAD, id="block cut off"),
    ],
)
def test_hosts_name_the_rack(text: str, kept: str) -> None:
    new = conffiles.hosts_with(text, RACK)
    assert new == kept + BLOCK
    assert conffiles.hosts_with(new, RACK) == new


def test_hosts_without_a_rack_are_unchanged() -> None:
    assert conffiles.hosts_with(HEAD, {}) == HEAD
    assert conffiles.hosts_with("127.0.0.1 localhost", {}) == "127.0.0.1 localhost"


FSTAB = (
    "# swap was on /dev/sda5 during installation, type swap\n"
    "PARTUUID=4e639091-02  /  ext4  defaults,noatime  0  1\n"
    "/var/swap none swap sw 0 0\n"
    "/dev/sda5\tnone\tswap\tsw\t0\t0\n"
    "nfs1:/swap /mnt/swap nfs defaults 0 0"
)


def test_fstab_loses_its_swap_and_nothing_else() -> None:
    assert len(conffiles.fstab_swap(FSTAB)) == 2
    new = conffiles.fstab_without_swap(FSTAB)
    assert conffiles.fstab_swap(new) == []
    assert new.replace(conffiles.FSTAB_NOTE, "") == FSTAB
    assert conffiles.fstab_without_swap(new) == new


def test_write_keeps_mode_and_leaves_nothing_beside(tmp_path: Path) -> None:
    file = tmp_path / "etc" / "conf"
    conffiles.write(file, "a\n", mode=0o600)
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o640)
    conffiles.write(file, "b\n")
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("b\n", 0o640)
    assert list(file.parent.iterdir()) == [file]


def test_bytes_that_are_no_text_survive(tmp_path: Path) -> None:
    file = tmp_path / "conf"
    file.write_bytes(b"caf\xe9\r\n")
    conffiles.write(file, conffiles.read(file) + "x")
    assert file.read_bytes() == b"caf\xe9\r\nx"
    assert conffiles.read(tmp_path / "absent") == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_file_that_is_a_mount_is_written_in_place(tmp_path: Path) -> None:
    """A container's /etc/hosts: renaming over it is refused by the kernel (EBUSY)."""
    import subprocess

    source, target = tmp_path / "source", tmp_path / "hosts"
    source.write_text("old\n")
    target.write_text("")
    if subprocess.run(["mount", "--bind", str(source), str(target)], check=False).returncode:
        pytest.skip("this container may not mount")
    try:
        conffiles.write(target, "new and longer\n")
        assert source.read_text() == "new and longer\n"
    finally:
        subprocess.run(["umount", str(target)], check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hosts", "source"]
