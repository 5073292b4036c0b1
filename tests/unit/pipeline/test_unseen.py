# SPDX-License-Identifier: Apache-2.0
"""What code that only the shipped image has takes from a fix is an error, or not checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests.kit.differ_inputs import compile_c
from tests.kit.tiny_tree import TinyTree
from xsplice_plugins.artefacts import BaseMatch, BaseRecord, Duty, Finding, Likeness, Severity
from xsplice_plugins.check.results import NewObject
from xsplice_plugins.errors import RefusedError
from xsplice_plugins.kbuild.tree import locate_tree
from xsplice_plugins.pipeline.unseen import check_unchanged, unseen_findings

pytestmark = pytest.mark.toolchain

LIB, USER = "xen/include/xen/lib.h", "xen/common/user.c"
MATCHED = BaseMatch(image="", findings=(), is_matched=True)
DIFFERS = replace(MATCHED, differs=("xen_extra_version (common/version.o)",))
RECORD = BaseRecord(
    name="fleet",
    key="",
    release="4.17.5",
    machine=62,
    build_id="",
    image="",
    source="",
    recipe="",
    compiler="",
    make=(),
    environment=(),
    likeness=Likeness.MATCHED,
    objects=6,
    matched=30,
    differs=(),
    absent=(),
    ambiguous=(),
    strangers=(),
)
INLINE = LIB, "a * 2", "a * 3"


@pytest.fixture
def tree(tmp_path: Path) -> TinyTree:
    return TinyTree(tmp_path / "tree")


def stranger(*paths: str) -> BaseMatch:
    """Return a match with one function that no object has."""
    return replace(MATCHED, strangers=("more",), owners=(("more", paths),))


def found(
    tree: TinyTree,
    base: BaseMatch | None,
    *edits: tuple[str, str, str],
    changed: tuple[str, ...] = ("common/user.o",),
    direct: tuple[str, ...] = (),
    readers: dict[str, list[str]] | None = None,
    objects: Sequence[NewObject] = (),
) -> list[Finding]:
    fix, built = tree.patch(*edits), locate_tree(tree.root)
    return list(unseen_findings(built, fix, base, changed, direct, readers, objects))


def test_a_header_that_changes_for_code_that_differs_is_not_checked(tree: TinyTree) -> None:
    for base in (DIFFERS, stranger("common/version.o"), stranger()):
        row = found(tree, base, INLINE)[-1]
        assert (row.severity, row.obligation) == (Severity.UNCHECKED, Duty.COMPLETE)
        assert "the fix changes `twice` of xen/include/xen/lib.h; nobody knows" in row.text
    assert "xen_extra_version (common/version.o)" in found(tree, DIFFERS, INLINE)[0].text
    absent = replace(MATCHED, absent=("gone (common/version.o)",))
    assert len(found(tree, absent, INLINE)) == 1


def test_where_nothing_is_otherwise_no_header_is_a_question(tree: TinyTree) -> None:
    assert found(tree, MATCHED, INLINE) == []
    assert found(tree, replace(DIFFERS, is_matched=False), INLINE) == []
    assert found(tree, None, INLINE) == []
    assert list(unseen_findings(None, tree.patch(INLINE), DIFFERS, ())) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("#define FILE_NAME", "void fresh(int);\nextern int new_one;\n#define FILE_NAME"),
        ("{\n    return a * 2", "{\n    /* so */\n    return a * 2"),
    ],
)
def test_what_shipped_sources_cannot_use_is_none(tree: TinyTree, old: str, new: str) -> None:
    assert found(tree, DIFFERS, (LIB, old, new)) == []
    held = replace(tree.patch((LIB, old, new)), is_line_neutral=True)
    assert list(unseen_findings(locate_tree(tree.root), held, DIFFERS, ())) == []


def test_a_macro_that_comes_is_one(tree: TinyTree) -> None:
    """A backport has its own for want of it (`#ifndef`), and takes the header's from then on."""
    edit = LIB, "#define FILE_NAME", "#define FRESH 1\n#define FILE_NAME"
    for base in (DIFFERS, stranger("common/version.o"), stranger()):
        assert (
            "the fix changes `FRESH` of xen/include/xen/lib.h" in found(tree, base, edit)[-1].text
        )
    assert found(tree, MATCHED, edit) == []
    in_source = USER, "#include", "#define FRESH 1\n#include"
    assert found(tree, DIFFERS, in_source) == []


