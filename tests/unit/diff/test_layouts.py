# SPDX-License-Identifier: Apache-2.0
"""Layouts in debug information: each way in which one changes, and what is no change."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from xsplice_plugins.elf.changed import layout_difference, layout_questions
from xsplice_plugins.elf.described import has_types
from xsplice_plugins.elf.layouts import layouts_of
from xsplice_plugins.elf.reader import ElfFile, read_elf

pytestmark = pytest.mark.toolchain

#: What is declared before and after, and what is said of it; "" for no change.
CHANGES = {
    "anonymous-typedef": (
        "typedef struct { int a; int b; } T; T x;",
        "typedef struct { int a; int r; int b; } T; T x;",
        "`typedef T` got a new field `r` at byte 4",
    ),
    "bit-field-moved": (
        "struct s { unsigned a:3; unsigned b:5; } x;",
        "struct s { unsigned c:3; unsigned a:3; unsigned b:5; } x;",
        "`struct s` got a new field `c` at byte 0",
    ),
    "bit-field-wider": (
        "struct s { unsigned a:3; unsigned b:5; } x;",
        "struct s { unsigned a:4; unsigned b:5; } x;",
        "field `a` of `struct s` had 3 bits and would have 4",
    ),
    "narrower-in-place": (
        "struct s { int a; char b; } x;",
        "struct s { short a; char b __attribute__((aligned(4))); } x;",
        "field `a` of `struct s` had 32 bits and would have 16",
    ),
    "array-longer": (
        "struct s { char a[4]; int b; } x;",
        "struct s { char a[3]; int b; } x;",
        "field `a` of `struct s` had 32 bits and would have 24",
    ),
    "inside-a-nameless-union": (
        "struct s { int a; union { int u; long v; }; } x;",
        "struct s { int a; union { int u; struct { char c; char u2; }; long v; }; } x;",
        "got a new field",
    ),
    "packed": (
        "struct s { char a; int b; } x;",
        "#pragma pack(1)\nstruct s { char a; int b; } x;",
        "field `b` of `struct s` moved from byte 4 to byte 1",
    ),
    "lost": ("struct s { int a, b; } x;", "struct s { int a; } x;", "lost its field `b`"),
    "aligned": (
        "struct s { int a; } x;",
        "struct s { int a; } __attribute__((aligned(16))) x;",
        "had 4 bytes and would have 16",
    ),
    "pointee": ("struct s { int *a; } x;", "struct s { char *a; } x;", ""),
    "comment": ("struct s { int a; } x;", "struct s { /* why */ int a; } x;", ""),
    "other-name-of-a-type": (
        "struct s { int a; } x;",
        "typedef int number; struct s { number a; } x;",
        "",
    ),
}


def compiled(folder: Path, text: str, *flags: str) -> ElfFile:
    path = folder / "x.o"
    subprocess.run(["gcc", "-xc", "-c", *flags, "-", "-o", path], input=text, text=True, check=True)
    return read_elf(path.read_bytes(), "x.o")


@pytest.mark.parametrize("flag", ["-gdwarf-4", "-gdwarf-5", "-gstrict-dwarf"])
@pytest.mark.parametrize("case", CHANGES)
def test_a_change_is_seen_and_named(case: str, flag: str, tmp_path: Path) -> None:
    before, after, said = CHANGES[case]
    flags = (flag, "-gdwarf-4") if flag == "-gstrict-dwarf" else (flag,)
    old, new = (layouts_of(compiled(tmp_path, text, *flags)) for text in (before, after))
    assert old.keys() & new.keys(), "nothing was compared"
    texts = [layout_difference(name, old[name], new[name]) for name in old.keys() & new.keys()]
    assert [text for text in texts if text] == ([text for text in texts if said in text and text])
    assert any(texts) == bool(said)


IN_UNION = "struct in { int a; %s }; struct s { int k; union { struct in i; char pad[32]; } u; } x;"
#: Declared before and after; what is asked, or that it does not fit.
QUESTIONS = {
    "hole": ("struct s { char a; int b; } x;", "struct s { char a, c; int b; } x;", "`c` lies in"),
    "tail": ("struct s { long a; char b; } x;", "struct s { long a; char b, c; } x;", "`c` lies"),
    "bits": ("struct s { int a:3; } x;", "struct s { int a:3, b:2; } x;", "field `b` lies in"),
    "return": ("struct s { int (*f)(int); } x;", "struct s { void (*f)(int); } x;", ""),
    "pointee": ("struct s { int *a; } x;", "struct s { char *a; } x;", "`a` of `struct s` changed"),
    "turned": (
        "struct s { int *a[2][3]; } x;",
        "struct s { int *a[3][2]; } x;",
        "`a` of `struct s` changed",
    ),
    "nameless in an array": (
        "struct s { struct { char a, b; } c[9]; } x;",
        "struct s { struct { char b, a; } c[9]; } x;",
        "`c` of `struct s` changed",
    ),
    "behind a pointer": (
        "struct s { struct { char a, b; } *c; } x;",
        "struct s { struct { char b, a; } *c; } x;",
        "`c` of `struct s` changed",
    ),
    "renamed": ("struct s { int a, b; } x;", "struct s { int a, c; } x;", ""),
    "two renamed": (
        "struct s { short a, b; } x;",
        "struct s { short c, d; } x;",
        "`c`, `d` of `struct s` have new names",
    ),
    "signed": (
        "struct s { int a; } x;",
        "struct s { unsigned a; } x;",
        "`a` of `struct s` changed",
    ),
    "pointer": ("struct s { long a; } x;", "struct s { void *a; } x;", "changed its type in place"),
    "nameless": (
        "struct s { union { struct { int a; } i; char pad[32]; } u; } x;",
        "struct s { union { struct { int a, b; } i; char pad[32]; } u; } x;",
        "field `u.i.b` of `struct s` shares memory with `u.pad`",
    ),
    "another name": (
        "struct s { int a; unsigned f; } x;",
        "struct s { int a; union { unsigned f; unsigned g; }; } x;",
        "",
    ),
    "another name, deeper": (
        "struct s { struct { union { int f; char c; }; int b; }; } x;",
        "struct s { union { struct { union { int f; int g; char c; }; int b; }; int h; }; } x;",
        "",
    ),
    "another name in a named union": (
        "struct s { union { int f; } u; } x;",
        "struct s { union { int f; int g; } u; } x;",
        "",
    ),
    "another type in an anonymous union": (
        "struct s { int a; unsigned f; } x;",
        "struct s { int a; union { unsigned f; int g; }; } x;",
        "field `g` of `struct s` shares memory with `f`",
    ),
    "a part in an anonymous union": (
        "struct s { int a; unsigned f; } x;",
        "struct s { int a; union { unsigned f; unsigned short g; }; } x;",
        "field `g` of `struct s` shares memory with `f`",
    ),
    "bits in an anonymous union": (
        "struct s { int a:8, b:8; } x;",
        "struct s { union { struct { int a:8, b:8; }; struct { int :8, c:16; }; }; } x;",
        "field `c` lies in a hole of `struct s`",
    ),
    "hole in an anonymous structure": (
        "struct s { struct { char a; int b; }; } x;",
        "struct s { struct { char a, c; int b; }; } x;",
        "field `c` lies in a hole of `struct s`",
    ),
    "over two": (
        "struct s { int a, b; } x;",
        "struct s { union { struct { int a, b; }; long c; }; } x;",
        "field `c` of `struct s` shares memory with `a`",
    ),
    "over two and what lies between": (
        "struct s { short a; int b; } x;",
        "struct s { union { struct { short a; int b; }; char c[8]; }; } x;",
        "field `c` lies in a hole of `struct s`",
    ),
    "wider than what it joins": (
        "struct s { unsigned f; long a; } x;",
        "struct s { union { unsigned f; long g; }; long a; } x;",
        "field `g` lies in a hole of `struct s`",
    ),
    "wider, and what follows moves": (
        "struct s { unsigned f; int a; } x;",
        "struct s { union { unsigned f; long g; }; int a; } x;",
        None,
    ),
    "no union any more": (
        "struct s { union { int a; int b; }; int c; } x;",
        "struct s { struct { int a; int b; }; int c; } x;",
        None,
    ),
    "padded union": (IN_UNION % "", IN_UNION % "int b;", "field `b` lies in a hole of `struct in`"),
    "beyond the pad": (IN_UNION % "", IN_UNION % "char b[40];", None),
    "used elsewhere": (
        IN_UNION % "" + " struct in y;",
        IN_UNION % "int b;" + " struct in y;",
        None,
    ),
    "passed": (
        IN_UNION % "" + " int f(struct in *p) { return p->a; }",
        IN_UNION % "int b;" + " int f(struct in *p) { return p->a; }",
        None,
    ),
    "nameless array": (
        "struct s { union { struct { int a; } i[2]; char pad[32]; } u; } x;",
        "struct s { union { struct { int a, b; } i[2]; char pad[32]; } u; } x;",
        None,
    ),
    "moved": ("struct s { int a, b; } x;", "struct s { int b, a; } x;", None),
    "in front": ("struct s { int a; } x;", "struct s { char c; int a; } x;", None),
    "removed": ("struct s { int a; char b; } x;", "struct s { int a; } x;", None),
    "replaced": ("struct s { int a; int b; } x;", "struct s { int a; short b; short c; } x;", None),
    "longer": ("struct s { int a; } x;", "struct s { int a, b; } x;", None),
}


@pytest.mark.parametrize("case", QUESTIONS)
def test_memory_fits_or_not_and_what_it_holds_is_asked(case: str, tmp_path: Path) -> None:
    *texts, asked = QUESTIONS[case]
    flags = ("-g", "-fno-eliminate-unused-debug-types")
    before, after = (layouts_of(compiled(tmp_path, text, *flags)) for text in texts)
    assert before.keys() & after.keys(), "nothing was compared"
    wrong, questions = layout_questions(before, after)
    assert bool(wrong) == (asked is None), (wrong, questions)
    if asked is not None:
        assert [asked in row.text for row in questions] == ([True] if asked else [])
        for row in questions:
            structure = row.about.rpartition(" ")[2]
            assert row.name.startswith(f"LAYOUT:{structure}"), row


@pytest.mark.parametrize(
    ("after", "word"),
    [
        ("int a; char c; bool_t m; long b;", "LAYOUT:s.m"),
        ("union { int a; bool_t m; }; char c; long b;", "LAYOUT:s.m@a"),
        ("int a; union { char c; bool_t m; }; long b;", "LAYOUT:s.m@c"),
        ("int a; union { char c; int m; }; long b;", "LAYOUT:s.m@c"),
        ("int a; union { char c; int other; }; long b;", "LAYOUT:s.other@c"),
    ],
)
def test_a_word_for_a_hole_is_none_for_what_shares_memory(
    after: str, word: str, tmp_path: Path
) -> None:
    """With another member is another question, also where a part of it lies in a hole."""
    text = "typedef unsigned char bool_t; struct s { %s } x;"
    flags = ("-g", "-fno-eliminate-unused-debug-types")
    sides = [
        layouts_of(compiled(tmp_path, text % rows, *flags))
        for rows in ("int a; char c; long b;", after)
    ]
    wrong, (question,) = layout_questions(*sides)
    assert (wrong, question.name) == ({}, word)
    other = word.partition("@")[2]
    assert (f"shares memory with `{other}`" in question.text) == bool(other)


def test_without_debug_information_there_are_none(tmp_path: Path) -> None:
    bare = compiled(tmp_path, "struct s { int a; } x;")
    assert (has_types(bare), layouts_of(bare)) == (False, {})
    assert has_types(compiled(tmp_path, "struct s { int a; } x;", "-g"))
