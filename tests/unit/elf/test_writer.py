# SPDX-License-Identifier: Apache-2.0
"""The writer against readelf, ld and lief."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.types import (
    EM_AARCH64,
    EM_X86_64,
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHF_WRITE,
    SHT_NOBITS,
    SHT_NOTE,
    SHT_PROGBITS,
    STB_GLOBAL,
    STT_FUNC,
    STT_SECTION,
)
from xsplice_plugins.elf.writer import (
    ABSOLUTE,
    UNDEFINED,
    OutReloc,
    OutSection,
    OutSymbol,
    write_object,
)

if TYPE_CHECKING:
    from pathlib import Path

CODE = bytes.fromhex("e800000000c3")  # call ?; ret
SECTIONS = (
    OutSection(
        name=".text",
        type=SHT_PROGBITS,
        flags=SHF_ALLOC | SHF_EXECINSTR,
        align_bytes=16,
        data=CODE,
        relocs=(OutReloc(offset=1, type=4, symbol="there", addend=-4),),
    ),
    OutSection(
        name=".data",
        type=SHT_PROGBITS,
        flags=SHF_ALLOC | SHF_WRITE,
        align_bytes=8,
        data=bytes(16),
        relocs=(
            OutReloc(offset=0, type=1, symbol="text", addend=1),
            OutReloc(offset=8, type=1, symbol="here", addend=0),
        ),
    ),
    OutSection(
        name=".bss",
        type=SHT_NOBITS,
        flags=SHF_ALLOC | SHF_WRITE,
        align_bytes=0,
        size_bytes=1 << 20,
    ),
    OutSection(name=".empty", type=SHT_PROGBITS, flags=SHF_ALLOC, align_bytes=1),
)
SYMBOLS = (
    OutSymbol(key="there", name="there", section=UNDEFINED, bind=STB_GLOBAL),
    OutSymbol(key="text", name="", section=".text", type=STT_SECTION),
    OutSymbol(
        key="here",
        name="file.c#here",
        section=".text",
        type=STT_FUNC,
        size_bytes=6,
        bind=STB_GLOBAL,
    ),
    OutSymbol(key="fixed", name="fixed", section=ABSOLUTE, value=0x1000),
)


@pytest.fixture
def written() -> bytes:
    return write_object(SECTIONS, SYMBOLS, machine=EM_X86_64)


def readelf(path: Path, *options: str) -> str:
    run = subprocess.run(
        ["readelf", "-W", *options, str(path)], capture_output=True, text=True, check=True
    )
    assert run.stderr == ""
    return run.stdout


@pytest.mark.toolchain
def test_readelf_sees_what_was_written(written: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.o"
    path.write_bytes(written)
    header = readelf(path, "-h")
    assert re.search(r"Type:\s+REL", header)
    assert "X86-64" in header
    sections = readelf(path, "-S")
    assert re.search(r"\.bss\s+NOBITS\s+0+ \w+ 100000 00\s+WA", sections)
    assert re.search(r"\.rela\.text\s+RELA\s+\w+ \w+ 000018 18\s+I\s+7\s+1\s+8", sections)
    symbols = readelf(path, "-s")
    assert re.search(r"FUNC\s+GLOBAL DEFAULT\s+1 file\.c#here", symbols)
    assert re.search(r"NOTYPE\s+GLOBAL DEFAULT\s+UND there", symbols)
    assert re.search(r"1000\s+0 NOTYPE\s+LOCAL\s+DEFAULT\s+ABS fixed", symbols)
    relocs = readelf(path, "-r")
    assert re.search(r"R_X86_64_PLT32\s+0+ there - 4", relocs)
    assert re.search(r"R_X86_64_64\s+0+ \.text \+ 1", relocs)


@pytest.mark.toolchain
def test_ld_links_what_was_written(written: bytes, tmp_path: Path) -> None:
    (tmp_path / "file.o").write_bytes(written)
    subprocess.run(
        ["ld", "-e", "0", "--defsym=there=0x401000", "-Ttext=0x400000", "-o", "out", "file.o"],
        cwd=tmp_path,
        check=True,
    )
    image = read_elf((tmp_path / "out").read_bytes(), "out")
    text, data = (image.section_by_name[name] for name in (".text", ".data"))
    displacement = int.from_bytes(text.data[1:5], "little", signed=True)
    assert text.addr_virt + 5 + displacement == 0x401000
    assert int.from_bytes(data.data[:8], "little") == text.addr_virt + 1
    assert int.from_bytes(data.data[8:], "little") == text.addr_virt


def test_lief_sees_what_was_written(written: bytes) -> None:
    import lief  # noqa: PLC0415

    binary = lief.ELF.parse(list(written))
    assert binary is not None
    names = [section.name for section in binary.sections]
    assert names[1:5] == [".text", ".data", ".bss", ".empty"]
    assert {r.address for r in binary.object_relocations} == {0, 1, 8}


def test_reader_gives_back_what_was_written(written: bytes) -> None:
    elf = read_elf(written, "file")
    for section in SECTIONS:
        found = elf.section_by_name[section.name]
        assert (found.type, found.flags, found.data) == (section.type, section.flags, section.data)
        assert found.align_bytes == max(1, section.align_bytes)
        assert [(r.offset, r.type, r.addend) for r in elf.relocs(found)] == [
            (r.offset, r.type, r.addend) for r in section.relocs
        ]
    symbols = elf.symbols[1:]
    assert {s.name for s in symbols} == {s.name for s in SYMBOLS}
    locals_ = [s.is_local for s in symbols]
    assert locals_ == sorted(locals_, reverse=True), "locals come first"
    table = elf.symbol_section
    assert table is not None
    assert table.info == sum(locals_) + 1


def test_every_section_has_an_offset_behind_the_header_and_an_alignment(written: bytes) -> None:
    for section in read_elf(written, "file").sections[1:]:
        assert section.offset_file >= 64
        assert section.align_bytes >= 1
        assert section.offset_file % section.align_bytes == 0


def test_same_values_give_the_same_bytes(written: bytes) -> None:
    assert write_object(SECTIONS, SYMBOLS, machine=EM_X86_64) == written
    assert write_object(SECTIONS, SYMBOLS, machine=EM_AARCH64) != written


def test_equal_names_share_one_place_in_the_string_table() -> None:
    symbols = tuple(OutSymbol(key=f"k{i}", name="same", section=".text", value=i) for i in range(3))
    elf = read_elf(write_object(SECTIONS[:1], (*symbols, SYMBOLS[0]), machine=62), "file")
    assert elf.section_by_name[".strtab"].data.count(b"same\0") == 1
    assert [s.value for s in elf.symbols if s.name == "same"] == [0, 1, 2]


@pytest.mark.parametrize("what", ["sections", "symbols"])
def test_repeated_names_of_our_own_are_a_broken_invariant(what: str) -> None:
    sections = SECTIONS + SECTIONS[:1] if what == "sections" else SECTIONS
    symbols = SYMBOLS + SYMBOLS[:1] if what == "symbols" else SYMBOLS
    with pytest.raises(AssertionError, match="unique"):
        write_object(sections, symbols, machine=EM_X86_64)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from([1, 2, 4, 8, 16, 64, 4096]),
            st.binary(max_size=70),
            st.sampled_from([SHT_PROGBITS, SHT_NOTE, SHT_NOBITS]),
        ),
        max_size=12,
    )
)
def test_any_sections_come_back(rows: list[tuple[int, bytes, int]]) -> None:
    sections = tuple(
        OutSection(
            name=f".s{i}",
            type=kind,
            flags=SHF_ALLOC,
            align_bytes=align,
            data=b"" if kind == SHT_NOBITS else data,
            size_bytes=len(data),
        )
        for i, (align, data, kind) in enumerate(rows)
    )
    elf = read_elf(write_object(sections, (), machine=EM_X86_64), "file")
    for section, (align, data, kind) in zip(elf.sections[1:], rows, strict=False):
        assert (section.align_bytes, section.type, section.size_bytes) == (align, kind, len(data))
        assert section.data == (b"" if kind == SHT_NOBITS else data)
