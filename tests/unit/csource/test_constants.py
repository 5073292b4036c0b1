# SPDX-License-Identifier: Apache-2.0
"""Which named constants have another value on either side, and which only another spelling."""

from __future__ import annotations

import pytest

from xsplice_plugins.csource.constants import (
    changed_constants,
    constants_in,
    looks_elsewhere,
    macros_in,
    number_of,
    replaced_words,
)
from xsplice_plugins.csource.literals import changed_literals


def changes(old: str, new: str) -> list[tuple[str, str, str]]:
    rows = changed_constants(macros_in(old), macros_in(new))
    return [(row.name, row.old, row.new) for row in rows]


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("#define A 1", "#define A 2", [("A", "1", "2")]),
        ("#define A 0x10", "# define A (1u << 5)", [("A", "16", "32")]),
        (
            "#define A 1\n#define B (A | 4)",
            "#define A 2\n#define B (A | 4)",
            [("A", "1", "2"), ("B", "5", "6")],
        ),
        (
            "#define BIT(n, t) (1##t << (n))\n#define A BIT(1, U)",
            "#define BIT(n, t) (1##t << (n))\n#define A BIT(2, U)",
            [("A", "2", "4")],
        ),
        ("#define A 1", "#define A B", [("A", "1", "B")]),
        ("#define A 1", "", [("A", "1", "")]),
        ("#define A 1", "#define B 2", [("A", "1", "")]),
        ("#define A 1\n#undef A\n#define A 2", "#define A 1", [("A", "1, 2", "1")]),
        ("#define A \\\n 1", "#define A \\\n 2", [("A", "1", "2")]),
    ],
)
def test_what_is_another_value(old: str, new: str, found: list[tuple[str, str, str]]) -> None:
    assert changes(old, new) == found


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("#define A 4", "#define A (1 << 2) /* bit two */"),
        ("#define A 4", "#define A ((unsigned int)0x4UL)"),
        ("#define A 010", "#define A 8"),
        ("#define A 1", "#define A 1\n#define B 2"),
        ("#define A (B + 1)", "#define A (B + 1)\n#define B 2"),
        ("#ifndef X_H\n#define X_H\n#endif", "#ifndef Y_H\n#define Y_H\n#endif"),
        ("#define F(a) ((a) & 1)", "#define F(b) ((b) & 1)"),
        ("#define F(a) 1", ""),
        ("#define A 2\n#define B 4", "#define A 2\n#define B (A * 2)"),
    ],
)
def test_what_is_another_spelling(old: str, new: str) -> None:
    assert changes(old, new) == []


RENAMED = "#define A 1\n#define B 2\nint f(int v)\n{\n    v |= A;\n    return v & B;\n}\n"


@pytest.mark.parametrize(
    ("new", "found"),
    [
        (RENAMED.replace("A", "C"), []),
        (RENAMED.replace("A", "C").replace("B", "D"), []),
        (RENAMED.replace("A 1", "C 3").replace("A", "C"), [("A", "1", "3")]),
        (
            RENAMED.replace("A 1", "C 2").replace("B 2", "D 1").replace("A", "C").replace("B", "D"),
            [("A", "1", "2"), ("B", "2", "1")],
        ),
        (RENAMED.replace("#define A 1\n", "").replace("v |= A;", ""), [("A", "1", "")]),
    ],
)
def test_what_has_another_name_is_the_same_where_it_stands(
    new: str, found: list[tuple[str, str, str]]
) -> None:
    """Two flags that exchange their values and take new names are no renaming."""
    rows = changed_constants(macros_in(RENAMED), macros_in(new), replaced_words(RENAMED, new))
    assert [(row.name, row.old, row.new) for row in rows] == found


def test_a_macro_with_arguments_that_changes_is_named() -> None:
    sides = (macros_in("#define F(a) ((a) & 1)"), macros_in("#define F(a) (((a) >> 4) & 1)"))
    (row,) = changed_constants(*sides)
    assert (row.name, row.takes_arguments) == ("F", True)


def test_constants_that_are_no_macros() -> None:
    old = "static const unsigned int a = 1; void f(void) { enum { x, y = 4, z }; }"
    new = old.replace("a = 1", "a = 2").replace("y = 4", "y = 5")
    rows = changed_constants(constants_in(old), constants_in(new))
    assert [(row.name, row.old, row.new) for row in rows] == [
        ("a", "1", "2"),
        ("y", "4", "5"),
        ("z", "5", "6"),
    ]
    assert changed_constants(constants_in(old), constants_in(old + " int b;")) == ()


