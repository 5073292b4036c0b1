# SPDX-License-Identifier: Apache-2.0
"""Hook sections that the fix's author wrote: kept, and checked slot by slot.

Source: livepatch specification 2.3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.errors import LinkError
from xsplice_plugins.link.relocs import section_key
from xsplice_plugins.link.sections import TEXT
from xsplice_plugins.target.abi import HOOK_PREFIX, POINTER_SIZE_BYTES, SINGLE_HOOKS

if TYPE_CHECKING:
    from xsplice_plugins.elf.writer import OutReloc
    from xsplice_plugins.link.placement import Layout


def check_hooks(layout: Layout, relocs: dict[str, tuple[OutReloc, ...]]) -> tuple[str, ...]:
    """Check the hooks of all objects.

    Args:
        layout: Where everything went.
        relocs: Relocations of each of the payload's sections.

    Returns:
        Names of the hook sections, sorted.

    Raises:
        LinkError: Two hooks where one may be, a slot that calls nothing or leaves the payload.
    """
    hooks = tuple(sorted(name for name in layout.drafts if name.startswith(HOOK_PREFIX)))
    for name in hooks:
        size = layout.drafts[name].size_bytes
        owners = ", ".join(
            source.elf.name
            for source, pieces in zip(layout.sources, layout.pieces, strict=True)
            if any(piece.kind.name == name for piece in pieces)
        )
        if name.removeprefix(HOOK_PREFIX) in SINGLE_HOOKS and size != POINTER_SIZE_BYTES:
            raise LinkError(
                f"{owners}({name}): {size // POINTER_SIZE_BYTES} hooks where the hypervisor takes "
                "one; call one from the other"
            )
        slots = {reloc.offset: reloc for reloc in relocs[name]}
        wanted = set(range(0, size, POINTER_SIZE_BYTES))
        if size % POINTER_SIZE_BYTES or set(slots) != wanted:
            raise LinkError(
                f"{owners}({name}): a slot is no pointer to a function; use Xen's "
                "LIVEPATCH_*_HOOK macros"
            )
        for offset, reloc in sorted(slots.items()):
            if reloc.symbol != section_key(TEXT):
                raise LinkError(
                    f"{owners}({name}+{offset:#x}): the hook is no function of the payload; "
                    "write one in the fix"
                )
    return hooks
