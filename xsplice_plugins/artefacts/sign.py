# SPDX-License-Identifier: Apache-2.0
"""Who signed a payload, and whether that is good."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from xsplice_plugins.artefacts.files import SCHEMA

#: Where a build folder keeps its development key, with its certificate, and that alone.
DEVELOPMENT_KEY, DEVELOPMENT_CERTIFICATE = "keys/development.key.pem", "keys/development.crt.pem"


class SignatureRecord(Struct, frozen=True, kw_only=True):
    """Who signed a payload and how. Sidecar of the signed file."""

    schema: int = SCHEMA
    signer: str  #: name of the plugin
    scheme: str  #: e.g. "cms-appended", "none"
    is_deterministic: bool
    is_development_key: bool = False
    subject: str = ""  #: the certificate's subject
    certificate_sha256: str = ""
    digest_payload: str  #: sha256 of what was signed
    digest_signed: str  #: sha256 of the written file
    note: str = ""


class SignedPayload(Struct, frozen=True, kw_only=True):
    """The file to be shipped and what is known of its signature."""

    data: bytes
    record: SignatureRecord


class SignatureState(StrEnum):
    """What a check of a signature came to."""

    GOOD = "good"
    UNSIGNED = "unsigned"
    BAD = "bad"
    UNKNOWN_KEY = "key not trusted"
    EXPIRED = "certificate not valid at this time"


class SignatureCheck(Struct, frozen=True, kw_only=True):
    """The answer to "may this file be loaded"."""

    state: SignatureState
    reason: str
    payload_size_bytes: int  #: length of the ELF part in front of the signature
    subject: str = ""
