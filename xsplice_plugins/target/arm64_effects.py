# SPDX-License-Identifier: Apache-2.0
"""What each arm64 instruction does with registers and memory, as far as addresses travel in them.

Source: Procedure Call Standard for the Arm 64-bit architecture (AAPCS64) section 6.1.1.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from xsplice_plugins.target.machine import STACK, Effect, Flow, Marks, Registers

if TYPE_CHECKING:
    from collections.abc import Iterator

_ARGUMENTS = tuple(f"x{i}" for i in range(8))
_SCRATCH = frozenset(f"x{i}" for i in range(19)) | {"x30"}
_COMPARING = frozenset({"cmp", "cmn", "tst", "ccmp", "ccmn"})
_BRANCHES = {"b": Flow.JUMP, "bl": Flow.CALL, "blr": Flow.INDIRECT_CALL}
_TESTING = ("b.", "cbz", "cbnz", "tbz", "tbnz")
_ENDING = frozenset({"ret", "br", "brk", "udf", "eret", "hlt"})


@lru_cache(maxsize=512)
def _effects(code: bytes, base: int) -> tuple[Effect, ...]:
    return tuple(_decode(code, base))


def effects(code: bytes, base: int, marks: Marks) -> tuple[Effect, ...]:
    """Return the effects of a range of code; places count from ``base``."""
    del marks
    return _effects(code, base)


def _decode(code: bytes, base: int) -> Iterator[Effect]:
    import capstone  # noqa: PLC0415  (slow to import; only where addresses are followed)

    engine = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)
    engine.detail = True
    rows = {row.address - base: row for row in engine.disasm(code, base)}
    for at in range(0, len(code) - 3, 4):
        row = rows.get(at)
        if row is None:
            yield Effect(start=base + at, end=base + at + 4, flow=Flow.UNKNOWN)
            continue
        yield _effect(row, capstone)


def _effect(row: Any, capstone: Any) -> Effect:
    def full(register: int) -> str:
        name = row.reg_name(register)
        return f"x{name[1:]}" if name[:1] == "w" and name[1:].isdigit() else str(name)

    operands = row.operands
    memory = next((o.mem for o in operands if o.type == capstone.arm64.ARM64_OP_MEM), None)
    through = {full(r) for r in ((memory.base, memory.index) if memory else ()) if r}
    read, written = ({full(r) for r in registers} for registers in row.regs_access())
    named = [o for o in operands if o.type == capstone.arm64.ARM64_OP_REG]
    stem = row.mnemonic
    values = {full(o.reg) for o in named if o.access & capstone.CS_AC_READ} & read
    if stem in _COMPARING:  # the decoder takes the first operand for a result
        values, written = {full(o.reg) for o in named}, set()
    if row.writeback:  # what it was and a few bytes more
        written -= through
    flow = _BRANCHES.get(stem, Flow.LEAVE if stem in _ENDING else Flow.NEXT)
    flow = Flow.BRANCH if stem.startswith(_TESTING) else flow
    is_direct = flow in (Flow.JUMP, Flow.CALL, Flow.BRANCH)
    is_sum = memory is None and "sp" in values and "sp" not in written
    slot = ""
    if memory is not None and full(memory.base) == "sp":
        slot = STACK if memory.index or row.writeback else f"{STACK}{memory.disp:+d}"
    is_number = bool(operands) and operands[-1].type == capstone.arm64.ARM64_OP_IMM
    is_wide = all(row.reg_name(o.reg).startswith("x") for o in named)
    is_unshifted = is_number and operands[-1].shift.value == 0
    return Effect(
        start=row.address,
        end=row.address + 4,
        flow=flow,
        target=operands[-1].imm if is_direct else None,
        values=frozenset(values),
        through=frozenset(through),
        writes=frozenset(written),
        loads=memory is not None and stem.startswith(("ld", "cas", "swp")),
        stores=memory is not None and stem.startswith(("st", "cas", "swp")),
        wide=any(row.reg_name(o.reg).startswith("x") for o in named),
        subtracts=stem == "sub" and len(named) == len(operands),
        slot=STACK if is_sum else slot,
        takes=stem in ("adr", "adrp") or is_sum,
        compares=stem in _COMPARING,
        returns=stem == "ret",
        jumps=stem == "br",
        system=stem == "msr",
        moves=stem == "mov" and (is_wide or is_number),
        adds=stem == "add" and is_wide and is_unshifted and len(named) == 2,
        number=operands[-1].imm if is_number and is_unshifted else None,
        displacement_at=row.address if memory is not None else -1,
    )


REGISTERS = Registers(
    effects=effects,
    arguments=_ARGUMENTS,
    scratch=_SCRATCH,
    result="x0",
    second="x1",
    stack="sp",
)
