# SPDX-License-Identifier: Apache-2.0
"""What debug information of an image says is what it says of the objects, whoever made them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from xsplice_plugins.elf.reader import ElfFile, read_elf
from xsplice_plugins.elf.retyped import known_by, retyped

pytestmark = pytest.mark.toolchain

ENTRY = """.text
.globl {0}
.type {0}, @function
{0}: ret
.size {0}, 1
.section .note.GNU-stack, "", @progbits
"""


def compiled(folder: Path, name: str, text: str) -> ElfFile:
    """Compile or assemble one file with debug information."""
    (folder / name).write_text(text)
    out = folder / f"{name}.o"
    subprocess.run(["gcc", "-g", "-O2", "-c", "-o", out, name], cwd=folder, check=True)
    return read_elf(out.read_bytes(), str(out))


def linked(folder: Path, *objects: ElfFile) -> ElfFile:
    words = ["-e", "0", "-o", "image", *(file.name for file in objects)]
    subprocess.run(["ld", *words], cwd=folder, check=True)
    return read_elf((folder / "image").read_bytes(), "image")


def test_functions_of_assembler_are_alike_in_objects_and_in_their_image(tmp_path: Path) -> None:
    """The assembler counts places of types from where the file's part begins."""
    texts = {"c.c": "int c(int a) { return a; }\n", "a.s": ENTRY.format("a")}
    files = [compiled(tmp_path, name, text) for name, text in texts.items()]
    more = compiled(tmp_path, "b.s", ENTRY.format("b"))
    assert retyped(files, linked(tmp_path, *files)) == ()
    rows = retyped(files, linked(tmp_path, *files, more))
    assert [(row[0], row[2]) for row in rows] == [("function b", "not there")]


ENUM = "enum %s e { A, B };\n"
PACKED = "__attribute__((packed))"


@pytest.mark.parametrize(
    "text",
    [
        "enum e *x; int f(void) { return *x; }\n",
        "int f(void *p) { return *(enum e *)p; }\n",
        "struct s { enum e *p; } *x; int f(void) { return *x->p; }\n",
        "extern enum e x[]; int f(int i) { return x[i]; }\n",
        "int g(enum e *); int f(void) { enum e x = A; return g(&x); }\n",
    ],
)
def test_an_enumeration_of_another_size_is_seen(tmp_path: Path, text: str) -> None:
    """Behind a pointer, and in an open array, nothing else tells its size."""
    plain, packed = (
        compiled(tmp_path, f"{name}.c", ENUM % word + text)
        for name, word in (("plain", ""), ("packed", PACKED))
    )
    row = ("enum e", "its size", "0x4", "0x1")
    assert row in retyped([plain], packed)
    assert "enum e" in known_by(plain)
    assert retyped([plain], plain) == retyped([packed], packed) == ()


def test_an_enumeration_of_a_function_goes_by_its_name_too(tmp_path: Path) -> None:
    text = "int f(int i) { enum %s e { A, B } *p = get(); return p[i]; }\n"
    plain, packed = (
        compiled(tmp_path, f"{name}.c", f"void *get(void);\n{text % word}")
        for name, word in (("plain", ""), ("packed", PACKED))
    )
    assert ("enum e in f", "its size", "0x4", "0x1") in retyped([plain], packed)
    assert retyped([plain], plain) == ()


def test_an_enumeration_without_a_size_says_nothing(tmp_path: Path) -> None:
    """Gcc takes a declaration alone for one that is complete elsewhere."""
    text = "enum e; int g(enum e *); int f(enum e *p) { return g(p); }\n"
    known = known_by(compiled(tmp_path, "open.c", text))
    assert "enum e" not in known
    assert "function f" in known


NAMED = "int f(int a, int b) { return a - 2 * b; }\n"
CALLS = "; int g(int x) { return f(x, 3); }\n"


@pytest.mark.parametrize("text", ["int f(int, int)", "extern int f(int, int)"])
@pytest.mark.parametrize("is_shipped", [True, False])
def test_a_declaration_without_names_is_the_same_type(
    tmp_path: Path, text: str, *, is_shipped: bool
) -> None:
    """One caller more, on either side, is no other type."""
    one, caller = compiled(tmp_path, "one.c", NAMED), compiled(tmp_path, "g.c", text + CALLS)
    files = [one, caller]
    rows = (
        retyped([one], linked(tmp_path, *files))
        if is_shipped
        else retyped(files, linked(tmp_path, one))
    )
    assert [row[0] for row in rows] == ["function g"]
    assert retyped(files, linked(tmp_path, *files)) == ()


@pytest.mark.parametrize(
    "declaration",
    [
        "int f(int, long)",
        "long f(int, int)",
        "int f(int, int, int)",
    ],
)
def test_a_declaration_that_says_something_else_is_another_type(
    tmp_path: Path, declaration: str
) -> None:
    calls = "; int g(int x) { return f(x, 3%s); }\n" % (", 4" * (declaration.count(",") - 1))
    one, caller = (
        compiled(tmp_path, "one.c", NAMED),
        compiled(tmp_path, "g.c", declaration + calls),
    )
    for ours, shipped in (([one], [one, caller]), ([one, caller], [one])):
        rows = retyped(ours, linked(tmp_path, *shipped))
        assert [row[0] for row in rows] == ["function f", "function g"]


def test_parameters_that_changed_places_are_seen_beside_one_without_names(tmp_path: Path) -> None:
    exchanged = compiled(tmp_path, "two.c", "int f(int b, int a) { return a - 2 * b; }\n")
    one, caller = (
        compiled(tmp_path, name, text)
        for name, text in (("one.c", NAMED), ("g.c", f"int f(int, int){CALLS}"))
    )
    rows = retyped([one, caller], linked(tmp_path, exchanged, caller))
    assert rows == (
        ("function f", "its type", "`4 int (4 int a, 4 int b)`", "`4 int (4 int b, 4 int a)`"),
    )


def test_a_declaration_without_names_alone_does_not_say_which_parameter_is_which(
    tmp_path: Path,
) -> None:
    one, caller = (
        compiled(tmp_path, name, text)
        for name, text in (("one.c", NAMED), ("g.c", f"int f(int, int){CALLS}"))
    )
    assert "function f" in {row[0] for row in retyped([one], caller)}
    assert "function f" in {row[0] for row in retyped([caller], one)}
