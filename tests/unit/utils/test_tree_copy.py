"""Copies of trees with the real rsync: nothing is lost, and whatever differs is found."""

from __future__ import annotations

import mmap
import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from saltberry_ext.utils import tree_copy

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("rsync"), reason="needs root and rsync"
)


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    """A tree with everything that a copy may lose, and an empty folder."""
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "folder/empty").mkdir(parents=True)
    target.mkdir()
    (source / "plain").write_bytes(b"plain" * 1000)
    os.link(source / "plain", source / "folder/hard")
    (source / "soft").symlink_to("plain")
    (source / "odd\nname \udcff").write_bytes(b"odd")
    os.mknod(source / "whiteout", stat.S_IFCHR | 0o600, os.makedev(0, 0))
    os.mknod(source / "device", stat.S_IFBLK | 0o600, os.makedev(7, 9))
    os.mkfifo(source / "pipe")
    os.setxattr(source / "folder", "trusted.overlay.opaque", b"y")
    os.setxattr(source / "plain", "user.note", b"kept")
    os.chown(source / "folder/empty", 4711, 4712)
    (source / "folder").chmod(0o1750)
    with (source / "holes").open("wb") as file:
        file.truncate(8 << 20)
    os.utime(source / "plain", ns=(1_000_000_000_123_456_789,) * 2)
    return source, target


def same(source: Path, target: Path) -> bool:
    found = tree_copy.differences(str(source), str(target))
    return not found and tree_copy.tally(str(source)) == tree_copy.tally(str(target))


def test_a_copy_is_the_same_in_every_respect(trees: tuple[Path, Path]) -> None:
    source, target = trees
    seen: list[int] = []
    done = tree_copy.copy(str(source), str(target), report=seen.append)
    assert done["files"] == 3
    assert same(source, target)
    assert (target / "plain").stat().st_ino == (target / "folder/hard").stat().st_ino
    assert (target / "plain").stat().st_mtime_ns == 1_000_000_000_123_456_789
    assert os.getxattr(target / "folder", "trusted.overlay.opaque") == b"y"
    assert (target / "holes").stat().st_blocks < 8
    tally = tree_copy.tally(str(target))
    tally.pop("digest")
    assert tally == {
        "files": 4, "hard_links": 2, "folders": 3, "links": 1, "devices": 1, "block_devices": 1,
        "pipes": 1, "sockets": 0,
    }  # fmt: skip


def test_what_is_only_in_the_target_goes(trees: tuple[Path, Path]) -> None:
    source, target = trees
    (target / "left").mkdir()
    (target / "left/over").write_text("of an earlier copy")
    tree_copy.copy(str(source), str(target))
    assert same(source, target)


