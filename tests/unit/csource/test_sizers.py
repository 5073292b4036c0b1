# SPDX-License-Identifier: Apache-2.0
"""Functions that allocate as much as an argument says."""

from __future__ import annotations

import pytest

from xsplice_plugins.csource.literals import bodies, changed_literals
from xsplice_plugins.csource.sizers import sizers_in

MAKE = """
static struct v *make(struct d *d, unsigned int n, int flag)
{
    struct v *v = xzalloc(struct v);

    if ( !v )
        return NULL;
    v->list = xzalloc_array(struct e, n);
    return v;
}
"""
THROUGH = """
static int outer(struct d *d, size_t len)
{
    size_t all = len * 2;

    d->v = make(d, all, 0);
    return d->v ? 0 : -ENOMEM;
}
"""


def _sizers(text: str) -> dict[str, set[int]]:
    return {name: set(places) for name, places in sizers_in(text, bodies(text)).items()}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (MAKE, {"make": {1}}),
        (MAKE + THROUGH, {"make": {1}, "outer": {1}}),
        (THROUGH + MAKE, {"make": {1}, "outer": {1}}),
        ("#define make(type, n) (type *)xzalloc_bytes((n) * 8)\n", {"make": {1}}),
        (MAKE.replace(", n)", ", 4)"), {}),
        (MAKE.replace("v->list", "void *t").replace("return v;", "xfree(t); return v;"), {}),
        ("void *pick(struct d *d)\n{\n    return xzalloc_bytes(d->size);\n}\n", {}),
        ("static int make(int n)\n{\n    return n + 1;\n}\n", {}),
    ],
)
def test_which_arguments_are_sizes(text: str, found: dict[str, set[int]]) -> None:
    assert _sizers(text) == found


USER = "\nint use(struct d *d, int k)\n{\n    d->v = make(d, k, 1);\n    return 0;\n}\n"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("make(d, k, 1)", "make(d, k + 1, 1)"),
        ("d->v = make", "k += 8;\n    d->v = make"),
        ("d->v = make(d, k, 1);", "if ( k )\n        d->v = make(d, 2 * k, 1);"),
    ],
)
def test_who_asks_for_more_allocates_another_size(old: str, new: str) -> None:
    before = MAKE + USER
    assert changed_literals(before, before.replace(old, new)).stale == (
        "`use` allocates another size by `make`: what was allocated before has the old one",
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("make(d, k, 1)", "make(d, k, 0)"),
        ("make(d, k, 1)", "make(d->peer, k, 1)"),
        ("return 0;", "return k ? 0 : -EINVAL;"),
    ],
)
def test_other_arguments_are_no_size(old: str, new: str) -> None:
    before = MAKE + USER
    assert changed_literals(before, before.replace(old, new)).stale == ()


def test_memory_that_is_given_back_keeps_no_size() -> None:
    once = "struct v *v = make(d, k, 1);\n\n    use_once(v);\n    xfree(v);"
    before = MAKE + USER.replace("d->v = make(d, k, 1);", once)
    assert changed_literals(before, before.replace("k, 1", "k + 1, 1")).stale == ()