@pytest.mark.parametrize("text", ["", "a", "1 +", "1 ? 2 : 3", "1 << 1000000000", "1 / 0", '"1"'])
def test_what_is_no_number(text: str) -> None:
    assert number_of(text) is None


def test_a_number_is_what_c_takes_it_for() -> None:
    assert [number_of(text) for text in ("~0x0fUL", "-(1)", "(s_time_t)7 / 2")] == [-16, -1, 3]


SET = "void set(struct v *v) { v->flags |= 4; }\n"
ASK = "int ask(struct v *v) { return !!(v->flags & 4); }\n"


def test_a_number_that_makes_and_reads_state() -> None:
    found = changed_literals(SET + ASK, (SET + ASK).replace("4", "8"))
    assert found.stale == ("state that was made with 4 is read with 8 (`set`, `ask`)",)


def test_a_number_that_only_reads_is_a_remark() -> None:
    found = changed_literals(SET + ASK, SET + ASK.replace("4", "8"))
    assert found.stale == ()
    assert found.remarks == (
        "`ask` asks for 8 where it asked for 4: what was made before is as the old code made it",
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("if ( n > 64 ) return;", "if ( n > 32 ) return;"),
        ("delay(10);", "delay(20);"),
        ("v->limit = 10;", "v->limit = 20;"),
        ("v->flags |= 0x4;", "v->flags |= 4;"),
        ("b[3] = 0;", "b[4] = 0;"),
    ],
)
def test_a_number_of_which_nothing_is_said(old: str, new: str) -> None:
    found = changed_literals(f"void f(struct v *v) {{ {old} }}", f"void f(struct v *v) {{ {new} }}")
    assert (found.stale, found.remarks) == ((), ())


@pytest.mark.parametrize(
    ("old", "new", "is_kept"),
    [
        ("v->t = xzalloc_array(int, N);", "v->t = xzalloc_array(int, N * 2);", True),
        ("v->t = xzalloc_array(int, N * 2);", "v->t = xzalloc_array(int, N);", True),
        ("table = _xmalloc(64, 8);", "table = _xmalloc(65, 8);", True),
        ("char *t = xmalloc_bytes(8); xfree(t);", "char *t = xmalloc_bytes(9); xfree(t);", False),
        ("v->t = NULL;", "v->t = xzalloc_array(int, N);", False),
        ("v->t = xmalloc(int);", "v->t = xzalloc(int);", False),
        ("v->n = 1; v->t = xmalloc(int);", "v->n = 2; v->t = xmalloc(int);", False),
        ("v->t = xmalloc(int);", "v->t = xmalloc(long);", True),
        ("v->p = alloc_domheap_pages(d, 1, m);", "v->p = alloc_domheap_pages(d, 2, m);", True),
        ("v->p = alloc_domheap_pages(d, 1, m);", "v->p = alloc_domheap_pages(d, 1, m | 4);", False),
        ("v->p = alloc_xenheap_pages(0, g(32));", "v->p = alloc_xenheap_page();", False),
        ("v->p = alloc_xenheap_page();", "v->p = alloc_xenheap_pages(0, g(32));", False),
        ("v->p = alloc_xenheap_pages(n, g(32));", "v->p = alloc_xenheap_page();", True),
        ("v->p = alloc_xenheap_page();", "v->p = alloc_xenheap_pages(1, 0);", True),
        ("v->p = alloc_xenheap_pages(0, 0);", "v->p = alloc_xenheap_pages(3, 0);", True),
        ("v->p = alloc_domheap_page(d, f);", "v->p = alloc_domheap_pages(d, 0, f | 4);", False),
        ("v->p = alloc_domheap_pages(d, 0, 4);", "v->p = alloc_domheap_page(g(d, e), 4);", False),
        ("v->p = alloc_domheap_page(g(d, e), f);", "v->p = alloc_domheap_pages(d, 1, f);", True),
        ("v->p = alloc_domheap_pages(d, 9, f);", "v->p = alloc_domheap_page(d, f);", True),
        ("v->p = alloc_domheap_pages(d, n, f);", "v->p = alloc_domheap_pages(d, 0, f);", True),
        ("v->p = alloc_port(d, 0, g(1));", "v->p = alloc_port(d, 1, g(1));", False),
        (
            "struct s c = { 0 }; if ( (c.b = xmalloc_bytes(8)) == NULL ) return; xfree(c.b);",
            "struct s c = { 0 }; if ( (c.b = xmalloc_bytes(9)) == NULL ) return; xfree(c.b);",
            False,
        ),
        (
            "struct s c = { 0 }; c.b = xmalloc_bytes(8); v->b = c.b; if ( e ) xfree(c.b);",
            "struct s c = { 0 }; c.b = xmalloc_bytes(9); v->b = c.b; if ( e ) xfree(c.b);",
            True,
        ),
        (
            "struct s c = { 0 }; c.b = xmalloc_bytes(8); v->s = c; if ( e ) xfree(c.b);",
            "struct s c = { 0 }; c.b = xmalloc_bytes(9); v->s = c; if ( e ) xfree(c.b);",
            True,
        ),
        (
            "static struct s c; c.b = xmalloc_bytes(8); if ( e ) xfree(c.b);",
            "static struct s c; c.b = xmalloc_bytes(9); if ( e ) xfree(c.b);",
            True,
        ),
        ("c.b = xmalloc_bytes(8); xfree(c.b);", "c.b = xmalloc_bytes(9); xfree(c.b);", True),
        (
            "struct s c = { 0 }; c.b = xmalloc_bytes(8);",
            "struct s c = { 0 }; c.b = xmalloc_bytes(9);",
            True,
        ),
    ],
)
def test_memory_of_another_size(old: str, new: str, *, is_kept: bool) -> None:
    found = changed_literals(f"void f(struct v *v) {{ {old} }}", f"void f(struct v *v) {{ {new} }}")
    assert bool(found.stale) is is_kept


