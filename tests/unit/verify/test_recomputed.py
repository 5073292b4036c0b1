# SPDX-License-Identifier: Apache-2.0
"""What a function computed once, kept, and compares with what it computes when it runs again."""

from __future__ import annotations

import dataclasses
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.kit.tiny_xen import PAGE
from tests.unit.verify.effect_inputs import IMAGE, TEXT, compiled, record_at
from xsplice_plugins.artefacts import Duty, Severity
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.hypervisor import BootedImage, KnownSymbol, Region
from xsplice_plugins.hypervisor.image.memory import RW
from xsplice_plugins.verify.effects import effect_findings
from xsplice_plugins.verify.recomputed import kept_and_compared

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.toolchain

DATA = 0xFFFF82D040500000
CAPS = """static unsigned int cap_a, cap_b;
unsigned long use(void) { return cap_a + cap_b; }
int caps(unsigned int a, unsigned int b)
{
    if ( !cap_a )
    {
        cap_a = a;
        cap_b = b;
    }
    else if ( cap_a != a || cap_b != b )
        return -22;
    return 0;
}
"""
PRINTS = CAPS.replace("return -22", 'return say("%x %x", cap_a, a)').replace(
    "int caps", "int say(const char *, ...);\nint caps"
)
HANDED = CAPS.replace(
    "cap_a != a || cap_b != b", 'say("a", cap_a, a) | say("b", cap_b, b)'
).replace("int caps", "int say(const char *, unsigned int, unsigned int);\nint caps")


def linked(folder: Path, text: str, addr_virt: int) -> tuple[bytes, dict[str, int]]:
    """Return the code of ``caps`` at an address, and where its variables lie."""
    folder.mkdir(exist_ok=True)
    compiled(folder, "int say(const char *text, ...) { return text[0]; }")
    (folder / "input.o").rename(folder / "say.o")
    (folder / "input.c").write_text(text)
    (folder / "input.lds").write_text(
        f"SECTIONS {{ .text.caps {addr_virt:#x} : {{ *(.text.caps) }}"
        " .text : { *(.text .text.* .rodata*) }"
        f" .bss {DATA:#x} : {{ *(.bss .bss.*) }} /DISCARD/ : {{ *(.eh_frame .note* .comment) }} }}"
    )
    flags = ["-O2", "-fpic", "-ffunction-sections", "-fcf-protection=none"]
    for line in (
        ["gcc", *flags, "-c", "input.c"],
        ["ld", "-e", "caps", "-T", "input.lds", "-o", "image", "input.o", "say.o"],
    ):
        subprocess.run(line, cwd=folder, check=True)
    elf = read_elf((folder / "image").read_bytes(), "image")
    (caps,) = (symbol for symbol in elf.symbols if symbol.name == "caps")
    section = elf.sections[caps.shndx]
    assert caps.value == addr_virt
    start = caps.value - section.addr_virt
    places = {s.name: s.value for s in elf.symbols if s.name.startswith("cap_")}
    return section.data[start : start + caps.size_bytes], places


@pytest.mark.parametrize(
    "text", [CAPS, PRINTS, HANDED], ids=["in memory", "in registers", "by another"]
)
def test_what_is_kept_once_and_compared_is_found(tmp_path: Path, text: str) -> None:
    code, places = linked(tmp_path, text, TEXT)
    found = kept_and_compared([(code, TEXT)])
    assert (found.variables, found.is_once) == (frozenset(places.values()), True)


def test_a_function_may_lie_in_two_parts(tmp_path: Path) -> None:
    code, places = linked(tmp_path, CAPS, TEXT)
    cut = code.index(b"\xc3") + 1  # of the branch that sets them
    parts = [(code[:cut], TEXT), (code[cut:], TEXT + cut)]
    assert not any(kept_and_compared([part]).variables for part in parts)
    assert places["cap_b"] in kept_and_compared(parts).variables


