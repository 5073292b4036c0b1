# SPDX-License-Identifier: Apache-2.0
"""The payload's symbol table: no name more than is needed.

Every named symbol of a payload, local ones too, takes part in the hypervisor's search for
duplicates unless its address is that of a record's ``new_addr`` (`build_symbol_table` of
xen/common/livepatch.c). So only
functions, globals and named data keep a name; strings, constants and compilers' numbered copies
are reached through section symbols, whose names are empty and therefore invisible.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from xsplice_plugins.elf.types import (
    STB_GLOBAL,
    STB_LOCAL,
    STT_FUNC,
    STT_OBJECT,
    STT_SECTION,
)
from xsplice_plugins.elf.writer import UNDEFINED, OutSymbol
from xsplice_plugins.errors import LinkError
from xsplice_plugins.link.relocs import Entries, section_key, undefined_key
from xsplice_plugins.link.sections import TEXT
from xsplice_plugins.target.abi import HOOK_PREFIX

if TYPE_CHECKING:
    from xsplice_plugins.elf.types import Symbol
    from xsplice_plugins.link.funcs import NewBody
    from xsplice_plugins.link.names import Names
    from xsplice_plugins.link.placement import Placement, Spot

_NUMBERED = re.compile(r"\.[0-9]+$")  #: gcc's static locals and clones of data


def find_entries(placement: Placement, bodies: tuple[NewBody, ...]) -> Entries:
    """Find the places that symbols of other objects, or the image's, may mean.

    Raises:
        LinkError: Two objects bring the same global.
    """
    replaced = {(b.source, b.symbol.shndx, b.symbol.value): b.changed.name for b in bodies}
    exported: dict[str, tuple[int, int, int]] = {}
    opened: dict[str, str] = {}
    definers: dict[str, int] = {}
    for number, source in enumerate(placement.sources):
        starts = {(row.section, row.offset): row.target for row in source.delta.references}
        for symbol in source.elf.symbols:
            known = starts.get((symbol.shndx, symbol.value), symbol.name)
            is_taken = _is_taken(placement, number, symbol)
            if symbol.is_local or not (is_taken or known != symbol.name):
                continue
            if symbol.name in definers:
                other = placement.sources[definers[symbol.name]].elf.name
                raise LinkError(
                    f"{source.elf.name}: `{symbol.name}` is defined here and in {other}; "
                    "make one of them static"
                )
            definers[symbol.name] = number
            if is_taken:
                exported[symbol.name] = (number, symbol.shndx, symbol.value)
            else:
                opened[symbol.name] = known
    return Entries(replaced=replaced, exported=exported, opened=opened)


def _is_taken(placement: Placement, number: int, symbol: Symbol) -> bool:
    sections = placement.sources[number].elf.sections
    if not 0 < symbol.shndx < len(sections) or sections[symbol.shndx].name.startswith(HOOK_PREFIX):
        return False  # hook slots are weak data that nobody refers to
    return placement.place_of(number, symbol) is not None


def make_symbols(
    placement: Placement,
    bodies: tuple[NewBody, ...],
    names: Names,
    sections: tuple[str, ...],
    undefined: tuple[str, ...],
) -> tuple[tuple[OutSymbol, ...], tuple[str, ...]]:
    """Make the symbol table, and notes for people.

    ``sections`` are those of the payload that relocations refer to, ``undefined`` what the
    hypervisor resolves.

    Raises:
        LinkError: A new global has a name that the hypervisor knows already.
    """
    result = {
        section_key(name): OutSymbol(key=section_key(name), name="", section=name, type=STT_SECTION)
        for name in sections
    }
    notes = []
    mark = _mark(placement)
    replaced = {(b.source, b.symbol.shndx, b.symbol.value): b for b in bodies}
    for number, spot, symbol in _placed(placement):
        body = replaced.get((number, symbol.shndx, symbol.value))
        if body is not None:
            # Another symbol at the same place would be an alias.
            name = body.changed.name if symbol == body.symbol else ""
        else:
            name = _new_name(symbol, names, mark, placement.sources[number].elf.name)
            if name and name != symbol.decorated:
                notes.append(f"`{symbol.decorated}` is called `{name}` in the payload")
        if name and name not in result:
            result[name] = OutSymbol(
                key=name,
                name=name,
                section=spot.section,
                value=spot.offset,
                size_bytes=symbol.size_bytes,
                bind=STB_LOCAL if symbol.is_local else STB_GLOBAL,
                type=symbol.type,
            )
    for name in undefined:
        key = undefined_key(name)
        result[key] = OutSymbol(key=key, name=name, section=UNDEFINED, bind=STB_GLOBAL)
    return tuple(result.values()), tuple(notes)


def _placed(placement: Placement) -> list[tuple[int, Spot, Symbol]]:
    """Return the functions and data that the payload takes, in the order of the file."""
    result = []
    for number, source in enumerate(placement.sources):
        for symbol in source.elf.symbols:
            if symbol.type in (STT_FUNC, STT_OBJECT) and symbol.name:
                spot = placement.place_of(number, symbol)
                if spot is not None and not spot.section.startswith(HOOK_PREFIX):
                    result.append((number, spot, symbol))
    return sorted(result, key=lambda row: (row[0], row[1].section, row[1].offset, row[2].name))


def _new_name(symbol: Symbol, names: Names, mark: str, object_name: str) -> str:
    """Return the name of a symbol that the payload adds; "" to leave it nameless."""
    name = symbol.decorated
    if not symbol.is_local:
        if names.is_taken(name):
            raise LinkError(
                f"{object_name}: the payload would add `{name}`, which the running hypervisor "
                "has already; rename it in the fix"
            )
        name = names.beside(name, mark)
    elif symbol.type != STT_FUNC:
        is_passing = symbol.name.startswith((".L", "__func__", "__PRETTY")) or _NUMBERED.search(
            symbol.name
        )
        is_taken = names.is_taken(name) or names.beside(name, mark) != name
        return "" if is_passing or is_taken else name
    else:
        # A local function whose name is taken, such as the `.cold` part of a replaced one: a trace
        # shall still name it, and differently in each payload.
        name = names.beside(f"{name}.{mark}" if names.is_taken(name) else name, mark)
    if name == symbol.decorated and not symbol.is_local:
        return name
    size = len(name.encode("utf-8", "surrogateescape"))
    return name if size <= names.abi.facts.symbol_length_max else ""


def _mark(placement: Placement) -> str:
    text = placement.drafts.get(TEXT)
    return hashlib.sha256(bytes(text.data) if text else b"").hexdigest()[:8]
