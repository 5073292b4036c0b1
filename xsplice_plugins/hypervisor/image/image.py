# SPDX-License-Identifier: Apache-2.0
"""The hypervisor's image: ``xen-syms`` at its addresses, with the names Xen itself would know.

An image is a value. ``Image.from_elf`` reads the file and takes it as it is *after boot*: see
``boot.py``. Source: specification sections 4.1, 7.1, 7.4 and 14.3.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from xsplice_plugins.hypervisor.facts.arches import Arch, page_align
from xsplice_plugins.hypervisor.facts.cpu import DEFAULT_CPU, CpuProfile
from xsplice_plugins.hypervisor.facts.releases import Release
from xsplice_plugins.hypervisor.facts.verdicts import Hazard
from xsplice_plugins.hypervisor.image import syms_file
from xsplice_plugins.hypervisor.image.memory import Arena, Memory, Perm, Segment

_GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """Part of the image with one permission.

    Attributes:
        name: ``text``, ``rodata``, ``init`` or ``data``.
        addr_virt: first address, page aligned.
        data: whole pages; .bss is included as zeros.
        perm: permission after boot; ``NONE`` where the memory was freed.
    """

    name: str
    addr_virt: int
    data: bytes
    perm: Perm


@dataclass(frozen=True, slots=True, kw_only=True)
class Symbol:
    """A name of the hypervisor's own table.

    Attributes:
        name: ``name``, or ``file.c#name`` for a local.
        addr_virt: where it is.
        size_bytes: as the linker recorded it, 0 where unknown.
        is_function: whether it names code.
    """

    name: str
    addr_virt: int
    size_bytes: int
    is_function: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What the model knows of one build of Xen.

    Attributes:
        arch: the architecture.
        regions: the memory, as after boot.
        symbols: decorated name to symbol; the first one where a name occurs twice.
        ambiguous: names that occur at several addresses (the lookup's answer is arbitrary).
        build_id: the build-id note's descriptor, None where Xen has none.
        ex_table: address of a faulting instruction to where execution continues.
        bug_frames: address of a trapping instruction to the frame's kind.
        init_ranges: memory that was freed after boot, [start, end).
        null_calls: (address, bytes) of alternative calls whose target only a booted host knows.
        has_ideal_nops: the assembler's padding is what Xen would write.
        has_ibt: built with CONFIG_XEN_IBT.
        arena: [start, end) of the addresses payloads are placed in.
        cpu: the profile the image was booted on.
        digest: SHA-256 of the file or of the regions.
    """

    arch: Arch
    regions: tuple[Region, ...]
    symbols: Mapping[str, Symbol]
    ambiguous: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    build_id: bytes | None
    ex_table: Mapping[int, int] = field(default_factory=dict)
    bug_frames: Mapping[int, int] = field(default_factory=dict)
    init_ranges: tuple[tuple[int, int], ...] = ()
    null_calls: tuple[tuple[int, int], ...] = ()
    has_ideal_nops: bool = True
    has_ibt: bool = False
    arena: tuple[int, int]
    cpu: CpuProfile = DEFAULT_CPU
    digest: str = ""
    _by_address: tuple[tuple[int, ...], tuple[Symbol, ...]] = field(
        init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        ordered = sorted(self.symbols.values(), key=lambda symbol: symbol.addr_virt)
        addresses = tuple(symbol.addr_virt for symbol in ordered)
        object.__setattr__(self, "_by_address", (addresses, tuple(ordered)))

    @staticmethod
    def from_elf(data: bytes, *, release: Release, cpu: CpuProfile = DEFAULT_CPU) -> "Image":
        """Read ``xen-syms`` and take it as after boot.

        Args:
            data: the whole file.
            release: decides how alternatives are encoded.
            cpu: decides which of them are applied.

        Returns:
            The image.

        Raises:
            ElfFormatError: the file is not a linked hypervisor with symbols.
        """
        from xsplice_plugins.hypervisor.image import boot  # noqa: PLC0415  # it makes images

        return boot.image_after_boot(syms_file.read_syms_file(data), release=release, cpu=cpu)

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

    def lookup_with_offset(self, text: str) -> int | None:
        """Give the address of ``name+0xoffset``.

        Extension: the 2015 design wanted this, no release's loader understands it; the loader of
        this model does not use it either. It serves people at the command line.
        """
        name, plus, offset = text.rpartition("+0x")
        if not plus:
            return self.lookup(text)
        addr = self.lookup(name)
        try:
            return None if addr is None else addr + int(offset, 16)
        except ValueError:
            return None

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

    def function_at(self, addr_virt: int) -> Symbol | None:
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
                Segment(
                    addr_virt=region.addr_virt,
                    data=bytearray(region.data),
                    perm=region.perm,
                    name=region.name,
                    owner="xen",
                )
            )
        return memory

    def new_arena(self) -> Arena:
        """Give the range payloads are placed in, empty."""
        return Arena(start_virt=self.arena[0], end_virt=self.arena[1])


def build_image(
    *,
    arch: Arch,
    regions: tuple[Region, ...],
    symbols: tuple[Symbol, ...],
    build_id: bytes | None,
    arena: tuple[int, int],
) -> Image:
    """Make an image from parts, for tests and for hypervisors that are not a file.

    Args:
        arch: the architecture.
        regions: memory as after boot.
        symbols: the symbol table.
        build_id: None for a Xen without one.
        arena: [start, end) of the addresses payloads are placed in.

    Returns:
        The image; its digest covers the regions.
    """
    table, ambiguous = index_symbols(symbols)
    total = hashlib.sha256()
    for region in regions:
        total.update(f"{region.name} {region.addr_virt:x} {region.perm.value} ".encode())
        total.update(region.data)
    return Image(
        arch=arch,
        regions=regions,
        symbols=table,
        ambiguous=ambiguous,
        build_id=build_id,
        arena=arena,
        digest=total.hexdigest(),
    )


def index_symbols(
    symbols: tuple[Symbol, ...],
) -> tuple[Mapping[str, Symbol], Mapping[str, tuple[int, ...]]]:
    """Index symbols by name and collect the names that occur at several addresses."""
    table: dict[str, Symbol] = {}
    several: dict[str, set[int]] = {}
    for symbol in symbols:
        first = table.setdefault(symbol.name, symbol)
        if first.addr_virt != symbol.addr_virt:
            several.setdefault(symbol.name, {first.addr_virt}).add(symbol.addr_virt)
    ambiguous = {name: tuple(sorted(places)) for name, places in several.items()}
    return MappingProxyType(table), MappingProxyType(ambiguous)


def arena_of(arch: Arch, *, text_virt: int, end_virt: int) -> tuple[int, int]:
    """Give the address range for payloads behind an image.

    Args:
        arch: x86 uses the rest of the image's GiB, Arm a window of 2 MiB.
        text_virt: an address in the image.
        end_virt: first address behind the image's data.

    Source: specification section 3.6; on x86 the last pages belong to the fixmap and the stubs
    (NR_CPUS of 256 pages, as in Debian's configuration).
    """
    if arch.name != "x86_64":
        return (page_align(end_virt), page_align(end_virt) + (2 << 20))
    top = (text_virt & ~(_GIB - 1)) + _GIB
    return (page_align(end_virt), top - 2 * 4096 - 256 * 4096)
