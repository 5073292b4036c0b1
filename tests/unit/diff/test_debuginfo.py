# SPDX-License-Identifier: Apache-2.0
"""What debug information adds: source lines, structure fields, who absorbed whom."""

import subprocess
from pathlib import Path

import pytest

from tests.kit.differ_inputs import compile_c, diff_c, summary
from xsplice_plugins.diff.debuginfo import debug_info
from xsplice_plugins.diff.lines import line_table
from xsplice_plugins.elf.reader import read_elf

pytestmark = pytest.mark.toolchain

TEXT = """struct s { int a; long b; unsigned x : 3; unsigned y : 5; };
int f(struct s *p) { return get(p->a) + p->b + p->y; }
static inline int h(int a)
{
    return get(a) + 3;
}
int g(struct s *p)
{
    int b = h(p->a);

    return put(b, 5);
}
"""
FLAGS = pytest.mark.parametrize("flag", ["-g", "-gdwarf-4"])


@FLAGS
def test_the_first_difference_names_its_source_line(tmp_path: Path, flag: str) -> None:
    delta = diff_c(tmp_path, TEXT, "\n\n" + TEXT.replace("put(b, 5)", "put(b, 6)"), flag)
    assert summary(delta) == (["g"], [], [], [])
    difference = delta.changed[0].difference
    assert difference is not None
    assert (difference.line_before, difference.line_after) == ("file.c:11", "file.c:13")


@FLAGS
@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("int a;", "int a; int z; int q;", "new field `z` at byte 4"),
        ("int a; long b;", "long b; int a;", "field `b` of `struct s` moved from byte 8 to byte 0"),
        ("unsigned y : 5;", "unsigned y : 5; char w;", "new field `w`"),
    ],
)
def test_a_changed_layout_is_refused_by_the_field(
    tmp_path: Path, flag: str, old: str, new: str, text: str
) -> None:
    after = TEXT.replace(old, new)
    delta = diff_c(tmp_path, TEXT, after.replace("+ 3", "+ 4"), flag)
    refused = [r for r in delta.refused if r.code == "LAYOUT"]
    assert [r.name for r in refused] == ["struct s"]
    assert text in refused[0].reason


@FLAGS
def test_a_renamed_type_of_a_field_is_no_layout_change(tmp_path: Path, flag: str) -> None:
    after = TEXT.replace("int a;", "unsigned int a;").replace("+ 3", "+ 4")
    assert diff_c(tmp_path, TEXT, after, flag).refused == ()


@FLAGS
def test_inlining_is_explained_by_name(tmp_path: Path, flag: str) -> None:
    delta = diff_c(tmp_path, TEXT.replace("static inline", "static noinline"), TEXT, flag)
    assert [c.reason for c in delta.changed] == ["`h` was inlined into `g`"]


@FLAGS
def test_lines_agree_with_addr2line(tmp_path: Path, flag: str) -> None:
    data = compile_c(tmp_path, TEXT, flag)
    (tmp_path / "a.o").write_bytes(data)
    file = read_elf(data, "a.o")
    section = file.section_by_name[".text.g"]
    for offset in range(section.size_bytes):
        command = ["addr2line", "-s", "-j", ".text.g", "-e", str(tmp_path / "a.o"), hex(offset)]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
        assert line_table(file).line_of(section.index, offset) == told


def test_an_object_without_debug_information_says_nothing(tmp_path: Path) -> None:
    file = read_elf(compile_c(tmp_path, TEXT), "a.o")
    assert debug_info(file).layouts == {}
    assert line_table(file).line_of(1, 0) == ""
