# SPDX-License-Identifier: Apache-2.0
"""The plugin: what xsplice calls when the user says ``SIGNER=acme`` or ``ON=acme``."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from acme_signing.client import OPTIONS, token_of
from acme_signing.trailer import Trailer, pack, unpack
from xsplice_plugins import Config, hookimpl
from xsplice_plugins.artefacts import (
    Finding,
    PayloadRecord,
    Severity,
    SignatureCheck,
    SignatureRecord,
    SignatureState,
    SignedPayload,
)
from xsplice_plugins.errors import ElfFormatError, SignError
from xsplice_plugins.sign.appended import payload_size_bytes, require_payload

if TYPE_CHECKING:
    from pathlib import Path

xsplice_api = (1, 0)  #: the hooks this plugin was written for
xsplice_options = tuple(OPTIONS)  #: the keys of ``OPTIONS=`` that it reads; others are refused
FUNCTIONS_MAX = 8  #: ACME's rule: people read every function that a payload replaces


@hookimpl
def xsplice_startup(config: Config) -> None:
    """Refuse wrong options at once, not after all compiles are done."""
    if config.signer == "acme":
        token_of(config)


@hookimpl
def xsplice_sign_payload(data: bytes, record: PayloadRecord, config: Config) -> SignedPayload:
    """Let the token sign the payload's digest and append ACME's trailer."""
    require_payload(data, record)  # one bare payload, and the one that the record speaks of
    token = token_of(config)
    certificate = _parse(token.certificate(), "the token's certificate")
    signature = token.sign(_message(data, token.key_id))
    signed = data + pack(Trailer(key_id=token.key_id, signature=signature))
    return SignedPayload(
        data=signed,
        record=SignatureRecord(
            signer="acme",
            scheme="acme-1",
            is_deterministic=True,  # Ed25519 has no random part
            is_development_key=False,
            subject=certificate.subject.rfc4514_string(),
            certificate_sha256=certificate.fingerprint(hashes.SHA256()).hex(),
            digest_payload=record.digest,
            digest_signed=hashlib.sha256(signed).hexdigest(),
            note=f"signed by ACME's token with key {token.key_id}",
        ),
    )


@hookimpl
def xsplice_check_signature(
    data: bytes, certificate: Path | None, config: Config
) -> SignatureCheck:
    """Check ACME's trailer against a certificate, or against the token's own."""
    try:
        size = payload_size_bytes(data, "the file")
    except ElfFormatError as error:
        return _answer(SignatureState.BAD, str(error), 0)
    if size == len(data):
        return _answer(SignatureState.UNSIGNED, "nothing follows the payload", size)
    trailer = unpack(data[size:])
    if trailer is None:
        return _answer(SignatureState.BAD, "what follows the payload is not ACME's trailer", size)
    path = certificate or config.certificate
    pem = path.read_bytes() if path else token_of(config).certificate()
    trusted = _parse(pem, str(path or "the token's certificate"))
    subject = trusted.subject.rfc4514_string()
    key = trusted.public_key()
    if not isinstance(key, Ed25519PublicKey) or trusted.serial_number != trailer.key_id:
        return _answer(SignatureState.UNKNOWN_KEY, f"signed with key {trailer.key_id}", size)
    try:
        key.verify(trailer.signature, _message(data[:size], trailer.key_id))
    except InvalidSignature:
        return _answer(SignatureState.BAD, "the payload or its signature was changed", size)
    if not trusted.not_valid_before_utc <= datetime.now(UTC) <= trusted.not_valid_after_utc:
        return _answer(SignatureState.EXPIRED, "the certificate is not valid now", size, subject)
    return _answer(SignatureState.GOOD, f"signed with key {trailer.key_id}", size, subject)


@hookimpl
def xsplice_verify_payload(record: PayloadRecord) -> tuple[Finding, ...]:
    """Hold a payload to ACME's rule about its size."""
    count = len(record.functions)
    finding = Finding(
        check="acme.size",
        severity=Severity.INFO if count <= FUNCTIONS_MAX else Severity.ERROR,
        subject=record.name,
        text=f"replaces {count} functions, ACME's rule allows {FUNCTIONS_MAX}",
    )
    return (finding,)


def _message(payload: bytes, key_id: int) -> bytes:
    """Return what the token signs: few bytes, and they say what they are for."""
    return b"ACME live patch 1\0" + key_id.to_bytes(4, "big") + hashlib.sha512(payload).digest()


def _parse(pem: bytes, name: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise SignError(f"acme: {name} is no certificate ({error}); ask for a new one") from error


def _answer(state: SignatureState, reason: str, size: int, subject: str = "") -> SignatureCheck:
    return SignatureCheck(state=state, reason=reason, payload_size_bytes=size, subject=subject)
