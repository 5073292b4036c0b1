# SPDX-License-Identifier: Apache-2.0
"""Who signed a payload, and whether that is good."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from xsplice_plugins.artefacts.files import SCHEMA

#: Where a build folder keeps its development key, with its certificate, and that alone.
DEVELOPMENT_KEY, DEVELOPMENT_CERTIFICATE = "keys/development.key.pem", "keys/development.crt.pem"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureRecord:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedPayload:
    """The file to be shipped and what is known of its signature."""

    data: bytes = field(repr=False)
    record: SignatureRecord


class SignatureState(StrEnum):
    """What a check of a signature came to."""

    GOOD = "good"
    UNSIGNED = "unsigned"
    BAD = "bad"
    UNKNOWN_KEY = "key not trusted"
    EXPIRED = "certificate not valid at this time"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureCheck:
    """The answer to "may this file be loaded"."""

    state: SignatureState
    reason: str
    payload_size_bytes: int  #: length of the ELF part in front of the signature
    subject: str = ""
