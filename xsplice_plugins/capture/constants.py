# SPDX-License-Identifier: Apache-2.0
"""Constants that live in memory: both sides of an object, by the preprocessor's own word."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from xsplice_plugins.capture.compiling import is_true, preprocess
from xsplice_plugins.capture.copying import origin_of
from xsplice_plugins.capture.doubts import Versions, doubts
from xsplice_plugins.capture.texts import SOURCES, related, text_of
from xsplice_plugins.csource.constants import (
    Changed,
    Macros,
    constants_in,
    constants_on_both,
    macros_in,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xsplice_plugins.artefacts import CompileJob, ObjectPair

_DIRECTIVE = re.compile(r"^[ \t]*#(?:\\\n|[^\n])*", re.MULTILINE)
_ENUM = re.compile(r"\benum\b[^;{}()]*\{[^{}]*\}")
_DEFINED = r"^[ \t]*#[ \t]*define[ \t]+{}\b"
_PLAIN = re.compile(r"0[xX][0-9a-fA-F]+|[0-9]+")

Sides = tuple[tuple["CompileJob", Path], tuple["CompileJob", Path]]


def settle_constants(
    sides: Sides, pair: ObjectPair, *, env: Mapping[str, str] | None = None
) -> ObjectPair:
    """Ask the sources about constants whose old value memory may hold.

    Args:
        sides: How either side is compiled, and the root of its copy.
        pair: What was compared.
        env: The compiler's environment; this process's own if ``None``.

    Returns:
        The record with what may be read otherwise than it was made (``stale``) and remarks; the
        same if its code does not change.

    Raises:
        CaptureError: Preprocessing fails.
    """
    if not pair.is_changed:
        return pair
    found = doubts(_Sides(sides, pair.source_path, env))
    return replace(pair, stale=found.stale, remarks=found.remarks)


class _Sides(Versions):
    """Both sides of one object, as they are compiled."""

    def __init__(self, sides: Sides, source: str, env: Mapping[str, str] | None) -> None:
        """Take how either side is compiled, and the object's source; nothing is read yet."""
        self._sides, self._env, self._source = sides, env, source
        self.told = (".h", source)

    @cached_property
    def texts(self) -> Mapping[str, tuple[str, str]]:
        """Return both versions of each C file that the patch changes."""
        before, after = (root for _, root in self._sides)
        found = {}
        for path in sorted(origin_of(after).patched | origin_of(before).patched):
            if path.endswith(SOURCES):
                old, new = (text_of(root / path) for root in (before, after))
                if old != new:
                    found[path] = (old, new)
        return found

    @cached_property
    def tables(self) -> tuple[Macros, Macros]:
        """Return all definitions of either side that hold in the object's source."""
        found = []
        for number, (job, root) in enumerate(self._sides):
            text = preprocess(job, root, env=self._env, options="-dD")
            known = macros_in(text)
            for match in _ENUM.finditer(_DIRECTIVE.sub("", text)):
                known.update(constants_in(match[0]))
            for pieces in self.texts.values():
                known.update(constants_on_both(*pieces)[number])
            found.append(known)
        return found[0], found[1]

    def related(self, names: frozenset[str]) -> tuple[str, ...]:
        """Return the C files of the tree, for the object's machine, in which some names stand."""
        return related(self._sides[1][0], self._sides[0][1], names)

    def before(self, path: str) -> str:
        """Return a file before the patch."""
        return text_of(self._sides[0][1] / path)

    def is_equal(self, item: Changed) -> bool:
        """Tell whether a number became a type's size, or the other way round, and is the same."""
        values = (item.old, item.new)
        sizes = [number for number, value in enumerate(values) if "sizeof" in value]
        if len(sizes) != 1 or item.takes_arguments or not _PLAIN.fullmatch(values[1 - sizes[0]]):
            return False
        job, root = self._sides[sizes[0]]
        return is_true(job, root, f"({item.old}) == ({item.new})", env=self._env)

    def names_for(self, path: str, names: frozenset[str]) -> frozenset[str]:
        """Leave out what the object's own source defines: no other file means the same."""
        return names if path.endswith(self._source) else names - self._own(names)

    def _own(self, names: frozenset[str]) -> frozenset[str]:
        job = self._sides[1][0]
        path = next((path for path in job.inputs if path.endswith(self._source)), "")
        texts = [text_of(root / path) for _, root in self._sides] if path else []
        return frozenset(
            name
            for name in names
            if any(re.search(_DEFINED.format(name), text, re.MULTILINE) for text in texts)
        )
