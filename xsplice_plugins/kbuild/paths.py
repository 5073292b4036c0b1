# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: PTH118, PTH120
"""Recorded paths, and which links and ``..`` in them lead where.

Thousands of paths are handled: a `Path` for each is slow.
"""

from __future__ import annotations

import os
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from xsplice_plugins.kbuild.records import record_text, scan

if TYPE_CHECKING:
    from xsplice_plugins.kbuild.tree import XenTree

_DOTTED = re.compile(r"[^\s<>\"']+/\.\./[^\s<>\"']+")


def canonical(tree: XenTree, links: dict[str, str], folder: str, word: str) -> str:
    """Return a recorded path relative to the tree's root, links inside the tree resolved.

    Paths outside the tree's root (the compiler's own headers) come back absolute.
    """
    build = str(tree.build_root)
    path = os.path.normpath(os.path.join(build, folder, word))
    for _ in range(8):  # a link to a link; more would be a loop
        inside = os.path.relpath(path, build) if path.startswith(build + "/") else ""
        link = next((part for part in _prefixes(inside) if part in links), None) if inside else None
        if link is None:
            break
        rest = inside[len(link) :].lstrip("/")
        path = os.path.normpath(os.path.join(build, os.path.dirname(link), links[link], rest))
    root = str(tree.root)
    if root == "/":
        return path.lstrip("/")
    return path[len(root) + 1 :] if path.startswith(root + "/") else path


def folders_that_lead_to(tree: XenTree, touched: set[str]) -> set[str]:
    """Find the folders from which a recorded ``..`` or a link leads to a touched file.

    In a private copy these must be real folders: the ``..`` of a linked folder is the tree's.

    Args:
        tree: The built tree.
        touched: Paths relative to the tree's root.

    Returns:
        Folders relative to the tree's root.
    """
    if not touched:
        return set()
    build = "" if tree.build_dir == "." else tree.build_dir + "/"
    listing = scan(str(tree.build_root))
    folders = {
        os.path.dirname(build + link)
        for link in listing.links
        for path in [canonical(tree, listing.links, "", link)]
        if any(file == path or file.startswith(path + "/") for file in touched)
    }
    names = {PurePosixPath(path).name for path in touched}
    for folder, name in listing.records:
        text = record_text(str(tree.build_root), folder, name)
        if not any(touched_name in text for touched_name in names):
            continue
        is_relative = folder and text.startswith(f"cmd_{name} ")
        base = folder if is_relative else ""
        for word in set(_DOTTED.findall(text)):
            if canonical(tree, listing.links, base, word) in touched:
                parts = word.split("/")
                ups = [at for at, part in enumerate(parts) if part == ".."]
                starts = (os.path.normpath(build + base + "/" + "/".join(parts[:at])) for at in ups)
                folders |= {start for start in starts if not start.startswith(("..", "/"))}
    return folders


def _prefixes(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]
