# SPDX-License-Identifier: Apache-2.0
"""Members that one function makes otherwise, and another one reads otherwise."""

from __future__ import annotations

import pytest

from xsplice_plugins.csource.remade import remade_members


def _files(make: str, use: str) -> tuple[str, str]:
    return (
        f"int make(struct item *v, int n)\n{{\n    {make}\n    return 0;\n}}\n",
        f"void use(struct item *v)\n{{\n    {use}\n}}\n",
    )


def _found(old: tuple[str, str], new: tuple[str, str], more: str = "") -> list[tuple[str, ...]]:
    rows = ("make.c", old[0], new[0]), ("use.c", old[1], new[1] + more)
    return [(one.path, *one.functions, one.text) for one in remade_members(rows)]


@pytest.mark.parametrize(
    ("makes", "uses"),
    [
        # The test for NULL is gone, for it is always there now.
        (("", "v->part = xzalloc(struct part);"), ("if ( v->part ) run(v);", "run(v);")),
        (
            ("", "v->part = xzalloc(struct part);"),
            (
                "if ( unlikely(v->part) ) run(v); if ( v->part ) end(v);",
                "run(v); if ( v->part ) end(v);",
            ),
        ),
        # Nodes that are taken out of a list once more.
        (("", "INIT_LIST_HEAD(&v->part);"), ("list_del(&v->part);", "list_del_init(&v->part);")),
        # Another allocator, and what gives back.
        (
            ("v->part = xvzalloc_array(int, n);", "v->part = xzalloc_array(int, n);"),
            ("xvfree(v->part);", "xfree(v->part);"),
        ),
        # Another value for nothing.
        (
            ("", "v->part = INVALID_PADDR;"),
            ("if ( v->part ) run(v);", "if ( v->part != INVALID_PADDR ) run(v);"),
        ),
        (
            ("", "v->part = INVALID_MFN;"),
            (
                "mfn_t m = v->part; if ( mfn_eq(m, _mfn(0)) ) run(v);",
                "mfn_t m = v->part; if ( mfn_eq(m, INVALID_MFN) ) run(v);",
            ),
        ),
        (("", "v->part = ONE;"), ("cmpxchg(&v->part, 0, n);", "cmpxchg(&v->part, ONE, n);")),
        # Another unit, another form.
        (("v->part = n;", "v->part = n * 1000;"), ("wait(v->part * 1000);", "wait(v->part);")),
        (
            ("v->part = n;", "v->part = MICROSECS(n);"),
            ("wait(MICROSECS(v->part));", "wait(v->part);"),
        ),
        (
            ("cmpxchg(&v->part, 0, page_to_mfn(n));", "cmpxchg(&v->part, 0, page_to_maddr(n));"),
            ("put(mfn_to_page(v->part));", "put(maddr_to_page(v->part));"),
        ),
    ],
)
def test_what_exists_is_as_the_old_code_made_it(
    makes: tuple[str, str], uses: tuple[str, str]
) -> None:
    old, new = _files(makes[0], uses[0]), _files(makes[1], uses[1])
    first, second = _found(old, new)
    assert (first[0], second[0]) == ("make.c", "use.c")
    assert first[1:3] == ("make", "use")
    assert first[3] == second[3]
    assert first[3].startswith("`part` is made otherwise than before (`make`: `")
    assert _found(old, old) == []
    assert _found(old, (new[0], old[1])) == []  # one side alone
    assert _found(old, (old[0], new[1])) == []


