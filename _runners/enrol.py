"""Let Pis into the rack, through one of two doors.

* **A card**: the master makes a key pair for one Pi, accepts it, and writes it to the boot partition of
  the Pi's SD card (:func:`card`, :func:`cards`). With it a stock Raspberry Pi OS becomes a minion at
  its first boot and is in with nobody typing. A card that is not used in time, or is lost
  (:func:`revoke`), opens nothing.
* **A fingerprint**: a Pi that makes its own key is let in when that key is one that was announced
  (:func:`expect`), once and for a limited time, or when a person says so (:func:`pending`,
  :func:`accept`, :func:`reject`).

Everyone else waits. Re-imaging a Pi is :func:`reissue`: one new key for the old one, and nothing of the
old node stays in the cluster.

Whoever holds a card holds its private key until the first boot, which takes it off. Keep a written
card as you would a house key.

Master configuration (all optional)::

    saltberry:
      state_dir: /var/lib/saltberry            # cards.json, wifi-password
      mirror_dir: /srv/saltberry/mirror        # wheels/salt.lock says what a card installs
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import ipaddress
import json
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

log = logging.getLogger(__name__)

__opts__: dict[str, Any]
__salt__: dict[str, Callable[..., Any]]
__utils__: dict[str, Callable[..., Any]]

REPO = Path(__file__).resolve().parents[1]


def _load(path: Path) -> ModuleType:
    """Load a Python file that Salt's loader leaves alone."""
    spec = importlib.util.spec_from_file_location(f"saltberry_{path.stem.lstrip('_')}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded; is the checkout complete?")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_attempts = _load(Path(__file__).with_name("_attempts.py"))
_doors = _load(Path(__file__).with_name("_doors.py"))

# Name on the card: file in the checkout. firstboot.sh needs them all, and no network before it is done.
SHIPPED = {
    "start.sh": "install/start.sh",
    "firstboot.sh": "install/firstboot.sh",
    "minion.sh": "install/minion.sh",
    "wheelhouse.sh": "install/wheelhouse.sh",
    "upstream.lock": "install/salt.lock",
    "minion.conf.in": "etc/minion.d/saltberry.conf.in",
    "salt-minion.service": "etc/systemd/salt-minion.service",
    "salt_patch.py": "install/salt_patch.py",
    "saltberry-firstboot.service": "etc/systemd/saltberry-firstboot.service",
}
WRITER = "install/card.py"
MIRROR_DIR = "/srv/saltberry/mirror"
STATE_DIR = "/var/lib/saltberry"
# Bits. Each request of a minion validates its key: 36 ms at 2048, 259 ms at 4096 (x86-64).
KEY_SIZE = 2048
# Seconds that a Pi has to answer before its unused card is taken back
ANSWER = 10
# While this file is there, knocks are looked at: see reactor/auth.sls
EXPECTING = "expecting"
# Its time is that of the last look: knocks within two seconds of it start no other
LOOKED = "looked"
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")
_URL = re.compile(r"https?://[A-Za-z0-9][A-Za-z0-9.:/_-]*")


NO_NAME = (
    "its id is no host name: never let in. Give it another id, and salt-run enrol.reject this one"
)


class _Refused(Exception):
    """Nothing was done; the text says why and what to do."""


