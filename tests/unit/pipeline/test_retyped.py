# SPDX-License-Identifier: Apache-2.0
"""New code that may use a structure which the shipped image has otherwise is not proved."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.kit.differ_inputs import compile_c
from xsplice_plugins.artefacts import BaseMatch, Duty, Finding, Retyped, Severity
from xsplice_plugins.artefacts.files import SCHEMA, from_json
from xsplice_plugins.check.results import NewObject
from xsplice_plugins.elf.reader import ElfFile, read_elf
from xsplice_plugins.elf.retyped import retyped
from xsplice_plugins.pipeline import checking
from xsplice_plugins.pipeline.retyped import retyped_findings
from xsplice_plugins.pipeline.run import Run
from xsplice_plugins.plugins.manager import build_plugin_manager
from xsplice_plugins.plugins.spec import Config

pytestmark = pytest.mark.toolchain

HEADER = """struct inner { long a; %s int b; };
struct plain { int x, y; };
struct outer { char pad[256]; struct inner in[2]; int flags; };
extern struct outer the_outer;
"""
#: What runs, in two files.
OTHER = "int other(struct outer *o) { return o->flags; }\n"
USER = "int user(void *o, struct plain *p) { return p->x + (o != 0); }\n"
MOVED: Retyped = (
    ("struct inner", "`b`", "0x8, 0x4 of `int`", "0x10, 0x4 of `int`"),
    ("struct outer", "`in`", *(f"0x100, {size} of `struct inner[2]`" for size in ("0x20", "0x30"))),
)


def image_of(folder: Path, member: str, flag: str = "-g", name: str = "{}.c") -> ElfFile:
    """Link both files against a header with one more member."""
    for stem, text in (("other", OTHER), ("user", USER)):
        data = compile_c(folder, HEADER % member + text, flag, name=name.format(stem))
        (folder / f"{stem}.o").write_bytes(data)
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


def moved(folder: Path, member: str, flag: str = "-g", name: str = "{}.c") -> Retyped:
    """Compare both."""
    return retyped(objects_of(folder), image_of(folder, member, flag, name))


def test_a_member_more_moves_what_comes_behind_and_what_holds_it(tmp_path: Path) -> None:
    assert moved(tmp_path, "long more;") == MOVED


def test_equal_structures_are_not_moved(tmp_path: Path) -> None:
    assert moved(tmp_path, "") == ()


def test_an_image_whose_files_go_by_other_names_is_compared_all_the_same(tmp_path: Path) -> None:
    assert moved(tmp_path, "long more;", name="away_{}.c") == MOVED
    assert moved(tmp_path, "", name="away_{}.c") == ()


def test_a_structure_that_one_side_alone_knows_was_not_compared(tmp_path: Path) -> None:
    rows = moved(tmp_path, "", "-g0")
    structures = {"struct inner", "struct outer", "struct plain"}
    assert {row[0] for row in rows} == {"function other", "function user", *structures}
    assert {row[3] for row in rows} == {"not there"}
    rows = retyped(objects_of(tmp_path)[1:], image_of(tmp_path, ""))
    assert [(row[0], row[2]) for row in rows] == [
        ("function other", "not there"),
        ("struct inner", "not there"),
        ("struct outer", "not there"),
    ]


TABLE = "extern %s *table; int use(int i) { return table[i]; }\n"
CALLS = "struct ops { int (*get)(%s); }; int use(struct ops *ops) { return ops->get(1); }\n"
KEPT = "static %s kept = 1; int *use(void) { return (int *)&kept; }\n"
STATE = "enum state { READY = 1, BUSY = %s }; enum state use(int i) { return i ? BUSY : READY; }\n"
NESTED = "void (*use(void))(void (*)(%s), ...) { return 0; } void (*all)(void (*)(%s), ...) = 0;\n"


@pytest.mark.parametrize(
    ("text", "ours", "theirs", "row"),
    [
        (TABLE, "short", "int", ("variable table", "its type", "`8 *short int`", "`8 *int`")),
        (
            CALLS,
            "int",
            "long",
            (
                "struct ops",
                "`get`",
                "0x0, 0x8 of `*4 int (4 int)`",
                "0x0, 0x8 of `*4 int (8 long int)`",
            ),
        ),
        (KEPT, "int", "unsigned", ("static kept", "its type", "`4 int`", "`4 unsigned int`")),
        (STATE, "3", "-5", ("constant BUSY", "its value", "3", "-5")),
        (
            "int use(%s) { return 1; }",
            "int a, long b",
            "long b, int a",
            (
                "function use",
                "its type",
                "`4 int (4 int a, 8 long int b)`",
                "`4 int (8 long int b, 4 int a)`",
            ),
        ),
        (
            "int use(long %s) { return 1; }",
            "a, long b",
            "b, long a",
            (
                "function use",
                "its type",
                "`4 int (8 long int a, 8 long int b)`",
                "`4 int (8 long int b, 8 long int a)`",
            ),
        ),
        (
            "int use(void *p) { struct { %s a; int b; } *x = p; return put(1, 2) + x->b; }",
            "int",
            "long",
            (
                "variable x in use",
                "its type",
                "`8 *{8 a@0+32:int b@32+32:int}`",
                "`8 *{16 a@0+64:long int b@64+32:int}`",
            ),
        ),
        (
            "int work(%s *); int use(void) { int a[2]; return work((void *)a) + a[0]; }",
            "int",
            "long",
            ("function work", "its type", "`4 int (8 *int)`", "`4 int (8 *long int)`"),
        ),
        (
            "typedef %s word; word use(word a) { return a; }",
            "int",
            "long",
            ("typedef word", "its type", "`4 int`", "`8 long int`"),
        ),
        (
            "extern %s int flag; int use(void) { return flag; }",
            "",
            "volatile",
            ("variable flag", "its type", "`4 int`", "`4 volatile int`"),
        ),
        (
            "int use(%s int *p) { return *p; }",
            "",
            "const volatile",
            ("function use", "its type", "`4 int (8 *int p)`", "`4 int (8 *const volatile int p)`"),
        ),
        (
            "void fill(void *); void use(void) { static %s kept[4]; fill(kept); }",
            "short",
            "int",
            ("variable kept in use", "its type", "`8 short int[4]`", "`16 int[4]`"),
        ),
        (
            "int q(void *); int use(void) { struct in { %s a; int b; } x; return q(&x) + x.b; }",
            "int",
            "long",
            ("struct in in use", "`a`", "0x0, 0x4 of `int`", "0x0, 0x8 of `long int`"),
        ),
    ],
)
def test_more_than_structures_is_compared(
    tmp_path: Path, text: str, ours: str, theirs: str, row: tuple[str, ...]
) -> None:
    def compiled(kind: str, name: str) -> ElfFile:
        return read_elf(compile_c(tmp_path, text % kind, "-g", name=f"{name}.c"), name)

    assert row in retyped([compiled(ours, "a")], compiled(theirs, "b"))
    assert retyped([compiled(ours, "a")], compiled(ours, "b")) == ()


def test_what_a_function_takes_that_a_function_takes_is_compared(tmp_path: Path) -> None:
    def compiled(kind: str) -> ElfFile:
        return read_elf(compile_c(tmp_path, NESTED.replace("%s", kind), "-g"), "a")

    rows = retyped([compiled("int")], compiled("long"))
    assert rows[1] == (
        "variable all",
        "its type",
        "`8 *0 void (8 *0 void (4 int), ...)`",
        "`8 *0 void (8 *0 void (8 long int), ...)`",
    )
    assert [row[0] for row in rows] == ["function use", "variable all"]


def test_statics_of_one_name_are_compared_together(tmp_path: Path) -> None:
    """Nobody knows whose is whose: one of them may have got the other one's type."""
    ours, theirs = (
        read_elf(compile_c(tmp_path, KEPT % kind, "-g", name=f"{kind}.c"), kind)
        for kind in ("int", "long")
    )
    image = tmp_path / "image"
    for stem, file in (("a", ours), ("b", theirs)):
        (tmp_path / f"{stem}.o").write_bytes(file.data)
    words = ["ld", "-z", "muldefs", "-e", "0", "-o", str(image), "a.o", "b.o"]
    subprocess.run(words, cwd=tmp_path, check=True)
    both = read_elf(image.read_bytes(), "image")
    assert retyped([ours, theirs], both) == ()
    assert [row[0] for row in retyped([ours], both)] == ["static kept"]
    assert [row[0] for row in retyped([ours, theirs], ours)] == ["static kept"]


