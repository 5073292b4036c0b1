# SPDX-License-Identifier: Apache-2.0
"""A fix that changes first values is written again, so that hooks set them and put them back."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.kit.tiny_tree import TinyTree
from xsplice_plugins import cli
from xsplice_plugins.elf.types import EM_AARCH64
from xsplice_plugins.errors import CaptureError, ConfigError, RefusedError
from xsplice_plugins.kbuild.tree import locate_tree
from xsplice_plugins.patch import patched_files
from xsplice_plugins.shadow import Rewritten, value_fix

pytestmark = pytest.mark.toolchain

FILE, HEADERS = "xen/common/user.c", "xen/include/xen"
HOOKS = """\
#pragma once
#define LIVEPATCH_LOAD_HOOK(f) void (*load_##f)(void) = f
#define LIVEPATCH_UNLOAD_HOOK(f) void (*unload_##f)(void) = f
"""
STRING = "#pragma once\nvoid *memcpy(void *, const void *, unsigned long);\n"
USER = """\
#include <xen/lib.h>
struct ops { const char *name; int (*ask)(int n); int (*tell)(int n); unsigned bits : 3; };
static int gone(int n) { return n; }
static int kept(int n) { return n + 1; }
static const struct ops table = {
    .name = "one",
    .ask = gone,
    .tell = kept,
    .bits = 1,
};
static int limit = 4;
int sizes[2] = { 1, 2 };
const struct ops *user_table(void) { return &table; }
int user(int n) { static int inner = 1; return twice(n) + limit + sizes[n & 1] + inner; }
"""
INLINED = """static int go(const struct ops *o, int n) { return o->ask(n); }
int user_asks(int n) { return go(&table, n); }
"""
GONE = "static int gone(int n) { return n; }\n"
NEW = "static int fresh(int n) { return n - 1; }\n"
TABLE = (FILE, GONE, NEW), (FILE, ".ask = gone", ".ask = fresh")


@pytest.fixture
def tree(tmp_path: Path) -> TinyTree:
    tiny = TinyTree(tmp_path / "tree", flags="-Wall -Werror")
    (tiny.root / HEADERS / "livepatch_payload.h").write_text(HOOKS)
    (tiny.root / HEADERS / "string.h").write_text(STRING)
    (tiny.root / FILE).write_text(USER)
    with (tiny.root / "xen/common/version.c").open("a") as file:
        file.write("void *memcpy(void *a, const void *b, unsigned long n) { return n ? a : 0; }\n")
    tiny.build()
    return tiny


def made(tree: TinyTree, *edits: tuple[str, str, str], names: str) -> tuple[Rewritten, str]:
    """Write a fix of some edits again; return it, and the file as it is with it."""
    done = value_fix(locate_tree(tree.root), tree.patch(*edits), names.split())
    files = patched_files(tree.patch_text(done.text), tree.root)
    return done, (files[FILE] or b"").decode()


def hooks_of(text: str) -> str:
    return text[text.index("/* The variables are in memory already") :]


def test_what_changes_of_a_table_is_set_and_put_back(tree: TinyTree) -> None:
    before = {path: path.read_bytes() for path in tree.root.rglob("*") if path.is_file()}
    done, text = made(tree, *TABLE, names="table")
    assert (
        USER[USER.index("static const struct ops table") : USER.index("static int limit")] in text
    )
    assert text.index(NEW) < text.index(GONE.strip()) < text.index("static const struct ops table")
    hooks = hooks_of(text)
    assert "static const typeof(table.ask) xsplice_value_0 = fresh;\n" in hooks
    assert hooks.count("xsplice_read(xsplice_before_0, &table.ask,") == 1
    assert hooks.count("memcpy((void *)&table.ask, &xsplice_value_0,") == 1
    assert hooks.count("memcpy((void *)&table.ask, xsplice_before_0,") == 1
    assert "table.tell" not in hooks
    assert done.notes == (
        f"`table.ask`: set when the payload is applied, put back when it is reverted ({FILE})",
        "LOOK: what Xen made of `table` before (copies, a device's registers) stays",
    )
    assert {path: path.read_bytes() for path in before} == before, "the tree is not touched"


def test_each_value_that_a_fix_changes_is_set(tree: TinyTree) -> None:
    edits = (
        (FILE, "    .tell = kept,\n", ""),
        (FILE, '"one"', '"two"'),
        (FILE, "limit = 4", "limit = 5"),
        (FILE, "static int kept(int n) { return n + 1; }\n", ""),
    )
    done, text = made(tree, *edits, names="table limit")
    hooks = hooks_of(text)
    assert 'xsplice_value_0 = "two";' in hooks
    assert "static const typeof(table.tell) xsplice_value_1;" in hooks, "all zero"
    assert "static const typeof(limit) xsplice_value_2 = 5;" in hooks
    assert "static int limit = 4;\n" in text
    looks = [note for note in done.notes if "if Xen itself writes" in note]
    assert [note.split("`")[1] for note in looks] == ["limit"], "a constant is not written"


@pytest.mark.parametrize(
    ("edit", "names", "error", "words"),
    [
        (("limit = 4", "limit = 5"), "table", RefusedError, "in no C file"),
        (("limit = 4", "limit =  4 /* so */"), "limit", RefusedError, "in no C file"),
        (("{ 1, 2 }", "{ 1, 3 }"), "sizes", RefusedError, "given by order"),
        ((".ask = gone,", ".ask = kept, .ask2 = 0,"), "table", CaptureError, "ask2"),
        (("inner = 1", "inner = 2"), "inner", RefusedError, "not within a function"),
        (("limit = 4", "limit = 5"), "limit+1", ConfigError, "no name of a variable"),
        ((".bits = 1", ".bits = 2"), "table", CaptureError, "bit-field"),
    ],
)
def test_what_no_hook_can_set_is_refused(
    tree: TinyTree, edit: tuple[str, str], names: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        made(tree, (FILE, *edit), names=names)


def test_only_where_hooks_may_write_what_is_read_only(tree: TinyTree) -> None:
    arm = replace(locate_tree(tree.root), machine=EM_AARCH64)
    with pytest.raises(RefusedError, match="only on x86_64"):
        value_fix(arm, tree.patch(*TABLE), ["table"])


def test_the_command_writes_a_patch_that_builds(
    tree: TinyTree, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree.patch(*TABLE)
    out = tmp_path / "new.patch"
    words = ["values", str(tmp_path / "fix.patch"), "--xen", str(tree.root)]
    assert cli.main([*words, "--variable", "table", "--out", str(out)]) == 0
    assert capsys.readouterr().out.endswith(f"written to {out}\n")
    assert cli.main([*words, "--variable", "none", "--out", str(tmp_path / "no.patch")]) == 4
    assert not (tmp_path / "no.patch").exists()
    subprocess.run(["patch", "-p1", "-i", out], cwd=tree.root, check=True, stdout=subprocess.PIPE)
    tree.build()


def test_a_constant_that_is_given_by_order_is_set_as_a_whole(tree: TinyTree) -> None:
    source = tree.root / FILE
    source.write_text(source.read_text().replace("int sizes", "const int sizes"))
    tree.build()
    _, text = made(tree, (FILE, "{ 1, 2 }", "{ 1, 3 }"), names="sizes")
    assert "static const typeof(sizes) xsplice_value_0 = { 1, 3 };" in hooks_of(text)


@pytest.mark.parametrize(
    ("reads", "is_read"),
    [
        ("const struct ops *user_table(void) { return &table; }", False),
        ("int user_asks(int n) { return table.ask(n); }", True),
        (INLINED, True),
        ("const char *user_name(void) { return table.name; }", False),
    ],
)  # fmt: skip
def test_code_that_has_the_value_in_itself_is_refused(
    tree: TinyTree, reads: str, *, is_read: bool
) -> None:
    """It would go on with the old one: it does not change with the fix written so."""
    source = tree.root / FILE
    known = "const struct ops *user_table(void) { return &table; }"
    source.write_text(
        source.read_text().replace(known, f"{known}\n{reads}".replace(f"{known}\n{known}", known))
    )
    tree.build()
    if is_read:
        with pytest.raises(RefusedError, match="puts the value into user_asks"):
            made(tree, *TABLE, names="table")
    else:
        made(tree, *TABLE, names="table")


def test_lines_do_not_count(tree: TinyTree) -> None:
    source = tree.root / FILE
    source.write_text(source.read_text() + "int user_line(void) { return __LINE__; }\n")
    tree.build()
    _, text = made(tree, *TABLE, (FILE, ".tell = kept,", ".tell = kept,\n\n\n"), names="table")
    assert "xsplice_value_0 = fresh;" in hooks_of(text)


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ("{ [0x0] = 1 }", "{ [0] = 2 }"),
        ("{ [1] = 1 }", "{ [ONE] = 1 }"),
        ("{ [ONE] = 1 }", "{ [0] = 2, [1] = 1 }"),
    ],
)
def test_one_place_by_two_names_is_refused(tree: TinyTree, was: str, now: str) -> None:
    source = tree.root / FILE
    source.write_text(
        source.read_text().replace(
            "int sizes[2] = { 1, 2 }", f"enum {{ ONE = 1 }};\nint sizes[2] = {was}"
        )
    )
    tree.build()
    with pytest.raises(RefusedError, match="may be one place"):
        made(tree, (FILE, f"sizes[2] = {was}", f"sizes[2] = {now}"), names="sizes")


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ("{ [1] = { 1, 2 } }", "{ [1] = { .a = 1, .b = 3 } }"),
        ("{ [1] = INIT, [1].b = 2 }", "{ [1] = OTHER, [1].b = 2 }"),
        ("{ [ONE].a = 1 }", "{ [1].a = 2 }"),
    ],
)
def test_a_part_of_another_place_is_refused(tree: TinyTree, was: str, now: str) -> None:
    source = tree.root / FILE
    pair = "struct pair { int a, b; };\n#define INIT { .a = 1 }\n#define OTHER { .a = 2 }\n"
    source.write_text(source.read_text() + f"{pair}struct pair pairs[2] = {was};\n")
    fix = tree.patch((FILE, f"pairs[2] = {was}", f"pairs[2] = {now}"))
    with pytest.raises(RefusedError, match="may be one place"):
        value_fix(locate_tree(tree.root), fix, ["pairs"])


def test_a_table_that_the_compiler_makes_of_the_value_is_refused(tree: TinyTree) -> None:
    source = tree.root / FILE
    cases = "".join(f"    case {n}: return masks[{n & 1}] | {n * 77};\n" for n in range(8))
    text = "static const unsigned int masks[2] = { [0] = 0x711, [1] = 5 };\n"
    text += "const unsigned int *user_masks(void) { return masks; }\n"
    text += f"unsigned int user_mask(int n)\n{{\n    switch ( n )\n    {{\n{cases}    }}\n"
    text += "    return 0;\n}\n"
    source.write_text(source.read_text() + text)
    tree.build()
    with pytest.raises(RefusedError, match=r"puts the value into .*rodata"):
        made(tree, (FILE, "[0] = 0x711", "[0] = 0x310"), names="masks")


def test_other_data_of_its_section_counts_and_it_does_not(tree: TinyTree) -> None:
    source = tree.root / FILE
    mostly = '__attribute__((section(".data.read_mostly")))'
    text = f"int {mostly} rarely = 4;\nint {mostly} beside = 7;\n"
    source.write_text(source.read_text() + text)
    tree.build()
    _, text = made(tree, (FILE, "rarely = 4", "rarely = 5"), names="rarely")
    assert "xsplice_value_0 = 5;" in hooks_of(text)


@pytest.mark.parametrize(
    ("front", "value", "behind", "is_refused"),
    [
        ("#define UNIT 5\n", "UNIT", "#undef UNIT\n#define UNIT 6\n", True),
        ("#define UNIT 5\n#define TWO (UNIT + \\\n 1)\n", "TWO", "#undef UNIT\n", True),
        ("#define UNIT 5\n", "UNIT", "#define OTHER 6\n", False),
        ("#define UNIT 5\n", "7", "#undef UNIT\n", False),
    ],
)
def test_a_macro_that_means_something_else_at_the_end_is_refused(
    tree: TinyTree, front: str, value: str, behind: str, is_refused: bool
) -> None:
    edit = (FILE, "static int limit = 4;\n", f"{front}static int limit = {value};\n{behind}")
    if is_refused:
        with pytest.raises(RefusedError, match="means something else behind `limit`"):
            made(tree, edit, names="limit")
    else:
        assert f"xsplice_value_0 = {value};" in made(tree, edit, names="limit")[1]
