# SPDX-License-Identifier: Apache-2.0
"""What a machine is to live patching: one value a machine, made by one file a machine."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from enum import Enum
from re import Pattern
from typing import NamedTuple

from msgspec import Struct

from xsplice_plugins.artefacts import Facts
from xsplice_plugins.releases import Version

PAGE_SIZE_BYTES = 4096

#: Known places of instructions: offset -> length in bytes, 0 where only the start is known.
Marks = Mapping[int, int]


class Flow(Enum):
    """Where the processor goes after an instruction."""

    NEXT = "to the next one"
    CALL = "calls a known place"
    INDIRECT_CALL = "calls what a register or memory holds"
    BRANCH = "to a known place, or to the next one"
    JUMP = "to a known place"
    LEAVE = "elsewhere: a return, a trap, a jump to what a register holds"
    UNKNOWN = "nobody knows: no instruction"


DIRECT = frozenset({Flow.CALL, Flow.BRANCH, Flow.JUMP})  #: flows whose target is known
CALLS = frozenset({Flow.CALL, Flow.INDIRECT_CALL})


class Instruction(NamedTuple):
    """One instruction; all places count from where its code counts."""

    start: int
    end: int
    flow: Flow
    target: int | None  #: of a direct branch, or of an operand relative to the instruction
    field: int  #: where the displacement that leads to the target starts
    #: what it does: its bytes, or what is left of them without displacement or `immediate`
    operation: Hashable
    immediate: int | None  #: its plain constant of at most 32 bits, as the bits of its field
    stack_bytes: int | None  #: what it adds to the stack pointer; ``None``: not known

    @property
    def falls_through(self) -> bool:
        """Tell whether the next instruction may run after it."""
        return self.flow not in (Flow.JUMP, Flow.LEAVE, Flow.UNKNOWN)


PUSHED = "pushed"  #: the stack slot of what is pushed, an argument of the next call
STACK = "stack"  #: how the names of other stack slots start; alone: a slot that is not known


class Effect(Struct, frozen=True, kw_only=True):
    """What one instruction does with registers and memory; places count from where its code counts.

    Registers go by their full width. ``values`` are read as numbers, ``through`` address memory.
    """

    start: int
    end: int
    flow: Flow
    target: int | None = None  #: of a direct branch
    values: frozenset[str] = frozenset()
    through: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    loads: bool = False  #: it reads memory
    stores: bool = False  #: it writes memory
    wide: bool = True  #: what it loads may hold an address
    subtracts: bool = False
    slot: str = ""  #: the stack slot that it reads, writes or computes the address of
    takes: bool = False  #: it computes the address of its memory operand
    compares: bool = False
    returns: bool = False
    jumps: bool = False  #: to what a register or memory holds
    displacement_at: int = -1  #: where the displacement of its memory operand starts
    system: bool = False  #: it hands what it reads to the processor or to a device
    moves: bool = False  #: it writes what it reads, or its number, unchanged
    swaps: bool = False  #: it stores a register, and loads what was there into the same one
    adds: bool = False  #: it adds its number, or what it reads, to the register that it writes
    number: int | None = None  #: its constant, as a signed number
    base: str = ""  #: the one register that addresses its memory operand; "" if there are others
    displacement: int = 0  #: what is added to ``base``
    scaled: str = ""  #: the register of its memory operand that is multiplied: a number
    memory_bytes: int = 0
    equal: bool | None = None  #: a branch: whether it goes to its target if equal, or if not
    both: bool = False  #: it compares what two values have in common
    keeps_flags: bool = False
    stack_bytes: int | None = 0  #: what it adds to the stack pointer; ``None``: not known
    copies: tuple[str, ...] = ()  #: registers: from where, to where it copies any number of bytes
    picks: bool = False  #: it writes one of the values that it reads, or a rounded one


class Registers(Struct, frozen=True, kw_only=True):
    """Which registers a machine has for calls, and what instructions do with them."""

    effects: Callable[[bytes, int, Marks], tuple[Effect, ...]]
    arguments: tuple[str, ...]
    scratch: frozenset[str]  #: do not survive a call
    result: str
    second: str  #: of a result of two words, its other word
    stack: str
    counter: str = ""  #: how instructions name the place that they count from
    frame_return: bytes = b""  #: what goes on where a frame on the stack says, as after a trap


class TargetMachine(Struct, frozen=True, kw_only=True):
    """What the processor, and Xen's loader on it, ask of those who write payloads.

    ``decode(code, base, marks)`` takes code apart; places count from ``base``, marks from the
    code's start. ``text`` gives (place, assembler text) of each instruction instead.
    """

    number: int  #: e_machine
    name: str
    first_release: tuple[int, int]  #: with live patching
    #: Facts of the machine's own headers in a release, put into those that all machines share
    adapt: Callable[[Facts, Version], Facts]
    four_bug_frames_since: tuple[int, int]  #: release with BUGFRAME_NR 4; before it was 3
    relocation_sizes: Mapping[int, int]  #: bytes that a type changes, of those Xen's loader applies
    none_types: frozenset[int]  #: types that change nothing and are not written
    absolute_type: int  #: 64-bit address
    same_types: Mapping[int, int]  #: types that mean what another one means
    #: types that count from their field where the processor counts from the instruction's end
    end_relative_types: frozenset[int]
    #: (code, field, type): whether the instruction surely ends with that field of four bytes
    ends_with_field: Callable[[bytes, int, int], bool]
    jump_size_bytes: int
    jump_range_bytes: int
    endbr: bytes  #: landing pad that the jump must leave in place; b"" if there is none
    instruction_size_bytes: int  #: 0 where it differs
    code_filler: bytes  #: between functions
    padding: Pattern[bytes]  #: bytes between functions that mean nothing
    opcode_window: tuple[int, int]  #: bytes around a relocated field that tell what uses it
    has_anchors: bool  #: compilers address several variables from one
    indirect_branches: frozenset[bytes]  #: bytes before the field of a call through memory
    decode: Callable[[bytes, int, Marks], tuple[Instruction, ...]]
    text: Callable[[bytes, int, Marks], list[tuple[int, str]]]
    registers: Registers
    setting: str  #: of Xen's configuration that chooses it, without ``CONFIG_``
    #: offsets in code of instructions that must not lie in the last `page_end_bytes` of a page
    page_end_traps: Callable[[bytes], tuple[int, ...]] = lambda _: ()
    page_end_bytes: int = 0


def is_trapped(machine: TargetMachine, code: bytes, place: int) -> bool:
    """Tell whether code would have an instruction where an erratum of the processor meets it.

    Args:
        machine: Whose code it is.
        code: Whole instructions.
        place: Of its first byte, from the start of a page.
    """
    first = PAGE_SIZE_BYTES - machine.page_end_bytes
    return any((place + at) % PAGE_SIZE_BYTES >= first for at in machine.page_end_traps(code))


def cuts(size_bytes: int, marks: Marks) -> Iterable[tuple[int, int, bool]]:
    """Cut code at marks: (start, end, whether it is one instruction of known length)."""
    at = 0
    for mark in sorted(marks):
        if at < mark < size_bytes:
            yield at, mark, False
            at = mark
        if mark == at and marks[mark]:
            at = min(mark + marks[mark], size_bytes)
            yield mark, at, True
    if at < size_bytes:
        yield at, size_bytes, False