NAMED = (
    "#define A 1\n#define B 3\nenum { C = 1, D };\n"
    "void set(struct v *v) { v->kind = A; v->other = C; }\n"
    "int ask(struct v *v) { return v->kind == A && v->other == C; }\n"
)


@pytest.mark.parametrize(
    ("was", "now", "text"),
    [
        (" A;", " B;", "state that was made with `A` = 1 is read with `B` = 3 (`set`, `ask`)"),
        (" A;", " 3;", "state that was made with `A` = 1 is read with 3 (`set`, `ask`)"),
        (
            " A;",
            " B << 1;",
            "state that was made with `A` = 1 is read with `B << 1` = 6 (`set`, `ask`)",
        ),
        (" C;", " D;", "state that was made with `C` = 1 is read with `D` = 2 (`set`, `ask`)"),
    ],
)
def test_another_name_is_another_number_if_it_has_another_value(
    was: str, now: str, text: str
) -> None:
    """The old name stays defined, with its value."""
    new = NAMED.replace(was, now)
    new = new.replace(f"{was[:-1]} &&", f"{now[:-1]} &&").replace(f"=={was}", f"=={now}")
    assert new.count(now.strip(" ;")) > NAMED.count(now.strip(" ;")) + 1
    assert changed_literals(NAMED, new).stale == (text,)


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ("= A", "= C"),  # the same value
        ("= A", "= v->b"),  # no constant
        ("= A;", "= B;"),  # where it is made alone
        ("== A", "== B"),  # where it is read alone
    ],
)
def test_another_name_that_changes_nothing_that_was_made(was: str, now: str) -> None:
    assert changed_literals(NAMED, NAMED.replace(was, now)).stale == ()


def test_an_error_that_a_call_answers_is_no_state() -> None:
    old = "int f(void) { return -ENOMEM; } int g(int rc) { return rc == -ENOMEM; }"
    tables = (macros_in("#define ENOMEM 12\n#define EBUSY 16"),) * 2
    found = changed_literals(old, old.replace("ENOMEM", "EBUSY"), lambda: tables)
    assert (found.stale, found.remarks) == ((), ())


def test_names_are_looked_up_on_their_own_side_and_only_if_need_be() -> None:
    asked = []

    def tables() -> tuple[dict[str, tuple[tuple[None, str], ...]], ...]:
        asked.append(1)
        return {"A": ((None, "1"),)}, {"F": ((None, "8"),)}

    old = "void set(struct v *v) { v->flags |= A; } int ask(struct v *v) { return v->flags & A; }"
    assert changed_literals(old, old.replace("v->flags & A", "1"), tables).stale == ()
    assert asked == []
    found = changed_literals(old, old.replace("A", "F"), tables)
    assert found.stale == ("state that was made with `A` = 1 is read with `F` = 8 (`set`, `ask`)",)


