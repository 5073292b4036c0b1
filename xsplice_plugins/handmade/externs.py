# SPDX-License-Identifier: Apache-2.0
"""Hold what a hand-written file declares of Xen against what Xen has.

C believes an ``extern`` declaration. One with a wrong type reads and writes what lies behind the
variable, or calls a function with other arguments, and everything else would go on well.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xsplice_plugins.artefacts import Duty, Severity, findings_about
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.types import SHN_LORESERVE, STT_FUNC
from xsplice_plugins.errors import RefusedError
from xsplice_plugins.handmade.prototypes import function_type, spell, text_of
from xsplice_plugins.handmade.shapes import Comparison, DebugSide, Die, bare_type, size_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from xsplice_plugins.artefacts import Finding
    from xsplice_plugins.handmade.compiling import SourceObject
    from xsplice_plugins.handmade.originals import Originals
    from xsplice_plugins.link.names import Names


@dataclass(frozen=True, slots=True, kw_only=True)
class Theirs:
    """What a declaration refers to."""

    name: str
    size_bytes: int  #: 0 where nobody tells
    is_function: bool
    data: bytes | None = field(repr=False)  #: an object with debug information about it


class Externs:
    """Looks at the declarations of hand-written files."""

    def __init__(self, originals: Originals, names: Names, sources: Sequence[SourceObject]) -> None:
        """Look at ``sources`` as they were compiled."""
        self.originals, self.names, self.sources = originals, names, sources
        self._sides: dict[bytes, DebugSide] = {}

    def check(
        self, source: SourceObject, side: DebugSide, wanted: Mapping[str, str]
    ) -> tuple[tuple[Finding, ...], tuple[str, ...]]:
        """Check one file's declarations.

        Args:
            source: The file.
            side: Its debug information.
            wanted: Decorated names of what its ``XSPLICE_SYMBOL`` stand for.

        Returns:
            What could not be seen, as findings; and notes for people.

        Raises:
            RefusedError: Xen's has another size, kind or type; the message has both.
        """
        elf = read_elf(source.data, source.object_path)
        asked = {symbol.name for symbol in elf.symbols if not symbol.shndx and symbol.name}
        unknown: list[str] = []
        notes: list[str] = []
        for symbol, die in side.externs():
            if symbol not in asked:
                continue
            is_own = side.is_own(die)
            theirs = self._find(wanted.get(symbol, symbol), source, is_wanted=is_own)
            if theirs is None:
                continue  # the linker says that nobody has it
            text = self._compare(side, symbol, die, theirs, source)
            if text and is_own:
                (unknown if text.startswith("the size") else notes).append(text)
        findings = findings_about(
            Duty.LAYOUT, "differ", Severity.UNCHECKED, source.object_path, unknown
        )
        return findings, tuple(notes)

    def _find(self, name: str, source: SourceObject, *, is_wanted: bool) -> Theirs | None:
        """Find what has a name: in another file of the payload, beneath, or in the image."""
        for other in self.sources:
            for symbol in read_elf(other.data, other.object_path).symbols:
                is_there = 0 < symbol.shndx < SHN_LORESERVE and not symbol.is_local
                if other is not source and is_there and symbol.name == name:
                    return Theirs(
                        name=name,
                        size_bytes=symbol.size_bytes,
                        is_function=symbol.type == STT_FUNC,
                        data=other.data,
                    )
        found = self.names.image.symbols.get(name)
        below = self.names.bringer(name)
        if found is None and below is None:
            return None
        if found is None:
            assert below is not None, "one of them has it"
            symbol = next(row for row in below.elf.symbols if row.name == name and row.shndx)
            is_function = symbol.type == STT_FUNC
            size = symbol.size_bytes
        else:
            is_function, size = found.is_function, found.size_bytes
        return Theirs(
            name=name,
            size_bytes=size,
            is_function=is_function,
            data=self._object(name) if is_wanted and found is not None else None,
        )

    def _object(self, name: str) -> bytes | None:
        path = self.originals.object_of(name, is_function=False)
        found = self.originals.data(path) if path else ""
        return None if isinstance(found, str) else found

    def _compare(
        self, side: DebugSide, symbol: str, die: Die, theirs: Theirs, source: SourceObject
    ) -> str:
        """Compare one declaration; return what cannot be told, "" if all can."""
        name = text_of(die, "DW_AT_name") or symbol
        subject = source.source_path
        if side.is_own(die):
            subject += f":{die.attributes['DW_AT_decl_line'].value}"
        is_function = die.tag == "DW_TAG_subprogram"
        is_address = not is_function and not size_bytes(bare_type(die))  # `extern char x[]`
        if is_function != theirs.is_function and theirs.size_bytes and not is_address:
            kinds = ("a variable", "a function")
            raise RefusedError(
                f"{subject}: `{theirs.name}` is {kinds[theirs.is_function]} of "
                f"{theirs.size_bytes} bytes, and `{name}` is declared as {kinds[is_function]}; "
                "declare it as Xen does"
            )
        if is_function:
            return _compare_functions(subject, name, source, theirs)
        return "" if theirs.is_function else self._compare_data(subject, side, name, die, theirs)

    def _compare_data(
        self, subject: str, side: DebugSide, name: str, die: Die, theirs: Theirs
    ) -> str:
        kind = bare_type(die)
        size = size_bytes(kind)
        is_open = kind is not None and kind.tag == "DW_TAG_array_type" and not size
        each = size_bytes(bare_type(kind)) if is_open else size
        other = None
        if theirs.data is not None:
            other = self._side(theirs.data).defined(theirs.name.rpartition("#")[2])
        if other is not None and other.tag != die.tag:
            other = None
        is_wrong = bool(
            theirs.size_bytes
            and (
                theirs.size_bytes % each if is_open and each else size and size != theirs.size_bytes
            )
        )
        comparison = Comparison(side)
        if other is not None and not comparison.agree(kind, bare_type(other)):
            is_wrong = True
        if is_wrong:
            real = (
                f"{theirs.size_bytes} bytes" if other is None else _shown(other, theirs.size_bytes)
            )
            because = f" ({comparison.difference})" if comparison.difference else ""
            raise RefusedError(
                f"{subject}: `{name}` is declared as {_shown(die, size)}, and `{theirs.name}` is "
                f"{real}{because}; declare it as Xen does"
            )
        if other is not None or (is_open and not theirs.size_bytes):
            return ""
        if size and not theirs.size_bytes:
            return f"the size of `{name}` is not known ({subject}: {_shown(die, size)})"
        return f"the type of `{name}` was not compared with Xen's"

    def _side(self, data: bytes) -> DebugSide:
        if data not in self._sides:
            self._sides[data] = DebugSide(data)
        return self._sides[data]


def _compare_functions(subject: str, name: str, source: SourceObject, theirs: Theirs) -> str:
    plain = theirs.name.rpartition("#")[2]
    old = function_type(theirs.data, plain) if theirs.data else ""
    new = function_type(source.data, name)
    if not old or not new:
        return f"the type of `{name}` was not compared with Xen's"
    if old != new:
        raise RefusedError(
            f"{subject}: `{theirs.name}` is `{old}`, and `{name}` is declared as `{new}`; "
            "give it the same type"
        )
    return ""


def _shown(die: Die, size: int) -> str:
    return f"`{spell(die, 0)}`" + (f" ({size} bytes)" if size else "")
