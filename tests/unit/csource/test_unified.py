# SPDX-License-Identifier: Apache-2.0
"""One name for what is one thing on both sides, and members that a patch brings."""

from __future__ import annotations

import pytest

from xsplice_plugins.csource.brought import brought_members, shadowed
from xsplice_plugins.csource.remade import remade_members
from xsplice_plugins.csource.unified import unified

OLD = """\
struct set {
    long nr; /* free */
    unsigned int flags;
};
struct other { int a; };

static struct range *take(struct set *s)
{
    struct range *r = NULL;

    if ( s->nr == 0 )
        return NULL;
    s->nr--;
    return fill(r, s->flags);
}

struct set *set_new(unsigned int flags)
{
    struct set *s = xmalloc(struct set);

    if ( !s )
        return NULL;
    s->nr = -1;
    s->flags = flags;
    return s;
}

void add(struct set *s)
{
    use(take(s), s);
}
"""


def edited(*edits: tuple[str, str]) -> tuple[tuple[str, str, str], ...]:
    """Return the file with some edits, as both sides of a patch."""
    new = OLD
    for before, after in edits:
        assert before in new
        new = new.replace(before, after)
    return (("a.c", OLD, new),)


MADE, READ = ("s->nr = -1;", "s->nr = LONG_MAX;"), ("s->nr == 0", "s->nr <= 0")
MACRO = "#define NR(x) ((x)->nr)\n"
RENAMED = (("long nr;", "long left;"), ("s->nr", "s->left"))


@pytest.mark.parametrize(
    "more",
    [
        (),
        RENAMED,
        (("take(", "fetch("),),
        (
            ("struct other {", "#define NR(x) ((x)->nr)\nstruct other {"),
            ("s->nr <= 0", "NR(s) <= 0"),
        ),
        (
            ("    long nr;", "    union {\n        long nr;\n        long left;\n    };"),
            ("s->nr = LONG_MAX", "s->left = LONG_MAX"),
            ("s->nr <= 0", "s->left <= 0"),
        ),
    ],
    ids=["plain", "member", "function", "macro", "alias"],
)
def test_another_name_hides_nothing(more: tuple[tuple[str, str], ...]) -> None:
    [found] = remade_members(unified(edited(MADE, READ, *more)))
    assert "is made otherwise than before (`set_new`: `= LONG_MAX`)" in found.text


@pytest.mark.parametrize("one", [MADE, READ])
def test_one_side_alone_is_no_doubt(one: tuple[str, str]) -> None:
    assert not remade_members(unified(edited(one, *RENAMED)))


@pytest.mark.parametrize(
    "edits",
    [
        RENAMED,
        (("take(", "fetch("),),
        (("    s->flags = flags;", "    s->flags = flags;\n    note(s);"),),
        ((OLD[OLD.index("static struct range") : OLD.index("struct set *set_new")], ""),),
    ],
)
def test_what_only_has_another_name_is_no_doubt(edits: tuple[tuple[str, str], ...]) -> None:
    rows = unified(edited(*edits))
    assert not remade_members(rows)
    assert not brought_members(rows)
    assert [row[2].count("\n") for row in rows] == [edited(*edits)[0][2].count("\n")]


def test_lines_stay_where_they_are() -> None:
    edit = ("struct other {", "#define NR(x, \\\n y) ((x)->nr)\n#define N(x) x->nr\nstruct other {")
    [(_, old, new)] = unified(edited(edit, ("s->nr--", "N(N(s)\n  )--")))
    assert old == OLD
    assert "s->nr->nr--;" in new.replace("\n", "").replace(" ", "")


def test_a_member_is_renamed_where_it_is_declared_too() -> None:
    """In nested structures as well, with names of another length, and nowhere else."""
    old = "struct a { struct { int x; } in; int y; }; int y; int f(struct a *p) { return p->in.x; }"
    new = old.replace("int x;", "int longer_x;").replace("in.x", "in.longer_x")
    [(_, renamed, _)] = unified((("a.c", old, new),))
    assert renamed == new


