"""The change to how Salt loads a private key, on the Salt that the project pins."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest
import salt.crypt

REPO = Path(__file__).parents[3]
INSTALLED = Path(salt.crypt.__file__)
ALGORITHM = "PKCS1v15-SHA224"


def load(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


salt_patch = load(REPO / "install/salt_patch.py", "salt_patch")


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    """The `crypt.py` of the pinned Salt, as its wheel has it."""
    path = tmp_path / "crypt.py"
    path.write_text(INSTALLED.read_text().replace(salt_patch.FAST, salt_patch.SLOW))
    return path


@pytest.fixture
def crypt(upstream: Path) -> ModuleType:
    assert salt_patch.patch(upstream) == "patched"
    return load(upstream, "patched_crypt")


def new_key(crypt: ModuleType, folder: Path, size: int = 2048) -> Path:
    folder.mkdir()
    return Path(crypt.write_keys(str(folder), "minion", size))


def test_the_pinned_salt_is_patched_once(upstream: Path) -> None:
    assert salt_patch.patch(upstream) == "patched"
    patched = upstream.read_text()
    assert salt_patch.patch(upstream) == "unchanged"
    assert upstream.read_text() == patched
    assert list(upstream.parent.iterdir()) == [upstream]


def test_other_words_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "crypt.py"
    path.write_text("class PrivateKey:\n    pass\n")
    before = path.stat().st_mtime_ns
    assert salt_patch.patch(path) == "unknown"
    assert path.stat().st_mtime_ns == before
    assert salt_patch.patch(tmp_path / "gone.py") == "unknown"


def test_a_key_is_parsed_once(
    crypt: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = new_key(crypt, tmp_path / "pki")
    parsed: list[bytes] = []
    real = crypt.serialization.load_pem_private_key

    def counted(key_bytes: bytes, password: bytes | None) -> object:
        parsed.append(key_bytes)
        return real(key_bytes, password=password)

    monkeypatch.setattr(crypt.serialization, "load_pem_private_key", counted)
    public = str(path.with_suffix(".pub"))
    # As a message is signed, and as each connection of a job has it
    for message in (b"one", b"two", b"three"):
        signature = crypt.sign_message(str(path), message, None, ALGORITHM)
        assert crypt.verify_signature(public, message, signature, ALGORITHM)
        assert crypt.PrivateKey.from_str(path.read_text()).sign(message, ALGORITHM) == signature
    assert parsed == [path.read_bytes()]


def test_a_passphrase_is_still_needed(crypt: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "pki").mkdir()
    path = crypt.write_keys(str(tmp_path / "pki"), "minion", 2048, passphrase="right")
    crypt.sign_message(path, b"one", "right", ALGORITHM)
    for wrong in (None, "wrong"):
        with pytest.raises((crypt.InvalidKeyError, TypeError)):
            crypt.sign_message(path, b"one", wrong, ALGORITHM)


def test_a_new_key_in_the_same_place_is_used_at_once(crypt: ModuleType, tmp_path: Path) -> None:
    old, new = (new_key(crypt, tmp_path / name) for name in ("old", "new"))
    crypt.sign_message(str(old), b"before", None, ALGORITHM)
    times = old.stat()
    os.utime(new, ns=(times.st_atime_ns, times.st_mtime_ns))  # a copy with `cp -p` looks as old
    public = str(new.with_suffix(".pub"))
    new.replace(old)
    signature = crypt.sign_message(str(old), b"after", None, ALGORITHM)
    assert crypt.verify_signature(public, b"after", signature, ALGORITHM)


def test_the_salt_of_these_tests_is_patched() -> None:
    """A newer Salt in the lock that says it differently has to be looked at."""
    assert salt_patch.FAST in INSTALLED.read_text()
