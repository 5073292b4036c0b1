# SPDX-License-Identifier: Apache-2.0
"""Local pointers to what is constant: which of them count as constants, and which do not."""

from __future__ import annotations

import pytest

from xsplice_plugins.csource.constants import changed_constants, constants_on_both

POINTER = "const struct bar *bars = {};"
TWO_SCOPES = "void f(void) {{ {} }} void g(void) {{ {} }}"


@pytest.mark.parametrize("more", ["d->other", "first(d)", "d->bars"])
@pytest.mark.parametrize("was", ["", POINTER.format("d->bars")])
def test_a_local_pointer_that_is_new_or_gone_is_no_constant(was: str, more: str) -> None:
    for first, second in (("", POINTER.format(more)), (POINTER.format(more), "")):
        sides = [TWO_SCOPES.format(was, part) for part in (first, second)]
        assert changed_constants(*constants_on_both(*sides)) == ()


@pytest.mark.parametrize("was", ["d->bars", "first(d)"])
def test_a_local_pointer_that_a_function_gives_now_is_no_constant(was: str) -> None:
    sides = [TWO_SCOPES.format(POINTER.format(value), "") for value in (was, "found(d, 1)")]
    assert changed_constants(*constants_on_both(*sides)) == ()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (POINTER.format("d->bars"), POINTER.format("d->others")),
        (POINTER.format("&d->bars[1]"), POINTER.format("&d->bars[2]")),
        (POINTER.format('"a"'), POINTER.format('"a"') + " { const char *bars = d->bars; }"),
        ("static const int bars = 1;", "static const int bars = 1; " + POINTER.format("d->bars")),
        ("const int bars = d->a;", "const int bars = d->a; const int *bars = d->bars;"),
        ("static " + POINTER.format("of(1)"), "static " + POINTER.format("of(2)")),
    ],
    ids=["another", "another place", "a text", "hides one", "hides a local one", "static"],
)
def test_a_pointer_with_another_value_or_in_a_constant_s_place_counts(old: str, new: str) -> None:
    sides = [TWO_SCOPES.format(part, "") for part in (old, new)]
    assert [row.name for row in changed_constants(*constants_on_both(*sides))] == ["bars"]