def test_a_structure_with_more_members_is_one_where_nobody_compares_it(tree: TinyTree) -> None:
    """Where no changed object knew it, only the shipped code may read what moves."""
    more = "struct box { int lid; %sint size; };\n"
    (tree.root / LIB).write_text((tree.root / LIB).read_text() + more % "")
    edit = LIB, more % "", more % "int more; "
    code = more + "int user(struct box *b) { return b->lid + %d; }\n"
    plain = "int user(int a) { return a + %d; }\n"

    def asked(old: str, new: str, flag: str = "-g", **rows: Any) -> int:
        sides = [compile_c(tree.root, text, flag) for text in (old, new)]
        objects = [NewObject(path="common/user.o", baseline=sides[0], new=sides[1])]
        base = replace(DIFFERS, **{"otherwise": (), **rows})
        return len(found(tree, base, edit, changed=("common/user.o",), objects=objects))

    changed = code % ("", 1), code % ("int more; ", 2)
    assert asked(*changed) == 0
    assert asked(code % ("", 1), code % ("int more; ", 1)) == 1  # its code stays as it was
    assert asked(plain % 1, plain % 2) == 1
    assert asked(plain % 1, code % ("int more; ", 2)) == 1
    assert asked(*changed, flag="-g0") == 1
    assert asked(*changed, otherwise=(("struct box", "`size`", "0x4", "not there"),)) == 1
    assert asked(*changed, otherwise=None) == 1
    assert len(found(tree, replace(DIFFERS, otherwise=()), edit)) == 1


def test_a_new_name_that_the_tree_knows_already_is_one(tree: TinyTree) -> None:
    edit = LIB, "#define FILE_NAME", "void livepatch(int);\n#define FILE_NAME"
    assert "`livepatch` of xen/include/xen/lib.h" in found(tree, DIFFERS, edit)[0].text
    source = "xen/common/livepatch.c", "return 0", "return 1"  # it comes from there
    assert found(tree, DIFFERS, edit, source, changed=("common/livepatch.o",)) == []


def test_a_header_of_another_machine_is_none(tree: TinyTree) -> None:
    for folder, count in (
        ("arch/arm/include/asm", 0),
        ("arch/x86/include/asm", 1),
        ("include/public/arch-arm", 0),
        ("include/public/arch-x86", 1),
    ):
        path = f"xen/{folder}/limit.h"
        file = tree.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("#define LIMIT 3\n")
        assert len(found(tree, DIFFERS, (path, "3", "4"))) == count


def test_a_header_beside_its_sources_is_one_where_it_is_read(tree: TinyTree) -> None:
    path = "xen/arch/x86/mm/private.h"
    file = tree.root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("#define LIMIT 3\n")
    edit = path, "3", "4"
    assert found(tree, DIFFERS, edit, readers={}) == []
    near = replace(MATCHED, differs=("map (arch/x86/mm/p2m.o)",))
    for base, readers in (
        (DIFFERS, None),
        (DIFFERS, {path: ["common/other.o"]}),
        (near, {}),
        (replace(MATCHED, strangers=("more",), owners=(("more", ()),)), {}),
    ):
        assert "`LIMIT`" in found(tree, base, edit, changed=("a.o",), readers=readers)[-1].text
    assert len(found(tree, DIFFERS, INLINE, readers={})) == 1


def test_a_makefile_may_name_one_more_object_and_no_other_flags(tree: TinyTree) -> None:
    path = "xen/common/Makefile"
    (tree.root / path).write_text("obj-y += user.o\n")
    for more, count in (("obj-y += more.o", 0), ("CFLAGS-y += -O3", 1)):
        assert len(found(tree, DIFFERS, (path, "obj-y", f"{more}\nobj-y"))) == count


def test_a_stranger_of_a_changed_object_is_an_error(tree: TinyTree) -> None:
    """It may inline a static function, or read a table, that the payload brings anew."""
    edit = USER, "twice(a)", "twice(a) + 1"
    (row,) = found(tree, stranger("common/user.o"), edit)
    assert (row.severity, row.obligation) == (Severity.ERROR, Duty.BASE)
    assert "more: the hypervisor has it" in row.text
    assert "is of common/user.o, which the fix changes" in row.text


def test_one_that_may_be_of_a_changed_object_is_not_checked(tree: TinyTree) -> None:
    edit = USER, "twice(a)", "twice(a) + 1"
    for paths, words in (
        (("common/user.o", "common/version.o"), "may be of common/user.o"),
        ((), "may be of any object"),
    ):
        row = found(tree, stranger(*paths), edit)[0]
        assert (row.severity, row.obligation) == (Severity.UNCHECKED, Duty.COMPLETE)
        assert words in row.text


