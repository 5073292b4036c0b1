# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: PTH118  # hundreds of files: a Path each is slow
"""Which files a compiler read that no record of the tree names, and what they held."""

from __future__ import annotations

import hashlib
import json
import os
import re
from typing import TYPE_CHECKING

from xsplice_plugins.artefacts import write_file
from xsplice_plugins.capture.copying import origin_of

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

#: Digests of files, by path from the tree's root, or absolute outside of it.
Reads = dict[str, str]
#: What stands for a compile that did not say what it read: no file of that name holds anything.
NOT_TOLD = {"": "not told"}

_WORD = re.compile(r"(?:\\.|[^\s\\])+")


def files_read(
    text: str, copy_root: Path, cwd: str, known: Collection[str], *, contents: Path | None = None
) -> Reads:
    """Return the files that a compile read, with digests of what they hold.

    Args:
        text: The rules that the compiler wrote (``-MD``).
        copy_root: Where it ran: a private copy, or the tree itself.
        cwd: The folder, relative to that.
        known: Files that others watch already, from the tree's root.
        contents: Root of the copy whose patched files count; default: that one.
    """
    origin = origin_of(copy_root)
    rule = text.replace("\\\n", " ").split("\n", 1)[0].partition(": ")[2]
    roots = [os.path.realpath(copy_root), os.path.realpath(origin.folder), str(copy_root)]
    found: Reads = {}
    for word in _WORD.findall(rule):
        name = re.sub(r"\\(.)", r"\1", word).replace("$$", "$")
        path = os.path.normpath(os.path.join(cwd, name))
        if path in known:
            continue
        # A folder of the copy may be a link into the tree.
        path = _below(os.path.realpath(os.path.join(copy_root, path)), roots)
        if path in known:
            continue
        is_patched = path in origin.patched
        root = (contents or copy_root) if is_patched else origin.folder
        found[path] = digest_of(os.path.join(root, path))
    return found


def without_patched(reads: Reads, copy_root: Path) -> Reads:
    """Return the files of a copy that are the tree's own; who made the copy watches the others."""
    patched = origin_of(copy_root).patched
    return {path: digest for path, digest in reads.items() if path not in patched}


def save_reads(reads: Reads, out: Path) -> None:
    """Keep what a compile read beside the object that it wrote."""
    write_file(_beside(out), json.dumps(reads, sort_keys=True).encode())


def load_reads(out: Path) -> Reads:
    """Return what was read for an object, as far as that was kept."""
    try:
        kept = json.loads(_beside(out).read_bytes())
        return {str(path): str(digest) for path, digest in kept.items()}
    except (OSError, ValueError, AttributeError):
        return NOT_TOLD


def _beside(out: Path) -> Path:
    return out.with_name(out.name + ".reads")


def digest_of(path: str) -> str:
    """Return the digest of a file's content; "missing" if it cannot be read."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123  hundreds of files
            return hashlib.sha256(file.read()).hexdigest()[:32]
    except OSError:
        return "missing"


def _below(path: str, roots: list[str]) -> str:
    for root in roots:
        if path.startswith(root + "/"):
            return path[len(root) + 1 :]
    return path
