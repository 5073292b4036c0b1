# SPDX-License-Identifier: Apache-2.0
"""Where objects of a structure are made, by its name."""

from pathlib import Path

import pytest

from tests.kit.tiny_tree import TinyTree
from xsplice_plugins.artefacts import CompileJob
from xsplice_plugins.capture.instances import defined_at, made_at, shown_sites

MADE = """
struct item; typedef struct item item_t;
static struct item one;
struct item *new_item(void) { return xzalloc(struct item); }
struct item **table(void) { return xmalloc_array(struct item *, 4); }
void use(struct item *i, struct items *other) { alloc_items(i); struct item local; f(&local); }
item_t *other(void) { return _xmalloc(sizeof(item_t), 8); }
struct item *alloc_item(void);
"""


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("struct item", ["3 (variable `one`)", "4 (`xzalloc`)", "8 (`alloc_item`)"]),
        ("typedef item_t", ["7 (`_xmalloc`)"]),
        ("struct none", []),
    ],
)
def test_what_makes_objects_is_named(name: str, lines: list[str], tmp_path: Path) -> None:
    tree = TinyTree(tmp_path / "tree")
    (tree.root / "xen/common/made.c").write_text(MADE)
    job = CompileJob(object_path="common/made.o", source_path="common/made.c", command="cc",
                     cwd="xen", output="made.o", inputs=("xen/common/made.c",))  # fmt: skip
    found = made_at(job, tree.root, name)
    assert [row.partition(":")[2] for row in found] == lines
    assert bool(lines) == ("made at" in shown_sites(found))


def test_many_places_are_counted() -> None:
    text = shown_sites(tuple(f"a.c:{n} (`xzalloc`)" for n in range(8)))
    assert text.endswith("a.c:4 (`xzalloc`) and 3 more")


@pytest.mark.parametrize(
    ("source", "name", "place", "sites"),
    [
        ("a.c", "struct box", "xen/common/a.c:2", ["xen/common/a.c:3"]),
        ("b.c", "struct box", "xen/common/b.c:1", ["xen/common/b.c:2"]),
        ("c.c", "struct box", "xen/include/xen/box.h:1",
         ["xen/common/a.c:3", "xen/common/b.c:2", "xen/common/c.c:2"]),
        ("a.c", "typedef box_t", "xen/common/a.c:4", []),
        ("a.c", "struct none", "", []),
    ],
)  # fmt: skip
def test_a_structure_is_that_of_the_file_that_uses_it(
    source: str, name: str, place: str, sites: list[str], tmp_path: Path
) -> None:
    tree = TinyTree(tmp_path / "tree")
    for path, text in (
        (
            "common/a.c",
            "\nstruct box { int a; };\nstruct box one;\ntypedef struct { int b; } box_t;\n",
        ),
        ("common/b.c", "struct box { long a; };\nstruct box two;\n"),
        ("common/c.c", "#include <xen/box.h>\nstruct box three;\n"),
        ("include/xen/box.h", "struct box { char a; };\n"),
    ):
        (tree.root / "xen" / path).write_text(text)
    inputs = (f"xen/common/{source}", *(("xen/include/xen/box.h",) if source == "c.c" else ()))
    job = CompileJob(object_path="o", source_path=f"common/{source}", command="cc",
                     cwd="xen", output="o", inputs=inputs)  # fmt: skip
    assert defined_at(job, tree.root, name) == place
    assert [row.partition(" ")[0] for row in made_at(job, tree.root, name)] == sites
