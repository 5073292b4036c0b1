# SPDX-License-Identifier: Apache-2.0
"""Erratum 843419 of Cortex-A53: which ADRP must not lie in the last two words of a page.

One that a load or store follows, and then, at once or one instruction later, a load or store by the
ADRP's register: that last one may go to a wrong address. Xen's link mends it
(``--fix-cortex-a53-843419``), the loader of live patches does not.

Sources: Arm's notice ARM-EPM-048406; xen/arch/arm/arch.mk.
"""

from __future__ import annotations

import struct

PAGE_END_BYTES = 8  #: of a page, where the ADRP must not lie
_ADRP, _ADRP_MASK = 0x90000000, 0x9F000000
_MEMORY, _MEMORY_MASK = 0x08000000, 0x0A000000  #: all loads and stores
_BY_NUMBER, _BY_NUMBER_MASK = 0x39000000, 0x3B000000  #: with an unsigned number behind the register


def page_end_traps(code: bytes) -> tuple[int, ...]:
    """Return offsets of the ADRPs that must not lie in the last two words of a page.

    Args:
        code: Whole instructions. In doubt one counts.
    """
    words = struct.unpack(f"<{len(code) // 4}I", code[: len(code) & ~3])
    return tuple(
        4 * at for at, word in enumerate(words) if word & _ADRP_MASK == _ADRP and _users(words, at)
    )


def _users(words: tuple[int, ...], at: int) -> bool:
    """Tell whether what follows an ADRP makes it one to avoid."""
    if at + 2 >= len(words) or words[at + 1] & _MEMORY_MASK != _MEMORY:
        return False
    return any(
        word & _BY_NUMBER_MASK == _BY_NUMBER and word >> 5 & 31 == words[at] & 31
        for word in words[at + 2 : at + 4]
    )
