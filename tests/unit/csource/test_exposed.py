# SPDX-License-Identifier: Apache-2.0
"""What a header's change can mean to sources that nobody has."""

from __future__ import annotations

import pytest

from xsplice_plugins.csource.exposed import exposed

HEADER = """#ifndef H
#define H
#include <xen/types.h>
#define LIMIT 3 /* of all */
struct box { int lid; int size; };
enum kind { ONE, TWO };
void put(struct box *b, int n);
extern int total;
static inline int twice(int a)
{
    return a * 2;
}
#ifdef CONFIG_X
static inline int half(int a) { return a / 2; }
#else
static inline int half(int a) { return a; }
#endif
DECLARE(int, mine);
#endif
"""


def changed(*edits: tuple[str, str], more: dict[str, tuple[str, str]] | None = None) -> set[str]:
    new = HEADER
    for old, now in edits:
        assert old in new
        new = new.replace(old, now, 1)
    return {what for _, what in exposed({"a.h": (HEADER, new), **(more or {})}).changed}


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("a * 2", "a * 3", "`twice`"),
        ("twice(int a)", "twice(long a)", "`twice`"),
        ("return a / 2", "return a >> 1", "`half`"),
        ("LIMIT 3", "LIMIT 4", "`LIMIT`"),
        ("#define LIMIT 3 /* of all */\n", "", "`LIMIT`"),
        ("struct box *b, int n", "int n, struct box *b", "`put`"),
        ("extern int total", "extern long total", "`total`"),
        ("int lid; int size;", "int lid; long size;", "`box`"),
        ("int lid; int size;", "int lid;", "`box`"),
        ("ONE, TWO", "NONE, ONE, TWO", "`ONE`"),
        ("DECLARE(int, mine);", "DECLARE(long, mine);", "`mine`"),
        ("#ifdef CONFIG_X", "#ifdef CONFIG_Y", "`half`"),
        ("static inline int half(int a) { return a / 2; }\n", "", "`half`"),
        ("#include <xen/types.h>", "#include <xen/other.h>", "what it declares"),
        (
            "void put(struct box *b, int n);",
            "#ifdef Y\nvoid put(struct box *b, int n);\n#endif",
            "`put`",
        ),
        ("static inline int twice", "int twice(int a);\nstatic inline int once", "`twice`"),
        ("extern int total;\n", "extern int total;\n#define MORE 1\n", "`MORE`"),
        ("enum kind", "#ifndef MORE\n#define MORE(a) (a)\n#endif\nenum kind", "`MORE`"),
        ("DECLARE(int, mine);", "ROW(more)\nDECLARE(int, mine);", "`more`"),
    ],
)
def test_a_name_that_means_something_else_is_exposed(old: str, new: str, what: str) -> None:
    assert what in changed((old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("/* of all */", "/* of some */"),
        ("void put(struct box *b, int n);\n", ""),
        ("    return a * 2;\n", "\n\n    return a  *  2; // so\n"),
        ("int lid; int size;", "int lid; int size; int more;"),
        ("int lid; int size;", "int lid; int hole; int size;"),
        ("extern int total;\n", "extern int total;\nvoid get(void);\nstruct more { int a; };\n"),
    ],
)
def test_what_no_source_can_use_is_not(old: str, new: str) -> None:
    assert changed((old, new)) == set()


def test_a_macro_of_a_header_that_is_new_is_none() -> None:
    """Who has that file already cannot get it once more, and nobody else includes it."""
    text = "#ifndef B\n#define B\n#define MORE 1\n#endif\n"
    assert changed(more={"b.h": ("", text)}) == set()
    assert changed(more={"b.h": (text, text.replace("1\n", "1\n#define LESS 0\n"))}) == {"`LESS`"}


def test_a_row_that_a_list_loses_or_gets_is_one_of_all_its_readers() -> None:
    rows = "ROW(one, 1)\nROW(two, 2)\n"
    for old, new in ((rows, f"{rows}ROW(three, 3)\n"), (f"{rows}ROW(three, 3)\n", rows)):
        assert [what for _, what in exposed({"a.h": (old, new)}).changed] == ["`three`"]
    ended = rows.replace(")", ");")
    assert not exposed({"a.h": (ended, f"{ended}ROW(three, 3);\n")}).changed


BOX = "struct box { %s };\n"
LID, SIZE = "int lid;", "int size;"


@pytest.mark.parametrize(
    ("old", "new", "is_larger"),
    [
        (LID + SIZE, LID + SIZE + "int more;", True),
        (LID + SIZE, LID + "int hole;" + SIZE, True),
        (LID + SIZE, LID + "union { int b; int c; } u;" + SIZE, False),
        (LID + SIZE, LID + "struct { int b; int c; } u;" + SIZE, True),
        (f"struct {{ {LID} }} a; {SIZE}", f"struct {{ {LID} int more; }} a; {SIZE}", True),
        (f"union {{ {LID} }}; {SIZE}", f"union {{ {LID} long more; }}; {SIZE}", False),
        (LID + SIZE, f"union {{ {LID}{SIZE} }};", False),
        (LID + SIZE, f"struct {{ {LID}{SIZE} }} in;", False),
        (LID + SIZE, f"{LID} union {{ {SIZE} int c; }};", False),
        (LID + SIZE, "char pad[8];" + LID + SIZE, False),
        (LID + SIZE, "int bit:3;" + LID + SIZE, False),
        (LID + SIZE, SIZE + LID + "int more;", False),
        (LID + SIZE, LID, False),
    ],
)
def test_a_structure_is_larger_if_all_members_stay(old: str, new: str, *, is_larger: bool) -> None:
    found = exposed({"a.h": (BOX % old, BOX % new)})
    assert found.larger == ((("a.h", "struct box"),) if is_larger else ())
    assert found.changed == (() if is_larger else (("a.h", "`box`"),))
    union = exposed({"a.h": (f"union box {{ {old} }};\n", f"union box {{ {new} }};\n")})
    assert (union.larger, union.changed) == ((), (("a.h", "`box`"),))


