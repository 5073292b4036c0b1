# SPDX-License-Identifier: Apache-2.0
"""How far data alone reaches: a made-up section is a row, a made-up machine is a value."""

from __future__ import annotations

import ast
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from tests.kit.differ_inputs import assemble, diff
from tests.kit.link_inputs import Compiler, closure_delta, link
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.types import SHF_ALLOC, SHF_EXECINSTR, SHT_PROGBITS, STB_GLOBAL, STT_FUNC
from xsplice_plugins.elf.writer import UNDEFINED, OutReloc, OutSection, OutSymbol, write_object
from xsplice_plugins.errors import ConfigError, LinkError
from xsplice_plugins.target import machines, sections
from xsplice_plugins.target.arm64 import ARM64
from xsplice_plugins.target.sections import SpecialSection

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xsplice_plugins.artefacts import Facts

LIBRARY = Path(sections.__file__).parents[1]

ROW = SpecialSection(
    pattern=r"\.strange_sites",
    entry_size_bytes=12,
    owner_field=4,
    bounds=("__strange_start", "__strange_end"),
    rewritten="a strange site",
    rewritten_lengths=(8,),
)
SITES = """
.file "a.c"
.section .text.f, "ax"
.globl f
.type f, @function
f: nop; nop; nop; nop
1: nop; nop
ret
.size f, .-f
.section .strange_sites, "a"
.long {number}, 1b - ., 2
"""


