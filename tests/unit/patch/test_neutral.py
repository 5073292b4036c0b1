# SPDX-License-Identifier: Apache-2.0
"""Line numbers of unchanged declarations survive a patch, as the compiler itself counts them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from msgspec.structs import replace

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


CONDITIONS = """\
int one(void) { return __LINE__; }

#ifdef A
int two(void) { return __LINE__; }
# if defined(B)
int three(void) { return __LINE__; }
# else /* of
#endif B */
int four(void) { return __LINE__; }
# endif
int five(void) { return __LINE__; }
#elif defined(B)
static const char text[] = "\\
#endif";
int six(void) { return __LINE__; }
#endif /* A
or B */
int seven(void)
{
#ifdef B
    int x;
#else
    int y;
#endif
    return __LINE__;
}
int eight(void) { return __LINE__; }
"""
BRANCHES = [(), ("-DA",), ("-DB",), ("-DA", "-DB")]


def numbers(text: str, *options: str) -> dict[str, str]:
    """Return what each function returns, as the preprocessor expands it."""
    done = subprocess.run(
        ["gcc", "-E", "-P", *options, "-x", "c", "-"],
        input=text.replace('#include "x.h"', "#define X"),
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(
        re.findall(r"int (\w+)\(void\)\s*{(?:\s*int [xy];)?\s*return ([^;]*);", done.stdout)
    )


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


BODY = """\
int lead(void) { return 1; }
static int body(int a)
{
    use(__LINE__, "first");
    if ( a )
        use(__LINE__,
            "second { ;");
#ifdef A
    use(__LINE__, "third");
#else
    use(__LINE__, "fourth");
#endif
    /* ;
       { */
    use(__LINE__, "fifth");
    return 0;
}
int tail(void) { use(__LINE__, "tail"); }
"""


def used(text: str, *options: str) -> dict[str, str]:
    """Return the number of each text that a function uses."""
    words = ["gcc", "-E", "-P", *options, "-x", "c", "-"]
    done = subprocess.run(words, input=text, capture_output=True, text=True, check=True)
    return {name: line for line, name in re.findall(r'use\((\d+),\s*"(\w+)', done.stdout)}


@pytest.mark.toolchain
@pytest.mark.parametrize("options", [(), ("-DA",)])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("{\n    use(", "{\n    ASSERT(a);\n    use("),
        (
            "static int body(int a)\n",
            "static int more(void) { return 2; }\nstatic int\nbody(int a)\n",
        ),
        ('    use(__LINE__, "third");\n', '    int b;\n\n    use(__LINE__, "third");\n'),
        ('    use(__LINE__, "third");\n', ""),
        ("    if ( a )\n", "    a += ({ int b;\n      b; });\n    if ( a )\n"),
        ("    /* ;\n", "    if ( a > 4 )\n    {\n        a--;\n    }\n    /* ;\n"),
        ("    /* ;\n       { */\n", ""),
        ("int lead(void) { return 1; }\n", ""),
    ],
)
def test_lines_of_a_changed_function_keep_their_numbers(
    before: str, after: str, options: tuple[str, ...]
) -> None:
    """As an assertion that compiles to nothing moves those below it."""
    assert BODY.count(before) == 1
    new = BODY.replace(before, after)
    old, held = used(BODY, *options), used(line_neutral(BODY, new), *options)
    assert set(old) - set(held) <= {"third"}
    assert held == {name: old[name] for name in held}
    assert used(new, *options) != old


def test_functions_of_one_name_are_not_paired() -> None:
    """Which is which nobody knows; numbers go on from what is in front."""
    old = "#ifdef A\nint f(void) { return 1; }\n#else\nint f(void) { return 2; }\n#endif\n"
    new = old.replace("{ return 1; }", "{\n\nreturn 3; }").replace("return 2", "return 4")
    assert "#line 2" not in line_neutral(old, new)


def test_unchanged_text_is_left_as_it_is() -> None:
    assert line_neutral(OLD, OLD) == OLD


def test_change_that_shifts_nothing_adds_no_directive() -> None:
    new = OLD.replace("return TWICE(__LINE__)", "return TWICE(1)")
    assert line_neutral(OLD, new) == new


@pytest.mark.toolchain
@pytest.mark.parametrize("options", BRANCHES)
@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ("{ return __LINE__; }\n\n#ifdef A", "{\n\nreturn __LINE__; }\n\n#ifdef A", {"one"}),
        ("int two(void) {", "int two(void) {\n\n", {"two"}),
        ("int three(void) {", "int added(void);\nint three(void) {", set()),
        ("int four(void) {", "\n\n\nint four(void) {\n", {"four"}),
        ("int five(void) { return __LINE__; }\n", "", {"five"}),
        ("int six(void) {", "int six(void) {\n\n", {"six"}),
        ("#ifdef A\n", "#if defined(A)\n\n", set()),
        ("#endif /* A\n", "\n#endif /* A,\n", set()),
    ],
)
def test_numbers_are_right_whichever_branch_of_a_conditional_is_on(
    before: str, after: str, changed: set[str], options: tuple[str, ...]
) -> None:
    assert CONDITIONS.count(before) == 1
    new = CONDITIONS.replace(before, after)
    shown, old = (numbers(text, *options) for text in (line_neutral(CONDITIONS, new), CONDITIONS))
    assert {"one", "seven", "eight"} <= set(old)
    for name in set(old) - changed:
        assert shown[name] == old[name], name
    moved = numbers(new, *options)
    assert moved["eight"] != old["eight"], "the directives did that"


@pytest.mark.toolchain
@pytest.mark.parametrize("options", BRANCHES)
def test_a_directive_in_a_branch_that_is_off_takes_a_line(options: tuple[str, ...]) -> None:
    new = CONDITIONS.replace("int two(", "\nint two(")
    new = new.replace("int five(void) { return __LINE__; }\n", "")
    old = numbers(CONDITIONS, *options)
    assert numbers(new, *options).get("six") == old.get("six"), "the lines are as many again"
    assert numbers(line_neutral(CONDITIONS, new), *options) == {
        name: line for name, line in old.items() if name != "five"
    }


def test_a_conditional_adds_no_directive_where_nothing_moves() -> None:
    new = CONDITIONS.replace("int three(void) { return __LINE__; }", "int three(void);")
    assert line_neutral(CONDITIONS, new) == new
    # The number is known behind a conditional whose branches end alike.
    below = CONDITIONS.replace("int one(void) {", "int one(void) {\n")
    assert line_neutral(CONDITIONS, below).count("#line") == 1


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
