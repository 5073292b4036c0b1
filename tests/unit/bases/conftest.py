# SPDX-License-Identifier: Apache-2.0
"""What a vendor keeps, and a cache of the test's own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.kit.tiny_make import add_makefile
from tests.kit.tiny_tree import TinyTree
from xsplice_plugins.bases import adding


@pytest.fixture(scope="package")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give what a vendor keeps: sources before the build, ``.config`` and ``xen-syms``."""
    tree = TinyTree(tmp_path_factory.mktemp("vendor") / "sources")
    add_makefile(tree)
    shutil.copy(tree.root / "xen" / "xen-syms", tree.root)
    for pattern in ("common/*.o", "arch/x86/*.o", "prelink.o", "xen-syms", "xen"):
        for path in (tree.root / "xen").glob(pattern):
            path.unlink()
    return tree.root


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a cache of the test's own; building these trees takes a compiler and make only."""
    monkeypatch.setenv("XSPLICE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(adding, "_PROGRAMS", {"make": "make"})
    monkeypatch.setattr(adding, "_FILES", {})
    return tmp_path / "cache"


@pytest.fixture
def own(vendor: Path, tmp_path: Path) -> Path:
    """Give sources of the test's own."""
    return shutil.copytree(vendor, tmp_path / "own", symlinks=True)
