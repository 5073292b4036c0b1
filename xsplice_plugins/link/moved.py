# SPDX-License-Identifier: Apache-2.0
"""Globals that a fix moved from one object to another: the image has them already.

The object that defines one now sees something new. In an image a global name is defined once, so
a function of that name replaces the image's, and a variable of that name is the image's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from xsplice_plugins.artefacts import Cause, ChangedFunction, Delta, NewItem, Reference
from xsplice_plugins.elf.types import STT_FUNC, STT_OBJECT
from xsplice_plugins.errors import RefusedError

if TYPE_CHECKING:
    from xsplice_plugins.elf.types import Symbol
    from xsplice_plugins.link.image import ImageSymbol
    from xsplice_plugins.link.names import Names
    from xsplice_plugins.link.placement import Source

_MOVED = "it was moved here from another file, or stands for a weak definition"


def settle_moved(source: Source, names: Names) -> Source:
    """Return an object's record in which what the image has is not new.

    Args:
        source: One object with what changed in it.
        names: What the image has.

    Returns:
        The same: moved functions are changed ones, moved variables are referred to. A variable
        stays new, and is refused later for its name, where size or first content differ.

    Raises:
        RefusedError: The image was linked without this object.
    """
    delta, elf = source.delta, source.elf
    _check_linked(source, names)
    items = {item.symbol: item for item in delta.new if item.name in names.image.symbols}
    for symbol in elf.symbols:
        item = items.get(symbol.name)
        if item is None or symbol.is_local or not 0 < symbol.shndx < len(elf.sections):
            continue
        old = names.image.symbols[item.name]
        if symbol.type == STT_FUNC and old.is_function and not old.is_init:
            delta = _as_changed(delta, item, symbol, old)
        elif symbol.type == STT_OBJECT and not old.is_function:
            section = elf.sections[symbol.shndx]
            start, end = symbol.value, symbol.value + symbol.size_bytes
            content = section.data[start:end] or bytes(symbol.size_bytes)
            known = names.image.read(old.addr_virt, old.size_bytes) or bytes(old.size_bytes)
            if (
                section.is_write
                and content == known
                and not any(start <= reloc.offset < end for reloc in elf.relocs(section))
            ):
                delta = _as_known(delta, item, symbol)
    return replace(source, delta=delta)


def _check_linked(source: Source, names: Names) -> None:
    """Refuse a change of functions none of whose neighbours is in the image either."""
    own = {s.decorated for s in source.elf.symbols if s.type == STT_FUNC and s.shndx}
    asked = {row.name for row in source.delta.changed if row.place is None}
    if asked and not any(map(names.is_taken, own | asked)):
        raise RefusedError(
            f"{source.elf.name}: {names.unknown(min(asked))}; no other function of this object is "
            "there: the image was linked without it, nothing runs this code; leave it out"
        )


def _as_changed(delta: Delta, item: NewItem, symbol: Symbol, old: ImageSymbol) -> Delta:
    changed = ChangedFunction(
        name=item.name,
        reason=_MOVED,
        cause=Cause.SOURCE,
        symbol=symbol.name,
        symbol_baseline=symbol.name,
        section=item.section,
        size_before_bytes=old.size_bytes,
        size_after_bytes=symbol.size_bytes,
    )
    rows = tuple(sorted((*delta.changed, changed), key=lambda row: row.name))
    return replace(delta, changed=rows, new=tuple(row for row in delta.new if row is not item))


def _as_known(delta: Delta, item: NewItem, symbol: Symbol) -> Delta:
    reference = Reference(
        section=symbol.shndx, offset=symbol.value, size_bytes=symbol.size_bytes, target=item.name
    )
    start = (symbol.shndx, symbol.value)
    return replace(
        delta,
        new=tuple(row for row in delta.new if row is not item),
        extents=tuple(e for e in delta.extents if (e.section, e.offset) != start),
        references=(*delta.references, reference),
    )
