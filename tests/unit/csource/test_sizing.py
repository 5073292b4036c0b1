# SPDX-License-Identifier: Apache-2.0
"""Sizes of memory that go through local variables."""

from __future__ import annotations

import pytest

from xsplice_plugins.csource.literals import changed_literals

KEPT = "v->t = xzalloc_bytes(size);"
PAIRED = "if ( e ) size = n; else size = m; v->t = vzalloc(size);"


def _said(old: str, new: str) -> tuple[str, ...]:
    head = "int f(struct v *v, unsigned int n, int m)"
    return changed_literals(f"{head} {{ {old} }}", f"{head} {{ {new} }}").stale


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (f"size_t size = R(n, 8); {KEPT}", f"size_t size = 8 + R(n, 8); {KEPT}"),
        (f"size_t size; size = n; {KEPT}", f"size_t size; size = n + 64; {KEPT}"),
        (f"size_t size = n; {KEPT}", f"size_t size = n; size += 16; {KEPT}"),
        (f"size_t size = n; size += 16; {KEPT}", f"size_t size = n; {KEPT}"),
        (f"size_t size = n; {KEPT}", f"size_t size = n; size++; {KEPT}"),
        (f"size_t size = n; {KEPT}", f"size_t size = n; ++size; {KEPT}"),
        (f"size_t size = e ? a : B; {KEPT}", f"size_t size = e ? a : B + 8; {KEPT}"),
        (f"size_t size = n; {KEPT}", f"size_t size = m; {KEPT}"),
        (PAIRED, PAIRED.replace("= m", "= m * 2")),
        (f"int k = n, size = k * 4; {KEPT}", f"int k = n + 1, size = k * 4; {KEPT}"),
        (
            f"int i = n; int k = g(i); int size = k; {KEPT}",
            f"int i = n - 1; int k = g(i); int size = k; {KEPT}",
        ),
        (
            "int k = n; v->p = alloc_domheap_pages(d, get_order_from_bytes(k), 0);",
            "int k = m; v->p = alloc_domheap_pages(d, get_order_from_bytes(k), 0);",
        ),
        (
            "size_t sz = n; struct p *p = xzalloc_bytes(sz);",
            "size_t sz = n; struct p *p; sz += 16; p = xzalloc_bytes(sz);",
        ),
        (f"size_t size = n; {KEPT}", "size_t sz = n + 1; v->t = xzalloc_bytes(sz);"),
        (f"size_t size = n; {KEPT}", f"size_t k = n * 2; size_t size = k; {KEPT}"),
        (
            "n -= 1; v->t = xmalloc_array(int, n);",
            "n -= 2; v->t = xmalloc_array(int, n);",
        ),
    ],
)
def test_a_variable_that_gets_another_size(old: str, new: str) -> None:
    assert any("allocates another size" in text for text in _said(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (f"size_t size = n; {KEPT}", "size_t sz = n; v->t = xzalloc_bytes(sz);"),
        (f"size_t size = n; size += 4; {KEPT}", "int s = n; s += 4; v->t = xzalloc_bytes(s);"),
        (f"size_t size = n; {KEPT}", f"size_t size; size = n; {KEPT}"),
        (f"size_t size = n; {KEPT}", f"const unsigned long size = n; {KEPT}"),
        (f"int k = n; size_t size = n; {KEPT}", f"int k = n + 8; size_t size = n; {KEPT}"),
        (f"int k; {KEPT}", f"int k; k += 8; g(k); {KEPT}"),
        ("size_t size = n; g(size);", "size_t size = n + 8; g(size);"),
        (
            "size_t size = n; char *t = xmalloc_bytes(size); xfree(t);",
            "size_t size = n + 8; char *t = xmalloc_bytes(size); xfree(t);",
        ),
        ("size_t size = n; g(size);", f"size_t size = n + 8; {KEPT}"),
        (f"size_t size = n; {KEPT} v->size = n;", f"size_t size = n; {KEPT} v->size = n + 8;"),
        (
            f"p = a; size_t size = sizeof(*p) * n; {KEPT}",
            f"p = b; size_t size = sizeof(*p) * n; {KEPT}",
        ),
        (f"p = a; size_t size = p->n; {KEPT}", f"p = b; size_t size = p->n; {KEPT}"),
        (
            f"int rc = g(v); size_t size = rc; {KEPT}",
            f"int rc = g(v); size_t size = rc; {KEPT} if ( e ) rc = -EINVAL;",
        ),
        (
            "int f = n; v->p = alloc_domheap_pages(d, 1, f);",
            "int f = n | 4; v->p = alloc_domheap_pages(d, 1, f);",
        ),
    ],
)
def test_a_variable_that_gives_the_same_size_or_none(old: str, new: str) -> None:
    assert not any("allocates another size" in text for text in _said(old, new))


def test_variables_that_are_exchanged_are_not_only_called_otherwise() -> None:
    old = "int a = n; int b = m; v->t = xmalloc_bytes(a); v->s = b;"
    new = "int a = n; int b = m; v->t = xmalloc_bytes(b); v->s = a;"
    assert any("allocates another size" in text for text in _said(old, new))


def test_what_comes_from_itself_comes_to_an_end() -> None:
    old = f"int k = n, size = m; k = size; size = k; {KEPT}"
    assert any("another size" in text for text in _said(old, old.replace("= m", "= m + 1")))


@pytest.mark.parametrize(
    ("old", "new", "is_said"),
    [
        ("v->t = xmalloc(int);", "if ( (v->t = (void *)xmalloc(long)) == NULL ) return 1;", True),
        ("v->t = xmalloc(int);", "if ( (v->t = (void *)xmalloc(int)) == NULL ) return 1;", False),
        ("v->t = xmalloc(int);", "n = 1; v->u = xmalloc(long); v->t = NULL;", True),
        ("v->t = xmalloc(int);", "n = 1; v->t = NULL;", False),
        ("v->t = xmalloc(int);", "n = 1; v->u = xmalloc(int); v->t = NULL;", False),
        ("v->t = xmalloc(struct s);", "v->t = xmalloc_bytes(sizeof(struct s));", False),
        ("v->t = xmalloc(struct s);", "v->t = xmalloc_bytes(sizeof(struct s) + 8);", True),
    ],
)
def test_a_call_that_is_written_anew_for_the_same_thing(
    old: str, new: str, *, is_said: bool
) -> None:
    assert any("allocates another size" in text for text in _said(old, new)) == is_said