@pytest.mark.parametrize(
    ("makes", "uses"),
    [
        # A test that is new: by a value, by a mask, of its truth.
        (("", "v->part = n;"), ("run(v);", "if ( v->part != get(v) ) return; run(v);")),
        (("", "v->part = n;"), ("run(v);", "if ( v->part > 0 ) run(v);")),
        (("", "v->part = n;"), ("run(v);", "if ( !v->part ) return; run(v);")),
        (
            ("v->part = ONE;", "v->part = ONE | TWO;"),
            ("if ( v->part & ONE ) run(v);", "if ( (v->part & ONE) && (v->part & TWO) ) run(v);"),
        ),
        # One that is another now, of a sum, on either side of it.
        (
            ("v->part = n;", "v->part = n - 1;"),
            ("if ( at < v->at + v->part ) run(v);", "if ( at <= v->at + v->part ) run(v);"),
        ),
        (
            ("v->part = n;", "v->part = n - 1;"),
            ("if ( v->part + get(v, 1) > at ) run(v);", "if ( v->part + get(v, 1) >= at ) run(v);"),
        ),
        # A factor: what was never made may be zero.
        (("", "v->part = SLICE;"), ("run(n);", "run(n % v->part);")),
    ],
)
def test_what_is_asked_of_objects_that_do_not_have_it(
    makes: tuple[str, str], uses: tuple[str, str]
) -> None:
    known = "void other(struct item *v)\n{\n    show(&v->part);\n}\n"
    sides = [_files(makes[side], uses[side]) for side in (0, 1)]
    old, new = ((make, use + known) for make, use in sides)
    first, second = _found(old, new)
    assert (first[0], second[0]) == ("make.c", "use.c")
    assert first[1:3] == ("make", "use")
    assert "asks of it what it did not ask (`" in first[3] or "(no more `part " in first[3]
    assert _found(old, (new[0], old[1])) == []  # one side alone
    assert _found(old, (old[0], new[1])) == []


@pytest.mark.parametrize(
    ("makes", "uses"),
    [
        # Another value for "none": the old one is stored no more, and asked for no more.
        (("v->part = NONE;", "v->part = 0;"), ("return v->part != NONE;", "return v->part;")),
        (("v->part = NONE;", "v->part = NULL;"), ("if ( v->part == NONE ) run(v);", "run(v);")),
        # A sum that is compared no more.
        (
            ("v->part = NOW();", "v->part = NOW() + LATER;"),
            ("if ( v->part + LATER < NOW() ) run(v);", "if ( v->part < NOW() ) run(v);"),
        ),
    ],
)
def test_what_is_stored_no_more_and_asked_for_no_more(
    makes: tuple[str, str], uses: tuple[str, str]
) -> None:
    old, new = (_files(makes[side], uses[side]) for side in (0, 1))
    first, second = _found(old, new)
    assert (first[0], second[0]) == ("make.c", "use.c")
    assert "reads it otherwise (no more" in first[3]
    assert _found(old, (new[0], old[1])) == []
    assert _found(old, (old[0], new[1])) == []


def test_what_was_cleared_and_is_cleared_elsewhere_is_made_as_before() -> None:
    old = _files("v->part = 0;", "if ( v->part == NONE ) run(v);")
    new = _files("v->part = 0; v->part = 0;", "run(v);")
    assert _found(old, new) == []


def test_a_test_of_a_member_that_is_new_itself() -> None:
    old, new = _files("", "run(v);"), _files("v->part = n;", "if ( v->part != 3 ) run(v);")
    assert _found(old, new) == []


@pytest.mark.parametrize(
    ("makes", "uses"),
    [
        # Who asks makes it as well, or asked the same of another member.
        (("", "v->part = n;"), ("", "v->part = get(v); if ( v->part == NULL ) end(v);")),
        (("", "v->part = n;"), ("if ( v->old == ONE ) run(v);", "if ( v->part == ONE ) run(v);")),
        (("", "v->part = n;"), ("run(v->old >> 2);", "run(v->part >> 2);")),
        # A part of it is taken, and nothing asked.
        (("v->part = n;", "v->part = n & ALL;"), ("n = v->part;", "n = (v->part & ALL) | ONE;")),
        # It is one of another part of the structure.
        (("", "v->one.part = n;"), ("", "if ( v->two.part == ONE ) run(v);")),
        # It is made as before, or cleared.
        (("v->part = n;", "v->part = n; end(v);"), ("", "if ( v->part == 3 ) end(v);")),
        (("", "v->part = 0;"), ("", "if ( v->part == 3 ) end(v);")),
    ],
)
def test_what_may_be_asked_of_all_objects(makes: tuple[str, str], uses: tuple[str, str]) -> None:
    known = "void other(struct item *v)\n{\n    show(&v->part);\n}\n"
    sides = [_files(makes[side], uses[side]) for side in (0, 1)]
    old, new = ((make, use + known) for make, use in sides)
    assert _found(old, new) == []


