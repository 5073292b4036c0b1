# SPDX-License-Identifier: Apache-2.0
"""What hooks leave in the hypervisor once their payloads are gone: values, and memory.

Neither is wrong by itself: a hook may be there to set an option for good. It is said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.hypervisor.image.memory import Perm
from xsplice_plugins.hypervisor.run.watch import HEAP_OWNER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xsplice_plugins.hypervisor.core import Hypervisor

_NAMED_MAX = 5

Data = list[tuple[int, bytes]]


def xens_data(hv: Hypervisor) -> Data:
    """Give the hypervisor's own data that can be written, with where it lies."""
    own = (segment for segment in hv.memory.segments() if segment.owner == "xen")
    return [(part.addr_virt, bytes(part.data)) for part in own if Perm.WRITE in part.perm]


def remaining(hv: Hypervisor, before: Sequence[tuple[int, bytes]]) -> tuple[str, ...]:
    """Say what hooks left behind.

    Args:
        hv: The hypervisor, after the last unload.
        before: Its data before the first load, from `xens_data`.

    Returns:
        Sentences for people: variables of the hypervisor with another value, allocated bytes.
    """
    names: dict[str, None] = {}
    for start, old in before:
        new = hv.memory.peek(start, len(old))
        if new == old:
            continue
        for at, (was, byte) in enumerate(zip(old, new, strict=True)):
            if was != byte:
                place = hv.image.name_of(start + at) or f"{start + at:#x}"
                names[place.partition("+")[0]] = None
    listed = list(names)
    texts = [f"{name} keeps what hooks wrote after the unload" for name in listed[:_NAMED_MAX]]
    if len(listed) > _NAMED_MAX:
        texts.append(f"so do {len(listed) - _NAMED_MAX} more variables")
    kept = [s.name for s in hv.memory.segments() if s.owner == HEAP_OWNER]
    if kept:
        total = sum(int(name.partition(" ")[0]) for name in kept)
        texts.append(f"{total} bytes that hooks allocated stay allocated after the unload")
    return tuple(texts)
