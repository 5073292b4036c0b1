# SPDX-License-Identifier: Apache-2.0
"""Whose is what the image has and no object has: by file, by compile unit, or by its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.check.building import SIZES, compiled, linked
from xsplice_plugins.check.base import match_objects
from xsplice_plugins.check.memory import read_image
from xsplice_plugins.elf.defining import units_defining
from xsplice_plugins.elf.reader import read_elf

pytestmark = pytest.mark.toolchain

FIRST = "int first(int x) { return x * 3; }\n"
SECOND = "int second(int x) { return x * 5; }\n"
HIDDEN = "LOCAL int hidden(int x) { return x * 7; }\nint shown(int x) { return hidden(x) + 1; }\n"


def owners(folder: Path, *flags: str, last: str = SECOND) -> dict[str, tuple[str, ...]]:
    """Link two files, the first with functions and a table more, and match them without."""
    more = FIRST + HIDDEN + "int datum = 9;\n"
    shipped = [compiled(folder, "first.c", more, *flags), compiled(folder, "second.c", last)]
    image = read_image(linked(folder, *shipped), "image", SIZES)
    ours = [("first.o", compiled(folder, "first.c", FIRST))]
    ours += [("second.o", compiled(folder, "second.c", last))]
    return dict(match_objects(image, ours, SIZES).owners)


def test_a_static_goes_by_its_file(tmp_path: Path) -> None:
    assert owners(tmp_path)["first.c#hidden"] == ("first.o",)


def test_what_is_known_by_its_place_alone_may_be_of_both_neighbours(tmp_path: Path) -> None:
    found = owners(tmp_path)
    assert found["shown"] == ("first.o", "second.o")
    assert "first.o" in owners(tmp_path, last="")["shown"]


def test_debug_information_names_the_file(tmp_path: Path) -> None:
    found = owners(tmp_path, "-g")
    assert (found["shown"], found["datum"]) == (("first.o",), ("first.o",))


def test_units_are_those_that_define_a_name(tmp_path: Path) -> None:
    text = "int shown(int); extern int datum; int user(int x) { return shown(x) + datum; }\n"
    data = [compiled(tmp_path, "first.c", HIDDEN + "int datum = 9;\n", "-g")]
    data += [compiled(tmp_path, "second.c", text, "-g")]
    image = read_elf(linked(tmp_path, *data), "image")
    names = {"shown", "datum", "user", "none"}
    assert units_defining(image, names) == {
        "shown": {"first.c"},
        "datum": {"first.c"},
        "user": {"second.c"},
    }


def test_bytes_without_a_name_are_of_what_lies_in_them(tmp_path: Path) -> None:
    long = 'asm volatile(".fill 90, 1, 0x0f");'
    more = FIRST + f"int shown(int x) {{ {long} return x; }}\n"
    shipped = [compiled(tmp_path, "first.c", more, "-g"), compiled(tmp_path, "second.c", SECOND)]
    image = read_image(linked(tmp_path, *shipped), "image", SIZES)
    ours = [("first.o", compiled(tmp_path, "first.c", FIRST))]
    ours += [("second.o", compiled(tmp_path, "second.c", SECOND))]
    found = match_objects(image, ours, SIZES)
    assert len(found.strangers) == len(found.owners) == 2
    assert {paths for _, paths in found.owners} == {("first.o",)}


def test_where_all_is_of_an_object_nobody_is_asked(tmp_path: Path) -> None:
    data = compiled(tmp_path, "first.c", FIRST)
    image = read_image(linked(tmp_path, data), "image", SIZES)
    assert match_objects(image, [("first.o", data)], SIZES).owners == ()
