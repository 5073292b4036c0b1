# SPDX-License-Identifier: Apache-2.0
"""x86-64, as those who write payloads need to know it.

Sources: x86-64 psABI 1.0 table 4.9; xen/arch/x86/livepatch.c (relocations, jump),
xen/arch/x86/include/asm/livepatch.h, xen/arch/x86/include/asm/endbr.h.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from xsplice_plugins.elf.types import EM_X86_64, R_X86_64_64, R_X86_64_PC32, R_X86_64_PLT32
from xsplice_plugins.target.machine import Flow, Instruction, Marks, TargetMachine, cuts
from xsplice_plugins.target.x86_64_effects import REGISTERS

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from xsplice_plugins.artefacts import Facts
    from xsplice_plugins.releases import Version

#: Opcodes in front of a ModRM byte that no immediate can follow, in any opcode map.
_OPCODES_WITHOUT_IMMEDIATE = frozenset({0x88, 0x89, 0x8A, 0x8B, 0x8D})

#: NCAPINTS: words of CPU features from a release on, within its branch.
_FEATURE_WORDS = {
    (4, 7, 0): 10, (4, 7, 5): 11, (4, 8, 0): 10, (4, 8, 4): 11, (4, 9, 0): 11, (4, 10, 0): 11,
    (4, 11, 0): 11, (4, 12, 0): 11, (4, 13, 0): 13, (4, 14, 0): 13, (4, 14, 5): 16,
    (4, 14, 6): 20, (4, 15, 0): 13, (4, 15, 3): 16, (4, 15, 5): 20, (4, 16, 0): 14,
    (4, 16, 1): 16, (4, 16, 4): 18, (4, 16, 5): 20, (4, 17, 0): 16, (4, 17, 1): 18,
    (4, 17, 2): 20, (4, 17, 6): 21, (4, 18, 0): 20, (4, 18, 6): 21, (4, 19, 0): 20,
    (4, 19, 3): 21, (4, 20, 0): 20, (4, 20, 1): 21, (4, 21, 0): 21, (4, 21, 1): 22,
    (4, 22, 0): 22,
}  # fmt: skip


def adapt(facts: Facts, version: Version) -> Facts:
    """Put in what x86's headers define.

    Sources: xen/include/public/arch-x86/cpufeatureset.h (FEATURESET_NR_ENTRIES is its last word
    and one), xen/arch/x86/include/asm/{alternative,alternative-call,bug,cpufeatures,uaccess}.h,
    before 4.17 in xen/include/asm-x86.
    """
    alternative_size_bytes = 14 if version >= (4, 11, 0) else 12
    return replace(
        facts,
        alternative=replace(facts.alternative, size_bytes=alternative_size_bytes),
        feature_words=_FEATURE_WORDS[max(known for known in _FEATURE_WORDS if known <= version)],
        bug_frame_size_bytes=8,
        bug_displacement_bits=24,
        bug_instruction="d6" if version >= (4, 22, 0) else "0f0b",  # UDB, ud2
        ex_entry_size_bytes=8,
        alt_call_entry_size_bytes=4 if version >= (4, 21, 0) else 0,
    )


def ends_with_field(code: bytes, field: int, kind: int) -> bool:
    """Tell, without decoding, of most relocated fields whether their instruction ends with them.

    Calls and jumps end with their displacement; so does what has no immediate.
    """
    if kind == R_X86_64_PLT32:
        return True
    return (
        field >= 2
        and code[field - 2] in _OPCODES_WITHOUT_IMMEDIATE
        and code[field - 1] & 0xC7 == 0x05
    )


def decode(code: bytes, base: int, marks: Marks) -> tuple[Instruction, ...]:
    """Take code apart.

    A mark has a length where the decoder does not know the instruction, as UDB, Xen's BUG() since
    4.22. Bytes that are no instruction have the flow UNKNOWN.
    """
    return _decode(code, base, tuple(sorted(marks.items())))


@lru_cache(maxsize=512)
def _decode(code: bytes, base: int, marks: tuple[tuple[int, int], ...]) -> tuple[Instruction, ...]:
    result: list[Instruction] = []
    for start, end, is_known in cuts(len(code), dict(marks)):
        if is_known:
            row = (base + start, base + end, Flow.LEAVE, None, 0, code[start:end], None, 0)
            result.append(Instruction(*row))
        else:
            result += _decode_run(code[start:end], base + start)
    return tuple(result)


def _decode_run(code: bytes, base: int) -> Iterator[Instruction]:
    import iced_x86  # noqa: PLC0415  (0.02 s that most runs do not need)

    kinds, flows, registers = iced_x86.OpKind, iced_x86.FlowControl, iced_x86.Register
    near = (kinds.NEAR_BRANCH64, kinds.NEAR_BRANCH32, kinds.NEAR_BRANCH16)
    numbers = (
        *(kinds.IMMEDIATE8, kinds.IMMEDIATE8TO16, kinds.IMMEDIATE8TO32, kinds.IMMEDIATE8TO64),
        *(kinds.IMMEDIATE16, kinds.IMMEDIATE32, kinds.IMMEDIATE32TO64),
    )
    comparing = (iced_x86.Mnemonic.CMP, iced_x86.Mnemonic.TEST)
    flow_of = {
        flows.NEXT: Flow.NEXT,
        flows.CALL: Flow.CALL,
        flows.INDIRECT_CALL: Flow.INDIRECT_CALL,
        flows.CONDITIONAL_BRANCH: Flow.BRANCH,
        flows.UNCONDITIONAL_BRANCH: Flow.JUMP,
    }
    decoder = iced_x86.Decoder(64, code, ip=base)
    for row in decoder:
        start = row.ip - base
        rest = code[start : start + row.len]
        operation: Hashable = rest
        flow = Flow.UNKNOWN if row.is_invalid else flow_of.get(row.flow_control, Flow.LEAVE)
        target, field, immediate = None, 0, None
        if row.op_count and row.op0_kind in near:
            target = _near(row.near_branch_target, base)
            field = start + decoder.get_constant_offsets(row).immediate_offset
            operation = row.mnemonic
        else:
            has_number = row.op_count and row.op_kind(row.op_count - 1) in numbers
            if has_number or row.is_ip_rel_memory_operand:
                constants = decoder.get_constant_offsets(row)
            if has_number:
                at, size = constants.immediate_offset, constants.immediate_size
                immediate = int.from_bytes(rest[at : at + size], "little")
                rest = rest[:at] + rest[at + size :]
            if row.is_ip_rel_memory_operand:
                target = _near(row.ip_rel_memory_address, base)
                at = constants.displacement_offset
                field, rest = start + at, rest[:at] + rest[at + 4 :]
            operation = rest
        yield Instruction(
            row.ip,
            row.ip + row.len,
            flow,
            target,
            base + field,
            operation,
            immediate,
            _stack_bytes(row, flow, kinds.REGISTER, registers.RSP, comparing),
        )


def _stack_bytes(
    row: Any, flow: Flow, register: int, rsp: int, comparing: tuple[int, ...]
) -> int | None:
    is_stack = row.op_count and row.op0_kind == register and row.op0_register == rsp
    if is_stack and row.mnemonic not in comparing:
        return None
    return 0 if flow in (Flow.CALL, Flow.INDIRECT_CALL) else int(row.stack_pointer_increment)


def _near(target: int, base: int) -> int:
    """Return a place in front of the first one as such, not as an address at memory's end."""
    distance = (target - base) & ((1 << 64) - 1)
    return base + (distance - (1 << 64) if distance >> 63 else distance)


