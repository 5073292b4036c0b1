# SPDX-License-Identifier: Apache-2.0
"""Headers that hold both versions of what a patch changes, for one preprocessing pass.

Comparing the preprocessed text of both sides costs two passes over every object that a header
reaches. Where a patch changes declarations only and no directives, one pass is enough: a copy of
the header holds the old and the new text of each changed declaration one after the other, between
words that the preprocessor leaves alone, and so both come out expanded in the same surroundings.
Line numbers below the first change differ between the sides; ``__LINE__`` is therefore turned into
a word too, and declarations that lie at another line are marked.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from xsplice_plugins.csource.declarations import Chunk, chunks, plain

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: Compiler options that go with a merged header.
OPTIONS = "-D__LINE__=xsplice_line_here -D__COUNTER__=xsplice_counter_here -Wno-error -w"
LINE_WORD = "xsplice_line_here"
COUNTER_WORD = "xsplice_counter_here"

# No `\b` in front: a pattern that starts with a literal is searched for ten times faster.
CHANGED = re.compile(
    r"xsplice_at_old_(\d+)\b(.*?)xsplice_at_new_\1\b(.*?)xsplice_at_end_\1\b", re.DOTALL
)
MOVED = re.compile(r"xsplice_at_moved_(\d+)\b(.*?)xsplice_at_rest_\1\b", re.DOTALL)

# C and assembler files are compiled or refused as such; prose is included by nothing.
_NEVER_MERGED = {".c", ".S", ".s", ".md", ".txt", ".rst", ".pod", ".pandoc", ""}
# Only conditionals may stand inside what is doubled: they leave no trace behind.
_TRACELESS = re.compile(r"^[ \t]*#[ \t]*(?:if|ifdef|ifndef|else|elif|endif)\b")
_DIRECTIVE = re.compile(r"^[ \t]*#.*", re.MULTILINE)


def merged_files(source_root: Path, files: Mapping[str, bytes | None]) -> dict[str, bytes]:
    """Return merged texts of the patched headers.

    Args:
        source_root: The tree, for the text before the patch.
        files: Contents after the patch, by path; ``None`` for a removed file.

    Returns:
        By path; empty if some header needs the two-pass way (directives change, files come or
        go), because then all of them do. C files are never merged: they are compiled anyway.
    """
    merged: dict[str, bytes] = {}
    number = 0
    for path, content in sorted(files.items()):
        suffix = PurePosixPath(path).suffix
        if suffix in _NEVER_MERGED:
            continue
        if suffix != ".h":
            return {}  # an include of an unknown kind would be the new one on both sides
        try:
            old = (source_root / path).read_bytes()
        except OSError:
            return {}
        if content is None:
            return {}
        text = merged_text(old.decode("latin-1"), content.decode("latin-1"), number)
        if text is None:
            return {}
        number += text.count("\nxsplice_at_")
        merged[path] = text.encode("latin-1")
    return merged


def merged_text(old: str, new: str, number: int = 0) -> str | None:
    """Return one text with both versions of each changed declaration.

    Args:
        old: The header before the patch.
        new: The header after it.
        number: First number for the marking words.

    Returns:
        The text; ``None`` if a directive changes.
    """
    before, after = chunks(old), chunks(new)
    keys = [[plain(chunk.text) for chunk in side] for side in (before, after)]
    parts: list[str] = []
    for tag, i1, i2, j1, j2 in SequenceMatcher(
        None, keys[0], keys[1], autojunk=False
    ).get_opcodes():
        if tag == "equal":
            for was, now in zip(before[i1:i2], after[j1:j2], strict=True):
                is_moved = was.line != now.line or was.text.count("\n") != now.text.count("\n")
                if not is_moved or _is_one_directive(now) or not plain(now.text):
                    parts.append(now.text)
                    continue
                if not _is_balanced(now):
                    return None
                parts.append(f"\nxsplice_at_moved_{number}\n{now.text}\nxsplice_at_rest_{number}\n")
                number += 1
            continue
        changed = (*before[i1:i2], *after[j1:j2])
        if not all(_is_traceless(chunk) for chunk in changed):
            return None
        sides = ["".join(chunk.text for chunk in side) for side in (before[i1:i2], after[j1:j2])]
        parts.append(
            f"\nxsplice_at_old_{number}\n{sides[0]}\nxsplice_at_new_{number}\n{sides[1]}\n"
            f"xsplice_at_end_{number}\n"
        )
        number += 1
    return "".join(parts)


def _is_one_directive(chunk: Chunk) -> bool:
    return chunk.has_directive and chunk.text.lstrip().startswith("#")


def _is_traceless(chunk: Chunk) -> bool:
    """Tell whether a chunk may stand twice: no directive in it defines or includes."""
    if not chunk.has_directive:
        return True
    if _is_one_directive(chunk):
        return False
    lines = _DIRECTIVE.findall(chunk.text)
    return all(_TRACELESS.match(line) for line in lines) and _is_balanced(chunk)


def _is_balanced(chunk: Chunk) -> bool:
    """Tell whether both ends of a chunk lie in the same branch of every ``#if``."""
    depth = 0
    for line in _DIRECTIVE.findall(chunk.text):
        word = line.replace("#", " ").split()[:1]
        if word and word[0] in {"if", "ifdef", "ifndef"}:
            depth += 1
        elif word == ["endif"]:
            depth -= 1
        elif word and word[0] in {"else", "elif"} and depth == 0:
            return False
        if depth < 0:
            return False
    return depth == 0