@pytest.mark.parametrize(
    ("text", "ours", "theirs"),
    [(TABLE, "short", "int"), (CALLS, "int", "long"), (STATE, "3", "5")],
)
def test_new_code_that_uses_what_has_another_type_is_not_proved(
    tmp_path: Path, text: str, ours: str, theirs: str
) -> None:
    types = retyped(
        [read_elf(compile_c(tmp_path, text % ours, "-g"), "a")],
        read_elf(compile_c(tmp_path, text % theirs, "-g"), "b"),
    )
    (row,) = found(tmp_path, USER.replace("!= 0", "== 0") + text % ours, types=types)
    assert row.severity is Severity.UNCHECKED
    assert f"may use {types[0][0]}, which is otherwise in the shipped image: " in row.text
    assert found(tmp_path, USER.replace("!= 0", "== 0"), types=types) == []


def found(
    folder: Path,
    text: str,
    *,
    old: str | None = USER,
    types: Retyped | None = MOVED,
    flag: str = "-g",
    differs: tuple[str, ...] = ("other (common/other.o)",),
) -> list[Finding]:
    """Say what is found about a file with another text."""
    new, baseline = (
        compile_c(folder, HEADER % "" + side, flag) if side is not None else None
        for side in (text, old)
    )
    assert new is not None
    row = NewObject(path="common/user.o", new=new, baseline=baseline)
    base = BaseMatch(image="", findings=(), is_matched=True, otherwise=types, differs=differs)
    return list(retyped_findings("rebuild", base, [row]))


