# SPDX-License-Identifier: Apache-2.0
"""The hypervisor's image: ``xen-syms`` at its addresses, with the names Xen itself would know.

An image is a value; ``boot.py`` makes it from the file. Source: xen/common/symbols.c.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from msgspec import Struct

from xsplice_plugins.hypervisor.facts.arches import PAGE_SIZE, Arch, page_align
from xsplice_plugins.hypervisor.facts.cpu import DEFAULT_CPU, CpuProfile
from xsplice_plugins.hypervisor.facts.verdicts import Hazard
from xsplice_plugins.hypervisor.image.memory import Memory, MemorySegment, Perm
from xsplice_plugins.hypervisor.image.syms_file import KnownSymbol
from xsplice_plugins.releases import Version

_GIB = 1 << 30
_WINDOW_BYTES = PAGE_SIZE * 8 * PAGE_SIZE


class HostPage(Struct, frozen=True, kw_only=True):
    """A page of a running host's memory."""

    data: bytes
    perm: Perm
    unsteady: frozenset[int] = frozenset()  #: offsets of bytes that change from moment to moment


#: Gives the page at an address; None where the host maps nothing.
HostPages = Callable[[int], HostPage | None]


class Region(Struct, frozen=True, kw_only=True):
    """Part of the image with one permission."""

    name: str  #: ``text``, ``rodata``, ``init`` or ``data``
    addr_virt: int  #: first address, page aligned
    data: bytes  #: whole pages; .bss is included as zeros
    perm: Perm  #: permission after boot; ``NONE`` where the memory was freed


