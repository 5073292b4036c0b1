# SPDX-License-Identifier: Apache-2.0
"""What objects hold that an earlier payload made, and the payload in its place reads otherwise.

The earlier one ran on the same host: what it stored stays when it goes. So its sources are held
against the new ones by the same rules as the hypervisor's own.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cached_property
from typing import TYPE_CHECKING

from msgspec.structs import replace

from xsplice_plugins.capture.doubts import Versions, doubts
from xsplice_plugins.capture.texts import SOURCES, mentioning, text_of
from xsplice_plugins.csource.constants import Changed, Macros, constants_in, macros_in
from xsplice_plugins.patch import patched_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from xsplice_plugins.artefacts import PatchSet

_WORD = re.compile(r"[A-Za-z_]\w*")
_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_RECORD = re.compile(
    r"\b(?P<kind>struct|union|enum)\s+(?:__\w+(?:\s*\([^()]*(?:\([^()]*\)[^()]*)*\))?\s+)*"
    r"(?P<tag>\w+)?\s*(?:__\w+\s*)*\{"
)


def doubts_between(source_root: Path, earlier: PatchSet, later: PatchSet) -> tuple[str, ...]:
    """Say what a payload's objects hold otherwise than the one in its place reads it.

    Args:
        source_root: The tree that both are patches of; only read.
        earlier: What the payload was made of.
        later: What the one in its place is made of.

    Returns:
        Sentences; none if nothing is known to be otherwise.

    Raises:
        PatchError: The earlier patches do not apply by themselves.
    """
    texts = _Trees(source_root, earlier, later)
    return (*doubts(texts).stale, *dict.fromkeys(_laid_out(texts)))


def doubts_of_older(source_root: Path, fix: PatchSet, counts: Sequence[int]) -> tuple[str, ...]:
    """Say what objects hold otherwise that are older than the payloads beneath a fix.

    A fix is compiled from what they brought, and is held against that. Objects were made before,
    and between them; what one part of a series makes otherwise, a later part may read otherwise.

    Args:
        source_root: The tree that all are patches of; only read.
        fix: All patches, those of the payloads beneath first.
        counts: How many of the patches each payload beneath is made of, with those under it.

    Returns:
        Sentences that are said neither of what lies beneath nor of the fix on top of that.
    """
    lower = replace(fix, patches=fix.patches[: counts[-1]])
    said = {_plain(text) for text in doubts_between(source_root, lower, fix)}
    found: dict[str, str] = {}
    for count in sorted({0, *counts[:-1]}):
        older = replace(fix, patches=fix.patches[:count])
        known = said | {_plain(text) for text in doubts_between(source_root, older, lower)}
        for text in doubts_between(source_root, older, fix):
            if _plain(text) not in known:
                found.setdefault(_plain(text), text)
    return tuple(found.values())


def _plain(sentence: str) -> str:
    """Return a sentence without its numbers of lines."""
    return re.sub(r":\d+", "", sentence)


def _laid_out(trees: _Trees) -> Iterator[str]:
    """Name what the earlier version laid out in its own way, and the later one in another.

    What the earlier one left as the tree has it is a matter of the tree and the later one.
    """
    defined = [
        {name: rows for text in (sides[n] for sides in trees.texts.values())
         for name, rows in macros_in(text).items()}
        for n in (0, 1)
    ]  # fmt: skip
    changed = {
        n for n in defined[0].keys() | defined[1].keys() if defined[0].get(n) != defined[1].get(n)
    }
    for path in trees.own:
        first, earlier, later = (
            dict(_records(text))
            for text in (trees.first(path), trees.before(path), trees.later(path))
        )
        for name, body in sorted(earlier.items()):
            if body == first.get(name) or name not in later:
                continue
            words = [word for row in body for word in _WORD.findall(row)]
            if body != later[name] or not changed.isdisjoint(words):
                yield f"{path}: `{name}` is another: objects that exist may be laid out otherwise"


def _records(text: str) -> Iterator[tuple[str, list[str]]]:
    """Give structures, unions and enumerations with their bodies, wherever they are defined.

    Those of one name, and those without one, count by their order.
    """
    seen: Counter[str] = Counter()
    for found in _RECORD.finditer(_COMMENT.sub(" ", text)):
        name = " ".join(filter(None, (found["kind"], found["tag"])))
        seen[name] += 1
        body = found.string[found.end() : _closing(found.string, found.end())]
        more = f" ({seen[name]})" if seen[name] > 1 or not found["tag"] else ""
        yield name + more, [" ".join(row.split()) for row in body.splitlines() if row.strip()]


def _closing(text: str, at: int) -> int:
    """Return the end of what braces hold, behind the one that opens them, and of the statement."""
    depth = 1
    while at < len(text) and depth:
        depth += (text[at] == "{") - (text[at] == "}")
        at += 1
    end = text.find(";", at)
    return end if end >= 0 else at


class _Trees(Versions):
    """A tree with the earlier patches, and with the later ones."""

    def __init__(self, source_root: Path, earlier: PatchSet, later: PatchSet) -> None:
        """Take the tree and both; nothing is read yet but what the earlier ones touch."""
        self._root = source_root
        self._files = [
            {path: (content or b"").decode("latin-1") for path, content in files.items()}
            for files in (patched_files(part, source_root) for part in (earlier, later))
        ]

    @cached_property
    def texts(self) -> Mapping[str, tuple[str, str]]:
        """Return both versions of each C file that differs."""
        paths = sorted({*self._files[0], *self._files[1]})
        both = {p: (self._text(0, p), self._text(1, p)) for p in paths if p.endswith(SOURCES)}
        return {path: sides for path, sides in both.items() if sides[0] != sides[1]}

    def _text(self, side: int, path: str) -> str:
        known = self._files[side].get(path)
        return text_of(self._root / path) if known is None else known

    @cached_property
    def tables(self) -> tuple[Macros, Macros]:
        """Return all definitions of the files that differ, and of headers that both have."""
        headers = [path for path in mentioning(self._root, frozenset()) if path.endswith(".h")]
        known: Macros = {}
        for path in headers:
            if path not in self.texts:
                text = text_of(self._root / path)
                known.update(macros_in(text))
                known.update(constants_in(text))
        found = []
        for side in (0, 1):
            own = dict(known)
            for pieces in self.texts.values():
                own.update(macros_in(pieces[side]))
                own.update(constants_in(pieces[side]))
            found.append(own)
        return found[0], found[1]

    @property
    def own(self) -> tuple[str, ...]:
        """Return the C files that the earlier version changed."""
        return tuple(sorted(path for path in self._files[0] if path.endswith(SOURCES)))

    def first(self, path: str) -> str:
        """Return a file of the tree."""
        return text_of(self._root / path)

    def later(self, path: str) -> str:
        """Return a file with the later patches."""
        return self._text(1, path)

    def related(self, names: frozenset[str]) -> tuple[str, ...]:
        """Return the C files in which some names stand, of the tree or of the earlier version."""
        if not names:
            return ()
        own = set(self.own)
        held = {path for path in own if any(name in self.before(path) for name in names)}
        return tuple(sorted({*mentioning(self._root, names)} - own | held))

    def before(self, path: str) -> str:
        """Return a file with the earlier patches."""
        return self._text(0, path)

    def is_equal(self, item: Changed) -> bool:  # noqa: ARG002  a version may ask more
        """Say no: no compiler is asked here."""
        return False

    def names_for(self, path: str, names: frozenset[str]) -> frozenset[str]:  # noqa: ARG002
        """Return them all: a name means the same everywhere, as far as texts tell."""
        return names
