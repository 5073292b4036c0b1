# SPDX-License-Identifier: Apache-2.0
"""New code that uses a structure which the shipped image has otherwise is not proved."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.kit.differ_inputs import compile_c
from xsplice_plugins.artefacts import BaseMatch, Duty, Finding, Severity, Structures
from xsplice_plugins.check.results import NewObject
from xsplice_plugins.elf.moved import moved_structures
from xsplice_plugins.elf.reader import ElfFile, read_elf
from xsplice_plugins.pipeline.structures import structure_findings
from xsplice_plugins.target.x86_64_numbers import numbers_in

pytestmark = pytest.mark.toolchain

HEADER = """struct inner { long a; %s int b; };
struct plain { int x, y; };
struct outer { char pad[256]; struct inner in[2]; int flags; };
extern struct outer the_outer;
"""
#: What runs, in two files; only the first one shows that the structure changed.
OTHER = "int other(struct outer *o) { return o->flags; }\n"
USER = "int user(struct outer *o, struct plain *p) { return p->x + (o != 0); }\n"
#: inner: 16 bytes, b at 8. outer: 256 + 32, flags at 288 and in[0].b at 264.
MOVED = {
    "struct inner": {8: "b", 16: "its size"},
    "struct outer": {264: "in.b", 288: "flags", 296: "its size"},
}


def image_of(folder: Path, member: str, flag: str = "-g") -> ElfFile:
    """Link both files against a header with one more member."""
    for name, text in (("other", OTHER), ("user", USER)):
        data = compile_c(folder, HEADER % member + text, flag, name=f"{name}.c")
        (folder / f"{name}.o").write_bytes(data)
    words = ["-e", "0", "--unresolved-symbols=ignore-all", "-o", "image", "other.o", "user.o"]
    subprocess.run(["ld", *words], cwd=folder, check=True)
    return read_elf((folder / "image").read_bytes(), "image")


def objects_of(folder: Path, flag: str = "-g") -> list[ElfFile]:
    """Compile both files with the header that is there."""
    texts = (("other", OTHER), ("user", USER))
    return [
        read_elf(compile_c(folder, HEADER % "" + text, flag, name=f"{name}.c"), f"{name}.o")
        for name, text in texts
    ]


def test_a_member_more_moves_what_comes_behind_and_what_holds_it(tmp_path: Path) -> None:
    assert moved_structures(objects_of(tmp_path), image_of(tmp_path, "long more;")) == MOVED


def test_equal_structures_and_none_to_be_seen_are_not_moved(tmp_path: Path) -> None:
    assert moved_structures(objects_of(tmp_path), image_of(tmp_path, "")) == {}
    assert moved_structures(objects_of(tmp_path), image_of(tmp_path, "long more;", "-g0")) == {}
    assert moved_structures(objects_of(tmp_path, "-g0"), image_of(tmp_path, "long more;")) == {}


ROWS: Structures = tuple((name, tuple(sorted(rows.items()))) for name, rows in MOVED.items())


def found(
    folder: Path,
    text: str,
    *,
    old: str = USER,
    structures: Structures | None = ROWS,
    flag: str = "-g",
    differs: tuple[str, ...] = ("other (common/other.o)",),
) -> list[Finding]:
    """Say what is found about a file with another text."""
    new, baseline = (compile_c(folder, HEADER % "" + side, flag) for side in (text, old))
    row = NewObject(path="common/user.o", new=new, baseline=baseline)
    base = BaseMatch(image="", findings=(), is_matched=True, structures=structures, differs=differs)
    return list(structure_findings("rebuild", base, [row]))


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("(o != 0)", "o->flags", "`flags` of `struct outer` at 0x120"),
        ("(o != 0)", "o->in[0].b", "`in.b` of `struct outer` at 0x108"),
        ("(o != 0)", "the_outer.flags", "`flags` of `struct outer` at 0x120"),
        ("(o != 0)", "(int)sizeof(o->in[0])", "`its size` of `struct inner` at 0x10"),
        ("(o != 0)", "(o == 0)", ""),
        ("(o != 0)", "p->y", ""),
    ],
    ids=["flags", "inner", "global", "size", "edit", "plain"],
)
def test_a_new_use_of_what_moved_is_not_proved(
    tmp_path: Path, before: str, after: str, words: str
) -> None:
    rows = found(tmp_path, USER.replace(before, after))
    assert [row.severity for row in rows] == ([Severity.UNCHECKED] if words else [])
    for row in rows:
        assert (row.subject, row.obligation) == ("user", Duty.LAYOUT)
        assert f"its new code may use {words}, which the hypervisor has elsewhere" in row.text


def test_what_the_old_code_did_as_often_is_no_new_use(tmp_path: Path) -> None:
    old = USER.replace("(o != 0)", "o->flags")
    assert found(tmp_path, old.replace("p->x", "p->y"), old=old) == []
    assert len(found(tmp_path, old + OTHER.replace("other", "more"), old=old)) == 1


def test_without_debug_information_each_new_distance_is_asked_about(tmp_path: Path) -> None:
    text = USER.replace("(o != 0)", "o->flags")
    (row,) = found(tmp_path, text, flag="-g0")
    assert (row.severity, row.subject) == (Severity.UNCHECKED, "user")
    assert "may use a member at 0x120, and nobody has compared" in row.text
    assert found(tmp_path, USER.replace("!= 0", "== 0"), flag="-g0") == []
    assert found(tmp_path, text, flag="-g0", structures=()) == []


@pytest.mark.parametrize(
    ("after", "is_asked"),
    [
        ("o->flags", True),
        ("the_outer.flags", True),
        ("o->pad[0]", True),
        ("(o == 0) + 0x120", False),
    ],
)
def test_where_nobody_compared_structures_each_new_distance_is_asked_about(
    tmp_path: Path, after: str, is_asked: bool
) -> None:
    text = USER.replace("(o != 0)", after)
    rows = found(tmp_path, text, structures=None)
    assert [row.severity for row in rows] == ([Severity.UNCHECKED] if is_asked else [])
    assert all("nobody has compared the structures" in row.text for row in rows)
    assert found(tmp_path, text, structures=None, differs=()) == []


@pytest.mark.skipif(not shutil.which("aarch64-linux-gnu-gcc"), reason="no compiler for arm64")
def test_on_arm64_every_changed_function_that_may_know_it_is_not_proved(tmp_path: Path) -> None:
    sides = []
    for text in (USER, USER.replace("p->x", "p->y")):
        (tmp_path / "file.c").write_text(HEADER % "" + text)
        command = ["aarch64-linux-gnu-gcc", "-O2", "-g", "-c", "-o", "out.o", "file.c"]
        subprocess.run(command, cwd=tmp_path, check=True)
        sides.append((tmp_path / "out.o").read_bytes())
    base = BaseMatch(image="", findings=(), is_matched=True, structures=ROWS)
    rows = [NewObject(path="user.o", new=new, baseline=sides[0]) for new in reversed(sides)]
    assert [row.subject for row in structure_findings("rebuild", base, rows)] == ["user"]


def test_numbers_of_code_are_those_added_to_pointers_and_constants() -> None:
    code = bytes.fromhex("8b8720010000 8b442408 8b05ffffffff 83c010 488b47f8 c3")
    assert numbers_in(code) == {0x120: 1, 0x10: 1, 8: 1}
