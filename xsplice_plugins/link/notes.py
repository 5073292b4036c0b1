# SPDX-License-Identifier: Apache-2.0
"""ELF notes that carry build-ids, and the payload's own identity.

Source: livepatch specification 2.4; System V gABI chapter 5, "Note Section".
"""

from __future__ import annotations

import hashlib
import struct

from xsplice_plugins.errors import LinkError

_HEADER = struct.Struct("<III")
_OWNER = b"GNU\0"
NT_GNU_BUILD_ID = 3
BUILD_ID_SIZE_BYTES = 20  #: as SHA-1 has it; tools and the hypervisor's messages expect that


def write_note(build_id: bytes) -> bytes:
    """Return a GNU build-id note."""
    padding = bytes(-len(build_id) % 4)
    return _HEADER.pack(len(_OWNER), len(build_id), NT_GNU_BUILD_ID) + _OWNER + build_id + padding


def read_note(data: bytes, name: str) -> bytes:
    """Return the build-id that a note holds.

    Args:
        data: Content of the note's section.
        name: How messages shall call it.

    Raises:
        LinkError: Not a GNU build-id note, or an empty one.
    """
    if len(data) >= _HEADER.size:
        name_size, size, kind = _HEADER.unpack_from(data)
        start = _HEADER.size + (name_size + 3 & ~3)
        owner = data[_HEADER.size : _HEADER.size + name_size]
        build_id = data[start : start + size]
        if kind == NT_GNU_BUILD_ID and owner == _OWNER and size and len(build_id) == size:
            return build_id
    raise LinkError(f"{name}: not a GNU build-id note; build the file again with --build-id=sha1")


def derive_build_id(data: bytes) -> bytes:
    """Return the identity of a payload: a hash of its bytes with the id's place zeroed."""
    return hashlib.sha256(data).digest()[:BUILD_ID_SIZE_BYTES]
