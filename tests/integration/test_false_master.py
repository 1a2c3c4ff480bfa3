"""Somebody else takes the master's address: the Pis know the key of theirs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from saltfactories.daemons.master import SaltMaster
from saltfactories.daemons.minion import SaltMinion
from saltfactories.manager import FactoriesManager

from tests.integration.conftest import OVERLAY, REPO, render


@pytest.fixture
def impostor(
    salt_factories: FactoriesManager, workspace: Path, checkout: Path
) -> Iterator[SaltMaster]:
    """A salt-master of the same settings with keys of its own, which lets everybody in."""
    root = workspace / "f"
    include = root / "conf" / "master.d"
    include.mkdir(parents=True)
    state = root / "state"
    state.mkdir(mode=0o700)
    conf = render(
        REPO / "etc/master.d/saltberry.conf.in",
        REPO=checkout, STATE_DIR=state, INTERFACE="127.0.0.1",
    )  # fmt: skip
    (include / "saltberry.conf").write_text(conf, encoding="utf-8")
    overlay = OVERLAY.format(state_dir=state, run_dir=root / "run") + "auto_accept: true\n"
    (include / "zz-test.conf").write_text(overlay, encoding="utf-8")
    daemon = salt_factories.salt_master_daemon("impostor", defaults={"root_dir": str(root)})
    with daemon.started():
        yield daemon


def key_of(master: SaltMaster) -> bytes:
    return (Path(master.config["pki_dir"]) / "master.pub").read_bytes()


@contextmanager
def minion(at: SaltMaster, knows: SaltMaster, node: str, folder: Path) -> Iterator[SaltMinion]:
    """A minion whose card has one master's key, and which finds another (or the same) at the address."""
    root = folder / uuid.uuid4().hex[:4]
    conf = root / "conf/minion.d/saltberry.conf"
    conf.parent.mkdir(parents=True)
    template = REPO / "etc/minion.d/saltberry.conf.in"
    conf.write_text(render(template, MASTER="127.0.0.1", ID=node), encoding="utf-8")
    daemon = at.salt_minion_daemon(node, defaults={"root_dir": str(root)})
    pki = Path(daemon.config["pki_dir"])
    pki.mkdir(parents=True, exist_ok=True)
    (pki / "minion_master.pub").write_bytes(key_of(knows))
    # Not .started(): that waits for the start event, which one who trusts nobody never fires
    program = Path(sys.executable).with_name("salt-minion")
    command = [program, "--config-dir", daemon.config_dir, "--disable-keepalive"]
    with (root / "said").open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)
    try:
        yield daemon
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def obeys(master: SaltMaster, node: str) -> bool:
    done = master.salt_cli(timeout=120).run("-t", "5", "test.ping", minion_tgt=node)
    return done.data is True


def test_a_pi_does_nothing_for_a_master_whose_key_is_not_on_its_card(
    master: SaltMaster, impostor: SaltMaster, workspace: Path
) -> None:
    # The second one shows that the first refuses a person, not an address.
    with (
        minion(impostor, master, "pi-50", workspace) as ours,
        minion(impostor, impostor, "pi-51", workspace),
    ):
        deadline = time.monotonic() + 120
        while not obeys(impostor, "pi-51"):
            assert time.monotonic() < deadline, "the impostor has no power over its own Pi either"
        said = Path(ours.config["root_dir"]) / "said"
        while "public key did not authenticate" not in said.read_text():
            assert time.monotonic() < deadline, said.read_text()[-800:]
            time.sleep(0.5)
        assert not obeys(impostor, "pi-50")
        kept = Path(ours.config["pki_dir"]) / "minion_master.pub"
        assert kept.read_bytes() == key_of(master)
