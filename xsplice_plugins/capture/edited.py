# SPDX-License-Identifier: Apache-2.0
"""Which functions did a patch edit, and which only absorb what it edited elsewhere?"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xsplice_plugins.capture.copying import origin_of
from xsplice_plugins.csource.declarations import ChunkKind, chunks, declaration, plain

if TYPE_CHECKING:
    from pathlib import Path

_WORD = re.compile(r"[A-Za-z_]\w*")
#: What marks code and data that are freed after boot. Source: xen/include/xen/init.h.
_BOOT = re.compile(r"\b__(hwdom_)?(init|exit)((data|const|constrel)(_cf_clobber)?)?\b")
_INCLUDE = re.compile(r"\0 #\s*include\b")
_FUNCTIONS = {ChunkKind.STATIC_FUNCTION, ChunkKind.FUNCTION, ChunkKind.PROTOTYPE}


def words_edited(pristine: Path, patched: Path) -> frozenset[str] | None:
    """Return the words of all top-level pieces that a patch changes, adds or removes.

    A function that none of them names was not edited. Where a piece is no function (a constant, a
    type, a variable) that is no comfort: boot code may have sized something by the old one. Nor
    where a piece is itself for boot: what absorbs it has another name.

    Args:
        pristine: Root of the pristine copy (or the tree itself).
        patched: Root of the patched copy.

    Returns:
        The words; ``None`` if a piece is neither function nor ``#include``, or is for boot.
    """
    found: set[str] = set()
    for path in sorted(origin_of(patched).patched):
        files = (pristine / path, patched / path)
        sides = [file.read_bytes().decode("latin-1") if file.is_file() else "" for file in files]
        pieces = [{plain(chunk.text) for chunk in chunks(text)} for text in sides]
        for text in pieces[0] ^ pieces[1]:
            item = declaration(text)
            if text and item.kind not in _FUNCTIONS and not _INCLUDE.match(item.text):
                return None
            if _BOOT.search(text):
                return None
            found.update(_WORD.findall(text))
    return frozenset(found)
