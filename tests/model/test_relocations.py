# SPDX-License-Identifier: Apache-2.0
"""Relocations of the three architectures, judged by second formulas and known encodings."""

from __future__ import annotations

import random

import pytest

from xsplice_plugins.hypervisor import Hazard, XenRefusal
from xsplice_plugins.hypervisor.image.memory import RW, Memory, MemorySegment
from xsplice_plugins.hypervisor.load import relocations_arm32, relocations_arm64, relocations_x86_64
from xsplice_plugins.hypervisor.load.relocation_entry import Relocation

BASE = 0x40000000


def memory_with(word: int = 0) -> Memory:
    memory = Memory()
    data = bytearray(4096)
    data[16:24] = word.to_bytes(8, "little")
    memory.map(MemorySegment(addr_virt=BASE, data=data, perm=RW, name="t", owner="p"))
    return memory


def entry(kind: int, symbol: int, addend: int | None = 0, offset: int = 16) -> Relocation:
    return Relocation(
        subject="t",
        kind=kind,
        offset_bytes=offset,
        symbol_virt=symbol,
        addend=addend,
        target_virt=BASE,
        target_bytes=32,
    )


def arm64(kind: int, symbol: int, insn: int = 0, addend: int = 0) -> tuple[int, int]:
    """Give the 32-bit word and the errno."""
    memory = memory_with(insn)
    errno = 0
    try:
        relocations_arm64.relocate(entry(kind, symbol, addend), memory)
    except XenRefusal as refusal:
        errno = refusal.errno
    return int.from_bytes(memory.read(BASE + 16, 4), "little"), errno


def test_x86_absolute_wraps_in_64_bits() -> None:
    memory = memory_with()
    relocations_x86_64.relocate(entry(1, (1 << 64) - 8, 16), memory)
    assert memory.read(BASE + 16, 8) == (8).to_bytes(8, "little")


@pytest.mark.parametrize("kind", [2, 4])
@pytest.mark.parametrize(
    ("distance", "errno"),
    [((1 << 31) - 1, 0), (1 << 31, 75), (-(1 << 31), 0), (-(1 << 31) - 1, 75), (1 << 32, 75)],
)
def test_x86_pc32_reaches_2_gib(kind: int, distance: int, errno: int) -> None:
    memory = memory_with()
    symbol = (BASE + 16 + distance) % (1 << 64)
    if errno:
        with pytest.raises(XenRefusal) as found:
            relocations_x86_64.relocate(entry(kind, symbol), memory)
        assert found.value.errno == errno
    else:
        relocations_x86_64.relocate(entry(kind, symbol), memory)
    written = int.from_bytes(memory.read(BASE + 16, 4), "little")
    assert written == distance % (1 << 32), "the field is written before the test"


@pytest.mark.parametrize("kind", [k for k in range(64) if k not in relocations_x86_64.RECIPES])
def test_x86_unknown_types_are_refused(kind: int) -> None:
    with pytest.raises(XenRefusal) as found:
        relocations_x86_64.relocate(entry(kind, BASE), memory_with())
    assert found.value.errno == 95


@pytest.mark.parametrize(
    ("kind", "insn", "distance", "wanted", "errno"),
    [
        (282, 0x14000000, 0x1000, 0x14000400, 0),
        (283, 0x94000000, -4, 0x97FFFFFF, 0),
        (283, 0x94000000, (128 << 20) - 4, 0x95FFFFFF, 0),
        (283, 0x94000000, 128 << 20, 0x96000000, 75),
        (283, 0x94000000, -(128 << 20), 0x96000000, 0),
        (280, 0x54000000, 8, 0x54000040, 0),
        (280, 0x54000000, 1 << 20, 0x54800000, 75),
        (279, 0x36000000, 8, 0x36000040, 0),
        (279, 0x36000000, 64 << 10, 0x36000000, 0),
        (279, 0x36000000, 1 << 20, 0x36000000, 75),
        (274, 0x10000000, 5, 0x30000020, 0),
        (261, 0, -16, 0xFFFFFFF0, 0),
    ],
)
def test_arm64_relative(kind: int, insn: int, distance: int, wanted: int, errno: int) -> None:
    assert arm64(kind, (BASE + 16 + distance) % (1 << 64), insn) == (wanted, errno)


