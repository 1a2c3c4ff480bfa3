"""The table of settings: each is complete, its default is allowed, and nonsense for it is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from saltberry_ext.utils import rackspec

REPO = Path(__file__).resolve().parents[3]
SETTINGS = rackspec.settings()
KEYS = [
    entry for entry in SETTINGS if "default" in entry or entry["kind"] in rackspec._values.KINDS
]
# A name of the user's own where the schema has <id>, <host> or <name>
NAMES = {"<id>": "pi-01", "<host>": "docker.io", "<name>": "media"}
EXAMPLE = REPO / "tests/fixtures/racks/valid/example.yaml"


def key_of(entry: dict[str, Any]) -> str:
    return str(entry["key"])


def with_value(entry: dict[str, Any], value: Any) -> tuple[str, dict[str, Any]]:
    """Return the key path with real names, and a good rack in which it has this value."""
    pillar: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    *way, last = [NAMES.get(part, part) for part in entry["key"].split(".")]
    below = pillar
    for part in way:
        below[part] = below.get(part) or {}
        below = below[part]
    below[last] = value
    return ".".join([*way, last]), pillar


def test_there_are_settings() -> None:
    assert len(KEYS) > 50
    assert len({entry["key"] for entry in SETTINGS}) == len(SETTINGS)


@pytest.mark.parametrize("entry", SETTINGS, ids=key_of)
def test_each_has_a_meaning_in_one_line(entry: dict[str, Any]) -> None:
    assert len(entry["meaning"]) > 5
    assert "\n" not in entry["meaning"]
    # pillar/defaults.sls goes through Jinja, comments too
    assert not re.search(r"\{[{%#]", entry["meaning"])
    assert entry["allowed"]


@pytest.mark.parametrize("entry", KEYS, ids=key_of)
def test_each_default_is_a_value_that_is_allowed(entry: dict[str, Any]) -> None:
    assert ("default" in entry) + bool(entry["required"]) + ("<" in entry["key"]) == 1 or (
        entry["required"] and "<" in entry["key"]
    )
    if "default" in entry:
        path, pillar = with_value(entry, entry["default"])
        assert [p for p in rackspec.check(pillar) if p.startswith(path)] == []


@pytest.mark.parametrize("entry", KEYS, ids=key_of)
def test_nonsense_for_any_of_them_is_refused_by_its_name(entry: dict[str, Any]) -> None:
    path, pillar = with_value(entry, 3.5)
    problem, *_ = [p for p in rackspec.check(pillar) if p.startswith(f"{path}: ")]
    assert "3.5" in problem


@pytest.mark.parametrize("entry", SETTINGS, ids=key_of)
def test_a_typing_mistake_in_any_of_them_is_found(entry: dict[str, Any]) -> None:
    """One letter too many at the end, and the message names what was meant."""
    name = entry["key"].rpartition(".")[2]
    path, pillar = with_value({"key": f"{entry['key']}x"}, None)
    problems = [p for p in rackspec.check(pillar) if p.startswith(f"{path}: ")]
    assert problems, path
    assert f"there is no such key; did you mean '{name}'?" in problems[0]


@pytest.mark.parametrize("entry", SETTINGS, ids=key_of)
def test_the_files_that_read_it_do(entry: dict[str, Any]) -> None:
    """They exist and have its name; a reader that loops over the group has the group's."""
    parts = [part for part in entry["key"].split(".") if "<" not in part]
    for name in entry["used"]:
        text = (REPO / name).read_text(encoding="utf-8")
        assert any(re.search(rf"\b{part}\b", text) for part in parts), f"{name}: {entry['key']}"
    if entry["kind"] not in ("group", "table"):
        assert entry["used"]


def test_what_the_states_read_says_so() -> None:
    """Each pillar['group']['key'] in an SLS file is a setting that names this file."""
    used = {entry["key"]: entry["used"] for entry in SETTINGS}
    read = [
        (".".join(re.findall(r"[a-z_]+", way)), str(path.relative_to(REPO)))
        for path in sorted((REPO / "salt").rglob("*.sls"))
        for way in re.findall(r"pillar((?:\['[a-z_]+'\]){2,})", path.read_text(encoding="utf-8"))
    ]
    assert [(key, path) for key, path in read if path not in used[key]] == []
    assert len(read) > 10
