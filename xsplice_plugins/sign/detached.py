# SPDX-License-Identifier: Apache-2.0
"""Check a detached CMS signature, of the one form that is accepted.

The structures are declarations for the decoder. Optional fields that are not declared (revocation
lists, attributes that nothing signs) make it refuse. `cryptography` takes 0.05 s to import: only
functions import this module.

Source: RFC 5652, sections 3, 5.1, 5.3 and 11; the object identifiers: RFC 3370, RFC 5754, RFC 5758.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509 import Certificate, ObjectIdentifier
from cryptography.x509 import SignatureAlgorithmOID as Signature

from xsplice_plugins.artefacts import SignatureState

SIGNATURE_SIZE_BYTES_MAX = 1 << 20  #: of the CMS structure; ours take less than 1 KiB

DATA = ObjectIdentifier("1.2.840.113549.1.7.1")
SIGNED_DATA = ObjectIdentifier("1.2.840.113549.1.7.2")
CONTENT_TYPE = ObjectIdentifier("1.2.840.113549.1.9.3")
MESSAGE_DIGEST = ObjectIdentifier("1.2.840.113549.1.9.4")
RSA = ObjectIdentifier("1.2.840.113549.1.1.1")  #: PKCS #1 v1.5 with the digest algorithm's hash

#: The hashes that are accepted, each with the names of its signatures by RSA and by a curve.
HASHES = {
    ObjectIdentifier(f"2.16.840.1.101.3.4.2.{number}"): row
    for number, row in enumerate(
        (
            (hashes.SHA256(), Signature.RSA_WITH_SHA256, Signature.ECDSA_WITH_SHA256),
            (hashes.SHA384(), Signature.RSA_WITH_SHA384, Signature.ECDSA_WITH_SHA384),
            (hashes.SHA512(), Signature.RSA_WITH_SHA512, Signature.ECDSA_WITH_SHA512),
        ),
        start=1,
    )
}


@asn1.sequence
class Algorithm:
    """An algorithm without parameters."""

    algorithm: ObjectIdentifier
    parameters: asn1.Null | None


@asn1.sequence
class IssuerAndSerial:
    """A certificate by its issuer's name and its number."""

    issuer: asn1.TLV
    serial_number: int


@asn1.sequence
class Attribute:
    """Something that is signed beside the content's digest."""

    type: ObjectIdentifier
    values: asn1.SetOf[asn1.TLV]


@asn1.sequence
class Signer:
    """SignerInfo: who signed, how, and the signature."""

    version: int
    identifier: IssuerAndSerial | Annotated[bytes, asn1.Implicit(0)]
    digest_algorithm: Algorithm
    signed_attributes: Annotated[asn1.SetOf[Attribute] | None, asn1.Implicit(0)]
    signature_algorithm: Algorithm
    signature: bytes


@asn1.sequence
class Content:
    """EncapsulatedContentInfo; the content itself is absent where the signature is detached."""

    type: ObjectIdentifier
    content: Annotated[bytes | None, asn1.Explicit(0)]


@asn1.sequence
class SignedData:
    """The signatures over one content."""

    version: int
    digest_algorithms: asn1.SetOf[Algorithm]
    content: Content
    certificates: Annotated[asn1.SetOf[asn1.TLV] | None, asn1.Implicit(0)]
    signers: asn1.SetOf[Signer]


@asn1.sequence
class Message:
    """ContentInfo: the outermost structure."""

    type: ObjectIdentifier
    content: Annotated[SignedData, asn1.Explicit(0)]


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
    if len(signature) > SIGNATURE_SIZE_BYTES_MAX:
        return SignatureState.BAD, f"a signature of {len(signature)} bytes is too large"
    try:
        message = asn1.decode_der(Message, signature)
        fault = _fault_of(message)
        if fault:
            return SignatureState.BAD, fault
        return _check_signer(message.content.signers.as_list()[0], payload, trusted)
    except ValueError as error:
        return SignatureState.BAD, f"the CMS structure is not of the accepted form ({error})"