@pytest.mark.parametrize(
    ("kind", "insn", "value", "wanted"),
    [
        (275, 0x90000000, BASE + 0x5123, 0xB0000020),
        (277, 0x91000000, BASE + 0x5123, 0x91048C00),
        (278, 0x39400000, 0x123, 0x39448C00),
        (284, 0x79400000, 0x122, 0x79424400),
        (285, 0xB9400000, 0x124, 0xB9412400),
        (286, 0xF9400000, 0x128, 0xF9409400),
        (299, 0x3DC00000, 0x120, 0x3DC04800),
        (264, 0xD2800000, 0x12345678, 0xD28ACF00),
        (265, 0xF2A00000, 0x12345678, 0xF2A24680),
        (270, 0xD2800000, 0x1234, 0xD2824680),
    ],
)
def test_arm64_absolute(kind: int, insn: int, value: int, wanted: int) -> None:
    assert arm64(kind, value, insn) == (wanted, 0)


def test_arm64_signed_moves_become_movn() -> None:
    word, errno = arm64(270, (1 << 64) - 5, 0xD2800000)
    assert (word, errno) == (0x92800000 | 4 << 5, 0)
    assert arm64(270, 0x10000, 0xD2800000)[1] == 75
    assert arm64(263, 0x10000, 0xD2800000)[1] == 75
    assert arm64(264, 0x10000, 0xD2800000)[1] == 0


def test_arm64_adrp_agrees_with_a_decoder_of_its_own() -> None:
    rng = random.Random(64)  # noqa: S311  # reproducible, not secret
    for _ in range(300):
        symbol = BASE + rng.randrange(-(1 << 31), 1 << 31)
        word, errno = arm64(275, symbol, 0x90000000)
        imm = (word >> 5 & 0x7FFFF) << 2 | word >> 29 & 3
        imm -= (imm >> 20) << 21
        assert errno == 0
        assert (BASE & ~0xFFF) + (imm << 12) == symbol & ~0xFFF


@pytest.mark.parametrize("kind", [0, 256, 273, 281, 294, 300, 311])
def test_arm64_unknown_types_are_refused(kind: int) -> None:
    assert arm64(kind, BASE)[1] == 95


def test_arm64_four_bytes_are_needed_even_for_16_bit_data() -> None:
    with pytest.raises(XenRefusal) as found:
        relocations_arm64.relocate(entry(259, 1, offset=30), memory_with())
    assert found.value.errno == 22


def arm32(kind: int, symbol: int, word: int = 0, addend: int | None = 0) -> int:
    memory = memory_with(word)
    relocations_arm32.relocate(entry(kind, symbol, addend), memory)
    return int.from_bytes(memory.read(BASE + 16, 4), "little")


@pytest.mark.parametrize(
    ("kind", "symbol", "word", "addend", "wanted"),
    [
        (2, 0x1000, 0, 4, 0x1004),
        (2, 0x1000, 8, None, 0x1008),
        (3, BASE + 0x100, 0, 0, 0xF0),
        (43, 0x12345678, 0xE3000000, 0, 0xE3050678),
        (44, 0x12345678, 0xE3400000, 0, 0xE3410234),
        (43, 0x1000, 0xE3000004, 0, 0xE3010004),
        (43, 0x1000, 0xE3000004, 4, 0xE3010000),
        (28, BASE + 16 + 16, 0xEB000000, -8, 0xEB000002),
        (29, BASE + 16 + 20, 0xEAFFFFFE, None, 0xEA000002),
        (0, 5, 7, 0, 7),
    ],
    ids=["abs", "abs-rel", "rel", "movw", "movt", "movw-or", "movw-clear", "call", "drop-bit",
         "none"],
)  # fmt: skip
def test_arm32(kind: int, symbol: int, word: int, addend: int | None, wanted: int) -> None:
    assert arm32(kind, symbol, word, addend) == wanted


@pytest.mark.parametrize(("distance", "errno"), [((32 << 20) - 4, 0), (32 << 20, 75)])
def test_arm32_branches_reach_32_mib(distance: int, errno: int) -> None:
    if errno:
        with pytest.raises(XenRefusal) as found:
            arm32(28, BASE + 16 + distance, 0xEB000000)
        assert found.value.errno == errno
    else:
        assert arm32(28, BASE + 16 + distance, 0xEB000000) == 0xEB7FFFFE


def test_arm32_does_not_check_bounds() -> None:
    with pytest.raises(Hazard, match="does not check"):
        relocations_arm32.relocate(entry(2, 1, offset=29), memory_with())
