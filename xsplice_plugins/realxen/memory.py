# SPDX-License-Identifier: Apache-2.0
"""A stopped machine's memory: physical bytes, and where virtual addresses lead.

The page tables are walked here, so that whoever reads needs nothing but physical bytes: of a file
that was saved once, or of QEMU's monitor while the machine stands still.

Source: AMD64 Architecture Programmer's Manual, volume 2, section 5.3.
"""

from __future__ import annotations

import json
import mmap
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from xsplice_plugins.errors import VerifyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from xsplice_plugins.realxen.session import Session

PAGE_BYTES = 4096
#: How much physical memory is asked for at once.
CHUNK_BYTES = 16 << 20
_WORD_BYTES = 8
_PRESENT, _WRITABLE, _LARGE, _NO_EXEC = 1, 2, 1 << 7, 1 << 63
_ADDRESS = (1 << 52) - PAGE_BYTES
#: Lowest bit of the index into each table, from the root on.
_SHIFTS = (39, 30, 21, 12)
_ENTRIES = 512


class Mapping(NamedTuple):
    """Where one page of virtual memory lies."""

    virt: int  #: of the page, 4 KiB, also inside large ones
    phys: int
    is_writable: bool
    is_executable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a stopped machine holds."""

    #: gives so many bytes at a physical address; fewer, or none, where there is no memory
    physical: Callable[[int, int], bytes]
    size_bytes: int  #: of physical memory, from 0 on
    root: int  #: physical address of the topmost page table
    #: gives 1 for each byte of a page, by its physical address, that changes; None where none does
    unsteady: Callable[[int], bytes | None] = lambda _: None
    _tables: dict[int, bytes] = field(default_factory=dict, repr=False, compare=False)

    def find(self, virt: int) -> Mapping | None:
        """Give the page that a virtual address leads to; ``None`` where nothing is mapped."""
        virt &= (1 << 64) - 1
        if virt >> 47 not in {0, (1 << 17) - 1}:
            return None
        table, flags = self.root & _ADDRESS, _WRITABLE
        is_executable = True
        for shift in _SHIFTS:
            entry = self._entry(table, virt >> shift & _ENTRIES - 1)
            if not entry & _PRESENT:
                return None
            flags &= entry
            is_executable &= not entry & _NO_EXEC
            table = entry & _ADDRESS
            if shift == _SHIFTS[-1] or (shift < _SHIFTS[0] and entry & _LARGE):
                inside = (1 << shift) - 1
                return Mapping(
                    virt=virt & -PAGE_BYTES,
                    phys=table & ~inside | virt & inside & -PAGE_BYTES,
                    is_writable=bool(flags & _WRITABLE),
                    is_executable=is_executable,
                )
        return None

    def mapped(self, start: int, end: int) -> Iterator[Mapping]:
        """Give the pages that are mapped within [start, end), in order."""
        virt = start & -PAGE_BYTES
        while virt < end:
            step = self._hole(virt)
            if step:
                virt = (virt & -step) + step
                continue
            found = self.find(virt)
            if found is not None:
                yield found
            virt += PAGE_BYTES

    def read(self, virt: int, size_bytes: int) -> bytes:
        """Read virtual memory; the answer ends early where nothing is mapped."""
        out = bytearray()
        while len(out) < size_bytes:
            at = virt + len(out)
            page = self.find(at)
            if page is None:
                break
            offset = at - page.virt
            size = min(size_bytes - len(out), self._stretch(page, offset + size_bytes) - offset)
            part = self.physical(page.phys + offset, size)
            out += part
            if len(part) < size:
                break
        return bytes(out)

    def _stretch(self, page: Mapping, size_bytes: int) -> int:
        """Give how far physical memory goes on as virtual memory does, in one piece to read."""
        size = PAGE_BYTES
        while size < min(size_bytes, CHUNK_BYTES):
            more = self.find(page.virt + size)
            if more is None or more.phys != page.phys + size:
                break
            size += PAGE_BYTES
        return size

    def number(self, virt: int) -> int | None:
        """Read an 8-byte value; ``None`` where nothing is mapped."""
        data = self.read(virt, 8)
        return int.from_bytes(data, "little") if len(data) == 8 else None

    def _entry(self, table: int, index: int) -> int:
        if table not in self._tables:
            self._tables[table] = self.physical(table, PAGE_BYTES)
        return int.from_bytes(self._tables[table][8 * index : 8 * index + 8], "little")

    def _hole(self, virt: int) -> int:
        """Give how much around an address a single empty entry leaves out; 0 for a page table."""
        table = self.root & _ADDRESS
        for shift in _SHIFTS[:-1]:
            entry = self._entry(table, virt >> shift & _ENTRIES - 1)
            if not entry & _PRESENT:
                return 1 << shift
            if shift < _SHIFTS[0] and entry & _LARGE:
                return 0
            table = entry & _ADDRESS
        return 0


def facts_of(path: Path) -> Path:
    """Give the small file beside one with memory; it is written last, and says that both are."""
    return path.with_name(path.name + ".json")


def write_saved(memory: Memory, path: Path) -> None:
    """Keep a machine's memory as a file with holes where it holds zeros.

    Args:
        memory: What is read once, from its start to its end.
        path: The file; beside it, with the suffix ``.json``, the page tables' root is kept.
    """
    zeros = bytes(PAGE_BYTES)
    pages = ((start, page) for start, page in _pages(memory) if page != zeros)
    _write_pages(path, pages, memory.size_bytes)
    facts_of(path).write_text(json.dumps({"root": memory.root}) + "\n")


class Changes:
    """Which words of a machine's memory change from moment to moment."""

    def __init__(self, before: Memory) -> None:
        """Begin with the memory as it was saved."""
        self._before = before
        self._masks: dict[int, bytearray] = {}

    def see(self, memory: Memory) -> None:
        """Note what differs in the same machine at another moment."""
        for start, page in _pages(memory):
            old = self._before.physical(start, PAGE_BYTES)
            if page == old:
                continue
            mask = self._masks.setdefault(start, bytearray(PAGE_BYTES))
            for at in range(0, PAGE_BYTES, _WORD_BYTES):
                if page[at : at + _WORD_BYTES] != old[at : at + _WORD_BYTES]:
                    mask[at : at + _WORD_BYTES] = b"\1" * _WORD_BYTES

    def write(self, path: Path) -> None:
        """Keep it: a file of 1 for each byte that changes; ``.json`` beside it lists its pages."""
        masks = ((start, bytes(mask)) for start, mask in sorted(self._masks.items()))
        _write_pages(path, masks, self._before.size_bytes)
        facts_of(path).write_text(json.dumps(sorted(self._masks)) + "\n")


