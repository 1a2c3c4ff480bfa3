"""Salt's store of minion keys, with a bound on what strangers leave in it.

Whoever reaches the master's port may send any text as a public key under any name, and Salt keeps each
(``minions_pre``, ``minions_denied``) until a person decides. Here at most ``strangers.keys`` of the
pillar are kept for names that nobody knows, the newest, and no text longer than a key. A Pi that waits
knocks every few seconds, so one that was forgotten is there again, and can be let in by its fingerprint
(``enrol.expect``) however many others knock. Names that somebody knows are not counted and never
forgotten: those of the pillar, of cards and expected fingerprints, and those that have an accepted key.

Why here: it is the one place that each key passes before it is on the disk, so the bound holds at any
rate of knocks, and costs a look into two small folders instead of a job. Salt has no such setting:
``max_minions`` counts who is connected, ``autoreject_file`` keeps what it rejects. A reactor or a timer
would come when the disk is full already.

It has the name of Salt's own driver and is found before it (``cache_dirs``), because Salt asks for that
name when it makes the master's keys. All else is Salt's own code. Whom the pillar knows is read from
``known.json``, which each reconcile brings up to date (``enrol.note_known``).
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import salt.cache.localfs_key

log = logging.getLogger(__name__)

__opts__: dict[str, Any]
__func_alias__ = {"list_": "list"}

STATE_DIR = "/var/lib/saltberry"
KEYS = 100  # pillar/defaults.sls, until the first reconcile
LONGEST = 4096  # bytes; a public RSA key of 16384 bits has 2844
QUIET = 600  # seconds between two lines in the log that say the same
# The folders where keys wait that nobody has decided about
WAITING = ("minions_pre", "minions_denied")


def _own_copy() -> ModuleType:
    """Load Salt's driver once more, for the options that this one is given.

    Under the name of this module: the loader passes over functions that say they are from another.
    """
    path = salt.cache.localfs_key.__file__
    spec = importlib.util.spec_from_file_location(__name__, str(path))
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded; is Salt installed whole?")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_salts = _own_copy()

init_kwargs = _salts.init_kwargs
fetch = _salts.fetch
updated = _salts.updated
flush = _salts.flush
list_ = _salts.list_
list_all = _salts.list_all
contains = _salts.contains


def __init__(opts: dict[str, Any]) -> None:
    _salts.__opts__ = opts  # type: ignore[attr-defined]


def store(bank: str, key: str, data: Any, cachedir: str, user: str, **kwargs: Any) -> None:
    """Keep a key as Salt does, unless it is more than strangers may leave.

    Args:
        bank: ``keys``, ``denied_keys`` or ``master_keys``.
        key: the minion's id, or the name of a key of the master.
        data: ``{"pub", "state"}``, a list of public keys, or a text.
        cachedir: the folder of the master's keys.
        user: whose files they are.
        kwargs: what else Salt's own driver takes.

    Raises:
        salt.exceptions.SaltCacheError: the id is not valid, or the file cannot be written.
    """
    text = _undecided(bank, data)
    if text is None:
        _salts.store(bank, key, data, cachedir, user, **kwargs)
    elif len(text) > LONGEST:
        _tell(
            "long",
            "a key of %d bytes that was sent by a stranger is not kept (a key has at most %d)",
            len(text),
            LONGEST,
        )
    else:
        with _alone(cachedir):
            _salts.store(bank, key, data, cachedir, user, **kwargs)
            _forget_oldest(Path(cachedir))


def _undecided(bank: str, data: Any) -> bytes | None:
    """Return the text of a key that nobody has decided about; None for other data."""
    if bank == "keys" and data["state"] == "pending":
        text = data["pub"]
    elif bank == "denied_keys":
        text = data[0]  # the only one that Salt's driver keeps
    else:
        return None
    return text if isinstance(text, bytes) else str(text).encode(errors="surrogatepass")


@contextlib.contextmanager
def _alone(cachedir: str) -> Iterator[None]:
    """Hold off the master's other processes, so that they do not overrun the bound together."""
    handle = os.open(cachedir, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _forget_oldest(folder: Path) -> None:
    """Remove the oldest keys of strangers that are over the bound."""
    known = _known()
    most = known.get("keys", KEYS)
    found = [entry for kind in WAITING for entry in _strangers(folder / kind, known["names"])]
    if len(found) <= most:
        return
    for _, path in sorted(found)[: len(found) - most]:
        path.unlink(missing_ok=True)
    _tell(
        "many",
        "more than %d keys of strangers wait (strangers.keys in the pillar); the oldest are forgotten."
        " Who knocks again is shown again: salt-run enrol.pending",
        most,
    )


def _strangers(folder: Path, names: set[str]) -> list[tuple[int, Path]]:
    """Return time and path of the keys in a folder whose names nobody knows."""
    accepted, found = folder.with_name("minions"), []
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name in names or (accepted / entry.name).exists():
                continue
            with contextlib.suppress(FileNotFoundError):
                found.append((entry.stat(follow_symlinks=False).st_mtime_ns, Path(entry.path)))
    return found


# --- whom somebody knows ---------------------------------------------------------------------------


def _known() -> dict[str, Any]:
    """Return ``{"names": set, "keys": int}``: whose keys are kept, and how many of the others."""
    said = _read("known.json")
    cards = _read("cards.json")
    keys = said.get("keys")
    names = {name for kind in ("cards", "expected") for name in cards.get(kind) or {}}
    return {
        "names": names | set(said.get("names") or []),
        "keys": keys if isinstance(keys, int) else KEYS,
    }


# Path: (its time and size, what was in it). Files change seldom and strangers may knock often.
_seen: dict[Path, tuple[tuple[int, int], dict[str, Any]]] = {}


def _read(name: str) -> dict[str, Any]:
    """Return what is in a file of the state folder; {} if there is none that can be read.

    A damaged one must not keep Pis from waiting at the door; who uses it says so.
    """
    path = _state(name)
    try:
        facts = path.stat()
        stamp = (facts.st_mtime_ns, facts.st_size)
        if _seen.get(path, (None,))[0] != stamp:
            found = json.loads(path.read_text(encoding="utf-8"))
            _seen[path] = (stamp, found if isinstance(found, dict) else {})
    except (OSError, ValueError):
        return {}
    return _seen[path][1]


def _state(name: str) -> Path:
    return Path((_salts.__opts__.get("saltberry") or {}).get("state_dir", STATE_DIR)) / name


def _tell(kind: str, text: str, *values: object) -> None:
    """Say something in the log, once in a while and not for each key: a flood must not fill it."""
    stamp = _state(f"strangers-{kind}")
    with contextlib.suppress(OSError):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - stamp.stat().st_mtime < QUIET:
                return
        stamp.touch(mode=0o600)
    log.warning(text, *values)
