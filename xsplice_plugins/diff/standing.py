# SPDX-License-Identifier: Apache-2.0
"""Stop what no payload can bring, for the image keeps it where it is.

So are entries of a list that the linker makes of all objects' sections of one name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.diff.compare import may_copy
from xsplice_plugins.diff.readers import gathered, kept_by
from xsplice_plugins.diff.refuse import refusal
from xsplice_plugins.target.sections import SectionClass

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xsplice_plugins.artefacts import Refusal
    from xsplice_plugins.diff.canon import Canon
    from xsplice_plugins.diff.compare import Comparison
    from xsplice_plugins.diff.parts import Part

_FOUND = "nothing in the object refers to it, so a list made at link time holds it"


def refuse_lists(canon: Canon, comparison: Comparison) -> Iterator[Refusal]:
    """Refuse what came, went or changed of data that only a list made at link time leads to.

    Args:
        canon: Both objects under their pairing.
        comparison: What differs.
    """
    for number in sorted(comparison.gathered):
        part, old = canon.new.all[number], canon.pairing.old_of.get(number)
        if old is None:
            text = f"new `{part.name}` of {part.section_name}: {_FOUND}"
            yield refusal("REGISTRY", part.decorated, text)
        elif number in comparison.data_changed:
            was, how = canon.old.all[old], comparison.data_changed[number]
            how = how if how.startswith("points") else f"changed its {how}"
            text = f"`{was.name}` of {was.section_name} {how}: {_FOUND}"
            yield refusal("REGISTRY", was.decorated, text)
    for number in sorted(gathered(canon.old) - canon.pairing.new_of.keys()):
        part = canon.old.all[number]
        text = f"`{part.name}` of {part.section_name} is removed: {_FOUND}"
        yield refusal("REGISTRY", part.decorated, text)
    for number, new in sorted(canon.pairing.new_of.items()):
        part = canon.old.all[number]
        if part.section_class is SectionClass.REGISTRY:
            homes = _homes(part, canon.new.all[new])
            if homes[0] != homes[1]:
                text = f"`{part.name}` moved from {homes[0]} to {homes[1]}: lists are sorted by it"
                yield refusal("REGISTRY", part.decorated, text)


def _homes(*parts: Part) -> tuple[str, ...]:
    """Return in which sections parts lie, without what a compiler adds of their own names."""
    return tuple(part.section_name.removesuffix(f".{part.name}") for part in parts)


def refuse_again(canon: Canon, comparison: Comparison) -> Iterator[Refusal]:
    """Refuse a table that a payload beneath brought again, where not everybody would see a copy."""
    for number in sorted(comparison.again):
        if may_copy(canon, comparison, number):
            continue
        old = canon.old.all[canon.pairing.old_of[number]]
        keeper = kept_by(canon, number) or "it is no longer a local constant"
        text = (
            f"a payload beneath changed the content of `{old.name}`, this fix needs a copy "
            f"as well, and {keeper}; one payload that takes its place, with SUPERSEDES, may do both"
        )
        yield refusal("DATA_VALUE", old.decorated, text)
