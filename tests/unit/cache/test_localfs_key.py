"""The store of keys: what strangers leave is bounded, what others have is kept, all else is Salt's."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import salt.cache
import salt.config
from saltberry_ext.cache import localfs_key

REPO = Path(__file__).resolve().parents[3]


class Door:
    """A master's key store as Salt itself opens it, and strangers who leave keys in it."""

    def __init__(self, folder: Path, driver_dirs: list[str]) -> None:
        self.pki, self.state = folder / "pki", folder / "state"
        for path in (self.state, *(self.pki / kind for kind in (*localfs_key.WAITING, "minions"))):
            path.mkdir(parents=True)
        opts = {
            **salt.config.master_config(None),
            "pki_dir": str(self.pki), "cachedir": str(folder / "cache"), "user": "root",
            "saltberry": {"state_dir": str(self.state)}, "cache_dirs": driver_dirs,
        }  # fmt: skip
        self.cache = salt.cache.Cache(opts, driver=opts["keys.cache_driver"])
        self.clock = time.time() - 100_000

    def knows(self, **facts: Any) -> None:
        (self.state / "known.json").write_text(json.dumps(facts))

    def pends(self, node: str, pub: Any = "a key") -> None:
        self.cache.store("keys", node, {"pub": pub, "state": "pending"})
        self._age("minions_pre", node)

    def is_denied(self, node: str, pub: str = "another key") -> None:
        self.cache.store("denied_keys", node, [pub])
        self._age("minions_denied", node)

    def _age(self, kind: str, node: str) -> None:
        """Each key is a second newer than the one before; the file system's clock is too coarse."""
        self.clock += 1
        if (self.pki / kind / node).exists():
            os.utime(self.pki / kind / node, (self.clock, self.clock))

    def held(self, kind: str = "minions_pre") -> list[str]:
        return sorted(path.name for path in (self.pki / kind).iterdir())


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(tmp_path, [str(REPO / "_cache")])


def test_salt_finds_this_store_and_not_its_own(door: Door) -> None:
    source = door.cache.modules["localfs_key.store"].__code__.co_filename
    assert Path(source) == REPO / "_cache/localfs_key.py"


def test_of_strangers_the_newest_keys_are_kept(door: Door) -> None:
    door.knows(keys=3, names=[])
    for number in range(10):
        door.pends(f"stranger-{number}")
    assert door.held() == ["stranger-7", "stranger-8", "stranger-9"]


def test_pending_and_denied_keys_share_the_bound(door: Door) -> None:
    door.knows(keys=4, names=[])
    for number in range(6):
        door.pends(f"stranger-{number}")
        door.is_denied(f"stranger-{number}")
    assert door.held() == door.held("minions_denied") == ["stranger-4", "stranger-5"]


@pytest.mark.parametrize("names", [["*", "a\nb", "{{ 7 }}", "x: [1]", "..", "é", "-", "tmp.x"]])
def test_odd_names_are_counted_like_others(door: Door, names: list[str]) -> None:
    door.knows(keys=2, names=["pi-01"])
    door.pends("pi-01")
    for name in names:
        if name == "..":
            with pytest.raises(salt.exceptions.SaltCacheError):
                door.pends(name)
        else:
            door.pends(name)
    assert door.held() == ["-", "pi-01", "tmp.x"]


def test_names_that_somebody_knows_are_never_forgotten(door: Door) -> None:
    door.knows(keys=2, names=["pi-01"])
    ledger = {"cards": {"pi-02": {}}, "expected": {"pi-03": {}}}
    (door.state / "cards.json").write_text(json.dumps(ledger))
    (door.pki / "minions/pi-04").write_text("the key that was accepted")
    for node in ("pi-01", "pi-02", "pi-03"):
        door.pends(node)
    door.is_denied("pi-04")
    for number in range(5):
        door.pends(f"stranger-{number}")
    assert door.held() == ["pi-01", "pi-02", "pi-03", "stranger-3", "stranger-4"]
    assert door.held("minions_denied") == ["pi-04"]
    assert door.held("minions") == ["pi-04"]


def test_who_becomes_known_counts_from_then_on(door: Door) -> None:
    door.knows(keys=1, names=[])
    door.pends("pi-05")
    door.knows(keys=1, names=["pi-05"])
    door.pends("stranger-1")
    door.pends("stranger-2")
    assert door.held() == ["pi-05", "stranger-2"]


@pytest.mark.parametrize("text", ["x" * 4097, "é" * 2049, b"x" * 4097])
def test_a_text_longer_than_a_key_is_not_kept_whoever_sends_it(door: Door, text: Any) -> None:
    door.knows(keys=10, names=["pi-01"])
    door.pends("pi-01", text)
    door.pends("stranger", text)
    door.is_denied("pi-01", text)
    assert door.held() == door.held("minions_denied") == []
    door.pends("stranger", "x" * 4096)
    assert door.held() == ["stranger"]


def test_accepted_and_rejected_keys_are_stored_as_salt_does(door: Door) -> None:
    door.knows(keys=1, names=[])
    for number in range(3):
        key = f"key {number}" + "x" * 5000
        door.cache.store("keys", f"pi-{number}", {"pub": key, "state": "accepted"})
        door.cache.store("keys", f"off-{number}", {"pub": "key", "state": "rejected"})
    assert door.held("minions") == ["pi-0", "pi-1", "pi-2"]
    assert door.held("minions_rejected") == ["off-0", "off-1", "off-2"]
    assert door.cache.fetch("keys", "pi-0")["state"] == "accepted"
    assert door.cache.list("keys") and door.cache.contains("keys", "off-1")
    assert door.cache.flush("keys", "pi-0") and not door.cache.contains("keys", "pi-0")


@pytest.mark.parametrize("text", ["{", "[]", '{"keys": "many", "names": null}', None])
def test_a_damaged_note_means_the_defaults(
    door: Door, text: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is not None:
        (door.state / "known.json").write_text(text)
    for number in range(localfs_key.KEYS + 5):
        door.pends(f"stranger-{number:03}")
    assert len(door.held()) == localfs_key.KEYS


def test_the_log_has_one_line_for_many_keys(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    door.knows(keys=1, names=[])
    for number in range(20):
        door.pends(f"stranger-{number}")
        door.pends(f"stranger-{number}", "x" * 5000)
    lines = [record.getMessage() for record in caplog.records if "stranger" in record.getMessage()]
    assert len(lines) == 2, lines
    assert any("more than 1 keys" in line and "enrol.pending" in line for line in lines)
    assert any("5000 bytes" in line for line in lines)
    for kind in ("many", "long"):
        os.utime(door.state / f"strangers-{kind}", (0, 0))
    door.pends("stranger-99")
    lines = [record.getMessage() for record in caplog.records if "stranger" in record.getMessage()]
    assert len(lines) == 3, "it is said again after a while"
