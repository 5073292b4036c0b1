# SPDX-License-Identifier: Apache-2.0
"""Fixtures that several rooms' tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.kit.tiny_tree import TinyTree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def _listing(root: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(root)): (path.lstat().st_mtime_ns, path.read_bytes())
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> TinyTree:
    """Return a tree that tests only read; it has a space in its path."""
    return TinyTree(tmp_path_factory.mktemp("built") / "my xen")


@pytest.fixture
def untouched(built: TinyTree) -> Callable[[], None]:
    """Return a check that the tree is as it was when the test started."""
    before = _listing(built.root)

    def check() -> None:
        assert _listing(built.root) == before

    return check


@pytest.fixture
def own_tree(tmp_path: Path) -> TinyTree:
    """Return a tree that the test may change."""
    return TinyTree(tmp_path / "tree")