@pytest.mark.parametrize(
    "asks", ["BUG_ON(v->part);", "ASSERT(!v->part);", "if ( v->part ) end(v);"]
)
def test_what_is_cleared_newly_and_asked_whether_it_is(asks: str) -> None:
    """Who gives an object back clears it, and who takes one counts on that."""
    old = _files("give(v);", "v->part = 5; take(v);")
    new = _files("v->part = 0; give(v);", f"{asks} v->part = 5; take(v);")
    rows = _found(old, new)
    assert [row[1:3] for row in rows] == [("make", "use")] * 2
    assert "`part` is cleared where it was left (`make`)" in rows[0][3]
    assert _found(new, new) == []
    assert _found(old, (new[0], old[1])) == []
    assert _found(old, (old[0], new[1])) == []
    same = _files(f"{asks} v->part = 0; give(v);", "v->part = 5; take(v);")
    assert _found(old, same) == [], "who clears it may ask"


MAKE = ("", "v->part = get(n);")
READ = ("if ( v->part ) run(v);", "run(v);")


@pytest.mark.parametrize(
    ("makes", "uses", "more"),
    [
        # It is cleared, which the old code may have done as well.
        (("", "v->part = NULL;"), READ, ""),
        # Another member, or a structure of the function's own.
        (("", "v->other = get(n);"), READ, ""),
        (("struct item e;", "struct item e; e.part = get(n);"), READ, ""),
        (("hand((struct item){ 1 });", "hand((struct item){ .part = 1 });"), READ, ""),
        # The test moved to a new function, or is asked beside others.
        (MAKE, READ, "static void run_if(struct item *v)\n{\n    if ( v->part ) run(v);\n}\n"),
        (MAKE, (READ[0], "if ( v->part && v->is_on ) run(v);"), ""),
        (MAKE, ("printk(FORMAT, v->part);", ""), ""),
    ],
)
def test_what_the_new_code_understands(
    makes: tuple[str, str], uses: tuple[str, str], more: str
) -> None:
    assert _found(_files(makes[0], uses[0]), _files(makes[1], uses[1]), more) == []


@pytest.mark.parametrize(
    ("reads", "is_said"),
    [
        (READ, True),  # it need not ask any more whether it is there
        (("if ( v->part == 4 ) run(v);", "run(v);"), False),
    ],
)
def test_a_value_that_another_function_makes_now(reads: tuple[str, str], *, is_said: bool) -> None:
    old = (
        _files("v->part = get(n);", "")[0],
        "void set(struct item *v)\n{\n}\n" + _files("", reads[0])[1],
    )
    new = (
        _files("", "")[0],
        "void set(struct item *v)\n{\n    v->part = get(n);\n}\n" + _files("", reads[1])[1],
    )
    assert bool(_found(old, new)) is is_said


def test_macros_that_end_within_an_expression() -> None:
    old = "#define PART(v) (v)->part *\nint make(struct item *v)\n{\n    return 0;\n}\n"
    new = old.replace("->part *", "->part <<").replace("return 0;", "v->part = 3; return 0;")
    ((path, functions, _),) = remade_members((("part.h", old, new),))
    assert (path, functions) == ("part.h", ("make", "PART()"))
