# SPDX-License-Identifier: Apache-2.0
"""A base by name stands where a tree can stand, on every face that takes one."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.faces.kit import GOOD, Face, with_xsplice, written
from tests.kit.tiny_make import add_makefile
from tests.kit.tiny_tree import TinyTree
from xsplice_plugins.artefacts import BASE_FILE, BaseRecord, Likeness, save
from xsplice_plugins.bases import adding, store
from xsplice_plugins.bases.adding import Order, add_base

VERSION = "xen/common/version.c"
OLD = "const char *xen_extra_version(void)\n{\n"

pytestmark = [pytest.mark.scons, pytest.mark.toolchain]


@pytest.fixture
def fleet(tree: TinyTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BaseRecord:
    """Make a base of the tree."""
    monkeypatch.setenv("XSPLICE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(adding, "_PROGRAMS", {})
    monkeypatch.setattr(adding, "_FILES", {})
    source = Path(shutil.copytree(tree.root, tmp_path / "source", symlinks=True))
    (source / "xen" / "xen").unlink()
    own = TinyTree.__new__(TinyTree)
    own.root = source
    add_makefile(own)
    return add_base(Order(name="fleet", source=source))


def test_a_bases_name_is_taken_for_its_tree(
    face: Face, tree: TinyTree, tmp_path: Path, fleet: BaseRecord
) -> None:
    patch = written(tree, tmp_path, *GOOD)
    ended = face("xsplice", tmp_path, XEN="base:fleet", PATCH=patch)
    assert ended.status == 0, ended.text
    [made] = {path.read_text() for path in tmp_path.rglob("fix.payload.json")}
    assert json.loads(made)["xen_depends"] == fleet.build_id
    ended = face("xsplice", tmp_path, XEN="base:none", PATCH=patch)
    assert (ended.status, "there is none; known: fleet" in ended.text) == (2, True), ended.text


COMPILER = """#!/bin/sh
exec 9>{log}.lock
flock 9
flock --nonblock --exclusive {record} true && echo free >>{log} || echo held >>{log}
exec 9>&-
exec {compiler} "$@"
"""


@pytest.mark.parametrize("named", ["base:fleet", "its path", "a copy"])
def test_a_base_is_held_while_a_run_compiles(
    face: Face,
    tree: TinyTree,
    tmp_path: Path,
    fleet: BaseRecord,
    monkeypatch: pytest.MonkeyPatch,
    named: str,
) -> None:
    """The compiler itself asks whether somebody could take the base away."""
    place = store.tree_of("base:fleet")
    log, folder = tmp_path / "log", tmp_path / "bin"
    folder.mkdir()
    text = COMPILER.format(record=place.parent / BASE_FILE, log=log, compiler=shutil.which(tree.cc))
    (folder / tree.cc).write_text(text)
    (folder / tree.cc).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    xen: object = {"its path": place, "a copy": tmp_path / "copy"}.get(named, named)
    if named == "a copy":
        shutil.copytree(place, tmp_path / "copy", symlinks=True)
    patch = written(tree, tmp_path, *GOOD)
    ended = face("xsplice-verify", tmp_path, XEN=xen, PATCH=patch, SIGNER="none")
    assert ended.status == 0, ended.text
    assert set(log.read_text().split()) == {"free" if named == "a copy" else "held"}
    assert fleet == store.load_base("fleet")


def test_a_verdict_ends_with_the_record_of_its_base(
    face: Face, tree: TinyTree, tmp_path: Path, fleet: BaseRecord
) -> None:
    """A base that was added again under its name may compare otherwise with its image."""
    patch = written(tree, tmp_path, *GOOD)
    given = {"XEN": "base:fleet", "PATCH": patch, "SIGNER": "none"}
    assert face("xsplice-verify", tmp_path, **given).status == 0
    place = store.tree_of("base:fleet").parent / BASE_FILE
    moved = ("struct gone", "its size", "0x8", "0x10")
    other = replace(fleet, likeness=Likeness.MATCHED, otherwise=(moved,))
    save(place, other)
    ended = face("xsplice-verify", tmp_path, **given)
    assert ended.status == 5, ended.text
    assert "nobody has compared the types" in " ".join(ended.text.split())
    save(place, fleet)
    assert face("xsplice-verify", tmp_path, **given).status == 0


def test_a_fix_that_changes_no_object_is_refused_where_shipped_code_may_take_it(
    face: Face, tree: TinyTree, tmp_path: Path, fleet: BaseRecord
) -> None:
    edit = "xen/common/user.c", "int user", "static inline int idle(void) { return 1; }\nint user"
    given = {"XEN": "base:fleet", "PATCH": written(tree, tmp_path, *edit)}
    ended = face("xsplice", tmp_path, **given)
    assert (ended.status, "no functional change" in ended.text) == (3, True), ended.text
    place = store.tree_of("base:fleet").parent / BASE_FILE
    save(place, replace(fleet, likeness=Likeness.MATCHED, differs=("user (common/user.o)",)))
    ended = face("xsplice", tmp_path, **given)
    assert (ended.status, "the fix touches its source" in ended.text) == (4, True), ended.text
    absent = "xen/common/absent.c"  # no object of this configuration is made of it
    (tree.root / absent).write_text("int absent(void) { return 0; }\n")
    shutil.copy(tree.root / absent, store.tree_of("base:fleet") / absent)
    given["PATCH"] = written(tree, tmp_path, absent, "return 0", "return 1")
    assert face("xsplice", tmp_path, **given).status == 3
    save(place, replace(fleet, likeness=Likeness.MATCHED, strangers=("more",)))
    ended = face("xsplice", tmp_path, **given)
    assert (ended.status, "has what no object has: more" in ended.text) == (4, True), ended.text


def test_what_the_shipped_image_has_otherwise_is_refused_where_a_fix_needs_it(
    tree: TinyTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vendor's `where` is another one; `first` and `user` are in the same file."""
    monkeypatch.setenv("XSPLICE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(adding, "_PROGRAMS", {})
    monkeypatch.setattr(adding, "_FILES", {})
    shipped = TinyTree.__new__(TinyTree)
    vars(shipped).update(
        vars(tree), root=Path(shutil.copytree(tree.root, tmp_path / "shipped", symlinks=True))
    )
    source = shipped.root / "xen/common/user.c"
    source.write_text(source.read_text().replace("return __LINE__;", "return 7;"))
    shipped.build()
    own = TinyTree.__new__(TinyTree)
    own.root = Path(shutil.copytree(tree.root, tmp_path / "source", symlinks=True))
    (own.root / "xen" / "xen").unlink()
    add_makefile(own)
    image = shipped.root / "xen/xen-syms"
    record = add_base(Order(name="fleet", source=own.root, image=image))
    assert (record.likeness, record.differs) == (Likeness.MATCHED, ("where (common/user.o)",))
    answers = {}
    for name, edit in (
        ("near", GOOD),
        ("far", (VERSION, "return FILE_NAME;", 'return "";')),
        (
            "calls",
            (VERSION, OLD, "int where(void);\n" + OLD + '    if ( where() )\n        return "";\n'),
        ),
        ("header", ("xen/include/xen/lib.h", "#define FILE_NAME __FILE__", '#define FILE_NAME ""')),
    ):
        folder = tmp_path / name
        folder.mkdir()
        patch = written(tree, folder, *edit)
        answers[name] = with_xsplice(
            "xsplice-verify", folder, XEN="base:fleet", PATCH=patch, SIGNER="none"
        )
    assert {name: ended.status for name, ended in answers.items()} == {
        "near": 5,
        "far": 5,  # for want of debug information
        "calls": 5,
        "header": 5,
    }
    said = " ".join(answers["header"].text.split())
    assert "the fix changes `FILE_NAME` of xen/include/xen/lib.h; nobody knows whether" in said
    said = " ".join(answers["near"].text.split())
    assert "nobody knows whether" not in said
    said = " ".join(answers["far"].text.split())
    assert "nobody has compared the types that it knows with the shipped image" in said
    said = " ".join(answers["calls"].text.split())
    assert "where: the payload uses it, and the hypervisor has it otherwise; build the base" in said
    assert "run make" not in said
