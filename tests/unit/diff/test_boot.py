# SPDX-License-Identifier: Apache-2.0
"""What only boot uses waits for the next boot; what still runs may not need what it lacks."""

from pathlib import Path

import pytest

from tests.kit.differ_inputs import (
    Compiler,
    compile_c,
    compile_with,
    diff,
    diff_c,
    every_compiler,
    summary,
)
from xsplice_plugins.artefacts import BootOnly, Delta

pytestmark = pytest.mark.toolchain

BASE = r"""
int level = 3;
static inline int twice(int a) { return a * 2; }
static __initdata int boot_only = 4;
static __init used int start(int a) { note("boot"); return get(twice(a)) + boot_only; }
static __init used int other(int a) { return get(a + 1); }
int f(int a) { return get(twice(a)) + level; }
"""

#: An inline that prints; `start` runs at boot, `f` later.
PRINTS = r"""
extern void printk(const char *, ...);
extern int strcmp(const char *, const char *);
int state, last;
static inline void check(int a) { BODY }
static __init used void start(int a) { check(a); last = a; }
void f(int a) { check(a + 1); }
"""


def rows(delta: Delta) -> list[tuple[str, str, bool]]:
    """Return code, name and whether its own source was edited."""
    return [(row.code, row.name.split("#")[-1], row.is_own) for row in delta.boot]


def test_an_inline_that_boot_code_absorbs_is_replaced_where_it_still_runs(tmp_path: Path) -> None:
    texts = BASE, BASE.replace("a * 2", "a * 3")
    before, after = (compile_c(tmp_path, text) for text in texts)
    delta = diff(before, after, edited={"twice"})
    assert summary(delta) == (["f"], [], [], [])
    assert rows(delta) == [("INIT_CODE", "start", False)]
    assert rows(diff(before, after)) == [("INIT_CODE", "start", True)], "nobody knows"


SEALED = r"""
static int run(int a) { return get(a) + 1; }
static int (*const ops)(int) __attribute__((section(".init.PLACE"))) = run;
static __init used int start(int a) { return (*(int (*const volatile *)(int))&ops)(a); }
int f(int a) { return get(a) + 2; }
"""


@pytest.mark.parametrize(
    ("before", "after", "is_other"),
    [
        ("rodata.cf_clobber", "rodata", True),
        ("rodata", "rodata.cf_clobber", True),
        ("data.rel.ro", "rodata", False),  # the compiler's choice
        ("rodata.cf_clobber", "rodata.cf_clobber", False),
    ],
)
def test_a_boot_datum_of_another_section_is_an_edited_one(
    before: str, after: str, is_other: bool, tmp_path: Path
) -> None:
    fixed = SEALED.replace("PLACE", after).replace("+ 2", "+ 3")
    delta = diff_c(tmp_path, SEALED.replace("PLACE", before), fixed)
    assert summary(delta) == (["f"], [], [], [])
    assert rows(delta) == ([("INIT_DATA", "ops", True)] if is_other else [])


@pytest.mark.parametrize(
    ("old", "new", "code", "name"),
    [
        ("boot_only = 4", "boot_only = 5", "INIT_DATA", "boot_only"),
        ("+ boot_only", "- boot_only", "INIT_CODE", "start"),
        ('note("boot")', 'note("moot")', "INIT_CODE", "start"),
        ("int f(", "__init used int more(int a) { return get(a); } int f(", "INIT_CODE", "more"),
        ("int f(", "static __initdata used int more = 2; int f(", "INIT_DATA", "more"),
    ],
)
def test_what_only_boot_uses_is_no_refusal(
    tmp_path: Path, old: str, new: str, code: str, name: str
) -> None:
    delta = diff_c(tmp_path, BASE, BASE.replace(old, new, 1))
    assert summary(delta) == ([], [], [], [])
    assert (code, name, True) in rows(delta)


def test_code_that_still_runs_must_not_use_what_boot_frees(tmp_path: Path) -> None:
    new = "static __init used int more(int a) { return get(a + 7); } int f("
    text = BASE.replace("int f(", new).replace("+ level", "+ more(level)")
    delta = diff_c(tmp_path, BASE, text.replace("__init used int more", "__init noinline int more"))
    assert [(code, name.split("#")[-1]) for code, name in summary(delta)[3]] == [
        ("INIT_CODE", "more")
    ]


def test_state_that_boot_would_have_made_is_not_taken_for_granted(tmp_path: Path) -> None:
    """An inline that writes a new variable: boot has not run it, and the payload brings zero."""
    new = "static int seen; static inline int twice(int a) { seen += a; return a * 2 + seen; }"
    text = BASE.replace("static inline int twice(int a) { return a * 2; }", new)
    before, after = compile_c(tmp_path, BASE), compile_c(tmp_path, text)
    assert ("INIT_CODE", "start", True) in rows(diff(before, after, edited={"twice", "seen"}))


