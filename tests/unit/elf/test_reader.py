# SPDX-License-Identifier: Apache-2.0
"""The reader against pyelftools, and against damaged files."""

from __future__ import annotations

import contextlib
import io
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.types import SHT_NOBITS, SHT_REL, STT_SECTION, Symbol
from xsplice_plugins.errors import ElfFormatError, XspliceError

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.toolchain


def everything(data: bytes) -> None:
    """Touch all that a reader offers."""
    elf = read_elf(data, "file")
    assert elf.symbols is not None
    assert elf.section_by_name is not None
    for section in elf.sections:
        elf.relocs(section)


@pytest.mark.parametrize("kind", ["object", "image"])
def test_sections_agree_with_pyelftools(kind: str, object_path: Path, image_path: Path) -> None:
    from elftools.elf.elffile import ELFFile  # noqa: PLC0415

    data = (object_path if kind == "object" else image_path).read_bytes()
    mine, theirs = read_elf(data, "file"), ELFFile(io.BytesIO(data))
    assert len(mine.sections) == theirs.num_sections()
    for section, other in zip(mine.sections, theirs.iter_sections(), strict=True):
        assert (section.name, section.flags, section.addr_virt, section.size_bytes) == (
            other.name,
            other["sh_flags"],
            other["sh_addr"],
            other["sh_size"],
        )
        assert (section.link, section.info, section.align_bytes, section.entry_size_bytes) == (
            other["sh_link"],
            other["sh_info"],
            other["sh_addralign"],
            other["sh_entsize"],
        )
        if section.type not in (0, SHT_NOBITS):
            assert section.data == other.data()
        else:
            assert section.data == b""


@pytest.mark.parametrize("kind", ["object", "image"])
def test_symbols_agree_with_pyelftools(kind: str, object_path: Path, image_path: Path) -> None:
    from elftools.elf.elffile import ELFFile  # noqa: PLC0415

    data = (object_path if kind == "object" else image_path).read_bytes()
    table = ELFFile(io.BytesIO(data)).get_section_by_name(".symtab")
    mine = read_elf(data, "file").symbols
    theirs = list(table.iter_symbols())
    assert len(mine) == len(theirs)
    special = {"SHN_UNDEF": 0, "SHN_ABS": 0xFFF1, "SHN_COMMON": 0xFFF2}
    for number, (symbol, other) in enumerate(zip(mine, theirs, strict=True)):
        assert symbol.number == number
        assert symbol.name == ("" if symbol.type == STT_SECTION else other.name)
        assert (symbol.value, symbol.size_bytes) == (other["st_value"], other["st_size"])
        assert symbol.shndx == special.get(other["st_shndx"], other["st_shndx"])


def test_relocations_agree_with_pyelftools(object_path: Path) -> None:
    from elftools.elf.elffile import ELFFile  # noqa: PLC0415

    data = object_path.read_bytes()
    mine, theirs = read_elf(data, "file"), ELFFile(io.BytesIO(data))
    count = 0
    for section in mine.sections:
        other = theirs.get_section_by_name(".rela" + section.name)
        if other is None:
            assert mine.relocs(section) == ()
            continue
        rows = [
            (r["r_offset"], r["r_info_type"], r["r_info_sym"], r["r_addend"])
            for r in other.iter_relocations()
        ]
        assert [tuple(r) for r in mine.relocs(section)] == rows
        count += len(rows)
    assert count > 20


def test_locals_are_decorated_with_their_file_and_globals_are_not(image_path: Path) -> None:
    names = {s.name: s for s in read_elf(image_path.read_bytes(), "image").symbols}
    assert names["local"].decorated == "file.c#local"
    assert names["visible"].decorated == "visible"
    assert names["soft"].decorated == "soft"


def test_section_symbols_carry_no_name(object_path: Path) -> None:
    symbols = read_elf(object_path.read_bytes(), "file").symbols
    assert isinstance(symbols[0], Symbol)
    assert {s.name for s in symbols if s.type == 3} == {""}


@pytest.mark.parametrize(
    ("offset", "value"),
    [(0, b"\0"), (4, b"\x01"), (5, b"\x02"), (6, b"\0"), (58, b"\x3f"), (62, b"\xff\xff")],
    ids=["magic", "32-bit", "big-endian", "version", "shentsize", "shstrndx"],
)
def test_wrong_header_fields_are_refused(object_path: Path, offset: int, value: bytes) -> None:
    data = bytearray(object_path.read_bytes())
    everything(bytes(data))
    data[offset : offset + len(value)] = value
    with pytest.raises(ElfFormatError):
        read_elf(bytes(data), "file")


def test_no_cut_is_accepted(object_path: Path) -> None:
    """The section headers stand last, so every shorter file lacks one."""
    data = object_path.read_bytes()
    for size in (*range(200), *range(len(data) - 200, len(data))):
        with pytest.raises(ElfFormatError):
            read_elf(data[:size], "file")


def test_relocation_against_a_symbol_out_of_range_is_refused(object_path: Path) -> None:
    data = bytearray(object_path.read_bytes())
    elf = read_elf(bytes(data), "file")
    rela = elf.section_by_name[".rela.text.visible"]
    struct.pack_into("<I", data, rela.offset_file + 12, len(elf.symbols))
    damaged = read_elf(bytes(data), "file")
    with pytest.raises(ElfFormatError, match="names symbol"):
        damaged.relocs(damaged.section_by_name[".text.visible"])
    struct.pack_into("<I", data, rela.offset_file + 12, len(elf.symbols) - 1)
    sound = read_elf(bytes(data), "file")
    assert sound.relocs(sound.section_by_name[".text.visible"])


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damage_anywhere_raises_our_errors_only(data: st.DataObject, object_path: Path) -> None:
    whole = bytearray(object_path.read_bytes())
    headers = struct.unpack_from("<Q", whole, 40)[0]
    place = data.draw(
        st.one_of(st.integers(0, 63), st.integers(headers, len(whole) - 8)), label="place"
    )
    value = data.draw(
        st.sampled_from([0, 1, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, (1 << 63) - 1, (1 << 64) - 1]),
        label="value",
    )
    size = data.draw(st.sampled_from([1, 2, 4, 8]), label="size")
    whole[place : place + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    # Anything but one of our own errors fails the test.
    with contextlib.suppress(XspliceError):
        everything(bytes(whole))


def test_rel_sections_are_not_taken_for_rela(object_path: Path) -> None:
    data = bytearray(object_path.read_bytes())
    elf = read_elf(bytes(data), "file")
    rela = elf.section_by_name[".rela.text.visible"]
    shoff = struct.unpack_from("<Q", data, 40)[0]
    struct.pack_into("<I", data, shoff + rela.index * 64 + 4, SHT_REL)
    changed = read_elf(bytes(data), "file")
    assert changed.relocs(changed.section_by_name[".text.visible"]) == ()
