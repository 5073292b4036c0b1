# SPDX-License-Identifier: Apache-2.0
"""Values that a patch begins to store and to ask for, and members asked otherwise."""

from __future__ import annotations

import pytest

from xsplice_plugins.csource.flags import known_flags, new_flags
from xsplice_plugins.csource.literals import changed_literals

OLD = """#define OLD_FLAG 1
void make(struct a *a) { a->flags = OLD_FLAG; @make@ }
void use(struct a *a) { if ( a->flags & OLD_FLAG ) run(a); @use@ }
"""


def filled(make: str = "", use: str = "", define: str = "") -> str:
    """Return a source in which a flag is made and used."""
    return define + OLD.replace("@make@", make).replace("@use@", use)


@pytest.mark.parametrize(
    ("make", "use"),
    [
        ("a->flags |= NEW_FLAG;", "if ( !(a->flags & NEW_FLAG) ) return;"),
        ("a->flags = a->flags | NEW_FLAG;", "if ( a->flags & NEW_FLAG ) run(a);"),
        ("set_bit(NEW_FLAG, &a->flags);", "if ( !test_bit(NEW_FLAG, &a->flags) ) return;"),
        ("a->kind = NEW_FLAG;", "if ( a->kind != NEW_FLAG ) return;"),
        ("a->kind = NEW_FLAG;", "switch ( a->kind ) { case NEW_FLAG: run(a); }"),
        ("a->flags |= 1u << NEW_FLAG;", "if ( (a->flags >> NEW_FLAG) & 1 ) run(a);"),
        ("a->flags |= MASK_INSR(1, NEW_FLAG);", "if ( MASK_EXTR(a->flags, NEW_FLAG) ) run(a);"),
        ("a->flags |= 0x80;", "if ( !(a->flags & 0x80) ) return;"),
        ("a->flags &= ~NEW_FLAG;", "if ( a->flags & NEW_FLAG ) return;"),
        ("init(a, OLD_FLAG | NEW_FLAG);", "BUG_ON(!(a->flags & NEW_FLAG));"),
    ],
)
@pytest.mark.parametrize("define", ["", "#define NEW_FLAG 4\n", "enum { NEW_FLAG = 4 };\n"])
def test_a_value_that_is_new_where_it_is_made_and_where_it_is_read(
    make: str, use: str, define: str
) -> None:
    found = new_flags((("common/a.c", filled(), filled(make, use, define)),))
    assert len(found) == 1
    assert "objects that exist do not have it" in found[0][1]
    assert not new_flags((("common/a.c", filled(), filled(make, "", define)),))
    assert not new_flags((("common/a.c", filled(), filled("", use, define)),))
    new = filled(make, use, define)
    assert not new_flags((("common/a.c", new, new.replace("run(a)", "runs(a)")),))


@pytest.mark.parametrize(
    ("make", "use"),
    [
        ("a->flags |= OLD_FLAG;", "if ( a->kind & OLD_FLAG ) return;"),
        ("a->flags |= 1u << OLD_FLAG;", "if ( (a->kind >> OLD_FLAG) & 1 ) return;"),
        ("a->flags |= MORE | OLD_FLAG;", "if ( !(a->kind & OLD_FLAG) ) return;"),
        ("__set_bit(OLD_FLAG, &a->flags);", "if ( test_bit(OLD_FLAG, &a->flags) ) return;"),
    ],
)
def test_a_flag_that_exists_and_is_set_and_asked_for_in_more_places(make: str, use: str) -> None:
    """Which is no new value: others have it already, and what exists lacks it here."""
    row = ("common/a.c", filled(), filled(make, use))
    (found,) = known_flags((row,))
    assert found[1].startswith("`make` sets `OLD_FLAG` where it was not set, and `use` asks")
    assert not new_flags((row,))
    assert not known_flags((("common/a.c", filled(), filled(make)),))
    assert not known_flags((("common/a.c", filled(), filled("", use)),))
    assert not known_flags((("common/a.c", filled(make, use), filled(make, use + " more();")),))
    both = filled(f"{make} {use}")
    assert not known_flags((("common/a.c", filled(), both),)), "one function asks for its own"


def test_a_flag_that_a_new_function_asks_for_is_no_new_condition() -> None:
    """What asked before asks no more: the question moved."""
    asking = " if ( a->flags & OLD_FLAG ) run(a); "
    new = filled("a->flags |= OLD_FLAG;").replace(asking, " more(a); ")
    new += f"void more(struct a *a) {{{asking}}}\n"
    assert asking in filled()
    assert not known_flags((("common/a.c", filled(), new),))


def test_an_error_that_is_answered_is_no_flag() -> None:
    assert not new_flags(
        (("common/a.c", filled(), filled("a->rc = -EBUSY;", "if ( a->rc == -EBUSY ) return;")),)
    )


def test_the_file_that_makes_and_the_one_that_reads_are_both_named() -> None:
    found = new_flags(
        (
            ("common/a.c", filled(), filled("a->flags |= NEW_FLAG;")),
            ("common/b.c", filled(), filled("", "if ( a->flags & NEW_FLAG ) run(a);")),
        )
    )
    assert [path for path, _ in found] == ["common/a.c", "common/b.c"]


COUNTED = """void make(struct r *r) { r->left = @made@; }
int take(struct r *r, int n) { if ( @asked@ ) return -1; return n; }
"""


def counted(made: str, asked: str) -> str:
    """Return a source that makes a member and asks for it."""
    return COUNTED.replace("@made@", made).replace("@asked@", asked)


@pytest.mark.parametrize(
    ("made", "asked", "makes", "asks"),
    [
        ("-1", "r->left == 0", "0", "r->left >= 4096"),
        ("-1", "r->left == -1", "0", "r->left <= 0"),
        ("-1", "r->left < 0", "0", "!r->left"),
        ("-1", "r->left < 0", "0", "r->left == 0"),
        ("0", "!r->left", "1", "r->left == 1"),
        ("0", "r->left", "2", "r->left == 2"),
        ("0", "0 == r->left", "7", "7 <= r->left"),
        ("0", "r->left != 0", "100", "r->left < 100"),
        ("8", "n && r->left > 8", "16", "n && r->left >= 16"),
        ("0", "unlikely(r->left)", "1", "unlikely(!r->left)"),
        ("false", "r->left", "true", "!r->left"),
    ],
)
def test_a_member_that_is_made_and_asked_for_otherwise(
    made: str, asked: str, makes: str, asks: str
) -> None:
    names = "#define false 0\n#define true 1\n"
    found = changed_literals(names + counted(made, asked), names + counted(makes, asks)).stale
    assert found
    assert "left" in found[0] or "read with" in found[0]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (("-1", "r->left == 0"), ("-1", "r->left <= 0")),
        (("-1", "r->left == 0"), ("0", "r->left == 0")),
        (("-1", "r->left == 0"), ("0", "n || r->left == 0")),
        (("-1", "r->left == 0"), ("-1L", "r->left >= 4096")),
        (("-1", "r->right == 0"), ("0", "r->right >= 4096 && n")),
    ],
)
def test_what_is_made_or_asked_for_as_before(old: tuple[str, str], new: tuple[str, str]) -> None:
    assert not changed_literals(counted(*old), counted(*new)).stale
