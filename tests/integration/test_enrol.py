"""Cards: the key on one is accepted, and a minion that starts with it is in without another step."""

from __future__ import annotations

import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from saltfactories.daemons.master import SaltMaster

from tests.integration.conftest import REPO, render

NODE = "pi-33"


@pytest.fixture
def mirror_dir(master: SaltMaster, workspace: Path) -> Iterator[Path]:
    """A mirror with the lock that install/wheelhouse.sh would have written."""
    wheels = workspace / "mirror" / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    (wheels / "salt.lock").write_text(
        "# saltberry wheelhouse: test\nsalt==3008.3\n", encoding="utf-8"
    )
    conf = Path(master.config_dir) / "master.d" / "zz-test.conf"
    before = conf.read_text(encoding="utf-8")
    conf.write_text(
        before.replace("run_dir:", f"mirror_dir: {wheels.parent}, run_dir:"), encoding="utf-8"
    )
    yield wheels.parent
    conf.write_text(before, encoding="utf-8")


@pytest.fixture(scope="module", autouse=True)
def shipped(checkout: Path) -> None:
    """What a card carries, in the checkout of the master."""
    for name in ("install", "etc"):
        shutil.copytree(REPO / name, checkout / name, dirs_exist_ok=True)


@pytest.fixture
def enrol(master: SaltMaster, mirror_dir: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    """``salt-run enrol.card``; the keys that it made are removed afterwards."""
    pki = Path(master.config["pki_dir"])
    before = {path for kind in ("minions", "minions_pre") for path in (pki / kind).glob("*")}

    def call(*words: str) -> dict[str, Any]:
        done = master.salt_run_cli(timeout=120).run("enrol.card", *words)
        assert isinstance(done.data, dict), done
        assert done.returncode == (0 if done.data["ok"] else 1)
        return done.data

    yield call
    for kind in ("minions", "minions_pre"):
        for path in set((pki / kind).glob("*")) - before:
            path.unlink()


def accepted(master: SaltMaster, node: str) -> str:
    return (Path(master.config["pki_dir"]) / "minions" / node).read_text(encoding="ascii")


def test_a_card_has_all_that_first_boot_needs(
    master: SaltMaster, enrol: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    made = enrol(NODE, f"target={tmp_path}")
    assert made["ok"], made
    card = tmp_path / "saltberry"
    assert made["card"] == str(card)
    assert {path.name for path in card.iterdir()} == {
        "card.env", "firstboot.sh", "master.pub", "minion.conf.in", "minion.pem", "minion.pub",
        "minion.sh", "salt-minion.service", "salt.lock", "salt_patch.py", "saltberry-firstboot.service",
        "start.sh", "upstream.lock", "wheelhouse.sh",
    }  # fmt: skip
    assert (card / "card.env").read_text(encoding="utf-8").splitlines() == [
        f"ID={NODE}", "MASTER=192.168.1.10", "MIRROR=http://192.168.1.10",
    ]  # fmt: skip
    for name in ("firstboot.sh", "minion.sh"):
        assert (card / name).read_bytes() == (REPO / "install" / name).read_bytes()
    assert (card / "master.pub").read_text("ascii") == (
        Path(master.config["pki_dir"]) / "master.pub"
    ).read_text("ascii")
    assert stat.S_IMODE((card / "minion.pem").stat().st_mode) == 0o600
    # the key of the card is the one the master accepted, and nothing else was left in the folder
    assert accepted(master, NODE).split() == (card / "minion.pub").read_text("ascii").split()
    assert [path.name for path in tmp_path.iterdir()] == ["saltberry"]


def test_a_minion_with_the_cards_keys_is_in_at_once(
    master: SaltMaster, enrol: Callable[..., dict[str, Any]], tmp_path: Path, workspace: Path
) -> None:
    assert enrol(NODE, f"target={tmp_path}")["ok"]
    card = tmp_path / "saltberry"
    root = workspace / "e"
    conf = root / "conf" / "minion.d" / "saltberry.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text(render(card / "minion.conf.in", MASTER="127.0.0.1", ID=NODE), encoding="utf-8")
    minion = master.salt_minion_daemon(NODE, defaults={"root_dir": str(root)})
    pki = Path(minion.config["pki_dir"])
    pki.mkdir(parents=True, exist_ok=True)
    for name, target, mode in (
        ("minion.pem", "minion.pem", 0o400),
        ("minion.pub", "minion.pub", 0o644),
        ("master.pub", "minion_master.pub", 0o644),
    ):
        (pki / target).write_bytes((card / name).read_bytes())
        (pki / target).chmod(mode)
    with minion.started():
        assert master.salt_cli(timeout=120).run("test.ping", minion_tgt=NODE).data is True
        pending = Path(master.config["pki_dir"]) / "minions_pre" / NODE
        assert not pending.exists()


def test_a_second_card_is_refused_and_force_replaces_the_key(
    master: SaltMaster, enrol: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    assert enrol(NODE, f"target={first}")["ok"]
    before = accepted(master, NODE)
    refused = enrol(NODE, f"target={second}")
    assert not refused["ok"]
    assert "force=True" in refused["reason"]
    assert accepted(master, NODE) == before
    assert list(second.iterdir()) == []
    denied = Path(master.config["pki_dir"]) / "minions_denied" / NODE
    denied.parent.mkdir(exist_ok=True)
    denied.write_text(before, encoding="ascii")  # the re-imaged Pi knocked before its new card
    assert enrol(NODE, f"target={second}", "force=True")["ok"]
    after = accepted(master, NODE)
    assert after != before
    assert after.split() == (second / "saltberry" / "minion.pub").read_text("ascii").split()
    assert not denied.exists()


def test_a_card_in_the_folder_is_only_replaced_by_force(
    enrol: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    assert enrol(NODE, f"target={tmp_path}")["ok"]
    refused = enrol("pi-34", f"target={tmp_path}")
    assert not refused["ok"] and "has a card already" in refused["reason"]
    assert enrol("pi-34", f"target={tmp_path}", "force=True")["ok"]
    assert "ID=pi-34" in (tmp_path / "saltberry" / "card.env").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "node", ["*", "PI-07", "a b", "../../etc", "pi_07", "localhost", "{{ 1 }}"]
)
def test_what_is_no_host_name_gets_no_card(
    master: SaltMaster, enrol: Callable[..., dict[str, Any]], tmp_path: Path, node: str
) -> None:
    refused = enrol(node, f"target={tmp_path}")
    assert not refused["ok"] and "host name" in refused["reason"]
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_accepted_when_the_card_cannot_be_written(
    master: SaltMaster,
    enrol: Callable[..., dict[str, Any]],
    mirror_dir: Path,
    tmp_path: Path,
) -> None:
    key = Path(master.config["pki_dir"]) / "minions" / NODE
    absent = enrol(NODE, f"target={tmp_path / 'not-mounted'}")
    assert not absent["ok"] and "no folder" in absent["reason"]
    (mirror_dir / "wheels" / "salt.lock").unlink()
    unlocked = enrol(NODE, f"target={tmp_path}")
    assert not unlocked["ok"] and "wheelhouse.sh" in unlocked["reason"]
    wrong = enrol(NODE, f"target={tmp_path}", "master=-o ProxyCommand=x")
    assert not wrong["ok"] and "host name" in wrong["reason"]
    assert not key.exists()
    assert list(tmp_path.iterdir()) == []


def test_the_private_key_is_nowhere_but_on_the_card(
    master: SaltMaster, enrol: Callable[..., dict[str, Any]], tmp_path: Path, workspace: Path
) -> None:
    made = enrol(NODE, f"target={tmp_path}")
    secret = (tmp_path / "saltberry" / "minion.pem").read_text("ascii").splitlines()[5]
    assert secret not in str(made)
    time.sleep(2)  # the job cache is written by another process
    for path in (workspace / "m").rglob("*"):
        if path.is_file() and secret.encode() in path.read_bytes():
            pytest.fail(f"{path} holds the private key of the card")
