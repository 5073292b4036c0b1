# SPDX-License-Identifier: Apache-2.0
"""What objects hold that an earlier payload made, and the payload in its place reads otherwise.

The earlier one ran on the same host: what it stored stays when it goes. So its sources are held
against the new ones by the same rules as the hypervisor's own.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from xsplice_plugins.capture.doubts import Versions, doubts
from xsplice_plugins.capture.texts import SOURCES, mentioning, text_of
from xsplice_plugins.csource.constants import Changed, Macros, constants_in, macros_in
from xsplice_plugins.csource.declarations import ChunkKind, chunks, declaration
from xsplice_plugins.patch import patched_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from xsplice_plugins.artefacts import PatchSet

_LAID_OUT = {ChunkKind.RECORD, ChunkKind.ENUM, ChunkKind.TYPEDEF}


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
    return (*doubts(texts).stale, *dict.fromkeys(_laid_out(texts.texts)))


def _laid_out(texts: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    """Name structures, enumerations and types that both versions define, each in its way."""
    for path, sides in texts.items():
        known = [
            {item.name: item.text for item in map(declaration, (c.text for c in chunks(side)))
             if item.name and item.kind in _LAID_OUT}
            for side in sides
        ]  # fmt: skip
        for name in sorted(known[0].keys() & known[1].keys()):
            if known[0][name] != known[1][name]:
                yield f"{path}: `{name}` is another: objects that exist may be laid out otherwise"


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

    def related(self, names: frozenset[str]) -> tuple[str, ...]:
        """Return the C files in which some names stand, of the tree or of the earlier version."""
        if not names:
            return ()
        own = {path for path in self._files[0] if path.endswith(SOURCES)}
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
