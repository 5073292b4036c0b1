# SPDX-License-Identifier: Apache-2.0
"""What debug information of an image says is what it says of the objects, whoever made them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from xsplice_plugins.elf.reader import ElfFile, read_elf
from xsplice_plugins.elf.retyped import retyped

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
