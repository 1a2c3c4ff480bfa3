"""What install/master.sh checks before it touches anything; the whole of it runs in the lab's nfs1."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.install.conftest import INSTALL

REPO = INSTALL.parent


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the installer reads, so that the user's own pillar/rack.sls stays out of it."""
    copy = tmp_path / "repo"
    for name in ("install", "etc", "pillar", "_pillar", "_utils"):
        shutil.copytree(REPO / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "pillar/rack.sls").unlink(missing_ok=True)
    return copy


def check(checkout: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, checkout / "install/check_rack.py"], capture_output=True, text=True
    )


def test_good_rack_tells_who_the_master_is(checkout: Path) -> None:
    shutil.copy(checkout / "pillar/rack.example.sls", checkout / "pillar/rack.sls")
    done = check(checkout)
    assert (done.returncode, done.stdout) == (0, "nfs1 192.168.1.10\n"), done.stderr


def test_master_without_an_address(checkout: Path) -> None:
    (checkout / "pillar/rack.sls").write_text(
        "rack: {network: 10.0.0.0/24}\n"
        "nodes: {m: {roles: [master, storage]}, cp1: {ip: 10.0.0.2, roles: [control_plane]}}\n"
    )
    done = check(checkout)
    if done.returncode == 0:
        assert done.stdout == "m -\n"
    else:
        assert "ip" in done.stderr


def test_every_problem_of_a_bad_rack_is_named(checkout: Path) -> None:
    (checkout / "pillar/rack.sls").write_text(
        "rack: {network: 10.0.0.0/99}\nnodes:\n  nfs1: {ip: 10.0.0.1, roles: [mastre]}\n"
    )
    done = check(checkout)
    assert done.returncode == 1
    assert "10.0.0.0/99" in done.stderr
    assert "mastre" in done.stderr
    assert "Traceback" not in done.stderr


def test_rack_that_is_no_yaml(checkout: Path) -> None:
    (checkout / "pillar/rack.sls").write_text("rack: [\n")
    done = check(checkout)
    assert done.returncode == 1
    assert "rack" in done.stderr
    assert "Traceback" not in done.stderr


def master(checkout: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", checkout / "install/master.sh", *args], capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--mirror-dir", "wheels"], "absolute path"),
        (["--mirror-dir"], "absolute path"),
        (["now"], "unknown argument 'now'"),
    ],
)
def test_wrong_arguments(checkout: Path, args: list[str], words: str) -> None:
    done = master(checkout, *args)
    assert done.returncode == 2
    assert words in done.stderr


def test_help(checkout: Path) -> None:
    done = master(checkout, "--help")
    assert done.returncode == 0
    assert "--mirror-dir DIR" in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="the install scripts want root")
def test_without_a_rack_says_how_to_begin(checkout: Path) -> None:
    done = master(checkout)
    assert done.returncode == 1
    assert "pillar/rack.example.sls" in done.stderr
