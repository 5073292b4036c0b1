# SPDX-License-Identifier: Apache-2.0
"""Functions that remember a result in a static variable of their own."""

from __future__ import annotations

import pytest

from xsplice_plugins.csource.remembering import remembered_results

TEXT = """static const int ids[] = { 1, 2 };
bool is_needed(void)
{
    static int8_t needed = -1;
    if ( unlikely(needed == -1) )
        needed = has(1) || find(ids);
    return needed;
}
"""


@pytest.mark.parametrize(
    ("was", "now"),
    [("has(1)", "has(2)"), ("{ 1, 2 }", "{ 1, 2, 3 }"), ("find(ids)", "find(ids + 1)")],
)
def test_what_was_found_with_the_old_code_stays(was: str, now: str) -> None:
    ((path, text),) = remembered_results((("a.c", TEXT, TEXT.replace(was, now)),))
    assert path == "a.c"
    assert "`is_needed` is another, or a table that it reads" in text
    assert "`needed`: what the old code put there stays" in text


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace("static int8_t", "int8_t"),
        TEXT.replace("static int8_t", "static const int8_t"),
        TEXT.replace("has(1) || find(ids)", "true; has(1)"),  # only that it was done
        TEXT.replace("if ( unlikely(needed == -1) )", ""),
    ],
)
def test_what_does_not_remember(text: str) -> None:
    assert remembered_results((("a.c", text, text.replace("has(1)", "has(2)")),)) == ()


def test_functions_that_stay() -> None:
    assert remembered_results((("a.c", TEXT, TEXT + "int more[] = { 1 };\n"),)) == ()
    assert remembered_results((("a.c", TEXT, TEXT.replace("int8_t", "/* x */ int8_t")),)) == ()
