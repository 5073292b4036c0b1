# SPDX-License-Identifier: Apache-2.0
"""Erratum 843419: what the linker did about it is taken back, and who meets it is told."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pytest

from tests.unit.check.building import run
from xsplice_plugins.artefacts import Severity
from xsplice_plugins.check.base import match_objects
from xsplice_plugins.check.erratum import met
from xsplice_plugins.check.memory import Image, read_image
from xsplice_plugins.check.results import ImageMatch
from xsplice_plugins.check.tables import layouts
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.types import EM_AARCH64, EM_X86_64, SHF_ALLOC, SHF_EXECINSTR, SHT_PROGBITS
from xsplice_plugins.elf.writer import OutSection, write_object
from xsplice_plugins.pipeline.checking import erratum_findings
from xsplice_plugins.target.known import known_facts

SIZES = layouts(known_facts("4.17.5", EM_AARCH64))
NOP = bytes.fromhex("1f2003d5")
#: adrp x2; str w1, [x0]; (nop;) ldr w0, [x2]
AT_ONCE = struct.pack("<III", 0x90000002, 0xB9000001, 0xB9400040)
LATER = struct.pack("<IIII", 0x90000002, 0xB9000001, 0xD503201F, 0xB9400040)
SOURCE = """
 .section .text.first, "ax"
 .globl first
 .type first, @function
first: .space {before:#x}, 0
 adrp x2, kept
 str w1, [x0]
{between}
 ldr w0, [x2, #:lo12:kept]
 ret
 .size first, . - first
 .section .text.second, "ax"
 .globl second
 .type second, @function
second: mov w0, #1
 ret
 .size second, . - second
 .data
 .globl kept
 .type kept, @object
kept: .word 5
 .size kept, 4
"""
SCRIPT = """SECTIONS {{
  . = 0xa0000200000;
  .text : {{ *(.text.first) *(.text.second) }}
  . = 0xa0000{data};
  .data : {{ *(.data) }}
}}
"""

needs_linker = pytest.mark.skipif(
    not shutil.which("aarch64-linux-gnu-ld"), reason="no arm64 linker; binutils-aarch64-linux-gnu"
)


def linked(folder: Path, *options: str, before: int, data: str, between: str = "") -> Path:
    (folder / "unit.s").write_text(SOURCE.format(before=before, between=between))
    (folder / "unit.lds").write_text(SCRIPT.format(data=data))
    run("aarch64-linux-gnu-as", "-o", "unit.o", "unit.s", cwd=folder)
    run("aarch64-linux-gnu-ld", *options, "-T", "unit.lds", "-e", "first", "-o", "image",
        "unit.o", cwd=folder)  # fmt: skip
    return folder / "image"


def held(image: Image, folder: Path) -> ImageMatch:
    return match_objects(image, [("unit.o", (folder / "unit.o").read_bytes())], SIZES)


@needs_linker
@pytest.mark.parametrize("between", ["", " nop"])
@pytest.mark.parametrize("before", [0xFF8, 0xFFC])
@pytest.mark.parametrize(("data", "is_near"), [("210000", True), ("900000", False)])
def test_what_the_linker_mended_is_what_the_objects_hold(
    tmp_path: Path, data: str, before: int, between: str, *, is_near: bool
) -> None:
    """Near it makes an ADR of the ADRP, far it branches to a copy."""
    plain = linked(tmp_path, before=before, data=data, between=between).read_bytes()
    assert held(read_image(plain, "image", SIZES), tmp_path).held
    path = linked(tmp_path, "--fix-cortex-a53-843419", before=before, data=data, between=between)
    raw = path.read_bytes()
    image = read_image(raw, "image", SIZES)
    found = held(image, tmp_path)
    assert found.held, found
    assert not found.strangers
    ((start, end),) = image.linkers
    assert end - start == 4096
    text = read_elf(raw, "image").section_by_name[".text"]
    later = before + 8 + len(between and NOP)
    place = before if is_near else later
    assert image.read(text.addr_virt + place, 4) != text.data[place : place + 4]
    assert image.stored(text.addr_virt + place, 4) == text.data[place : place + 4]
    for offset in (place, start - text.addr_virt + 8, start - text.addr_virt + 12):
        changed = bytearray(raw)
        changed[text.offset_file + offset] ^= 0x20
        assert not held(read_image(bytes(changed), "image", SIZES), tmp_path).held


@needs_linker
def test_code_that_needs_no_mend_and_code_of_others_is_left_as_it_is(tmp_path: Path) -> None:
    path = linked(tmp_path, "--fix-cortex-a53-843419", before=0xFF4, data="210000")
    assert not read_image(path.read_bytes(), "image", SIZES).linkers
    path = linked(tmp_path, "--fix-cortex-a53-843419", before=0xFFC, data="210000")
    other = bytearray(path.read_bytes())
    struct.pack_into("<H", other, 18, EM_X86_64)
    assert not read_image(bytes(other), "image", SIZES).linkers


def payload(*codes: bytes, align: int = 4, machine: int = EM_AARCH64) -> bytes:
    return write_object(
        tuple(
            OutSection(
                name=f".text.{number}",
                type=SHT_PROGBITS,
                flags=SHF_ALLOC | SHF_EXECINSTR,
                align_bytes=align,
                data=code,
            )
            for number, code in enumerate(codes)
        ),
        (),
        machine=machine,
    )


@pytest.mark.parametrize("code", [AT_ONCE, LATER])
@pytest.mark.parametrize(
    ("at", "is_met"), [(0xFF4, False), (0xFF8, True), (0xFFC, True), (0, False)]
)
def test_who_meets_it_is_told(code: bytes, at: int, *, is_met: bool) -> None:
    whole = NOP * (at // 4) + code
    expected = [f".text.0+{at:#x}"] if is_met else []
    assert list(met(read_elf(payload(whole), "payload"))) == expected
    apart = read_elf(payload(NOP * (at // 4), code), "payload")
    assert list(met(apart)) == ([".text.1+0x0"] if is_met else [])
    assert not list(met(read_elf(payload(whole, machine=EM_X86_64), "payload")))
    (said, *more) = [*erratum_findings("fix", payload(whole)), None]
    if is_met:
        assert said is not None
        assert said.severity is Severity.UNCHECKED
        assert "erratum 843419 of Cortex-A53" in said.text
    assert more == ([None] if is_met else [])


def test_where_a_section_begins_counts() -> None:
    first = NOP * (0xFF0 // 4)
    assert list(met(read_elf(payload(first, NOP + NOP + AT_ONCE), "payload")))
    assert not list(met(read_elf(payload(first, NOP + NOP + AT_ONCE, align=32), "payload")))


@pytest.mark.parametrize(
    "words",
    [
        (0x90000002, 0xD503201F, 0xB9400040),  # no load or store behind it
        (0x90000002, 0xB9000001, 0xB9400020),  # by another register
        (0x10000002, 0xB9000001, 0xB9400040),  # ADR
        (0x90000002, 0xB9000001, 0xD503201F, 0xD503201F, 0xB9400040),  # too late
        (0x90000002, 0xB9000001),
    ],
)
def test_what_the_notice_does_not_speak_of_is_no_meeting(words: tuple[int, ...]) -> None:
    code = NOP * (0xFFC // 4) + struct.pack(f"<{len(words)}I", *words)
    assert not list(met(read_elf(payload(code), "payload")))
