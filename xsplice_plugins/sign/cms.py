# SPDX-License-Identifier: Apache-2.0
"""Make the CMS signature of a payload.

Detached, binary, without signed attributes and without certificates, as Linux signs its modules:
the signature is over the payload's bytes, nothing in it depends on the time.

Source: RFC 5652 section 5; Linux ``scripts/sign-file.c`` (CMS_NOCERTS, CMS_BINARY, CMS_NOATTR).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from xsplice_plugins.artefacts import SignatureRecord, SignedPayload
from xsplice_plugins.sign.appended import append_signature, require_unsigned
from xsplice_plugins.sign.keys import DEVELOPMENT_NOTE, Identity, require_usable

if TYPE_CHECKING:
    from datetime import datetime

    from cryptography.hazmat.primitives import hashes

SCHEME = "cms-appended"


def sign_detached(data: bytes, identity: Identity) -> bytes:
    """Return the DER of a detached CMS signature over ``data``."""
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415  # 0.1 s
    from cryptography.hazmat.primitives.serialization.pkcs7 import (  # noqa: PLC0415
        PKCS7Options,
        PKCS7SignatureBuilder,
    )

    builder = PKCS7SignatureBuilder().set_data(data)
    builder = builder.add_signer(identity.certificate, identity.key, _hash_for(identity))
    options = [
        PKCS7Options.DetachedSignature,
        PKCS7Options.Binary,
        PKCS7Options.NoAttributes,
        PKCS7Options.NoCerts,
    ]
    return builder.sign(Encoding.DER, options)


def sign_payload(data: bytes, identity: Identity, *, name: str, at_time: datetime) -> SignedPayload:
    """Append a CMS signature to a payload.

    Args:
        data: The unsigned payload.
        identity: Who signs.
        name: How messages shall call the payload.
        at_time: Now, with its time zone; the certificate must be valid.

    Returns:
        The signed file with its record.

    Raises:
        SignError: Not an unsigned payload, or the certificate must not sign now.
    """
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415  # 0.1 s
    from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: PLC0415

    require_unsigned(data, name)
    require_usable(identity, at_time)
    signed = append_signature(data, sign_detached(data, identity))
    record = SignatureRecord(
        signer="cms",
        scheme=SCHEME,
        # PKCS #1 v1.5 has no random part, ECDSA draws a new number for each signature.
        is_deterministic=isinstance(identity.key, rsa.RSAPrivateKey),
        is_development_key=identity.is_development,
        subject=identity.certificate.subject.rfc4514_string(),
        certificate_sha256=identity.certificate.fingerprint(hashes.SHA256()).hex(),
        digest_payload=hashlib.sha256(data).hexdigest(),
        digest_signed=hashlib.sha256(signed).hexdigest(),
        note=DEVELOPMENT_NOTE if identity.is_development else "",
    )
    return SignedPayload(data=signed, record=record)


def _hash_for(
    identity: Identity,
) -> hashes.SHA256 | hashes.SHA384 | hashes.SHA512:
    """Return the hash that is as strong as the key (FIPS 186-5 section 6.1.1 for curves)."""
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415  # 0.1 s
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    if isinstance(identity.key, ec.EllipticCurvePrivateKey):
        if identity.key.curve.key_size > 384:
            return hashes.SHA512()
        if identity.key.curve.key_size > 256:
            return hashes.SHA384()
    return hashes.SHA256()
