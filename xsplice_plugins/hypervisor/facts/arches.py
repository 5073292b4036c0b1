# SPDX-License-Identifier: Apache-2.0
"""The three architectures as data: what the loader and the patcher need to know of each.

Source: asm/livepatch.h and asm/insn.h of each; arch/*/livepatch.c.
"""

from dataclasses import dataclass

PAGE_SIZE = 4096
MASK64 = (1 << 64) - 1
MASK32 = (1 << 32) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Arch:
    """One architecture."""

    name: str  #: ``x86_64``, ``arm64`` or ``arm32``
    machine: int  #: ELF ``e_machine``
    is_64bit: bool  #: whether payloads are ELFCLASS64
    insn_size_bytes: int  #: length of the jump over an old function, which has at least that
    range_bytes: int  #: reach of that jump; the load-time test is ``-range <= old - new < range``
    #: an address away from the image where the model puts what Xen's heap would hold
    heap_virt: int
    has_ex_table: bool = False  #: whether ``.ex_table`` is known
    has_alternative_calls: bool = False  #: whether ``.alt_call_sites`` is known (from 4.21)
    is_call_graph_read: bool = False  #: whether calls are read off the image's bytes, for remarks

    @property
    def pointer_bytes(self) -> int:
        """Size of a pointer in the payload's structures."""
        return 8 if self.is_64bit else 4

    @property
    def mask(self) -> int:
        """All ones, as wide as an address."""
        return MASK64 if self.is_64bit else MASK32


X86_64 = Arch(
    name="x86_64",
    machine=62,
    is_64bit=True,
    insn_size_bytes=5,
    range_bytes=1 << 31,
    heap_virt=0xFFFF830000000000,
    has_ex_table=True,
    has_alternative_calls=True,
    is_call_graph_read=True,
)
ARM64 = Arch(
    name="arm64",
    machine=183,
    is_64bit=True,
    insn_size_bytes=4,
    range_bytes=128 << 20,
    heap_virt=0x0000800000000000,
)
ARM32 = Arch(
    name="arm32",
    machine=40,
    is_64bit=False,
    insn_size_bytes=4,
    range_bytes=32 << 20,
    heap_virt=0x80000000,
)
ARCHES = (X86_64, ARM64, ARM32)


def page_align(size_bytes: int) -> int:
    """Round a size or an address up to whole pages."""
    return (size_bytes + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1)
