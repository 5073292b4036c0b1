# SPDX-License-Identifier: Apache-2.0
"""From the file to the memory of a booted host: what Xen does to itself before guests run.

Applied: alternatives and alternative calls for one CPU profile, ENDBR64 sealing where it has IBT,
and the loss of the init ranges. Not applied: anything drivers write into data at boot, which no
file can tell; alternative calls through pointers that are still NULL in the file are listed as
``null_calls``.

Source: ``alternative_branches`` of xen/arch/x86/alternative.c, xen/arch/x86/xen.lds.S; text that
was read out of a booted host (see docs/agreement.md).
"""

import hashlib
import struct
from collections.abc import Callable

from xsplice_plugins.errors import ElfFormatError
from xsplice_plugins.hypervisor.facts.arches import X86_64
from xsplice_plugins.hypervisor.facts.cpu import (
    BOOT_TABLES,
    DEFAULT_CPU,
    XEN_IBT,
    CpuProfile,
    ideal_nops,
)
from xsplice_plugins.hypervisor.facts.notes import parse_build_id
from xsplice_plugins.hypervisor.facts.releases import Release
from xsplice_plugins.hypervisor.facts.verdicts import Stopped, XenRefusal
from xsplice_plugins.hypervisor.image.alternatives import (
    ARM_ENTRY_BYTES,
    ENDBR64,
    ENDBR64_POISON,
    AltInstr,
    apply_alternatives,
    parse_alternatives,
)
from xsplice_plugins.hypervisor.image.image import BootedImage, Region, arena_of, index_symbols
from xsplice_plugins.hypervisor.image.memory import RO, RW, RX, Memory, MemorySegment, Perm
from xsplice_plugins.hypervisor.image.syms_file import KnownSymbol, SymsFile, read_syms_file

_PERMS = {"text": RX, "rodata": RO, "init": Perm.NONE, "data": RW}
_STEP = "boot"
#: Kind of a bug frame beside Xen's own, 0 to 3.
WARN_UNNAMED = 4
#: Ends of the table of functions that only alternative calls reach. Source: xen.lds.S.
_CLOBBERED = ("__initdata_cf_clobber_start", "__initdata_cf_clobber_end")


def boot(data: bytes, *, release: Release, cpu: CpuProfile = DEFAULT_CPU) -> BootedImage:
    """Read ``xen-syms`` and take it as it is in memory after boot.

    Args:
        data: the whole file.
        release: decides how alternatives are encoded.
        cpu: decides which are applied.

    Raises:
        ElfFormatError: the file is not a linked hypervisor with symbols, or its own tables cannot
            be applied.
    """
    syms = read_syms_file(data)
    symbols = syms.symbols
    names, ambiguous = index_symbols(symbols)
    places = {name: symbol.addr_virt for name, symbol in names.items()}
    memory = _boot_memory(syms)
    _fill_tables(memory, symbols, cpu)
    try:
        is_x86 = syms.arch == X86_64
        unit = release.alt_entry_bytes if is_x86 else ARM_ENTRY_BYTES
        own = _own_alternatives(memory, places, unit, has_polarity=is_x86)
        named = frozenset() if is_x86 else frozenset(alt.feature for alt in own)
        own = own if is_x86 else ()  # of what Arm takes only the processor tells
        words = _feature_words(symbols, own, release)
        null_calls = _patch_text(memory, places, own, words, release=release, cpu=cpu)
        start, table = _between(memory, places, "__start___ex_table", "__stop___ex_table", 8)
        ex_table = dict(parse_ex_table(table, start))
        bug_frames = _bug_frames(memory, places, is_x86=is_x86)
        build_id = _build_id(memory, places)
    except (Stopped, struct.error) as exc:
        raise ElfFormatError(f"xen-syms: its own tables do not fit ({exc}); rebuild it") from exc
    regions = tuple(
        Region(name=s.name, addr_virt=s.addr_virt, data=bytes(s.data), perm=_PERMS[s.name])
        for s in memory.segments()
    )
    text = next((region for region in regions if region.name == "text"), None)
    if text is None:
        raise ElfFormatError("xen-syms: no .text section; give the linked hypervisor")
    end_virt = regions[-1].addr_virt + len(regions[-1].data)
    arena = arena_of(syms.arch, release.version, text_virt=text.addr_virt, end_virt=end_virt)
    if any(r.addr_virt < arena[1] and arena[0] < r.addr_virt + len(r.data) for r in regions):
        raise ElfFormatError("xen-syms: it lies where payloads belong; give its own release")
    return BootedImage(
        arch=syms.arch,
        regions=regions,
        symbols=names,
        ambiguous=ambiguous,
        build_id=build_id,
        ex_table=ex_table,
        bug_frames=bug_frames,
        init_ranges=tuple(
            (region.addr_virt, region.addr_virt + len(region.data))
            for region in regions
            if region.name == "init"
        ),
        null_calls=null_calls,
        feature_words=words,
        features_named=named,
        has_ideal_nops=_has_ideal_nops(memory, places, cpu),
        has_ibt=_has_ibt(places),
        arena=arena,
        cpu=cpu,
        digest=hashlib.sha256(data).hexdigest(),
    )


