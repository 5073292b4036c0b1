# SPDX-License-Identifier: Apache-2.0
"""How C text uses a constant: makes state with it, reads state by it, looks something up by it."""

from __future__ import annotations

import pytest

from xsplice_plugins.csource.uses import is_read_otherwise, uses_in


def kinds(text: str) -> str:
    """Return the letters of all that one text does with ``X``."""
    rows = list(uses_in(text, {"X"}))
    assert rows, text
    return "".join(
        letter
        for letter, does in (
            ("m", any(row.makes for row in rows)),
            ("r", any(row.reads for row in rows)),
            ("i", any(row.indexes for row in rows)),
        )
        if does
    )


@pytest.mark.parametrize(
    "text",
    [
        "v->flags |= X;",
        "v->flags = X;",
        "v->flags = (unsigned char)(X | Y);",
        "v->flags &= ~X;",
        "v->flags = b ? X : 0;",
        "v->flags = 1u << X;",
        "return X;",
        "set_bit(X, &v->flags);",
        "set_bit(X + base, &v->flags);",
        "struct s s = { .kind = X };",
        "struct s s = { 1, X };",
        "change(v, BIT(X, UL));",
        "v->flags = MASK_INSR(n, X);",
        "v->offset = -X;",
        "v->page = alloc_domheap_pages(d, order, memflags | X);",
        "v->page = alloc_heap_pages(lo, hi, order, X, d);",
        "memset(p, X, n);",
        "memset(p + sizeof(*p), X, f(a, b));",
        "memcpy(p, X, n);",
        "v->mfn = _mfn(X);",
        "if ( change(v, X) ) return;",
    ],
)
def test_what_makes_state(text: str) -> None:
    assert kinds(f"void f(void) {{ {text} }}") == "m"


@pytest.mark.parametrize(
    "text",
    [
        "if ( v->flags & X ) g();",
        "if ( X & v->flags ) g();",
        "if ( v->flags & (X | Y) ) g();",
        "if ( v->flags & (1u << X) ) g();",
        "if ( (v->kind == X) && b ) g();",
        "if ( X != v->kind ) g();",
        "switch ( v->kind ) { case X: g(); }",
        "switch ( v->kind ) { case 1: case X: g(); }",
        "if ( test_bit(X, &v->flags) ) g();",
        "if ( unlikely(v->kind == X) ) g();",
        "while ( has_flag(v, X) ) g();",
        "return X == v->kind;",
        "v->is_it = X != v->kind;",
        "if ( (v->time >> X) > n ) g();",
        "if ( v->time / (2 * X) > n ) g();",
        "n = MASK_EXTR(v->flags, X);",
        "g(FIELD_GET(X, v->flags));",
        "if ( v->time - X > n ) g();",
        "if ( memchr_inv(p, X, n) ) g();",
        "q = memchr(p, X, n);",
        "if ( !memcmp(p, X, n) ) g();",
        "if ( strcmp(p, X) ) g();",
        "q = strstr(p, X);",
        "if ( !strncasecmp(p, X, n) ) g();",
        "if ( mfn_eq(v->mfn, X) ) g();",
        "if ( gfn_eq(v->gfn, _gfn(X)) ) g();",
        "return maddr_eq(X, v->maddr);",
        "BUG_ON(guid_cmp(&v->id, X));",
        "if ( list_equal(v, X) ) g();",
    ],
)
def test_what_reads_state(text: str) -> None:
    assert kinds(f"void f(void) {{ {text} }}") == "r"


@pytest.mark.parametrize(
    "text",
    [
        "if ( test_and_clear_bit(X, &v->flags) ) g();",
        "v->flags = v->flags & ~X;",
        "if ( v->kind == X ) v->kind = X;",
        "v->time = t / X;",
    ],
)
def test_what_does_both(text: str) -> None:
    assert kinds(f"void f(void) {{ {text} }}") == "mr"


@pytest.mark.parametrize(
    "text",
    [
        "h = table[id & (X - 1)];",
        "h = table[hash(id)] + other[X];",
        "return table[X];",
        "h = id % X;",
        "v->table = xzalloc_array(struct s, X);",
        "v->table = _xmalloc(X * sizeof(struct s), 8);",
        "v->page = alloc_domheap_pages(d, X, memflags);",
        "v->page = alloc_xenheap_pages(get_order_from_bytes(X), 0);",
        "v->x = alloc_of_another_kind(d, X);",
        "return (table)[X].member;",
    ],
)
def test_what_says_where_or_how_large(text: str) -> None:
    assert "r" in kinds(f"void f(void) {{ {text} }}")


