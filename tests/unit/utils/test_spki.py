"""The CA's name, against two other ways to it: the cryptography package and openssl."""

from __future__ import annotations

import datetime
import hashlib
import shutil
import subprocess
import warnings

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from saltberry_ext.utils import spki

KEYS = {
    "rsa-2048": lambda: rsa.generate_private_key(65537, 2048),
    "rsa-4096": lambda: rsa.generate_private_key(65537, 4096),
    "ecdsa-p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ecdsa-p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}


def _certificate(key) -> bytes:
    """A self-signed CA as PEM."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kubernetes")])
    start = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM)


@pytest.fixture(scope="module", params=KEYS)
def pem(request) -> bytes:
    return _certificate(KEYS[request.param]())


def test_as_cryptography_sees_it(pem):
    key = x509.load_pem_x509_certificate(pem).public_key()
    info = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert spki.ca_hash(pem) == f"sha256:{hashlib.sha256(info).hexdigest()}"


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl here")
def test_as_openssl_sees_it(pem):
    public = subprocess.run(
        ["openssl", "x509", "-pubkey", "-noout"], input=pem, capture_output=True, check=True
    ).stdout
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-outform", "DER"],
        input=public,
        capture_output=True,
        check=True,
    ).stdout
    assert spki.ca_hash(pem) == f"sha256:{hashlib.sha256(der).hexdigest()}"


def test_the_first_of_several_counts(pem):
    other = _certificate(KEYS["ecdsa-p256"]())
    assert spki.ca_hash(b"# a comment\n" + pem + other) == spki.ca_hash(pem)
    assert spki.ca_hash(pem.replace(b"\n", b"\r\n")) == spki.ca_hash(pem)


def test_serial_number_zero():
    """kubeadm's own CAs for years; changing a serial number does not change the key."""
    pem = _certificate(KEYS["ecdsa-p256"]())
    certificate = x509.load_pem_x509_certificate(pem)
    der = bytearray(certificate.public_bytes(serialization.Encoding.DER))
    serial = certificate.serial_number
    raw = serial.to_bytes((serial.bit_length() + 8) // 8, "big")
    at = bytes(der).index(raw)
    der[at : at + len(raw)] = bytes(len(raw))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert spki.spki(bytes(der)) == spki.spki(
            certificate.public_bytes(serialization.Encoding.DER)
        )


@pytest.mark.parametrize(
    "content", [b"", b"no pem", b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----"]
)
def test_no_certificate(content):
    with pytest.raises(ValueError, match="certificate"):
        spki.ca_hash(content)


def test_every_cut_is_noticed():
    """A certificate cut short at any byte is an error, never another hash or another exception."""
    pem = _certificate(KEYS["ecdsa-p256"]())
    der = x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)
    for end in range(len(der)):
        with pytest.raises(ValueError, match="the certificate"):
            spki.spki(der[:end])


@pytest.mark.parametrize(
    "der",
    [b"\x30\x80\x30\x00", b"\x30\x85\x01\x01\x01\x01\x01", b"\x02\x01\x00", b"\x30\x02\x30\x00"],
)
def test_nonsense_is_noticed(der):
    with pytest.raises(ValueError, match="the certificate"):
        spki.spki(der)
