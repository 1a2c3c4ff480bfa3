"""install/lock.py, and what the lock that is in the repository must be."""

from __future__ import annotations

import importlib.util
import re
from types import ModuleType

import pytest

from tests.unit.install.conftest import INSTALL


@pytest.fixture(scope="module")
def lock() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install_lock", INSTALL / "lock.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_lock_answers_its_input(lock: ModuleType) -> None:
    requirements = lock.wanted((INSTALL / "salt.in").read_text())
    assert lock.problems(requirements, (INSTALL / "salt.lock").read_text()) == []


def test_every_package_has_hashes_for_each_target(lock: ModuleType) -> None:
    text = (INSTALL / "salt.lock").read_text().replace(" \\\n", "")
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        found = re.fullmatch(r"[a-z0-9-]+==[\w.]+((?: +--hash=sha256:[0-9a-f]{64})+)", line)
        assert found, line
        # One for all (pure Python), or one a machine type (stable ABI), up to one each.
        count = found[1].count("--hash")
        assert count == 1 or len(lock.MACHINES) <= count, line


def test_lock_names_no_package_index() -> None:
    assert "://" not in (INSTALL / "salt.lock").read_text()


def test_same_salt_everywhere(lock: ModuleType) -> None:
    version = lock.locked((INSTALL / "salt.lock").read_text())["salt"]
    assert f'"salt=={version}"' in (INSTALL.parent / "pyproject.toml").read_text()


def test_requirements_are_read(lock: ModuleType) -> None:
    text = "# c\n\nSalt==1  # why\nmy_Pack.age\nx>=2\n"
    assert lock.wanted(text) == {"salt": "Salt==1", "my-pack-age": "my_Pack.age", "x": "x>=2"}


def test_problems_are_named(lock: ModuleType) -> None:
    have = "salt==2 \\\n    --hash=sha256:0\nold==1 \\\n    --hash=sha256:0\n"
    assert lock.problems({"salt": "salt==1", "new": "new"}, have) == [
        "new is in salt.in but not in salt.lock",
        "old is in salt.lock but not in salt.in",
        "salt.in pins salt==1, salt.lock has 2",
    ]


def test_lock_text_is_stable_and_can_be_read_back(lock: ModuleType) -> None:
    text = lock.lock_text({"b": ("2", {"ff", "00"}), "a": ("1", {"aa"})})
    body = text[text.index("a==") :]
    assert body == (
        "a==1 \\\n    --hash=sha256:aa\nb==2 \\\n    --hash=sha256:00 \\\n    --hash=sha256:ff\n"
    )
    assert lock.locked(text) == {"a": "1", "b": "2"}


def test_platforms_stop_at_bookworms_c_library(lock: ModuleType) -> None:
    tags = lock.platforms("aarch64")
    assert tags[0] == "manylinux_2_36_aarch64"
    assert "manylinux2014_aarch64" in tags
    assert all(tag.endswith("_aarch64") for tag in tags)