@pytest.mark.parametrize(
    "text",
    [
        "if ( n > X ) return -1;",
        "for ( i = 0; i < X; i++ ) g();",
        "if ( n >= X + 1 ) return -1;",
        "char buf[X];",
        "struct s *table[X];",
        "int (*table)[X];",
        "if ( sizeof(X) ) g();",
        "if ( memcmp(a, b, X) ) g();",
        "if ( strncmp(a, f(b, c), X) ) g();",
        "memset(p, 0, X);",
        "memcpy(p, q, X * 2);",
        "if ( X ) g();",
        "if ( b && X ) g();",
        "return X < n;",
        "v->n = X ? 1 : 2;",
    ],
)
def test_what_is_a_bound(text: str) -> None:
    assert kinds(f"void f(void) {{ {text} }}") == ""


def test_comments_texts_and_directives_are_no_uses() -> None:
    text = '#define Y X\n/* X */ // X\nconst char *s = "X"; /* x\n */ int a = X;\n'
    assert [(use.name, use.line) for use in uses_in(text, {"X"})] == [("X", 4)]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("v->scale = X * n; t = v->time / X;", True),
        ("v->time = t - X; n = v->time + X;", True),
        ("v->time = t / X; if ( v->time == X ) g();", True),
        ("v->time = t / X;", False),
        ("v->time = t / X; v->other = n - X;", False),
        ("v->flags = X;", False),
        ("if ( v->time / X > 3 ) g();", False),
    ],
)
def test_what_scales_reads_what_another_use_makes(text: str, *, answer: bool) -> None:
    """One quotient that is stored both makes and reads, and changes nothing that was there."""
    assert is_read_otherwise(uses_in(f"void f(void) {{ {text} }}", {"X"})) is answer


def answer(text: str) -> bool:
    """Tell whether one text reads by ``X`` what it made with it."""
    return is_read_otherwise(uses_in(f"void f(void) {{ {text} }}", {"X"}))


@pytest.mark.parametrize(
    "asks",
    [
        "if ( holds(p, X) ) g();",
        "if ( !holds(p, X) ) g();",
        "if ( (holds(p, X)) ) g();",
        "while ( n && holds(p, X) ) g();",
        "if ( holds(p, X) != n ) g();",
        "if ( n <= holds(p, X) ) g();",
        "if ( unlikely(holds(p, X)) ) g();",
        "switch ( holds(p, X) ) { }",
        "n = holds(p, X) ? 1 : 2;",
        "ASSERT(holds(p, X));",
        "BUG_ON(!holds(p, X));",
        "q = find_one(p, X);",
        "q = lookup(p, X);",
    ],
)
def test_a_call_that_is_asked_may_read_what_something_else_made(asks: str) -> None:
    """Alone, or where the same function is called besides, it does one of both on either side."""
    assert answer(f"memset(p, X, n); {asks}")
    assert answer(f"v->kind = X; {asks}")
    assert not answer(asks)
    assert not answer(f"{asks} {asks}")


@pytest.mark.parametrize(
    "keeps",
    [
        "n = holds(p, X);",
        "holds(p, X);",
        "g(holds(p, X));",
        "v->n = MACRO(holds(p, X));",
        "return holds(p, X);",
        "if ( get(p, &X) ) g();",  # gets a value there
    ],
)
def test_a_call_that_is_not_asked_reads_nothing(keeps: str) -> None:
    assert not answer(f"memset(p, X, n); {keeps}")


def test_an_assertion_that_begins_a_block_makes_nothing() -> None:
    assert kinds("void f(void) { OUR_ASSERT_ACTION(X); g(); }") == ""
    assert kinds("struct s s = { DEVICE(X), 1 };") == "m"
    assert kinds("void f(void) { SET_KIND(X); g(); }") == "m"


def test_a_byte_that_memory_is_filled_with_is_no_length() -> None:
    assert answer("memset(p, X, n); if ( memchr_inv(p, X, n) ) g();")
    assert not answer("memset(p, 0, X); if ( memchr_inv(p, 0, X) ) g();")
