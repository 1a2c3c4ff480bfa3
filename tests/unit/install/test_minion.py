"""install/minion.sh, run for real into a root of its own (only systemd's daemons are not there)."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import signal
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.unit.install.conftest import INSTALL, Pi, make_keys


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def web_server(folder: Path, port: int) -> Iterator[None]:
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_installs_all_of_a_minion(blank_pi: Pi, keys: Path, tmp_path: Path) -> None:
    master_pub = tmp_path / "master.pub"
    master_pub.write_bytes((make_keys(tmp_path / "master") / "minion.pub").read_bytes())
    done = blank_pi.install("--keys", keys, "--master-pub", master_pub)
    assert done.returncode == 0, done.stderr

    etc = blank_pi.root / "etc/salt"
    assert (etc / "minion_id").read_text() == "pi-01\n"
    config = yaml.safe_load((etc / "minion.d/saltberry.conf").read_text())
    assert config["id"] == "pi-01"
    assert config["master"] == "10.0.0.1"
    assert (etc / "pki/minion/minion.pem").read_bytes() == (keys / "minion.pem").read_bytes()
    assert mode(etc / "pki/minion/minion.pem") == 0o600
    assert mode(etc / "pki/minion") == 0o700
    assert (etc / "pki/minion/minion_master.pub").read_bytes() == master_pub.read_bytes()
    unit = (blank_pi.root / "etc/systemd/system/salt-minion.service").read_text()
    assert "--disable-keepalive" in unit
    wants = blank_pi.root / "etc/systemd/system/multi-user.target.wants/salt-minion.service"
    assert wants.is_symlink()

    assert (blank_pi.opt / "salt").readlink().name.startswith("salt-1.0-")
    version = subprocess.run([blank_pi.opt / "salt/bin/salt-call"], capture_output=True, text=True)
    assert version.stdout == "salt-call 1.0\n"
    link = blank_pi.root / "usr/local/bin/salt-call"
    assert link.readlink() == blank_pi.opt / "salt/bin/salt-call"
    assert not (blank_pi.opt / "salt/bin/pip").exists()


def test_second_run_changes_nothing(pi: Pi, keys: Path) -> None:
    assert pi.install("--keys", keys).returncode == 0
    before = pi.files()
    done = pi.install("--keys", keys)
    assert done.returncode == 0
    assert "nothing to change" in done.stdout
    assert pi.files() == before


def test_second_run_mends_what_was_changed(pi: Pi) -> None:
    assert pi.install().returncode == 0
    config = pi.root / "etc/salt/minion.d/saltberry.conf"
    good = config.read_text()
    config.write_text("master: 6.6.6.6\n")
    done = pi.install()
    assert config.read_text() == good
    assert "nothing to change" not in done.stdout


def test_no_secret_is_printed(pi: Pi, keys: Path) -> None:
    done = pi.install("--keys", keys)
    secret = (keys / "minion.pem").read_text().splitlines()[1]
    assert secret not in done.stdout + done.stderr


@pytest.mark.parametrize("after", [0.3, 1.5])
def test_killed_and_run_again(blank_pi: Pi, keys: Path, after: float) -> None:
    process = subprocess.Popen(
        blank_pi.command("--keys", keys),
        env=blank_pi.environment(),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    time.sleep(after)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = blank_pi.install("--keys", keys)
    assert done.returncode == 0, done.stderr
    assert (
        subprocess.run([blank_pi.opt / "salt/bin/salt-call"], capture_output=True).returncode == 0
    )
    assert (blank_pi.root / "etc/salt/minion_id").exists()
    assert "nothing to change" in blank_pi.install("--keys", keys).stdout


def test_cut_off_before_the_restart_leaves_word(pi: Pi) -> None:
    """A run that changed something and died must not look like one that had nothing to do."""
    assert pi.install().returncode == 0
    (pi.opt / ".changed").touch()
    assert "nothing to change" not in pi.install().stdout
    assert "nothing to change" in pi.install().stdout


def test_environment_of_another_python_is_made_anew(blank_pi: Pi) -> None:
    """After an upgrade from Bookworm to Trixie the old one has lost its Python."""
    assert blank_pi.install().returncode == 0
    (blank_pi.opt / "salt/.complete").write_text("3.9\n")
    shutil.rmtree(blank_pi.opt / "salt/lib")
    assert blank_pi.install().returncode == 0
    assert (
        subprocess.run([blank_pi.opt / "salt/bin/salt-call"], capture_output=True).returncode == 0
    )


def test_upgrade(blank_pi: Pi, newer: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(newer, damaged)
    (damaged / "salt-1.1-py3-none-any.whl").write_bytes(b"not the one")
    assert blank_pi.install().returncode == 0
    first = (blank_pi.opt / "salt").readlink()
    (blank_pi.opt / "salt-0.9-00000000").mkdir()

    # One that fails leaves Salt as it was
    done = blank_pi.install(source=("--wheels", damaged))
    assert done.returncode == 1
    assert "could not be installed" in done.stderr
    assert (blank_pi.opt / "salt").readlink() == first
    assert subprocess.run([blank_pi.opt / "salt/bin/salt-call"]).returncode == 0

    # One that works keeps the last version, which jobs may still run from, and none before it
    done = blank_pi.install(source=("--wheels", newer))
    assert done.returncode == 0, done.stderr
    second = (blank_pi.opt / "salt").readlink()
    assert second.name.startswith("salt-1.1-")
    assert {path.name for path in blank_pi.opt.glob("salt-*")} == {first.name, second.name}


@pytest.mark.parametrize("name", ["salt", "pip"])
def test_wheel_that_is_not_the_locked_one_is_refused(
    blank_pi: Pi, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "wheels"
    shutil.copytree(blank_pi.wheels, folder)
    with next(folder.glob(f"{name}-*.whl")).open("ab") as file:
        file.write(b"evil")
    done = blank_pi.install(source=("--wheels", folder))
    assert done.returncode == 1
    assert not (blank_pi.opt / "salt").exists()
    assert not (blank_pi.root / "etc/salt").exists()


def test_from_a_mirror_that_comes_up_late(blank_pi: Pi, tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror/wheels").symlink_to(blank_pi.wheels)
    source = ("--mirror", f"http://127.0.0.1:{port}", "--lock", blank_pi.wheels / "salt.lock")
    process = subprocess.Popen(
        blank_pi.command(source=source),
        env=blank_pi.environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "waiting for http://127.0.0.1" in process.stdout.readline()
    with web_server(tmp_path / "mirror", port):
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert (blank_pi.opt / "salt/bin/salt-call").exists()


def test_mirror_that_never_answers(blank_pi: Pi) -> None:
    source = (
        "--mirror",
        f"http://127.0.0.1:{free_port()}",
        "--lock",
        blank_pi.wheels / "salt.lock",
    )
    done = blank_pi.install("--wait", "1", source=source)
    assert done.returncode == 1
    assert "did not answer for 1 seconds" in done.stderr
    assert not (blank_pi.root / "etc/salt").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--id", "Pi_01"], "'Pi_01' is no host name"),
        (["--id", "-pi"], "is no host name"),
        (["--id", "a" * 64], "is no host name"),
        (["--id", "12"], "is no host name"),
        (["--id", "localhost"], "is no host name"),
        (["--id", "pi\n"], "is no host name"),
        (["--id", "../pi"], "is no host name"),
        (["--id", ""], "--id needs a value"),
        (["--master", "a b"], "neither a host name nor"),
        (["--master", "x|e id"], "neither a host name nor"),
        (["--mirror", "http://nfs1"], "only one of them"),
        (["--wheels", "/nonexistent"], "is no folder"),
        (["--lock", "/etc/hostname"], "not a lock for nodes"),
        (["--lock", str(INSTALL / "salt.lock")], "not a lock for nodes"),
        (["--master-pub", "/etc/hostname"], "is no public key"),
        (["--keys", "/etc"], "no private key in '/etc/minion.pem'"),
        (["--wait", "soon"], "number of seconds"),
        (["--wait"], "needs a value"),
        (["--frobnicate"], "unknown argument '--frobnicate'"),
    ],
)
def test_wrong_arguments_are_named_before_anything_is_touched(
    pi: Pi, args: list[str], words: str
) -> None:
    before = pi.files()
    done = pi.install(*args)
    assert done.returncode == 2
    assert words in done.stderr
    assert pi.files() == before


@pytest.mark.parametrize("missing", ["--id", "--master", "--wheels"])
def test_missing_arguments(pi: Pi, missing: str) -> None:
    words = pi.command()
    at = words.index(missing)
    done = subprocess.run(
        words[:at] + words[at + 2 :], env=pi.environment(), capture_output=True, text=True
    )
    assert done.returncode == 2
    assert missing in done.stderr


def test_keys_that_do_not_belong_together(pi: Pi, keys: Path, tmp_path: Path) -> None:
    other = make_keys(tmp_path / "other")
    (keys / "minion.pub").write_bytes((other / "minion.pub").read_bytes())
    done = pi.install("--keys", keys)
    assert done.returncode == 2
    assert "are no pair of keys" in done.stderr


@pytest.mark.parametrize(
    ("name", "script", "words"),
    [
        ("dpkg", "echo armhf", "this system is armhf"),
        ("dpkg", "exit 127", "no Debian-like system"),
        ("python3", "echo Python 3.9.2; exit 1", "this system has: Python 3.9.2"),
    ],
)
def test_system_that_will_not_do(
    blank_pi: Pi, command: Callable[[str, str], str], name: str, script: str, words: str
) -> None:
    done = blank_pi.install(PATH=command(name, script))
    assert done.returncode == 1
    assert words in done.stderr
    assert not blank_pi.opt.exists()


def test_not_root(pi: Pi) -> None:
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", *pi.command()],
        env=pi.environment(),
        capture_output=True,
        text=True,
        cwd="/",
    )
    if "cannot" in done.stderr.lower() and "must run as root" not in done.stderr:
        pytest.skip("the checkout cannot be read by others here")
    assert done.returncode != 0


def test_help_is_the_head_of_the_script() -> None:
    done = subprocess.run(["bash", INSTALL / "minion.sh", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "--master-pub FILE" in done.stdout
    assert "set -euo" not in done.stdout


def test_same_rule_for_ids_as_rackspec() -> None:
    import importlib.util

    path = INSTALL.parent / "_utils/rackspec.py"
    spec = importlib.util.spec_from_file_location("rackspec_of_install", path)
    assert spec and spec.loader
    rackspec = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rackspec)
    ids = ["a", "pi-01", "0a", "a" * 63, "a" * 64, "-a", "a-", "A", "a.b", "a_b", "1", "localhost"]
    ids += ["", "a b", "ä", "localhosts", "a\n"]
    script = f'source {INSTALL}/minion.sh; for id; do valid_id "$id" && echo yes || echo no; done'
    done = subprocess.run(
        ["bash", "-c", script, "bash", *ids], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["yes" if rackspec.valid_id(i) else "no" for i in ids]