def test_one_of_another_object_is_none(tree: TinyTree) -> None:
    edit = USER, "twice(a)", "twice(a) + 1"
    assert found(tree, stranger("common/version.o"), edit) == []
    assert found(tree, DIFFERS, edit) == []


def test_a_touched_source_whose_object_stays_is_not_checked(tree: TinyTree) -> None:
    """What the tree's object leaves out (a static that nobody calls) the shipped one may use."""
    edit = USER, "int user", "static inline int idle(void) { return 1; }\nint user"
    base = replace(MATCHED, differs=("user (common/user.o)",))
    (row,) = found(tree, base, edit, changed=())
    assert (row.severity, row.subject) == (Severity.UNCHECKED, "common/user.o")
    assert "changes nothing in the tree's object" in row.text
    (row,) = found(tree, DIFFERS, edit, changed=(), direct=("common/version.o",))
    assert row.subject == "common/version.o"
    assert found(tree, DIFFERS, edit, changed=()) == []
    assert found(tree, base, edit) == []  # of a changed object what differs is an error elsewhere


def test_an_object_of_other_sources_counts_though_its_code_is_equal(tree: TinyTree) -> None:
    base = replace(MATCHED, inlined=("inlining of twice (common/user.o)",))
    (row,) = found(tree, base, INLINE, changed=())
    assert "`twice` of xen/include/xen/lib.h" in row.text
    assert "inlining of twice (common/user.o)" in row.text
    edit = USER, "twice(a)", "twice(a) + 1"
    (row,) = found(tree, base, edit)
    assert (row.severity, row.obligation) == (Severity.UNCHECKED, Duty.COMPLETE)
    assert "common/user.o: the fix changes it, and the shipped one was made of other" in row.text
    (row,) = found(tree, base, edit, changed=())  # a part that only the shipped one uses
    assert "the fix touches its source, and changes nothing in the tree's object" in row.text
    assert found(tree, base, edit, changed=("common/version.o",), direct=()) != []
    other = replace(MATCHED, inlined=("inlining of twice (common/version.o)",))
    assert found(tree, other, edit) == []


def test_a_source_that_an_object_includes_is_its_own_as_well(tree: TinyTree) -> None:
    edit = USER, "twice(a)", "twice(a) + 0"
    readers = {USER: ["common/user.o", "common/version.o"]}
    (row,) = found(tree, DIFFERS, edit, readers=readers)
    assert (row.severity, row.subject) == (Severity.UNCHECKED, "common/version.o")
    assert "the fix touches its source, and changes nothing in the tree's object" in row.text
    assert found(tree, DIFFERS, edit, readers={USER: ["common/user.o"]}) == []
    assert found(tree, DIFFERS, edit) == []


def test_a_source_that_only_shipped_code_is_made_of_is_not_checked(tree: TinyTree) -> None:
    edit = USER, "twice(a)", "twice(a) + 1"
    readers = {USER: ["common/user.o"]}
    differs = ("xen_extra_version (common/version.o)",)
    files = ("common/alien.c", "common/user.c")
    for base in (
        stranger(*files),
        stranger("/build/xen/common/user.c"),
        stranger("user.c"),
        stranger("common/version.o", "common/user.c"),
        replace(MATCHED, differs=differs, owners=(("xen_extra_version", ("common/user.c",)),)),
    ):
        (row,) = found(tree, base, edit, readers=readers)
        assert (row.severity, row.obligation) == (Severity.UNCHECKED, Duty.COMPLETE)
        assert "user.c: the fix touches it, and the hypervisor has " in row.text
    assert found(tree, stranger("common/alien.c", "arch/user.c"), edit, readers=readers) == []
    # What is of the one changed object is said of that.
    (row,) = found(tree, stranger("common/user.o", "common/user.c"), edit, readers=readers)
    assert "is of common/user.o, which the fix changes" in row.text


def test_a_source_that_no_object_of_the_tree_is_made_of_is_not_checked(tree: TinyTree) -> None:
    """The shipped image may have it, where something is known by its place alone."""
    edit = USER, "twice(a)", "twice(a) + 1"
    unread = "xen/common/unused.c", "return 0", "return 1"
    both = stranger("common/boot.o", "common/version.o")
    readers = {USER: ["common/user.o"]}
    (row,) = found(tree, both, edit, unread, readers=readers)
    assert (row.severity, row.subject) == (Severity.UNCHECKED, unread[0])
    assert "no object of the tree is made of it; nobody knows" in row.text
    assert found(tree, both, edit, readers=readers) == []
    for base in (MATCHED, stranger("common/version.o"), stranger("common/alien.c", "a.o", "b.o")):
        assert found(tree, base, edit, unread, readers=readers) == []
    other = "xen/arch/arm/unused.c"
    (tree.root / other).parent.mkdir(parents=True)
    (tree.root / other).write_text("int unused;\n")
    assert found(tree, both, edit, (other, "unused", "used"), readers=readers) == []


