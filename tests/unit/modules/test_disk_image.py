"""Images and disks, for real: ext4, loop devices and mounts of this machine.

Needs root, and fails without it: nothing here can be tried in another way.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError
from saltberry_ext.modules import disk_image, disks
from saltberry_ext.states import disk_image as image_state
from saltberry_ext.states import disks as disks_state
from saltberry_ext.utils import mount_unit, rackspec

MIB = 1 << 20


def run(*argv: str, **kwargs: Any) -> str:
    """Run a program that must work."""
    return subprocess.run(argv, check=True, capture_output=True, text=True, **kwargs).stdout


def run_all(argv: list[str], env: dict[str, str] | None = None, **_: Any) -> dict[str, Any]:
    done = subprocess.run(
        argv, capture_output=True, text=True, env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    return {"retcode": done.returncode, "stdout": done.stdout, "stderr": done.stderr}


@pytest.fixture
def opts() -> dict[str, Any]:
    return {"test": False}


@pytest.fixture
def configure_loader_modules(opts: dict[str, Any]) -> dict[Any, dict[str, Any]]:
    functions: dict[str, Any] = {"cmd.run_all": run_all}
    for module in (disk_image, disks):
        name = module.__name__.rpartition(".")[2]
        functions |= {
            f"{name}.{key}": value
            for key, value in vars(module).items()
            if key[0] != "_" and callable(value)
        }
    utils = {
        "rackspec.size_bytes": rackspec.size_bytes,
        "mount_unit.parse_mountinfo": mount_unit.parse_mountinfo,
    }
    dunders = {"__salt__": functions, "__utils__": utils, "__opts__": opts}
    return dict.fromkeys((disk_image, disks, image_state, disks_state), dunders)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return tmp_path / "containers.img"


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """A function that mounts an image as the mount unit does; all is unmounted at the end."""
    where = tmp_path / "mnt"

    def mount(image: Path) -> Path:
        where.mkdir(exist_ok=True)
        run("mount", "-t", "ext4", "-o", "loop,discard,noatime", str(image), str(where))
        return where

    yield mount
    while os.path.ismount(where):
        run("umount", str(where))


@contextlib.contextmanager
def loop_of(file: Path, *options: str) -> Iterator[str]:
    device = run("losetup", "--find", "--show", *options, str(file)).strip()
    try:
        yield device
    finally:
        run("losetup", "--detach", device)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[str]:
    """A blank disk of 32 MiB."""
    file = tmp_path / "disk"
    with file.open("wb") as handle:
        handle.truncate(32 * MIB)
    with loop_of(file) as device:
        yield device


# --- images -------------------------------------------------------------------------------------


def test_an_image_is_made_sparse_whole_and_private(image: Path) -> None:
    disk_image.create(str(image), "512M")
    found = disk_image.status(str(image))
    assert found is not None
    assert found["size"] == 512 * MIB == found["file_system"]
    assert found["used"] < 40 * MIB
    assert found["clean"] is True
    assert (found["loops"], found["mounted"]) == ([], None)
    assert image.stat().st_mode & 0o777 == 0o600
    assert not Path(f"{image}.new").exists()
    assert disk_image.plan(str(image), "512M") == {}
    run("e2fsck", "-fn", str(image))


def test_overlay_mounts_on_an_image(
    image: Path, mounted: Callable[[Path], Path], tmp_path: Path
) -> None:
    """The reason for it all."""
    disk_image.create(str(image), "256M")
    where = mounted(image)
    for name in ("lower", "upper", "work", "merged"):
        (where / name).mkdir()
    (where / "lower/file").write_text("below")
    merged = where / "merged"
    layers = f"lowerdir={where}/lower,upperdir={where}/upper,workdir={where}/work"
    run("mount", "-t", "overlay", "overlay", "-o", layers, str(merged))
    try:
        (merged / "file").write_text("above")
        assert (where / "upper/file").read_text() == "above"
    finally:
        run("umount", str(merged))


def test_an_existing_image_is_never_made_anew(image: Path) -> None:
    image.write_bytes(b"somebody's data")
    with pytest.raises(CommandExecutionError, match="holds no ext4; move it away"):
        disk_image.create(str(image), "256M")
    assert image.read_bytes() == b"somebody's data"
    image.unlink()
    disk_image.create(str(image), "256M")
    before = image.stat().st_ino
    with pytest.raises(CommandExecutionError, match="exists already"):
        disk_image.create(str(image), "256M")
    assert image.stat().st_ino == before


def test_what_an_interrupted_making_left_is_taken_up(image: Path) -> None:
    Path(f"{image}.new").write_bytes(b"half")
    disk_image.create(str(image), "256M")
    assert disk_image.plan(str(image), "256M") == {}
    assert not Path(f"{image}.new").exists()


def may_resize() -> bool:
    """The kernel lets only CAP_SYS_RESOURCE (bit 24) grow a mounted ext4; a container may lack it."""
    (mask,) = re.findall(r"CapEff:\s*([0-9a-f]+)", Path("/proc/self/status").read_text())
    return bool(int(mask, 16) >> 24 & 1)


def test_an_image_grows_while_it_is_mounted(image: Path, mounted: Callable[[Path], Path]) -> None:
    """Or says why not, stays as it is, and grows when it is no longer mounted."""
    disk_image.create(str(image), "256M")
    where = mounted(image)
    (where / "kept").write_text("data")
    if not may_resize():
        with pytest.raises(CommandExecutionError, match=r"CAP_SYS_RESOURCE.*unmounted"):
            disk_image.grow(str(image), "700M")
        run("umount", str(where))
        disk_image.grow(str(image), "700M")
        mounted(image)
    else:
        disk_image.grow(str(image), "700M")
    room = os.statvfs(where)
    assert room.f_blocks * room.f_frsize > 600 * MIB
    assert (where / "kept").read_text() == "data"
    found = disk_image.status(str(image))
    assert found is not None
    assert found["mounted"] == str(where)
    assert disk_image.plan(str(image), "700M") == {}


def test_an_image_grows_while_it_is_not_mounted(
    image: Path, mounted: Callable[[Path], Path]
) -> None:
    disk_image.create(str(image), "256M")
    disk_image.grow(str(image), "1G")
    assert disk_image.plan(str(image), "1G") == {}
    run("e2fsck", "-fn", str(image))
    room = os.statvfs(mounted(image))
    assert room.f_blocks * room.f_frsize > 900 * MIB


def test_a_growth_cut_off_after_the_file_grew_is_ended(image: Path) -> None:
    disk_image.create(str(image), "256M")
    os.truncate(image, 512 * MIB)
    assert disk_image.plan(str(image), "512M") == {"grow": 512 * MIB, "from": 256 * MIB}
    disk_image.grow(str(image), "512M")
    assert disk_image.plan(str(image), "512M") == {}
    # and one that was thought better of
    os.truncate(image, 800 * MIB)
    assert disk_image.plan(str(image), "512M") == {}


@pytest.mark.parametrize("size", ["256M", "257M", "261M", "300M", "389M", "1025M"])
def test_whatever_the_size_the_second_look_finds_nothing_to_do(image: Path, size: str) -> None:
    disk_image.create(str(image), size)
    assert disk_image.plan(str(image), size) == {}


def test_an_image_is_never_shrunk(image: Path) -> None:
    disk_image.create(str(image), "512M")
    with pytest.raises(CommandExecutionError, match=r"is 512M and .* says 256M; an image is n"):
        disk_image.grow(str(image), "256M")
    assert image.stat().st_size == 512 * MIB


@pytest.mark.parametrize(
    ("path", "size", "reason"),
    [
        ("containers.img", "256M", "relative"),
        ("/nowhere/containers.img", "256M", "is the share mounted"),
        ("{tmp}", "256M", "is no file"),
        ("{tmp}/x.img", "15M", "too small"),
    ],
)
def test_bad_images_are_refused(tmp_path: Path, path: str, size: str, reason: str) -> None:
    with pytest.raises(CommandExecutionError, match=reason):
        disk_image.create(path.format(tmp=tmp_path), size)
    assert list(tmp_path.iterdir()) == []


def test_deleted_data_gives_its_room_back(image: Path, mounted: Callable[[Path], Path]) -> None:
    disk_image.create(str(image), "512M")
    where = mounted(image)
    (where / "big").write_bytes(os.urandom(100 * MIB))
    run("sync", "--file-system", str(where))
    full = image.stat().st_blocks * 512
    assert full > 100 * MIB
    (where / "big").unlink()
    run("sync", "--file-system", str(where))
    run("umount", str(where))
    assert image.stat().st_blocks * 512 < full - 90 * MIB


def test_an_image_that_may_outgrow_its_disk_is_made_with_a_warning(
    image: Path, mounted: Callable[[Path], Path], opts: dict[str, Any]
) -> None:
    disk_image.create(str(image), "256M")
    inner = mounted(image) / "containers.img"
    opts["test"] = True
    (warning,) = image_state.present(str(inner), "1G")["warnings"]
    assert f"{inner} may take 1G more and {inner.parent} has 2" in warning
    assert "M free: when that is full" in warning
    opts["test"] = False
    ret = image_state.present(str(inner), "1G")
    assert (ret["result"], len(ret["warnings"])) == (True, 1)
    # what is taken already is not asked for twice
    inner.unlink()
    (inner.parent / "filler").write_bytes(bytes(100 * MIB))
    inner.write_bytes(bytes(64 * MIB))
    run("sync", "--file-system", str(inner.parent))
    assert disk_image.shortage(str(inner), "100M") == ""
    assert disk_image.shortage(str(inner), "200M") != ""


def test_an_image_that_somebody_has_is_left_alone(image: Path) -> None:
    disk_image.create(str(image), "256M")
    lock = Path(f"{image}.lock")
    lock.write_text("pi-02\n")
    with lock.open("r+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(
            CommandExecutionError, match="in use by pi-02; one image belongs to one"
        ):
            disk_image.grow(str(image), "512M")
    assert image.stat().st_size == 256 * MIB
    disk_image.grow(str(image), "512M")


def test_an_image_that_is_mounted_or_anothers_is_not_checked(
    image: Path, mounted: Callable[[Path], Path]
) -> None:
    with pytest.raises(CommandExecutionError, match="is not there; is the share mounted"):
        disk_image.check(str(image))
    disk_image.create(str(image), "256M")
    lock = Path(f"{image}.lock")
    lock.write_text("pi-02\n")
    with lock.open("r+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(CommandExecutionError, match="in use by pi-02"):
            disk_image.check(str(image), force=True)
    where = mounted(image)
    with pytest.raises(CommandExecutionError, match=f"is mounted at {where}"):
        disk_image.check(str(image))
    run("umount", str(where))
    assert "containers:" in disk_image.check(str(image))


def test_a_crash_is_mended_and_real_damage_is_not(
    image: Path, mounted: Callable[[Path], Path], tmp_path: Path
) -> None:
    disk_image.create(str(image), "256M")
    where = mounted(image)
    for number in range(50):
        (where / f"file{number}").write_text("x" * 5000)
    run("sync", "--file-system", str(where))
    (where / "late").write_text("not synced")
    crashed = tmp_path / "crashed.img"
    run("cp", "--sparse=always", str(image), str(crashed))
    found = disk_image.status(str(crashed))
    assert found is not None
    assert found["clean"] is False
    disk_image.check(str(crashed))
    run("e2fsck", "-fn", str(crashed))

    with crashed.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(64 * 4096))
    with pytest.raises(CommandExecutionError, match="damage that is not mended by itself"):
        disk_image.check(str(crashed), force=True)


def test_the_state_of_an_image(image: Path, opts: dict[str, Any]) -> None:
    opts["test"] = True
    ret = image_state.present(str(image), "256M")
    assert ret["result"] is None
    assert ret["changes"] == {str(image): {"old": None, "new": "256M"}}
    assert not image.exists()
    # before the share is mounted for the first time
    assert image_state.present("/nowhere/containers.img", "256M")["result"] is None
    opts["test"] = False
    assert image_state.present("/nowhere/containers.img", "256M")["result"] is False
    assert image_state.present(str(image), "256M")["changes"]
    assert image_state.present(str(image), "256M")["changes"] == {}
    opts["test"] = True
    ret = image_state.present(str(image), "512M")
    assert ret["result"] is None
    assert "grown to 512M" in ret["comment"]
    opts["test"] = False
    assert image_state.present(str(image), "512M")["result"] is True
    ret = image_state.present(str(image), "256M")
    assert (ret["result"], ret["changes"]) == (False, {})


# --- blank disks --------------------------------------------------------------------------------


def test_a_blank_disk_is_formatted_once(disk: str, opts: dict[str, Any]) -> None:
    spec = f"LABEL=sb-test-{os.getpid()}"
    assert disks.signs(disk) == []
    opts["test"] = True
    assert disks_state.formatted(disk, spec)["result"] is None
    assert disks.probe(disk) == {}
    opts["test"] = False
    ret = disks_state.formatted(disk, spec)
    assert ret["result"] is True, ret
    assert disks.probe(disk)["TYPE"] == "ext4"
    assert disks.find(spec) == [disk]
    again = disks_state.formatted(disk, spec)
    assert (again["result"], again["changes"]) == (True, {})
    assert disks.signs(disk)


def test_a_disk_is_formatted_under_a_uuid(disk: str) -> None:
    spec = "UUID=0B1E4C5A-91c2-4c1d-8a54-0123456789ab"
    disks.make_ext4(disk, spec)
    assert disks.find(spec) == [disk]


def _ext4(disk: str) -> None:
    run("mkfs.ext4", "-q", "-L", "precious", disk)


def _partitions(disk: str) -> None:
    """Two partitions of 8 MiB, in a table of the old kind."""
    entries = [struct.pack("<B3sB3sII", 0, b"", 0x83, b"", 2048 + n * 16384, 16384) for n in (0, 1)]
    with Path(disk).open("r+b") as file:
        file.seek(446)
        file.write(b"".join(entries) + bytes(32) + b"\x55\xaa")


def _encrypted(disk: str) -> None:
    """What a plain dm-crypt volume looks like: noise."""
    Path(disk).write_bytes(os.urandom(MIB))


def _swap(disk: str) -> None:
    run("mkswap", disk)


def _iso(disk: str) -> None:
    """A signature that is not within the first blocks."""
    with Path(disk).open("r+b") as file:
        file.seek(0x8001)
        file.write(b"CD001\x01")


def _raid(disk: str) -> None:
    """A RAID member of version 1.0, whose metadata is at the disk's end."""
    start = 32 * MIB - 8192
    head = struct.pack("<II", 0xA92B4EFC, 1)
    with Path(disk).open("r+b") as file:
        file.seek(start)
        file.write(head.ljust(144, b"\0") + struct.pack("<Q", start // 512) + bytes(104))


@pytest.mark.parametrize(
    "used", [_ext4, _partitions, _encrypted, _swap, _iso, _raid], ids=lambda used: used.__name__
)
def test_a_disk_with_anything_on_it_is_refused(disk: str, used: Callable[[str], None]) -> None:
    used(disk)
    before = run("sha256sum", disk)
    ret = disks_state.formatted(disk, "LABEL=sb-never")
    assert (ret["result"], ret["changes"]) == (False, {})
    assert "Nothing was changed" in ret["comment"]
    with pytest.raises(CommandExecutionError, match="not blank"):
        disks.make_ext4(disk, "LABEL=sb-never")
    assert run("sha256sum", disk) == before


def test_a_disk_with_live_partitions_is_refused(disk: str) -> None:
    """Also when the table itself was lost: the kernel may still use them."""
    _partitions(disk)
    run("partx", "--add", disk)
    try:
        with Path(disk).open("r+b") as file:
            file.write(bytes(4096))
        signs = disks.signs(disk)
    finally:
        run("partx", "--delete", disk)
    assert any("has the partition loop" in sign for sign in signs), signs
    assert disks.signs(disk) == []


def test_a_mounted_disk_is_refused(disk: str, tmp_path: Path) -> None:
    run("mkfs.ext4", "-q", disk)
    where = tmp_path / "there"
    where.mkdir()
    run("mount", disk, str(where))
    try:
        signs = disks.signs(disk)
    finally:
        run("umount", str(where))
    assert any(f"is mounted at {where}" in sign for sign in signs), signs
    assert any("is in use" in sign for sign in signs), signs


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        ("/dev/disk/by-id/not-there", "is not there; is the disk plugged in"),
        ("/dev/null", "is no disk"),
        ("/etc/hostname", "is no disk"),
    ],
)
def test_what_is_no_disk_is_refused(device: str, reason: str) -> None:
    (sign,) = disks.signs(device)
    assert reason in sign