def test_the_names_that_boot_code_came_to_use_are_told(tmp_path: Path) -> None:
    new = "extern int far; static inline int twice(int a) { far = a; return a * 2; }"
    text = BASE.replace("static inline int twice(int a) { return a * 2; }", new)
    before, after = compile_c(tmp_path, BASE), compile_c(tmp_path, text)
    delta = diff(before, after, edited={"twice", "far"})
    assert [row.needs for row in delta.boot] == [("far",)]


@pytest.mark.parametrize(
    ("new", "body", "later", "left"),
    [
        ("static int lazy(int a) { return a + 9; }", "hook = lazy;", "", [("INIT_CODE", "lazy")]),
        ("static int lazy(int a) { return a + 9; }", "hook = lazy;", "hook = lazy;", []),
        ("static noinline int lazy(int a) { return get(a); }", "get(lazy(a));", "", []),
        ("static noinline int lazy(int a) { return get(a); }", "hook = &get;", "get(lazy(a));", []),
        ("static const int row[9] = {1};", "seen = row;", "", [("INIT_DATA", "row")]),
        ("static const int row[9] = {1};", "seen = row;", "seen = row;", []),
        (
            "static int lazy(int a) { return a + 9; } static fn *const table[2] = {lazy, lazy};",
            "seen = table;",
            "",
            [("INIT_CODE", "lazy"), ("INIT_DATA", "table")],
        ),
        (
            "static int lazy(int a) { return a + 9; } static fn *const table[2] = {lazy, lazy};",
            "hook = lazy;",
            "seen = table;",
            [],
        ),
    ],
)
def test_a_new_thing_that_only_boot_would_have_handed_on_is_its_own(
    tmp_path: Path, new: str, body: str, later: str, left: list[tuple[str, str]]
) -> None:
    """An inline that boot code absorbs stores an address that the rest would have found there."""
    old = """typedef int fn(int); fn *hook; const void *seen;
    static inline void absorb(int a) { put(a, 1); }
    static __init used void start(int a) { absorb(a); }
    void f(int a) { put(a, 3); }
    """
    text = old.replace("static inline", f"{new} static inline").replace("1);", f"2); {body}")
    before, after = (
        compile_c(tmp_path, t) for t in (old, text.replace("a, 3);", f"a, 4); {later}"))
    )
    delta = diff(before, after, edited={"absorb", "f"})
    assert summary(delta)[0] == ["f"]
    own = [(code, name, True) for code, name in left]
    assert sorted(rows(delta)) == sorted([*own, ("INIT_CODE", "start", False)])


def test_an_object_of_boot_is_boot_only_as_a_whole(tmp_path: Path) -> None:
    texts = BASE, BASE.replace("+ level", "- level")
    before, after = (compile_c(tmp_path, text) for text in texts)
    delta = diff(before, after, is_init=True)
    assert (summary(delta), rows(delta)) == (([], [], [], []), [("INIT_CODE", "f", True)])
    assert not delta.extents
    assert rows(diff(before, after, is_init=True, edited=())) == [("INIT_CODE", "f", False)]


@pytest.mark.parametrize(("new", "expected"), [('"other"', True), ('"boot"); put(1, 2', False)])
def test_an_object_of_boot_leaves_the_same_as_other_boot_code_does(
    tmp_path: Path, new: str, expected: bool
) -> None:
    text = PRINTS.replace("BODY", 'if (a) printk("boot");')

    before, after = (compile_c(tmp_path, t) for t in (text, text.replace('"boot"', new)))
    delta = diff(before, after, is_init=True, edited={"check"})
    assert {row.name.split("#")[-1]: row.leaves_same for row in delta.boot} == {
        "f": expected,
        "start": expected,
    }


@every_compiler()
def test_printed_texts_are_followed_in_the_code_of_every_machine(
    compiler: Compiler, tmp_path: Path
) -> None:
    for call, expected in (('printk("old %d", a)', True), ('note("old %d", a)', False)):
        text = PRINTS.replace("BODY", f"if (a) {call};")
        sides = [compile_with(compiler, tmp_path, t) for t in (text, text.replace("old", "new"))]
        delta = diff(*sides, edited={"check"})
        assert [row.leaves_same for row in delta.boot] == [expected]


def test_a_trampoline_stays_in_use(tmp_path: Path) -> None:
    place = '__attribute__((section(".trampoline.data"))) used int first = 1; int f('
    text = BASE.replace("int f(", place)
    delta = diff_c(tmp_path, text, text.replace("first = 1", "first = 2"))
    assert (summary(delta)[3], delta.boot) == ([("INIT_DATA", "first")], ())