CAST = "((struct outer *)o)"
LOCAL = "({ struct inner i; fill(&i); i.b; })"
MEMBER = "((struct outer *)((char *)o - __builtin_offsetof(struct outer, flags)))->in[0].b"
USES = [f"{CAST}->flags", f"{CAST}->in[0].b", f"{CAST}->pad[0]", "the_outer.flags", LOCAL, MEMBER]
STATIC = "static struct inner one; void fill(void *);\n"


@pytest.mark.parametrize("after", [*USES, "one.b"])
def test_a_new_use_of_what_moved_is_not_proved(tmp_path: Path, after: str) -> None:
    (row,) = found(tmp_path, STATIC + USER.replace("(o != 0)", after), old=STATIC + USER)
    assert (row.severity, row.subject) == (Severity.UNCHECKED, "common/user.o")
    assert row.obligation == Duty.LAYOUT
    assert "common/user.o: its new code may use struct inner" in row.text
    assert "`b` is 0x8, 0x4 of `int` by the headers, and 0x10, 0x4 of `int` there" in row.text


@pytest.mark.parametrize("after", ["(o == 0)", "p->y", "(o == 0) + 0x120"])
def test_new_code_that_knows_nothing_of_it_is_no_question(tmp_path: Path, after: str) -> None:
    assert found(tmp_path, USER.replace("(o != 0)", after)) == []


def test_an_object_that_knows_it_is_a_question_only_if_its_code_changes(tmp_path: Path) -> None:
    old = USER + OTHER
    assert found(tmp_path, old, old=old) == []
    assert len(found(tmp_path, old.replace("p->x", "p->y"), old=old)) == 1


def test_an_object_in_which_only_lines_moved_is_no_question(tmp_path: Path) -> None:
    old, new = (
        compile_c(tmp_path, HEADER % "" + USER.replace("!= 0", f"!= 0) + ({line}") + OTHER, "-g")
        for line in (1, 2)
    )
    base = BaseMatch(image="", findings=(), is_matched=True, otherwise=MOVED)
    for neutral, count in ((old, 0), (None, 1)):
        row = NewObject(path="user.o", new=new, baseline=old, neutral=neutral)
        assert len(list(retyped_findings("rebuild", base, [row]))) == count


