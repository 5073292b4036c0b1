# SPDX-License-Identifier: Apache-2.0
"""The memory of a machine that stands still, made in code: pages, and the tables that map them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.realxen.memory import PAGE_BYTES, Memory

if TYPE_CHECKING:
    from collections.abc import Mapping

PRESENT, WRITABLE, LARGE, NO_EXEC = 1, 2, 1 << 7, 1 << 63
#: Where the kit puts the root of the page tables, and the tables below it after that.
ROOT = 0x1000


class HostMemory:
    """Physical memory that grows as it is written."""

    def __init__(self, size_bytes: int = 4 << 20) -> None:
        self.data = bytearray(size_bytes)
        self._next = ROOT + PAGE_BYTES

    def put(self, phys: int, content: bytes) -> None:
        """Write physical memory."""
        self.data[phys : phys + len(content)] = content

    def map(self, virt: int, phys: int, *, flags: int = PRESENT | WRITABLE | NO_EXEC) -> None:
        """Map one page; with ``LARGE`` in its flags, one of 2 MiB."""
        table = ROOT
        for shift in (39, 30, 21, 12):
            place = table + 8 * (virt >> shift & 511)
            if shift == 12 or (shift == 21 and flags & LARGE):
                self._write(place, phys | flags)
                return
            entry = int.from_bytes(self.data[place : place + 8], "little")
            if not entry:
                entry = self._next | PRESENT | WRITABLE
                self._next += PAGE_BYTES
                self._write(place, entry)
            table = entry & (1 << 51) - PAGE_BYTES

    def _write(self, place: int, value: int) -> None:
        self.put(place, (value & (1 << 64) - 1).to_bytes(8, "little"))

    def memory(self, unsteady: Mapping[int, bytes] | None = None) -> Memory:
        """Give it as it is read; ``unsteady`` has the masks of pages that change."""
        masks = dict(unsteady or {})
        return Memory(
            physical=lambda start, size: bytes(self.data[start : start + size]),
            size_bytes=len(self.data),
            root=ROOT,
            unsteady=masks.get,
        )
