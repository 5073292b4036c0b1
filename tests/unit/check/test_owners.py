# SPDX-License-Identifier: Apache-2.0
"""Whose is what the image has and no object has: by file, by compile unit, or by its place.

What is of a file that no object is of goes by the files that it was made of.
"""

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


def of_alien(
    folder: Path, *flags: str, text: str = HIDDEN, others: tuple[str, ...] = ()
) -> dict[str, tuple[str, ...]]:
    """Link a third file between two others, and match them without it."""
    data = {"first.c": compiled(folder, "first.c", FIRST, *others)}
    data["alien.c"] = compiled(folder, "alien.c", text, *flags)
    data["second.c"] = compiled(folder, "second.c", SECOND, *others)
    image = read_image(linked(folder, *data.values()), "image", SIZES)
    ours = [(name.replace(".c", ".o"), data[name]) for name in ("first.c", "second.c")]
    return dict(match_objects(image, ours, SIZES).owners)


def test_of_a_file_that_is_no_object_its_own_files_count(tmp_path: Path) -> None:
    found = of_alien(tmp_path, "-g")
    assert found["alien.c#hidden"] == found["shown"] == ("alien.c",)
    (tmp_path / "part.c").write_text("int part(int x) { return x * 11; }\n")
    found = of_alien(tmp_path, "-g", text=f'#include "part.c"\nint datum = 9;\n{HIDDEN}')
    assert set(found.values()) == {("alien.c", "part.c")}
    assert {"alien.c#hidden", "shown", "part", "datum"} <= found.keys()


def test_of_one_that_nobody_knows_all_objects_count(tmp_path: Path) -> None:
    for others in ((), ("-g",)):
        found = of_alien(tmp_path, others=others)
        assert found["alien.c#hidden"] == found["shown"] == ()
    # Of the files that there are the places still tell.
    assert owners(tmp_path)["shown"] == ("first.o", "second.o")


def test_an_object_may_be_made_of_other_files_too(tmp_path: Path) -> None:
    (tmp_path / "part.c").write_text("int part(int x) { return x * 11; }\n")
    more = f'#include "part.c"\n{FIRST.replace("3", "4")}{HIDDEN}'
    shipped = [compiled(tmp_path, "first.c", more, "-g"), compiled(tmp_path, "second.c", SECOND)]
    image = read_image(linked(tmp_path, *shipped), "image", SIZES)
    ours = [("first.o", compiled(tmp_path, "first.c", FIRST))]
    ours += [("second.o", compiled(tmp_path, "second.c", SECOND))]
    found = dict(match_objects(image, ours, SIZES).owners)
    assert found["first.c#hidden"] == found["part"] == ("first.o", "part.c")
    assert found["first"] == ("part.c",)  # differs
    assert "second" not in found


@pytest.mark.parametrize(
    ("more", "paths"),
    [("", {"first.o"}), ('asm(".fill 90, 1, 0x0f");\n', {"first.o", "second.o"})],
    ids=["named", "and what is not"],
)
def test_bytes_without_a_name_may_be_of_two_objects(
    tmp_path: Path, more: str, paths: set[str]
) -> None:
    """What lies beside a name in them is of another object, as far as places tell."""
    body = f'{FIRST}int shown(int x) {{ asm volatile(".fill 90, 1, 0x0f"); return x * 9; }}\n'
    shipped = [compiled(tmp_path, "first.c", body, "-g")]
    shipped.append(compiled(tmp_path, "second.c", more + SECOND, "-g"))
    image = read_image(linked(tmp_path, *shipped), "image", SIZES)
    ours = [("first.o", compiled(tmp_path, "first.c", FIRST))]
    ours += [("second.o", compiled(tmp_path, "second.c", SECOND))]
    rows = dict(match_objects(image, ours, SIZES).owners)
    assert rows.pop("shown") == ("first.o",)
    assert [set(row) for row in rows.values()] == [paths]
