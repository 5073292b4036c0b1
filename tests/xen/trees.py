# SPDX-License-Identifier: Apache-2.0
"""The built trees at hand: those that the environment names, and every base.

``XSPLICE_TREES`` names more: ``4.22=/src/xen,arm64=/src/xen-arm``. Make some with
``xsplice base add NAME --source CLONE --ref RELEASE-4.22.0 --config defconfig``.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest

from xsplice_plugins.bases.store import known_bases, tree_of
from xsplice_plugins.elf.types import EM_AARCH64, EM_X86_64
from xsplice_plugins.kbuild.tree import XenTree, locate_tree

MACHINES = {"x86_64": EM_X86_64, "arm64": EM_AARCH64}


@cache
def trees() -> dict[str, Path]:
    """Return every built tree at hand, by name."""
    found: dict[str, Path] = {}
    for word in filter(None, os.environ.get("XSPLICE_TREES", "").split(",")):
        name, equals, path = word.partition("=")
        assert equals, f"XSPLICE_TREES: {word} is not name=path"
        found[name] = Path(path)
    if named := os.environ.get("XSPLICE_XEN_TREE"):
        found.setdefault("main", Path(named))
    for name in known_bases():
        path = tree_of(f"base:{name}")
        if path not in found.values():
            found[name] = path
    return found


@cache
def located(path: Path) -> XenTree:
    """Return a tree's parts."""
    return locate_tree(path)


def tree_like(release: str, machine: str = "x86_64", *, is_debians: bool = False) -> Path:
    """Return a built tree of a release; skip the test where there is none.

    Args:
        release: Major and minor number: ``4.22``.
        machine: One of `MACHINES`.
        is_debians: Whether it must be of Debian's package.
    """
    for path in trees().values():
        tree = located(path)
        is_wanted = (path / "debian").is_dir() or not is_debians
        is_like = tree.release.startswith(f"{release}.") and tree.machine == MACHINES[machine]
        if is_wanted and is_like:
            return path
    pytest.skip(f"no built tree of Xen {release} for {machine}; name one in XSPLICE_TREES")