def test_a_match_of_an_earlier_version_has_compared_nothing() -> None:
    text = b'{"schema":%d,"image":"","findings":[],"retyped":[["struct s","`a`","0x0","0x8"]]}'
    assert from_json(text % SCHEMA, BaseMatch, "base.json").otherwise is None


def test_where_all_is_new_everything_that_it_knows_is_a_question(tmp_path: Path) -> None:
    assert len(found(tmp_path, OTHER, old=None)) == 1
    assert found(tmp_path, USER, old=None) == []


def test_without_debug_information_of_the_object_new_code_is_a_question(tmp_path: Path) -> None:
    text = USER.replace("(o != 0)", "o == 0")
    (row,) = found(tmp_path, text, flag="-g0")
    assert "nobody has compared the types" in row.text
    assert found(tmp_path, USER, flag="-g0") == []
    assert found(tmp_path, text, flag="-g0", types=()) == []


def test_where_nobody_compared_structures_all_new_code_is_a_question(tmp_path: Path) -> None:
    text = USER.replace("(o != 0)", "o == 0")
    (row,) = found(tmp_path, text, types=None)
    assert "nobody has compared the types" in row.text
    assert found(tmp_path, USER, types=None) == []
    assert found(tmp_path, text, types=None, differs=()) == []


@pytest.mark.skipif(not shutil.which("clang"), reason="no clang")
def test_clang_does_not_name_all_that_its_code_uses(tmp_path: Path) -> None:
    sides = []
    for text in (USER, USER.replace("(o != 0)", "the_outer.flags")):
        (tmp_path / "file.c").write_text(HEADER % "" + text)
        command = ["clang", "-O2", "-g", "-c", "-o", "out.o", "file.c"]
        subprocess.run(command, cwd=tmp_path, check=True)
        sides.append((tmp_path / "out.o").read_bytes())
    row = NewObject(path="user.o", new=sides[1], baseline=sides[0])
    base = BaseMatch(image="", findings=(), is_matched=True, otherwise=MOVED)
    (finding,) = retyped_findings("rebuild", base, [row])
    assert "nobody has compared the types" in finding.text
    base = BaseMatch(image="", findings=(), is_matched=True, otherwise=())
    assert list(retyped_findings("rebuild", base, [row])) == []


def test_a_hand_written_file_is_asked_about_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*_: object) -> tuple[()]:
        return ()

    monkeypatch.setattr(checking, "_needs", nothing)
    monkeypatch.setattr(checking, "settled", lambda run, _: run)
    base = BaseMatch(image="", findings=(), is_matched=True, otherwise=MOVED)

    def asked(text: str) -> list[str]:
        data = compile_c(tmp_path, HEADER % "" + text, "-g")
        row = NewObject(path="hand.o", new=data)
        run = Run(config=Config(), plugins=build_plugin_manager(environ={}))
        found = checking.check_rebuild(run, "f", data, b"", [], [], base=base, handmade=[row])
        return [row.subject for row in found.findings if row.severity is Severity.UNCHECKED]

    assert asked(OTHER) == ["hand.o"]
    assert asked(USER) == []


ROWS: Retyped = (("common/user.o", "how it is compiled", "nothing more", "-funsigned-char"),)


def test_an_object_that_was_compiled_otherwise_is_a_question_if_its_code_changes(
    tmp_path: Path,
) -> None:
    (row,) = found(tmp_path, USER.replace("(o != 0)", "(o == 0)"), types=ROWS)
    assert row.obligation == Duty.LAYOUT
    assert "the tree's has nothing more and the shipped one -funsigned-char" in row.text
    assert found(tmp_path, USER, types=ROWS) == []
    other = (("common/other.o", *ROWS[0][1:]),)
    assert found(tmp_path, USER.replace("(o != 0)", "(o == 0)"), types=other) == []


def test_debug_information_without_types_compares_nothing(tmp_path: Path) -> None:
    text = USER.replace("(o != 0)", "(o == 0)")
    (row,) = found(tmp_path, text, flag="-g1")
    assert "nobody has compared the types" in row.text