SPOILT: dict[str, Callable[[Path], object]] = {
    "a missing file": lambda tree: (tree / "holes").unlink(),
    "a file too many": lambda tree: (tree / "more").write_text(""),
    "another size": lambda tree: (tree / "holes").write_text("x"),
    "another time within the second": lambda tree: os.utime(
        tree / "plain", ns=(1_000_000_000_123_456_788,) * 2
    ),
    "another owner": lambda tree: os.chown(tree / "folder/empty", 4711, 4713),
    "another mode": lambda tree: (tree / "folder").chmod(0o750),
    "an attribute less": lambda tree: os.removexattr(tree / "folder", "trusted.overlay.opaque"),
    "another attribute": lambda tree: os.setxattr(tree / "plain", "user.note", b"lost"),
    "another link": lambda tree: ((tree / "soft").unlink(), (tree / "soft").symlink_to("holes")),
    "a hard link less": lambda tree: (
        (tree / "folder/hard").unlink(), shutil.copy2(tree / "plain", tree / "folder/hard")
    ),
    "another device": lambda tree: (
        (tree / "device").unlink(), os.mknod(tree / "device", stat.S_IFBLK | 0o600, os.makedev(7, 8))
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", SPOILT)
def test_any_difference_is_found(trees: tuple[Path, Path], what: str) -> None:
    source, target = trees
    tree_copy.copy(str(source), str(target))
    assert tree_copy.differences(str(source), str(target), b"") == []
    since = time.time()
    SPOILT[what](target)
    assert tree_copy.differences(str(source), str(target))
    assert not same(source, target)
    names = tree_copy.touched(str(target), since)
    known = {os.fsencode(str(path.relative_to(source))) for path in source.rglob("*")}
    names = b"".join(name + b"\0" for name in names.split(b"\0") if name in known)
    found = tree_copy.differences(str(source), str(target), names)
    assert found or tree_copy.tally(str(source)) != tree_copy.tally(str(target))


def test_a_write_that_leaves_size_and_time_as_they_were_is_copied_all_the_same(
    trees: tuple[Path, Path],
) -> None:
    source, target = trees
    since = tree_copy.begin(str(source))
    tree_copy.copy(str(source), str(target), live=True)
    before = (source / "plain").stat()
    (source / "plain").write_bytes(b"other" * 1000)
    os.utime(source / "plain", ns=(before.st_atime_ns, before.st_mtime_ns))
    tree_copy.copy(str(source), str(target))
    assert (target / "plain").read_bytes() == b"plain" * 1000  # rsync cannot see it
    assert tree_copy.recheck(str(source), str(target), since)["files"] == 1
    assert (target / "plain").read_bytes() == b"other" * 1000
    tree_copy.copy(str(source), str(target))
    assert same(source, target)


def test_a_write_through_a_mapping_is_copied(trees: tuple[Path, Path]) -> None:
    source, target = trees
    with (source / "holes").open("r+b") as file, mmap.mmap(file.fileno(), 4096) as mapped:
        mapped[0] = 1
        since = tree_copy.begin(str(source))
        mapped[1] = 2
        tree_copy.copy(str(source), str(target), live=True)
        # the page is dirty already: no new time
        mapped[2] = 3
    tree_copy.copy(str(source), str(target))
    tree_copy.recheck(str(source), str(target), since)
    assert (target / "holes").read_bytes()[:3] == bytes([1, 2, 3])


def test_the_last_passes_leave_nothing_of_what_was_in_the_way(trees: tuple[Path, Path]) -> None:
    source, target = trees
    (source / "full/of/files").mkdir(parents=True)
    (source / "full/of/files/one").write_text("one")
    (source / "file").write_text("file")
    since = tree_copy.begin(str(source))
    tree_copy.copy(str(source), str(target), live=True)
    shutil.rmtree(source / "full")
    (source / "full").write_text("a file where a full folder was")
    (source / "file").unlink()
    (source / "file/deep").mkdir(parents=True)
    (source / "file/deep/new").write_text("a folder where a file was")
    os.link(source / "file/deep/new", source / "folder/new")
    (source / "folder/hard").unlink()
    before = (source / "plain").stat()
    (source / "plain").write_bytes(b"other" * 1000)
    os.utime(source / "plain", ns=(before.st_atime_ns, before.st_mtime_ns))
    tree_copy.recheck(str(source), str(target), since)
    tree_copy.copy(str(source), str(target))
    assert same(source, target)
    assert (target / "plain").read_bytes() == b"other" * 1000


def test_only_what_was_touched_is_read_again(trees: tuple[Path, Path]) -> None:
    source, target = trees
    time.sleep(3.1)
    since = tree_copy.begin(str(source))
    tree_copy.copy(str(source), str(target))
    (target / "odd\nname \udcff").write_bytes(b"ODD")
    os.utime(
        target / "odd\nname \udcff", ns=((source / "odd\nname \udcff").stat().st_mtime_ns,) * 2
    )
    assert tree_copy.recheck(str(source), str(target), since)["files"] == 0


def test_files_that_vanish_while_they_are_copied_stop_no_copy(trees: tuple[Path, Path]) -> None:
    source, target = trees
    script = f"i=0; while :; do i=$((i+1)); mkdir -p {source}/v; echo x >{source}/v/$i; rm -rf {source}/v; done"
    with subprocess.Popen(["sh", "-c", script], stderr=subprocess.DEVNULL) as busy:
        try:
            for _ in range(20):
                tree_copy.copy(str(source), str(target), live=True)
        finally:
            busy.kill()
    shutil.rmtree(source / "v", ignore_errors=True)
    tree_copy.copy(str(source), str(target))
    assert same(source, target)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    image, point = tmp_path / "image", tmp_path / "small"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(4 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    if subprocess.run(["mount", "-o", "loop", str(image), str(point)]).returncode:
        pytest.skip("this machine has no loop devices")
    yield point
    subprocess.run(["umount", str(point)], check=True)


def test_a_target_that_fills_up_says_so_even_while_files_vanish(
    trees: tuple[Path, Path], small: Path
) -> None:
    source, _ = trees
    (source / "big").write_bytes(os.urandom(6 << 20))
    for live in (True, False):
        with pytest.raises(tree_copy.CopyError, match="the target is full"):
            tree_copy.copy(str(source), str(small), live=live)


def test_mounts_inside_the_source_are_left_out(trees: tuple[Path, Path], small: Path) -> None:
    source, target = trees
    subprocess.run(["mount", "--bind", str(small), str(source / "folder/empty")], check=True)
    try:
        tree_copy.copy(str(source), str(target), live=True)
        assert not list((target / "folder/empty").iterdir())
    finally:
        subprocess.run(["umount", str(source / "folder/empty")], check=True)
    tree_copy.copy(str(source), str(target))
    assert same(source, target)


def test_rsync_dies_with_whoever_began_it(trees: tuple[Path, Path]) -> None:
    source, target = trees
    (source / "big").write_bytes(os.urandom(64 << 20))
    code = f"""
        import sys
        sys.path.insert(0, {str(Path(tree_copy.__file__).parent)!r})
        import tree_copy
        tree_copy.copy({str(source)!r}, {str(target)!r}, options=("--bwlimit=1000",))
    """
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])

    def running() -> bool:
        return not subprocess.run(
            ["pgrep", "-f", f"rsync .*{source}/"], capture_output=True
        ).returncode

    deadline = time.monotonic() + 20
    while not running() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert running()
    child.send_signal(signal.SIGKILL)
    child.wait()
    while running() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not running()


def test_a_failing_rsync_speaks_for_itself(tmp_path: Path) -> None:
    with pytest.raises(tree_copy.CopyError, match="No such file"):
        tree_copy.copy(str(tmp_path / "missing"), str(tmp_path))
