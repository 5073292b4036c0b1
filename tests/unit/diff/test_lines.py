# SPDX-License-Identifier: Apache-2.0
"""A number is a line only if it moves with the lines, and nothing else does.

The oracle is gcc: the new side is compiled again with its lines shifted. Nothing but the value of
``__LINE__`` differs between those two compiles, so a constant cannot move by accident.
"""

from pathlib import Path

import pytest

from tests.kit.differ_inputs import compile_c, diff, diff_c, diff_sources, summary
from xsplice_plugins.artefacts import Cause, MovedLines

pytestmark = pytest.mark.toolchain

FAR = "\n" * 200  #: so that lines need more than eight bits
HEAD = """
struct place { const char *file; int line; };
extern int line_now; extern struct place *here;
extern int tell(const char *, const char *, int);
extern int eight(int, int, int, int, int, int, int, int);
"""

LINES = {
    "second register": 'int f(int a) { return tell("t", __FILE__, __LINE__); }',
    "first register, no name of a file": "int f(int a) { return put(__LINE__, a); }",
    "stack": "int f(int a) { return eight(a, a, a, a, a, a, a, __LINE__) + 1; }",
    "returned": "int f(int a) { return get(a) ? __LINE__ : -__LINE__ * 0; }",
    "stored to an object": "int f(int a) { here->line = __LINE__; return get(a); }",
    "stored to a variable": "static int at; int f(int a) { at = __LINE__; return put(a, 1) + at; }",
    "stored to a global": "int f(int a) { line_now = __LINE__; return get(a); }",
    "half a word": "extern short low; int f(int a) { low = __LINE__; return get(a); }",
    "beside __func__": "int f(int a) { return tell(__func__, 0, __LINE__); }",
    "compared": "int f(int a) { return get(a) == __LINE__ ? get(3) : 4; }",
    "two in one": 'int f(int a) { note("%d", __LINE__);\nreturn tell("t", __FILE__, __LINE__); }',
    "beside BUG": "int f(int a) { if (get(a)) BUG(); return put(__LINE__, a); }",
    "in a loop with jumps": "int f(int a) { while (get(a)) put(__LINE__, a++); return a; }",
}


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in LINES.items()])
def test_a_line_is_a_line_wherever_it_goes(tmp_path: Path, text: str) -> None:
    before, after = HEAD + FAR + text, HEAD + "\n" * 7 + FAR + text
    delta, count = diff_sources(tmp_path, before, after)
    assert summary(delta) == ([], [], ["f"], [])
    assert delta.line_only[0].reason.startswith("line 20")
    assert "1009" in delta.line_only[0].shown_by
    assert count == 1


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in LINES.items()])
def test_without_the_sources_a_changed_number_is_a_change(tmp_path: Path, text: str) -> None:
    before, after = HEAD + FAR + text, HEAD + "\n" * 7 + FAR + text
    assert summary(diff_c(tmp_path, before, after)) == (["f"], [], [], [])


def test_lines_in_bug_frames_alone_need_no_second_look(tmp_path: Path) -> None:
    text = "int f(int a) { if (get(a)) BUG(); return 4; }"
    for delta, count in (
        diff_sources(tmp_path, text, "\n\n" + text),
        (diff_c(tmp_path, text, "\n\n" + text), 0),
    ):
        assert summary(delta) == ([], [], ["f"], [])
        assert delta.line_only[0].reason == "line 1 became 3"
        assert "table entry" in delta.line_only[0].shown_by
        assert count == 0


#: (before, after) with seven lines more in front: all are changes, and how often that was asked.
CHANGES = {
    "grown as the lines moved": ("put(a, 207)", "put(a, 214)", 1),
    "beside the name of the file": ("tell(0, __FILE__, 207)", "tell(0, __FILE__, 214)", 1),
    "returned beside a line": (
        "tell(0, __FILE__,\n__LINE__\n) ? get(a) : 207",
        "tell(0, __FILE__,\n__LINE__\n) ? get(a) : 214",
        1,
    ),
    "another constant": (
        "tell(0, __FILE__, __LINE__) ? 3 : 4",
        "tell(0, __FILE__, __LINE__) ? 3 : 2",
        0,
    ),
    "a constant that became the line": ("put(a, 210)", "put(a, __LINE__)", 0),
    "a line that became a constant": ("put(a, __LINE__)", "put(a, 210)", 0),
    "the line after": ("put(a, __LINE__)", "put(a, __LINE__ + 1)", 0),
    "twice the line": ("put(a, 2 * __LINE__)", "put(a, 2 * __LINE__)", 0),
    "a bit of the line": ("put(a, __LINE__ & 8)", "put(a, __LINE__ & 8)", 0),
    "a decision on the line": (
        "put(a, __LINE__ > 210 ? 8 : 9)",
        "put(a, __LINE__ > 210 ? 8 : 9)",
        0,
    ),
    "a line and another call": ("put(a, __LINE__)", "get(__LINE__)", 0),
}


@pytest.mark.parametrize(
    ("old", "new", "count"), [pytest.param(*v, id=k) for k, v in CHANGES.items()]
)
def test_what_is_no_line_is_a_change(tmp_path: Path, old: str, new: str, count: int) -> None:
    text = "int f(int a) { return EXPRESSION; }\n"
    text += "".join(f"extern int other{n};\n" for n in range(50))
    before = HEAD + FAR + text.replace("EXPRESSION", old)
    after = HEAD + "\n" * 7 + FAR + text.replace("EXPRESSION", new)
    delta, asked = diff_sources(tmp_path, before, after)
    assert summary(delta) == (["f"], [], [], [])
    assert asked == count


def test_a_changed_return_value_beside_an_assertion_is_a_change(tmp_path: Path) -> None:
    """The kind of a function that names its file: its other numbers are no lines for that."""
    text = """
    int f(int a)
    {
        if (get(a)) { note("%s:%d", __FILE__, __LINE__); return 4; }
        return put(a, 3);
    }
    int g(int a) { note("%s:%d", __FILE__, __LINE__); return a; }
    """
    delta, asked = diff_sources(tmp_path, text, text.replace("return 4", "return 2"))
    assert summary(delta) == (["f"], [], [], [])
    assert delta.changed[0].cause is Cause.CONSTANT
    assert asked == 0
    delta, asked = diff_sources(tmp_path, text, "\n" * 5 + text.replace("return 4", "return 9"))
    assert summary(delta) == (["f"], [], ["g"], [])
    assert asked == 1


def test_line_directives_count_as_the_compiler_counts(tmp_path: Path) -> None:
    text = "int f(int a) { return put(__LINE__, a); }"
    before, after = f"#line 300\n{text}", f"int z;\n#line 320\n{text}"
    delta, asked = diff_sources(tmp_path, before, after)
    assert (summary(delta)[2], asked) == (["f"], 1)
    delta, asked = diff_sources(tmp_path, before, f"int z;\n#line 300\n{text}")
    assert (summary(delta)[2], asked) == ([], 0)


def test_a_shifted_side_that_does_not_compile_shows_nothing(tmp_path: Path) -> None:
    text = "int f(int a) { return put(__LINE__, a); }"
    delta = diff(
        compile_c(tmp_path, text),
        compile_c(tmp_path, "\n" + text),
        moved=[MovedLines(old=1, new=2, count=1)],
        shifted=lambda: None,
    )
    assert summary(delta) == (["f"], [], [], [])
