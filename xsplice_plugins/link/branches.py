# SPDX-License-Identifier: Apache-2.0
"""Find branches that leave a taken range of code without a relocation.

An assembler resolves branches within a section by itself. Where a delta takes a part of a code
section only, such a branch would land in whatever the payload holds behind it, and no relocation
tells. Seen on Xen 4.17.5: `nvmx_handle_vmx_insn` branches to code of ``.subsection 1``, which lies
behind the end that its symbol states.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.errors import RefusedError

if TYPE_CHECKING:
    from xsplice_plugins.link.placement import Placement
    from xsplice_plugins.target.abi import Abi

_CODE = "SHARED_SECTION"


def check_branches(placement: Placement, abi: Abi) -> None:
    """See to it that code of which only a part is taken does not branch out of it.

    Raises:
        RefusedError: A branch without a relocation leaves its range.
    """
    snippets = abi.profile.snippet_sections
    for source, pieces in zip(placement.sources, placement.pieces, strict=True):
        for piece in pieces:
            section = source.elf.sections[piece.section]
            is_whole = (piece.start, piece.end) == (0, section.size_bytes)
            if is_whole or not section.is_exec or section.name in snippets:
                continue  # replacements run at the place of the original
            fields = {reloc.offset for reloc in source.elf.relocs(section)}
            for row in source.references.instructions(piece.section, piece.start, piece.end):
                if row.target is None or row.field in fields:
                    continue
                if not piece.start <= row.target < piece.end:
                    raise RefusedError(
                        f"{source.where(section, row.field)}: a branch leaves the range "
                        f"that the delta takes, to +{row.target:#x}, and has no relocation "
                        f"[{_CODE}]; compile the object with -ffunction-sections"
                    )
