# SPDX-License-Identifier: Apache-2.0
"""Names for other numbers, in several files, and those of a bit and of its mask."""

from __future__ import annotations

import pytest

from xsplice_plugins.csource.literals import changed_literals

NAMES = """#define __FLAG_old 5
#define FLAG_old (1U << __FLAG_old)
#define __FLAG_new 8
#define FLAG_new (1U << __FLAG_new)
#define FIVE 5
#define OTHER_old 64
#define OTHER_new 128
"""
MAKE = "void make(struct v *v) { set_bit(@, v->flags); }\n"
READ = "void read(struct v *v) { if ( @ ) run(v); }\n"


def sides(text: str, old: str, new: str, names: str = NAMES) -> tuple[str, str]:
    """Return both sides of a source."""
    return names + text.replace("@", old), names + text.replace("@", new)


def found(make: tuple[str, str], read: tuple[str, str], names: str = NAMES) -> list[int]:
    """Count what is said, with maker and reader in one file, and of each of two files."""
    one = sides(MAKE, *make, names)
    two = sides(READ, *read, names)
    both = one[0] + two[0].removeprefix(names), one[1] + two[1].removeprefix(names)
    rows = ((both, ()), (one, (two,)), (two, (one,)))
    return [len(changed_literals(*row, others=others).stale) for row, others in rows]


BIT = ("__FLAG_old", "__FLAG_new")


@pytest.mark.parametrize(
    ("make", "read"),
    [
        (BIT, ("test_bit(__FLAG_old, v->flags)", "test_bit(__FLAG_new, v->flags)")),
        (BIT, ("cpu_has(__FLAG_old)", "cpu_has(__FLAG_new)")),
        (BIT, ("v->flags & FLAG_old", "v->flags & FLAG_new")),
        # Of what is a mask by its number alone.
        (("FIVE", "__FLAG_new"), ("v->flags & FLAG_old", "v->flags & FLAG_new")),
    ],
)
def test_maker_and_reader_name_another_number(make: tuple[str, str], read: tuple[str, str]) -> None:
    assert found(make, read)[0] == 1
    assert found(make, read)[1:] == [1, 1] or make[0] == "FIVE"


@pytest.mark.parametrize(
    ("make", "read"),
    [
        (BIT, ("v->flags & OTHER_old", "v->flags & OTHER_new")),  # another bit
        (BIT, ("v->flags & FLAG_old", "v->flags & FLAG_old")),
        (("1", "1"), ("v->flags & FLAG_old", "v->flags & FLAG_new")),
    ],
)
def test_maker_and_reader_of_different_things(make: tuple[str, str], read: tuple[str, str]) -> None:
    assert found(make, read) == [0, 0, 0]


def test_a_name_that_another_one_took_the_place_of_in_other_words() -> None:
    read = (
        "boot_has(__FLAG_old) && v->on",
        'n ) v->on++; if ( alternative("", "clflush", __FLAG_new)',
    )
    assert found(BIT, read)[1] == 1
    assert found(BIT, (read[0], read[1].replace("__FLAG_new", "FIVE")))[1] == 0


def test_a_header_that_is_read_twice_defines_a_name_twice() -> None:
    names = NAMES.replace("8\n", "BASE(8)\n") + "#define BASE(x) ((x) + 1)\n" * 2
    read = ("test_bit(__FLAG_old, v->flags)", "test_bit(__FLAG_new, v->flags)")
    assert found(BIT, read, names)[0] == 1
    names = names.replace("+ 1", "+ 2", 1)  # which of two holds, nobody knows
    assert found(BIT, read, names)[0] == 0
