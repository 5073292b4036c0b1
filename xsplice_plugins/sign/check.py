# SPDX-License-Identifier: Apache-2.0
"""Check the signature of a payload, without running any program.

What a machine that uploads payloads does before it hands one to the hypervisor: the file is good
only if every step says so, and anything unknown is bad.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from xsplice_plugins.artefacts import SignatureCheck, SignatureState
from xsplice_plugins.errors import ElfFormatError
from xsplice_plugins.sign.appended import appended_signature, payload_size_bytes
from xsplice_plugins.sign.keys import load_certificate


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
        return SignatureCheck(state=SignatureState.BAD, reason=str(error), payload_size_bytes=0)
    state, reason, subject = _checked(data, size, certificate, at_time or datetime.now(UTC))
    return SignatureCheck(state=state, reason=reason, payload_size_bytes=size, subject=subject)


def _checked(
    data: bytes, size: int, certificate: Path | None, at_time: datetime
) -> tuple[SignatureState, str, str]:
    """Return the state, one sentence, and the signer's name where it is known."""
    if size == len(data):
        return SignatureState.UNSIGNED, "nothing follows the payload", ""
    signature = appended_signature(data, size)
    if isinstance(signature, str):
        return SignatureState.BAD, signature, ""
    if certificate is None:
        reason = "there is no certificate to check the signature against"
        return SignatureState.UNKNOWN_KEY, reason, ""
    from xsplice_plugins.sign.detached import check_detached  # noqa: PLC0415  # 0.06 s

    trusted = load_certificate(certificate)
    state, reason = check_detached(data[:size], signature, trusted)
    start, end = trusted.not_valid_before_utc, trusted.not_valid_after_utc
    if state is SignatureState.GOOD and not start <= at_time <= end:
        state = SignatureState.EXPIRED
        reason = f"the certificate is valid from {start:%Y-%m-%d} to {end:%Y-%m-%d} only"
    return state, reason, "" if state is SignatureState.BAD else trusted.subject.rfc4514_string()
