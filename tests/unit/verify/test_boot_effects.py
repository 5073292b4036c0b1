# SPDX-License-Identifier: Apache-2.0
"""What boot called, and what is left of that: remarks, on both machines."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from msgspec import structs

from tests.kit.tiny_xen import PAGE
from tests.unit.verify.effect_inputs import (
    IMAGE,
    INIT,
    RET,
    STRIDE,
    TABLES,
    TEXT,
    compiled,
    record,
    record_at,
)
from xsplice_plugins.artefacts import Severity
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.hypervisor import BootedImage, KnownSymbol, Region
from xsplice_plugins.hypervisor.facts.arches import ARM64
from xsplice_plugins.hypervisor.image.memory import RO, RX, Perm
from xsplice_plugins.verify.callgraph import read_calls
from xsplice_plugins.verify.effects import effect_findings

if TYPE_CHECKING:
    from pathlib import Path


def test_what_boot_called_and_still_runs_is_named(tmp_path: Path) -> None:
    """Boot code called it and it stored: with nothing stored, nothing is left."""
    image = with_boot_call("shared")
    code = read_elf(compiled(tmp_path, STORING), "old").section_by_name[".text"].data
    (finding,) = effect_findings(compiled(tmp_path, STORING), record("shared"), filled(image, code))
    assert finding.text == (
        "`shared` was called at boot by `boot_user`: what it stored then is the old code's"
    )
    assert finding.severity is Severity.WARNING


@pytest.mark.parametrize(("name", "is_said"), [("boot_and_later", True), ("later_and_boot", False)])
def test_what_boot_called_through_others_is_named(
    tmp_path: Path, name: str, *, is_said: bool
) -> None:
    """What lies between runs at boot alone; else any function would be one that boot calls."""
    code = read_elf(compiled(tmp_path, STORING), "old").section_by_name[".text"].data
    found = effect_findings(
        compiled(tmp_path, STORING), record(name, size=len(code)), filled(IMAGE, code, name)
    )
    assert [finding.text for finding in found] == [
        f"`{name}` was called at boot by `set_up_once`: what it stored then is the old code's"
    ] * is_said


def test_what_a_vendors_table_leads_to_was_not_called_at_boot_for_certain(
    other_object: bytes,
) -> None:
    (finding,) = effect_findings(other_object, record("tune_vendor"), IMAGE)
    assert "stored at boot" not in finding.text


@pytest.mark.parametrize(
    "text", ["int shared(int *p) { return *p; }", "int shared(int a) { return a; }"]
)
def test_what_stores_nothing_left_nothing_at_boot(tmp_path: Path, text: str) -> None:
    code = read_elf(compiled(tmp_path, text), "old").section_by_name[".text"].data
    image = filled(with_boot_call("shared"), code)
    assert effect_findings(compiled(tmp_path, text), record("shared"), image) == ()


def test_a_return_by_way_of_a_thunk_stores_nothing(tmp_path: Path) -> None:
    other = compiled(tmp_path, "int unrelated;")
    place = IMAGE.symbols["shared"].addr_virt
    for name, said in (("__x86_return_thunk", 0), ("elsewhere", 1)):
        end = IMAGE.symbols["late"].addr_virt - (place + 5)
        image = filled(with_boot_call("shared"), b"\xe9" + end.to_bytes(4, "little", signed=True))
        symbols = {**image.symbols, name: structs.replace(IMAGE.symbols["late"], name=name)}
        image = dataclasses.replace(image, symbols=symbols)
        assert len(effect_findings(other, record("shared", size=5), image)) == said


STORING = "void shared(int *p) { *p = 1; }"


def filled(image: BootedImage, code: bytes, name: str = "shared") -> BootedImage:
    """Give a function a body."""
    text = bytearray(image.regions[0].data)
    start = image.symbols[name].addr_virt - TEXT
    text[start : start + len(code)] = code
    changed = structs.replace(image.regions[0], data=bytes(text))
    return dataclasses.replace(image, regions=(changed, *image.regions[1:]))


def with_boot_call(name: str) -> BootedImage:
    """Add a function to the boot code that calls another one."""
    place = INIT + 8 * STRIDE
    end = place + 5
    call = b"\xe8" + (IMAGE.symbols[name].addr_virt - end).to_bytes(4, "little", signed=True)
    init = bytearray(IMAGE.regions[1].data)
    init[place - INIT : place - INIT + 6] = call + RET
    symbol = KnownSymbol(name="boot_user", addr_virt=place, size_bytes=STRIDE, is_function=True)
    return dataclasses.replace(
        IMAGE,
        regions=(
            IMAGE.regions[0],
            structs.replace(IMAGE.regions[1], data=bytes(init)),
            IMAGE.regions[2],
        ),
        symbols={**IMAGE.symbols, "boot_user": symbol},
    )


def arm_word(value: int) -> bytes:
    return (value & 0xFFFFFFFF).to_bytes(4, "little")


def arm_image(code: bytes, boot: bytes) -> BootedImage:
    """Lay out two functions of arm64, 64 bytes each, and boot code behind them."""
    text, init = (code.ljust(PAGE, b"\0"), boot.ljust(PAGE, b"\0"))
    places = {"first": TEXT, "second": TEXT + STRIDE, "start_xen": INIT}
    symbols = {
        name: KnownSymbol(name=name, addr_virt=at, size_bytes=STRIDE, is_function=True)
        for name, at in places.items()
    }
    listing = KnownSymbol(
        name="symbols_addresses", addr_virt=TABLES, size_bytes=16, is_function=False
    )
    return dataclasses.replace(
        IMAGE,
        arch=ARM64,
        regions=(
            Region(name="text", addr_virt=TEXT, data=text, perm=RX),
            Region(name="init", addr_virt=INIT, data=init, perm=Perm.NONE),
            Region(
                name="rodata",
                addr_virt=TABLES,
                perm=RO,
                data=b"".join(at.to_bytes(8, "little") for at in places.values()),
            ),
        ),
        symbols={**symbols, "symbols_addresses": listing},
    )


@pytest.mark.parametrize(
    "branch",
    [
        0x94000000 | STRIDE // 4,  # bl
        0x14000000 | STRIDE // 4,  # b
        0x54000001 | STRIDE // 4 << 5,  # b.ne
        0xB4000003 | STRIDE // 4 << 5,  # cbz x3
        0x36000004 | STRIDE // 4 << 5,  # tbz w4, #0
    ],
)
def test_calls_of_arm64_are_read(branch: int) -> None:
    graph = read_calls(arm_image(arm_word(branch), b""))
    assert graph.callers == {"second": frozenset({"first"})}
    assert graph.takers == {}  # the list of all functions takes no address


@pytest.mark.parametrize(
    "word", [0x94000000 | STRIDE // 4 + 1, 0x54000010 | STRIDE // 4 << 5, 0x58000000 | 2 << 5]
)
def test_what_is_no_call_of_arm64_is_none(word: int) -> None:
    """A branch into a function, a branch that is none, a load."""
    assert read_calls(arm_image(arm_word(word), b"")).callers == {}


@pytest.mark.parametrize("gap", [0, 12])
def test_an_address_of_arm64_is_made_of_two_instructions(gap: int) -> None:
    nop = arm_word(0xD503201F)
    code = arm_word(0x90000000 | 3) + nop * gap + arm_word(0x91000000 | STRIDE << 10 | 3 << 5 | 3)
    takers = read_calls(arm_image(code, b"")).takers
    assert takers == ({"second": frozenset({"first"})} if gap == 0 else {})


def test_boot_code_of_arm64_is_told_apart(other_object: bytes) -> None:
    distance = (TEXT + STRIDE - INIT) // 4
    image = arm_image(b"", arm_word(0x94000000 | distance & 0x3FFFFFF))
    (finding,) = effect_findings(other_object, record_at("second", image), image)
    assert "`second` runs only while the host boots (`start_xen` -> `second`)" in finding.text
