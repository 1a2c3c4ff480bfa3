"""Who may come in, and until when: the record of cards and of fingerprints that are expected.

Pure Python, no Salt. The master keeps one file, ``cards.json`` (0600)::

    {"cards": {"pi-07": {"fingerprint": "ab:cd:…", "made": 1795434718, "expires": 1795693918,
                         "used": null, "ended": null, "why": ""}},
     "expected": {"pi-08": {"fingerprint": "…", "made": …, "expires": …, "used": null}}}

Times are seconds since the epoch, by the master's clock. ``used`` is when the Pi was first met with
that key, ``ended`` when an unused card was taken back (it expired, or was revoked), ``why`` the reason.
A card is dead after either; a fingerprint after one acceptance.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Ledger = dict[str, dict[str, dict[str, Any]]]

LONGEST = 24 * 366  # hours
# As salt-call --local key.finger prints it, and as people copy it
FINGERPRINT = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){31}")


def load(path: Path) -> Ledger:
    """Read the file; a missing one is empty.

    Raises:
        ValueError: it is damaged. To go on without it would forget which cards were revoked.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        found = {}
    except OSError as exc:
        raise ValueError(f"{path} cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise ValueError(f"{path} is damaged ({exc}): restore it, or move it away") from exc
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged (no mapping): restore it, or move it away")
    return {kind: dict(found.get(kind) or {}) for kind in ("cards", "expected")}


def fingerprint(pub: str) -> str:
    """Return the SHA-256 fingerprint of a public key, as ``salt-call --local key.finger`` prints it.

    Computed here: ``salt-key -F`` of 3008.3 hashes another part of the text.

    pub
        PEM text.
    """
    lines = [line.strip() for line in pub.strip().splitlines()]
    body = [line for line in lines if line and not line.startswith("-----")]
    digest = hashlib.sha256("".join(f"{line}\n" for line in body).encode()).hexdigest()
    return ":".join(digest[start : start + 2] for start in range(0, len(digest), 2))


def normal(given: object) -> str | None:
    """Return a fingerprint as it is compared, whatever way it was written; None if it is none."""
    plain = re.sub(r"[\s:]", "", str(given)).lower().removeprefix("sha256")
    if not re.fullmatch(r"[0-9a-f]{64}", plain):
        return None
    return ":".join(plain[start : start + 2] for start in range(0, 64, 2))


def entry(print_: str, now: float, hours: float) -> dict[str, Any]:
    """Return a new record, of a card or of an expected fingerprint."""
    expires = int(now + hours * 3600)
    return {
        "fingerprint": print_, "made": int(now), "expires": expires, "used": None,
        "ended": None, "why": "",
    }  # fmt: skip


def open_card(record: Mapping[str, Any] | None) -> bool:
    """Say whether a card was neither used nor taken back."""
    return bool(record) and not record.get("used") and not record.get("ended")  # type: ignore[union-attr]


def overdue(ledger: Ledger, now: float) -> list[str]:
    """Return the ids whose card was never used, in the time that it had."""
    cards = ledger["cards"].items()
    return [node for node, record in cards if open_card(record) and record["expires"] <= now]


def expected(ledger: Ledger, node: str, print_: str, now: float) -> bool:
    """Say whether a key that shows this fingerprint is expected now."""
    record = ledger["expected"].get(node)
    if not record or record.get("used") or record["expires"] <= now:
        return False
    return bool(record["fingerprint"] == print_)


def waiting(ledger: Ledger, now: float) -> bool:
    """Say whether anybody is expected at all."""
    return any(not e.get("used") and e["expires"] > now for e in ledger["expected"].values())


def tidy(ledger: Ledger, now: float, keep: float = 90 * 86400) -> None:
    """Forget what ended long ago, so that the file does not grow for ever."""
    for kind in ledger.values():
        for node, record in list(kind.items()):
            done = record.get("ended") or record.get("used") or record["expires"]
            # A used card is the node's history; what it says of a revoked one must last
            if kind is ledger["expected"] and done + keep < now:
                del kind[node]


def why(ledger: Ledger, key: Mapping[str, str], accepted: str | None, now: float) -> str:
    """Say in one line why a key is not let in.

    Args:
        ledger: the record.
        key: ``{"id", "state", "fingerprint"}`` of the key: pending, denied or rejected.
        accepted: fingerprint of the key that is accepted for this id, if there is one.
        now: the time.
    """
    node, state, print_ = key["id"], key["state"], key["fingerprint"]
    if state == "denied":
        if accepted == print_:
            return "was denied before its key was accepted"
        return (
            f"a second key: {node} is known with another one ({short(accepted)}). If this Pi was"
            f" imaged anew or replaced: salt-run enrol.reissue {node}"
        )
    if state == "rejected":
        return f"rejected by a person. To let it in: salt-run enrol.accept {node} fingerprint=…"
    card = ledger["cards"].get(node)
    if card and card["fingerprint"] == print_:
        if card.get("ended"):
            return f"the key of a card that {card['why']} {when(card['ended'])}"
        return "the key of a card whose acceptance was taken away by hand"
    awaited = ledger["expected"].get(node)
    if awaited and not awaited.get("used"):
        if awaited["fingerprint"] != print_:
            return f"expected with another fingerprint ({short(awaited['fingerprint'])})"
        if awaited["expires"] <= now:
            return f"was expected until {when(awaited['expires'])}"
        return "expected, and let in at its next knock"
    if awaited and awaited["fingerprint"] == print_:
        return f"was expected and let in once, {when(awaited['used'])}; that is over"
    return "nobody expects it"


def listing(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return those who wait as people read them."""
    told = [
        f"{row['id']}  {row['state']} since {row['since']}"
        + (f", from {row['address']}" if row["address"] else "")
        + f"\n  {row['fingerprint']}\n  {row['why']}"
        for row in rows
    ]
    return "\n".join(told) or "nobody waits"


def short(print_: str | None) -> str:
    """Return the beginning of a fingerprint, to be told from another by eye."""
    return f"{print_[:11]}…" if print_ else "unknown"


def when(seconds: float | None) -> str:
    """Return a time as people read it."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds or 0))


# --- who knocks ------------------------------------------------------------------------------------

_ESTABLISHED, _TIME_WAIT, _CLOSE_WAIT = "01", "06", "08"


def knocking(tables: Iterable[str], ret_port: int, publish_port: int) -> list[str]:
    """Return the addresses that ask the master for something and are not connected to it for good.

    Salt keeps no record of the address that a key came from. Minions that are in hold a connection to
    the publish port; one that is not accepted only asks, again and again, at the other.

    Args:
        tables: texts of ``/proc/net/tcp`` and ``tcp6``.
        ret_port, publish_port: the master's ports.
    """
    asking, connected = set(), set()
    for line in (line for table in tables for line in table.splitlines()[1:]):
        words = line.split()
        port, state = int(words[1].rpartition(":")[2], 16), words[3]
        address = _address(words[2].rpartition(":")[0])
        if port == publish_port and state == _ESTABLISHED:
            connected.add(address)
        elif port == ret_port and state in (_ESTABLISHED, _TIME_WAIT, _CLOSE_WAIT):
            asking.add(address)
    return sorted(asking - connected)


def _address(text: str) -> str:
    """Read an address of ``/proc/net/tcp``: hexadecimal, in words of this machine's byte order."""
    import ipaddress
    import sys

    raw = bytes.fromhex(text)
    if sys.byteorder == "little":
        raw = b"".join(raw[start : start + 4][::-1] for start in range(0, len(raw), 4))
    address = ipaddress.ip_address(raw)
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
