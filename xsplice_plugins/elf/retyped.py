# SPDX-License-Identifier: Apache-2.0
"""What an image's types say otherwise than the objects that were built again for it.

Code that is compiled with the objects' headers finds a member where they say, reads a variable as
they say, calls through a pointer as they say, and stores the constant that they say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.elf.debuginfo import (
    AT_BYTE_SIZE,
    AT_CONST_VALUE,
    AT_EXTERNAL,
    AT_NAME,
    AT_TYPE,
    TAG_ENUM,
    TAG_SUBPROGRAM,
    TAG_TYPEDEF,
    TAG_VARIABLE,
    debug_info,
    debug_units,
    function_around,
    number_of,
    origin_of,
    type_name,
)
from xsplice_plugins.elf.layouts import Layouts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from xsplice_plugins.elf.debuginfo import Unit
    from xsplice_plugins.elf.layouts import StructLayout
    from xsplice_plugins.elf.reader import ElfFile

#: What a name stands for, what of it is otherwise, what that is by the objects, and in the image.
Retyped = tuple[tuple[str, str, str, str], ...]
_Rows = tuple[tuple[str, str], ...]
_SIZE = "its size"
_TYPE = "its type"
_KINDS = {TAG_SUBPROGRAM: "function", TAG_TYPEDEF: "typedef"}
_NOT_THERE = "not there"


def retyped(objects: Iterable[ElfFile], image: ElfFile) -> Retyped:
    """Compare all that objects know by name with all that an image knows: see `known_by`.

    Files are not paired, for another build calls them otherwise. Where files have several things
    of one name, both sides must have the same ones.

    Args:
        objects: As they were built again.
        image: The one that was shipped.

    Returns:
        One row for each that is otherwise, or that only one side knows, by name.

    Raises:
        DiffError: The debug information is damaged, or of a form that is not known.
    """
    ours = _all_known((info.entries, info.place_of) for info in map(debug_info, objects))
    theirs = _all_known(debug_units(image))
    return tuple(
        (name, *_difference(ours.get(name, set()), theirs.get(name, set())))
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    )


def known_by(file: ElfFile) -> dict[str, _Rows]:
    """Return what an object's debug information knows by name.

    Args:
        file: One without debug information knows nothing.

    Returns:
        By name: structures with their members; variables and functions, those that it declares
        and uses as well, and names of types, each with its type; enumerations with their sizes, and
        their constants with their values. What lies within a function goes by its name too, and
        parameters by theirs.

    Raises:
        DiffError: The debug information is damaged, or of a form that is not known.
    """
    info = debug_info(file)
    return _known(Layouts(info.entries, info.place_of, signatures=True))


def _all_known(units: Iterable[Unit]) -> dict[str, set[_Rows]]:
    """Return all that several objects know, each name with the different things it stands for.

    Who calls a function may declare it without the names of its parameters. Where that is the type
    of what another one declares with names, it says nothing more, and is left out.
    """
    found: dict[str, set[_Rows]] = {}
    nameless: dict[str, set[tuple[str, str]]] = {}
    for entries, place_of in units:
        layouts = Layouts(entries, place_of, signatures=True)
        for name, rows in _known(layouts).items():
            found.setdefault(name, set()).add(rows)
        for name, row in _nameless(layouts):
            nameless.setdefault(name, set()).add(row)
    for name, implied in nameless.items():
        kept = (tuple(row for row in rows if row not in implied) for rows in found[name])
        found[name] = {rows for rows in kept if rows}
    return found


def _nameless(layouts: Layouts) -> Iterator[tuple[str, tuple[str, str]]]:
    """Give what a declaration without names would say of each function whose parameters have some.

    One that names some of them only is a type of its own.
    """
    for number, entry in enumerate(layouts.entries):
        parts = layouts.children.get(number, ()) if entry.tag == TAG_SUBPROGRAM else ()
        if AT_NAME in entry.values and any(AT_NAME in part.values for part in parts):
            text = layouts.signature(number, is_named=False)
            home = function_around(layouts.info, number)
            within = f" in {home}" if home else ""
            yield f"function {entry.values[AT_NAME]}{within}", (_TYPE, f"`{text}`")


def _known(layouts: Layouts) -> dict[str, _Rows]:
    found = {
        name: _rows(layout)
        for is_inside in (False, True)
        for name, layout in layouts.by_name(is_inside=is_inside).items()
    }
    for name, what, text in (*_typed(layouts), *_constants(layouts)):
        found[name] = tuple(sorted({*found.get(name, ()), (what, text)}))
    return found


def _typed(layouts: Layouts) -> Iterator[tuple[str, str, str]]:
    """Give what has a type: variables, functions and names of types, each with the text of it.

    A declaration may say less than what defines it (`extern int table[];`): both are given.
    """
    for number, entry in enumerate(layouts.entries):
        if entry.tag not in (TAG_VARIABLE, TAG_SUBPROGRAM, TAG_TYPEDEF):
            continue
        is_variable = entry.tag == TAG_VARIABLE
        first = layouts.entries[origin_of(layouts.info, number)] if is_variable else entry
        if AT_NAME not in first.values:
            continue
        home = function_around(layouts.info, number)
        is_static = not home and AT_EXTERNAL not in first.values
        kind = _KINDS.get(entry.tag) or ("static" if is_static else "variable")
        typed = entry if AT_TYPE in entry.values else first
        is_function = entry.tag == TAG_SUBPROGRAM
        text = layouts.signature(number) if is_function else layouts.type_text(typed)
        within = f" in {home}" if home else ""
        yield f"{kind} {first.values[AT_NAME]}{within}", _TYPE, f"`{text}`"


def _constants(layouts: Layouts) -> Iterator[tuple[str, str, str]]:
    """Give the sizes of enumerations, and their constants, each with its value."""
    for number, entry in enumerate(layouts.entries):
        if entry.tag == TAG_ENUM and {AT_NAME, AT_BYTE_SIZE} <= entry.values.keys():
            home = function_around(layouts.info, number)
            name = type_name(entry) + (f" in {home}" if home else "")
            yield name, _SIZE, f"{number_of(entry.values[AT_BYTE_SIZE]):#x}"
        for child in layouts.children.get(number, ()) if entry.tag == TAG_ENUM else ():
            value = number_of(child.values.get(AT_CONST_VALUE, 0))
            yield f"constant {child.values.get(AT_NAME, '')}", "its value", str(value)


def _add(seen: dict[str, set[_Rows]], known: dict[str, _Rows]) -> None:
    for name, rows in known.items():
        seen.setdefault(name, set()).add(rows)


def _rows(layout: StructLayout) -> _Rows:
    """Return each member with its place, size and type, then the size of all."""
    rows = [
        (f"`{name}`", f"{_count(bits)}, {_count(size)} of `{kind}`")
        for (name, bits, size), kind in zip(layout.members, layout.types, strict=True)
    ]
    return (*rows, (_SIZE, f"{layout.size_bytes:#x}"))


def _count(bits: int) -> str:
    """Return a number of bits as bytes, and bits where some are left."""
    return f"{bits // 8:#x}" + (f" and {bits % 8} bits" if bits % 8 else "")


def _difference(ours: set[_Rows], theirs: set[_Rows]) -> tuple[str, str, str]:
    """Return the first thing that is otherwise, and what it is on both sides."""
    here = dict(min(ours - theirs, default=min(ours, default=())))
    there = dict(min(theirs - ours, default=min(theirs, default=())))
    name = next((name for name in (*here, *there) if here.get(name) != there.get(name)), _SIZE)
    return name, here.get(name, _NOT_THERE), there.get(name, _NOT_THERE)
