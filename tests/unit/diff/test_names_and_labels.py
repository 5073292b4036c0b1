# SPDX-License-Identifier: Apache-2.0
"""Names that only look like sections, labels that only look like functions, flags that stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.kit.differ_inputs import compile_c, diff, diff_c, summary
from xsplice_plugins.elf.reader import read_elf

if TYPE_CHECKING:
    from pathlib import Path

    from xsplice_plugins.elf.types import Symbol

pytestmark = pytest.mark.toolchain

#: Xen's UNLIKELY_START of xen/arch/x86/include/asm/asm_defns.h, as the first user of an object.
FIRST = r'asm volatile ("test %0, %0\n\tjz 1f\n\t.subsection 1\n\"a/file.o.unlikely\":\n"'
NEXT = r'asm volatile ("test %0, %0\n\tjz 1f\n\t.subsection 1\n"'
REST = r'"1: inc %0\n\tjmp 2f\n\t.subsection 0\n2:" : "+r" (a)); '


@pytest.mark.parametrize("name", ["init", "exit", "startup", "noinstr"])
def test_a_function_called_like_a_section_is_ordinary_code(tmp_path: Path, name: str) -> None:
    text = f"int {name}(int a) {{ return get(a) + 1; }}"
    assert summary(diff_c(tmp_path, text, text.replace("1", "2"))) == ([name], [], [], [])


@pytest.mark.parametrize("name", ["param", "init", "schedulers", "ro_after_init", "percpu"])
def test_a_variable_called_like_a_section_is_an_ordinary_one(tmp_path: Path, name: str) -> None:
    text = "static int q = 3; int f(int a) { return get(a) + q++; }"
    after = text.replace("int f", f"static int {name} = 5; int f").replace("q++", f"q++ + {name}++")
    assert summary(diff_c(tmp_path, text, after)) == (["f"], [f"file.c#{name}"], [], [])


def test_a_section_of_that_name_is_still_a_registry(tmp_path: Path) -> None:
    text = "int f(int a) { return get(a); }"
    entry = 'used __attribute__((section(".data.param"))) static int mine = 5; '
    assert [r.code for r in diff_c(tmp_path, text, entry + text).refused] == ["REGISTRY"]


def test_a_label_of_the_new_code_alone_is_no_second_entry(tmp_path: Path) -> None:
    text = "int f(int a) { return get(a) + 1; }"
    after = text.replace("return", 'asm volatile ("here: nop"); return')
    assert summary(diff_c(tmp_path, text, after)) == (["f"], [], [], [])
    codes = [r.code for r in diff_c(tmp_path, after, text).refused]
    assert codes == ["ASM_LABEL"]  # old code may enter there


def test_the_tail_behind_the_label_of_unlikely_code_belongs_to_its_function(
    tmp_path: Path,
) -> None:
    text = f"int f(int a) {{ {FIRST} {REST} return get(a) + 1; }}"
    more = f"int g(int a) {{ {NEXT} {REST} return get(a) ^ 5; }}"
    delta = diff_c(tmp_path, text + more, (text + more).replace("+ 1", "+ 2"))
    assert summary(delta) == (["f"], [], [], [])
    moved = f"int g(int a) {{ {FIRST} {REST} return get(a) ^ 5; }}" + text.replace(FIRST, NEXT)
    assert summary(diff_c(tmp_path, text + more, moved)) == ([], [], [], [])


ONCE = """int f(int a) {
    if (a > 1) { static char once_; if (!once_) { once_ = 1; note("one", a); } }
    if (a > 2) { static char once_; if (!once_) { once_ = 1; note("one", a); } }
    if (a > 3) { static char once_; if (!once_) { once_ = 1; note("one", a); } }
    return get(a) + 1;
}"""


@pytest.mark.parametrize("name", ["once_", "warned"])
def test_flags_that_print_once_are_kept(tmp_path: Path, name: str) -> None:
    before = ONCE.replace("once_", name)
    after = before.replace("{\n    if", "{\n    if (!a) return 0;\n    if", 1)
    delta = diff_c(tmp_path, before, after)
    assert summary(delta) == (["f"], [], [], [])
    assert len(delta.references) == 3


FLAG = 'if (a > %d) { static char once_ = %d; if (once_) { once_ = 0; note("%s", a); } }'


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_flag_stays_with_its_text(tmp_path: Path, place: int) -> None:
    """The value that a flag begins with, which nothing is paired by, tells them apart here."""
    rows = [FLAG % (1, 3, "one"), FLAG % (2, 5, "two")]
    text = "int f(int a) { %s return get(a) + 1; }"
    before = compile_c(tmp_path, text % " ".join(rows))
    rows.insert(place, FLAG % (7, 9, "more"))
    after = compile_c(tmp_path, text % " ".join(rows))
    delta = diff(before, after)
    assert (summary(delta)[0], len(delta.new)) == (["f"], 1)
    flags = [row for row in delta.references if "once_" in row.target]
    was = {row.decorated: value for row, value in flags_of(before)}
    now = {(row.shndx, row.value): value for row, value in flags_of(after)}
    assert [now[row.section, row.offset] for row in flags] == [was[row.target] for row in flags]
    assert sorted(was[row.target] for row in flags) == [3, 5]


def flags_of(data: bytes) -> list[tuple[Symbol, int]]:
    """Return the flags of an object, and the values that they begin with."""
    elf = read_elf(data, "file.o")
    rows = [row for row in elf.symbols if row.name.startswith("once_")]
    return [(row, elf.sections[row.shndx].data[row.value]) for row in rows]


def test_other_statics_of_one_name_are_not_taken_for_flags(tmp_path: Path) -> None:
    before = ONCE.replace("once_", "state")
    after = before.replace("{\n    if", "{\n    if (!a) return 0;\n    if", 1)
    delta = diff_c(tmp_path, before, after)
    assert [r.code for r in delta.refused] == ["AMBIGUOUS"]


CHECKED = """int arr[100];
int f(int i) { arr[i] = 1; return arr[i + 1] + get(i); }
int g(int a, int b) { return a + b * 2; }
int h(int s) { return 1 << s; }
"""


def test_what_a_sanitizer_says_of_a_function_is_new_with_it(tmp_path: Path) -> None:
    after = "\n\n" + CHECKED.replace("* 2", "* 3")
    delta = diff_c(tmp_path, CHECKED, after, "-fsanitize=undefined")
    assert [c.name for c in delta.changed] == ["g"]
    assert delta.refused == ()
    assert delta.new
    assert all(item.section.startswith(".data") for item in delta.new)


DEAD = """static int sum(int a, int b) { return a < 3 && a > 5 ? arr[b] : a; }
int k(int a) { return sum(a, 7) + get(a); }
"""


@pytest.mark.parametrize("dead", ["", DEAD])
def test_what_a_sanitizer_numbers_is_known_by_the_code_that_reads_it(
    tmp_path: Path, dead: str
) -> None:
    """A function more in front gives all descriptions other numbers; of dead code they stay."""
    before = CHECKED + dead
    more = "noinline int odd(long x) { return get(x + 1) * (short)x; }\n"
    after = more + before.replace("return 1 << s", "return odd(s) << s")
    delta = diff_c(tmp_path, before, after, "-fsanitize=undefined")
    assert [c.name for c in delta.changed] == ["h"]
    assert delta.refused == ()
    assert "odd" in [item.symbol for item in delta.new]


def test_a_place_that_a_sanitizer_names_is_a_line_that_moves_and_a_column_that_does_not(
    tmp_path: Path,
) -> None:
    delta = diff_c(tmp_path, CHECKED, "\n\n\n" + CHECKED, "-fsanitize=undefined")
    assert delta.changed == ()
    assert {row.name: row.reason for row in delta.line_only} == {
        "f": "line 2 became 5", "g": "line 3 became 6", "h": "line 4 became 7"
    }  # fmt: skip
    after = CHECKED.replace("int b) { return", "int b) {  return")
    delta = diff_c(tmp_path, CHECKED, after, "-fsanitize=undefined")
    assert [c.name for c in delta.changed] == ["g"]
    assert (delta.line_only, delta.refused) == ((), ())


COVERED = """int f(int i) { if (i > 3) return get(i); return put(i, 2); }
int g(int a, int b) { if (a) return get(a); return a + b * 2; }
"""


@pytest.mark.parametrize("more", ["b * 3", "(b > 5 ? get(b) : put(b, a))"])
def test_a_counted_function_counts_on_or_gets_new_counters(tmp_path: Path, more: str) -> None:
    flags = ("-fprofile-arcs", "-ftest-coverage")
    delta = diff_c(tmp_path, COVERED, COVERED.replace("b * 2", more), *flags)
    assert [c.name for c in delta.changed] == ["g"]
    assert delta.refused == ()
    counters = [n.symbol for n in delta.new] + [r.target for r in delta.references]
    assert [name.rpartition("#")[2] for name in counters] == ["__gcov0.g"]
    assert bool(delta.new) == (more != "b * 3")
