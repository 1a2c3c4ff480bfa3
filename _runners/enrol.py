"""Let Pis into the rack: the cards that they start from.

A card is the folder ``saltberry/`` on the boot partition of a Pi's SD card. With it a stock
Raspberry Pi OS becomes a minion at its first boot, and is accepted with nobody typing, because its
key pair was made here, by the master, for this id. ``install/firstboot.sh`` is what reads it.

Whoever holds the card holds the private key until that first boot, which takes it off the card. Keep
a written card as you would a house key, and make a new one (``force=True``) for one that was lost.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

__opts__: dict[str, Any]
__salt__: dict[str, Callable[..., Any]]
__utils__: dict[str, Callable[..., Any]]

REPO = Path(__file__).resolve().parents[1]
FOLDER = "saltberry"
# Name on the card: file in the checkout. firstboot.sh needs them all, and no network before it is done.
SHIPPED = {
    "firstboot.sh": "install/firstboot.sh",
    "minion.sh": "install/minion.sh",
    "minion.conf.in": "etc/minion.d/saltberry.conf.in",
    "salt-minion.service": "etc/systemd/salt-minion.service",
}
MIRROR_DIR = "/srv/saltberry/mirror"
# Bits. Each request of a minion validates its key: 36 ms at 2048, 259 ms at 4096 (x86-64).
KEY_SIZE = 2048
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")
_URL = re.compile(r"https?://[A-Za-z0-9][A-Za-z0-9.:/_-]*")


class _Refused(Exception):
    """No card was written and no key was touched; the text says why and what to do."""


def card(
    node: str,
    target: str,
    force: bool = False,
    master: str | None = None,
    mirror: str | None = None,
) -> dict[str, Any]:
    """Make a key pair for one Pi, accept it, and write the Pi's card.

    Everything else is written first; when the key cannot be written, the master's keys are as before.

    node
        The Pi's id: its host name, its minion id and its Kubernetes node name.
    target
        Folder to write to, usually the mounted boot partition of the SD card. The card is the folder
        ``saltberry`` in it.
    force
        Replace the key that the master knows for this id (a re-imaged or replaced Pi: the old one is
        locked out), and a card that is in ``target`` already.
    master
        Name or address by which the Pi finds the salt-master; default: the pillar's address of the
        node with the role master.
    mirror
        URL from which it installs Salt; default: ``http://`` and the address of the storage node.

    Returns ``{"ok": True, "id", "card": path, "fingerprint", "master", "mirror"}``, or
    ``{"ok": False, "reason": ..., "retcode": 1}``.

    CLI Example:

    .. code-block:: bash

        salt-run enrol.card pi-07 target=/media/pi/bootfs
        salt-run enrol.card pi-07 target=/media/pi/bootfs force=True
    """
    try:
        return {"ok": True, **_card(node, Path(target), force is True, master, mirror)}
    except _Refused as exc:
        reason = str(exc)
    except OSError as exc:
        reason = f"the card could not be written: {exc.strerror or exc} ({exc.filename or target})"
    return {"ok": False, "reason": reason, "retcode": 1}


def _card(
    node: str, target: Path, force: bool, master: str | None, mirror: str | None
) -> dict[str, Any]:
    if not __utils__["rackspec.valid_id"](node):
        raise _Refused(
            f"{node!a} is no host name: use lower-case letters, digits and hyphens, at most 63"
        )
    known = _known_key(node)
    if known and not force:
        raise _Refused(
            f"the master knows a key of {node} already ({known['state']}). If that Pi is to be"
            " replaced: force=True makes a new key, and the old one no longer opens anything"
        )
    folder = target / FOLDER
    if not target.is_dir():
        raise _Refused(f"{target} is no folder: is the boot partition mounted there?")
    if folder.exists() and not force:
        raise _Refused(f"{folder} is there already: remove it, or replace it with force=True")
    master, mirror = _addresses(master, mirror)
    with _staged(target) as staging:
        _write_all(staging, {"ID": node, "MASTER": master, "MIRROR": mirror})
        pair = _new_key(node, known)
        try:
            _write(staging / "minion.pub", pair["pub"])
            _write(staging / "minion.pem", pair["priv"], 0o600)
            _put_in_place(staging, folder)
        except BaseException:
            _restore_key(node, known)
            raise
    return {
        "id": node,
        "card": str(folder),
        "fingerprint": _fingerprint(pair["pub"]),
        "master": master,
        "mirror": mirror,
    }


def _addresses(master: str | None, mirror: str | None) -> tuple[str, str]:
    """Return where the Pi finds master and mirror: what was given, or what the pillar says."""
    if not master or not mirror:
        pillar = __salt__["pillar.show_pillar"](__opts__["id"])
        problems = __utils__["rackspec.check"](pillar)
        if problems:
            raise _Refused(f"the pillar describes no rack: {'; '.join(problems)}")
        rack = __utils__["rackspec.load"](pillar)
        storage = (rack.with_role("storage") or [rack.master_id])[0]
        master = master or rack.ip(rack.master_id) or ""
        mirror = mirror or f"http://{rack.ip(storage)}"
    if not _HOST.fullmatch(master) and not _is_address(master):
        raise _Refused(f"master {master!a} is neither a host name nor an address")
    if not _URL.fullmatch(mirror):
        raise _Refused(f"mirror {mirror!a} is no URL such as http://192.168.1.10")
    return master, mirror


def _is_address(text: str) -> bool:
    with suppress(ValueError):
        ipaddress.ip_address(text)
        return True
    return False


# --- keys ------------------------------------------------------------------------------------------


def _cache() -> Any:
    import salt.cache

    return salt.cache.Cache(dict(__opts__), driver=__opts__["keys.cache_driver"])


def _known_key(node: str) -> dict[str, str] | None:
    """Return ``{"state", "pub"}`` of the key that the master holds for an id, or None."""
    found: dict[str, str] | None = _cache().fetch("keys", node)
    return found or None


def _new_key(node: str, known: dict[str, str] | None) -> dict[str, str]:
    """Make and accept a key pair, and prove that it is the one that counts from now on.

    Not by the wheel function ``key.gen_accept``, which does the same and then puts its return, with
    the private key in it, on the event bus. What was stored is read again, because Salt has said
    "accepted" of keys that were not (salt issue #63477).
    """
    import salt.crypt

    private, public = salt.crypt.gen_keys(KEY_SIZE)
    cache = _cache()
    cache.store("keys", node, {"pub": public, "state": "accepted"})
    stored = _known_key(node)
    if stored is None or stored["state"] != "accepted" or stored["pub"].split() != public.split():
        _restore_key(node, known)
        raise _Refused(f"the salt-master did not accept the key made for {node}; see its log")
    # A key that once came for this id and was turned away says nothing about the new one.
    cache.flush("denied_keys", node)
    return {"priv": private, "pub": public}


def _restore_key(node: str, known: dict[str, str] | None) -> None:
    """Put the master's keys back to what they were."""
    if known:
        _cache().store("keys", node, known)
    else:
        _cache().flush("keys", node)


def _fingerprint(pub: str) -> str:
    import salt.utils.crypt

    return str(salt.utils.crypt.pem_finger(key=pub.strip().encode(), sum_type="sha256"))


# --- files -----------------------------------------------------------------------------------------


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """A folder in ``target`` to write the card in; what is left of it goes, whatever happens."""
    staging = Path(tempfile.mkdtemp(prefix=f".{FOLDER}-", dir=target))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write_all(staging: Path, values: dict[str, str]) -> None:
    """Write the card but for its key pair. The values were checked: none needs quoting."""
    _write(staging / "card.env", "".join(f"{key}={value}\n" for key, value in values.items()))
    _write(staging / "master.pub", (Path(__opts__["pki_dir"]) / "master.pub").read_text("ascii"))
    for name, source in SHIPPED.items():
        _write(staging / name, (REPO / source).read_text("utf-8"))
    mirror_dir = (__opts__.get("saltberry") or {}).get("mirror_dir", MIRROR_DIR)
    lock = Path(mirror_dir) / "wheels" / "salt.lock"
    if not lock.is_file():
        raise _Refused(
            f"{lock} is missing, which says what to install: run install/wheelhouse.sh {lock.parent}"
        )
    _write(staging / "salt.lock", lock.read_text("utf-8"))


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file that survives the card being pulled out right afterwards."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _put_in_place(staging: Path, folder: Path) -> None:
    """Make the staged card the card; one that is there goes, as its key no longer opens anything."""
    # mkdtemp made it 0700. On a card (vfat) modes are the mount's, and setting one may be refused.
    if folder.exists():
        shutil.rmtree(folder)
    staging.rename(folder)
    handle = os.open(folder.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
