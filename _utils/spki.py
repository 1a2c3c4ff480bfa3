"""The name that kubeadm gives a cluster's CA: SHA-256 of the certificate's SubjectPublicKeyInfo.

The bytes are cut out of the certificate as they stand, as kubeadm itself does (Go's
``RawSubjectPublicKeyInfo``), so the kind of key does not matter. Not by a certificate library,
because kubeadm gave its CAs the serial number 0 for years, which RFC 5280 forbids and which
``cryptography`` warns it will refuse; and because this runs in every state run of a Pi, where
loading that library takes longer than all the rest.

Pure Python; DER as in X.690, the certificate's structure as in RFC 5280 section 4.1.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)

_SEQUENCE, _INTEGER, _VERSION, _BIT_STRING = 0x30, 0x02, 0xA0, 0x03


def _element(der: bytes, start: int, end: int) -> tuple[int, int, int]:
    """Tag, start of content and end of the DER element at ``start``; it must end before ``end``."""
    if start + 2 > end:
        raise ValueError("the certificate ends too early")
    tag, length, content = der[start], der[start + 1], start + 2
    if length & 0x80:
        count = length & 0x7F
        content += count
        if not 1 <= count <= 4 or content > end:
            raise ValueError("the certificate has a length that makes no sense")
        length = int.from_bytes(der[start + 2 : content], "big")
    if content + length > end:
        raise ValueError("the certificate ends too early")
    return tag, content, content + length


def _expect(der: bytes, start: int, end: int, tag: int) -> tuple[int, int]:
    """Content and end of the element at ``start``, which must have this tag."""
    found, content, stop = _element(der, start, end)
    if found != tag:
        raise ValueError(f"the certificate has tag {found:#04x} in the place of {tag:#04x}")
    return content, stop


def spki(der: bytes) -> bytes:
    """The SubjectPublicKeyInfo of a DER-encoded certificate, as it stands there.

    Raises ValueError if this is no X.509 certificate.
    """
    at, end = _expect(der, 0, len(der), _SEQUENCE)  # Certificate
    at, end = _expect(der, at, end, _SEQUENCE)  # tbsCertificate
    if _element(der, at, end)[0] == _VERSION:
        at = _element(der, at, end)[2]
    # serialNumber, signature, issuer, validity, subject
    for tag in (_INTEGER, _SEQUENCE, _SEQUENCE, _SEQUENCE, _SEQUENCE):
        _, at = _expect(der, at, end, tag)
    content, stop = _expect(der, at, end, _SEQUENCE)
    _, algorithm_end = _expect(der, content, stop, _SEQUENCE)
    _, key_end = _expect(der, algorithm_end, stop, _BIT_STRING)
    if key_end != stop:
        raise ValueError("the certificate's public key has something after it")
    return der[at:stop]


def ca_hash(pem: bytes) -> str:
    """The CA's name, ``sha256:<hex>``, from the first certificate of a PEM text.

    Raises ValueError if there is no certificate in it.
    """
    match = _PEM.search(pem)
    if not match:
        raise ValueError("there is no certificate in it")
    try:
        der = base64.b64decode(b"".join(match[1].split()), validate=True)
    except binascii.Error as exc:
        raise ValueError("the certificate is not base64") from exc
    return f"sha256:{hashlib.sha256(spki(der)).hexdigest()}"
