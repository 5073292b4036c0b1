# SPDX-License-Identifier: Apache-2.0
"""arm64 objects, written in code: no cross compiler is needed."""

import struct

from tests.kit.differ_inputs import diff, summary
from xsplice_plugins.elf.types import (
    EM_AARCH64,
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHT_PROGBITS,
    STB_GLOBAL,
    STT_FILE,
    STT_FUNC,
    STT_NOTYPE,
    STT_SECTION,
)
from xsplice_plugins.elf.writer import ABSOLUTE, OutReloc, OutSection, OutSymbol, write_object

CALL26, PREL32 = 283, 261
BL, RET, BRK = 0x94000000, 0xD65F03C0, 0xD4200020
TEXT = SHF_ALLOC | SHF_EXECINSTR


def movz(register: int, value: int) -> int:
    return 0x52800000 | value << 5 | register


def branch(words: int) -> int:
    return 0x14000000 | words & 0x3FFFFFF


def build(f: list[int], g: list[int], *, call: int = 1, line: int = 10, bug: int = 2) -> bytes:
    """Return an object of two functions; ``f`` calls ``get`` and has a BUG frame."""
    frame = struct.pack("<iiiHH", 0, 0, 0, line, 0)
    sections = (
        OutSection(
            name=".text.f",
            type=SHT_PROGBITS,
            flags=TEXT,
            align_bytes=4,
            data=struct.pack(f"<{len(f)}I", *f),
            relocs=(OutReloc(offset=4 * call, type=CALL26, symbol="get", addend=0),),
        ),
        OutSection(
            name=".text.g",
            type=SHT_PROGBITS,
            flags=TEXT,
            align_bytes=4,
            data=struct.pack(f"<{len(g)}I", *g),
        ),
        OutSection(
            name=".bug_frames.1",
            type=SHT_PROGBITS,
            flags=SHF_ALLOC,
            align_bytes=4,
            data=frame,
            relocs=(OutReloc(offset=0, type=PREL32, symbol=".text.f", addend=4 * bug),),
        ),
    )
    symbols = (
        OutSymbol(key="file", name="a.c", section=ABSOLUTE, type=STT_FILE),
        OutSymbol(key=".text.f", name="", section=".text.f", type=STT_SECTION),
        OutSymbol(key="$x", name="$x", section=".text.f", type=STT_NOTYPE),
        OutSymbol(
            key="f",
            name="f",
            section=".text.f",
            size_bytes=4 * len(f),
            bind=STB_GLOBAL,
            type=STT_FUNC,
        ),
        OutSymbol(
            key="g",
            name="g",
            section=".text.g",
            size_bytes=4 * len(g),
            bind=STB_GLOBAL,
            type=STT_FUNC,
        ),
        OutSymbol(key="get", name="get", section="", bind=STB_GLOBAL),
    )
    return write_object(sections, symbols, machine=EM_AARCH64)


F = [movz(0, 1), BL, BRK, RET]
G = [movz(0, 5), branch(1), RET]


def test_one_changed_word_changes_its_function() -> None:
    delta = diff(build(F, G), build(F, [movz(0, 6), branch(1), RET]))
    assert summary(delta) == (["g"], [], [], [])
    difference = delta.changed[0].difference
    assert difference is not None
    assert "#5" in difference.before
    assert "#6" in difference.after


def test_a_moved_line_in_a_bug_frame_is_told_apart() -> None:
    delta = diff(build(F, G, line=10), build(F, G, line=17))
    assert summary(delta) == ([], [], ["f"], [])
    assert delta.line_only[0].reason == "line 10 became 17"


def test_a_changed_function_takes_its_bug_frame_along() -> None:
    after = build([movz(0, 2), *F[1:]], G)
    delta = diff(build(F, G), after)
    assert summary(delta) == (["f"], [], [], [])
    assert [(e.section, e.size_bytes) for e in delta.extents] == [(1, 16), (3, 16)]


def test_branches_count_by_their_target() -> None:
    before = [movz(0, 5), branch(2), movz(0, 6), RET]
    after = [movz(0, 5), branch(1), movz(0, 6), RET]
    assert summary(diff(build(F, before), build(F, after))) == (["g"], [], [], [])


def test_one_instruction_holds_the_jump() -> None:
    delta = diff(build(F, [RET]), build(F, [BRK]))
    assert summary(delta) == (["g"], [], [], [])
