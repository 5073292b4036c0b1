# SPDX-License-Identifier: Apache-2.0
"""Code that runs in the place of other code: alternatives, and what goes on after an exception."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.target.sections import SectionClass

if TYPE_CHECKING:
    from collections.abc import Callable

    from xsplice_plugins.elf.types import Section
    from xsplice_plugins.target.references import References, Target

Place = tuple[int, int]  #: section, offset


class Detours:
    """The ways beside the code of one object, as its tables tell.

    A linked file has tables without relocations, and no ways are known there.
    """

    def __init__(
        self, references: References, targets: Callable[[Section], dict[int, Target]]
    ) -> None:
        """Read the tables of the object that ``references`` describes."""
        self.beside: dict[Place, set[Place]] = {}  #: instruction -> what may run in its place
        self.behind: dict[Place, Place] = {}  #: end of such code -> where it goes on
        #: start of such code out of line -> whose place it takes
        self.owners: dict[Place, Place] = {}
        for section in references.file.sections:
            row = references.profile.table(section.name)
            if row is None or not row.entry_size_bytes or row.snippet_field is None:
                continue
            rows = targets(section)
            for entry in range(
                0, section.size_bytes - row.entry_size_bytes + 1, row.entry_size_bytes
            ):
                owner = _place(rows.get(entry + row.owner_field))
                snippet = _place(rows.get(entry + row.snippet_field))
                if owner is None or snippet is None:
                    continue
                start, name = snippet, references.file.sections[snippet[0]].name
                if references.profile.class_of_name(name) is SectionClass.SNIPPETS:
                    self.owners[snippet] = owner
                if row.snippet_length_field is not None:
                    length = section.data[entry + row.snippet_length_field]
                    replaced = sum(section.data[entry + at] for at in row.rewritten_lengths)
                    after = (owner[0], owner[1] + replaced)
                    self.behind[snippet[0], snippet[1] + length] = after
                    start = snippet if length else after
                self.beside.setdefault(owner, set()).add(start)

    def owner_of(self, place: Place) -> Place:
        """Return whose place code out of line takes; any other place itself."""
        starts = [at for at in self.owners if at[0] == place[0] and at <= place]
        return self.owners[max(starts)] if starts else place


def _place(target: Target | None) -> Place | None:
    if target is None or target.section_index is None:
        return None
    return target.section_index, target.offset
