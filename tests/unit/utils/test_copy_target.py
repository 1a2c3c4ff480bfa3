"""Is a folder fit for container data? Asked of real mounts, and of a table for those this kernel lacks."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from saltberry_ext.utils import copy_target

root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")

TABLE = r"""22 1 8:2 / / rw,relatime shared:1 - ext4 /dev/mmcblk0p2 rw
30 22 0:40 / /srv/share rw,relatime - nfs4 nfs1:/srv/nfs rw,vers=4.2
31 22 8:17 / /srv/my\040disk ro,relatime - ext4 /dev/sda1 ro
32 22 8:33 / /srv/stick rw - exfat /dev/sdb1 rw
33 22 0:50 / /srv/fuse rw - fuse.sshfs pi@x: rw
34 22 0:51 / /srv/memory rw - tmpfs tmpfs rw
35 22 8:49 / /srv/disk rw - ext4 /dev/sdc1 rw
36 35 8:50 / /srv/disk rw - xfs /dev/sdc2 rw
"""


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mountinfo"
    file.write_text(TABLE)
    real = copy_target.mounts
    monkeypatch.setattr(copy_target, "mounts", lambda _="": real(str(file)))
    # those folders are not on this machine
    monkeypatch.setattr(copy_target.Path, "resolve", lambda self, strict=False: self)
    monkeypatch.setattr(copy_target.Path, "is_dir", lambda self: True)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("/srv/share/node", "overlay2 cannot work.*nfs-image instead"),
        ("/srv/my disk", "mounted read-only"),
        ("/srv/stick", "exfat, which keeps no Linux owners"),
        ("/srv/fuse/x", "network file system \\(fuse.sshfs"),
        ("/srv/memory", "in memory"),
        ("/srv/containers", "nothing is mounted at /srv/containers"),
    ],
)
@pytest.mark.usefixtures("table")
def test_each_file_system_has_its_own_refusal(target: str, words: str) -> None:
    (problem,) = copy_target.path_problems(target)
    assert __import__("re").search(words, problem), problem


@pytest.mark.usefixtures("table")
def test_the_topmost_mount_counts_and_the_systems_disk_may_be_allowed() -> None:
    assert copy_target.path_problems("/srv/disk/a") == []
    assert copy_target.mount_of("/srv/disk/a")["kind"] == "xfs"
    assert copy_target.path_problems("/srv/containers", system_disk=True) == []
    assert [mount["point"] for mount in copy_target.below("/srv")][:2] == [
        "/srv/share",
        "/srv/my disk",
    ]


def test_bad_paths_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "file").write_text("")
    expected = {
        "srv": "relative path",
        str(tmp_path / "missing"): "does not exist",
        str(tmp_path / "a"): "loop of symbolic links",
        str(tmp_path / "file"): "is no folder",
    }
    for target, words in expected.items():
        (problem,) = copy_target.path_problems(target)
        assert words in problem


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small ext4 of its own."""
    image, point = tmp_path / "image", tmp_path / "disk"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    if subprocess.run(["mount", "-o", "loop", str(image), str(point)]).returncode:
        pytest.skip("this machine has no loop devices")
    yield point
    subprocess.run(["umount", "--recursive", str(point)], check=True)


@root
def test_an_overlay_is_tried_out_and_leaves_nothing(disk: Path) -> None:
    assert copy_target.overlay_problem(str(disk)) == ""
    assert [entry.name for entry in disk.iterdir()] == ["lost+found"]
    assert copy_target.below(str(disk)) == []


@root
def test_where_the_kernel_refuses_an_overlay_that_is_the_reason(disk: Path, tmp_path: Path) -> None:
    for name in ("lower", "upper", "work", "merged"):
        (disk / name).mkdir()
    merged = disk / "merged"
    options = f"lowerdir={disk}/lower,upperdir={disk}/upper,workdir={disk}/work"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(merged)], check=True)
    # an overlay is no place for another one's upper layer
    problem = copy_target.overlay_problem(str(merged))
    assert "overlay2 cannot work on" in problem


@root
def test_a_disk_without_a_byte_or_that_is_read_only_is_told(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert "read-only" in copy_target.overlay_problem(str(disk))


@root
def test_whoever_uses_a_folder_is_named(disk: Path, tmp_path: Path) -> None:
    folder = disk / "docker"
    (folder / "sub").mkdir(parents=True)
    assert copy_target.users(str(folder)) == []
    sleeper = subprocess.Popen(["sleep", "60"], cwd=folder / "sub")
    try:
        assert copy_target.users(str(folder)) == [f"sleep (process {sleeper.pid})"]
    finally:
        sleeper.kill()
        sleeper.wait()
    with (folder / "open").open("w"):
        holder = subprocess.Popen(["sleep", "60"], stdout=(folder / "open").open("a"))
    assert copy_target.users(str(folder)) == [f"sleep (process {holder.pid})"]
    holder.kill()
    holder.wait()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    subprocess.run(["mount", "--bind", str(folder / "sub"), str(elsewhere)], check=True)
    assert copy_target.users(str(folder)) == [f"a mount at {elsewhere}"]
    subprocess.run(["umount", str(elsewhere)], check=True)


@root
def test_a_folder_mounted_on_itself_is_let_go_but_a_disk_stays(disk: Path) -> None:
    folder = disk / "docker"
    folder.mkdir()
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    assert copy_target.below(str(disk))
    copy_target.release(str(folder))
    assert not copy_target.below(str(disk))
    copy_target.release(str(disk))
    assert copy_target.mount_of(str(disk))["point"] == str(disk)


def test_a_marked_folder_tells_its_node(tmp_path: Path) -> None:
    assert copy_target.owner(str(tmp_path)) == {}
    copy_target.own(str(tmp_path), "pi-01", "abc")
    owner = copy_target.owner(str(tmp_path))
    assert (owner["node"], owner["machine"]) == ("pi-01", "abc")
    (tmp_path / copy_target.MARKER).write_text("[nonsense")
    assert copy_target.owner(str(tmp_path)) == {}


def test_folders_alone_are_no_data(tmp_path: Path) -> None:
    (tmp_path / "opt/bin").mkdir(parents=True)
    assert not copy_target.has_files(str(tmp_path))
    (tmp_path / "opt/bin/x").write_text("")
    assert copy_target.has_files(str(tmp_path))
