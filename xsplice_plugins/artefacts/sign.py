# SPDX-License-Identifier: Apache-2.0
"""Who signed a payload, and whether that is good."""

from __future__ import annotations

import base64
import binascii
import hashlib
from enum import StrEnum
from typing import TYPE_CHECKING

from msgspec import Struct

from xsplice_plugins.artefacts.files import SCHEMA, read_file
from xsplice_plugins.errors import SignError

if TYPE_CHECKING:
    from pathlib import Path

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

    def is_still_of(self, build_dir: Path) -> bool:
        """Tell whether a build folder's development pair is the one that signed.

        Args:
            build_dir: Asked only if that was a development key.

        Raises:
            SignError: A file of the pair cannot be read.
        """
        if not self.is_development_key:
            return True
        pair = (build_dir / DEVELOPMENT_KEY, build_dir / DEVELOPMENT_CERTIFICATE)
        return all(_fingerprint(path) == self.certificate_sha256 for path in pair)


def _fingerprint(path: Path) -> str:
    """Return the sha256 of the certificate in a PEM file; empty if there is none."""
    text = read_file(path, error=SignError, advice="make it readable, or give KEY= and CERT=")
    _, _, rest = text.partition(b"-----BEGIN CERTIFICATE-----")
    try:
        der = base64.b64decode(rest.partition(b"-----END")[0])
    except binascii.Error:
        return ""
    return hashlib.sha256(der).hexdigest() if der else ""


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
