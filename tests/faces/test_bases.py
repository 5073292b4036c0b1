# SPDX-License-Identifier: Apache-2.0
"""A base by name stands where a tree can stand, on every face that takes one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.faces.kit import GOOD, Face, written
from tests.kit.tiny_make import add_makefile
from tests.kit.tiny_tree import TinyTree
from xsplice_plugins.bases import adding
from xsplice_plugins.bases.adding import Order, add_base

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
