# SPDX-License-Identifier: Apache-2.0
"""The three architectures as data: what the loader and the patcher need to know of each.

Source: asm/livepatch.h and asm/insn.h of each; arch/*/livepatch.c; LIVEPATCH_VMAP_START of Arm's
asm/config.h, since 4.18 asm/mmu/layout.h; LIVEPATCH_FEATURE of Arm's asm/cpufeature.h; stacks:
PRIMARY_STACK_SIZE of x86's asm/config.h, STACK_SIZE of Arm's, the same from 4.8 to 4.22.
"""

from collections.abc import Callable, Iterable

from msgspec import Struct

from xsplice_plugins.hypervisor.facts.branches import Reference, byte_references, word_references
from xsplice_plugins.hypervisor.facts.verdicts import ENOSYS, EOPNOTSUPP, Hazard

PAGE_SIZE = 4096
MASK64 = (1 << 64) - 1
MASK32 = (1 << 32) - 1


class Arch(Struct, frozen=True, kw_only=True):
    """One architecture."""

    name: str  #: ``x86_64``, ``arm64`` or ``arm32``
    machine: int  #: ELF ``e_machine``
    is_64bit: bool  #: whether payloads are ELFCLASS64
    insn_size_bytes: int  #: length of the jump over an old function, which has at least that
    range_bytes: int  #: reach of that jump; the load-time test is ``-range <= old - new < range``
    jump: Callable[[int, int], bytes]  #: its place, where it leads to -> its bytes
    nop: bytes = b""  #: what fills a NOP record; nothing where the processor's own list does
    #: releases from which payloads have a window of their own, and where it starts;
    #: without one they lie in the rest of the image's GiB
    windows: tuple[tuple[tuple[int, int, int], int], ...] = ()
    rel_errno: int = 0  #: what it says to SHT_REL, if it does not know that
    #: an address away from the image where the model puts what Xen's heap would hold
    heap_virt: int
    has_ex_table: bool = False  #: whether ``.ex_table`` is known
    has_alternative_calls: bool = False  #: whether ``.alt_call_sites`` is known (from 4.21)
    #: reads calls off the image's bytes, for remarks; ``None``: nobody does
    references: Callable[[bytes, int], Iterable[Reference]] | None = None
    are_stores_read: bool = False  #: and the constants that code stores
    #: feature of alternatives that is set on every host that can load a payload, and so is taken
    livepatch_feature: int = 0
    refuses_warnings: bool = False  #: whether a WARN in a payload stops the host
    #: of a CPU's stack for hypercalls and the idle loop; below it nothing can be written
    stack_bytes: int = 32 << 10
    keeps_stacks: bool = False  #: a vCPU that does not run keeps its stack in the hypervisor

    @property
    def pointer_bytes(self) -> int:
        """Size of a pointer in the payload's structures."""
        return 8 if self.is_64bit else 4

    @property
    def is_call_graph_read(self) -> bool:
        """Whether calls are read off the image's bytes."""
        return self.references is not None

    @property
    def mask(self) -> int:
        """All ones, as wide as an address."""
        return MASK64 if self.is_64bit else MASK32


def _x86_jump(place_virt: int, new_virt: int) -> bytes:
    return b"\xe9" + ((new_virt - (place_virt + 5)) & MASK32).to_bytes(4, "little")


def _arm64_jump(place_virt: int, new_virt: int) -> bytes:
    distance = new_virt - place_virt
    if distance % 4 or place_virt % 4 or not -(128 << 20) <= distance < 128 << 20:
        # The load-time test has the opposite sign, so exactly +128 MiB arrives here.
        raise Hazard("patching", f"ASSERT: a branch of {distance:#x} bytes cannot be encoded")
    return (0x14000000 | distance >> 2 & 0x3FFFFFF).to_bytes(4, "little")


def _arm32_jump(place_virt: int, new_virt: int) -> bytes:
    distance = new_virt - (place_virt + 8)
    return (0xEA000000 | distance >> 2 & 0xFFFFFF).to_bytes(4, "little")


X86_64 = Arch(
    name="x86_64",
    machine=62,
    is_64bit=True,
    insn_size_bytes=5,
    range_bytes=1 << 31,
    jump=_x86_jump,
    rel_errno=EOPNOTSUPP,
    heap_virt=0xFFFF840000000000,
    stack_bytes=8 << 10,
    has_ex_table=True,
    has_alternative_calls=True,
    references=byte_references,
    are_stores_read=True,
)
ARM64 = Arch(
    name="arm64",
    machine=183,
    is_64bit=True,
    insn_size_bytes=4,
    range_bytes=128 << 20,
    jump=_arm64_jump,
    nop=bytes.fromhex("1f2003d5"),
    windows=(
        ((4, 7, 0), 0x800000),
        ((4, 8, 2), 0xA00000),
        ((4, 18, 0), 0x20001000000),
        ((4, 19, 0), 0xA0001000000),
    ),
    rel_errno=ENOSYS,
    livepatch_feature=4,
    refuses_warnings=True,
    keeps_stacks=True,
    heap_virt=0x0000800000000000,
    references=word_references,
)
ARM32 = Arch(
    name="arm32",
    machine=40,
    is_64bit=False,
    insn_size_bytes=4,
    range_bytes=32 << 20,
    jump=_arm32_jump,
    nop=bytes.fromhex("0000a0e1"),
    windows=(((4, 7, 0), 0x800000), ((4, 8, 2), 0xA00000), ((4, 18, 0), 0x1000000)),
    heap_virt=0x80000000,
    refuses_warnings=True,
    keeps_stacks=True,
)
ARCHES = (X86_64, ARM64, ARM32)


def page_align(size_bytes: int) -> int:
    """Round a size or an address up to whole pages."""
    return (size_bytes + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1)
