# SPDX-License-Identifier: Apache-2.0
"""What memory's values mean, in debug information: what is another meaning, and what is none."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from xsplice_plugins.elf.reader import ElfFile, read_elf
from xsplice_plugins.elf.values import Values, known_names, value_questions, values_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.toolchain

FLAGS = ("-O2", "-g", "-fno-eliminate-unused-debug-types")
FUNCTION = "extern int g(void *); int f(int a) { %s return 0; } int rest;"
INLINE = """static inline int h(int a) { static %s; return %s += a; }
int i(int a) { return h(a)%s; }"""
#: Bodies of a function, before and after: what is wrong; a part of a question; or nothing.
BODIES = {
    "retyped": ("static short x; x += a;", "static unsigned short x; x += a;", ["variable x"]),
    "array": ("static short x; g(&x);", "static char x[2]; g(x);", ["variable x"]),
    "pointee": ("static short *x; g(&x);", "static char *x; g(&x);", ["variable x"]),
    "nested": ("{ static short x; g(&x); }", "{ static char x[2]; g(x); }", ["variable x"]),
    "nameless": (
        "static struct { char a, b; } x; g(&x);",
        "static struct { char b, a; } x; g(&x);",
        ["variable x"],
    ),
    "local type": (
        "struct s { struct s *n; char a, b; }; static struct s x; g(&x);",
        "struct s { struct s *n; char b, a; }; static struct s x; g(&x);",
        ["variable x"],
    ),
    "spelled otherwise": (
        "static unsigned long x[16]; g(x);",
        "typedef long unsigned word; static word x[0x10]; g(x);",
        [],
    ),
    "one member": ("static long x; g(&x);", "static struct { long a; } x; g(&x);", []),
    "no longer one member": (
        "static struct { struct { void *a; } b; } x; g(&x);",
        "static void *x; g(&x);",
        [],
    ),
    "one member of another type": (
        "static long x; g(&x);",
        "static struct { unsigned long a; } x; g(&x);",
        ["variable x"],
    ),
    "one member behind a hole": (
        "static long x; g(&x);",
        "static struct { int : 32; int a; } x; g(&x);",
        ["variable x"],
    ),
    "one member, and room behind it": (
        "static int x; g(&x);",
        "static struct { int a; } __attribute__((aligned(8))) x; g(&x);",
        ["variable x"],
    ),
    "one bit-field": (
        "static int x; g(&x);",
        "static struct { int a : 32; } x; g(&x);",
        ["variable x"],
    ),
    "one member each": (
        "static struct { long gfn; } x; g(&x);",
        "static struct { long mfn; } x; g(&x);",
        ["variable x"],
    ),
    "two members": (
        "static long x; g(&x);",
        "static struct { int a, b; } x; g(&x);",
        ["variable x"],
    ),
    "a union": (
        "static long x; g(&x);",
        "static union { long a; } x; g(&x);",
        ["variable x"],
    ),
    "in no memory": ("short x = a; g(&x);", "char x = a; g(&x);", []),
    "constant": (
        "static const short x[1] = { 1 }; g(&x);",
        "static const char x[2] = { 1, 0 }; g(&x);",
        [],
    ),
    "two of one name": (
        "{ static int x; g(&x); } { static short x; g(&x); }",
        "{ static int x; g(&x); } { static char x[2]; g(&x); }",
        ["variable x"],
    ),
    "one of two gone": (
        "{ static short x; g(&x); } { static char x[2]; g(x); }",
        "{ static short x; g(&x); }",
        "each keeps its state",
    ),
    "two that change places": (
        "{ static short x; g(&x); } { static char x[2]; g(x); }",
        "{ static char x[2]; g(x); } { static short x; g(&x); }",
        "each keeps its state",
    ),
    "another function": (
        "static short x; g(&x);",
        "return 0; } int h(int a) { static char x[2]; g(x);",
        "another function",
    ),
    "enum reordered": ("enum { A, B }; return a + B;", "enum { B, A }; return a + B;", ["A", "B"]),
    "enum in a block": ("{ enum e { A, B } x; g(&x); }", "{ enum e { C, A, B } x; g(&x); }",
                        ["A", "B"]),
    "enum gone": ("enum { A, B }; return a + B;", "enum { A }; return a + 1;", ["B"]),
    "enum elsewhere": (
        "enum { A = 1 }; return a + A;",
        "return 0; } enum { A = 2 }; int h(int a) { return a + A;",
        "another function with another value",
    ),
    "enum array": (
        "static enum { A, B } x[2]; g(x);",
        "static enum { B, A } x[2]; g(x);",
        ["A", "B"],
    ),
    "enum renamed": ("enum { A, B }; return a + B;", "enum { A, C }; return a + C;", []),
    "enum grown": ("enum { A, B }; return a + B;", "enum { A, B, C }; return a + C;", []),
    "enum said": ("enum { A, B }; return a + B;", "enum { A = 0, B = A + 1 }; return a + B;", []),
}  # fmt: skip
#: The same of declarations outside functions.
OUTSIDE = {
    "wider": ("enum e { A } x;", "enum e { A, B = 0x100000000 } x;", ["enum e", "variable x"]),
    "signed": ("enum e { A } x;", "enum e { A, B = -1 } x;", "its sign"),
    "bit-field": (
        "struct s { enum e { A, B, C } x : 2; } y;",
        "struct s { enum e { A, B, C, D = -1 } x : 2; } y;",
        "its sign",
    ),
    "in a member": (
        "struct s { enum { A, B } x; } y;",
        "struct s { enum { B, A } x; } y;",
        ["A", "B"],
    ),
    "in a union": (
        "union u { enum { A, B } x; int y; } z;",
        "union u { enum { B, A } x; int y; } z;",
        ["A", "B"],
    ),
    "by a macro": (
        "#define X A, B\nenum e { X } x;",
        "#define X B, A\nenum e { X } x;",
        ["A", "B"],
    ),
    "typedef": ("typedef enum { A, B } e; e x;", "typedef enum { B, A } e; e x;", ["A", "B"]),
    "two renamed": ("enum e { A, B } x;", "enum e { C, D } x;", "new names"),
    "gone beside another": (
        "enum { A, B } x; enum { C, D } y;",
        "enum { A } x; enum { C, D } y;",
        ["B"],
    ),
    "nameless, two renamed": ("enum { A, B } x;", "enum { C, D } x;", "new names"),
    "alias gone": ("enum e { A, B = 0 } x;", "enum e { A } x;", []),
    "in a gap": ("enum e { A, B = 2 } x;", "enum e { A, C, B } x;", []),
    "counter": ("enum e { A, N } x;", "enum e { A, B, N } x;", ["N"]),
    "dimension": ("void *x[256];", "void *x[0x100];", []),
    "member": ("struct { long a; } x[2];", "typedef long w; struct { w a; } x[2];", []),
    "renamed, another type": ("int *x;", "char *y;", "take over"),
    "renamed, another size": ("int x;", "char y;", []),
    "renamed": ("int *x;", "int *y;", []),
    "declared before": ("extern int x; int x;", "extern unsigned x; unsigned x;", ["variable x"]),
    "inline": (INLINE % ("short x", "x", ""), INLINE % ("char x[2]", "x[1]", ""), ["variable x"]),
    "inlined once more": (INLINE % ("int x", "x", ""), INLINE % ("int x", "x", " + h(1)"), []),
}


def values(folder: Path, text: str, *flags: str) -> Values:
    return values_of(compiled(folder, text, *flags))


def compiled(folder: Path, text: str, *flags: str) -> ElfFile:
    path = folder / "x.o"
    subprocess.run(["gcc", "-xc", "-c", *flags, "-", "-o", path], input=text, text=True, check=True)
    return read_elf(path.read_bytes(), "x.o")


@pytest.mark.parametrize("case", [*BODIES, *OUTSIDE])
def test_another_meaning_is_wrong_or_asked(case: str, tmp_path: Path) -> None:
    *texts, expected = BODIES.get(case) or OUTSIDE[case]
    frame = FUNCTION if case in BODIES else "%s"
    sides = [values(tmp_path, frame % text, *FLAGS) for text in texts]
    assert any(vars_of(side) for side in sides), "nothing was compared"
    wrong, questions = value_questions(*sides)
    if isinstance(expected, str):
        assert not wrong
        assert [(row.name, expected in row.text) for row in questions] == [("", True)]
    else:
        assert sorted(name.removeprefix("constant ") for name in wrong) == expected
        assert not questions


def vars_of(side: Values) -> bool:
    return bool(side.variables or side.constants)


@pytest.mark.parametrize("flag", ["-gdwarf-4", "-gdwarf-5", "-gstrict-dwarf"])
def test_each_version_of_debug_information_tells_it(flag: str, tmp_path: Path) -> None:
    texts = ["enum e { A = -1, B = 200 } x;", "enum e { A = -1, B = 201 } x[1];"]
    flags = ("-g", "-gdwarf-4", flag) if flag == "-gstrict-dwarf" else (flag,)
    wrong, _ = value_questions(*(values(tmp_path, text, *flags) for text in texts))
    assert wrong == {
        "constant B": "`B` was 200 and would be 201",
        "variable x": "`x` changed its type",
    }


def test_what_is_not_seen_on_both_sides_is_not_known(tmp_path: Path) -> None:
    """A refusal of the sources stands unless debug information judged its subject."""
    before = values(tmp_path, "enum e { A } x; enum { C } y; typedef int t; t z;", *FLAGS)
    after = values(tmp_path, "enum e { B } x; typedef signed t; t z; int w;", *FLAGS)
    known = known_names(before, after)
    assert {"enum e", "constant A", "variable x", "variable z", "typedef t"} <= known
    assert not {"constant B", "constant C", "variable w"} & known
    other = values(tmp_path, "typedef long t; t z;", *FLAGS)
    assert "typedef t" not in known_names(before, other)
    assert "variable x" not in known_names(Values(), after)
    assert not {"enum e", "constant A"} & known_names(before, Values())
