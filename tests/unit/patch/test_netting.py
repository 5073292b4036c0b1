# SPDX-License-Identifier: Apache-2.0
"""What a series changes in the end, and in which functions."""

from __future__ import annotations

from collections import Counter

from xsplice_plugins.patch.netting import net_lines

OLD = """#include <one.h>
static int first(int a)
{
    if ( a )
        return -EINVAL;
out:
    return a;
}

int second(int a,
           int b)
{
    return -EINVAL;
}
"""


def net(new: str | None, old: str | None = OLD, path: str = "a.c") -> Counter[str]:
    sides = [None if text is None else text.encode() for text in (old, new)]
    return Counter(net_lines({path: (sides[0], sides[1])}))


def test_equal_files_have_no_lines() -> None:
    assert net(OLD) == Counter()
    assert net(OLD.replace("    ", "\t")) != Counter(), "blanks are another text"


def test_a_line_is_that_of_its_function() -> None:
    one = net(OLD.replace("return a;", "return b;"))
    other = net(OLD.replace("    return -EINVAL;\n}", "    return b;\n}"))
    assert [row[8] for row in sorted(one)] == [row[8] for row in sorted(other)] == ["+", "-"]
    groups = [{row[:8] for row in rows} for rows in (one, other)]
    assert [len(group) for group in groups] == [1, 1]
    assert groups[0] != groups[1]


def test_what_a_function_takes_is_no_part_of_its_name() -> None:
    wider = OLD.replace("first(int a)", "first(int a, int b)")
    edit = ("return a;", "return a + 1;")
    both = net(wider.replace(*edit))
    assert net(OLD.replace(*edit)) <= both
    assert {row[:8] for row in both} == {row[:8] for row in net(OLD.replace(*edit))}


def test_blanks_do_not_count_and_paths_do() -> None:
    edit = OLD.replace("return a;", "return a + 1;")
    assert net(edit) == net(edit.replace("a + 1", "a  +  1"))
    assert net(edit) != net(edit, path="b.c")


def test_edits_far_from_each_other_do_not_meet() -> None:
    far = OLD.replace("if ( a )", "if ( !a )"), OLD.replace("           int b", "           int c")
    both = far[0].replace("           int b", "           int c")
    assert net(both) == net(far[0]) + net(far[1])


def test_a_new_file_and_one_that_is_gone_count_whole() -> None:
    assert {row[8] for row in net(OLD, None)} == {"+"}
    assert {row[8] for row in net(None)} == {"-"}
    assert net("") == net(None)


def test_short_lines_say_something_and_braces_do_not() -> None:
    old = "int f(int a)\n{\n    g(a\n      : 0,\n      d);\n}\n"
    assert net(old.replace(": 0,", ": 1,"), old).total() == 2
    assert net(old.replace("d);", "e);"), old).total() == 2
    assert net(old.replace("}", "} }"), old).total() == 0