USES = "static inline int f(void) { return A; }\n"
AGAIN = "#undef A\n#define A 2\n"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('#define M "a  b"\n', '#define M "a b"\n'),
        ('static inline char *m(void) { return "a  b"; }\n',
         'static inline char *m(void) { return "a b"; }\n'),
        (f"#define A 1\n{USES}{AGAIN}", f"#define A 1\n{AGAIN}{USES}"),
        ("#pragma pack(1)\nstruct s { char a; };\n#pragma pack()\n",
         "#pragma pack(1)\n#pragma pack()\nstruct s { char a; };\n"),
        ("#define A 1\nstruct s { int a; };\n",
         f"#define A 1\nstruct s {{ int a;\n{AGAIN} int n; }};\n"),
        ("#define A 1\n", f"#define A 1\nstruct s {{ int a;\n{AGAIN} int n; }};\n"),
        ("#define A 1\n", f"#define A 1\nstatic inline int g(void)\n{{\n{AGAIN}return A;\n}}\n"),
    ],
    ids=["spaces", "spaces in code", "taken back", "pragma", "within", "new, within", "new code"],
)  # fmt: skip
def test_what_only_spelling_or_order_tells_is_exposed(old: str, new: str) -> None:
    assert exposed({"a.h": (old, new)}).changed
    assert not exposed({"a.h": (old, old)}).changed
    assert not exposed({"a.h": (new, new.replace("\n", " // the same\n", 1))}).changed


def test_order_counts_for_what_stays() -> None:
    two = (f"#define A 1\n{USES}", f"{USES}#define A 1\n")
    assert exposed({"a.h": two}).changed
    assert exposed({"a.h": ("ROW(one)\nROW(two)\n", "ROW(two)\nROW(one)\n")}).changed
    more = f"#define A 1\n{AGAIN}{USES}"
    assert not exposed({"a.h": (more, f"int g(void);\n{more}")}).changed


def test_a_function_that_goes_to_another_header_is_one_of_both() -> None:
    gone = ("static inline int twice(int a)\n{\n    return a * 2;\n}\n", "")
    body = "static inline int twice(int a) { return a * %d; }\n"
    assert changed(gone, more={"b.h": ("", body % 2)}) == set()
    assert changed(gone, more={"b.h": ("", body % 3)}) == {"`twice`"}


def test_a_macro_that_goes_to_another_header_is_gone_from_the_first() -> None:
    """A source that includes one of them alone sees it with ``#ifdef``."""
    gone = "#define LIMIT 3 /* of all */\n", ""
    assert changed(gone, more={"b.h": ("", "#define LIMIT 3\n")}) == {"`LIMIT`"}
    assert changed(gone, ("struct box {", "#define LIMIT 3\nstruct box {")) == set()


def test_a_type_or_a_prototype_that_goes_to_another_header_is_one_of_both() -> None:
    """A source that includes the first one alone does not compile any more."""
    for text in ("struct box { int lid; int size; };\n", "void put(struct box *b, int n);\n"):
        assert changed((text, ""), more={"b.h": ("", text)}) == set()


def test_what_is_new_is_told_by_its_names() -> None:
    new = HEADER.replace("enum kind", "enum more { THREE };\nDECLARE(int, yours);\nenum kind")
    found = exposed({"a.h": (HEADER, new)})
    assert found.changed == ()
    assert {names for _, names in found.brought} == {
        frozenset({"more"}),
        frozenset({"THREE"}),
        frozenset({"int", "yours"}),
    }


ASSEMBLER = """#ifndef __ASSEMBLY__
void save(int a,
          int b);
#else
.macro SAVE
    mov a, b # keep what
    mov c, d # it was
.endm
#endif
"""


@pytest.mark.parametrize(
    ("old", "new", "is_changed"),
    [
        ("what\n    mov c, d # it was", "what mov c, d # it was", True),
        (".macro SAVE\n    mov", ".macro SAVE mov", True),
        ("    mov c, d # it was\n", "    mov c, d # it is\n", True),
        ("    mov c", "\n    /* it isn't\n new */\n\tmov c", False),
        ("int a,\n          int b", "int a, int b", False),
    ],
)
def test_a_line_of_assembler_ends_a_statement(old: str, new: str, *, is_changed: bool) -> None:
    assert old in ASSEMBLER
    found = exposed({"a.h": (ASSEMBLER, ASSEMBLER.replace(old, new, 1))})
    assert bool(found.changed) is is_changed