def test_a_tiny_or_read_only_disk_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "disk"
    with file.open("wb") as handle:
        handle.truncate(4 * MIB)
    with loop_of(file, "--read-only") as device:
        signs = " ".join(disks.signs(device))
    assert "has 4 MiB" in signs
    assert "is read-only" in signs


def test_a_label_that_another_disk_has_is_not_given_twice(disk: str, tmp_path: Path) -> None:
    label = f"sb-twice-{os.getpid()}"
    other = tmp_path / "other"
    with other.open("wb") as handle:
        handle.truncate(32 * MIB)
    with loop_of(other) as device:
        run("mkfs.ext4", "-q", "-L", label, device)
        ret = disks_state.formatted(disk, f"LABEL={label}")
        assert (ret["result"], ret["changes"]) == (True, {})
        assert device in ret["comment"]
        with pytest.raises(CommandExecutionError, match="exists already"):
            disks.make_ext4(disk, f"LABEL={label}")
    assert disks.signs(disk) == []


def test_the_tools_are_here() -> None:
    """Tests of this file need them; without them they must fail and not pass by."""
    assert os.geteuid() == 0, "run the tests of images and disks as root"
    for tool in ("mkfs.ext4", "e2fsck", "resize2fs", "losetup", "wipefs", "blkid", "partx"):
        assert shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin"), tool
