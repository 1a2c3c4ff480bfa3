"""Who may come in, and until when: the record, the reasons, and who knocks."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import salt.crypt
from salt.utils.crypt import pem_finger
from saltberry_ext.runners import _doors as doors

NOW = 1_000_000.0
ONE, OTHER = (":".join([pair] * 32) for pair in ("ab", "cd"))


def key(state: str = "pending", print_: str = ONE) -> dict[str, str]:
    return {"id": "pi-07", "state": state, "fingerprint": print_}


def ledger(**kinds: dict[str, dict[str, object]]) -> doors.Ledger:
    return {"cards": {}, "expected": {}, **kinds}


def test_a_fingerprint_is_what_salt_prints_on_the_pi(tmp_path: Path) -> None:
    _, public = salt.crypt.gen_keys(2048)
    path = tmp_path / "minion.pub"
    for text in (public, public.strip(), public.replace("\n", "\r\n"), f"\n{public}\n"):
        path.write_text(public)
        assert doors.fingerprint(text) == pem_finger(path=str(path), sum_type="sha256")
        assert doors.FINGERPRINT.fullmatch(doors.fingerprint(text))


@pytest.mark.parametrize(
    "given", [ONE, ONE.upper(), ONE.replace(":", ""), f"SHA256:{ONE}", f" {ONE}\n"]
)
def test_a_fingerprint_is_understood_however_it_is_copied(given: str) -> None:
    assert doors.normal(given) == ONE


@pytest.mark.parametrize("given", ["", None, ONE[:-1], ONE + ":ab", "*", ONE.replace("a", "g"), 7])
def test_what_is_no_whole_fingerprint_is_none(given: object) -> None:
    assert doors.normal(given) is None


def test_a_missing_record_is_empty_and_a_damaged_one_an_error(tmp_path: Path) -> None:
    path = tmp_path / "cards.json"
    assert doors.load(path) == ledger()
    for text in ("{", "[]", '"x"'):
        path.write_text(text)
        with pytest.raises(ValueError, match="is damaged"):
            doors.load(path)


def test_an_entry_opens_for_its_hours_and_once() -> None:
    entry = doors.entry(ONE, NOW, 24)
    book = ledger(expected={"pi-07": entry})
    assert doors.expected(book, "pi-07", ONE, NOW + 86399)
    assert not doors.expected(book, "pi-07", ONE, NOW + 86400), "too late"
    assert not doors.expected(book, "pi-07", OTHER, NOW), "another key"
    assert not doors.expected(book, "pi-08", ONE, NOW), "another id"
    assert doors.waiting(book, NOW) and not doors.waiting(book, NOW + 86400)
    entry["used"] = NOW
    assert not doors.expected(book, "pi-07", ONE, NOW), "once"
    assert not doors.waiting(book, NOW)


def test_only_unused_cards_become_overdue() -> None:
    made = {name: doors.entry(ONE, NOW, 1) for name in ("late", "used", "ended")}
    made["used"]["used"] = made["ended"]["ended"] = NOW
    book = ledger(cards={**made, "young": doors.entry(ONE, NOW, 2)})
    assert doors.overdue(book, NOW) == []
    assert doors.overdue(book, NOW + 3600) == ["late"]


def test_old_expectations_are_forgotten_and_revoked_cards_are_not() -> None:
    revoked = {**doors.entry(ONE, NOW, 1), "ended": NOW, "why": "was revoked"}
    book = ledger(cards={"pi-07": revoked}, expected={"pi-08": doors.entry(ONE, NOW, 1)})
    doors.tidy(book, NOW + 366 * 86400)
    assert book == ledger(cards={"pi-07": revoked})


def test_every_reason_is_one_plain_line() -> None:
    ended = {**doors.entry(ONE, NOW, 1), "ended": NOW, "why": "was revoked"}
    used = {**doors.entry(ONE, NOW, 1), "used": NOW}
    awaited = ledger(expected={"pi-07": doors.entry(ONE, NOW, 1)})
    cases = [
        (ledger(), key(), None, "nobody expects it"),
        (ledger(), key("denied"), OTHER, "a second key: pi-07 is known with another one"),
        (ledger(), key("rejected"), None, "rejected by a person"),
        (ledger(cards={"pi-07": ended}), key(), None, "a card that was revoked 1970-01-12 13:46"),
        (ledger(cards={"pi-07": ended}), key(print_=OTHER), None, "nobody expects it"),
        (awaited, key(), None, "let in at its next knock"),
        (awaited, key(print_=OTHER), None, "expected with another fingerprint (ab:ab:ab:ab…)"),
        (ledger(expected={"pi-07": used}), key(), None, "let in once"),
    ]
    for book, shown, accepted, said in cases:
        reason = doors.why(book, shown, accepted, NOW)
        assert said in reason and "\n" not in reason
    assert "was expected until" in doors.why(awaited, key(), None, NOW + 3600)


def test_the_address_is_of_one_who_asks_and_is_not_connected() -> None:
    """With real connections of this machine, as the kernel shows them."""
    with (
        socket.create_server(("127.0.0.1", 0)) as ask,
        socket.create_server(("127.0.0.1", 0)) as hear,
    ):
        ret, publish = ask.getsockname()[1], hear.getsockname()[1]

        def seen() -> list[str]:
            tables = [Path("/proc/net", name).read_text() for name in ("tcp", "tcp6")]
            return list(doors.knocking(tables, ret, publish))

        assert seen() == []
        stranger = socket.create_connection(("127.0.0.1", ret), source_address=("127.0.0.9", 0))
        member = [
            socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.8", 0))
            for port in (ret, publish)
        ]
        try:
            assert seen() == ["127.0.0.9"]
        finally:
            for connection in (stranger, *member):
                connection.close()


def test_the_listing_names_everything() -> None:
    row = {**key(), "address": None, "since": "2026-11-23 18:06 UTC", "why": "nobody expects it"}
    said = doors.listing([row, {**row, "address": "192.168.1.50"}])
    assert said.count(ONE) == 2 and "from 192.168.1.50" in said and "from None" not in said
    assert doors.listing([]) == "nobody waits"