def text(code: bytes, base: int, marks: Marks) -> list[tuple[int, str]]:
    """Return place and text of each instruction, in AT&T syntax."""
    import iced_x86  # noqa: PLC0415  (only for what is shown)

    formatter = iced_x86.Formatter(iced_x86.FormatterSyntax.GAS)
    result = []
    for start, end, is_known in cuts(len(code), marks):
        decoder = iced_x86.Decoder(64, b"" if is_known else code[start:end], ip=base + start)
        rows = [(row.ip, row.len, row) for row in decoder] or [(base + start, end - start, None)]
        for place, size, row in rows:
            if row is None or row.is_invalid:
                data = code[place - base : place - base + size]
                result.append((place, f".byte {data.hex(' ')}"))
            else:
                result.append((place, str(formatter.format(row)).replace("\t", " ")))
    return result


X86_64 = TargetMachine(
    number=EM_X86_64,
    name="x86_64",
    first_release=(4, 7),
    adapt=adapt,
    four_bug_frames_since=(4, 7),
    relocation_sizes={R_X86_64_64: 8, R_X86_64_PC32: 4, R_X86_64_PLT32: 4},
    none_types=frozenset({0}),
    absolute_type=R_X86_64_64,
    same_types={R_X86_64_PLT32: R_X86_64_PC32},
    end_relative_types=frozenset({R_X86_64_PC32, R_X86_64_PLT32, 9, 41, 42}),
    ends_with_field=ends_with_field,
    jump_size_bytes=5,
    jump_range_bytes=1 << 31,
    endbr=bytes.fromhex("f30f1efa"),
    instruction_size_bytes=0,
    code_filler=b"\xcc",
    padding=re.compile(
        rb"(?:\x00|\x90|\xcc|\x66|\x2e|\x0f\x1f[\x00\x40\x44\x80\x84]|\x1f\x20\x03\xd5)*"
    ),
    opcode_window=(-3, 0),
    has_anchors=False,
    indirect_branches=frozenset({b"\xff\x15", b"\xff\x25"}),  # call and jmp *disp32(%rip)
    decode=decode,
    text=text,
    registers=REGISTERS,
    setting="X86",
)