def _feature_words(
    symbols: tuple[KnownSymbol, ...], own: tuple[AltInstr, ...], release: Release
) -> int:
    """Give NCAPINTS of this very build: distributions backport more than the release's name says.

    Source: ``cleared_caps`` of xen/arch/x86/cpu/common.c, an array with one element a word. An
    image without it has at least the words that its own alternatives name.
    """
    sizes = {symbol.size_bytes for symbol in symbols if symbol.name.endswith("#cleared_caps")}
    if len(sizes) == 1:
        return sizes.pop() // 4
    named = max((alternative.feature // 32 + 1 for alternative in own), default=0)
    return max(release.feature_words, named)


def _between(
    memory: Memory, places: dict[str, int], start: str, end: str, unit: int = 1
) -> tuple[int, bytes]:
    """Give where a table begins and its whole entries; nothing where a symbol is missing."""
    if start not in places or end not in places:
        return 0, b""
    size = (places[end] - places[start]) // unit * unit
    return places[start], memory.read(places[start], size, step=_STEP)


def _own_alternatives(
    memory: Memory, places: dict[str, int], unit: int, *, has_polarity: bool
) -> tuple[AltInstr, ...]:
    start, table = _between(memory, places, "__alt_instructions", "__alt_instructions_end", unit)
    return parse_alternatives(table, start, entry_bytes=unit, has_polarity=has_polarity)


def _boot_memory(syms: SymsFile) -> Memory:
    memory = Memory()
    for name, addr_virt, data in syms.regions:
        memory.map(
            MemorySegment(
                addr_virt=addr_virt,
                data=bytearray(data),
                perm=RW | Perm.EXEC,
                name=name,
                owner="xen",
            )
        )
    return memory


def _fill_tables(memory: Memory, symbols: tuple[KnownSymbol, ...], cpu: CpuProfile) -> None:
    """Copy the vendor's tables where drivers copy them at boot, so that calls become direct."""
    for wanted, source in BOOT_TABLES.get(cpu.vendor, ()):
        found = {}
        for end in (wanted, source):
            exact = [
                s for s in symbols if s.name == end or (end[0] == "#" and s.name.endswith(end))
            ]
            if len(exact) == 1:
                found[end] = exact[0]
        if len(found) == 2 and found[wanted].size_bytes == found[source].size_bytes:
            data = memory.read(found[source].addr_virt, found[source].size_bytes, step=_STEP)
            memory.write(found[wanted].addr_virt, data, step=_STEP)


def _has_ibt(places: dict[str, int]) -> bool:
    start, end = (places.get(name, 0) for name in _CLOBBERED)
    return start != end


def _has_ideal_nops(memory: Memory, places: dict[str, int], cpu: CpuProfile) -> bool:
    """Whether the assembler's nine-byte NOP is the one Xen would choose."""
    name = next((name for name in places if name.endswith("#toolchain_nops")), None)
    if name is None:
        return False
    return memory.read(places[name], 9, step=_STEP) == ideal_nops(cpu, 9)


def _patch_text(
    memory: Memory,
    places: dict[str, int],
    own: tuple[AltInstr, ...],
    feature_words: int,
    *,
    release: Release,
    cpu: CpuProfile,
) -> tuple[tuple[int, int], ...]:
    if not own:
        return ()
    null_calls = apply_alternatives(
        memory,
        own,
        cpu=cpu,
        feature_words=feature_words,
        has_ibt=_has_ibt(places),
        has_altcall_idiom=release.has_altcall_idiom,
        has_ideal_nops=_has_ideal_nops(memory, places, cpu),
        returns_errors=True,
        step=_STEP,
    )
    if cpu.has(XEN_IBT) and _has_ibt(places):
        _seal_unused_targets(memory, places)
    return null_calls


def _seal_unused_targets(memory: Memory, places: dict[str, int]) -> None:
    """Poison ENDBR64 of functions that are only reached through alternative calls."""
    _, table = _between(memory, places, *_CLOBBERED, 8)
    text = (places.get("_stext", 0), places.get("_etext", 0))
    for (target,) in struct.iter_unpack("<Q", table):
        if text[0] <= target < text[1] and memory.read(target, 4, step=_STEP) == ENDBR64:
            memory.write(target, ENDBR64_POISON, step=_STEP)


def parse_ex_table(table: bytes, addr_virt: int) -> tuple[tuple[int, int], ...]:
    """Decode an exception table: (faulting instruction, continuation).

    Args:
        table: whole entries of two offsets, each relative to its own field.
        addr_virt: where it lies.
    """
    return tuple(
        (addr_virt + 8 * index + addr, addr_virt + 8 * index + 4 + cont)
        for index, (addr, cont) in enumerate(struct.iter_unpack("<ii", table))
    )


def _bug_frames(memory: Memory, places: dict[str, int], *, is_x86: bool) -> dict[int, int]:
    """Read the image's own frames; each kind has a start of its own since 4.19 (xen.lds.h)."""
    frames: dict[int, int] = {}
    start = places.get("__start_bug_frames")
    for kind in range(4):
        start = places.get(f"__start_bug_frames_{kind}", start)
        end = places.get(f"__stop_bug_frames_{kind}")
        if start is None or end is None:
            break
        table = memory.read(start, end - start, step=_STEP)
        frames.update(parse_bug_frames(table, start, kind, is_x86=is_x86))
        start = end
    return frames


def parse_bug_frames(
    table: bytes, addr_virt: int, kind: int, *, is_x86: bool = True
) -> dict[int, int]:
    """Decode bug frames: address of the trapping instruction to the frame's kind.

    Args:
        table: the section's bytes.
        addr_virt: its address; displacements are relative to their frame.
        kind: 0 run a function, 1 warn, 2 bug, 3 assert (on x86 frames of two units).
        is_x86: Arm has frames of 16 bytes with a plain displacement.
    """
    stride = 8 if is_x86 and kind != 3 else 16
    frames = {}
    for offset in range(0, len(table) - stride + 1, stride):
        word = int.from_bytes(table[offset : offset + 4], "little")
        disp = word & 0xFFFFFF if is_x86 else word
        sign = 0x800000 if is_x86 else 0x80000000
        frames[addr_virt + offset + disp - ((disp & sign) << 1)] = kind
    return frames


def unnamed_warnings(
    table: bytes, addr_virt: int, is_named: Callable[[int], bool]
) -> dict[int, int]:
    """Decode Arm's warnings that it takes for none, since their file's name is not the image's.

    Args:
        table: The bytes of a ``.bug_frames.1``.
        addr_virt: Its address.
        is_named: Whether an address lies in the image.

    Returns:
        Address of the trapping instruction to `WARN_UNNAMED`.

    Source: ``do_bug_frame`` of xen/arch/arm/traps.c: ``is_kernel(filename)``; x86 looks at
    payloads too.
    """
    places = (
        (addr_virt + offset, *struct.unpack_from("<ii", table, offset))
        for offset in range(0, len(table) - 15, 16)
    )
    return {base + place: WARN_UNNAMED for base, place, file in places if not is_named(base + file)}


def _build_id(memory: Memory, places: dict[str, int]) -> bytes | None:
    ends = ("__note_gnu_build_id_start", "__note_gnu_build_id_end")
    _, note = _between(memory, places, *ends)
    try:
        return parse_build_id(note, step=_STEP, passes_errno=True)
    except XenRefusal:
        return None
