"""Text of mount units, and reading what is mounted."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from saltberry_ext.utils import mount_unit

SHARE = mount_unit.mount(
    "/srv/share/node", "10.0.0.1:/srv/nfs/nodes/pi-01", description="The share", fstype="nfs4",
    options=["hard", "_netdev", "nofail"], timeout=60,
)  # fmt: skip
DISK = mount_unit.mount(
    "/srv/containers", "LABEL=usb-1", description="A disk", needs=["a.service", "b.service"],
    wanted_by=["multi-user.target"],
)  # fmt: skip


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/srv/share/node", "srv-share-node.mount"),
        ("/srv/my-share/.x", r"srv-my\x2dshare-.x.mount"),
        ("/a.b/c_d:e", "a.b-c_d:e.mount"),
        ("/srv/x+y", r"srv-x\x2by.mount"),
        ("//srv//k/", "srv-k.mount"),
        ("/.hidden", r"\x2ehidden.mount"),
        ("/", "-.mount"),
    ],
)
def test_a_unit_is_named_as_systemd_names_it(path: str, name: str) -> None:
    assert mount_unit.name(path) == name
    if shutil.which("systemd-escape"):
        argv = ["systemd-escape", "--path", "--suffix=mount", path]
        told = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
        assert told == name


def test_a_file_system_is_waited_for_by_its_device() -> None:
    uuid = "0B1E4C5A-91c2-4c1d-8a54-0123456789ab"
    assert mount_unit.source(f"UUID={uuid}") == f"/dev/disk/by-uuid/{uuid.lower()}"
    assert "What=/dev/disk/by-label/usb-1\n" in DISK
    assert "What=10.0.0.1:/srv/nfs/nodes/pi-01\n" in SHARE


def test_a_mount_waits_for_what_it_needs_and_is_pulled_in_at_boot() -> None:
    assert "Requires=a.service b.service\nAfter=a.service b.service\n" in DISK
    assert "[Install]\nWantedBy=multi-user.target\n" in DISK
    assert "[Install]" not in SHARE
    assert "Type=nfs4\nOptions=hard,_netdev,nofail\nTimeoutSec=60\n" in SHARE


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd's own checker")
def test_systemd_finds_no_fault_in_what_is_written(tmp_path: Path) -> None:
    files = {
        "srv-share-node.mount": SHARE,
        "wait.service": mount_unit.waiter("Wait", ["/srv/share/node"], ["docker.service"]),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    argv = ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in files)]
    told = subprocess.run(argv, capture_output=True, text=True, check=False).stderr
    assert [line for line in told.splitlines() if str(tmp_path) in line] == []


def test_the_waiter_tries_until_it_works_and_then_starts_what_waited(tmp_path: Path) -> None:
    """The very command of the unit, with a systemctl that fails twice."""
    text = mount_unit.waiter("Wait", ["/srv/a", "/srv/b"], ["docker.service", "other.service"])
    (line,) = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    command = line.removeprefix("ExecStart=/bin/sh -c ").strip("'")
    script = """#!/bin/sh
echo "$@" >> "$LOG"
case "$1" in
  start) [ "$2" != /srv/a ] || [ "$(grep -c '^start /srv/a' "$LOG")" -ge 3 ] ;;
  is-enabled) [ "$3" = docker.service ] ;;
esac
"""
    log = tmp_path / "log"
    for name, body in {
        "systemctl": script,
        "sleep": '#!/bin/sh\necho "sleep $1" >> "$LOG"\n',
    }.items():
        (tmp_path / name).write_text(body)
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "LOG": str(log)}
    subprocess.run(["/bin/sh", "-c", command], env=env, check=True, timeout=20)
    assert log.read_text().splitlines() == [
        "start /srv/a /srv/b", "sleep 15", "start /srv/a /srv/b", "sleep 15", "start /srv/a /srv/b",
        "is-enabled --quiet docker.service", "start --no-block docker.service",
        "is-enabled --quiet other.service",
    ]  # fmt: skip


def test_mountinfo_is_read_with_odd_names() -> None:
    text = (
        "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "30 21 7:0 / /srv/my\\040disk rw,noatime - ext4 /dev/loop0 rw,discard\n"
        "31 21 0:40 /sub /mnt ro shared:2 master:1 - nfs4 10.0.0.1:/srv/nfs rw,hard\n"
    )
    root, disk, share = mount_unit.parse_mountinfo(text)
    assert (root["where"], root["device"]) == ("/", "8:1")
    assert (disk["where"], disk["source"]) == ("/srv/my disk", "/dev/loop0")
    assert (share["root"], share["fstype"], share["source"]) == (
        "/sub",
        "nfs4",
        "10.0.0.1:/srv/nfs",
    )
    assert "ro" in share["options"].split(",")
    real = mount_unit.parse_mountinfo(Path("/proc/self/mountinfo").read_text())
    assert any(mount["where"] == "/" for mount in real)
