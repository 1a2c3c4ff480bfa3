"""What people read of the settings: every one can be explained, and the written files are current."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from saltberry_ext.runners import _settings as settings_help
from saltberry_ext.runners import rack
from saltberry_ext.utils import rackspec

REPO = Path(__file__).resolve().parents[3]
SETTINGS = rackspec.settings()


@pytest.fixture
def configure_loader_modules() -> dict[Any, Any]:
    utils = {"rackspec.settings": rackspec.settings}
    return {rack: {"__utils__": utils, "__opts__": {"fun": "rack.explain"}}}


@pytest.fixture
def as_document(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Explain as to a program."""
    monkeypatch.setitem(rack.__opts__, "output", "json")
    return rack.explain


def test_the_written_files_are_up_to_date() -> None:
    argv = [sys.executable, str(REPO / "tools/settings"), "--check"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_check_names_a_file_that_is_not(tmp_path: Path) -> None:
    for name in ("_utils", "_runners"):
        (tmp_path / name).symlink_to(REPO / name)
    for name in ("tools", "pillar", "docs"):
        (tmp_path / name).mkdir()
    tool = tmp_path / "tools/settings"
    tool.write_text((REPO / "tools/settings").read_text())
    (tmp_path / "pillar/defaults.sls").write_text((REPO / "pillar/defaults.sls").read_text())

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, str(tool), *more]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    assert run("--check").returncode == 1
    assert "run tools/settings: docs/settings.md" in run("--check").stderr
    assert run().returncode == 0
    assert run("--check").returncode == 0
    written = (tmp_path / "docs/settings.md").read_text(encoding="utf-8")
    assert written == (REPO / "docs/settings.md").read_text(encoding="utf-8")


def test_the_defaults_are_those_of_the_schema() -> None:
    """Read as YAML, not compared as text: what a node gets."""
    defaults = yaml.safe_load((REPO / "pillar/defaults.sls").read_text(encoding="utf-8"))

    def flat(tree: Any, path: str) -> dict[str, Any]:
        entry = settings_help.find(SETTINGS, path) if path else {"kind": "group"}
        if entry and entry["kind"] == "group":
            return {k: v for key, below in tree.items()
                    for k, v in flat(below, f"{path}.{key}".strip(".")).items()}  # fmt: skip
        return {path: tree}

    wanted = {e["key"]: e["default"] for e in SETTINGS if "default" in e}
    empty = {e["key"]: {} for e in SETTINGS if e["kind"] == "table" and not e["required"]}
    assert flat(defaults, "") == wanted | empty


@pytest.mark.parametrize("entry", SETTINGS, ids=lambda entry: str(entry["key"]))
def test_each_can_be_explained(entry: dict[str, Any]) -> None:
    text = rack.explain(entry["key"])
    words = " ".join(text.split())
    assert words.startswith(entry["key"])
    assert " ".join(entry["meaning"].split()) in words
    assert f"allowed {' '.join(entry['allowed'].split())}" in words
    assert all(len(line) <= 100 for line in text.splitlines())
    for name in entry["used"]:
        assert name in words
    if "default" in entry:
        assert f"default {settings_help.yaml(entry['default'])}" in words


def test_the_example_of_each_is_yaml_that_is_allowed() -> None:
    for entry in SETTINGS:
        if "default" in entry:
            example = rack.explain(entry["key"]).partition("in pillar/rack.sls:")[2]
            below = yaml.safe_load(example)
            for part in entry["key"].split("."):
                below = below[part]
            assert below == entry["default"]


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("docker.log_max_size", "docker.log_max_size"),
        ("docker:log_max_size", "docker.log_max_size"),
        ("nodes.<id>.ip", "nodes.<id>.ip"),
        ("nodes.pi-01.ip", "nodes.<id>.ip"),
        ("containerd.registries.docker.io.endpoint", "containerd.registries.<host>.endpoint"),
        ("nfs", "nfs"),
    ],
)
def test_a_setting_is_found_by_what_people_type(
    as_document: Callable[..., Any], word: str, key: str
) -> None:
    assert as_document(word)["settings"][0]["key"] == key


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("docker.log_maxsize", "docker.log_max_size"),
        ("log_max_size", "docker.log_max_size"),
        ("dokcer", "docker"),
        ("kubernetes.pod_netwrok", "kubernetes.pod_network"),
        ("pod_netwrok", "kubernetes.pod_network"),
    ],
)
def test_a_key_that_there_is_not_is_guessed(word: str, meant: str) -> None:
    told = rack.explain(word)
    assert told["retcode"] == 1
    assert told["similar"][0] == meant
    assert f"there is no setting '{word}'; did you mean {meant}" in told["reason"]


def test_without_a_guess_it_says_where_to_look() -> None:
    told = rack.explain("zzzzzz")
    assert told["similar"] == []
    assert told["reason"] == "there is no setting 'zzzzzz'; `salt-run rack.explain` lists them"


def test_without_a_key_it_lists_the_groups(as_document: Callable[..., Any]) -> None:
    groups = [entry["key"] for entry in as_document()["settings"]]
    assert groups == list(rackspec._schema.SCHEMA)


def test_a_group_lists_what_is_in_it() -> None:
    text = rack.explain("docker")
    assert "docker.log_max_size  a container's log file is rotated at this size" in text


@pytest.mark.parametrize(
    "value",
    [
        "yes",
        "1.20",
        "a: b",
        "#",
        "",
        "x",
        "32G",
        "10.0.0.0/8",
        None,
        True,
        7,
        ["a", 1],
        {"a": None},
    ],
)
def test_values_are_written_as_yaml_reads_them(value: Any) -> None:
    assert yaml.safe_load(settings_help.yaml(value)) == value