@pytest.fixture
def strange(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Add one row, as a change of one line would."""
    known = sections._xen_tables

    def tables(facts: Facts) -> Iterator[SpecialSection]:
        yield from known(facts)
        yield ROW

    monkeypatch.setattr(sections, "_xen_tables", tables)
    sections.profile_of.cache_clear()
    yield
    sections.profile_of.cache_clear()


def changed_by_its_entry(folder: Path) -> tuple[list[str], list[str]]:
    before, after = (assemble(folder, SITES.format(number=n)) for n in (1, 2))
    delta = diff(before, after)
    return [c.name for c in delta.changed], [r.code for r in delta.refused]


@pytest.mark.toolchain
def test_a_row_gives_entries_to_functions(strange: None, tmp_path: Path) -> None:
    assert changed_by_its_entry(tmp_path) == (["f"], [])


@pytest.mark.toolchain
def test_without_the_row_the_difference_is_unexplained(tmp_path: Path) -> None:
    assert changed_by_its_entry(tmp_path) == ([], ["UNEXPLAINED"])


@pytest.mark.toolchain
def test_a_row_is_all_that_the_linker_needs(strange: None, tmp_path: Path) -> None:
    """Entries are packed behind the known tables, and what boot rewrites is not expected."""
    image = Compiler(folder=tmp_path).image_of(
        assemble(tmp_path, SITES.format(number=1).replace(".section .strange_sites", ".section .x"))
    )
    data = assemble(tmp_path, SITES.format(number=2))
    elf = read_elf(link(image, (closure_delta(data, "a.o", ("f",)), data)).data, "payload")
    names = [section.name for section in elf.sections]
    assert elf.section_by_name[".strange_sites"].size_bytes == 12
    assert names.index(".strange_sites") == names.index(".text") + 1
    (reloc,) = elf.relocs(elf.section_by_name[".strange_sites"])
    assert (reloc.offset, reloc.addend) == (4, 4)


@pytest.mark.toolchain
def test_what_boot_rewrites_at_such_sites_is_not_expected(strange: None, tmp_path: Path) -> None:
    bounds = (
        '.section .strange_sites, "a"\n.globl __strange_start\n__strange_start:\n'
        + SITES.format(number=1)
        + ".globl __strange_end\n__strange_end:\n"
    )
    image = Compiler(folder=tmp_path).image_of(assemble(tmp_path, bounds))
    data = assemble(tmp_path, SITES.format(number=1))
    (function,) = link(image, (closure_delta(data, "a.o", ("f",)), data)).record.functions
    assert function.expect == "90909090"
    assert function.expect_note == "a strange site at +0x4 may be rewritten at boot"


# ------------------------------------------------------------------ a machine

MADE_UP = replace(
    ARM64,
    number=243,
    name="made-up",
    first_release=(4, 20),
    relocation_sizes={2: 8, 9: 4},
    none_types=frozenset({0}),
    absolute_type=2,
    jump_size_bytes=8,
    endbr=b"PADS",
    has_anchors=False,
)
ADDR_TEXT_VIRT = 0x8000200000
NOTE = struct.pack("<III4s", 4, 20, 3, b"GNU\0") + bytes(range(20))
NOPS = bytes.fromhex("1f2003d5")


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register a machine, as one word in `machines` would."""
    monkeypatch.setitem(machines.MACHINES, MADE_UP.number, MADE_UP)


def made(code: bytes, *relocs: OutReloc, addr_virt: int = 0) -> bytes:
    """Return an object of one function; with an address, what the linker needs of an image."""
    note = OutSection(name=".note.gnu.build-id", type=7, flags=SHF_ALLOC, align_bytes=4, data=NOTE)
    text = OutSection(
        name=".text.f",
        type=SHT_PROGBITS,
        flags=SHF_ALLOC | SHF_EXECINSTR,
        align_bytes=4,
        data=code,
        relocs=relocs,
    )
    symbols = [
        OutSymbol(
            key="f",
            name="f",
            section=".text.f",
            value=addr_virt,
            size_bytes=len(code),
            bind=STB_GLOBAL,
            type=STT_FUNC,
        ),
        OutSymbol(
            key="get",
            name="get",
            section=".text.f" if addr_virt else UNDEFINED,
            value=addr_virt + 8 if addr_virt else 0,
            bind=STB_GLOBAL,
        ),
    ]
    parts = (text, note) if addr_virt else (text,)
    data = bytearray(write_object(parts, tuple(symbols), machine=MADE_UP.number))
    headers = struct.unpack_from("<Q", data, 40)[0]
    for index, addr in ((1, addr_virt), (2, addr_virt + 4096)) if addr_virt else ():
        struct.pack_into("<Q", data, headers + index * 64 + 16, addr)
    return bytes(data)


def call(kind: int) -> OutReloc:
    return OutReloc(offset=4, type=kind, symbol="get", addend=0)


def test_a_machine_is_compared_and_linked_by_its_value(made_up: None) -> None:
    image = made(b"PADS" + NOPS * 7, addr_virt=ADDR_TEXT_VIRT)
    before, after = made(NOPS * 8, call(9)), made(NOPS * 9, call(9))
    delta = diff(before, after, release="4.22.0")
    assert [c.name for c in delta.changed] == ["f"]
    delta = replace(delta, object_path="a.o")
    payload = link(image, (delta, after), release="4.22.0")
    elf = read_elf(payload.data, "payload")
    assert elf.machine == MADE_UP.number
    assert [reloc.type for reloc in elf.relocs(elf.section_by_name[".text"])] == [9]
    assert {reloc.type for reloc in elf.relocs(elf.section_by_name[".livepatch.funcs"])} == {2}


def test_a_machines_jump_and_landing_pad_count(made_up: None) -> None:
    image = made(b"PADS" + NOPS, addr_virt=ADDR_TEXT_VIRT)
    before, after = made(b"PADS" + NOPS, call(9)), made(NOPS * 9, call(9))
    delta = diff(before, after, release="4.22.0")
    assert [r.code for r in delta.refused] == ["TOO_SHORT"]
    with pytest.raises(LinkError, match="the jump to its replacement needs 12"):
        link(image, (replace(delta, refused=()), after), release="4.22.0")


def test_a_machine_is_known_from_its_first_release_on(made_up: None) -> None:
    with pytest.raises(ConfigError, match=r"no live patching on made-up; use 4\.20 or later"):
        diff(made(NOPS * 8), made(NOPS * 9), release="4.19.5")


# ------------------------------------------------------- what a machine touches

#: Not of a new machine: real hosts are run for two, and an image without a tree may stay nameless.
ELSEWHERE = ("realxen/", "testing/", "elf/banner.py")
NAMES = {"EM_X86_64", "EM_AARCH64", "EM_ARM", "X86_64", "ARM64"}
SECOND = {"EM_AARCH64", "ARM64", "UC_ARCH_ARM64", "arm64", "aarch64"}  #: x86 is what others are not
FILES_MAX = 8  #: that a new machine may touch in the library, its own files included


def files_that_name(words: set[str]) -> set[str]:
    """Return the library's files that name one of these in code."""
    found = set()
    for path in sorted(LIBRARY.rglob("*.py")):
        place = path.relative_to(LIBRARY).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            said = {getattr(node, key, None) for key in ("id", "attr", "name", "value")}
            if any(isinstance(word, str) and word in words for word in said):
                found.add(place)
    return found


def test_a_new_machine_touches_few_files() -> None:
    """What names the second machine, or is named after it, is what a third one touches."""
    own = {path.relative_to(LIBRARY).as_posix() for path in LIBRARY.rglob("*arm64*.py")}
    found = {name for name in files_that_name(SECOND) | own if not name.startswith(ELSEWHERE)}
    found -= {"target/arm64_effects.py"}  # one file with target/arm64.py, in two for its length
    found -= {"target/arm64_erratum.py", "check/erratum.py"}  # of one processor of that machine
    assert "check/fields.py" in found, "the walk sees what it shall see"
    assert len(found) <= FILES_MAX, sorted(found)


def test_the_page_names_the_same_files() -> None:
    page = (LIBRARY.parent / "docs" / "extending.md").read_text(encoding="utf-8")
    table = page.partition("## A machine")[2].partition("## A release")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ") and line[2].isdigit()]
    assert len(rows) == FILES_MAX


def test_differ_and_linker_name_no_machine() -> None:
    rooms = {"diff", "link", "handmade", "report", "pipeline"}
    assert [name for name in files_that_name(NAMES) if name.split("/")[0] in rooms] == []