def _pages(memory: Memory) -> Iterator[tuple[int, bytes]]:
    for start in range(0, memory.size_bytes, CHUNK_BYTES):
        chunk = memory.physical(start, min(CHUNK_BYTES, memory.size_bytes - start))
        for offset in range(0, len(chunk), PAGE_BYTES):
            yield start + offset, chunk[offset : offset + PAGE_BYTES]


def _write_pages(path: Path, pages: Iterable[tuple[int, bytes]], size_bytes: int) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as sink:
        for start, page in pages:
            os.pwrite(sink.fileno(), page, start)
        sink.truncate(size_bytes)
    partial.replace(path)


def memory_of(session: Session, number: int, size_bytes: int) -> Memory:
    """Read a running QEMU's memory, which must stand still meanwhile.

    Args:
        session: The QEMU, stopped.
        number: Descriptor of an empty file that QEMU was given too: what it hands memory over in.
        size_bytes: Of physical memory.

    Raises:
        VerifyError: QEMU does not tell where the page tables are.

    Source: QEMU, qapi/machine.json (pmemsave).
    """
    words = session.control("human-monitor-command", **{"command-line": "info registers"})
    match = re.search(r"\bCR3=([0-9a-f]{8,16})\b", str(words))
    if match is None:
        raise VerifyError("QEMU: `info registers` names no CR3; memory cannot be read")

    def physical(start: int, size: int) -> bytes:
        size = min(size, size_bytes - start)
        if start < 0 or size <= 0:
            return b""
        session.control("pmemsave", val=start, size=size, filename=f"/proc/self/fd/{number}")
        return os.pread(number, size, 0)

    return Memory(physical=physical, size_bytes=size_bytes, root=int(match[1], 16))


def open_saved(path: Path, changes: Path | None = None) -> Memory:
    """Open what :func:`write_saved` kept; pages are read when they are asked for.

    Args:
        path: Its file.
        changes: The file of :class:`Changes`, if there is one.

    Raises:
        VerifyError: It cannot be read.
    """
    try:
        root = int(json.loads(facts_of(path).read_text())["root"])
        data = _mapped_file(path)
        masks, pages = data, frozenset[int]()
        if changes is not None:
            masks, pages = (
                _mapped_file(changes),
                frozenset(json.loads(facts_of(changes).read_text())),
            )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VerifyError(f"{path}: cannot be read ({error}); remove its folder") from error
    return Memory(
        physical=lambda start, size: data[start : start + size],
        size_bytes=len(data),
        root=root,
        unsteady=lambda start: masks[start : start + PAGE_BYTES] if start in pages else None,
    )


def _mapped_file(path: Path) -> mmap.mmap:
    with path.open("rb") as handle:
        return mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
