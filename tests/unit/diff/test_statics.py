# SPDX-License-Identifier: Apache-2.0
"""Static variables whose names the compiler numbers are paired by proof, or refused."""

from pathlib import Path

import pytest

from tests.kit.differ_inputs import compile_c, diff, diff_c, summary
from xsplice_plugins.elf.reader import read_elf

pytestmark = pytest.mark.toolchain

TWO = r"""
int first(int a) { static int count; count += get(a); return count; }
int second(int a) { static int count; count -= get(a); return count * 2; }
"""


def test_renumbered_statics_of_two_functions_are_told_apart(tmp_path: Path) -> None:
    extra = "int zero(int a) { static int count; count ^= get(a); return count; }\n"
    delta = diff_c(tmp_path, TWO, extra + TWO)
    assert [c.name for c in delta.changed] == []
    assert delta.refused == ()
    assert [n.symbol.split(".")[0] for n in delta.new] == ["zero", "count"]


def test_a_changed_user_refers_to_its_own_variable(tmp_path: Path) -> None:
    before = compile_c(tmp_path, TWO)
    after = compile_c(tmp_path, TWO.replace("count * 2", "count * 3"))
    delta = diff(before, after)
    assert [c.name for c in delta.changed] == ["second"]
    file = read_elf(before, "file.o")
    text = file.section_by_name[".text.second"]
    own = {file.sections[file.symbols[r.symbol].shndx].name for r in file.relocs(text)}
    assert {f".bss.{r.target.split('#')[1]}" for r in delta.references} <= own


def test_a_static_follows_its_function_into_the_caller_that_absorbed_it(tmp_path: Path) -> None:
    text = r"""
    static noinline int helper(int a) { static int seen; return seen += get(a); }
    int caller(int a) { return helper(a) + 1; }
    """
    delta = diff_c(tmp_path, text, text.replace("noinline ", ""))
    assert summary(delta)[0] == ["caller"]
    assert delta.refused == ()
    assert [r.target.rsplit(".", 1)[0] for r in delta.references] == ["file.c#seen"]


def test_a_static_that_changed_hands_without_proof_is_refused(tmp_path: Path) -> None:
    before = r"""
    int f(int a) { static int mine; return mine += get(a); }
    int g(int a) { return get(a) * 3; }
    """
    after = r"""
    int f(int a) { return get(a); }
    int g(int a) { static int mine; return (mine += get(a)) * 3; }
    """
    delta = diff_c(tmp_path, before, after)
    assert [r.code for r in delta.refused] == ["AMBIGUOUS"]
    assert "`mine" in delta.refused[0].reason


def test_a_static_with_a_new_name_and_the_same_uses_is_the_old_one(tmp_path: Path) -> None:
    before = "int f(int a) { static int mine; return mine += get(a); }"
    assert diff_c(tmp_path, before, before.replace("mine", "other")).is_empty


def test_two_statics_of_one_function_are_paired_by_the_code_that_uses_them(
    tmp_path: Path,
) -> None:
    text = r"""
    int f(int a)
    {
        int r = 0;
        if (get(a) > 4) { static int n; n += a; r = put(n, 1); }
        if (get(a) > 5) { static int n; n ^= a; r += put(n, 2); }
        return r;
    }
    """
    delta = diff_c(tmp_path, text, "int zero(void) { static int n; return n++; }\n" + text)
    assert delta.changed == ()
    assert delta.refused == ()


def test_a_print_once_flag_may_come_fresh(tmp_path: Path) -> None:
    before = r"""
    int f(int a) { static int warned; if (!warned) { warned = 1; note("f"); } return get(a); }
    int g(int a) { return get(a) * 3; }
    """
    after = before.replace('static int warned; if (!warned) { warned = 1; note("f"); } ', "")
    after = after.replace(
        "return get(a) * 3", 'static int warned; if (!warned) { warned = 1; note("g"); } return 7'
    )
    delta = diff_c(tmp_path, before, after)
    assert summary(delta)[0] == ["f", "g"]
    assert delta.refused == ()


def test_function_names_in_strings_need_no_pairing(tmp_path: Path) -> None:
    text = r"""
    int f(int a) { note(__func__); return get(a); }
    int g(int a) { note(__func__); return get(a) + 1; }
    """
    extra = "int e(int a) { note(__func__); return get(a) + 7; }\n"
    delta = diff_c(tmp_path, text, extra + text)
    assert delta.changed == ()
    assert delta.refused == ()


def test_constants_of_another_function_are_not_ambiguous(tmp_path: Path) -> None:
    before = "int f(int a) { note(__func__); return get(a); } int g(int a) { return get(a + 1); }"
    after = "int f(int a) { return get(a); } int g(int a) { note(__func__); return get(a + 1); }"
    delta = diff_c(tmp_path, before, after)
    assert summary(delta)[0] == ["f", "g"]
    assert delta.refused == ()