@pytest.mark.parametrize(
    ("old", "new", "count", "is_once"),
    [
        ("cap_a != a || cap_b != b", "cap_a == 7 || cap_b == 9", 0, False),
        ("cap_a = a;\n        cap_b = b;", "cap_a = 1;\n        cap_b = 2;", 0, False),
        ("if ( !cap_a )", "if ( b & 1 )", 2, False),
        ("|| cap_b != b", "", 1, True),
    ],
    ids=["with constants", "constants are kept", "not once", "one of two"],
)
def test_what_is_no_such_thing_is_not_found(
    tmp_path: Path, old: str, new: str, count: int, *, is_once: bool
) -> None:
    assert old in CAPS
    code, _ = linked(tmp_path, CAPS.replace(old, new), TEXT)
    found = kept_and_compared([(code, TEXT)])
    assert (len(found.variables), found.is_once) == (count, is_once)


def image_with(name: str, code: bytes, places: dict[str, int]) -> BootedImage:
    """Return the image of a few functions, one of them with code of its own."""
    text = bytearray(IMAGE.regions[0].data)
    start = IMAGE.symbols[name].addr_virt - TEXT
    text[start : start + len(code)] = code
    variables = {
        key: KnownSymbol(name=key, addr_virt=addr, size_bytes=4, is_function=False)
        for key, addr in places.items()
    }
    regions = (
        Region(name="text", addr_virt=TEXT, data=bytes(text), perm=IMAGE.regions[0].perm),
        *IMAGE.regions[1:],
        Region(name="bss", addr_virt=DATA, data=bytes(PAGE), perm=RW),
    )
    return dataclasses.replace(IMAGE, regions=regions, symbols={**IMAGE.symbols, **variables})


@pytest.mark.parametrize(
    ("name", "text", "is_told"),
    [
        ("boot_and_later", CAPS, True),
        ("identify_cpu", CAPS, True),
        ("shared", CAPS, False),
        ("boot_and_later", CAPS.replace("|| cap_b != b", ""), False),
        ("boot_and_later", CAPS.replace("if ( !cap_a )", "if ( b & 1 )"), False),
    ],
    ids=["later too", "for each CPU", "boot does not call it", "one variable", "not once"],
)
def test_what_boot_left_to_compare_with_is_not_checked(
    tmp_path: Path, name: str, text: str, *, is_told: bool
) -> None:
    code, places = linked(tmp_path, text, IMAGE.symbols[name].addr_virt)
    image = image_with(name, code, places)
    payload = compiled(tmp_path, "int shared(void) { return 1; }")
    found = [
        finding
        for finding in effect_findings(payload, record_at(name, image), image)
        if finding.severity is Severity.UNCHECKED
    ]
    assert len(found) == is_told
    for finding in found:
        assert finding.obligation == Duty.DATA
        assert finding.text.startswith(
            f"`{name}` keeps what it computed at boot in `cap_a`, `cap_b`, and compares with that "
            "whenever it runs again: "
        )


@pytest.mark.parametrize(("helper", "is_told"), [("set_up_cpu", True), ("shared", False)])
def test_what_a_helper_tells_such_a_function_is_not_checked(
    tmp_path: Path, helper: str, *, is_told: bool
) -> None:
    """Of what many call nobody's numbers are made; `set_up_cpu` has this one caller."""
    at = IMAGE.symbols["identify_cpu"].addr_virt
    code, places = linked(tmp_path, CAPS, at)
    goal = IMAGE.symbols["set_up_cpu"].addr_virt - at - len(code) - 5
    call = b"\xe8" + goal.to_bytes(4, "little", signed=True)
    image = image_with("identify_cpu", code + call, places)
    payload = compiled(tmp_path, "int shared(void) { return 1; }")
    found = effect_findings(payload, record_at(helper, image), image)
    texts = [row.text for row in found if row.severity is Severity.UNCHECKED]
    assert len(texts) == is_told
    for text in texts:
        assert text.startswith(
            "`identify_cpu` keeps what it computed at boot, by what `set_up_cpu` tells it, in "
        )
