# SPDX-License-Identifier: Apache-2.0
"""Where an operand begins, and what of a text is code."""

from __future__ import annotations

import pytest

from xsplice_plugins.csource.places import blanked, closing, operand_start, without_directives


@pytest.mark.parametrize(
    ("before", "operand"),
    [
        ("lock(&", "d"),
        ("a + ", "d->arch.hvm"),
        ("x = ", "table[i + (j)]"),
        ("return ", "owner(of, 1)"),
        ("if ( ", "owner(of)->list[2].next"),
        ("return ", "(d)"),
        ("x = ", "((struct d *)p)"),
        ("while ( !", "get()()"),
        ("a, ", "d\n    "),
        ("case ", "d"),
        ("x = (void *)", "(r)"),
        ("x = (struct d *)", "find(r)"),
        ("x = (const unsigned long)", "(r)"),
        ("if ( c ) ", "(r)"),
        ("while ( next() ) ", "(*r)"),
        ("x = ", "table[1](r)(s)"),
    ],
)
def test_an_operand_begins_where_it_is_named(before: str, operand: str) -> None:
    text = f"{before}{operand}->lock;"
    assert operand_start(text, len(before) + len(operand)) == len(before)


@pytest.mark.parametrize("before", ["= { ", "= { .a = 1, ", "return "])
def test_an_initialiser_has_no_operand(before: str) -> None:
    assert operand_start(f"{before}.lock = 1 }}", len(before)) < 0


def test_silent_text_keeps_its_places() -> None:
    text = 'a /* { */ "}\\"" // {\n#define X {\nb'
    blank = blanked(text)
    assert len(blank) == len(text)
    assert blank.split() == ["a", "#define", "X", "{", "b"]
    assert without_directives(blank).split() == ["a", "b"]


def test_a_bracket_that_does_not_close() -> None:
    assert closing("f(a[1], {2})", 1) == 11
    assert closing("f(a", 1) == -1