@dataclass(frozen=True, slots=True, kw_only=True)
class BootedImage:
    """What the model knows of one build of Xen."""

    arch: Arch
    regions: tuple[Region, ...]  #: the memory, as after boot
    #: decorated name to symbol; the first one where a name occurs twice
    symbols: Mapping[str, KnownSymbol]
    #: names that occur at several addresses (the lookup's answer is arbitrary)
    ambiguous: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    build_id: bytes | None  #: the build-id note's descriptor, None where Xen has none
    #: address of a faulting instruction to where execution continues
    ex_table: Mapping[int, int] = field(default_factory=dict)
    #: address of a trapping instruction to the frame's kind
    bug_frames: Mapping[int, int] = field(default_factory=dict)
    init_ranges: tuple[tuple[int, int], ...] = ()  #: memory that was freed after boot, [start, end)
    #: (address, bytes) of alternative calls whose target only a booted host knows
    null_calls: tuple[tuple[int, int], ...] = ()
    #: 32-bit words of CPU features this build has; 0 where only the release tells
    feature_words: int = 0
    features_named: frozenset[int] = frozenset()  #: by the image's own alternatives, on Arm
    has_ideal_nops: bool = True  #: the assembler's padding is what Xen would write
    has_ibt: bool = False  #: built with CONFIG_XEN_IBT
    arena: tuple[int, int]  #: [start, end) of the addresses payloads are placed in
    cpu: CpuProfile = DEFAULT_CPU  #: the profile the image was booted on
    digest: str = ""  #: SHA-256 of the file or of the regions
    #: the memory of a host that runs it; None where only the file is known
    host_pages: HostPages | None = field(default=None, repr=False, compare=False)
    #: addresses in the image whose content changes from moment to moment on that host
    unsteady: frozenset[int] = frozenset()
    _by_address: tuple[tuple[int, ...], tuple[KnownSymbol, ...]] = field(
        init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        ordered = sorted(self.symbols.values(), key=lambda s: (s.addr_virt, s.size_bytes))
        addresses = tuple(symbol.addr_virt for symbol in ordered)
        object.__setattr__(self, "_by_address", (addresses, tuple(ordered)))

    def lookup(self, name: str) -> int | None:
        """Give a symbol's address as the hypervisor's own lookup does: an exact match.

        Raises:
            Hazard: the name occurs at several addresses; which one Xen finds is arbitrary.
        """
        symbol = self.symbols.get(name)
        if symbol is None or not symbol.addr_virt:
            return None
        if name in self.ambiguous:
            places = ", ".join(f"{addr:#x}" for addr in self.ambiguous[name])
            raise Hazard("symbols", f"{name} is at {places}; which one Xen finds is arbitrary")
        return symbol.addr_virt

    def name_of(self, addr_virt: int) -> str | None:
        """Describe an address as ``name+0xoffset/0xsize``, None outside every symbol."""
        addresses, symbols = self._by_address
        index = bisect_right(addresses, addr_virt)
        if not index:
            return None
        symbol = symbols[index - 1]
        if not any(r.addr_virt <= addr_virt < r.addr_virt + len(r.data) for r in self.regions):
            return None
        return f"{symbol.name}+{addr_virt - symbol.addr_virt:#x}/{symbol.size_bytes:#x}"

    def function_at(self, addr_virt: int) -> KnownSymbol | None:
        """Give the typed function around an address, None in padding and untyped code."""
        addresses, symbols = self._by_address
        index = bisect_right(addresses, addr_virt)
        while index and addresses[index - 1] == addresses[max(index - 2, 0)] and index > 1:
            if symbols[index - 1].is_function:
                break
            index -= 1
        if not index:
            return None
        symbol = symbols[index - 1]
        is_inside = addr_virt < symbol.addr_virt + symbol.size_bytes
        return symbol if symbol.is_function and is_inside else None

    def covers(self, addr_virt: int) -> bool:
        """Whether an address lies between the image's start and its end."""
        last = self.regions[-1]
        return self.regions[0].addr_virt <= addr_virt < last.addr_virt + len(last.data)

    def is_init(self, addr_virt: int) -> bool:
        """Whether an address lies in memory that was freed after boot."""
        return any(start <= addr_virt < end for start, end in self.init_ranges)

    def new_memory(self) -> Memory:
        """Map a private copy of the image."""
        memory = Memory()
        for region in self.regions:
            if region.perm is Perm.NONE:
                continue
            memory.map(
                MemorySegment(
                    addr_virt=region.addr_virt,
                    data=bytearray(region.data),
                    perm=region.perm,
                    name=region.name,
                    owner="xen",
                )
            )
        return memory


def index_symbols(
    symbols: tuple[KnownSymbol, ...],
) -> tuple[Mapping[str, KnownSymbol], Mapping[str, tuple[int, ...]]]:
    """Index symbols by name and collect the names that occur at several addresses."""
    table: dict[str, KnownSymbol] = {}
    several: dict[str, set[int]] = {}
    for symbol in symbols:
        first = table.setdefault(symbol.name, symbol)
        if first.addr_virt != symbol.addr_virt:
            several.setdefault(symbol.name, {first.addr_virt}).add(symbol.addr_virt)
    ambiguous = {name: tuple(sorted(places)) for name, places in several.items()}
    return MappingProxyType(table), MappingProxyType(ambiguous)


def arena_of(arch: Arch, version: Version, *, text_virt: int, end_virt: int) -> tuple[int, int]:
    """Give the address range for payloads.

    Args:
        arch: x86 uses the rest of the image's GiB, Arm a window of its own.
        version: on Arm the release decides where the window is.
        text_virt: an address in the image.
        end_virt: first address behind the image's data.

    Source: ``arch_livepatch_init`` of xen/arch/*/livepatch.c. On x86 the last pages belong to the
    fixmap and the stubs (NR_CPUS of 256 pages, as in Debian's configuration). Arm's window is said
    to be of 2 MiB; ``vm_init_type`` of xen/common/vmap.c opens as much as one page of its bitmap
    holds, and ``vm_alloc`` looks at the end only when it needs another page.
    """
    if arch.windows:
        _, start = max(row for row in arch.windows if row[0] <= version)
        return (start, start + _WINDOW_BYTES)
    top = (text_virt & ~(_GIB - 1)) + _GIB
    return (page_align(end_virt), top - 2 * 4096 - 256 * 4096)
