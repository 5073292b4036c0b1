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
