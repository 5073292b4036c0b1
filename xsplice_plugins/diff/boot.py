# SPDX-License-Identifier: Apache-2.0
"""What differs in code and data that the hypervisor needs only while it starts.

Their memory is freed once Xen runs, so nothing of them can be replaced, and nothing needs to be:
the next boot brings them. That is the whole answer only where nothing at run time relies on
what they would have left behind; so each row says whether its own source was edited, which names it
came to use, and what it would have done with new things (`diff.handed`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from msgspec.structs import replace

from xsplice_plugins.artefacts import BootOnly
from xsplice_plugins.diff.handed import Handed
from xsplice_plugins.diff.parts import EXTERNAL, NEW, OLD, Part, PartKind
from xsplice_plugins.diff.printed import only_prints_other_texts
from xsplice_plugins.target.sections import SectionClass

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from xsplice_plugins.diff.canon import Canon
    from xsplice_plugins.diff.close import Closure
    from xsplice_plugins.diff.compare import Comparison

#: Sections of class INIT that a running host still uses: CPUs that come up start in them.
_STAYS = re.compile(r"\.(?:trampoline|boot\.)")
_STATE = (SectionClass.WRITABLE, SectionClass.RO_AFTER_INIT, SectionClass.PERCPU)


def is_boot_only(part: Part) -> bool:
    """Tell whether a part is freed after boot."""
    return is_freed(part.section_name, part.section_class)


def is_freed(section_name: str, kind: SectionClass) -> bool:
    """Tell whether a section's memory is given back after boot."""
    return kind is SectionClass.INIT and _STAYS.match(section_name) is None


def needed(canon: Canon, closure: Closure) -> set[int]:
    """Return boot-only parts of the new object that code of the payload would use."""
    return {n for n in closure.blocked if is_boot_only(canon.new.all[n])}


def boot_rows(
    canon: Canon, comparison: Comparison, closure: Closure, edited: Collection[str] | None
) -> tuple[BootOnly, ...]:
    """Return what differs and is boot-only on both sides, sorted by name.

    Args:
        canon: Both objects under their pairing.
        comparison: What differs.
        closure: What the payload would take.
        edited: Names that the changed pieces of the sources have; ``None`` if nobody knows.
    """
    handed = Handed(canon, is_boot_only)
    rows = {}
    for number, row in _rows(canon, comparison, closure, edited, handed):
        uses = handed.by(number)._asdict() if number >= 0 else {}
        rows[row.name] = replace(row, **uses)
    return tuple(rows[name] for name in sorted(rows))


def _rows(
    canon: Canon,
    comparison: Comparison,
    closure: Closure,
    edited: Collection[str] | None,
    handed: Handed,
) -> Iterator[tuple[int, BootOnly]]:
    """Give each row with the number of its part in the new object, or `EXTERNAL`."""
    for number, change in comparison.changed.items():
        new, old = canon.new.all[number], canon.old.all[change.old]
        if is_boot_only(new) and is_boot_only(old):
            names, brings_state = _gained(canon, old, new)
            is_own = edited is None or old.name in edited or new.name in edited or brings_state
            reason = f"`{old.name}` runs only at boot ({new.section_name})"
            row = BootOnly(
                name=old.decorated,
                reason=reason,
                code="INIT_CODE",
                is_own=is_own,
                needs=names,
                leaves_same=only_prints_other_texts(canon, comparison, change.old, number),
            )
            yield number, row
    for number, how in comparison.data_changed.items():
        new, old = canon.new.all[number], canon.old.all[canon.pairing.old_of[number]]
        if is_boot_only(new) and is_boot_only(old) and number not in comparison.copied:
            row = _own(old, f"boot-time datum `{old.name}` changed its {how}")
            yield number, replace(row, outlives=_hands_on_another(canon, old, new))
    used = needed(canon, closure)
    for part in list(canon.new.all):
        if (
            part.kind in (PartKind.FUNCTION, PartKind.DATA)
            and part.number not in canon.pairing.old_of
            and part.number not in used
            and is_boot_only(part)
        ):
            reason = f"new `{part.name}` is used only at boot ({part.section_name})"
            yield part.number, _own(part, reason)
    for number in sorted(handed.left()):
        part = canon.new.all[number]
        row = _own(part, f"only boot code would have handed on new `{part.name}`")
        yield EXTERNAL, replace(row, outlives=True)
    for part in canon.old.all:
        if (
            part.kind is PartKind.DATA
            and part.number not in canon.pairing.new_of
            and is_boot_only(part)
        ):
            yield EXTERNAL, _own(part, f"`{part.name}` of {part.section_name} is removed")


def _hands_on_another(canon: Canon, old: Part, new: Part) -> bool:
    """Tell whether a table comes to name another function, which runs on after boot."""
    sides: list[set[tuple[int, str]]] = []
    for is_new, part in ((OLD, old), (NEW, new)):
        parts = canon.parts(is_new)
        sides.append(
            {
                (edge.offset, edge.name or parts.all[edge.part].name)
                for edge in parts.edges(part)
                if edge.part == EXTERNAL or _runs_later(parts.all[edge.part])
            }
        )
    return sides[0] != sides[1]


def _runs_later(part: Part) -> bool:
    return part.kind is PartKind.FUNCTION and not is_boot_only(part)


def _own(part: Part, reason: str) -> BootOnly:
    code = "INIT_CODE" if part.kind is PartKind.FUNCTION else "INIT_DATA"
    return BootOnly(name=part.decorated, reason=reason, code=code, is_own=True)


def _gained(canon: Canon, old: Part, new: Part) -> tuple[tuple[str, ...], bool]:
    """Return names of other objects that a function came to use, and whether state is among it.

    State that the payload brings would begin as no boot of this host has left it.
    """
    names: list[set[str]] = []
    brings_state = False
    for is_new, part in ((OLD, old), (NEW, new)):
        parts = canon.parts(is_new)
        edges = [e for n in parts.pieces.get(part.number, ()) for e in parts.edges(parts.all[n])]
        names.append({edge.name for edge in edges if edge.part == EXTERNAL})
        if is_new:
            targets = {edge.part for edge in edges if edge.part != EXTERNAL}
            brings_state = any(
                parts.all[n].section_class in _STATE and n not in canon.pairing.old_of
                for n in targets
            )
    return tuple(sorted(names[1] - names[0])), brings_state
