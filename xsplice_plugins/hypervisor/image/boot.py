# SPDX-License-Identifier: Apache-2.0
"""From the file to the memory of a booted host: what Xen does to itself before guests run.

Applied: alternatives and alternative calls for one CPU profile, ENDBR64 sealing where it has IBT,
and the loss of the init ranges. Not applied: anything drivers write into data at boot, which no
file can tell; alternative calls through pointers that are still NULL in the file are listed as
``null_calls``.

Source: specification sections 4.1 and 7.2; real-Xen measurements of text after boot.
"""

import hashlib
import struct

from xsplice_plugins.errors import ElfFormatError
from xsplice_plugins.hypervisor.facts.arches import X86_64
from xsplice_plugins.hypervisor.facts.cpu import BOOT_TABLES, XEN_IBT, CpuProfile, ideal_nops
from xsplice_plugins.hypervisor.facts.releases import Release
from xsplice_plugins.hypervisor.facts.verdicts import Verdict
from xsplice_plugins.hypervisor.image.alternatives import (
    ENDBR64,
    ENDBR64_POISON,
    apply_alternatives,
    parse_alternatives,
)
from xsplice_plugins.hypervisor.image.image import Image, Region, Symbol, arena_of, index_symbols
from xsplice_plugins.hypervisor.image.memory import RO, RW, RX, Memory, Perm, Segment
from xsplice_plugins.hypervisor.image.syms_file import SymsFile

_PERMS = {"text": RX, "rodata": RO, "init": Perm.NONE, "data": RW}
_STEP = "boot"


def image_after_boot(syms: SymsFile, *, release: Release, cpu: CpuProfile) -> Image:
    """Take a hypervisor's file as it is in memory after boot.

    Args:
        syms: the file.
        release: decides how alternatives are encoded.
        cpu: decides which are applied.

    Returns:
        The image.

    Raises:
        ElfFormatError: the file's own tables cannot be applied.
    """
    symbols = _symbols(syms)
    table, ambiguous = index_symbols(symbols)
    places = {name: symbol.addr_virt for name, symbol in table.items()}
    memory = _boot_memory(syms)
    _fill_tables(memory, symbols, cpu)
    try:
        null_calls = _patch_text(memory, places, release=release, cpu=cpu, syms=syms)
        ex_table = _ex_table(memory, places)
        bug_frames = _bug_frames(memory, places, is_x86=syms.arch == X86_64)
        build_id = _build_id(memory, places)
    except (Verdict, struct.error) as exc:
        raise ElfFormatError(f"xen-syms: its own tables do not fit ({exc}); rebuild it") from exc
    regions = tuple(
        Region(name=s.name, addr_virt=s.addr_virt, data=bytes(s.data), perm=_PERMS[s.name])
        for s in memory.segments()
    )
    text = next((region for region in regions if region.name == "text"), None)
    if text is None:
        raise ElfFormatError("xen-syms: no .text section; give the linked hypervisor")
    return Image(
        arch=syms.arch,
        regions=regions,
        symbols=table,
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
        has_ideal_nops=_has_ideal_nops(memory, places, cpu),
        has_ibt=_has_ibt(places),
        arena=arena_of(
            syms.arch,
            text_virt=text.addr_virt,
            end_virt=regions[-1].addr_virt + len(regions[-1].data),
        ),
        cpu=cpu,
        digest=hashlib.sha256(syms.data).hexdigest(),
    )


def _symbols(syms: SymsFile) -> tuple[Symbol, ...]:
    return tuple(
        Symbol(
            name=raw.name,
            addr_virt=raw.addr_virt,
            size_bytes=raw.size_bytes,
            is_function=raw.is_function,
        )
        for raw in syms.symbols
    )


def _boot_memory(syms: SymsFile) -> Memory:
    memory = Memory()
    for name, addr_virt, data in syms.regions:
        memory.map(
            Segment(
                addr_virt=addr_virt,
                data=bytearray(data),
                perm=RW | Perm.EXEC,
                name=name,
                owner="xen",
            )
        )
    return memory


def _fill_tables(memory: Memory, symbols: tuple[Symbol, ...], cpu: CpuProfile) -> None:
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
    return places.get("__initdata_cf_clobber_start", 0) != places.get(
        "__initdata_cf_clobber_end", 0
    )


def _has_ideal_nops(memory: Memory, places: dict[str, int], cpu: CpuProfile) -> bool:
    """Whether the assembler's nine-byte NOP is the one Xen would choose."""
    name = next((name for name in places if name.endswith("#toolchain_nops")), None)
    if name is None:
        return False
    return memory.read(places[name], 9, step=_STEP) == ideal_nops(cpu, 9)


def _patch_text(
    memory: Memory, places: dict[str, int], *, release: Release, cpu: CpuProfile, syms: SymsFile
) -> tuple[tuple[int, int], ...]:
    start, end = places.get("__alt_instructions"), places.get("__alt_instructions_end")
    if syms.arch != X86_64 or start is None or end is None:
        return ()
    size = (end - start) // release.alt_entry_bytes * release.alt_entry_bytes
    null_calls = apply_alternatives(
        memory,
        parse_alternatives(
            memory.read(start, size, step=_STEP), start, entry_bytes=release.alt_entry_bytes
        ),
        cpu=cpu,
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
    start, end = places["__initdata_cf_clobber_start"], places["__initdata_cf_clobber_end"]
    text = (places.get("_stext", 0), places.get("_etext", 0))
    for (target,) in struct.iter_unpack("<Q", memory.read(start, (end - start) & ~7, step=_STEP)):
        if text[0] <= target < text[1] and memory.read(target, 4, step=_STEP) == ENDBR64:
            memory.write(target, ENDBR64_POISON, step=_STEP)


def _ex_table(memory: Memory, places: dict[str, int]) -> dict[int, int]:
    start, end = places.get("__start___ex_table"), places.get("__stop___ex_table")
    if start is None or end is None:
        return {}
    rows = struct.iter_unpack("<ii", memory.read(start, (end - start) & ~7, step=_STEP))
    return {
        start + 8 * index + addr: start + 8 * index + 4 + cont
        for index, (addr, cont) in enumerate(rows)
    }


def _bug_frames(memory: Memory, places: dict[str, int], *, is_x86: bool) -> dict[int, int]:
    frames: dict[int, int] = {}
    start = places.get("__start_bug_frames")
    for kind in range(4):
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


def _build_id(memory: Memory, places: dict[str, int]) -> bytes | None:
    start, end = places.get("__note_gnu_build_id_start"), places.get("__note_gnu_build_id_end")
    if start is None or end is None or end - start <= 12:
        return None
    note = memory.read(start, end - start, step=_STEP)
    name_size, size, kind = struct.unpack_from("<III", note)
    skip = 12 + (name_size + 3 & ~3)
    return note[skip : skip + size] if kind == 3 and size else None
