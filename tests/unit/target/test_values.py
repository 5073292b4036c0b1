# SPDX-License-Identifier: Apache-2.0
"""What arm64 registers hold for sure; x86-64 code is tried through the hooks of payloads."""

from __future__ import annotations

import struct

from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.types import (
    EM_AARCH64,
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHF_WRITE,
    SHT_PROGBITS,
    STB_GLOBAL,
    STT_FUNC,
    STT_OBJECT,
)
from xsplice_plugins.elf.writer import UNDEFINED, OutReloc, OutSection, OutSymbol, write_object
from xsplice_plugins.target.code import Code
from xsplice_plugins.target.known import known_facts
from xsplice_plugins.target.references import References
from xsplice_plugins.target.sections import profile_of
from xsplice_plugins.target.values import Step, Value, ValueFlow

HI21, LO12, CALL26 = 275, 277, 283
ADRP_X0, ADD_X0_X0, MOV_X1_X0, BL, RET = 0x90000000, 0x91000000, 0xAA0003E1, 0x94000000, 0xD65F03C0
MOV_X2_90, CBZ_X3_8, ADD_X0_8 = 0xD2800B42, 0xB4000043, 0x91002000
OWN_PLACE = 0x40
DATA = 2  #: index of the section


def _steps(*words: int) -> list[Step]:
    """Return the steps of code; an address is that of `one`, calls go to `kill_timer`."""
    kinds = {ADRP_X0: (HI21, "one"), ADD_X0_X0: (LO12, "one"), BL: (CALL26, "kill_timer")}
    relocs = tuple(
        OutReloc(offset=4 * i, type=kinds[word][0], symbol=kinds[word][1], addend=0)
        for i, word in enumerate(words)
        if word in kinds
    )
    code = struct.pack(f"<{len(words)}I", *words)
    sections = (
        _section(".text.entry", SHF_ALLOC | SHF_EXECINSTR, code, relocs),
        _section(".data", SHF_ALLOC | SHF_WRITE, bytes(128), ()),
    )
    symbols = (
        _symbol("entry", ".text.entry", 0, len(code), STT_FUNC),
        _symbol("one", ".data", OWN_PLACE, 48, STT_OBJECT),
        _symbol("kill_timer", UNDEFINED, 0, 0, 0),
    )
    elf = read_elf(write_object(sections, symbols, machine=EM_AARCH64), "test")
    profile = profile_of("xen", known_facts("4.17.5", EM_AARCH64))
    steps = ValueFlow(Code(References(elf, profile))).steps((1, 0))
    return [steps[1, 4 * i] for i in range(len(words)) if (1, 4 * i) in steps]


def _section(name: str, flags: int, data: bytes, relocs: tuple[OutReloc, ...]) -> OutSection:
    return OutSection(
        name=name, type=SHT_PROGBITS, flags=flags, align_bytes=8, data=data, relocs=relocs
    )


def _symbol(name: str, section: str, value: int, size: int, kind: int) -> OutSymbol:
    return OutSymbol(
        key=name,
        name=name,
        section=section,
        value=value,
        size_bytes=size,
        bind=STB_GLOBAL,
        type=kind,
    )


def test_both_parts_of_an_address_make_the_address() -> None:
    call = _steps(ADRP_X0, ADD_X0_X0, BL, RET)[2]
    assert (call.callee, call.value("x0")) == ("kill_timer", Value(DATA, OWN_PLACE))


def test_one_part_of_an_address_is_none() -> None:
    assert not _steps(ADRP_X0, BL, RET)[1].value("x0").is_known


def test_copies_numbers_and_sums_are_known() -> None:
    last = _steps(ADRP_X0, ADD_X0_X0, MOV_X1_X0, MOV_X2_90, ADD_X0_8, RET)[-1]
    values = [last.value(name) for name in ("x0", "x1", "x2")]
    assert values == [Value(DATA, OWN_PLACE + 8), Value(DATA, OWN_PLACE), Value(None, 90)]


def test_a_call_leaves_nothing_of_what_it_may_change() -> None:
    last = _steps(ADRP_X0, ADD_X0_X0, BL, RET)[-1]
    assert not last.value("x0").is_known


def test_what_two_ways_bring_differently_is_not_known() -> None:
    last = _steps(ADRP_X0, ADD_X0_X0, CBZ_X3_8, ADD_X0_8, RET)[-1]
    assert not last.value("x0").is_known
