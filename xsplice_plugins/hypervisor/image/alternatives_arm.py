# SPDX-License-Identifier: Apache-2.0
"""Alternative instructions on arm64, for a payload at load.

Which of them a host takes is a matter of its processor, but for one: live patching itself is a
feature, and set wherever a payload can be loaded.

Source: ``__apply_alternatives`` of xen/arch/arm/alternative.c; branches of
xen/arch/arm/arm64/insn.c.
"""

import struct
from collections.abc import Callable, Iterable, Sequence

from xsplice_plugins.hypervisor.facts.verdicts import Hazard, Unknown
from xsplice_plugins.hypervisor.image.alternatives import AltInstr, ByteSpace

_WORD = 4
#: Branches with an offset: (mask, value, bits of the offset, its lowest bit).
_BRANCHES = (
    (0x7C000000, 0x14000000, 26, 0),  # b, bl
    (0x7E000000, 0x34000000, 19, 5),  # cbz, cbnz
    (0x7E000000, 0x36000000, 14, 5),  # tbz, tbnz
    (0xFF000010, 0x54000000, 19, 5),  # b.cond
)


def apply_alternatives_arm64(
    space: ByteSpace,
    alternatives: Sequence[AltInstr],
    *,
    taken: int,
    named: Iterable[int],
    is_text: Callable[[int], bool],
    step: str,
) -> None:
    """Check every alternative as a host that takes it does, and put in what all hosts take.

    Args:
        space: Memory that may be written.
        alternatives: The table.
        taken: The feature of live patching.
        named: Features that the hypervisor's own alternatives name, which therefore exist.
        is_text: Whether Xen takes an address for code in use; the payload is not yet in use.
        step: Named in verdicts.

    Raises:
        Hazard: An entry is a BUG on a host that takes it.
        Unknown: It cannot be told whether a feature exists, or a function patches the code.
    """
    known = {taken, *named}
    for alt in alternatives:
        where = f"alternative at {alt.orig_virt:#x}"
        if alt.feature not in known:
            raise Unknown(step, f"{where}: no alternative of Xen's own names feature {alt.feature}")
        if alt.orig_bytes and not alt.repl_bytes:
            raise Unknown(step, f"{where}: a function patches the code, or BUG")
        if alt.orig_bytes != alt.repl_bytes:
            raise Hazard(step, f"BUG: an alternative changes the length on Arm ({where})")
        size = alt.orig_bytes // _WORD * _WORD
        words = struct.unpack(f"<{size // _WORD}I", space.read(alt.repl_virt, size, step=step))
        moved = [
            _moved(word, _WORD * number, alt, is_text, step) for number, word in enumerate(words)
        ]
        if alt.feature == taken and moved:
            space.write(alt.orig_virt, struct.pack(f"<{len(moved)}I", *moved), step=step)


def _moved(word: int, offset: int, alt: AltInstr, is_text: Callable[[int], bool], step: str) -> int:
    """Keep the target of a branch that leaves the replacement."""
    for mask, value, bits, lowest in _BRANCHES:
        if word & mask != value:
            continue
        distance = (word >> lowest & (1 << bits) - 1) << 2
        distance -= (distance >> bits + 1 & 1) << bits + 2
        target = alt.repl_virt + offset + distance
        if not is_text(target):
            if alt.repl_virt <= target <= alt.repl_virt + alt.repl_bytes:
                return word
            raise Hazard(step, f"BUG: an alternative branches to {target:#x}, no code in use")
        distance = target - (alt.orig_virt + offset)
        if not -(1 << bits + 1) <= distance < 1 << bits + 1:
            raise Hazard(step, f"an alternative's branch to {target:#x} is cut: out of reach")
        return word & ~((1 << bits) - 1 << lowest) | (distance >> 2 & (1 << bits) - 1) << lowest
    return word
