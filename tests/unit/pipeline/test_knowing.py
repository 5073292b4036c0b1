# SPDX-License-Identifier: Apache-2.0
"""New code that uses a type which nobody could compare with the shipped image is not proved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests.kit.differ_inputs import compile_c
from tests.kit.tiny_tree import TinyTree
from xsplice_plugins.artefacts import BaseMatch, Duty, Finding, Severity
from xsplice_plugins.check.results import NewObject
from xsplice_plugins.kbuild.tree import locate_tree
from xsplice_plugins.pipeline.knowing import compared_in, unknown_findings

pytestmark = pytest.mark.toolchain

LIB, USER, OTHER = "xen/include/xen/lib.h", "xen/common/user.c", "xen/common/version.c"
PATH = "common/user.o"
BASE = BaseMatch(
    image="", findings=(), is_matched=True, otherwise=(), differs=("boot (common/boot.o)",)
)
PLAIN = "int user(void *p) { return p != 0; }\n"
#: By kind: what a header says, and code that uses it.
USES = {
    "struct box": ("struct box { int lid, size; };\n", "((struct box *)p)->size"),
    "union box": ("union box { int lid; long size; };\n", "((union box *)p)->size"),
    "enum kind": ("enum kind { ONE = 1, TWO };\n", "*(enum kind *)p"),
    "constant LAST": ("enum { FIRST, LAST };\n", "p != (void *)LAST"),
    "typedef box_t": ("typedef struct { int lid, size; } box_t;\n", "((box_t *)p)->size"),
}


@pytest.fixture
def tree(tmp_path: Path) -> TinyTree:
    return TinyTree(tmp_path / "tree", flags="-g")


def using(code: str) -> str:
    return PLAIN.replace("p != 0", code)


def found(
    tree: TinyTree,
    old: str | None,
    new: str,
    *edits: tuple[str, str, str],
    base: BaseMatch | None = BASE,
    flag: str = "-g",
) -> list[Finding]:
    sides = [compile_c(tree.root, text, flag) if text is not None else None for text in (old, new)]
    assert sides[1] is not None
    row = NewObject(path=PATH, baseline=sides[0], new=sides[1])
    fix = tree.patch(*(edits or ((USER, "int user", "/* so */ int user"),)))
    return list(unknown_findings(locate_tree(tree.root), fix, base, [row]))


@pytest.mark.parametrize("name", USES)
def test_a_type_that_only_the_headers_know_is_not_checked(tree: TinyTree, name: str) -> None:
    text, code = USES[name]
    (tree.root / LIB).write_text((tree.root / LIB).read_text() + text)
    (row,) = found(tree, PLAIN, text + using(code))
    assert (row.severity, row.obligation, row.subject) == (Severity.UNCHECKED, Duty.LAYOUT, PATH)
    assert "its new code uses " in row.text
    assert name in row.text
    assert len(found(tree, None, text + using(code))) == 1
    assert found(tree, PLAIN, using("p == 0")) == []
    assert found(tree, text + using(code), text + using(f"{code} + 1")) == []


@pytest.mark.parametrize("name", USES)
def test_one_that_the_fix_brings_is_no_question(tree: TinyTree, name: str) -> None:
    text, code = USES[name]
    for path, before in ((LIB, "#define FILE_NAME"), (USER, "int user")):
        assert found(tree, PLAIN, text + using(code), (path, before, text + before)) == []
    unused = tree.root / "xen/common/unused.c"  # there the names stand for something else
    unused.write_text(f"/* box, kind, ONE, TWO, LAST, FIRST, box_t */ {unused.read_text()}")
    edit = LIB, "#define FILE_NAME", f"{text}#define FILE_NAME"
    assert found(tree, PLAIN, text + using(code), edit) == []
    edit = LIB, "#define FILE_NAME", f"/* {text[:-1]} */\n#define FILE_NAME"
    assert len(found(tree, PLAIN, text + using(code), edit)) == 1


@pytest.mark.parametrize("name", USES)
def test_one_that_an_object_of_the_tree_knows_is_no_question(tree: TinyTree, name: str) -> None:
    """Then it was compared with the image; if that has another one, this is said elsewhere."""
    text, code = USES[name]
    source = tree.root / OTHER
    source.write_text(source.read_text() + text + using(code).replace("user", "more"))
    tree.build()
    assert found(tree, PLAIN, text + using(code)) == []
    left_out = replace(BASE, left_out=("common/version.o",))
    assert len(found(tree, PLAIN, text + using(code), base=left_out)) == 1


def test_a_name_that_stands_for_something_else_is_no_definition(tree: TinyTree) -> None:
    """The fix takes it from a header of the tree, and uses it beside one of its own."""
    text, code = USES["struct box"]
    (tree.root / LIB).write_text((tree.root / LIB).read_text() + text)
    for more in ("struct box;\n", "static struct box *get(struct box *b) { return b; }\n"):
        assert (
            len(found(tree, PLAIN, text + using(code), (USER, "int user", more + "int user"))) == 1
        )
    own = "struct __attribute__((packed)) box { int lid, size; };\n"
    assert found(tree, PLAIN, text + using(code), (USER, "int user", own + "int user")) == []


@pytest.mark.parametrize(
    "rows",
    [
        {"differs": ()},
        {"is_matched": False},
        {"otherwise": None},  # all new code is asked about
        {
            "otherwise": (("struct box", "`lid`", "not there", "0x0, 0x4 of `int`"),)
        },  # said elsewhere
    ],
)
def test_where_something_else_answers_it_is_no_question(
    tree: TinyTree, rows: dict[str, Any]
) -> None:
    text, code = USES["struct box"]
    (tree.root / LIB).write_text((tree.root / LIB).read_text() + text)
    assert found(tree, PLAIN, text + using(code), base=replace(BASE, **rows)) == []
    for more in ("absent", "strangers"):
        base = replace(BASE, differs=(), **{more: ("boot (common/boot.o)",)})
        assert len(found(tree, PLAIN, text + using(code), base=base)) == 1
    assert found(tree, PLAIN, text + using(code), base=None) == []
    assert list(unknown_findings(None, tree.patch((USER, "user", "use")), BASE, [])) == []


def test_what_both_sides_know_was_compared(tmp_path: Path) -> None:
    text, code = USES["struct box"]
    sides = [compile_c(tmp_path, text + using(code + more), "-g") for more in (" + 1", " + 2")]
    row = NewObject(path=PATH, baseline=sides[0], new=sides[1])
    assert "struct box" in compared_in(BASE, [row])
    assert compared_in(BASE, [replace(row, baseline=sides[1])]) == frozenset()
    assert compared_in(BASE, [replace(row, baseline=None)]) == frozenset()
    assert compared_in(replace(BASE, otherwise=None), [row]) == frozenset()
    other = replace(BASE, otherwise=(("struct box", "its size", "0x8", "0x10"),))
    assert "struct box" not in compared_in(other, [row])
