"""Salt as a Pi gets it: the locked wheels from the package index, and daemons that run from them.

What is left out of install/salt.in must not be missed: a master and a minion run from the finished
environment, with the commands that the project uses.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[2]
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="the install scripts want root"),
    pytest.mark.skipif(not shutil.which("dpkg"), reason="the install scripts are for Debian"),
]

MASTER = """\
root_dir: {root}/master
interface: 127.0.0.1
publish_port: {publish}
ret_port: {ret}
worker_threads: 2
auto_accept: true
file_roots: {{base: [{root}/files]}}
log_level_logfile: debug
"""
MINION = """\
root_dir: {root}/minion
id: m1
master: 127.0.0.1
publish_port: {publish}
master_port: {ret}
log_level_logfile: debug
"""
STATE = """\
{root}/written:
  file.managed:
    - contents: {{{{ grains['os'] }}}} {{{{ grains['locale_info']['timezone'] }}}}
"""


@dataclass
class Salt:
    """Commands of the installed Salt with a configuration of their own."""

    bin: Path
    root: Path

    def run(self, command: str, *args: str) -> subprocess.CompletedProcess[str]:
        words = [str(self.bin / command), "-c", str(self.root / "etc"), *args]
        return subprocess.run(words, capture_output=True, text=True, timeout=90)

    def json(self, command: str, *args: str) -> Any:
        done = self.run(command, "--out=json", *args)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if PYTHON not in ("3.11", "3.12", "3.13"):
        pytest.skip(f"the lock is not for Python {PYTHON}")
    folder = tmp_path_factory.mktemp("wheelhouse") / "wheels"
    command = ["bash", str(REPO / "install/wheelhouse.sh"), str(folder), "--python", PYTHON]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def installed(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with Salt's commands, made by minion.sh."""
    root = tmp_path_factory.mktemp("pi")
    command = ["bash", str(REPO / "install/minion.sh"), "--id", "m1", "--master", "127.0.0.1"]
    done = subprocess.run(
        [*command, "--wheels", str(wheels)],
        env={**os.environ, "SALTBERRY_ROOT": str(root), "SALTBERRY_OPT": str(root / "opt")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return root / "opt/salt/bin"


def free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]


@pytest.fixture(scope="module")
def salt(installed: Path) -> Iterator[Salt]:
    """A master and a minion that know each other."""
    # Short: unix sockets live in it
    root = Path(tempfile.mkdtemp(prefix="sb-"))
    for name in ("etc", "files", "master", "minion"):
        (root / name).mkdir()
    publish, ret = free_ports()
    for name, text in (("etc/master", MASTER), ("etc/minion", MINION), ("files/t.sls", STATE)):
        (root / name).write_text(text.format(root=root, publish=publish, ret=ret))
    result = Salt(installed, root)
    log = (root / "output").open("w")
    daemons = [
        subprocess.Popen(
            [installed / name, "-c", root / "etc", *more], stdout=log, stderr=subprocess.STDOUT
        )
        for name, *more in (["salt-master"], ["salt-minion", "--disable-keepalive"])
    ]
    try:
        end = time.monotonic() + 120
        while not result.run("salt", "-t", "5", "m1", "test.ping").stdout.count("True"):
            assert time.monotonic() < end, (root / "output").read_text()
        yield result
    finally:
        for daemon in daemons:
            daemon.terminate()
        for daemon in daemons:
            try:
                daemon.wait(60)
            except subprocess.TimeoutExpired:
                daemon.kill()
        log.close()
        shutil.rmtree(root)


def test_wheels_are_for_this_python_and_nobody_elses(wheels: Path) -> None:
    tag = f"cp{PYTHON.replace('.', '')}"
    for wheel in wheels.glob("*.whl"):
        tags = wheel.name.split("-")[-3:]
        assert tags[0] == tag or tags[1] in ("none", "abi3"), wheel.name


def test_states_run(salt: Salt) -> None:
    found = salt.json("salt", "m1", "state.apply", "t")["m1"]
    assert all(state["result"] for state in found.values()), found
    assert (salt.root / "written").read_text().strip()


def test_the_commands_that_the_project_uses(salt: Salt) -> None:
    assert salt.json("salt-run", "manage.up") == ["m1"]
    assert salt.json("salt-key", "-L")["minions"] == ["m1"]
    assert salt.json("salt-call", "test.ping")["local"] is True
    assert salt.json("salt", "m1", "saltutil.sync_all")["m1"]
    assert salt.json("salt", "m1", "pkg.version", "bash")["m1"]
    assert salt.run("salt-cp", "m1", "/etc/hostname", f"{salt.root}/copied").returncode == 0
    assert (salt.root / "copied").exists()


def test_nothing_was_missed(salt: Salt, installed: Path) -> None:
    """No daemon or command named a module that it could not import, but those Salt does without."""
    output = (salt.root / "output").read_text()
    for log in salt.root.glob("*/var/log/salt/*"):
        output += log.read_text(errors="replace")
    missing = set(re.findall(r"No module named '([^']+)'", output))
    assert missing <= {"pop"}, missing
    assert "Traceback" not in output