def test_a_row_holds_what_the_link_needs() -> None:
    row = BootOnly(name="a.c#f", reason="`f` runs only at boot", code="INIT_CODE", is_own=False)
    assert row.needs == ()


@pytest.mark.parametrize(
    ("body", "old", "new", "expected"),
    [
        ('if (a) printk("old %d", a);', "old %d", "new text %d", True),
        ('if (a) { printk("one"); printk("two %s", "x"); }', "two %s", "2 %s", True),
        ('if (a) { printk("one"); printk("two %s", "x"); }', '"x"', '"y"', True),
        ('if (a > 5) { printk("old"); BUG(); }', "old", "new", True),
        ('if (a) printk("old %d", a);', "old %d", "old %%n %d", True),
        ('if (a) printk("old", &state);', '"old"', '"old%n"', False),
        ('if (a) printk("old%n", &state);', "old", "older", False),
        ('if (a) printk("old%-8.*ln", a, &state);', "old", "older", False),
        ('if (a) printk("old"); state = 2;', "state = 2", "state = 3", False),
        ('if (a) printk("old"); state = 2;', 'old"); state = 2', 'new"); state = 3', False),
        ('if (a) note("old");', "old", "new", False),
        ('state = strcmp((void *)(long)a, "old");', "old", "new", False),
        ('state = *(volatile char *)"old";', "old", "new", False),
        ('state = (long)"old";', "old", "new", False),
        ('printk("%d", put(a, (long)"old"));', "old", "new", False),
        ('const char *t = "old"; printk(t); note(t);', "old", "new", False),
        ('const char *t = a ? "old" : "other"; printk(t);', "old", "new", False),
        ('if (a) printk("old");', '"old")', '"old"), printk("more")', False),
        ('if (a) { printk("old"); BUG(); }', '"old"); B', '"new"); FAULTS("nop", 3); B', False),
    ],
)
def test_boot_code_leaves_the_same_only_if_all_that_differs_is_printed(
    tmp_path: Path, body: str, old: str, new: str, *, expected: bool
) -> None:
    assert old in body
    texts = (PRINTS.replace("BODY", text) for text in (body, body.replace(old, new)))
    before, after = (compile_c(tmp_path, text) for text in texts)
    delta = diff(before, after, edited={"check"})
    assert summary(delta)[0] == ["f"]
    assert [(row.name.split("#")[-1], row.leaves_same) for row in delta.boot] == [
        ("start", expected)
    ]


HANDED = r"""
static noinline int first(int a) { return get(a) + 1; }
static noinline int second(int a) { return get(a) + 2; }
static __init used int early(int a) { return get(a) + 3; }
static __init used int sooner(int a) { return get(a) + 4; }
struct ops { int (*late)(int), (*soon)(int), number; };
static struct ops ops __initdata = { first, early, 5 };
__init used const struct ops *start(void) { return &ops; }
int f(int a) { return first(a) + second(a); }
"""


@pytest.mark.parametrize(
    ("old", "new", "outlives"),
    [
        ("{ first", "{ second", True),
        ("{ first", "{ put_it", True),
        ("early, 5", "sooner, 5", False),
        ("early, 5", "early, 6", False),
    ],
)
def test_a_boot_table_that_names_another_function_that_stays_is_told(
    old: str, new: str, *, outlives: bool, tmp_path: Path
) -> None:
    """Boot copies such tables; what is in them runs on."""
    text = "extern int put_it(int);\n" + HANDED
    (row,) = diff_c(tmp_path, text, text.replace(old, new)).boot
    assert (row.code, row.outlives) == ("INIT_DATA", outlives)


def test_no_word_is_offered_where_code_that_runs_would_call_what_boot_freed(tmp_path: Path) -> None:
    """The fix drops `__init` and calls the function: none can be left out."""
    text = BASE.replace("static __init used int other", "__init noinline int other")
    fixed = text.replace("__init noinline int other", "noinline int other")
    delta = diff_c(tmp_path, text, fixed.replace("+ level", "+ other(level)"))
    (row,) = delta.refused
    assert (row.code, row.name, delta.boot) == ("INIT_CODE", "other", ())
    assert "ACCEPT" not in row.hint
    assert "a function of another name" in row.hint
    another = "noinline int another(int a) { return get(a + 1); } int f("
    fixed = text.replace("int f(", another).replace("+ level", "+ another(level)")
    assert summary(diff_c(tmp_path, text, fixed)) == (["f"], ["another"], [], [])
