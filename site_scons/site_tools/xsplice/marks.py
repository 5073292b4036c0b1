# SPDX-License-Identifier: Apache-2.0
"""What of the library and of a tree reaches a step, in words that explain a rebuild."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import xsplice_plugins
from xsplice_plugins import artefacts

if TYPE_CHECKING:
    from xsplice_plugins.plugins.spec import Config

#: Rooms that every stage uses.
_ALWAYS = ("artefacts", "elf", "pipeline", "target")


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
    for path in sorted((root / folder).rglob("*.py") if folder else root.glob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.digest()


def facts(config: Config) -> str:
    """Return what of the tree's headers reaches a step, in words that explain a rebuild."""
    if config.facts is None:
        return "facts of the nearest known release"
    text = artefacts.to_json(config.facts)
    return f"facts of the tree {hashlib.sha256(text).hexdigest()[:16]}"
