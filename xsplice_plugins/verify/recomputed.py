# SPDX-License-Identifier: Apache-2.0
"""What a function computed once, kept, and compares with what it computes when it runs again.

As `vmx_init_vmcs_config` does with a CPU's capabilities: the first CPU's are kept, and each one
that comes up must have the same. New code that computes something else finds the old code's value.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


_ARGUMENTS = ("RDI", "RSI", "RDX", "RCX", "R8", "R9")  #: registers that a call hands on


class Kept(Struct, frozen=True, kw_only=True):
    """Variables of which a function sets and compares each; by virtual address."""

    variables: frozenset[int]
    is_once: bool  #: whether it asks of one of them if it is set at all


class _Use(Enum):
    SET = "it is set to what was computed"
    COMPARED = "it is compared with what was computed, or handed to who does so"
    ASKED = "it is compared with zero"


def kept_and_compared(parts: Iterable[tuple[bytes, int]]) -> Kept:
    """Return the variables that a function sets to what it computed, and compares with that.

    Args:
        parts: The function's bytes and their virtual address; also those of its cold part. x86.
    """
    found: dict[_Use, set[int]] = {use: set() for use in _Use}
    for code, addr_virt in parts:
        for address, use in _uses(code, addr_virt):
            found[use].add(address)
    variables = frozenset(found[_Use.SET] & found[_Use.COMPARED])
    return Kept(variables=variables, is_once=not variables.isdisjoint(found[_Use.ASKED]))


def _uses(code: bytes, addr_virt: int) -> Iterator[tuple[int, _Use]]:
    """Give addresses of variables, and what code does with them, in the order of the code."""
    import iced_x86 as iced  # noqa: PLC0415  # costs what only verifying pays

    held: dict[int, int] = {}  # what a register was loaded with: the variable's address
    waiting: dict[int, dict[int, int]] = {}  # the same, where a branch forward leads
    facts = iced.InstructionInfoFactory()
    for insn in iced.Decoder(64, code, ip=addr_virt):
        held |= waiting.get(insn.ip, {})
        kinds = [insn.op_kind(number) for number in range(insn.op_count)]
        registers = [
            iced.RegisterExt.full_register(insn.op_register(number))
            for number, kind in enumerate(kinds)
            if kind == iced.OpKind.REGISTER
        ]
        variable = insn.ip_rel_memory_address if insn.is_ip_rel_memory_operand else None
        is_move = insn.mnemonic == iced.Mnemonic.MOV and bool(registers)
        is_load = variable is not None and is_move and kinds[0] == iced.OpKind.REGISTER
        if variable is not None and is_move and not is_load:
            yield variable, _Use.SET
        if insn.mnemonic == iced.Mnemonic.CMP and variable is not None:
            yield variable, _Use.COMPARED if registers else _Use.ASKED
        elif insn.mnemonic in (iced.Mnemonic.CMP, iced.Mnemonic.TEST):
            is_alike = len(set(registers)) < len(registers)
            for register in registers if len(registers) > 1 else ():
                if register in held:
                    yield held[register], _Use.ASKED if is_alike else _Use.COMPARED
        if insn.flow_control == iced.FlowControl.CALL:  # as to `cap_check` of a debug build
            for register in {getattr(iced.Register, name) for name in _ARGUMENTS} & held.keys():
                yield held[register], _Use.COMPARED
        for used in facts.info(insn).used_registers():
            if used.access not in (iced.OpAccess.READ, iced.OpAccess.COND_READ):
                held.pop(iced.RegisterExt.full_register(used.register), None)
        if is_load and variable is not None:
            held[registers[0]] = variable
        if insn.near_branch_target and insn.flow_control != iced.FlowControl.CALL:
            waiting.setdefault(insn.near_branch_target, {}).update(held)
        if insn.flow_control in (iced.FlowControl.UNCONDITIONAL_BRANCH, iced.FlowControl.RETURN):
            held = {}
