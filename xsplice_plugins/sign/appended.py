# SPDX-License-Identifier: Apache-2.0
"""Where a payload ends and what is appended to it.

The layout is that of Linux' module signatures: payload, signature, ``struct module_signature``
of 12 bytes, a marker. Xen itself checks no signature (up to 4.20) and ignores what follows the
ELF content, so a signed file loads as it is; whoever uploads it can check it first.

Source: Linux ``include/linux/module_signature.h`` and ``scripts/sign-file.c`` (v6.6).
"""

from __future__ import annotations

import hashlib
import struct

from xsplice_plugins.artefacts import PayloadRecord
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.types import SHDR_SIZE_BYTES, SHT_NOBITS, SHT_NULL
from xsplice_plugins.errors import ElfFormatError, SignError

MARKER = b"~Module signature appended~\n"
ID_TYPE_PKCS7 = 2
#: algo, hash, id_type, signer_len, key_id_len, three bytes of padding, sig_len (big endian).
MODULE_SIGNATURE = struct.Struct(">5B3xI")
TRAILER_SIZE_BYTES = MODULE_SIGNATURE.size + len(MARKER)

_PHDR_SIZE_BYTES = 56


def payload_size_bytes(data: bytes, name: str) -> int:
    """Return how many of the file's first bytes are the ELF payload itself.

    Raises:
        ElfFormatError: Not an ELF payload, or cut short.
    """
    file = read_elf(data, name)
    (shoff,) = struct.unpack_from("<Q", data, 40)  # e_shoff
    ends = [
        section.offset_file + section.size_bytes
        for section in file.sections
        if section.type not in (SHT_NULL, SHT_NOBITS)
    ]
    ends.append(shoff + len(file.sections) * SHDR_SIZE_BYTES)
    ends.append(file.phoff + file.phnum * _PHDR_SIZE_BYTES)
    return max(ends)


def require_unsigned(data: bytes, name: str) -> None:
    """Refuse anything but one bare payload.

    Raises:
        SignError: It is signed already, followed by other bytes, or no payload at all.
    """
    if data.endswith(MARKER):
        raise SignError(f"{name}: is signed already; sign the payload that the link stage wrote")
    try:
        size = payload_size_bytes(data, name)
    except ElfFormatError as error:
        raise SignError(f"{name}: is not a payload and is not signed ({error})") from error
    if size != len(data):
        raise SignError(
            f"{name}: {len(data) - size} bytes follow the payload's end, perhaps the signature of "
            "another signer; sign the payload that the link stage wrote"
        )


def require_payload(data: bytes, record: PayloadRecord) -> None:
    """Refuse anything but the one bare payload that a record speaks of.

    For every signer's first line, vendors' too.

    Raises:
        SignError: Signed already, no payload, or not the record's.
    """
    require_unsigned(data, record.name)
    digest = hashlib.sha256(data).hexdigest()
    if digest != record.digest:
        raise SignError(
            f"{record.name}: the payload has the digest {digest[:16]}, its record says "
            f"{record.digest[:16]}; link it again"
        )


def append_signature(payload: bytes, signature: bytes) -> bytes:
    """Return payload, signature, header and marker as one file."""
    header = MODULE_SIGNATURE.pack(0, 0, ID_TYPE_PKCS7, 0, 0, len(signature))
    return payload + signature + header + MARKER


def appended_signature(data: bytes, payload_bytes: int) -> bytes | str:
    """Return the signature that follows a payload.

    Args:
        data: The whole file.
        payload_bytes: Where the ELF payload ends, before the file's end.

    Returns:
        The signature, or one sentence that says why what follows is none.
    """
    if not data.endswith(MARKER):
        return (
            f"{len(data) - payload_bytes} bytes follow the payload but no complete signature; "
            "the file was cut short or damaged"
        )
    at = len(data) - TRAILER_SIZE_BYTES
    if at < payload_bytes:
        return "the signature's header overlaps the payload"
    algo, hash_, id_type, signer, key_id, size = MODULE_SIGNATURE.unpack_from(data, at)
    if id_type != ID_TYPE_PKCS7:
        return f"the signature is of type {id_type}, not CMS ({ID_TYPE_PKCS7})"
    if algo or hash_ or signer or key_id or any(data[at + 5 : at + 8]):
        return "fields of the signature's header that must be zero are not"
    if at - size != payload_bytes:
        return (
            f"the signature's header speaks of {size} bytes, {at - payload_bytes} are there; "
            "the file was cut short or added to"
        )
    return data[payload_bytes:at]
