# SPDX-License-Identifier: Apache-2.0
"""What a whole series changes in the end, line by line, whatever its patches do on the way."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import SequenceMatcher
from hashlib import sha256

from xsplice_plugins.artefacts.patch import line_digest

_NAMED = re.compile(r"(\w+)\s*\(")
_DIGITS = 8  #: of the digest of a function's name


def net_lines(sides: Mapping[str, tuple[bytes | None, bytes | None]]) -> tuple[str, ...]:
    """Return the lines that files have got and lost, each with its function.

    Args:
        sides: Path relative to the source root -> content before and after; ``None``: no file.

    Returns:
        Sorted; each is a digest of file and function, ``+`` or ``-``, and a digest of file and
        line as in `PatchDigest.lines`. Lines that say nothing (``}``) are left out.
    """
    return tuple(sorted(row for path in sides for row in _net(path, *map(_rows, sides[path]))))


def _rows(content: bytes | None) -> list[str]:
    return (content or b"").decode("utf-8", "surrogateescape").splitlines()


def _net(path: str, old: list[str], new: list[str]) -> Iterator[str]:
    for kind, start, end, start_new, end_new in _edits(old, new):
        if kind != "equal":
            yield from _told(path, "-", old, range(start, end))
            yield from _told(path, "+", new, range(start_new, end_new))


def _edits(old: list[str], new: list[str]) -> Iterator[tuple[str, int, int, int, int]]:
    """Return difflib's edits, found between the first and the last line that differ."""
    first = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), None)
    if first is None:
        first = min(len(old), len(new))
    last = 0
    while last < min(len(old), len(new)) - first and old[-1 - last] == new[-1 - last]:
        last += 1
    parts = old[first : len(old) - last], new[first : len(new) - last]
    for kind, *places in SequenceMatcher(None, *parts, autojunk=False).get_opcodes():
        start, end, start_new, end_new = (first + place for place in places)
        yield kind, start, end, start_new, end_new


def _told(path: str, sign: str, rows: list[str], places: Iterable[int]) -> Iterator[str]:
    for place in places:
        digest = line_digest(path, rows[place])
        if digest:
            name = f"{path}\0{_function(rows, place)}".encode("utf-8", "surrogateescape")
            yield f"{sha256(name).hexdigest()[:_DIGITS]}{sign}{digest}"


def _function(rows: list[str], place: int) -> str:
    """Return what a line is part of: the last one before it that starts at the margin, by name."""
    for row in reversed(rows[: place + 1]):
        if row[:1].isalpha() or row[:1] == "_":
            if row.rstrip().endswith(":"):
                continue  # a label
            named = _NAMED.search(row)
            return named[1] if named else "".join(row.split())
    return ""
