# SPDX-License-Identifier: Apache-2.0
"""Line numbers of unchanged declarations survive a patch, as the compiler itself counts them."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.patch.test_applying import diff
from xsplice_plugins.artefacts import PatchFile, PatchSet
from xsplice_plugins.csource.neutral import line_neutral
from xsplice_plugins.patch.applying import patched_files

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


@pytest.mark.toolchain
def test_the_first_patches_may_move_lines_all_the_same(tmp_path: Path) -> None:
    """So a payload beneath was compiled; what later patches leave alone keeps those numbers."""
    first = OLD.replace("/* first */\n", "/* first */\n\n")
    second = first.replace("/* first */\n", "/* first */\n\n\n")
    (tmp_path / "f.c").write_text(OLD)
    texts = [diff(OLD, first), diff(first, second)]
    patches = [PatchFile(name="p", text=text.replace("/f\n", "/f.c\n")) for text in texts]
    fix = PatchSet(name="fix", strip=1, patches=tuple(patches), touched=())

    def shown(**given: object) -> dict[str, str]:
        content = patched_files(replace(fix, **given), tmp_path)["f.c"]  # type: ignore[arg-type]
        return numbers((content or b"").decode())

    assert shown(is_line_neutral=True) == numbers(OLD)
    assert shown(is_line_neutral=True, neutral_from=1) == numbers(first) != numbers(OLD)
    assert shown(is_line_neutral=True, neutral_from=2) == shown() == numbers(second)
    kinds = (fix, replace(fix, is_line_neutral=True),
             replace(fix, is_line_neutral=True, neutral_from=1))  # fmt: skip
    assert len({kind.digest for kind in kinds}) == 3