def _said(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do something and return what came of it; a refusal becomes a return value with exit code 1."""
    try:
        return {"ok": True, **work()}
    except _Refused as exc:
        reason = str(exc)
    except OSError as exc:
        reason = f"{exc.filename or 'a file'} could not be written: {exc.strerror or exc}"
    return {"ok": False, "reason": reason, "retcode": 1}


# --- cards -----------------------------------------------------------------------------------------


def card(
    node: str,
    target: str | None = None,
    image: str | None = None,
    bundle: str | None = None,
    force: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Make a key pair for one Pi, accept it, and write the Pi's card.

    Everything else is done first; when the card cannot be written, the master's keys are as before.

    node
        The Pi's id: its host name, its minion id and its Kubernetes node name.
    target
        The mounted boot partition of an SD card with 64-bit Raspberry Pi OS Lite (Trixie or Bookworm,
        recognised by what is on it; anything else is refused). An empty folder gets the card's own
        folder alone.
    image
        In place of ``target``: an image file of that system, or the device of an SD card that is not
        mounted (needs mtools).
    bundle
        In place of both: a file to carry to another computer, where ``install/card.py`` writes it.
    force
        Replace the key that the master knows for this id (the Pi that has it is locked out; for one
        that was in the cluster see :func:`reissue`), and a card that is in ``target`` already.
    master
        Name or address by which the Pi finds the salt-master; default: the pillar's address of the
        node with the role master.
    mirror
        URL from which it installs Salt; default: ``http://`` and the address of the storage node.
    role
        Refuse unless the pillar gives the node this role; roles are the pillar's, not the card's.
    ip
        A fixed address for the Pi, or ``dhcp``; default: as ``cards.address`` in the pillar says.
    wifi
        True: join the wifi of ``cards.wifi``; default: as ``nodes.<id>.wifi`` says.
    hours
        How long the card opens the door if it is not used; default: ``cards.hours``.
    key
        False: a card without a secret. The Pi makes its own key, and waits to be let in; nothing
        changes on the master.

    Returns ``{"ok": True, "id", "card": where it was written, "starts": how, "fingerprint",
    "expires", "master", "mirror"}``, or ``{"ok": False, "reason": ..., "retcode": 1}``.

    CLI Example:

    .. code-block:: bash

        salt-run enrol.card pi-07 target=/media/pi/bootfs
        salt-run enrol.card pi-07 image=raspios-lite.img ip=192.168.1.27
        salt-run enrol.card pi-07 bundle=/root/pi-07.card
    """
    place = {"target": target, "image": image, "bundle": bundle}
    return _said(lambda: _card(node, place, force is True, settings))


def cards(target: str, hours: float | None = None, wifi: bool | None = None) -> dict[str, Any]:
    """Make the cards of all Pis that the pillar names, as files to write with ``card.py``.

    Pis whose key the master knows already are left alone. Each file is a secret; delete it when its
    card is written.

    target
        Folder for ``<id>.card`` of each Pi, and ``card.py``.
    hours, wifi
        As for :func:`card`.

    Returns ``{"ok": True, "cards": {id: path}, "skipped": {id: why}, "next": command}``, or
    ``{"ok": False, "reason": ..., "retcode": 1}`` at the first that could not be made.

    CLI Example:

    .. code-block:: bash

        salt-run enrol.cards target=/root/cards
    """
    settings = {"hours": hours, "wifi": wifi}
    return _said(lambda: _cards(Path(target), settings))


def _cards(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    if not folder.is_dir():
        raise _Refused(f"{folder} is no folder: make it first (mkdir -m 700 {folder})")
    rack = _rack()
    made, skipped = {}, {}
    for node in rack.nodes:
        path = folder / f"{node}.card"
        known = _known_key(node)
        if node == rack.master_id:
            skipped[node] = "is the master"
        elif known:
            skipped[node] = f"the master knows a key of it already ({known['state']})"
        else:
            _card(node, {"bundle": str(path)}, False, settings)
            made[node] = str(path)
    writer = folder / Path(WRITER).name
    shutil.copyfile(REPO / WRITER, writer)
    command = f"python3 {writer} {folder}/ID.card /path/to/bootfs"
    return {"cards": made, "skipped": skipped, "next": command}


def _card(
    node: str, place: dict[str, str | None], force: bool, settings: dict[str, Any]
) -> dict[str, Any]:
    given = {key: value for key, value in place.items() if value}
    _check_id(node)
    _check_no_master(node)
    if len(given) != 1:
        raise _Refused("where to? Give one of target= (a folder), image= (a file) and bundle=")
    _check_settings(settings)
    keyless = settings.get("key") is False
    known = _known_key(node)
    if known and not force and not keyless:
        raise _Refused(
            f"the master knows a key of {node} already ({known['state']}). If that Pi is to be"
            " replaced: force=True makes a new key, and the old one no longer opens anything"
        )
    rack = _rack()
    whole = _bundle(node, rack, settings)
    hours = _hours(settings, rack)
    put, where, starts = _place(given, force)
    made = {"id": node, "card": where, "starts": starts} | whole.pop("told")
    if keyless:
        put(whole)
        return {**made, "fingerprint": None, "expires": None}
    pair = _new_pair()
    print_ = _doors.fingerprint(pair["pub"])
    with _ledger() as ledger:
        before = ledger["cards"].get(node)
        _accept_key(node, pair["pub"], known)
        ledger["cards"][node] = _doors.entry(print_, time.time(), hours)
        ledger["expected"].pop(node, None)
        try:
            whole["files"] |= {"minion.pub": pair["pub"], "minion.pem": pair["priv"]}
            put(whole)
        except BaseException:
            _restore_key(node, known)
            ledger["cards"].pop(node)
            if before:
                ledger["cards"][node] = before
            raise
    if known:
        _renew_session_key()
    expires = _doors.when(ledger["cards"][node]["expires"])
    return {**made, "fingerprint": print_, "expires": expires}


def _check_id(node: object) -> None:
    if not __utils__["rackspec.valid_id"](node):
        raise _Refused(
            f"{node!a} is no host name: use lower-case letters, digits and hyphens, at most 63"
        )


def _check_no_master(node: str) -> None:
    """Refuse the minion on the salt-master's own machine, whose key install/master.sh makes."""
    if node == __opts__["id"].removesuffix("_master"):
        raise _Refused(
            f"{node} is the salt-master's own minion: it has no card, and install/master.sh makes its key"
        )


def _check_settings(settings: dict[str, Any]) -> None:
    """Refuse what no card knows. Salt adds names with two underscores."""
    known = ("master", "mirror", "role", "ip", "wifi", "hours", "key")
    odd = [name for name in settings if name not in known and not name.startswith("__")]
    if odd:
        raise _Refused(f"{odd[0]!a} is nothing that a card has; possible: {', '.join(known)}")


def _place(given: dict[str, str], force: bool) -> tuple[Callable[[dict[str, Any]], None], str, str]:
    """Return what writes a bundle to its place, the place, and how it will start there.

    Looks at the place, and refuses it, before any key is made.
    """
    ((kind, named),) = given.items()
    path = Path(named)
    if kind == "bundle":
        if path.exists() and not force:
            raise _Refused(f"{path} is there already: remove it, or replace it with force=True")
        if not path.parent.is_dir():
            raise _Refused(f"{path.parent} is no folder")
        starts = f"write it with: python3 {Path(WRITER).name} {path.name} /path/to/bootfs"
        return lambda whole: _attempts.write_json(path, whole), str(path), starts
    writer = _load(REPO / WRITER)
    if kind == "target" and not path.is_dir():
        raise _Refused(f"{path} is no folder: is the boot partition mounted there?")
    try:
        partition, form = writer.prepare(path, force)
    except writer.CardError as exc:
        raise _Refused(str(exc)) from exc

    def put(whole: dict[str, Any]) -> None:
        try:
            writer.write(whole, partition, form)
        except writer.CardError as exc:
            raise _Refused(str(exc)) from exc

    return put, str(path / writer.FOLDER if kind == "target" else path), writer.STARTS[form]


def _bundle(node: str, rack: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Return all that a card has, but for its key pair.

    Raises:
        _Refused: the pillar does not say what is needed, or says otherwise.
    """
    role = settings.get("role")
    if role and role not in rack.roles(node):
        raise _Refused(
            f"the pillar makes {node} a {', '.join(rack.roles(node))}, not a {role}: write"
            f" `{node}: {{roles: [{role}]}}` under nodes in pillar/rack.sls first"
        )
    pillar = rack.pillar.get("cards") or {}
    master, mirror = _addresses(rack, settings.get("master"), settings.get("mirror"))
    ssh_keys = list(pillar.get("ssh_keys") or [])
    env = {"ID": node, "MASTER": master, "MIRROR": mirror} | ({"SSH": "yes"} if ssh_keys else {})
    return {
        "saltberry": 1,
        "id": node,
        "made": time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()),
        "files": _files(env),
        "settings": {
            "user": pillar.get("user") or "pi",
            "ssh_keys": ssh_keys,
            "timezone": pillar.get("timezone"),
            "address": _fixed_address(node, rack, pillar, settings.get("ip")),
            "gateway": pillar.get("gateway"),
            "dns": list(pillar.get("dns") or []),
            "wifi": _wifi(node, rack, pillar, settings.get("wifi")),
        },
        "told": {"master": master, "mirror": mirror},
    }


def _files(env: dict[str, str]) -> dict[str, str]:
    """Return the files of the card's folder but for its key pair. The values need no quoting."""
    mirror_dir = (__opts__.get("saltberry") or {}).get("mirror_dir", MIRROR_DIR)
    lock = Path(mirror_dir) / "wheels" / "salt.lock"
    if not lock.is_file():
        raise _Refused(
            f"{lock} is missing, which says what to install: run install/wheelhouse.sh {lock.parent}"
        )
    files = {name: (REPO / source).read_text("utf-8") for name, source in SHIPPED.items()}
    files["master.pub"] = (Path(__opts__["pki_dir"]) / "master.pub").read_text("ascii")
    files["salt.lock"] = lock.read_text("utf-8")
    # Last: firstboot.sh does nothing without it
    files["card.env"] = "".join(f"{key}={value}\n" for key, value in env.items())
    return files


def _addresses(rack: Any, master: str | None, mirror: str | None) -> tuple[str, str]:
    """Return where the Pi finds master and mirror: what was given, or what the pillar says."""
    storage = (rack.with_role("storage") or [rack.master_id])[0]
    master = master or rack.ip(rack.master_id) or ""
    mirror = mirror or f"http://{rack.ip(storage)}"
    if not _HOST.fullmatch(master) and not _is_address(master):
        raise _Refused(f"master {master!a} is neither a host name nor an address")
    if not _URL.fullmatch(mirror):
        raise _Refused(f"mirror {mirror!a} is no URL such as http://192.168.1.10")
    return master, mirror


def _is_address(text: str) -> bool:
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(text)
        return True
    return False


def _fixed_address(node: str, rack: Any, pillar: dict[str, Any], given: str | None) -> str | None:
    """Return the address with its prefix that the Pi gives itself, or None for DHCP."""
    network = ipaddress.ip_network(rack.pillar["rack"]["network"])
    if given == "dhcp":
        return None
    if given is None:
        if pillar.get("address", "dhcp") != "fixed":
            return None
        given = rack.ip(node)
        if given is None:
            raise _Refused(
                f"cards.address is fixed, but the pillar has no address of {node}: write"
                f" nodes.{node}.ip, or give ip=dhcp"
            )
    if not _is_address(given) or ipaddress.ip_address(given) not in network:
        raise _Refused(f"ip {given!a} is no address in rack.network ({network})")
    if rack.ip(node) not in (None, given):
        raise _Refused(f"ip {given}: the pillar says that {node} has {rack.ip(node)}; change one")
    taken = [name for name in rack.nodes if name != node and rack.ip(name) == given]
    if taken:
        raise _Refused(f"ip {given} is that of {taken[0]}")
    return f"{given}/{network.prefixlen}"


def _wifi(
    node: str, rack: Any, pillar: dict[str, Any], given: bool | None
) -> dict[str, Any] | None:
    """Return what a card says of the wifi, or None. Its key in place of the password."""
    wanted = rack.nodes.get(node, {}).get("wifi") if given is None else given
    if wanted is not True:
        return None
    wifi = pillar.get("wifi") or {}
    if not wifi.get("ssid") or not wifi.get("country"):
        raise _Refused(
            "wifi: write cards.wifi.ssid and cards.wifi.country in pillar/rack.sls first"
        )
    path = _state("wifi-password")
    try:
        password = path.read_text(encoding="utf-8").rstrip("\n")
    except FileNotFoundError:
        raise _Refused(
            f"wifi: write its password to {path} (mode 0600); in the pillar every node could read it"
        ) from None
    if not 8 <= len(password) <= 63:
        raise _Refused(f"wifi: the password in {path} must have 8 to 63 characters")
    psk = hashlib.pbkdf2_hmac("sha1", password.encode(), wifi["ssid"].encode(), 4096, 32).hex()
    return {
        "ssid": wifi["ssid"], "psk": psk, "country": wifi["country"],
        "hidden": bool(wifi.get("hidden")),
    }  # fmt: skip


def _hours(settings: dict[str, Any], rack: Any) -> float:
    hours = settings.get("hours")
    if hours is None:
        hours = (rack.pillar.get("cards") or {}).get("hours", 72)
    return _checked_hours(hours)


def _checked_hours(hours: Any) -> float:
    number = isinstance(hours, int | float) and not isinstance(hours, bool)
    if not number or not 0 < hours <= _doors.LONGEST:
        raise _Refused(f"hours {hours!a}: write a number, more than 0 and at most {_doors.LONGEST}")
    return float(hours)


def _rack() -> Any:
    """Return the rack that the pillar describes (a ``rackspec.Rack``)."""
    pillar = __salt__["pillar.show_pillar"](__opts__["id"])
    problems = __utils__["rackspec.check"](pillar)
    if problems:
        raise _Refused(f"the pillar describes no rack: {'; '.join(problems)}")
    return __utils__["rackspec.load"](pillar)


# --- fingerprints ----------------------------------------------------------------------------------


def expect(node: str, fingerprint: str, hours: float = 24) -> dict[str, Any]:
    """Let a Pi in that makes its own key, when it comes with this one. Once, and for a limited time.

    node
        The id that it will have.
    fingerprint
        SHA-256 of its public key, as ``salt-call --local key.finger`` prints it there.
    hours
        How long it is expected.

    Returns ``{"ok": True, "id", "fingerprint", "until"}``, with ``"accepted": True`` when it has been
    waiting and is in now, or ``{"ok": False, "reason": ..., "retcode": 1}``.

    CLI Example:

    .. code-block:: bash

        salt-run enrol.expect pi-08 fingerprint=0f:3c:… hours=24
    """
    return _said(lambda: _expect(node, fingerprint, hours))


def _expect(node: str, given: str, hours: float) -> dict[str, Any]:
    _check_id(node)
    print_ = _checked_fingerprint(given)
    hours = _checked_hours(hours)
    known = _known_key(node)
    if known and known["state"] == "accepted":
        if _doors.fingerprint(known["pub"]) == print_:
            raise _Refused(f"{node} is in with this key already")
        raise _Refused(
            f"the master knows another key of {node}. If that Pi was imaged anew or replaced:"
            f" salt-run enrol.reissue {node} fingerprint={print_}"
        )
    with _ledger() as ledger:
        _refuse_revoked(ledger, node, print_)
        ledger["expected"][node] = _doors.entry(print_, time.time(), hours)
        until = _doors.when(ledger["expected"][node]["expires"])
    accepted = node in _let_in_expected()
    return {"id": node, "fingerprint": print_, "until": until, "accepted": accepted}


def _checked_fingerprint(given: object) -> str:
    print_: str | None = _doors.normal(given)
    if print_ is None:
        raise _Refused(
            f"fingerprint {given!a} is none: write all 64 hexadecimal digits of the SHA-256, as"
            " `salt-call --local key.finger` prints them on the Pi"
        )
    return print_


def check() -> list[str]:
    """Let in whoever is expected and waits at the door. Returns their ids.

    This is what the reactor runs when somebody knocks. It takes nothing from the event: who waits,
    and with which key, is read from what the master holds.

    CLI Example:

    .. code-block:: bash

        salt-run enrol.check
    """
    _state(LOOKED).touch(mode=0o600)
    return _let_in_expected()


def _let_in_expected() -> list[str]:
    let_in = []
    with _ledger() as ledger:
        now = time.time()
        for node, record in ledger["expected"].items():
            waits = _known_key(node) if __utils__["rackspec.valid_id"](node) else None
            if not waits or waits["state"] != "pending":
                continue
            if _doors.expected(ledger, node, _doors.fingerprint(waits["pub"]), now):
                try:
                    _accept_key(node, waits["pub"], waits)
                except _Refused as exc:
                    log.error("%s", exc)
                    continue
                record["used"] = int(now)
                let_in.append(node)
                log.warning("%s came with the key that was expected, and is let in", node)
    return let_in


# --- those who wait --------------------------------------------------------------------------------


def pending() -> Any:
    """List the keys that are not let in: id, address, fingerprint, since when, and why not.

    ``id`` is quoted when it is no plain host name; such a one is never let in. ``address`` is who
    knocks at the master's port without being connected to it, all of them if there are several: Salt
    does not say which key came from where.

    On the command line a few lines for each; with ``--out=json`` (or any other ``--out``), and to other
    programs, a list of ``{"id", "address", "fingerprint", "since", "state", "why"}``.

    CLI Example:

    .. code-block:: bash

        salt-run enrol.pending
        salt-run enrol.pending --out=json
    """
    rows = _pending()
    for_a_person = __opts__.get("fun") == "enrol.pending" and not __opts__.get("output")
    return _doors.listing(rows) if for_a_person else rows


def _pending() -> list[dict[str, Any]]:
    with _ledger() as ledger:
        pass
    knocking = " or ".join(_knocking()) or None
    rows = []
    for key in _waiting_keys():
        valid = __utils__["rackspec.valid_id"](key["id"])
        accepted = _known_key(key["id"]) if key["state"] == "denied" and valid else None
        known = _doors.fingerprint(accepted["pub"]) if accepted else None
        rows.append(
            {
                "id": key["id"] if valid else ascii(key["id"]),
                "address": knocking,
                "fingerprint": key["fingerprint"],
                "since": _doors.when(key["since"]),
                "state": key["state"],
                "why": _doors.why(ledger, key, known, time.time()) if valid else NO_NAME,
            }
        )
    return sorted(rows, key=lambda row: (row["state"], row["id"]))


def accept(node: str, fingerprint: str) -> dict[str, Any]:
    """Let in a Pi that waits, if its key has this fingerprint.

    node
        Its id.
    fingerprint
        SHA-256 of its public key, all of it, as ``salt-call --local key.finger`` prints it on the Pi
        and its card's ``firstboot.log`` has it. It is what tells this Pi from another that says it is.

    Returns ``{"ok": True, "id", "fingerprint"}`` or ``{"ok": False, "reason": ..., "retcode": 1}``.

    CLI Example:

    .. code-block:: bash

        salt-run enrol.accept pi-08 fingerprint=0f:3c:…
    """
    return _said(lambda: _accept(node, fingerprint))


def _accept(node: str, given: str) -> dict[str, Any]:
    _check_id(node)
    print_ = _checked_fingerprint(given)
    known = _known_key(node)
    denied = [key for key in _waiting_keys() if key["id"] == node and key["state"] == "denied"]
    if known and known["state"] == "accepted":
        if _doors.fingerprint(known["pub"]) == print_:
            raise _Refused(f"{node} is in with this key already")
        raise _Refused(
            f"the master knows another key of {node}, and takes no second one."
            f" If that Pi was imaged anew or replaced: salt-run enrol.reissue {node}"
            f" fingerprint={print_}"
        )
    if not known:
        remedy = (
            "it knocks every few seconds; wait for it"
            if denied
            else "is it on, and its master this one?"
        )
        raise _Refused(f"no key of {node} waits: {remedy} (salt-run enrol.pending)")
    shows = _doors.fingerprint(known["pub"])
    if shows != print_:
        raise _Refused(
            f"the key that waits as {node} has the fingerprint {shows}, not {print_}: it is not the"
            " one you mean. Compare with the Pi itself"
        )
    with _ledger() as ledger:
        _refuse_revoked(ledger, node, print_)
        _accept_key(node, known["pub"], known)
        awaited = ledger["expected"].get(node)
        if awaited:
            awaited["used"] = int(time.time())
    return {"id": node, "fingerprint": print_}


def _refuse_revoked(ledger: Any, node: str, print_: str) -> None:
    record = ledger["cards"].get(node)
    if record and record["fingerprint"] == print_ and record.get("why") == REVOKED:
        raise _Refused(
            f"this key of {node} {REVOKED} on {_doors.when(record['ended'])}, and stays out: make a"
            f" new card (salt-run enrol.card {node} …)"
        )


def reject(node: str) -> dict[str, Any]:
    """Turn a key away that waits. An id that is no host name is forgotten altogether.

    node
        Its id, exactly.

    Returns ``{"ok": True, "id", "done"}`` or ``{"ok": False, "reason": ..., "retcode": 1}``.

    CLI Example:

    .. code-block:: bash

        salt-run enrol.reject pi-09
    """
    return _said(lambda: _reject(str(node)))


def _reject(node: str) -> dict[str, Any]:
    # As enrol.pending shows it, too: the command line may have taken the quotes off
    keys = [
        key
        for key in _waiting_keys()
        if node in (key["id"], ascii(key["id"]), ascii(key["id"])[1:-1])
    ]
    if not keys:
        raise _Refused(f"no key of {node!a} waits (salt-run enrol.pending)")
    cache = _cache()
    done = []
    for key in keys:
        if key["state"] == "denied":
            cache.flush("denied_keys", key["id"])
            done.append("the denied key is forgotten")
        elif not __utils__["rackspec.valid_id"](key["id"]):
            cache.flush("keys", key["id"])
            done.append("forgotten")
        else:
            cache.store("keys", key["id"], {"pub": key["pub"], "state": "rejected"})
            done.append("rejected")
    with _ledger() as ledger:
        ledger["expected"].pop(node, None)
    return {"id": node, "done": ", ".join(done)}


# --- those who shall not come in any more ----------------------------------------------------------

REVOKED = "was revoked"
EXPIRED = "was never used and expired"


def revoke(node: str) -> dict[str, Any]:
    """Lock out a Pi or a lost card: its key opens nothing any more.

    Its node object and its join tickets are removed from the cluster, too. What a Pi already runs is
    not stopped from here: switch it off.

    node
        Its id.

    Returns ``{"ok": True, "id", "key": ..., "cluster": ...}`` or
    ``{"ok": False, "reason": ..., "retcode": 1}``.

    CLI Example:

    .. code-block:: bash

        salt-run enrol.revoke pi-07
    """
    return _said(lambda: _revoke(node))


def _revoke(node: str) -> dict[str, Any]:
    _check_id(node)
    _check_no_master(node)
    known = _known_key(node)
    with _ledger() as ledger:
        card_ = ledger["cards"].get(node)
        awaited = ledger["expected"].pop(node, None)
        if not known and not card_ and not awaited:
            raise _Refused(f"the master knows no key and no card of {node}")
        if known:
            card_ = card_ or _doors.entry("", time.time(), 0)
            card_["fingerprint"] = _doors.fingerprint(known["pub"])
        if card_:
            ledger["cards"][node] = {**card_, "ended": int(time.time()), "why": REVOKED}
        _remove_key(node)
    return {"id": node, "key": "removed" if known else "was none", "cluster": _forget(node)}


def reissue(
    node: str,
    target: str | None = None,
    image: str | None = None,
    bundle: str | None = None,
    fingerprint: str | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Take a Pi in again that was imaged anew or replaced: one new key for the old one.

    The old key opens nothing any more; the old node object and its join tickets are removed from the
    cluster, so that the Pi joins like a new one.

    node
        Its id.
    target, image, bundle
        Write a new card there, see :func:`card`, whose other settings may be given as well (hours, …).
    fingerprint
        In place of a card: expect the key with this fingerprint, see :func:`expect`.

    Returns what :func:`card` or :func:`expect` does, with ``"cluster"``: what was removed there.

    CLI Example:

    .. code-block:: bash

        salt-run enrol.reissue pi-07 target=/media/pi/bootfs
        salt-run enrol.reissue pi-07 fingerprint=0f:3c:…
    """
    place = {"target": target, "image": image, "bundle": bundle}
    return _said(lambda: _reissue(node, place, fingerprint, settings))


def _reissue(
    node: str, place: dict[str, str | None], print_: str | None, settings: dict[str, Any]
) -> dict[str, Any]:
    _check_id(node)
    _check_no_master(node)
    known = _known_key(node)
    with _ledger() as ledger:
        if not known and node not in ledger["cards"]:
            raise _Refused(f"the master does not know {node}: make its first card with enrol.card")
    if bool(print_) == any(place.values()):
        raise _Refused(
            "how shall it come in? Give target=, image= or bundle= for a new card, or the"
            " fingerprint= of the key that the Pi has made for itself (salt-run enrol.pending)"
        )
    if not print_:
        return {**_card(node, place, True, settings), "cluster": _forget(node)}
    checked = _checked_fingerprint(print_)
    hours = _checked_hours(settings.get("hours", 24))
    if known and _doors.fingerprint(known["pub"]) == checked:
        raise _Refused(f"{node} is in with this key already")
    with _ledger() as ledger:
        _refuse_revoked(ledger, node, checked)
        # A key of that fingerprint which waits stays: the next knock finds it
        if not known or known["state"] != "pending":
            _remove_key(node)
        ledger["cards"].pop(node, None)
    return {**_expect(node, checked, hours), "cluster": _forget(node)}


def _forget(node: str) -> str:
    """Have the old node taken out of the cluster; say what came of it."""
    done = __salt__["rack.forget"](node)
    if not done.get("ok"):
        return f"not cleaned: {done.get('reason')}. When it can be reached: salt-run rack.forget {node}"
    removed = ["its node object"] if done.get("deleted") else []
    removed += [f"{len(done['tickets'])} join ticket(s)"] if done.get("tickets") else []
    return f"removed {' and '.join(removed)}" if removed else "had nothing of it"


def met(nodes: Iterable[str]) -> list[str]:
    """Note that Pis have answered: the card of each that came with it is used now.

    nodes
        Ids that answered; an answer is signed with the key that the master accepted.

    Returns the ids whose card was used just now.

    CLI Example:

    .. code-block:: bash

        salt-run enrol.met '[pi-07]'
    """
    nodes = set(nodes)
    if not nodes or not _state("cards.json").exists():
        return []
    used = []
    with _ledger() as ledger:
        for node, record in ledger["cards"].items():
            if node not in nodes or not _doors.open_card(record):
                continue
            known = _known_key(node)
            if known and _doors.fingerprint(known["pub"]) == record["fingerprint"]:
                record["used"] = int(time.time())
                used.append(node)
    return used


def note_known(names: Iterable[str], keys: int | None = None) -> None:
    """Write down whom the pillar knows: their keys are never forgotten. Called by each reconcile.

    ``_cache/localfs_key.py`` reads it when a stranger knocks, where a look into the pillar would take
    longer than the knock.

    names
        The ids that the pillar names.
    keys
        How many keys of others may wait; default: 100.

    CLI Example:

    .. code-block:: bash

        salt-run enrol.note_known '[pi-01, pi-02]' keys=100
    """
    known = {"names": sorted(names), **({} if keys is None else {"keys": int(keys)})}
    path = _state("known.json")
    with contextlib.suppress(OSError, ValueError):
        if json.loads(path.read_text(encoding="utf-8")) == known:
            return
    _attempts.write_json(path, known)


def expire() -> list[str]:
    """Take back the cards that nobody used in time: their keys are removed. Returns their ids.

    Called by each reconcile, so also by its timer. A Pi that answers has used its card, whatever the
    record says.

    CLI Example:

    .. code-block:: bash

        salt-run enrol.expire
    """
    if not _state("cards.json").exists():
        return []
    with _ledger() as ledger:
        late = _doors.overdue(ledger, time.time())
    if not late:
        return []
    met(_answering(late))
    gone = []
    with _ledger() as ledger:
        for node in set(late) & set(_doors.overdue(ledger, time.time())):
            record = ledger["cards"][node]
            record.update(ended=int(time.time()), why=EXPIRED)
            known = _known_key(node)
            if known and _doors.fingerprint(known["pub"]) == record["fingerprint"]:
                _remove_key(node)
            gone.append(node)
            log.warning("the card of %s %s", node, EXPIRED)
    return sorted(gone)


def _answering(nodes: Iterable[str]) -> list[str]:
    """Return which of some minions answer within a few seconds."""
    import salt.client

    with salt.client.get_local_client(mopts=dict(__opts__)) as client:
        # Salt prints what it thinks of a target; that must not get into a runner's output.
        with contextlib.redirect_stdout(sys.stderr):
            answers = client.cmd(
                sorted(nodes), "test.ping", tgt_type="list", timeout=ANSWER, gather_job_timeout=5
            )
    return [node for node, said in (answers or {}).items() if said is True]


# --- the record ------------------------------------------------------------------------------------


def _state(name: str) -> Path:
    folder = Path((__opts__.get("saltberry") or {}).get("state_dir", STATE_DIR))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / name


@contextmanager
def _ledger() -> Iterator[Any]:
    """The record of cards and expected fingerprints, for one at a time; written if it was changed.

    What was changed before an exception is written as well: the caller has put it right by then.
    """
    handle = os.open(_state("cards.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            ledger = _doors.load(_state("cards.json"))
        except ValueError as exc:
            raise _Refused(str(exc)) from exc
        before = json.dumps(ledger, sort_keys=True)
        try:
            yield ledger
        finally:
            _doors.tidy(ledger, time.time())
            if json.dumps(ledger, sort_keys=True) != before:
                _attempts.write_json(_state("cards.json"), ledger)
            _note_expecting(_doors.waiting(ledger, time.time()))
    finally:
        os.close(handle)


def _note_expecting(somebody: bool) -> None:
    """Leave word for reactor/auth.sls whether a knock is worth a look."""
    path = _state(EXPECTING)
    if somebody:
        path.touch(mode=0o600)
    else:
        path.unlink(missing_ok=True)


# --- keys ------------------------------------------------------------------------------------------


def _cache() -> Any:
    import salt.cache

    return salt.cache.Cache(dict(__opts__), driver=__opts__["keys.cache_driver"])


def _known_key(node: str) -> dict[str, str] | None:
    """Return ``{"state", "pub"}`` of the key that the master holds for an id, or None."""
    found: dict[str, str] | None = _cache().fetch("keys", node)
    return found or None


def _waiting_keys() -> list[dict[str, Any]]:
    """Return ``{"id", "state", "pub", "fingerprint", "since"}`` of every key that is not accepted."""
    cache, found = _cache(), []
    for node, held in cache.list_all("keys", include_data=True).items():
        if held["state"] != "accepted":
            found.append({"id": node, "since": cache.updated("keys", node), **held})
    for node in cache.list("denied_keys"):
        for pub in cache.fetch("denied_keys", node) or []:
            since = cache.updated("denied_keys", node)
            found.append({"id": node, "state": "denied", "pub": pub, "since": since})
    return [{**key, "fingerprint": _doors.fingerprint(key["pub"])} for key in found]


def _new_pair() -> dict[str, str]:
    """Make a key pair.

    Not by the wheel function ``key.gen_accept``, which puts its return, with the private key in it,
    on the event bus.
    """
    import salt.crypt

    private, public = salt.crypt.gen_keys(KEY_SIZE)
    return {"priv": private, "pub": public}


def _accept_key(node: str, pub: str, known: dict[str, str] | None) -> None:
    """Accept a key, and prove that it is the one that counts from now on.

    What was stored is read again, because Salt has said "accepted" of keys that were not (salt issue
    #63477).
    """
    cache = _cache()
    cache.store("keys", node, {"pub": pub, "state": "accepted"})
    stored = _known_key(node)
    if stored is None or stored["state"] != "accepted" or stored["pub"].split() != pub.split():
        _restore_key(node, known)
        raise _Refused(f"the salt-master did not accept the key of {node}; see its log")
    # A key that once came for this id and was turned away says nothing about the new one.
    cache.flush("denied_keys", node)


def _restore_key(node: str, known: dict[str, str] | None) -> None:
    """Put the master's keys back to what they were."""
    if known:
        _cache().store("keys", node, known)
    else:
        _cache().flush("keys", node)


def _remove_key(node: str) -> None:
    """Remove every key of an id, and prove it."""
    cache = _cache()
    cache.flush("keys", node)
    cache.flush("denied_keys", node)
    if _known_key(node):
        raise _Refused(f"the salt-master did not remove the key of {node}; see its log")
    _renew_session_key()


def _renew_session_key() -> None:
    """Have the master make a new session key: one who was in cannot read what is published next."""
    import salt.crypt

    salt.crypt.dropfile(__opts__["cachedir"], __opts__["user"], __opts__["id"])


def _knocking() -> list[str]:
    tables = []
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            tables.append(Path("/proc/net", name).read_text(encoding="ascii"))
    found: list[str] = _doors.knocking(tables, __opts__["ret_port"], __opts__["publish_port"])
    return found
