# SPDX-License-Identifier: Apache-2.0
"""A constant that a static function returns is state only where a caller keeps it."""

from __future__ import annotations

import pytest

from xsplice_plugins.csource.returned import is_kept, without_passing
from xsplice_plugins.csource.uses import uses_in

FIND = "static int find(int mask)\n{\n    if ( !mask )\n        return NONE;\n    return 1;\n}\n"


def user(body: str) -> str:
    return f"int user(struct v *v)\n{{\n    int other, at;\n{body}\n}}\n"


@pytest.mark.parametrize(
    "text",
    [
        user("if ( find(v->mask) == NONE ) return -1; return 0;"),
        user("at = find(v->mask); if ( at == NONE ) return -1; return 0;"),
        user("at = find(v->mask); other = (at + v->base) & 7; return at < v->last ? other : -1;"),
        user("switch ( find(v->mask) ) { case NONE: return 1; } return 0;"),
        "static int find(int mask);\n" + user("int n = find(1); return n != NONE && v->n;"),
    ],
)
def test_what_is_only_compared_is_not_kept(text: str) -> None:
    assert not is_kept(FIND + text, "find")


@pytest.mark.parametrize(
    "text",
    [
        user("v->state = find(v->mask); return 0;"),
        user("return find(v->mask);"),
        user("keep(find(v->mask)); return 0;"),
        user("at = find(v->mask); v->state = at; return 0;"),
        user("at = find(v->mask); return at;"),
        user("at = find(v->mask); keep(v, at); return 0;"),
        user("at = find(v->mask); keep(v, &at); return 0;"),
        user("static int mine; mine = find(v->mask); return mine == NONE;"),
        user("outside = find(v->mask); return outside == NONE;"),
        user("v->ops = find; return 0;"),
        "static struct ops ops = { .find = find };\n",
        "#define FOUND(x) find(x)\n",
    ],
)
def test_what_goes_on_is_kept(text: str) -> None:
    assert is_kept(FIND + text, "find")


def test_others_may_keep_what_a_function_with_a_global_name_returns() -> None:
    assert is_kept(FIND.replace("static ", ""), "find")


@pytest.mark.parametrize(
    ("body", "makes"), [("return find(1) == 2;", False), ("return find(1);", True)]
)
def test_only_what_is_returned_is_set_aside(body: str, *, makes: bool) -> None:
    text = FIND + user(body) + "void set(struct v *v)\n{\n    v->state = NONE;\n}\n"
    rows = [use.makes for use in without_passing(text, uses_in(text, {"NONE"}))]
    assert rows == [makes, True]
