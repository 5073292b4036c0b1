# SPDX-License-Identifier: Apache-2.0
"""Hold the types that a hand-written file defines under a name of Xen's against Xen's own.

A private structure of Xen can only be copied, and a copy from another release reads other members.
What a file takes from the tree's headers is right by itself, and is not looked at.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING

from xsplice_plugins.errors import RefusedError
from xsplice_plugins.handmade.shapes import Comparison, bare_type, title_of
from xsplice_plugins.kbuild.inputs import readers_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from re import Pattern

    from xsplice_plugins.handmade.originals import Originals
    from xsplice_plugins.handmade.shapes import DebugSide, Die

#: Objects that are asked for a type of one header; each may have to be compiled.
_ASKED_MAX = 4
_WORDS = rb"(?:\s*__\w+(?:\s*\(+[^;{}]*?\)+)?)*"  # `__packed`, `__attribute__((packed))`
_TAGGED = rb"\b(?:struct|union|enum)\b%s\s*\b%s\b%s\s*\{"
_TYPEDEF = rb"(?:\btypedef\b[^;{}]*|\}%s\s*)\b%s\s*(?:(?:[\[)(]|__\w)[^;{}]*)?;"

_Found = list[tuple[str, "Die"]]  #: objects, and what they say


class Structures:
    """Looks for Xen's types by their names."""

    def __init__(self, originals: Originals) -> None:
        """Ask the objects of ``originals``."""
        self._originals = originals
        self._tree = originals.tree
        self._prefix, self._sources = (
            "" if folder == "." else f"{folder}/"
            for folder in (self._tree.build_dir, self._tree.source_dir)
        )

    def check(self, side: DebugSide, functions: Iterable[str]) -> tuple[str, ...]:
        """Check the types that one file defines.

        Args:
            side: The file's debug information.
            functions: Decorated names of what it replaces, and of statics that it uses; what
                their objects say counts first.

        Returns:
            What could not be compared, for people.

        Raises:
            RefusedError: A type has the name of one of Xen's, and is another one.
        """
        own = [(key, die) for key, rows in side.types.items() for die in rows if side.is_own(die)]
        asked = functions if own else ()
        nearest = sorted({self._originals.object_of(name) for name in asked} - {""})
        doubts = []
        for key, die in own:
            place = side.place(die)
            found, files = self._said(nearest, key), []
            is_near = bool(found)
            if not is_near:
                found = self._said(self._originals.opened, key)
                if not found or any(_difference(side, die, row[1]) for row in found):
                    files = sorted(self._defining(*key))
                    found += self._elsewhere(files, key)
            if files and not found:
                doubts.append(f"{title_of(die)} ({place}) was not compared with that of {files[0]}")
            differing = [row for row in found if _difference(side, die, row[1])]
            if differing and (is_near or len(differing) == len(found)):
                path, other = differing[0]
                raise RefusedError(
                    f"{place}: {_difference(side, die, other)} ({path}); define it as Xen does, "
                    "include Xen's header instead, or give it another name if it is another one"
                )
        return tuple(doubts)

    def _said(self, paths: Iterable[str], key: tuple[bool, str]) -> _Found:
        """Return what objects say of a type."""
        sides = {path: self._originals.side(path) for path in paths}
        return [
            (path, die)
            for path, side in sides.items()
            if side is not None
            for die in side.types.get(key, ())
        ]

    def _elsewhere(self, files: Iterable[str], key: tuple[bool, str]) -> _Found:
        """Return what objects say of a type that one of these files defines."""
        found: _Found = []
        for file in files:
            for path in self._readers_of(file, key[1]):
                rows = self._said([path], key)
                found += rows
                if rows and file.endswith(".h"):
                    break  # the others are told the same
        return found

    def _readers_of(self, file: str, name: str) -> list[str]:
        """Return objects that a file was read for, first those whose sources name the type."""
        word = re.compile(rb"\b%s\b" % re.escape(_plain(name)))
        rows = set()
        for target in self._readers[file]:
            path = target.removeprefix(self._prefix).replace(".init.o", ".o")
            text = self._texts.get(f"{self._sources}{path.removesuffix('.o')}.c", b"")
            rows.add((not word.search(text), len(text), path))
        return [path for _, _, path in sorted(rows)[:_ASKED_MAX]]

    def _defining(self, is_typedef: bool, name: str) -> Iterator[str]:
        """Yield the files of the tree that seem to define a type."""
        plain = _plain(name)
        word = re.escape(plain)
        form = _TYPEDEF % (_WORDS, word) if is_typedef else _TAGGED % (_WORDS, word, _WORDS)
        pattern: Pattern[bytes] = re.compile(form)
        for path, text in self._texts.items():
            if plain in text and pattern.search(text):
                yield path

    @cached_property
    def _readers(self) -> dict[str, list[str]]:
        return readers_of(self._tree)

    @cached_property
    def _texts(self) -> dict[str, bytes]:
        """Return all files that the objects of the image were compiled from."""
        texts = {}
        for path in self._readers:
            place = self._tree.root / path
            if path.endswith((".c", ".h")) and place.is_file():
                texts[path] = place.read_bytes()
        return texts


def _plain(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _difference(side: DebugSide, ours: Die, theirs: Die) -> str:
    """Say how a type of the file's own is another one than Xen's of that name; "" if it is not."""
    comparison = Comparison(side)
    one, other = ours, theirs
    if ours.tag == theirs.tag == "DW_TAG_typedef":
        one, other = bare_type(ours), bare_type(theirs)
    if comparison.agree(one, other):
        return ""
    title, text = title_of(ours), comparison.difference
    if not text:
        return f"{title} is not Xen's"
    return text if text.startswith(title) else f"{title}: {text}"
