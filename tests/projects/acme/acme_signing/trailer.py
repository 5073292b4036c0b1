# SPDX-License-Identifier: Apache-2.0
"""ACME's trailer: payload, signature, key id, sizes, marker."""

from __future__ import annotations

import struct
from dataclasses import dataclass

MARKER = b"ACME live patch 1\n"
FIELDS = struct.Struct(">II")  #: key id, size of the signature in bytes
SIGNATURE_SIZE_BYTES_MAX = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Trailer:
    """What follows a payload."""

    key_id: int
    signature: bytes


def pack(trailer: Trailer) -> bytes:
    """Return the bytes to append."""
    fields = FIELDS.pack(trailer.key_id, len(trailer.signature))
    return trailer.signature + fields + MARKER


def unpack(tail: bytes) -> Trailer | None:
    """Read all that follows a payload; ``None`` unless it is exactly one trailer."""
    fixed_bytes = FIELDS.size + len(MARKER)
    if len(tail) < fixed_bytes or not tail.endswith(MARKER):
        return None
    key_id, size = FIELDS.unpack_from(tail, len(tail) - fixed_bytes)
    if size > SIGNATURE_SIZE_BYTES_MAX or size != len(tail) - fixed_bytes:
        return None
    return Trailer(key_id=key_id, signature=tail[:size])
