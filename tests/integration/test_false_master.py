"""Somebody else takes the master's address: the Pis know the key of theirs."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from saltfactories.daemons.master import SaltMaster
from saltfactories.daemons.minion import SaltMinion
from saltfactories.manager import FactoriesManager

from tests.integration.conftest import (
    OVERLAY,
    answers,
    configured_master,
    configured_minion,
    running,
)


@pytest.fixture
def impostor(
    salt_factories: FactoriesManager, workspace: Path, checkout: Path
) -> Iterator[SaltMaster]:
    """A salt-master of the same settings with keys of its own, which lets everybody in."""
    root = workspace / "f"
    state = root / "state"
    state.mkdir(parents=True, mode=0o700)
    overlay = OVERLAY.format(state_dir=state, run_dir=root / "run") + "auto_accept: true\n"
    daemon = configured_master(
        salt_factories, "impostor", root, checkout=checkout, state_dir=state, overlay=overlay
    )
    with daemon.started():
        yield daemon


def key_of(master: SaltMaster) -> bytes:
    return (Path(master.config["pki_dir"]) / "master.pub").read_bytes()


@contextmanager
def minion(at: SaltMaster, knows: SaltMaster, node: str, folder: Path) -> Iterator[SaltMinion]:
    """A minion whose card has one master's key, and which finds another (or the same) at the address."""
    daemon = configured_minion(at, node, folder / uuid.uuid4().hex[:4])
    (Path(daemon.config["pki_dir"]) / "minion_master.pub").write_bytes(key_of(knows))
    with running(daemon):
        yield daemon


def test_a_pi_does_nothing_for_a_master_whose_key_is_not_on_its_card(
    master: SaltMaster, impostor: SaltMaster, workspace: Path
) -> None:
    # The second one shows that the first refuses a person, not an address.
    with (
        minion(impostor, master, "pi-50", workspace) as ours,
        minion(impostor, impostor, "pi-51", workspace),
    ):
        deadline = time.monotonic() + 120
        while not answers(impostor, "pi-51"):
            assert time.monotonic() < deadline, "the impostor has no power over its own Pi either"
        said = Path(ours.config["root_dir"]) / "said"
        while "public key did not authenticate" not in said.read_text():
            assert time.monotonic() < deadline, said.read_text()[-800:]
            time.sleep(0.5)
        assert not answers(impostor, "pi-50")
        kept = Path(ours.config["pki_dir"]) / "minion_master.pub"
        assert kept.read_bytes() == key_of(master)