def test_a_bracket_that_does_not_close_leaves_the_text_as_it_is() -> None:
    broken = f"{MACRO}{OLD}int x = NR(a;"
    assert unified((("a.c", OLD, broken),)) == (("a.c", OLD, broken),)


HELD = ("    unsigned int flags;\n", "    unsigned int flags;\n    bool ready;\n")
SET = ("    s->nr = -1;\n", "    s->nr = -1;\n    s->ready = true;\n")
ASK = ("    s->nr--;\n", "    if ( !s->ready )\n        return NULL;\n    s->nr--;\n")


def test_a_new_member_that_only_makers_set_is_asked_of_objects_that_exist() -> None:
    [(path, text)] = brought_members(unified(edited(HELD, SET, ASK)))
    assert path == "a.c"
    assert "`ready` is new in objects that exist" in text
    assert "`set_new` makes objects and gives it another value (`= true`)" in text
    assert text.endswith("and `take` reads it")


@pytest.mark.parametrize(
    ("held", "put", "asked"),
    [
        ("bool ready;", "s->ready |= 4;", "s->ready & 4"),
        ("atomic_t ready;", "atomic_set(&s->ready, 4);", "atomic_read(&s->ready)"),
        ("int ready;", "write_atomic(&s->ready, 4);", "read_atomic(&s->ready)"),
        ("struct other ready;", "s->ready.a = 4;", "s->ready.a"),
        ("int ready[2];", "s->ready[1] = 4;", "s->ready[1]"),
        ("int a;", "s->a = 4;", "s->a"),  # another structure has one of that name
    ],
)
def test_it_is_set_in_whatever_way(held: str, put: str, asked: str) -> None:
    edits = [
        (HELD[0], f"{HELD[0]}    {held}\n"),
        (SET[0], f"{SET[0]}    {put}\n"),
        (ASK[0], f"    if ( {asked} )\n        return NULL;\n{ASK[0]}"),
    ]
    assert brought_members(unified(edited(*edits)))


@pytest.mark.parametrize(
    "edits",
    [
        (HELD, SET),  # nobody reads it
        (HELD, ASK),  # nobody sets it
        (HELD, (SET[0], SET[1].replace("true", "false")), ASK),  # zero is right
        # It is set where things happen, not where objects are made.
        (HELD, ("    use(take(s), s);", "    s->ready = true;\n    use(take(s), s);"), ASK),
        # All objects of a new structure are new.
        (
            ("struct other { int a; };", "struct fresh { bool ready; };"),
            SET,
            ASK,
        ),
        # A lock is free as zero.
        (
            (HELD[0], HELD[1].replace("bool ready", "spinlock_t ready")),
            (SET[0], SET[1].replace("s->ready = true", "spin_lock_init(&s->ready)")),
            (ASK[0], "    spin_lock(&s->ready);\n    s->nr--;\n"),
        ),
    ],
)
def test_a_new_member_that_zero_suits_is_no_doubt(edits: tuple[tuple[str, str], ...]) -> None:
    assert not brought_members(unified(edited(*edits)))


@pytest.mark.parametrize("is_made_ready", [False, True])
def test_a_shadow_starts_for_objects_that_exist_too(is_made_ready: bool) -> None:
    start = "    s->ready = true;\n" if is_made_ready else ""
    store = (
        "struct xsplice_set_shadow { const struct set *of; bool ready; };\n"
        "void xsplice_set_start(struct xsplice_set_shadow *s)\n{\n" + start + "}\nstruct other {"
    )
    found = brought_members(
        edited(
            ("struct other {", store),
            (SET[0], SET[1].replace("s->ready", "xsplice_set_shadow(s)->ready")),
            (ASK[0], ASK[1].replace("s->ready", "xsplice_set_shadow(s)->ready")),
        )
    )
    assert bool(found) is not is_made_ready
    [(path, text)] = shadowed((("a.c", OLD, OLD + store),))
    assert (path, text.startswith("`set` has new members in a shadow")) == ("a.c", True)
    assert not list(shadowed((("a.c", OLD, OLD),)))
