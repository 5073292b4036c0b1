# SPDX-License-Identifier: Apache-2.0
"""Check the signature of a payload, without running any program.

What a machine that uploads payloads does before it hands one to the hypervisor: the file is good
only if every step says so, and anything unknown is bad.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from xsplice_plugins.artefacts import SignatureCheck, SignatureState
from xsplice_plugins.errors import ElfFormatError
from xsplice_plugins.sign.appended import MARKER, payload_size_bytes, split_appended
from xsplice_plugins.sign.keys import load_certificate

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.x509 import Certificate

SIGNATURE_SIZE_BYTES_MAX = 1 << 20  #: of the CMS structure; ours take less than 1 KiB
DER_NULL = b"\x05\x00"
HASHES = ("sha256", "sha384", "sha512")
RSA_ALGORITHMS = frozenset({"rsassa_pkcs1v15"} | {f"{name}_rsa" for name in HASHES})


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
    trusted = load_certificate(certificate)
    state, reason = check_detached(parts.payload, parts.signature, trusted)
    if state is SignatureState.GOOD:
        state, reason = _check_time(trusted, at_time or datetime.now(UTC))
    subject = "" if state is SignatureState.BAD else trusted.subject.rfc4514_string()
    return _answer(state, reason, size, subject)


def check_detached(
    payload: bytes, signature: bytes, trusted: Certificate
) -> tuple[SignatureState, str]:
    """Check a detached CMS signature against one certificate, times aside.

    Args:
        payload: What was signed.
        signature: DER of the CMS structure, nothing before or behind it.
        trusted: The signer's certificate.

    Returns:
        The state and one sentence.
    """
    from asn1crypto import cms  # noqa: PLC0415  # 0.03 s, only checking needs it

    if len(signature) > SIGNATURE_SIZE_BYTES_MAX:
        return SignatureState.BAD, f"a signature of {len(signature)} bytes is too large"
    try:
        content = cms.ContentInfo.load(signature, strict=True)
        if content["content_type"].native != "signed_data":
            return SignatureState.BAD, "the CMS structure is no signature"
        signed = content["content"]
        fault = _fault_of(signed)
        if fault:
            return SignatureState.BAD, fault
        return _check_signer(signed["signer_infos"][0], payload, trusted)
    # asn1crypto parses on access and raises what its decoding of foreign bytes runs into.
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, AttributeError) as error:
        return SignatureState.BAD, f"the CMS structure cannot be read ({type(error).__name__})"


def _fault_of(signed: Any) -> str:
    """Return why a SignedData is not of the one form that is accepted, or an empty text.

    Nothing signs these fields, so they are held to the values that RFC 5652 section 5.1 gives for
    our kind of signature: what is not checked could be changed unseen.
    """
    if signed["encap_content_info"]["content"].native is not None:
        return "the signature brings content of its own, it must not"
    if signed["encap_content_info"]["content_type"].native != "data":
        return "the signature is over another type of content"
    if len(signed["signer_infos"]) != 1:
        return "the signature must have exactly one signer"
    signer = signed["signer_infos"][0]
    by_key_identifier = signer["sid"].name == "subject_key_identifier"
    version = "v3" if by_key_identifier else "v1"
    if signed["version"].native != version or signer["version"].native != version:
        return f"the signature's version numbers are not {version}"
    listed = [algorithm["algorithm"].native for algorithm in signed["digest_algorithms"]]
    if listed != [signer["digest_algorithm"]["algorithm"].native]:
        return "the hash announced is not the one used"
    algorithms = [*signed["digest_algorithms"], signer["digest_algorithm"]]
    algorithms.append(signer["signature_algorithm"])
    if any(algorithm["parameters"].dump() not in (b"", DER_NULL) for algorithm in algorithms):
        return "the algorithms have parameters, they must not"
    if signer["unsigned_attrs"].native is not None:
        return "there are attributes that nothing signs"
    return ""


def _check_signer(signer: Any, payload: bytes, trusted: Certificate) -> tuple[SignatureState, str]:
    """Check one SignerInfo (RFC 5652 section 5.4: what is hashed with and without attributes)."""
    if not _names(signer["sid"], trusted):
        return (
            SignatureState.UNKNOWN_KEY,
            "the signature was made with another certificate than the trusted one",
        )
    hash_name = signer["digest_algorithm"]["algorithm"].native
    if hash_name not in HASHES:
        return SignatureState.BAD, f"the hash {hash_name} is not accepted"
    signed_bytes = payload
    attributes = signer["signed_attrs"]
    if attributes.native is not None:
        values = {attribute["type"].native: attribute["values"] for attribute in attributes}
        digest = hashlib.new(hash_name, payload).digest()
        if len(values) != len(attributes) or not {"content_type", "message_digest"} <= set(values):
            return SignatureState.BAD, "the signed attributes are not complete"
        if values["content_type"].native != ["data"]:
            return SignatureState.BAD, "the signed attributes speak of another type of content"
        stated = values["message_digest"].native
        if len(stated) != 1 or not hmac.compare_digest(stated[0], digest):
            return SignatureState.BAD, "the payload was changed after it was signed"
        signed_bytes = attributes.untag().dump()
    algorithm = signer["signature_algorithm"]["algorithm"].native
    if _verifies(trusted, signer["signature"].native, signed_bytes, hash_name, algorithm):
        return SignatureState.GOOD, "signed with the trusted certificate"
    return (
        SignatureState.BAD,
        "the payload or its signature was changed, or another key made the signature",
    )


def _names(identifier: Any, trusted: Certificate) -> bool:
    """Tell whether a SignerIdentifier means this certificate."""
    from cryptography import x509  # noqa: PLC0415  # 0.1 s, only checking needs it

    if identifier.name == "subject_key_identifier":
        try:
            own = trusted.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        except x509.ExtensionNotFound:
            return False
        return bool(identifier.native == own)
    return bool(
        identifier.chosen["issuer"].dump() == trusted.issuer.public_bytes()
        and identifier.chosen["serial_number"].native == trusted.serial_number
    )


def _verifies(
    trusted: Certificate, signature: bytes, signed: bytes, hash_name: str, algorithm: str
) -> bool:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa  # noqa: PLC0415

    methods: dict[str, hashes.HashAlgorithm] = {
        "sha256": hashes.SHA256(),
        "sha384": hashes.SHA384(),
        "sha512": hashes.SHA512(),
    }
    method = methods[hash_name]
    key = trusted.public_key()
    try:
        if isinstance(key, rsa.RSAPublicKey) and algorithm in RSA_ALGORITHMS:
            if algorithm not in ("rsassa_pkcs1v15", f"{hash_name}_rsa"):
                return False
            key.verify(signature, signed, padding.PKCS1v15(), method)
            return True
        if isinstance(key, ec.EllipticCurvePublicKey) and algorithm == f"{hash_name}_ecdsa":
            key.verify(signature, signed, ec.ECDSA(method))
            return True
    except InvalidSignature:
        return False
    return False


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
