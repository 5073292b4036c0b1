# SPDX-License-Identifier: Apache-2.0
"""Key pairs for the tests of signatures, made in code; slow ones once per run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

KEY_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)
NOW = datetime(2026, 6, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Where a key and its certificate lie."""

    key: Path
    certificate: Path


PairFactory = Callable[..., Pair]


@cache
def _key(kind: str, number: int) -> CertificateIssuerPrivateKeyTypes:  # cache key
    """Return the ``number``th key of a kind."""
    if kind.startswith("rsa"):
        return rsa.generate_private_key(public_exponent=65537, key_size=int(kind[3:]))
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    curves = {"p256": ec.SECP256R1, "p384": ec.SECP384R1, "p521": ec.SECP521R1}
    return ec.generate_private_key(curves[kind]())


@pytest.fixture
def pair_of(tmp_path: Path) -> PairFactory:
    """Return a function that writes a key pair; see `write_pair`."""

    def make(kind: str = "rsa2048", **settings: object) -> Pair:
        return write_pair(tmp_path / "keys", kind, **settings)  # type: ignore[arg-type]  # passed on

    return make


def write_pair(
    folder: Path,
    kind: str,
    *,
    number: int = 0,
    name: str = "vendor",
    start: datetime | None = None,
    end: datetime | None = None,
    phrase: str = "",
    usage: str = "digital_signature",
) -> Pair:
    """Write a key and a self-signed certificate as PEM."""
    folder.mkdir(exist_ok=True)
    key = _key(kind, number)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    flags = dict.fromkeys(KEY_USAGES, False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1000 + number)
        .not_valid_before(start or datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(end or datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if usage:
        flags[usage] = True
        builder = builder.add_extension(x509.KeyUsage(**flags), critical=True)
    method = None if kind == "ed25519" else hashes.SHA256()
    certificate = builder.sign(key, method)
    encryption = BestAvailableEncryption(phrase.encode()) if phrase else NoEncryption()
    pair = Pair(
        key=folder / f"{name}-{kind}-{number}.key.pem",
        certificate=folder / f"{name}-{kind}-{number}.crt.pem",
    )
    pair.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    pair.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
    return pair
