# SPDX-License-Identifier: Apache-2.0
"""Of which objects the types are held against the shipped image."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.kit.differ_inputs import compile_c
from xsplice_plugins.bases.checking import linked_of
from xsplice_plugins.elf.reader import ElfFile, read_elf
from xsplice_plugins.elf.retyped import retyped

pytestmark = pytest.mark.toolchain

USER = """extern const unsigned char table[]; int copy(int); int helper(int);
int user(int a) { return table[a] + copy(a) %s; }
"""
FILES = {
    "user": USER % "+ helper(a)",
    "own": "int copy(int a) { return a + 1; }\n",
    "table": "const unsigned char table[] = { 1, 2, 3 };\n",
    "generic": "int copy(int a) { int twice = a * 2; return twice; }\n",
    "both": "int copy(int a) { return a; }\nint helper(int a) { long kept = a; return kept; }\n",
    "idle": "static int table; int idle(void) { return table++; }\n",
}
OPTIONAL = ("table", "generic", "both", "idle")


def linked(folder: Path, *names: str, user: str = FILES["user"]) -> tuple[list[ElfFile], ElfFile]:
    """Compile all, and link some."""
    files = []
    for name, text in (FILES | {"user": user}).items():
        data = compile_c(folder, text, "-g", name=f"{name}.c")
        (folder / f"{name}.o").write_bytes(data)
        files.append(read_elf(data, name))
    words = ["-e", "0", "-z", "muldefs", "-o", "image", *(f"{name}.o" for name in names)]
    subprocess.run(["ld", *words], cwd=folder, check=True)
    return files, read_elf((folder / "image").read_bytes(), "image")


def names_of(files: list[ElfFile], image: ElfFile) -> list[str]:
    return [file.name for file in linked_of(files, OPTIONAL, (), image)]


def test_a_member_of_an_archive_without_a_function_counts_if_it_is_linked(tmp_path: Path) -> None:
    files, image = linked(tmp_path, "user", "own", "table", "both")
    assert names_of(files, image) == ["user", "own", "table", "both"]
    assert retyped(linked_of(files, OPTIONAL, (), image), image) == ()
    without = [file for file in files if file.name != "table"]
    rows = retyped(linked_of(without, OPTIONAL, (), image), image)
    assert [row[0] for row in rows] == ["variable table"]


def test_a_member_is_not_linked_for_a_name_that_an_object_defines(tmp_path: Path) -> None:
    """Nor for a static of another file."""
    user = "int copy(int); static int table[2]; int *user(int a) { return &table[copy(a) & 1]; }\n"
    files, image = linked(tmp_path, "user", "own", user=user)
    assert names_of(files, image) == ["user", "own"]
    assert retyped(linked_of(files, OPTIONAL, (), image), image) == ()


def test_a_member_whose_name_no_object_defines_is_compared(tmp_path: Path) -> None:
    """Also where another definition of its name was linked: what it knows counts."""
    files, image = linked(tmp_path, "user", "own", "table", "both")
    others = [file for file in files if file.name != "own"]
    assert "generic" in names_of(others, image)
    assert retyped(linked_of(others, OPTIONAL, (), image), image) != ()


def test_of_two_members_with_one_name_the_one_that_the_image_holds_is_compared(
    tmp_path: Path,
) -> None:
    files, image = linked(tmp_path, "user", "table", "both")

    def compared(*left_out: str) -> list[str]:
        optional = (*OPTIONAL, "own")
        return [file.name for file in linked_of(files, optional, left_out, image)]

    assert compared("generic", "own", "idle") == ["user", "table", "both"]
    assert compared() == ["user", "own", "table", "generic", "both"]
    assert compared("own", "both", "generic") == ["user", "own", "table", "generic", "both"]
