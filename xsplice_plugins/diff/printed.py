# SPDX-License-Identifier: Apache-2.0
"""Whether two versions of a function differ in nothing but the texts that they print.

Then one leaves in memory what the other leaves. A text that is read in any other way (compared,
copied, measured) may decide on what is stored, so only ways that end in a printing call count.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xsplice_plugins.diff import streams
from xsplice_plugins.diff.compare import entries_alike
from xsplice_plugins.diff.parts import EXTERNAL, PartKind
from xsplice_plugins.target.machine import Flow

if TYPE_CHECKING:
    from xsplice_plugins.diff.canon import Canon
    from xsplice_plugins.diff.compare import Comparison
    from xsplice_plugins.diff.normalise import ObjectParts
    from xsplice_plugins.diff.streams import StreamStep
    from xsplice_plugins.target.machine import Effect

#: They print what they are given, return nothing, and store only where a text says ``%n``.
#: Source: xen/include/xen/lib.h, xen/drivers/char/console.c, xen/common/vsprintf.c.
_PRINTING = re.compile(r"printk|guest_printk|debugtrace_printk|panic")
_CONVERSION = re.compile(rb"%[-+ #0-9.*]*[hlLqzZt]*(.)", re.DOTALL)


def only_prints_other_texts(canon: Canon, comparison: Comparison, old: int, new: int) -> bool:
    """Tell whether a changed function is shown to leave in memory what the old one leaves.

    Args:
        canon: Both objects under their pairing.
        comparison: What differs; code that uses data whose content changed is not the same.
        old: The function in the old object.
        new: And in the new one.
    """
    apart = streams.texts_apart(canon, old, new)
    if not apart or not entries_alike(canon, old, new):
        return False
    used = {e.part for n in canon.new.pieces[new] for e in canon.new.edges(canon.new.all[n])}
    return used.isdisjoint(comparison.data_changed) and all(
        _are_printed(parts, number, apart) for parts, number in ((canon.old, old), (canon.new, new))
    )


def _are_printed(parts: ObjectParts, function: int, apart: set[int]) -> bool:
    """Follow the texts' addresses to the calls that print them, without any way around."""
    arguments = parts.profile.machine.registers.arguments
    effects = _effects(parts, function)
    held: set[str] = set()  #: registers with the address of a text, or a part of it
    piece = -1
    for i, step in enumerate(streams.steps(parts, function)):
        effect = effects.get((step.piece, step.offset))
        if held and step.piece != piece:
            return False
        piece = step.piece
        if i in apart:
            if effect is None or not _takes_text(parts, step, effect, held):
                return False
            held |= effect.writes
        elif held:
            if effect is None:
                return False
            if effect.flow in (Flow.CALL, Flow.JUMP) and _prints(step):
                if not held.issubset(arguments):
                    return False  # it survives the call
                held = set()
            elif effect.flow is not Flow.NEXT or not held.isdisjoint(
                effect.values | effect.through | effect.writes
            ):
                return False
    return not held


def _takes_text(parts: ObjectParts, step: StreamStep, effect: Effect, held: set[str]) -> bool:
    """Tell whether an instruction only puts a text's address into registers."""
    is_taking = effect.flow is Flow.NEXT and bool(effect.writes) and effect.values <= held
    return (
        is_taking
        and not (effect.loads or effect.stores or effect.compares)
        and not any(_stores_length(parts, edge.part) for edge in step.edges)
    )


def _stores_length(parts: ObjectParts, number: int) -> bool:
    part = parts.all[number]
    assert part.kind is PartKind.STRING, "only texts are apart"
    return b"n" in _CONVERSION.findall(parts.content(part))


def _prints(step: StreamStep) -> bool:
    return len(step.edges) == 1 and all(
        edge.part == EXTERNAL and not edge.at and _PRINTING.fullmatch(edge.name)
        for edge in step.edges
    )


def _effects(parts: ObjectParts, function: int) -> dict[tuple[int, int], Effect]:
    result = {}
    for number in parts.pieces[function]:
        part = parts.all[number]
        end = part.offset + part.size_bytes
        for row in parts.references.effects(part.section, part.offset, end):
            result[number, row.start - part.offset] = row
    return result
