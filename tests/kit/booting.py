# SPDX-License-Identifier: Apache-2.0
"""What boots, made of a linked image as Xen's builds make it."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from xsplice_plugins.elf.reader import read_elf

if TYPE_CHECKING:
    from pathlib import Path

OFFSET = 0x80  #: of what is loaded, in a file for x86


def x86_boot(image: Path, *, entry: int | None = None, phys: int | None = None) -> bytes:
    """Put a 32-bit header before the one segment that an image loads."""
    data = image.read_bytes()
    elf = read_elf(data, "image")
    kind, _, offset, _, own, size, memory, _ = struct.unpack_from("<IIQQQQQQ", data, elf.phoff)
    assert kind == 1
    phys = own & 0xFFFFFFFF if phys is None else phys
    entry = phys if entry is None else entry
    head = b"\x7fELF\x01\x01\x01".ljust(16, b"\0")
    head += struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, entry, 52, 0, 0, 52, 32, 1, 40, 0, 0)
    head += struct.pack("<IIIIIIII", 1, OFFSET, phys, phys, size, memory, 7, 64)
    return head.ljust(OFFSET, b"\0") + data[offset : offset + size]
