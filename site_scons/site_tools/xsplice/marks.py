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
    for path in sorted((root / folder).rglob("*.py") if folder else root.glob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.digest()
