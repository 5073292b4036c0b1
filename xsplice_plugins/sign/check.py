# SPDX-License-Identifier: Apache-2.0
"""Check the signature of a payload, without running any program.

What a machine that uploads payloads does before it hands one to the hypervisor: the file is good
only if every step says so, and anything unknown is bad.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from xsplice_plugins.artefacts import SignatureCheck, SignatureState
from xsplice_plugins.errors import ElfFormatError
from xsplice_plugins.sign.appended import MARKER, payload_size_bytes, split_appended
from xsplice_plugins.sign.keys import load_certificate

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.x509 import Certificate


def check_signature(
    data: bytes, certificate: Path | None, *, at_time: datetime | None = None
) -> SignatureCheck:
    """Say whether a file is a payload signed by the holder of one certificate.

    Args:
        data: The whole file.
        certificate: PEM file of the certificate to trust; ``None`` if there is none.
        at_time: When the certificate must be valid, with its time zone; ``None`` for now.

    Returns:
        GOOD only if the payload is complete, its signature is right and by this certificate, and
        the certificate is valid.

    Raises:
        SignError: The certificate's file cannot be read.
    """
    try:
        size = payload_size_bytes(data, "the file")
    except ElfFormatError as error:
        return _answer(SignatureState.BAD, str(error), 0)
    if size == len(data):
        return _answer(SignatureState.UNSIGNED, "nothing follows the payload", size)
    if not data.endswith(MARKER):
        return _answer(
            SignatureState.BAD,
            f"{len(data) - size} bytes follow the payload but no complete signature; "
            "the file was cut short or damaged",
            size,
        )
    parts = split_appended(data, size)
    if isinstance(parts, str):
        return _answer(SignatureState.BAD, parts, size)
    if certificate is None:
        return _answer(
            SignatureState.UNKNOWN_KEY,
            "there is no certificate to check the signature against",
            size,
        )
    from xsplice_plugins.sign.detached import check_detached  # noqa: PLC0415  # 0.06 s

    trusted = load_certificate(certificate)
    state, reason = check_detached(parts.payload, parts.signature, trusted)
    if state is SignatureState.GOOD:
        state, reason = _check_time(trusted, at_time or datetime.now(UTC))
    subject = "" if state is SignatureState.BAD else trusted.subject.rfc4514_string()
    return _answer(state, reason, size, subject)


def _check_time(trusted: Certificate, at_time: datetime) -> tuple[SignatureState, str]:
    start, end = trusted.not_valid_before_utc, trusted.not_valid_after_utc
    if start <= at_time <= end:
        return SignatureState.GOOD, "signed with the trusted certificate"
    return (
        SignatureState.EXPIRED,
        f"the certificate is valid from {start:%Y-%m-%d} to {end:%Y-%m-%d} only",
    )


def _answer(state: SignatureState, reason: str, size: int, subject: str = "") -> SignatureCheck:
    return SignatureCheck(state=state, reason=reason, payload_size_bytes=size, subject=subject)
