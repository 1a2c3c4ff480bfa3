"""install/wheelhouse.sh, run for real against a folder of small packages."""

from __future__ import annotations

import hashlib
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.unit.install.conftest import HERE, INSTALL, Index


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def state(folder: Path) -> dict[str, tuple[int, str]]:
    return {path.name: (path.stat().st_ino, sha256(path)) for path in folder.iterdir()}


def test_fills_the_folder(wheels: Path) -> None:
    names = {path.name for path in wheels.glob("*.whl")}
    assert "salt-1.0-py3-none-any.whl" in names
    assert "helper-1.0-py3-none-any.whl" in names
    assert not any(name.startswith("setuptools") for name in names), "a tool, not for nodes"


def test_node_lock_names_the_hash_of_the_wheel_built_here(wheels: Path, index: Index) -> None:
    lock = (wheels / "salt.lock").read_text()
    salt = re.search(r"^salt==1\.0 --hash=sha256:(\w+)$", lock, re.M)
    assert salt and salt[1] == sha256(wheels / "salt-1.0-py3-none-any.whl")
    assert f"# saltberry wheelhouse: {sha256(index.lock)} {HERE}-" in lock
    assert "setuptools" not in lock
    assert "\\" not in lock, "one line for each package: the scripts read it line by line"


def test_index_names_every_wheel_with_its_hash(wheels: Path) -> None:
    text = (wheels / "index.html").read_text()
    for path in wheels.glob("*.whl"):
        assert f'href="{path.name}#sha256={sha256(path)}"' in text


def test_complete_folder_is_left_alone_without_network(
    wheels: Path, tmp_path: Path, index: Index
) -> None:
    before = state(wheels)
    offline = Index(tmp_path / "other")  # its lock is another one; its folder gets emptied
    for path in offline.folder.iterdir():
        path.unlink()
    offline.lock = index.lock
    for args in (("--python", HERE), ("--arch", "auto", "--python", HERE)):
        done = offline.fill(wheels, *args)
        assert done.returncode == 0, done.stderr
        assert "is complete for" in done.stdout
    assert state(wheels) == before


def test_without_options_takes_what_the_folder_is_for(wheels: Path, index: Index) -> None:
    """nfs1 asks for nothing special: a folder that someone filled for other Pythons is right."""
    done = subprocess.run(
        ["bash", INSTALL / "wheelhouse.sh", wheels, "--lock", index.lock],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"is complete for {HERE}-" in done.stdout


def test_fetches_only_what_is_missing(wheels: Path, tmp_path: Path, index: Index) -> None:
    """Salt's wheel is not built again: cards that are out there carry the hash of the first."""
    folder = tmp_path / "wheels"
    shutil.copytree(wheels, folder)
    before = state(folder)
    (folder / "helper-1.0-py3-none-any.whl").write_bytes(b"half a fi")
    done = index.fill(folder, "--python", "3.12", "--python", "3.13", "--arch", "aarch64")
    assert done.returncode == 0, done.stderr
    assert "building" not in done.stdout
    after = state(folder)
    for name in before:
        if name.endswith(".whl") and not name.startswith("helper"):
            assert after[name] == before[name]
    assert after["helper-1.0-py3-none-any.whl"][1] == before["helper-1.0-py3-none-any.whl"][1]
    lock = (folder / "salt.lock").read_text()
    assert f"{HERE}-" in lock, "what was there stays"
    assert "3.13-aarch64" in lock


def test_default_pythons_and_the_machines_own(newer: Path) -> None:
    lock = (newer / "salt.lock").read_text()
    for version in ("3.11", "3.13", HERE):
        assert f" {version}-" in lock


def test_new_lock_keeps_the_old_wheels(newer: Path) -> None:
    """A card written yesterday still asks for them."""
    assert (newer / "salt-1.1-py3-none-any.whl").exists()
    assert (newer / "salt-1.0-py3-none-any.whl").exists()
    assert "salt==1.1 " in (newer / "salt.lock").read_text()


def test_killed_and_run_again(tmp_path: Path, index: Index) -> None:
    folder = tmp_path / "wheels"
    words = ["bash", INSTALL / "wheelhouse.sh", folder, "--lock", index.lock, "--python", HERE]
    process = subprocess.Popen(
        [str(word) for word in words],
        env=index.environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )
    time.sleep(2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = index.fill(folder)
    assert done.returncode == 0, done.stderr
    assert index.fill(folder).stdout.count("is complete for") == 1


def test_file_that_is_not_the_locked_one_is_refused(tmp_path: Path) -> None:
    index = Index(tmp_path / "packages")
    with (index.folder / "helper-1.0-py3-none-any.whl").open("ab") as file:
        file.write(b"evil")
    done = index.fill(tmp_path / "wheels")
    assert done.returncode != 0
    assert "HASH" in done.stderr.upper()
    assert not (tmp_path / "wheels/salt.lock").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "which folder"),
        (["a", "b"], "one folder only"),
        (["a", "--python", "3.9"], "3.11, 3.12 and 3.13"),
        (["a", "--arch", "armhf"], "aarch64, x86_64 or auto"),
        (["a", "--python"], "needs a value"),
        (["a", "--lock", "/nonexistent"], "cannot read the lock"),
        (["a", "--verbose"], "unknown option"),
    ],
)
def test_wrong_arguments(args: list[str], words: str, tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", INSTALL / "wheelhouse.sh", *args], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert words in done.stderr
    assert not list(tmp_path.iterdir())
