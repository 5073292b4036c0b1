# SPDX-License-Identifier: Apache-2.0
"""Of which files the code of an image was compiled, as debug information tells."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.check.building import compiled, linked
from xsplice_plugins.elf.compiled import CompiledUnits, Made, is_same_file
from xsplice_plugins.elf.reader import ElfFile, read_elf

WALK = "int WALK(int x) { return x * 3; }\n"
OURS = '#include "part/walk.c"\n#include "part/odd.h"\n#include "include/all.h"\n'


def image_of(folder: Path, *flags: str) -> ElfFile:
    """Link a file of its own, and one that includes another one and two headers."""
    for name, text in (
        ("part/walk.c", WALK),
        ("part/odd.h", "static inline int odd(int x) { return x & 1; }\n"),
        ("include/all.h", "struct all { int of; };\n"),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    more = f"#define WALK walk\n{OURS}int user(struct all *a) {{ return odd(walk(a->of)); }}\n"
    data = [compiled(folder, "alone.c", "int alone(void) { return 7; }\n", *flags)]
    data.append(compiled(folder, "user.c", more, *flags))
    return read_elf(linked(folder, *data), "image")


def address(image: ElfFile, name: str) -> int:
    return next(symbol.value for symbol in image.symbols if symbol.name == name)


@pytest.mark.toolchain
@pytest.mark.parametrize("flag", ["-gdwarf-4", "-gdwarf-5"])
def test_code_goes_by_its_address(tmp_path: Path, flag: str) -> None:
    image = image_of(tmp_path, flag)
    units = CompiledUnits(image)
    user = Made(name="user.c", files=("part/odd.h", "part/walk.c"))
    assert units.at(address(image, "walk")) == units.at(address(image, "user")) == user
    assert units.at(address(image, "alone")) == Made(name="alone.c", files=())
    assert units.at(1) is None
    assert (units.named("xen/user.c"), units.named("other.c")) == ([user], [])


@pytest.mark.toolchain
def test_without_debug_information_nobody_knows(tmp_path: Path) -> None:
    image = image_of(tmp_path)
    units = CompiledUnits(image)
    assert not units.are_told
    assert units.at(address(image, "walk")) is None
    assert units.named("user.c") == []


@pytest.mark.toolchain
def test_what_is_damaged_tells_nothing(tmp_path: Path) -> None:
    image = image_of(tmp_path, "-g")
    row = image.section_by_name[".debug_abbrev"]
    data = bytearray(image.data)
    data[row.offset_file : row.offset_file + row.size_bytes] = b"\xff" * row.size_bytes
    units = CompiledUnits(read_elf(bytes(data), "image"))
    assert units.are_told
    assert units.at(address(image, "walk")) is None
    assert units.named("user.c") == []


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("common/user.c", "xen/common/user.c", True),
        ("/build/xen-4.17/xen/common/user.c", "xen/common/user.c", True),
        ("../xen/common/user.c", "xen/common/user.c", True),
        ("user.c", "xen/common/user.c", True),
        ("arch/user.c", "xen/common/user.c", False),
        ("super.c", "xen/common/user.c", False),
        ("", "xen/common/user.c", False),
    ],
)
def test_a_path_is_the_same_as_far_as_both_go(one: str, other: str, is_same: bool) -> None:
    assert is_same_file(one, other) is is_same
    assert is_same_file(other, one) is is_same
