# SPDX-License-Identifier: Apache-2.0
"""Addresses of an unloaded payload that a real Xen's memory still holds.

Searched is what Xen could follow: its own data and every page of its heap that is in use. What is
free holds remains of the upload and is left out: free pages, free blocks of the pool that small
allocations come from, and stacks, whose CPU is in no function of Xen's while the machine waits for
us in dom0. Pages of domains are left out as well: Xen follows no pointer of a guest's.

Source: xen/arch/x86/include/asm/mm.h (struct page_info), xen/common/xmalloc_tlsf.c (struct bhdr).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from itertools import groupby
from typing import TYPE_CHECKING

from msgspec import Struct

from xsplice_plugins.hypervisor.image.memory import Perm
from xsplice_plugins.hypervisor.proof.dangling import pointers
from xsplice_plugins.realxen.memory import PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from xsplice_plugins.hypervisor import BootedImage
    from xsplice_plugins.realxen.memory import Mapping, Memory

#: The same from 4.16 on, without CONFIG_BIGMEM; :meth:`_Frames.problem` sees where it is not.
_FRAME_TABLE = 0xFFFF82E000000000
_DIRECT_MAP = 0xFFFF830000000000
_FRAME_BYTES, _COUNT, _OWNER = 32, 8, 24
_STATE, _XEN_HEAP = 3 << 58, 1 << 62
_FREE_STATE = _STATE
_STACK_BYTES = 32 << 10
_HEADER_BYTES, _BLOCK_FREE, _BLOCK_FLAGS = 16, 1, 15
_HITS_MAX = 16
#: What Xen notes of an address, prints, and never follows.
_NOTED = frozenset({"arch/x86/traps.c#per_cpu__last_extable_addr"})
#: What Xen keeps of a call, and what tells that it is over and nobody follows that: no CPU is left
#: that has to do it; the machine's stop has come to its last state. Source:
#: xen/common/{smp,stop_machine}.c.
_OVER: dict[str, Callable[[bytes], bool]] = {
    "common/smp.c#call_data": lambda data: len(data) > 24 and not any(data[24:]),
    "common/stop_machine.c#stopmachine_data": lambda data: data[4:8] == b"\4\0\0\0",
}
#: A gap of so many frames is read along, since asking again takes longer.
_GAP_FRAMES = 64


class Held(Struct, frozen=True, kw_only=True):
    """An address that is still held."""

    where: str  #: symbol and offset, or a place in the heap
    value: int


class Search(Struct, frozen=True, kw_only=True):
    """What a search came to."""

    held: tuple[Held, ...] = ()
    base_virt: int = 0  #: where the payload began
    searched_bytes: int = 0
    problem: str = ""  #: why not all was searched; empty where all was


def payload_pages(memory: Memory, image: BootedImage) -> tuple[Mapping, ...]:
    """Give the pages that are mapped where payloads lie."""
    return tuple(memory.mapped(*image.arena))


def search(memory: Memory, image: BootedImage, pages: Sequence[Mapping]) -> Search:
    """Search a real Xen's memory for addresses of what was unloaded.

    Args:
        memory: The machine's, after the unload.
        image: Its hypervisor, for names.
        pages: From :func:`payload_pages` while the payload was loaded; those that are still mapped
            are other payloads'.
    """
    left = {page.virt: page for page in payload_pages(memory, image)}
    gone = [page for page in pages if page.virt not in left]
    if not gone:
        return Search(problem="no page of it was given back")
    own = {
        page.phys // PAGE_BYTES: page.virt
        for region in image.regions
        for page in memory.mapped(region.addr_virt, region.addr_virt + len(region.data))
    }
    data = {
        frame
        for frame, virt in own.items()
        if any(r.addr_virt <= virt < r.addr_virt + len(r.data) and Perm.WRITE in r.perm
               for r in image.regions)
    }  # fmt: skip
    others = {page.phys // PAGE_BYTES: page.virt for page in left.values()}
    frames = _Frames(memory)
    freed = {page.phys // PAGE_BYTES for page in gone}
    problem = frames.problem(freed, own)
    wanted = data if problem else data | frames.xens()
    wanted -= freed | _stacks(memory, image)
    held, count = [], 0
    spans = list(_spans(page.virt for page in gone))
    for start, content in _stretches(memory, wanted):
        count += len(content)
        for low, high in spans:
            for offset, value in pointers(content, low, high):
                frame, inside = divmod(start + offset, PAGE_BYTES)
                if frame not in wanted:
                    continue
                virt = own.get(frame, _DIRECT_MAP + frame * PAGE_BYTES)
                page = content[offset - inside : offset - inside + PAGE_BYTES]
                if frame in others:
                    where = f"another payload's memory at {others[frame] + inside:#x}"
                elif frame in own:
                    where = image.name_of(virt + inside) or f"{virt + inside:#x}"
                    if _is_over(where.partition("+0x")[0], memory, image):
                        continue
                elif _is_in_free_block(page, virt, inside):
                    continue
                else:
                    where = f"Xen's heap at {virt + inside:#x}"
                held.append(Held(where=where, value=value))
    return Search(
        held=tuple(held[:_HITS_MAX]),
        base_virt=min(page.virt for page in gone),
        searched_bytes=count,
        problem=problem,
    )


def _is_over(name: str, memory: Memory, image: BootedImage) -> bool:
    """Whether nobody follows what a variable of Xen's still holds."""
    symbol = image.symbols.get(name)
    if name not in _OVER or symbol is None:
        return name in _NOTED
    data = memory.read(symbol.addr_virt, symbol.size_bytes)
    return len(data) == symbol.size_bytes and _OVER[name](data)