def _fault_of(message: Message) -> str:
    """Return why a message is not of the one form that is accepted, or an empty text.

    Nothing signs these fields, so they are held to the values that RFC 5652 section 5.1 gives for
    our kind of signature: what is not checked could be changed unseen.
    """
    signed = message.content
    if message.type != SIGNED_DATA:
        return "the CMS structure is no signature"
    if signed.content.content is not None:
        return "the signature brings content of its own, it must not"
    if signed.content.type != DATA:
        return "the signature is over another type of content"
    signers = signed.signers.as_list()
    if len(signers) != 1:
        return "the signature must have exactly one signer"
    version = 3 if isinstance(signers[0].identifier, bytes) else 1
    if signed.version != version or signers[0].version != version:
        return f"the signature's version numbers are not {version}"
    listed = [algorithm.algorithm for algorithm in signed.digest_algorithms.as_list()]
    if listed != [signers[0].digest_algorithm.algorithm]:
        return "the hash announced is not the one used"
    return ""


def _check_signer(
    signer: Signer, payload: bytes, trusted: Certificate
) -> tuple[SignatureState, str]:
    """Check one SignerInfo (RFC 5652 section 5.4: what is hashed with and without attributes)."""
    if not _names(signer, trusted):
        return (
            SignatureState.UNKNOWN_KEY,
            "the signature was made with another certificate than the trusted one",
        )
    hash_oid = signer.digest_algorithm.algorithm
    if hash_oid not in HASHES:
        return SignatureState.BAD, f"the hash {hash_oid.dotted_string} is not accepted"
    signed_bytes = payload
    if signer.signed_attributes is not None:
        attributes = signer.signed_attributes.as_list()
        values = {attribute.type: attribute.values.as_list() for attribute in attributes}
        single = all(len(values.get(kind, ())) == 1 for kind in (CONTENT_TYPE, MESSAGE_DIGEST))
        if len(values) != len(attributes) or not single:
            return SignatureState.BAD, "the signed attributes are not complete"
        if values[CONTENT_TYPE][0].parse(ObjectIdentifier) != DATA:
            return SignatureState.BAD, "the signed attributes speak of another type of content"
        digest = hashlib.new(HASHES[hash_oid][0].name, payload).digest()
        if not hmac.compare_digest(values[MESSAGE_DIGEST][0].parse(bytes), digest):
            return SignatureState.BAD, "the payload was changed after it was signed"
        signed_bytes = asn1.encode_der(signer.signed_attributes)
    if _verifies(trusted, signer, signed_bytes):
        return SignatureState.GOOD, "signed with the trusted certificate"
    return (
        SignatureState.BAD,
        "the payload or its signature was changed, or another key made the signature",
    )


def _names(signer: Signer, trusted: Certificate) -> bool:
    """Tell whether a signer's identifier means this certificate."""
    identifier = signer.identifier
    if isinstance(identifier, bytes):
        try:
            own = trusted.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        except x509.ExtensionNotFound:
            return False
        return identifier == own
    return (
        asn1.encode_der(identifier.issuer) == trusted.issuer.public_bytes()
        and identifier.serial_number == trusted.serial_number
    )


def _verifies(trusted: Certificate, signer: Signer, signed: bytes) -> bool:
    method, with_rsa, with_curve = HASHES[signer.digest_algorithm.algorithm]
    algorithm = signer.signature_algorithm.algorithm
    key = trusted.public_key()
    try:
        if isinstance(key, rsa.RSAPublicKey) and algorithm in {RSA, with_rsa}:
            key.verify(signer.signature, signed, padding.PKCS1v15(), method)
            return True
        if isinstance(key, ec.EllipticCurvePublicKey) and algorithm == with_curve:
            key.verify(signer.signature, signed, ec.ECDSA(method))
            return True
    except InvalidSignature:
        return False
    return False
