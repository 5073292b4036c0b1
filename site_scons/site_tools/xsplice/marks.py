# SPDX-License-Identifier: Apache-2.0
"""What of the library reaches a step, in words that explain a rebuild."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import xsplice_plugins

#: Rooms that every stage uses.
_ALWAYS = ("artefacts", "elf", "pipeline", "plugins", "system", "target")


@cache
def sources_digest(*folders: str) -> str:
    """Return the digest of the library's sources in some folders (and its top level)."""
    digest = hashlib.sha256()
    for folder in ("", *folders, *_ALWAYS):
        digest.update(_folder_digest(folder))
    return digest.hexdigest()[:16]


@cache
def _folder_digest(folder: str) -> bytes:
    """Return the digest of one folder's sources; "" is the top level alone."""
    root = Path(xsplice_plugins.__file__).parent
    digest = hashlib.sha256()
    for path in sources(root, folder):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.digest()


def sources(root: Path, folder: str) -> list[Path]:
    """Return one folder's files, those that are no Python as well, but for what Python keeps.

    Args:
        root: Of the library.
        folder: A room of it, or "" for the top level alone.
    """
    found = (root / folder).rglob("*") if folder else root.glob("*")
    return sorted(path for path in found if path.is_file() and path.suffix != ".pyc")
