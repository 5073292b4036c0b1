# SPDX-License-Identifier: Apache-2.0
"""Line numbers of unchanged declarations survive a patch, as the compiler itself counts them."""

from __future__ import annotations

import re
import subprocess

import pytest

from xsplice_plugins.csource.neutral import line_neutral

OLD = """\
/* first */
#include "x.h"
int one(void) { return __LINE__; }

#define TWICE(x) \\
    ((x) + (x))
int two(void)
{
    return TWICE(__LINE__);
}
static const char text[] = "a; } \\
b";
int three(void) { return __LINE__; } int four(void) { return __LINE__; }
/* last */
int five(void) { return __LINE__; }
"""
NAMES = ("one", "two", "three", "four", "five")


def numbers(text: str) -> dict[str, str]:
    """Return what each function returns, as the preprocessor expands it."""
    done = subprocess.run(
        ["gcc", "-E", "-P", "-x", "c", "-"],
        input=text.replace('#include "x.h"', "#define X"),
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(re.findall(r"int (\w+)\(void\)\s*{\s*return ([^;]*);", done.stdout))


@pytest.mark.toolchain
@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ("/* first */\n", "/* first */\n\n\nint added(void);\n", {"added"}),
        ("int one(void) {", "int one(void) {\n\n", {"one"}),
        ("    return TWICE(", "    int x;\n    return TWICE(", {"two"}),
        ("int two(void)\n", "int extra(void) { return 1; }\nint two(void)\n", {"extra"}),
        ('b";\n', 'b";\n\n\n', set()),
        ("/* last */\n", "", set()),
        ("int one(void) { return __LINE__; }\n", "", {"one"}),
    ],
)
def test_unchanged_functions_keep_their_numbers(before: str, after: str, changed: set[str]) -> None:
    new = OLD.replace(before, after)
    assert new != OLD
    shown = numbers(line_neutral(OLD, new))
    old = numbers(OLD)
    assert set(old) == set(NAMES)
    for name in set(NAMES) - changed:
        assert shown[name] == old[name], name


def test_unchanged_text_is_left_as_it_is() -> None:
    assert line_neutral(OLD, OLD) == OLD


def test_change_that_shifts_nothing_adds_no_directive() -> None:
    new = OLD.replace("return TWICE(__LINE__)", "return TWICE(1)")
    assert line_neutral(OLD, new) == new
