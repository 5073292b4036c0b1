# SPDX-License-Identifier: Apache-2.0
"""A base by name stands where a tree can stand, on every face that takes one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.faces.kit import GOOD, Face, with_xsplice, written
from tests.kit.tiny_make import add_makefile
from tests.kit.tiny_tree import TinyTree
from xsplice_plugins.artefacts import Likeness
from xsplice_plugins.bases import adding
from xsplice_plugins.bases.adding import Order, add_base

VERSION = "xen/common/version.c"
OLD = "const char *xen_extra_version(void)\n{\n"

pytestmark = [pytest.mark.scons, pytest.mark.toolchain]


def test_a_bases_name_is_taken_for_its_tree(
    face: Face, tree: TinyTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XSPLICE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(adding, "_PROGRAMS", {})
    monkeypatch.setattr(adding, "_FILES", {})
    source = Path(shutil.copytree(tree.root, tmp_path / "source", symlinks=True))
    (source / "xen" / "xen").unlink()
    own = TinyTree.__new__(TinyTree)
    own.root = source
    add_makefile(own)
    record = add_base(Order(name="fleet", source=source))
    patch = written(tree, tmp_path, *GOOD)
    ended = face("xsplice", tmp_path, XEN="base:fleet", PATCH=patch)
    assert ended.status == 0, ended.text
    [made] = {path.read_text() for path in tmp_path.rglob("fix.payload.json")}
    assert json.loads(made)["xen_depends"] == record.build_id
    ended = face("xsplice", tmp_path, XEN="base:none", PATCH=patch)
    assert (ended.status, "there is none; known: fleet" in ended.text) == (2, True), ended.text


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
    ):
        folder = tmp_path / name
        folder.mkdir()
        patch = written(tree, folder, *edit)
        answers[name] = with_xsplice(
            "xsplice-verify", folder, XEN="base:fleet", PATCH=patch, SIGNER="none"
        )
    assert {name: ended.status for name, ended in answers.items()} == {
        "near": 5,
        "far": 0,
        "calls": 5,
    }
    assert (
        "where: the payload uses it, and the hypervisor has it otherwise" in answers["calls"].text
    )
