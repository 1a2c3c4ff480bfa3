"""Seal a small document to one minion's public key, and open it there.

The master holds the public key of every accepted minion. What is sealed to it may travel through
places that keep and show everything they see (the job cache, the event bus, debug logs of other
minions): they only ever hold ciphertext. Two things are sealed: the join ticket, which carries a
bootstrap token to a node that joins, and the admin's kubeconfig, on its way to the NFS Pi.

Form of the text, five parts joined by dots, each but the first in unpadded URL-safe base64::

    sbt1 . label . wrapped key . nonce . ciphertext

The label is JSON: what the text is for, for which node, until when (Unix time). It is readable, so
that a wrong or stale ticket is refused in plain words, and it is the associated data of the
encryption, so that it cannot be changed. The document is encrypted with AES-256-GCM under a random
key, and that key with RSA-OAEP (SHA-256) to the minion.

A sealed text says nothing about its sender: anyone with the public key can make one. That it came
from the master is what Salt's own channel vouches for.

Pure Python on the ``cryptography`` package, which Salt brings along. It is imported where it is
used, because the loader imports this file in every minion process.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import time
from collections.abc import Mapping
from typing import Any

FORMAT = "sbt1"

# a Pi has no clock of its own: seconds that it may be ahead of the control plane
CLOCK_SLACK = 5.0


class TicketError(ValueError):
    """A sealed text that cannot be made or opened; the message is for the operator."""


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _oaep() -> Any:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    digest = hashes.SHA256()
    return padding.OAEP(mgf=padding.MGF1(algorithm=digest), algorithm=digest, label=None)


def _public_key(pub: str) -> Any:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    try:
        key = serialization.load_pem_public_key(str(pub).strip().encode("ascii"))
    except (ValueError, UnicodeEncodeError) as exc:
        raise TicketError(
            "the minion's public key is not readable: give the text of its .pub file (PEM)"
        ) from exc
    if not isinstance(key, rsa.RSAPublicKey):
        raise TicketError("the minion's public key is not an RSA key; Salt's minion keys are RSA")
    return key


def _private_key(pem: str) -> Any:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    try:
        key = serialization.load_pem_private_key(pem.encode("ascii"), password=None)
    except (TypeError, ValueError, UnicodeEncodeError):
        # no cause is chained: nothing that was read from a private key belongs in a log
        raise TicketError("this minion's private key is not readable as PEM") from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise TicketError("this minion's private key is not an RSA key")
    return key


def seal(
    document: Mapping[str, Any],
    pub: str,
    node: str | None,
    ttl: float,
    *,
    purpose: str = "join",
    now: float | None = None,
) -> str:
    """Encrypt a document so that only the owner of a minion's key can read it.

    document
        What to seal; must be JSON-serialisable.
    pub
        The minion's public key as PEM text, as the master keeps it in ``pki/master/minions/<id>``.
    node
        The minion id it is for; None: whoever holds the key.
    ttl
        Seconds until it may no longer be opened.
    purpose
        What it is for (``join``, ``kubeconfig``); must be asked for when opening.
    now
        Unix time to count from; the clock by default.

    Returns the sealed text: ASCII, one line. Raises TicketError for an unusable key.
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    issued = time.time() if now is None else now
    raw_label = json.dumps(
        {"purpose": purpose, "node": node, "expires": int(issued + ttl)}, sort_keys=True
    ).encode()
    key = AESGCM.generate_key(bit_length=256)
    nonce = os.urandom(12)
    cipher = AESGCM(key).encrypt(nonce, json.dumps(document).encode(), raw_label)
    wrapped = _public_key(pub).encrypt(key, _oaep())
    return ".".join([FORMAT, *(_encode(part) for part in (raw_label, wrapped, nonce, cipher))])


def _split(text: str) -> tuple[bytes, bytes, bytes, bytes]:
    """The four binary parts of a sealed text; TicketError if it is not one."""
    parts = str(text).strip().split(".")
    if parts[0] != FORMAT or len(parts) != 5:
        raise TicketError(
            f"the ticket is broken: it does not have the form {FORMAT}.label.key.nonce.text; "
            "ask the master for a new one"
        )
    try:
        raw_label, wrapped, nonce, cipher = (_decode(part) for part in parts[1:])
    except (binascii.Error, ValueError) as exc:
        raise TicketError(
            "the ticket is broken: a part of it is not base64; ask the master for a new one"
        ) from exc
    return raw_label, wrapped, nonce, cipher


def _parse_label(raw: bytes) -> dict[str, Any]:
    try:
        found = json.loads(raw)
        return {
            "purpose": str(found["purpose"]),
            "node": found["node"],
            "expires": int(found["expires"]),
        }
    except (ValueError, KeyError, TypeError) as exc:
        raise TicketError(
            "the ticket is broken: its label is not readable; ask the master for a new one"
        ) from exc


def label(text: str) -> dict[str, Any]:
    """What a sealed text says of itself, without opening it.

    Returns ``{"purpose", "node", "expires"}`` (Unix time). Not authenticated until it is opened.
    Raises TicketError if the text is not a sealed text.
    """
    return _parse_label(_split(text)[0])


def _check_label(found: Mapping[str, Any], node: str, purpose: str, now: float) -> None:
    if found["purpose"] != purpose:
        raise TicketError(f"the sealed text is a {found['purpose']} text, not a {purpose} text")
    if found["node"] not in (None, node):
        raise TicketError(
            f"the ticket is for {found['node']}, this node is {node}: "
            "the master must make one for this node"
        )
    late = now - found["expires"]
    if late > CLOCK_SLACK:
        clock = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
        raise TicketError(
            f"the ticket expired {late:.0f} s ago by this node's clock ({clock}): "
            "if the clock is right, run the join again; if not, set it first"
        )


def unseal(
    text: str, private_key: str, node: str, purpose: str = "join", now: float | None = None
) -> dict[str, Any]:
    """Open a sealed text with this minion's private key.

    text
        What ``seal`` returned.
    private_key
        The minion's private key as PEM text.
    node
        This minion's id; a text for another id is refused.
    purpose
        What the caller expects it to be for; another purpose is refused.
    now
        Unix time to compare with; the clock by default.

    Returns the document. Raises TicketError, with distinct words, for a text that is broken, for
    another node, for another purpose, expired, sealed to another key, or changed on its way.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    raw_label, wrapped, nonce, cipher = _split(text)
    _check_label(_parse_label(raw_label), node, purpose, time.time() if now is None else now)
    try:
        key = _private_key(private_key).decrypt(wrapped, _oaep())
    except TicketError:
        raise
    except ValueError:
        raise TicketError(
            f"the ticket is sealed to another key than that of {node}: "
            "was this minion's key made anew? Accept its present key on the master and run again"
        ) from None
    try:
        document = json.loads(AESGCM(key).decrypt(nonce, cipher, raw_label))
    except (InvalidTag, ValueError):
        raise TicketError(
            "the ticket was changed on its way: its contents do not match its seal; "
            "ask the master for a new one"
        ) from None
    if not isinstance(document, dict):
        raise TicketError("the ticket is broken: it holds no document")
    return document