def test_a_name_that_another_file_takes_as_well_is_one_with_it() -> None:
    """One file makes, another one reads."""
    define = "#define A 1\n#define B 3\n"
    make = define + "void set(struct v *v) { v->kind = A; }"
    read = "int ask(struct v *v) { return v->kind == A; }"
    sides = (make, make.replace("= A", "= B"))
    other = (read, read.replace("== A", "== B"))
    text = "state that was made with `A` = 1 is read with `B` = 3 (`set`, `ask`)"
    assert changed_literals(*sides, others=[other]).stale == (text,)
    assert changed_literals(*sides, others=[(read, read.replace("== A", "!= A"))]).stale == ()
    assert changed_literals(*sides, others=[(read, read.replace("== A", "== C"))]).stale == ()


def test_a_number_that_another_file_has_as_well_is_another_one() -> None:
    other = (ASK, ASK.replace("4", "8"))
    assert changed_literals(SET, SET.replace("4", "8"), others=[other]).stale == ()


BITS = (
    "void set(struct v *v, int n) { v->state = (n & 3) << 2; }\n"
    "int ask(struct v *v) { return !(v->state & 8); }\n"
)


def test_a_member_that_is_made_with_one_number_and_asked_for_another() -> None:
    new = BITS.replace("<< 2", "<< 3").replace("& 8", "& 16")
    assert changed_literals(BITS, new).stale == (
        (
            "`state` was made with 2, where 3 makes it now (`set`), and is read with 16 where it "
            "was read with 8 (`ask`)"
        ),
    )


@pytest.mark.parametrize(
    "new",
    [
        BITS.replace("<< 2", "<< 3"),
        BITS.replace("& 8", "& 16"),
        BITS.replace("<< 2", "<< 3").replace("!(v->state & 8)", "v->state > 16"),
    ],
)
def test_a_member_that_is_only_made_or_only_read_otherwise(new: str) -> None:
    assert changed_literals(BITS, new).stale == ()


def test_members_of_other_names_have_nothing_to_do_with_each_other() -> None:
    old = BITS.replace("!(v->state", "!(v->flags")
    assert changed_literals(old, old.replace("<< 2", "<< 3").replace("& 8", "& 16")).stale == ()


OFFSET = (
    "static int place(int i) { return i + 1; }\n"
    "void set(struct v *v, int i) { v->place = place(i); }\n"
    "int get(struct v *v) { return table[v->place - 1]; }\n"
)


@pytest.mark.parametrize(("sides", "how"), [(1, "gone"), (-1, "new")])
def test_an_offset_that_is_added_and_taken_away_no_more(sides: int, how: str) -> None:
    plain = OFFSET.replace("i + 1", "i").replace("place - 1", "place")
    assert changed_literals(*(OFFSET, plain)[::sides]).stale == (
        (
            f"`+ 1` is {how} where `place` makes a value, and `- 1` is {how} where `get` reads "
            "one: what was made before may be read otherwise"
        ),
    )


def test_what_is_taken_away_on_both_sides_is_an_ordinary_fix() -> None:
    old = OFFSET.replace("i + 1", "i - 1")
    assert (
        changed_literals(old, old.replace("i - 1", "i").replace("place - 1", "place")).stale == ()
    )


def test_an_offset_that_is_compared_with_no_more() -> None:
    old = OFFSET.replace("table[v->place - 1]", "v->place == n + 1")
    new = old.replace("i + 1", "i").replace("n + 1", "n")
    assert len(changed_literals(old, new).stale) == 1


@pytest.mark.parametrize(
    "new",
    [
        OFFSET.replace("i + 1", "i"),
        OFFSET.replace("place - 1", "place"),
        OFFSET.replace("i + 1", "i").replace("return table[v->place - 1]", "return 0"),
    ],
)
def test_an_offset_at_one_place_is_an_ordinary_fix(new: str) -> None:
    assert changed_literals(OFFSET, new).stale == ()


@pytest.mark.parametrize(
    ("old", "new", "answer"),
    [
        ("((p)[N-1].v)", "((p)[N-2].v)", True),
        ("(t[(e)->x-1])", "(t[(e)->x])", True),
        ("(t[u[x]])", "(t[u[x + 1]])", True),
        ("t[x]", "u[x]", False),
        ("t[ (x) ].a + 1", "t[(x)].a + 2", False),
        ("t[x]", "t[array_index_nospec(x, 8)]", False),
        ("x + 1", "x + 2", False),
    ],
)
def test_a_macro_that_looks_at_another_place(old: str, new: str, *, answer: bool) -> None:
    assert looks_elsewhere(old, new) is answer
