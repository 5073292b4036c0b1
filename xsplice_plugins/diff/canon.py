# SPDX-License-Identifier: Apache-2.0
"""Names for what relocations refer to, equal on both sides exactly if the things are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.diff.parts import EXTERNAL, Edge, Key, Part, PartKind
from xsplice_plugins.target.sections import SectionClass

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from xsplice_plugins.diff.normalise import ObjectParts
    from xsplice_plugins.diff.pairing import Pairing

#: Of ``struct source_location`` of xen/common/ubsan/ubsan.h: file, line and column.
_LINE = slice(8, 12)
_DEPTH_MAX = 16  #: nesting of unnamed data that refers to unnamed data


class Canon:
    """Names for what relocations refer to that are equal on both sides iff the things are."""

    def __init__(self, old: ObjectParts, new: ObjectParts, pairing: Pairing) -> None:
        """Compare ``old`` with ``new`` under ``pairing``."""
        self.old = old
        self.new = new
        self.pairing = pairing
        self._unnamed: dict[tuple[bool, int], Key] = {}

    def parts(self, is_new: bool) -> ObjectParts:
        """Return the parts of one side."""
        return self.new if is_new else self.old

    def identity(self, is_new: bool, number: int) -> Key:
        """Return the name of a part: the new number where it is paired."""
        if is_new:
            return ("part", number)
        twin = self.pairing.new_of.get(number)
        return ("old", number) if twin is None else ("part", twin)

    def edge(self, is_new: bool, edge: Edge, depth: int = 0) -> Key:
        """Return what one relocation refers to."""
        if edge.part == EXTERNAL:
            return ("symbol", edge.name, edge.at)
        parts = self.parts(is_new)
        part = parts.all[edge.part]
        if part.kind is PartKind.STRING:
            return ("string", parts.content(part)[edge.at :])
        if part.kind is PartKind.CONSTANT:
            return ("constant", parts.content(part), edge.at)
        if part.kind in (PartKind.ANONYMOUS, PartKind.SNIPPET):
            return (*self._content(is_new, part, depth), edge.at)
        # A pair goes by its number: `static` may have come or gone. What only one side defines
        # goes by its global name: the other side may name it without defining it.
        pairs = self.pairing.old_of if is_new else self.pairing.new_of
        if part.number not in pairs and not part.is_local:
            return ("symbol", part.name, edge.at)
        return (*self.identity(is_new, part.number), edge.at)

    def _content(self, is_new: bool, part: Part, depth: int) -> Key:
        key = (is_new, part.number)
        if key not in self._unnamed:
            if depth > _DEPTH_MAX:
                return ("deep", part.section_class.value)
            self._unnamed[key] = ("unnamed", part.offset)  # what a cycle sees
            body = self.body(is_new, part, depth + 1)
            self._unnamed[key] = ("unnamed", part.section_class.value, *body)
        return self._unnamed[key]

    def body(self, is_new: bool, part: Part, depth: int = 0) -> Key:
        """Return a part's whole content; of a sanitizer's data without the line."""
        parts = self.parts(is_new)
        if part.section_class is SectionClass.IGNORED:
            return ()
        content, edges = parts.content(part), parts.edges(part)
        if _is_located(part, edges):
            content = content[: _LINE.start] + content[_LINE.stop :]
        return (content, tuple((e.offset, e.type, self.edge(is_new, e, depth)) for e in edges))

    def lines(self, is_new: bool, pieces: Iterable[int]) -> Iterator[int]:
        """Give the lines that a sanitizer names for a function's pieces, in the code's order."""
        parts = self.parts(is_new)
        for edge in (edge for piece in pieces for edge in parts.edges(parts.all[piece])):
            part = parts.all[edge.part] if edge.part != EXTERNAL else None
            if part is not None and _is_located(part, parts.edges(part)):
                yield int.from_bytes(parts.content(part)[_LINE], "little")


def _is_located(part: Part, edges: Sequence[Edge]) -> bool:
    """Tell whether a part is a sanitizer's data that begins with a place in the sources."""
    is_said = part.section_class is SectionClass.SANITIZER
    return is_said and bool(edges) and not edges[0].offset
