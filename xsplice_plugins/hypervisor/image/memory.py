# SPDX-License-Identifier: Apache-2.0
"""The hypervisor's memory: segments of bytes at virtual addresses, with page permissions.

A segment is one run of pages with one permission. W^X holds at any moment except between
setting ``Memory.lift`` and setting it back, which is when a release patches code.
Every allocation made for payloads goes through ``Arena`` so that a leak can be counted.
"""

import enum
import hashlib
from bisect import bisect_right, insort

from xsplice_plugins.hypervisor.facts.arches import PAGE_SIZE, page_align
from xsplice_plugins.hypervisor.facts.verdicts import Hazard


class Perm(enum.Flag):
    """Page permissions as the page tables hold them."""

    NONE = 0
    READ = 1
    WRITE = 2
    EXEC = 4


class Lift(enum.Enum):
    """How far write protection is lifted while code is patched.

    Releases that clear CR0.WP can write anywhere; later ones map the text of all regions writable,
    and since b083b1c393 their read-only data too. Source: arch/x86/livepatch.c.
    """

    NONE = "none"
    TEXT = "text"
    TEXT_AND_RODATA = "text and read-only data"
    ALL = "everything"


RX = Perm.READ | Perm.EXEC
RW = Perm.READ | Perm.WRITE
RO = Perm.READ


class MemorySegment:
    """Whole pages with one permission.

    Attributes:
        addr_virt: first address, page aligned.
        data: the bytes; a multiple of the page size, never resized.
        owner: ``xen``, ``payload NAME``, or in brackets what it is for.
    """

    __slots__ = ("_digest", "addr_virt", "data", "name", "owner", "perm")

    def __init__(
        self, *, addr_virt: int, data: bytearray, perm: Perm, name: str, owner: str
    ) -> None:
        assert addr_virt % PAGE_SIZE == 0, "segments start on a page"
        assert len(data) % PAGE_SIZE == 0, "segments are whole pages"
        self.addr_virt = addr_virt
        self.data = data
        self.perm = perm
        self.name = name
        self.owner = owner
        self._digest: bytes | None = None

    @property
    def end_virt(self) -> int:
        """First address behind the segment."""
        return self.addr_virt + len(self.data)

    def touch(self) -> None:
        """Note that the bytes may have changed (the emulator writes behind our back)."""
        self._digest = None

    def digest(self) -> bytes:
        """SHA-256 of address, permission and bytes, computed again only after a change."""
        if self._digest is None:
            head = f"{self.addr_virt:x} {self.perm.value} ".encode()
            self._digest = hashlib.sha256(head + hashlib.sha256(self.data).digest()).digest()
        return self._digest