def test_what_shipped_code_is_made_of_names_its_headers(tree: TinyTree) -> None:
    path = "xen/arch/x86/mm/private.h"
    file = tree.root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("#define LIMIT 3\n")
    for owner, count in (
        ("arch/x86/mm/private.h", 1),
        ("arch/x86/mm/other.h", 0),
        ("arch/x86/mm/alien.c", 1),
        ("common/alien.c", 0),
    ):
        assert len(found(tree, stranger(owner), (path, "3", "4"), readers={})) == count


def test_a_header_that_scripts_read_counts_as_a_whole(tree: TinyTree) -> None:
    """To these a comment says something, and a new name may change what others stand for."""
    edits = ("/*A  One */", "/*A! One */"), ("/*A  One */", "/*A  One */\nROW(TWO, 2);")
    for name, count in (("cpufeatureset.h", 1), ("features.h", 0)):
        path = f"xen/include/public/arch-x86/{name}"
        file = tree.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("ROW(ONE, 1) /*A  One */\n")
        for old, new in edits:
            rows = found(tree, DIFFERS, (path, old, new))
            assert len(rows) == count
            assert all(f"what it says of {path}" in row.text for row in rows)


def test_one_name_may_be_otherwise_in_several_objects(tree: TinyTree) -> None:
    both = ("table (common/user.o)", "table (common/version.o)")
    edit = USER, "twice(a)", "twice(a) + 0"
    for rows in (both, both[::-1]):
        base = replace(MATCHED, differs=rows)
        (row,) = found(tree, base, edit, changed=())
        assert (row.severity, row.subject) == (Severity.UNCHECKED, "common/user.o")
        own = replace(base, strangers=("table",), owners=(("table", ("common/boot.o",)),))
        assert [row.subject for row in found(tree, own, edit, changed=())] == ["common/user.o"]


def settle(tree: TinyTree, likeness: Likeness, *edits: tuple[str, str, str], **rows: Any) -> None:
    """Ask about a fix that changes no object of the tree of a base."""
    record = replace(RECORD, likeness=likeness, **rows)
    check_unchanged(replace(locate_tree(tree.root), base=record), tree.patch(*edits))


def test_a_fix_that_changes_no_object_may_change_what_is_only_shipped(tree: TinyTree) -> None:
    """It must not end as "nothing needs a live patch"."""
    differs = {"differs": ("user (common/user.o)",)}
    idle = USER, "int user", "static inline int idle(void) { return 1; }\nint user"
    for edit, rows, words in (
        (INLINE, differs, "the fix changes `twice` of xen/include/xen/lib.h"),
        (INLINE, {"strangers": ("more",)}, "more (of any object)"),
        (idle, differs, "the fix touches its source, and changes nothing in the tree's object"),
        (idle, {"strangers": ("more",)}, "which has what no object has: more"),
    ):
        settle(tree, Likeness.IDENTICAL, edit, **rows)
        settle(tree, Likeness.MATCHED, edit)
        with pytest.raises(RefusedError) as caught:
            settle(tree, Likeness.MATCHED, edit, **rows)
        assert words in str(caught.value)
        assert "docs/bases.md" in str(caught.value)
    spaces = USER, "int user", "/* nothing */ int user"
    settle(tree, Likeness.MATCHED, spaces, **differs, strangers=("more",))
    settle(tree, Likeness.MATCHED, idle, differs=("xen_extra_version (common/version.o)",))


def test_a_fix_that_changes_no_object_may_change_equal_code_of_other_sources(
    tmp_path: Path,
) -> None:
    """The tree's function writes out what the shipped one calls: their bytes are equal."""
    tree = TinyTree(tmp_path / "tree", flags="-g")
    settle(tree, Likeness.MATCHED, INLINE)
    source = tree.root / USER
    source.write_text(source.read_text().replace("twice(a)", "a * 2"))
    tree.compile("common/user.c", "common/user.o")
    with pytest.raises(RefusedError, match=r"`twice` of .*inlining of twice \(common/user.o\)"):
        settle(tree, Likeness.MATCHED, INLINE)
    settle(tree, Likeness.IDENTICAL, INLINE)
    settle(tree, Likeness.MATCHED, (USER, "int user", "/* nothing */ int user"))
