"""Sealing and opening, with real RSA keys: what each kind of wrong ticket says."""

from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from saltberry_ext.utils import ticket

DOCUMENT = {"token": "abcdef.0123456789abcdef", "endpoint": "10.0.0.11:6443"}
NOW = 1_700_000_000.0


def _pem(key) -> tuple[str, str]:
    """Private and public half as PEM text, as Salt keeps them."""
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private.decode(), public.decode()


@pytest.fixture(scope="module")
def keys():
    return _pem(rsa.generate_private_key(65537, 2048))


@pytest.fixture(scope="module")
def other_keys():
    return _pem(rsa.generate_private_key(65537, 2048))


@pytest.fixture
def sealed(keys):
    return ticket.seal(DOCUMENT, keys[1], "pi-07", 600, now=NOW)


def test_opens_where_it_should(keys, sealed):
    assert ticket.unseal(sealed, keys[0], "pi-07", now=NOW + 599) == DOCUMENT


def test_shows_nothing_of_the_document(sealed):
    assert sealed.isascii()
    assert "\n" not in sealed
    decoded = b"".join(
        base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in sealed.split(".")[1:]
    )
    for secret in ("0123456789abcdef", "abcdef", "10.0.0.11"):
        assert secret not in sealed
        assert secret.encode() not in decoded


def test_two_seals_of_one_document_differ(keys, sealed):
    again = ticket.seal(DOCUMENT, keys[1], "pi-07", 600, now=NOW)
    assert set(again.split(".")[2:]).isdisjoint(sealed.split(".")[2:])


def test_takes_keys_of_3072_bit_and_pem_with_spaces():
    private, public = _pem(rsa.generate_private_key(65537, 3072))
    text = ticket.seal(DOCUMENT, f"\n{public}\n\n", "pi-07", 600)
    assert ticket.unseal(f" {text}\n", private, "pi-07") == DOCUMENT


def test_any_node_with_the_key_when_none_is_named(keys):
    text = ticket.seal({"kubeconfig": "x"}, keys[1], None, 60, purpose="kubeconfig")
    assert ticket.unseal(text, keys[0], "nfs1", "kubeconfig") == {"kubeconfig": "x"}


def test_label(sealed):
    assert ticket.label(sealed) == {"purpose": "join", "node": "pi-07", "expires": int(NOW) + 600}


def test_for_another_node(keys, sealed):
    with pytest.raises(ticket.TicketError, match="ticket is for pi-07, this node is pi-08"):
        ticket.unseal(sealed, keys[0], "pi-08", now=NOW)


def test_for_another_purpose(keys, sealed):
    with pytest.raises(ticket.TicketError, match="is a join text, not a kubeconfig text"):
        ticket.unseal(sealed, keys[0], "pi-07", "kubeconfig", now=NOW)


def test_expired_names_the_clock(keys, sealed):
    with pytest.raises(ticket.TicketError, match=r"expired 100 s ago .*2023-11-14 22:25:00 UTC"):
        ticket.unseal(sealed, keys[0], "pi-07", now=NOW + 700)


def test_sealed_to_another_key(other_keys, sealed):
    with pytest.raises(ticket.TicketError, match="sealed to another key than that of pi-07"):
        ticket.unseal(sealed, other_keys[0], "pi-07", now=NOW)


@pytest.mark.parametrize("part", [1, 4])
def test_changed_on_its_way(keys, sealed, part):
    """A longer life on the label, or another text: the seal does not match."""
    parts = sealed.split(".")
    raw = bytearray(base64.urlsafe_b64decode(parts[part] + "=" * (-len(parts[part]) % 4)))
    if part == 1:
        label = json.loads(raw)
        label["expires"] += 3600
        raw = bytearray(json.dumps(label, sort_keys=True).encode())
    else:
        raw[3] ^= 1
    parts[part] = base64.urlsafe_b64encode(bytes(raw)).rstrip(b"=").decode()
    with pytest.raises(ticket.TicketError, match="changed on its way"):
        ticket.unseal(".".join(parts), keys[0], "pi-07", now=NOW)


@pytest.mark.parametrize(
    "broken",
    ["", "**********", "sbt1.a.b", "sbt9.a.b.c.d", "sbt1.!.!.!.!", "sbt1.e30.AA.AA.AA"],
)
def test_broken(keys, broken):
    with pytest.raises(ticket.TicketError, match="the ticket is broken"):
        ticket.unseal(broken, keys[0], "pi-07", now=NOW)


def test_cut_short(keys, sealed):
    with pytest.raises(ticket.TicketError, match=r"changed on its way|broken"):
        ticket.unseal(sealed[:-9], keys[0], "pi-07", now=NOW)


@pytest.mark.parametrize(
    "pub", ["", "no key", "-----BEGIN PUBLIC KEY-----\nAA\n-----END PUBLIC KEY-----"]
)
def test_unreadable_public_key(pub):
    with pytest.raises(ticket.TicketError, match="public key is not readable"):
        ticket.seal(DOCUMENT, pub, "pi-07", 600)


def test_public_key_that_is_not_rsa():
    _, public = _pem(ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(ticket.TicketError, match="not an RSA key"):
        ticket.seal(DOCUMENT, public, "pi-07", 600)


def test_unreadable_private_key_shows_nothing(sealed):
    with pytest.raises(ticket.TicketError) as caught:
        ticket.unseal(sealed, "-----BEGIN SECRET-----", "pi-07", now=NOW)
    assert "SECRET" not in str(caught.value)
    assert caught.value.__cause__ is None
