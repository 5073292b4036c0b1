# SPDX-License-Identifier: Apache-2.0
"""What an earlier payload stored, and the one in its place reads otherwise."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.kit.tiny_tree import TinyTree
from xsplice_plugins.artefacts import PatchSet
from xsplice_plugins.capture import doubts_between, doubts_of_older
from xsplice_plugins.errors import PatchError

SOURCE, HEADER = "xen/common/user.c", "xen/include/xen/lib.h"
OLD = """
#include <xen/lib.h>
void start(struct unit *u)
{
    u->flags = 0;
}
int next(struct unit *u)
{
    return 1;
}
int other(void)
{
    return 2;
}
"""
HEADER_TEXT = """struct unit { int flags; };
/* flags */
struct held {
    long a;
    /* late */
} __cacheline_aligned;
/* end */
"""
FIRST = (
    (HEADER, "/* flags */", "#define FLAG_late 4\n#define ROWS 4"),
    (HEADER, "/* late */", "bool late; char rows[ROWS];"),
    (SOURCE, "u->flags = 0;", "u->flags |= FLAG_late;"),
    (SOURCE, "return 1;", "return u->flags & FLAG_late;"),
)
CASES = {
    "same": ((SOURCE, "return 2;", "return 3;"), ""),
    "bit": ((HEADER, "FLAG_late 4", "FLAG_late 8"), "state that was made with `FLAG_late` = 4"),
    "gone": ((SOURCE, "u->flags |= FLAG_late;", "u->flags = 0;"), ""),
    "a layout of the tree": ((HEADER, "int flags;", "int more, flags;"), ""),
    "another structure of the tree": ((HEADER, "/* end */", "struct more { int a; };"), ""),
    "layout": ((HEADER, "bool late;", "bool more, late;"), "`struct held` is another"),
    "layout by a macro": ((HEADER, "ROWS 4", "ROWS 5"), "`struct held` is another"),
    "spelled otherwise": ((HEADER, "bool late;", "bool  late; /* so */"), ""),
    "comment": ((HEADER, "#define FLAG_late 4", "#define FLAG_late 4 /* so */"), ""),
}


@pytest.fixture
def tree(tmp_path: Path) -> TinyTree:
    tiny = TinyTree(tmp_path / "tree")
    (tiny.root / SOURCE).write_text(OLD)
    (tiny.root / HEADER).write_text(HEADER_TEXT)
    return tiny


def series(tree: TinyTree, edit: tuple[str, str, str]) -> tuple[PatchSet, PatchSet]:
    """Return the earlier payload's patches, and those of the one in its place."""
    first = tree.patch(*FIRST)
    texts = {p: (tree.root / p).read_text() for p in (SOURCE, HEADER)}
    for path, old, new in FIRST:
        assert old in (tree.root / path).read_text()
        (tree.root / path).write_text((tree.root / path).read_text().replace(old, new))
    second = tree.patch(edit)
    for path, text in texts.items():
        (tree.root / path).write_text(text)
    return first, replace(first, patches=(*first.patches, *second.patches))


@pytest.mark.parametrize("case", CASES)
def test_what_the_earlier_one_stored_is_read_otherwise_or_not(case: str, tree: TinyTree) -> None:
    edit, said = CASES[case]
    first, both = series(tree, edit)
    found = doubts_between(tree.root, first, both)
    assert bool(found) == bool(said), found
    assert said in " ".join(found)
    assert not doubts_between(tree.root, both, both)


def test_what_the_hypervisor_never_stored_is_no_doubt_without_the_earlier_one(
    tree: TinyTree,
) -> None:
    """So it takes both: no object of the tree itself has the flag."""
    _, both = series(tree, CASES["bit"][0])
    assert not doubts_between(tree.root, replace(both, patches=()), both)


def test_patches_that_stand_on_others_do_not_apply(tree: TinyTree) -> None:
    first, both = series(tree, CASES["bit"][0])
    with pytest.raises(PatchError):
        doubts_between(tree.root, replace(both, patches=both.patches[len(first.patches) :]), both)


def test_what_is_said_of_one_part_alone_is_not_said_again(tree: TinyTree) -> None:
    """Of objects that are older than the first payload, between two, and of each alone."""
    steps = [
        (SOURCE, "u->flags = 0;", "u->flags = 7;"),
        (SOURCE, "return 2;", "return 3;"),
        (SOURCE, "return 1;", "return u->flags & 2;"),
    ]
    text, patches = (tree.root / SOURCE).read_text(), []
    for path, old, new in steps:
        patches += tree.patch((path, old, new)).patches
        (tree.root / path).write_text((tree.root / path).read_text().replace(old, new))
    (tree.root / SOURCE).write_text(text)
    fix = replace(tree.patch(steps[0]), patches=tuple(patches))
    for counts, is_said in (([1], True), ([2], True), ([1, 2], True), ([3], False)):
        found = doubts_of_older(tree.root, fix, counts)
        assert bool(found) == is_said, (counts, found)
        assert all("`flags` is made otherwise" in text for text in found)
