# SPDX-License-Identifier: Apache-2.0
"""What each x86-64 instruction does with registers and memory, as far as addresses travel in them.

Source: System V psABI for x86-64 1.0, table 3.4 (which registers pass arguments and survive calls).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from xsplice_plugins.target.machine import PUSHED, STACK, Effect, Flow, Marks, Registers, cuts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_POINTER_BYTES = 8
_ARGUMENTS = ("RDI", "RSI", "RDX", "RCX", "R8", "R9")
_SCRATCH = frozenset({*_ARGUMENTS, "RAX", "R10", "R11"})


def effects(code: bytes, base: int, marks: Marks) -> tuple[Effect, ...]:
    """Return the effects of a range of code; places count from ``base``."""
    return _effects(code, base, tuple(sorted(marks.items())))


@lru_cache(maxsize=512)
def _effects(code: bytes, base: int, marks: tuple[tuple[int, int], ...]) -> tuple[Effect, ...]:
    result: list[Effect] = []
    for start, end, is_known in cuts(len(code), dict(marks)):
        if is_known:
            result.append(Effect(start=base + start, end=base + end, flow=Flow.LEAVE))
        else:
            result += _run(code[start:end], base + start)
    return tuple(result)


def _run(code: bytes, base: int) -> Iterator[Effect]:
    import iced_x86  # noqa: PLC0415  (0.02 s that most runs do not need)

    kinds, controls, access = iced_x86.OpKind, iced_x86.FlowControl, iced_x86.OpAccess
    mnemonics = iced_x86.Mnemonic
    reading = (access.READ, access.COND_READ, access.READ_WRITE, access.READ_COND_WRITE)
    writing = (access.WRITE, access.COND_WRITE, access.READ_WRITE, access.READ_COND_WRITE)
    flows = {
        controls.NEXT: Flow.NEXT,
        controls.CALL: Flow.CALL,
        controls.INDIRECT_CALL: Flow.INDIRECT_CALL,
        controls.CONDITIONAL_BRANCH: Flow.BRANCH,
        controls.UNCONDITIONAL_BRANCH: Flow.JUMP,
    }
    near = (kinds.NEAR_BRANCH64, kinds.NEAR_BRANCH32, kinds.NEAR_BRANCH16)
    names = {v: k for k, v in vars(iced_x86.Register).items() if isinstance(v, int)}
    factory, decoder = iced_x86.InstructionInfoFactory(), iced_x86.Decoder(64, code, ip=base)

    def full(register: int) -> str:
        return str(names[iced_x86.RegisterExt.full_register(register)])

    for row in decoder:
        info, places = factory.info(row), decoder.get_constant_offsets(row)
        used = [(full(r.register), r.access) for r in info.used_registers()]
        reads = {name for name, how in used if how in reading}
        memory = info.used_memory()
        through = {full(r) for m in memory for r in (m.base, m.index) if r}
        named = {
            full(row.op_register(i))
            for i in range(row.op_count)
            if row.op_kind(i) == kinds.REGISTER and info.op_access(i) in reading
        }
        is_lea = row.mnemonic == mnemonics.LEA
        values = reads & named | (reads if is_lea else reads - through)
        values |= {name for name, how in used if how == access.COND_WRITE}  # cmov may keep it
        flow = Flow.UNKNOWN if row.is_invalid else flows.get(row.flow_control, Flow.LEAVE)
        is_branch = row.op_count and row.op0_kind in near
        yield Effect(
            start=row.ip,
            end=row.ip + row.len,
            flow=flow,
            target=_signed(row.near_branch_target - base) + base if is_branch else None,
            values=frozenset(values),
            through=frozenset(through),
            writes=frozenset(name for name, how in used if how in writing),
            loads=any(m.access in reading for m in memory),
            stores=any(m.access in writing for m in memory),
            wide=iced_x86.MemorySizeExt.size(row.memory_size) >= _POINTER_BYTES,
            subtracts=row.mnemonic == mnemonics.SUB,
            slot=_slot(row, full),
            takes=is_lea,
            compares=row.mnemonic in (mnemonics.CMP, mnemonics.TEST),
            returns=row.flow_control == controls.RETURN,
            jumps=row.flow_control == controls.INDIRECT_BRANCH,
            displacement_at=row.ip + places.displacement_offset if places.has_displacement else -1,
        )


def _slot(row: Any, full: Callable[[int], str]) -> str:
    """Return a name for the place on the stack that an instruction uses; "" for other places."""
    if row.is_stack_instruction and not row.memory_base:
        return PUSHED
    if not row.memory_base or full(row.memory_base) != "RSP":
        return ""
    return STACK if row.memory_index else f"{STACK}{_signed(row.memory_displacement):+d}"


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


REGISTERS = Registers(effects=effects, arguments=_ARGUMENTS, scratch=_SCRATCH, result="RAX")
