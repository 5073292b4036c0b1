# SPDX-License-Identifier: Apache-2.0
"""Physical addresses and page numbers that a payload computes of its own code and data.

`virt_to_maddr`, `virt_to_mfn`, `virt_to_page` and `__pa` know two areas: the direct map, and the
hypervisor's image, which lies in one piece behind `xen_phys_start`. A payload lies in neither, on
pages of its own. Source: `__virt_to_maddr` of xen/arch/x86/include/asm/x86_64/page.h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable

    from xsplice_plugins.link.running import Running
    from xsplice_plugins.target.carried import At

#: Where the image starts in memory: nothing else is counted from there.
_START = "xen_phys_start"


def physical(running: Running) -> tuple[str, ...]:
    """Say where the address of something of the payload's own is added to the image's start.

    Args:
        running: The payload's code.

    Returns:
        Sentences for people, sorted.
    """
    hooks = {place for places in running.hooks.values() for place in places}
    return tuple(
        sorted(
            {
                f"{running.title(running.code.start_of(row.place))} computes a physical address "
                f"from {running.title(own)}, which lies in the payload: it is that of another page"
                for row in running.carried.walk(running.roots | hooks)
                for own in _counted(running, row)
                if isinstance(own, tuple)
            }
        )
    )


def _counted(running: Running, row: At) -> set[Hashable]:
    """Return the variables of which an instruction joins the address with the image's start."""
    effect, state = row.effect, row.state
    if effect.compares or effect.stores or row.name or row.inner:
        return set()
    words = state.of(effect.values, is_address=False)
    words |= running.carried.names(row) if effect.loads else set()
    return state.of(effect.values, is_address=True) if _START in words else set()
