# SPDX-License-Identifier: Apache-2.0
"""Payloads for arm64, from objects and an image written by hand: no cross compiler is needed."""

from __future__ import annotations

import hashlib
import struct

import pytest
from msgspec import structs

from tests.kit.link_inputs import link
from xsplice_plugins.artefacts import Cause, ChangedFunction, Delta, Extent
from xsplice_plugins.check.erratum import met
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.types import (
    EM_AARCH64,
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHT_PROGBITS,
    STB_GLOBAL,
    STT_FUNC,
)
from xsplice_plugins.elf.writer import UNDEFINED, OutReloc, OutSection, OutSymbol, write_object
from xsplice_plugins.errors import ConfigError, LinkError, RefusedError, RelocationError

ADDR_TEXT_VIRT = 0xA0000200000
NOTE = struct.pack("<III4s", 4, 20, 3, b"GNU\0") + bytes(range(20))
ABS64, PREL32, LO19, HI21, LO12, CALL26 = 257, 261, 273, 275, 277, 283


def text(name: str, size: int, *relocs: OutReloc) -> OutSection:
    return OutSection(
        name=name,
        type=SHT_PROGBITS,
        flags=SHF_ALLOC | SHF_EXECINSTR,
        align_bytes=4,
        data=bytes.fromhex("1f2003d5") * (size // 4),
        relocs=relocs,
    )


def symbol(name: str, section: str, value: int = 0, size: int = 0) -> OutSymbol:
    return OutSymbol(
        key=name,
        name=name,
        section=section,
        value=value,
        size_bytes=size,
        bind=STB_GLOBAL,
        type=STT_FUNC if section else 0,
    )


def image(far_bytes: int = 0, size: int = 16, *, boot: bytes = b"") -> bytes:
    """Return an image with `entry` and `other`; something lies ``far_bytes`` behind them.

    With ``boot``, the first instruction of `entry`, `other` lies in memory that boot frees.
    """
    note = OutSection(name=".note.gnu.build-id", type=7, flags=SHF_ALLOC, align_bytes=4, data=NOTE)
    code = text(".text", 16)
    code = structs.replace(code, data=boot + code.data[len(boot) :])
    other = text(".init.text" if boot else ".text.other", 16)
    symbols = (
        symbol("entry", ".text", ADDR_TEXT_VIRT, size),
        symbol("other", other.name, ADDR_TEXT_VIRT + 16, 16),
    )
    data = bytearray(write_object((code, other, note), symbols, machine=EM_AARCH64))
    headers = struct.unpack_from("<Q", data, 40)[0]
    places = (ADDR_TEXT_VIRT, ADDR_TEXT_VIRT + 16, ADDR_TEXT_VIRT + 4096 + far_bytes)
    for index, addr in enumerate(places, 1):
        struct.pack_into("<Q", data, headers + index * 64 + 16, addr)
    return bytes(data)


def part(*relocs: OutReloc, more: tuple[OutSection, ...] = ()) -> tuple[Delta, bytes]:
    sections = (text(".text.entry", 32, *relocs), *more)
    symbols = (symbol("entry", ".text.entry", 0, 32), symbol("other", UNDEFINED))
    data = write_object(sections, symbols, machine=EM_AARCH64)
    changed = ChangedFunction(
        name="entry",
        reason="test",
        cause=Cause.SOURCE,
        symbol="entry",
        symbol_baseline="entry",
        section=".text.entry",
        size_before_bytes=16,
        size_after_bytes=32,
    )
    elf = read_elf(data, "a.o")
    return (
        Delta(
            object_path="a.o",
            source_path="a.c",
            profile="xen",
            machine=EM_AARCH64,
            digest_new=hashlib.sha256(data).hexdigest(),
            changed=(changed,),
            extents=tuple(
                Extent(
                    section=elf.section_by_name[s.name].index,
                    offset=0,
                    size_bytes=len(s.data),
                    owner="entry",
                )
                for s in sections
            ),
        ),
        data,
    )


def call(kind: int, offset: int = 4, addend: int = 0) -> OutReloc:
    return OutReloc(offset=offset, type=kind, symbol="other", addend=addend)


def test_relocations_of_code_are_kept_with_their_addends() -> None:
    wanted = [(CALL26, 0, 0), (HI21, 8, 0), (LO12, 12, 24)]
    payload = link(image(), part(*(call(kind, at, add) for kind, at, add in wanted)))
    elf = read_elf(payload.data, "payload")
    found = [(r.type, r.offset, r.addend) for r in elf.relocs(elf.section_by_name[".text"])]
    assert found == wanted
    assert payload.record.references == ("other",)
    (function,) = payload.record.functions
    assert function.expect == "1f2003d5" * 4
    funcs = elf.section_by_name[".livepatch.funcs"]
    assert {r.type for r in elf.relocs(funcs)} == {ABS64}


def test_boot_code_that_the_old_function_calls_too_stays() -> None:
    """As `xen_pt_update` calls `alloc_boot_pages`, behind a question of `system_state`."""
    calls, calls_elsewhere = (struct.pack("<I", 0x94000000 | words) for words in (4, 5))
    payload = link(image(boot=calls), part(call(CALL26)))
    assert any("`other` is freed after boot" in note for note in payload.record.notes)
    with pytest.raises(RefusedError, match="needs `other`, whose memory is freed after boot"):
        link(image(boot=calls_elsewhere), part(call(CALL26)))


@pytest.mark.parametrize("kind", [0, 256])
def test_relocations_without_effect_are_not_written(kind: int) -> None:
    elf = read_elf(link(image(), part(call(kind))).data, "payload")
    assert ".rela.text" not in elf.section_by_name


@pytest.mark.parametrize(
    ("kind", "word"), [(LO19, "R_AARCH64_LD_PREL_LO19"), (311, "ADR_GOT_PAGE"), (999, "type 999")]
)
def test_relocations_that_the_loader_lacks_are_refused_by_name(kind: int, word: str) -> None:
    with pytest.raises(RelocationError, match=rf"a\.o\(\.text\.entry\+0x4\): .*{word}"):
        link(image(), part(call(kind)))


def test_field_that_leaves_its_range_is_refused() -> None:
    link(image(), part(call(ABS64, offset=24)))
    with pytest.raises(RelocationError, match="crosses the end"):
        link(image(), part(call(ABS64, offset=28)))


def test_branch_must_reach_from_the_function_to_the_payload() -> None:
    link(image(far_bytes=(128 << 20) - 8192), part(call(CALL26)))
    with pytest.raises(LinkError, match="lies farther than 0x8000000 bytes"):
        link(image(far_bytes=128 << 20), part(call(CALL26)))


@pytest.mark.parametrize(("size", "is_ok"), [(4, True), (3, False)])
def test_function_without_room_for_one_instruction_is_refused(size: int, is_ok: bool) -> None:
    if is_ok:
        link(image(size=size), part())
        return
    with pytest.raises(LinkError, match="needs 4"):
        link(image(size=size), part())


def test_exception_tables_are_refused() -> None:
    table = OutSection(
        name=".ex_table", type=SHT_PROGBITS, flags=SHF_ALLOC, align_bytes=4, data=bytes(8)
    )
    with pytest.raises(LinkError, match="on arm64 takes no such section"):
        link(image(), part(more=(table,)))


def longer(words: tuple[int, ...], size: int) -> tuple[Delta, bytes]:
    """Return a part of which the code ends with some words."""
    code = text(".text.more", size)
    data = code.data[: size - 4 * len(words)] + struct.pack(f"<{len(words)}I", *words)
    return part(more=(structs.replace(code, data=data),))


def test_code_is_moved_from_where_an_erratum_meets_it() -> None:
    sequence = (0x90000002, 0xB9000001, 0xB9400040)  # adrp x2; str w1, [x0]; ldr w0, [x2]
    for behind in (4, 8):  # bytes of the page that are left for it, behind `entry`
        size = 4096 - 32 - behind + 12
        plain = read_elf(link(image(), longer((), size)).data, "payload")
        moved = read_elf(link(image(), longer(sequence, size)).data, "payload")
        sizes = [len(elf.section_by_name[".text"].data) for elf in (plain, moved)]
        assert sizes == [32 + size, 40 + size]
        assert not list(met(moved))
    with pytest.raises(LinkError, match=r"a\.o\(\.text\.more\): wherever it lies, an erratum"):
        link(image(), longer(sequence * 2048, 3 * 4 * 2048))


def test_release_without_arm64_is_refused() -> None:
    link(image(), part(), release="4.8.0")
    with pytest.raises(ConfigError, match="no live patching on arm64"):
        link(image(), part(), release="4.7.0")


def test_object_of_another_machine_is_refused() -> None:
    delta, data = part()
    other = bytearray(image())
    other[18] = 62
    with pytest.raises(LinkError, match="made for machine 183, the image for 62"):
        link(bytes(other), (delta, data))


@pytest.mark.parametrize(
    ("word", "is_ok"),
    [
        (0x14000004, True),  # b . + 16: the last instruction taken
        (0x14000005, False),  # b . + 20
        (0x54FFFFE0, False),  # b.eq . - 4
        (0xB4000080, True),  # cbz x0, . + 16
        (0xB40000A0, False),  # cbz x0, . + 20
        (0x36080080, True),  # tbz w0, #1, . + 16
        (0x360800A0, False),  # tbz w0, #1, . + 20
        (0x580000A0, False),  # ldr x0, . + 20
        (0xD65F03C0, True),  # ret
    ],
)
def test_branch_out_of_a_range_without_a_relocation_is_refused(word: int, is_ok: bool) -> None:
    delta, data = part()
    section = read_elf(data, "a.o").section_by_name[".text.entry"]
    patched = bytearray(data)
    struct.pack_into("<I", patched, section.offset_file, word)
    struct.pack_into("<Q", patched, patched.index(struct.pack("<QQ", 0, 32)) + 8, 20)
    (extent,) = delta.extents
    delta = structs.replace(
        delta,
        digest_new=hashlib.sha256(patched).hexdigest(),
        extents=(structs.replace(extent, size_bytes=20),),
    )
    if is_ok:
        link(image(), (delta, bytes(patched)))
        return
    with pytest.raises(RefusedError, match="a branch leaves the range"):
        link(image(), (delta, bytes(patched)))
