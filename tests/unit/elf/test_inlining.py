# SPDX-License-Identifier: Apache-2.0
"""What an image inlined otherwise than the objects, of which it seems to be made."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.check.building import compiled, linked
from xsplice_plugins.elf.inlining import inlined_otherwise
from xsplice_plugins.elf.reader import ElfFile, read_elf

pytestmark = pytest.mark.toolchain

HELPERS = """
static inline int twice(int a) { return a * 2; }
static inline int quad(int a) { return twice(a) * 2; }
static inline int step(int a, int i) { return a + i; }
static inline int none(void) { return 0; }
"""
OTHER = "int other(int x) { return twice(x); }\n"
USER = "int user(int x) { return %s; }\nint more(int x) { return quad(x); }\n"
WRITTEN = "x * 2"


def compared(
    folder: Path,
    ours: str,
    theirs: str,
    *flags: str,
    name: str = "user.c",
    more: str = "",
    optional: frozenset[str] = frozenset(),
) -> tuple[tuple[str, str], ...]:
    """Hold two objects against an image with another expression in one of them."""
    flags = flags or ("-g",)
    other = compiled(folder, "other.c", HELPERS + OTHER, *flags)
    shipped = compiled(folder, name, HELPERS + USER % theirs + more, *flags)
    image = read_elf(linked(folder, other, shipped), "image")
    own = compiled(folder, "user.c", HELPERS + USER % ours, *flags)
    files: list[ElfFile] = [read_elf(own, "user.o"), read_elf(other, "other.o")]
    return inlined_otherwise([(file, file.name in optional) for file in files], image)


@pytest.mark.parametrize(
    ("ours", "theirs", "names"),
    [
        (WRITTEN, "twice(x)", ["user"]),
        ("twice(x)", WRITTEN, ["user"]),
        ("quad(x)", "twice(twice(x))", ["user"]),
        ("twice(x) ^ twice(x ^ 9)", "twice(x) ^ (x ^ 9) * 2", ["user"]),
        ("x - 1", "step(x, -1)", ["step"]),
        ("step(x, -1)", "x - 1", ["step"]),
    ],
)
@pytest.mark.parametrize("flag", ["-gdwarf-4", "-gdwarf-5"])
def test_a_call_that_one_side_writes_out_is_told(
    tmp_path: Path, ours: str, theirs: str, names: list[str], flag: str
) -> None:
    found = compared(tmp_path, ours, theirs, flag)
    assert found == tuple(("user.o", name) for name in names)
    assert compared(tmp_path, ours, ours, flag) == ()


def test_the_code_is_the_same(tmp_path: Path) -> None:
    """Else nobody would ask: what differs in bytes is known."""
    sides = []
    for text in (WRITTEN, "twice(x)"):
        file = read_elf(compiled(tmp_path, "user.c", HELPERS + USER % text, "-g"), "user.o")
        sides.append(file.section_by_name[".text.user"].data)
    assert sides[0] == sides[1]


def test_a_file_may_go_by_another_name(tmp_path: Path) -> None:
    assert compared(tmp_path, WRITTEN, "twice(x)", name="away.c") == (("user.o", "user"),)
    assert compared(tmp_path, WRITTEN, WRITTEN, name="away.c") == ()


def test_without_debug_information_nobody_knows(tmp_path: Path) -> None:
    assert compared(tmp_path, WRITTEN, "twice(x)", "-g0") == ()


def test_what_only_one_side_has_is_no_question_here(tmp_path: Path) -> None:
    """Its own code is a stranger, but it makes its file another one if that inlines more."""
    plain = "int new(int x) { return x; }\n"
    assert compared(tmp_path, WRITTEN, WRITTEN, more=plain) == ()
    found = compared(tmp_path, WRITTEN, WRITTEN, more="int new(int x) { return step(x, 7); }\n")
    assert found == (("user.o", "step"),)


def test_what_a_linker_left_out_is_no_question(tmp_path: Path) -> None:
    """Another object has the function that is linked."""
    more = compiled(tmp_path, "more.c", HELPERS + OTHER.replace("twice(x)", "x * 2"), "-g")
    data = compiled(tmp_path, "other.c", HELPERS + OTHER, "-g")
    image = read_elf(linked(tmp_path, data), "image")
    rows = [read_elf(data, "other.o"), read_elf(more, "more.o")]
    assert inlined_otherwise([(row, row.name == "more.o") for row in rows], image) == ()
    assert inlined_otherwise([(row, False) for row in rows], image) == (("more.o", "twice"),)
    assert inlined_otherwise([(rows[1], True)], image) == (("more.o", "twice"),)
