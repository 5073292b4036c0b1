# SPDX-License-Identifier: Apache-2.0
"""Sizes of memory that helpers and members give, in files that change and in others."""

from __future__ import annotations

import pytest

from xsplice_plugins.csource.helpers import changed_sizes, resized

USER = """
static int init(struct table *t, unsigned int n)
{
    unsigned int bytes = frames(n) * 8;

    t->list = xzalloc_bytes(bytes);
    return t->list ? 0 : -ENOMEM;
}
"""
HELPERS = "static unsigned int frames(unsigned int n)\n{\n    return round(n * 2);\n}\n"
SET = "void set(struct table *t)\n{\n    t->bytes = sizeof(int) * 4;\n    t->next = NULL;\n}\n"
BY_MEMBER = USER.replace("frames(n) * 8", "t->bytes")
COUNT = "static unsigned int pages;\nstatic void count(int n)\n{\n    pages = round(n);\n}\n"
BY_STATIC = USER.replace("frames(n) * 8", "pages * 8")
MAKER = "static void *make(int n)\n{\n    return xzalloc_bytes(n);\n}\n"


def _said(old: str, new: str, *files: str) -> list[str]:
    sizes = changed_sizes({"some.c": (old, new)})
    return [text for file in (new, *files) for text in resized(file, sizes)]


@pytest.mark.parametrize(
    ("old", "new", "user"),
    [
        (HELPERS, HELPERS.replace("2)", "2) + 1"), USER),
        ("#define frames(n) ((n) * 2)\n", "#define frames(n) ((n) * 3)\n", USER),
        (  # through another one
            "static int round(int n)\n{\n    return n & ~7;\n}\n",
            "static int round(int n)\n{\n    return (n + 7) & ~7;\n}\n",
            HELPERS + USER,
        ),
        (HELPERS, HELPERS.replace("2)", "2) + 1"), USER.replace("bytes = frames(n) * 8", "b = 1")
         .replace("(bytes)", "(frames(b))")),
        (SET, SET.replace("* 4", "* 5"), BY_MEMBER),
        (SET, SET.replace("t->next", "t->bytes += 8;\n    t->next"), BY_MEMBER),
        (COUNT, COUNT.replace("(n)", "(n) + 1"), BY_STATIC),
    ],
)  # fmt: skip
def test_who_asks_a_helper_that_changed_gets_another_size(old: str, new: str, user: str) -> None:
    (text,) = _said(old, new, user)
    assert text.startswith("`init` allocates a size by `xzalloc_bytes` that `")
    assert _said(old, old, user) == []


@pytest.mark.parametrize(
    ("old", "new", "user"),
    [
        # What the helper gives is no size, or of memory that is given back.
        (HELPERS, HELPERS.replace("2)", "3)"), USER.replace("(bytes)", "(8)")),
        (
            HELPERS,
            HELPERS.replace("2)", "3)"),
            USER.replace("t->list", "t").replace("return t ?", "xfree(t); return t ?"),
        ),
        # It only says something else, or gives nothing.
        (HELPERS, HELPERS.replace("    return", "    /* twice */ return"), USER),
        ("void frames(int n)\n{\n}\n", "void frames(int n)\n{\n    n++;\n}\n", USER),
        # Another member, one that is cleared, one that is new.
        (SET, SET.replace("NULL", "t"), BY_MEMBER),
        (SET, SET.replace("t->next", "t->bytes = 0;\n    t->next"), BY_MEMBER),
        (SET.replace("t->bytes", "t->other"), SET, BY_MEMBER),
        # Another static, and a local variable of its name.
        (COUNT.replace("pages", "all"), COUNT.replace("pages = round", "all = "), BY_STATIC),
        (COUNT, COUNT.replace("(n)", "(n) + 1"),
         USER.replace("bytes = frames(n)", "pages = n, bytes = pages")),
    ],
)  # fmt: skip
def test_what_changes_no_size(old: str, new: str, user: str) -> None:
    assert _said(old, new, user) == []


def test_a_helper_that_gives_a_size_to_one_that_allocates() -> None:
    user = USER.replace("xzalloc_bytes", "make")
    (text,) = _said(HELPERS, HELPERS.replace("2)", "2) + 1"), MAKER + user)
    assert text.startswith("`init` allocates a size by `make` that `frames` gives")
    assert _said(HELPERS, HELPERS.replace("2)", "2) + 1"), user) == []


@pytest.mark.parametrize(
    ("head", "path", "is_far"),
    [
        ("unsigned int frames(int n)", "a.c", True),
        ("size_t cf_check frames(int n)", "a.c", True),
        ("static inline int frames(int n)", "a.h", True),
        ("static unsigned int frames(int n)", "a.c", False),
        ("int frames(int n)", "a.c", True),
        ("unsigned int *frames(int n)", "a.c", False),
        ("static int frames(unsigned int n)", "a.c", False),
    ],
)
def test_files_that_do_not_change_are_asked_where_they_can_call(
    head: str, path: str, *, is_far: bool
) -> None:
    old = f"{head}\n{{\n    return g(n);\n}}\n"
    sizes = changed_sizes({path: (old, old.replace("n);", "n) + 1;"))})
    assert sizes.helpers == {"frames"}
    assert (sizes.far == {"frames"}) == is_far


@pytest.mark.parametrize(
    ("body", "is_far"),
    [
        ("return n / 8;", True),
        ("return d->pages;", True),
        ("int k = g(n); k += 8; return k;", True),
        ("int k = (n + 7) >> 3; return k;", True),
        ("int k = 0; while ( g(n) ) k++; return k;", True),
        ("return -EINVAL;", False),
        ("return ( -EINVAL );", False),
        ("int rc = g(n + 1); return rc;", False),
        ("int rc = d->ops->make(d); return rc ? -EBUSY : 0;", False),
    ],
)
def test_an_error_is_no_size_that_other_files_ask_for(body: str, *, is_far: bool) -> None:
    old = f"int frames(int n)\n{{\n    {body}\n}}\n"
    new = old.replace("{\n", "{\n    if ( !n ) return 0;\n")
    assert (changed_sizes({"a.c": (old, new)}).far == {"frames"}) == is_far
