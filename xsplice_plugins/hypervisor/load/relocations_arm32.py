# SPDX-License-Identifier: Apache-2.0
"""arm32 relocations that the hypervisor's loader performs, quirks included.

No bounds are checked (a field outside its section is memory corruption), MOVW and MOVT ignore
the addend, an old immediate is cleared only where there is an addend, and the lowest bit of a
branch is dropped. Source: xen/arch/arm/arm32/livepatch.c. Numbers: "ELF
for the Arm Architecture", relocation codes.
"""

from xsplice_plugins.hypervisor.facts.arches import MASK32
from xsplice_plugins.hypervisor.facts.verdicts import EOPNOTSUPP, EOVERFLOW, Hazard, XenRefusal
from xsplice_plugins.hypervisor.image.memory import Memory
from xsplice_plugins.hypervisor.load.relocation_entry import STEP, Relocation

NONE = 0
ABS32 = 2
REL32 = 3
CALL = 28
JUMP24 = 29
MOVW_ABS_NC = 43
MOVT_ABS = 44
# 1 R_ARM_PC24, 10 R_ARM_THM_CALL, 30 R_ARM_THM_JUMP24: old or Thumb branches, refused
# 24 R_ARM_GOTOFF32, 25 R_ARM_BASE_PREL, 26 R_ARM_GOT_BREL: no GOT
# 27 R_ARM_PLT32: refused although it would equal CALL
# 40 R_ARM_V4BX, 42 R_ARM_PREL31: refused
# 45 R_ARM_MOVW_PREL_NC, 46 R_ARM_MOVT_PREL: refused
SUPPORTED = frozenset({NONE, ABS32, REL32, CALL, JUMP24, MOVW_ABS_NC, MOVT_ABS})
_REACH = 32 << 20


def _sign_extend(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) & 1 else value


def _addend_in_field(kind: int, word: int) -> int:
    if kind in {ABS32, REL32}:
        return _sign_extend(word, 32)
    if kind in {MOVW_ABS_NC, MOVT_ABS}:
        return _sign_extend((word & 0xFFF) | (word & 0xF0000) >> 4, 16)
    if kind in {CALL, JUMP24}:
        return _sign_extend(word & 0xFFFFFF, 24) << 2
    return 0


def relocate(entry: Relocation, memory: Memory) -> None:
    """Perform one REL or RELA entry.

    Raises:
        XenRefusal: -EOPNOTSUPP or -EOVERFLOW.
        Hazard: the field is outside its section.
    """
    kind = entry.kind
    if kind not in SUPPORTED:
        raise XenRefusal(EOPNOTSUPP, STEP, f"{entry.subject}: type {kind} is not supported")
    if kind == NONE:
        return
    if entry.offset_bytes + 4 > entry.target_bytes:
        raise Hazard(STEP, f"{entry.subject}: outside its section, arm32 does not check")
    place = entry.place_virt
    word = int.from_bytes(memory.read(place, 4, step=STEP), "little")
    addend = _addend_in_field(kind, word) if entry.addend is None else entry.addend
    symbol = entry.symbol_virt
    if kind == ABS32:
        word = symbol + addend
    elif kind == REL32:
        word = symbol + addend - place
    elif kind in {MOVW_ABS_NC, MOVT_ABS}:
        imm = symbol >> 16 if kind == MOVT_ABS else symbol
        if addend:
            word &= ~0xF0FFF
        word |= imm & 0xFFF | (imm & 0xF000) << 4
    else:
        distance = _sign_extend((symbol + addend - place) & MASK32, 32)
        if not -_REACH <= distance < _REACH:
            raise XenRefusal(EOVERFLOW, STEP, f"{entry.subject}: the branch does not reach")
        if addend:
            word &= ~0xFFFFFF
        word |= distance >> 2 & 0xFFFFFE
    memory.write(place, (word & MASK32).to_bytes(4, "little"), step=STEP)