class _Frames:
    """Xen's own table of what each page of memory is used for."""

    def __init__(self, memory: Memory) -> None:
        size = memory.size_bytes // PAGE_BYTES * _FRAME_BYTES
        table = memory.read(_FRAME_TABLE, size)
        words = array("Q", table[: len(table) // _FRAME_BYTES * _FRAME_BYTES])
        step = _FRAME_BYTES // 8
        self._states = words[_COUNT // 8 :: step]
        self._owners = [word & 0xFFFFFFFF for word in words[_OWNER // 8 :: step]]

    def is_free(self, frame: int) -> bool:
        return self._states[frame] & _STATE == _FREE_STATE

    def problem(self, freed: Iterable[int], own: Iterable[int]) -> str:
        """See that the table is where and as we take it to be, by pages whose state is known."""
        count = len(self._states)
        is_fitting = (
            any(frame < count and self.is_free(frame) for frame in freed)
            and all(frame < count and not self.is_free(frame) for frame in own)
            and self._has_large_domain()
        )
        return "" if is_fitting else "Xen's table of pages is not as known, its heap was left out"

    def _has_large_domain(self) -> bool:
        """Whether a single domain has most of the memory, as dom0 has here."""
        owners = self._owners[::16]
        most = max(set(owners), key=owners.count, default=0)
        return bool(most) and owners.count(most) * 2 > len(owners)

    def xens(self) -> set[int]:
        """Give the pages in use that are no domain's memory."""
        return {
            frame
            for frame, (state, owner) in enumerate(zip(self._states, self._owners, strict=True))
            if state & _STATE != _FREE_STATE and (state & _XEN_HEAP or not owner)
        }


def _stacks(memory: Memory, image: BootedImage) -> set[int]:
    """Give the frames of the CPUs' stacks."""
    symbol = image.symbols.get("stack_base")
    found: set[int] = set()
    for index in range(symbol.size_bytes // 8 if symbol is not None else 0):
        assert symbol is not None, "there is nothing to count otherwise"
        start = memory.number(symbol.addr_virt + 8 * index)
        if start:
            pages = memory.mapped(start, start + _STACK_BYTES)
            found.update(page.phys // PAGE_BYTES for page in pages)
    return found


def _spans(addresses: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Give the stretches [start, end) of pages."""
    ordered = sorted(addresses)
    pairs = enumerate(ordered)
    for _, group in groupby(pairs, key=lambda pair: pair[1] - pair[0] * PAGE_BYTES):
        run = [virt for _, virt in group]
        yield run[0], run[-1] + PAGE_BYTES


def _stretches(memory: Memory, frames: set[int]) -> Iterator[tuple[int, bytes]]:
    """Read frames in few pieces: (physical address, content)."""
    start = end = -1
    for frame in [*sorted(frames), 1 << 52]:
        if start >= 0 and frame - end > _GAP_FRAMES:
            yield (
                start * PAGE_BYTES,
                memory.physical(start * PAGE_BYTES, (end - start) * PAGE_BYTES),
            )
            start = -1
        if start < 0:
            start = frame
        end = frame + 1


def _is_in_free_block(page: bytes, virt: int, offset: int) -> bool:
    """Whether a place is in a free block of a page that serves small allocations.

    Such a page is a chain of blocks from its start to its end, each of which names the one before;
    a page that is no such chain has no free blocks.
    """
    at, before, free = 0, 0, False
    while at + _HEADER_BYTES <= len(page):
        size = int.from_bytes(page[at + 8 : at + 12], "little")
        if int.from_bytes(page[at : at + 8], "little") != before:
            return False
        after = at + _HEADER_BYTES + (size & ~_BLOCK_FLAGS)
        if at + _HEADER_BYTES <= offset < after:
            free = bool(size & _BLOCK_FREE)
        if not size & ~_BLOCK_FLAGS:
            return free and after == len(page)
        before, at = virt + at, after
    return False
