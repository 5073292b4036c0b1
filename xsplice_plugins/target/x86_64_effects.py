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
#: Source: Intel SDM volume 2, AMD APM volume 3.
_SYSTEM = (
    *("WRMSR", "WRMSRNS", "WRMSRLIST", "LIDT", "LGDT", "LLDT", "LTR", "LMSW", "XSETBV"),
    *("WRFSBASE", "WRGSBASE", "VMWRITE", "VMRUN", "VMLOAD", "VMSAVE"),
    *("OUT", "WRSSQ", "WRUSSQ", "ENQCMD", "ENQCMDS", "MOVDIR64B"),
)
_PICKING = ("CMOV", "XCHG", "XADD", "CMPXCHG")
_ROUNDED_MAX = 64  #: bytes; `current` rounds the stack pointer as well, and leaves the frame
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
    immediates = {v for k, v in vars(kinds).items() if k.startswith("IMMEDIATE")}
    near = (kinds.NEAR_BRANCH64, kinds.NEAR_BRANCH32, kinds.NEAR_BRANCH16)
    names = {v: k for k, v in vars(iced_x86.Register).items() if isinstance(v, int)}
    copying = {kinds.MEMORY_SEG_RSI, kinds.MEMORY_ESRDI}
    picking = {v for k, v in vars(mnemonics).items() if k.startswith(_PICKING)}
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
        writes = {name for name, how in used if how in writing}
        operands = [row.op_kind(i) for i in range(row.op_count)]
        in_memory = kinds.MEMORY in operands
        if in_memory and row.mnemonic == mnemonics.POP:
            values.add(PUSHED)
        if in_memory and row.mnemonic == mnemonics.PUSH:
            writes.add(PUSHED)
        width = 0
        if operands[:1] == [kinds.REGISTER]:
            width = iced_x86.RegisterExt.size(row.op0_register)
        is_wide = width == _POINTER_BYTES
        is_same = operands == [kinds.REGISTER] * 2 and row.op0_register == row.op1_register
        is_zeroing = row.mnemonic == mnemonics.XOR and width >= _POINTER_BYTES // 2 and is_same
        if row.mnemonic == mnemonics.SBB and is_same:  # zero, or all ones
            values = set()
        last = row.op_count - 1
        number = None
        if last > 0 and operands[last] in immediates:
            number = _signed(row.immediate(last))
        is_move = row.mnemonic == mnemonics.MOV and (
            in_memory or is_wide or (number is not None and width == _POINTER_BYTES // 2)
        )
        is_move = is_move or (row.mnemonic == mnemonics.MOVZX and in_memory)
        stores = any(m.access in writing for m in memory)
        is_copy = stores and copying <= set(operands)
        is_rounding = number is not None and -_ROUNDED_MAX <= number < 0
        flow = Flow.UNKNOWN if row.is_invalid else flows.get(row.flow_control, Flow.LEAVE)
        is_branch = row.op_count and row.op0_kind in near
        yield Effect(
            start=row.ip,
            end=row.ip + row.len,
            flow=flow,
            target=_signed(row.near_branch_target - base) + base if is_branch else None,
            values=frozenset(values),
            through=frozenset(through),
            writes=frozenset(writes),
            loads=any(m.access in reading for m in memory),
            stores=stores,
            wide=iced_x86.MemorySizeExt.size(row.memory_size) >= _POINTER_BYTES,
            subtracts=row.mnemonic == mnemonics.SUB,
            slot=_slot(row, full),
            takes=is_lea,
            compares=row.mnemonic in (mnemonics.CMP, mnemonics.TEST),
            returns=row.flow_control == controls.RETURN,
            jumps=row.flow_control == controls.INDIRECT_BRANCH,
            displacement_at=row.ip + places.displacement_offset if places.has_displacement else -1,
            system=_is_system(row, iced_x86),
            moves=is_move or is_zeroing,
            swaps=row.mnemonic == mnemonics.XCHG and in_memory,
            adds=row.mnemonic == mnemonics.ADD and is_wide,
            number=0 if is_zeroing else number,
            base=_base(row, full),
            displacement=_signed(row.memory_displacement),
            scaled=full(row.memory_index) if row.memory_index_scale > 1 else "",
            memory_bytes=iced_x86.MemorySizeExt.size(row.memory_size),
            equal={mnemonics.JE: True, mnemonics.JNE: False}.get(row.mnemonic),
            both=row.mnemonic == mnemonics.TEST,
            keeps_flags=not row.rflags_modified,
            stack_bytes=_stack_bytes(row, iced_x86, number) if "RSP" in writes else 0,
            copies=("RSI", "RDI") if is_copy else (),
            picks=row.mnemonic in picking or (row.mnemonic == mnemonics.AND and is_rounding),
        )


def _slot(row: Any, full: Callable[[int], str]) -> str:
    """Return a name for the place on the stack that an instruction uses; "" for other places."""
    if row.is_stack_instruction and not row.memory_base:
        return PUSHED
    if not row.memory_base or full(row.memory_base) != "RSP":
        return ""
    return STACK if row.memory_index else f"{STACK}{_signed(row.memory_displacement):+d}"


def _stack_bytes(row: Any, iced_x86: Any, number: int | None) -> int | None:
    """Return what an instruction that writes the stack pointer adds to it, if that is known."""
    if row.flow_control != iced_x86.FlowControl.NEXT:
        return 0
    if row.mnemonic in (iced_x86.Mnemonic.ADD, iced_x86.Mnemonic.SUB) and number is not None:
        return -number if row.mnemonic == iced_x86.Mnemonic.SUB else number
    is_plain = row.is_stack_instruction and row.mnemonic != iced_x86.Mnemonic.LEAVE
    return int(row.stack_pointer_increment) if is_plain else None


def _base(row: Any, full: Callable[[int], str]) -> str:
    """Return the register that alone addresses the memory operand, "" if there are others."""
    if not row.memory_base or row.memory_index or row.has_segment_prefix:
        return ""
    return full(row.memory_base)


def _is_system(row: Any, iced_x86: Any) -> bool:
    """Tell whether an instruction hands what it reads to the processor, or to a device."""
    code = _codes(iced_x86)
    kind = iced_x86.OpKind.REGISTER
    to = iced_x86.RegisterExt
    is_control = (
        row.mnemonic == iced_x86.Mnemonic.MOV
        and row.op0_kind == kind
        and (to.is_cr(row.op0_register) or to.is_dr(row.op0_register))
    )
    return is_control or row.mnemonic in code


@lru_cache(maxsize=1)
def _codes(iced_x86: Any) -> frozenset[int]:
    names = vars(iced_x86.Mnemonic)
    return frozenset(names[name] for name in _SYSTEM if name in names)


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


REGISTERS = Registers(
    effects=effects,
    arguments=_ARGUMENTS,
    scratch=_SCRATCH,
    result="RAX",
    second="RDX",
    stack="RSP",
    counter="RIP",
    frame_return=bytes.fromhex("48cf"),  # iretq
)
