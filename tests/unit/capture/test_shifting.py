# SPDX-License-Identifier: Apache-2.0
"""The third private copy: the patched sources with every line further down."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.kit.tiny_tree import TinyTree
from xsplice_plugins import capture
from xsplice_plugins.artefacts import SHIFT_LINES, MovedLines
from xsplice_plugins.csource.neutral import line_neutral, moved_lines, shifted
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.errors import MachineError
from xsplice_plugins.kbuild.tree import locate_tree

if TYPE_CHECKING:
    from pathlib import Path

    from xsplice_plugins.artefacts import CompileJob, PatchSet

pytestmark = pytest.mark.toolchain

SOURCE = "xen/common/user.c"
TEXT = "#include <xen/lib.h>\nint user(int a)\n{\n    return LINE;\n}\n"


@pytest.fixture
def tree(own_tree: TinyTree) -> TinyTree:
    """Return a tree with a function that returns its line; below the first patched lines."""
    (own_tree.root / SOURCE).write_text(TEXT.replace("LINE", "__LINE__"))
    own_tree.build()
    return own_tree


def copies(tree: TinyTree, fix: PatchSet, work: Path) -> tuple[CompileJob, Path, Path]:
    """Return the one job of a fix, and both copies."""
    found = locate_tree(tree.root)
    pristine, patched = work / "pristine", work / "patched"
    capture.copy_tree(found, pristine)
    capture.copy_tree(found, patched, fix)
    job = next(j for j in capture.plan(found, fix).jobs if j.object_path == "common/user.o")
    return job, pristine, patched


def immediate(data: bytes) -> int:
    """Return the number in ``mov $line,%eax``, the function's first instruction."""
    return int.from_bytes(
        read_elf(data, "user.o").section_by_name[".text.user"].data[1:5], "little"
    )


def test_lines_are_counted_as_the_compiler_counts(tree: TinyTree, tmp_path: Path) -> None:
    fix = tree.patch((SOURCE, "int user", "/* 1 */\nextern int more;\nint user"))
    job, pristine, patched = copies(tree, fix, tmp_path)
    assert capture.lines_moved(pristine, patched) == (MovedLines(old=2, new=4, count=5),)
    made = capture.compile_shifted(job, patched, tmp_path / "out.o")
    assert made is not None
    plain = tmp_path / "plain.o"
    capture.compile_object(job, patched, plain)
    assert immediate(made) - immediate(plain.read_bytes()) == SHIFT_LINES
    links = [tmp_path / copy / "xen/include" for copy in ("patched.shifted", "patched")]
    assert links[0].readlink() == links[1].readlink()


def test_a_patched_header_is_shifted_too(tree: TinyTree, tmp_path: Path) -> None:
    fix = tree.patch(("xen/include/xen/lib.h", "return a * 2;", "return a * 2 + __LINE__ * 0;"))
    job, _, patched = copies(tree, fix, tmp_path)
    assert capture.compile_shifted(job, patched, tmp_path / "out.o") is not None
    text = (tmp_path / "patched.shifted/xen/include/xen/lib.h").read_text()
    assert text.startswith("\n" * 1009 + "#ifndef")


def test_a_new_patched_copy_ends_the_shifted_one(tree: TinyTree, tmp_path: Path) -> None:
    fixes = [tree.patch((SOURCE, "return", f"return {n} +")) for n in ("1", "2")]
    made = []
    for fix in (*fixes, fixes[0]):
        job, _, patched = copies(tree, fix, tmp_path)
        made += [capture.compile_shifted(job, patched, tmp_path / "out.o") for _ in range(2)]
    assert made[0] == made[1] == made[4] == made[5]
    assert made[2] == made[3] != made[0]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_what_does_not_compile_further_down_shows_nothing(tree: TinyTree, tmp_path: Path) -> None:
    check = "_Static_assert(__LINE__ < 1000, 0);"
    fix = tree.patch((SOURCE, "int user", f"{check}\nint user"))
    job, _, patched = copies(tree, fix, tmp_path)
    assert capture.compile_shifted(job, patched, tmp_path / "out.o") is None


def test_a_link_of_the_copy_to_itself_leads_into_the_shifted_one(
    tree: TinyTree, tmp_path: Path
) -> None:
    (tree.root / "xen/common/again.c").symlink_to(tree.root / SOURCE)
    fix = tree.patch((SOURCE, "return", "return 5 +"))
    job, _, patched = copies(tree, fix, tmp_path)
    capture.compile_shifted(job, patched, tmp_path / "out.o")
    link = tmp_path / "patched.shifted/xen/common/again.c"
    assert link.readlink() == tmp_path / "patched.shifted" / SOURCE


def test_a_full_disk_is_named(
    tree: TinyTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise shutil.Error([("a", "b", "[Errno 28] No space left on device")])

    job, _, patched = copies(tree, tree.patch((SOURCE, "return", "return 5 +")), tmp_path)
    monkeypatch.setattr("shutil.copytree", full)
    with pytest.raises(MachineError, match=r"shifted: cannot be written \(.*No space.*make room"):
        capture.compile_shifted(job, patched, tmp_path / "out.o")
    assert not list(tmp_path.glob(".*"))


def test_every_line_has_a_number_greater_by_the_distance() -> None:
    text = 'int a = __LINE__;\n#line 70\nint b = __LINE__;\n# 90 "x.c"\nint c = __LINE__;\n'
    sides = [
        subprocess.run(
            ["gcc", "-E", "-P", "-x", "c", "-"], input=t, capture_output=True, text=True, check=True
        ).stdout
        for t in (text, shifted(text, 1009))
    ]
    numbers = [[int(n) for n in re.findall(r"= (\d+);", side)] for side in sides]
    assert numbers == [[1, 70, 90], [1010, 1079, 1099]]


def test_a_line_neutral_patch_moves_no_lines_of_unchanged_declarations() -> None:
    old = "int a;\nint b;\nint c;\n"
    new = "int a;\nint new;\nint b;\nint c;\n"
    assert moved_lines(old, new) == ((2, 3, 3),)
    assert moved_lines(old, line_neutral(old, new)) == ()
