# SPDX-License-Identifier: Apache-2.0
"""Whether debug information describes types; and how an object was compiled, as it tells."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.kit.differ_inputs import compile_c
from xsplice_plugins.elf.compiled import compiled_otherwise
from xsplice_plugins.elf.described import has_types
from xsplice_plugins.elf.reader import ElfFile, read_elf

pytestmark = pytest.mark.toolchain

TYPED = "struct s { int a; }; int f(struct s *p) { return p->a; }\n"
BARE = "void f(void) {}\n"


def made(folder: Path, text: str, *flags: str, name: str = "file.c") -> ElfFile:
    return read_elf(compile_c(folder, text, *flags, name=name), name.replace(".c", ".o"))


@pytest.mark.parametrize("text", [TYPED, BARE])
@pytest.mark.parametrize(
    ("flag", "is_told"),
    [
        ("-g", True),
        ("-g2", True),
        ("-g3", True),
        ("-ggdb3", True),
        ("-gdwarf-4", True),
        ("-g0", False),
        ("-g1", False),
        ("-gsplit-dwarf", False),
    ],
)
def test_types_are_described_or_not(tmp_path: Path, text: str, flag: str, is_told: bool) -> None:
    assert has_types(made(tmp_path, text, flag)) == is_told


def test_units_that_files_share_are_not_followed(tmp_path: Path) -> None:
    """Two types of one layout are equal where dwz has put them elsewhere: so nothing is told."""
    file = made(tmp_path, TYPED, "-gdwarf-4")
    section = file.section_by_name[".debug_abbrev"]
    tag = section.data.index(bytes([0x13, 1]))  # the structure, which has children
    data = bytearray(file.data)
    data[file.data.index(section.data) + tag] = 0x3C
    assert has_types(file)
    assert not has_types(read_elf(bytes(data), "processed"))


def _linked(folder: Path, *objects: ElfFile) -> ElfFile:
    names = []
    for number, file in enumerate(objects):
        (folder / f"{number}.o").write_bytes(file.data)
        names.append(f"{number}.o")
    words = ["ld", "-e", "0", "--unresolved-symbols=ignore-all", "-o", "image", *names]
    subprocess.run(words, cwd=folder, check=True)
    return read_elf((folder / "image").read_bytes(), "image")


def test_other_options_are_told_by_object(tmp_path: Path) -> None:
    texts = {"one.c": "int one(void) { return 1; }\n", "two.c": "int two(void) { return 2; }\n"}
    ours = [made(tmp_path, text, "-g", name=name) for name, text in texts.items()]
    theirs = [
        made(tmp_path, text, "-g3", *flags, name=name)
        for (name, text), flags in zip(texts.items(), ((), ("-funsigned-char",)), strict=True)
    ]
    assert list(compiled_otherwise(ours, _linked(tmp_path, *ours))) == []
    rows = list(compiled_otherwise(ours, _linked(tmp_path, *theirs)))
    assert rows == [("two.o", "how it is compiled", "nothing more", "-funsigned-char")]


def test_a_source_that_is_compiled_twice_is_held_against_both(tmp_path: Path) -> None:
    pair = [
        made(tmp_path, f"int f{n}(void) {{ return {n}; }}\n", "-g", flag, name="same.c")
        for n, flag in enumerate(("-O1", "-O2"))
    ]
    assert list(compiled_otherwise(pair, _linked(tmp_path, *pair))) == []
    assert len(list(compiled_otherwise(pair, _linked(tmp_path, pair[0])))) == 1


@pytest.mark.skipif(not shutil.which("clang"), reason="clang is not there")
def test_another_compiler_is_another_way(tmp_path: Path) -> None:
    ours = [made(tmp_path, BARE, "-g")]
    (tmp_path / "c.c").write_text(BARE)
    line = ["clang", "-g", "-O2", "-c", "-o", "c.o", "-x", "c", "file.c"]
    (tmp_path / "file.c").write_text(BARE)
    subprocess.run(line, cwd=tmp_path, check=True)
    other = read_elf((tmp_path / "c.o").read_bytes(), "c.o")
    (row,) = compiled_otherwise(ours, _linked(tmp_path, other))
    assert "clang" in row[3]