class Memory:
    """Sparse memory: the segments that are mapped, and nothing else."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._segments: dict[int, MemorySegment] = {}
        self.lift = Lift.NONE

    def map(self, segment: MemorySegment) -> None:
        """Add a segment; overlap is an error of the model, not of the payload."""
        index = bisect_right(self._starts, segment.addr_virt)
        if index:
            before = self._segments[self._starts[index - 1]]
            assert before.end_virt <= segment.addr_virt, f"{segment.name} overlaps {before.name}"
        if index < len(self._starts):
            assert segment.end_virt <= self._starts[index], f"{segment.name} overlaps its successor"
        insort(self._starts, segment.addr_virt)
        self._segments[segment.addr_virt] = segment

    def unmap(self, segment: MemorySegment) -> None:
        """Remove a segment; later accesses fault."""
        self._starts.remove(segment.addr_virt)
        del self._segments[segment.addr_virt]

    def segments(self) -> tuple[MemorySegment, ...]:
        """Every mapped segment in address order."""
        return tuple(self._segments[start] for start in self._starts)

    def find(self, addr_virt: int) -> MemorySegment | None:
        """Give the segment that holds an address."""
        index = bisect_right(self._starts, addr_virt)
        if not index:
            return None
        segment = self._segments[self._starts[index - 1]]
        return segment if addr_virt < segment.end_virt else None

    def may_write(self, perm: Perm) -> bool:
        """Whether pages of a permission can be written at this moment."""
        if Perm.WRITE in perm or self.lift is Lift.ALL:
            return True
        if Perm.EXEC in perm:
            return self.lift is not Lift.NONE
        return self.lift is Lift.TEXT_AND_RODATA

    def peek(self, addr_virt: int, size_bytes: int) -> bytes:
        """Give the bytes at an address, fewer at the end of a segment, none outside of all."""
        segment = self.find(addr_virt)
        if segment is None:
            return b""
        offset = addr_virt - segment.addr_virt
        return bytes(segment.data[offset : offset + size_bytes])

    def read(self, addr_virt: int, size_bytes: int, *, step: str = "memory") -> bytes:
        """Read bytes as the hypervisor itself would.

        Args:
            addr_virt: hypervisor virtual address.
            size_bytes: how many.
            step: named in the hazard.

        Raises:
            Hazard: the range is not mapped readable (a page fault in the hypervisor).
        """
        parts = []
        while size_bytes > 0:
            segment = self.find(addr_virt)
            if segment is None or Perm.READ not in segment.perm:
                raise Hazard(step, f"page fault reading {addr_virt:#x}: nothing is mapped there")
            offset = addr_virt - segment.addr_virt
            part = bytes(segment.data[offset : offset + size_bytes])
            parts.append(part)
            addr_virt += len(part)
            size_bytes -= len(part)
        return b"".join(parts)

    def write(self, addr_virt: int, data: bytes, *, step: str = "memory") -> None:
        """Write bytes as the hypervisor itself would.

        Raises:
            Hazard: the range is not mapped writable, and write protection is not lifted.
        """
        done = 0
        while done < len(data):
            segment = self.find(addr_virt + done)
            if segment is None:
                raise Hazard(step, f"page fault writing {addr_virt + done:#x}: not mapped")
            if not self.may_write(segment.perm):
                raise Hazard(
                    step, f"page fault writing {addr_virt + done:#x}: {segment.name} is read-only"
                )
            offset = addr_virt + done - segment.addr_virt
            size = min(len(data) - done, len(segment.data) - offset)
            segment.data[offset : offset + size] = data[done : done + size]
            segment.touch()
            done += size

    def read_c_string(self, addr_virt: int, *, limit: int = 4096, step: str = "memory") -> bytes:
        """Read up to a NUL, at most ``limit`` bytes.

        Raises:
            Hazard: the string runs into unmapped memory.
        """
        out = b""
        while len(out) < limit:
            segment = self.find(addr_virt + len(out))
            if segment is None:
                raise Hazard(step, f"page fault reading a string at {addr_virt:#x}")
            offset = addr_virt + len(out) - segment.addr_virt
            stop = segment.data.find(b"\0", offset)
            if stop >= 0:
                return (out + bytes(segment.data[offset:stop]))[:limit]
            out += bytes(segment.data[offset:])
        return out[:limit]

    def digest(self, *, owner: str | None = None, code_only: bool = False) -> str:
        """Hash what is mapped.

        Args:
            owner: only this owner's segments.
            code_only: only segments that are never writable (text and read-only data).

        Returns:
            Hexadecimal SHA-256 over addresses, permissions and bytes in address order.
        """
        total = hashlib.sha256()
        for segment in self.segments():
            if owner is not None and segment.owner != owner:
                continue
            if code_only and Perm.WRITE in segment.perm:
                continue
            total.update(segment.digest())
        return total.hexdigest()


class Arena:
    """The address range payloads are placed in: one vmap region, first fit, a guard page each.

    Source: xen/common/vmap.c.
    """

    def __init__(self, *, start_virt: int, end_virt: int, size_bytes_max: int = 64 << 20) -> None:
        pages = (end_virt - start_virt) // PAGE_SIZE
        bitmap_pages = (pages + 8 * PAGE_SIZE - 1) // (8 * PAGE_SIZE)
        self.start_virt = start_virt + bitmap_pages * PAGE_SIZE
        self.end_virt = end_virt
        #: Stands for the Xen heap; a model cannot know how much of it a host has left.
        self.size_bytes_max = size_bytes_max
        self._used: list[tuple[int, int]] = []

    def allocate(self, size_bytes: int) -> int | None:
        """Reserve whole pages behind a guard page.

        Returns:
            The virtual address, or None where nothing that large is free.
        """
        size = page_align(size_bytes)
        if size + sum(used for _, used in self._used) > self.size_bytes_max:
            return None
        start = self.start_virt + PAGE_SIZE
        for used_start, used_size in self._used:
            if start + size + PAGE_SIZE <= used_start:
                break
            start = used_start + used_size + PAGE_SIZE
        if start + size > self.end_virt:
            return None
        insort(self._used, (start, size))
        return start

    def free(self, addr_virt: int) -> None:
        """Give an allocation back."""
        self._used = [entry for entry in self._used if entry[0] != addr_virt]

    def in_use(self) -> tuple[tuple[int, int], ...]:
        """Every allocation: (address, bytes)."""
        return tuple(self._used)
