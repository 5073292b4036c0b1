# SPDX-License-Identifier: Apache-2.0
"""What an image has otherwise than the objects, because it was not linked from them.

A base that was built again is matched with the image that was shipped, function by function. What
differs there is known by name. It is no difference of a fix that leaves it alone and does not need
it: the running hypervisor keeps what it has.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, MutableMapping

from xsplice_plugins.check.compare import Side, own_size, units_of
from xsplice_plugins.check.memory import Loaded
from xsplice_plugins.check.objects import ObjectFile, Ref, Unit
from xsplice_plugins.elf.types import SHN_LORESERVE, SHN_UNDEF


def settle(
    sides: list[tuple[Side, list[Side]]],
    olds: Mapping[str, Side],
    loaded: Loaded,
    otherwise: Container[tuple[str, str]],
    differences: MutableMapping[tuple[str, str], None],
) -> Iterator[tuple[str, str]]:
    """Take back differences of what the image is known to have otherwise, unless it is needed.

    Args:
        sides: The new objects.
        olds: The objects before the fix, by path.
        loaded: The payload.
        otherwise: Object and name of what the image has otherwise.
        differences: Subject and text of each; those that count for nothing are taken out.

    Returns:
        What the payload replaces, calls or reads and the image has otherwise: name and text.
    """
    outside = (loaded.image.only(row.name) for row in loaded.elf.symbols if row.shndx == SHN_UNDEF)
    needed = {symbol.value for symbol in outside if symbol}
    for side, _ in sides:
        old = olds.get(side.obj.path)
        units = [*units_of(side.obj, is_code=True), *units_of(side.obj, is_code=False)]
        for unit in units:
            home = side.homes.of(unit)
            if (side.obj.path, unit.name) not in otherwise or home is None:
                continue
            end = home + max(1, own_size(side.obj, unit).end - unit.start)
            if any(home <= value < end for value in needed):
                yield unit.name, "the fix needs it, and the hypervisor has it otherwise"
            elif old is not None and _is_untouched(old.obj, side.obj, unit):
                for key in [key for key in differences if key[0] == unit.name]:
                    del differences[key]


def _is_untouched(old: ObjectFile, new: ObjectFile, unit: Unit) -> bool:
    """Tell whether the fix leaves a unit as it was: bytes, and what its fields name."""
    is_code = new.elf.sections[unit.section].is_exec
    same = [row for row in units_of(old, is_code=is_code) if row.name == unit.name]
    if len(same) != 1:
        return False
    rows = ((old, same[0]), (new, unit))
    texts = [obj.content(row.section, row.start, row.end) for obj, row in rows]
    refs = [
        [
            (ref.at - row.start, ref.type, ref.addend, _meaning(obj, ref, row))
            for ref in obj.refs_in(row.section, row.start, row.end)
        ]
        for obj, row in rows
    ]
    return texts[0] == texts[1] and refs[0] == refs[1]


def _meaning(obj: ObjectFile, ref: Ref, unit: Unit) -> object:
    """Return what a field names: a text or constant by content, all else by name."""
    index = ref.symbol.shndx
    if 0 < index < SHN_LORESERVE and obj.is_merged(index):
        return obj.piece(ref, unit.section)
    return ref.symbol.decorated or obj.elf.sections[index].name
