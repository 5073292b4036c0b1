# SPDX-License-Identifier: Apache-2.0
"""The emulated processor: its registers by calling convention, and what it cannot stand in for."""

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

from msgspec import Struct

from xsplice_plugins.hypervisor.facts.arches import X86_64, Arch
from xsplice_plugins.hypervisor.run.vectors import vector_instructions

if TYPE_CHECKING:
    import unicorn


#: Bits of RFLAGS and of PSTATE that code does not change by computing.
_X86_STATE = {
    "interrupts": 0x200,
    "the direction flag": 0x400,
    "AC": 0x40000,
    "the trap flag": 0x100,
    "IOPL": 0x3000,
    "NT": 0x4000,
}
_ARM64_STATE = {"interrupts": 0x80, "FIQs": 0x40, "SErrors": 0x100, "debug exceptions": 0x200}


class Registers(Struct, frozen=True, kw_only=True):
    """Unicorn's numbers for the registers of a calling convention; ``link`` 0 means the stack."""

    arguments: tuple[int, ...]
    kept: tuple[tuple[str, int], ...]  #: what a function must give back as it was, by name
    lost: tuple[int, ...]  #: what any call may change, arguments and result among them
    #: the register with the condition flags, and its value with all of them clear and set
    flags: tuple[int, int, int]
    #: the register with bits that decide how the processor goes on, those by name that a function
    #: gives back as they were, and what a call finds there
    state: int
    state_bits: Mapping[str, int]
    state_first: int
    are_interrupts_masked: bool  #: the bit for interrupts keeps them off
    result: int
    stack: int
    pc: int
    link: int


def processor(arch: Arch) -> "tuple[unicorn.Uc, Registers]":
    """Make a processor of an architecture that the model executes.

    Source: System V ABI for x86_64, figure 3.4; procedure call standard for arm64, section 6.1.1.
    """
    import unicorn  # noqa: PLC0415  # costs 0.07 s, needed where code runs

    if arch == X86_64:
        from unicorn import x86_const as numbers  # noqa: PLC0415  # costs 0.07 s, needed where code runs

        kind, mode, prefix = unicorn.UC_ARCH_X86, unicorn.UC_MODE_64, "UC_X86_REG_"
        arguments, scratch = "rdi rsi rdx rcx r8 r9", "rax r10 r11"
        kept, flags = "rbx rbp r12 r13 r14 r15", ("eflags", 0x2, 0x8D7)
        state, first, bits = "eflags", 0x202, _X86_STATE
        result, stack, pc, link = "rax", "rsp", "rip", ""
    else:
        from unicorn import arm64_const as numbers  # noqa: PLC0415  # costs 0.07 s, needed where code runs

        kind, mode, prefix = unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM, "UC_ARM64_REG_"
        arguments, scratch, kept = (
            " ".join(f"x{index}" for index in row)
            for row in (range(8), range(8, 18), range(19, 30))
        )
        flags = ("nzcv", 0, 0xF << 28)
        state, first, bits = "pstate", 0x345, _ARM64_STATE  # EL1 with its own stack
        result, stack, pc, link = "x0", "sp", "pc", "lr"

    def named(names: str) -> tuple[int, ...]:
        return tuple(getattr(numbers, prefix + name.upper()) for name in names.split())

    return unicorn.Uc(kind, mode), Registers(
        arguments=named(arguments),
        kept=tuple(zip(kept.split(), named(kept), strict=True)),
        lost=named(f"{arguments} {scratch}"),
        flags=(named(flags[0])[0], flags[1], flags[2]),
        state=named(state)[0],
        state_bits=bits,
        state_first=first,
        are_interrupts_masked=arch != X86_64,
        result=named(result)[0],
        stack=named(stack)[0],
        pc=named(pc)[0],
        link=sum(named(link)),
    )


class Block(Struct, frozen=True, kw_only=True):
    """What a straight run of instructions needs and names."""

    problem: str  #: why it is not executed: what needs a real processor; empty where nothing does
    is_hazard: bool = False  #: a real Xen would not get along with it either
    constants: frozenset[int] = frozenset()  #: immediate values and addresses it computes with


#: Answers come from this very machine, or from a device.
_X86_NEEDS = """
    CPUID HLT IN INSB INSD INSW INVD INVLPG INVPCID LGDT LIDT LLDT LMSW LTR MONITOR MWAIT OUT
    OUTSB OUTSD OUTSW RDMSR RDPMC RDRAND RDSEED RDTSC RDTSCP RSM SGDT SIDT SLDT SMSW STR VMCALL
    VMLAUNCH VMLOAD VMPTRLD VMPTRST VMREAD VMRESUME VMRUN VMSAVE VMWRITE VMXOFF VMXON WBINVD
    WBNOINVD WRMSR XGETBV XSETBV
    CLGI CLTS INT IRET IRETD IRETQ LFS LGS LSS RDFSBASE RDGSBASE RETF STGI SWAPGS SYSCALL SYSENTER
    SYSEXIT SYSRET WRFSBASE WRGSBASE
"""


@cache
def _x86_needs() -> tuple[Mapping[int, str], frozenset[int], frozenset[int]]:
    """Give the decoder's numbers: mnemonics with names, segments, control registers."""
    import iced_x86 as iced  # noqa: PLC0415  # needed where code runs

    def numbers(names: str) -> frozenset[int]:
        return frozenset(getattr(iced.Register, name) for name in names.split())

    return (
        {getattr(iced.Mnemonic, name): name for name in _X86_NEEDS.split()},
        numbers("CS DS ES FS GS SS"),
        numbers(" ".join(f"{kind}{n}" for kind in ("CR", "DR") for n in range(8))),
    )


def read_block(code: bytes, addr_virt: int, arch: Arch) -> Block:
    """Say what a block of instructions needs of a host, and which constants it names.

    Args:
        code: the block's bytes.
        addr_virt: where it lies.
        arch: x86_64 or arm64; of the latter only system and vector registers are looked at.
    """
    used = next(vector_instructions(code, addr_virt, arch), "")
    if used:
        return Block(
            problem=f"it uses a register of floating-point or vectors ({used}): they are a guest's",
            is_hazard=True,
        )
    if arch != X86_64:
        return _read_arm64_block(code)
    import iced_x86 as iced  # noqa: PLC0415  # needed where code runs

    needs, constants = "", set()
    names, segments, registers = _x86_needs()
    bases = {iced.Register.FS, iced.Register.GS}
    immediate = range(iced.OpKind.IMMEDIATE8, iced.OpKind.IMMEDIATE32TO64 + 1)
    for insn in iced.Decoder(64, code, ip=addr_virt):
        if insn.mnemonic in names:
            needs = needs or names[insn.mnemonic].lower()
        elif insn.mnemonic == iced.Mnemonic.LEA:
            constants.add(insn.memory_displacement)
        if insn.segment_prefix in bases:
            needs = needs or "a segment's base"
        for index in range(insn.op_count):
            kind = insn.op_kind(index)
            if kind == iced.OpKind.REGISTER and insn.op_register(index) in registers:
                needs = needs or "a control register"
            elif kind == iced.OpKind.REGISTER and insn.op_register(index) in segments:
                needs = needs or "a segment register"
            elif kind in immediate:
                constants.add(insn.immediate(index))
    mask = (1 << 64) - 1
    signed = (c - (1 << 64) if c >> 63 else c for c in (c & mask for c in constants))
    return Block(problem=needs, constants=frozenset(map(abs, signed)))


def _read_arm64_block(code: bytes) -> Block:
    """Look for system registers, other than this CPU's offset and the flags, and for constants."""
    needs, constants = "", set()
    for offset in range(0, len(code) - 3, 4):
        word = int.from_bytes(code[offset : offset + 4], "little")
        is_move = word & 0xFFD00000 == 0xD5100000
        if is_move and word & 0x1FFFE0 not in {0x1CD040, 0x1B4200, 0x1B4220}:
            needs = needs or f"the system register of {word:#x}"
        elif word & 0x1F000000 == 0x11000000:  # add, sub, cmp
            constants.add((word >> 10 & 0xFFF) << 12 * (word >> 22 & 1))
        elif word & 0x7F800000 == 0x52800000:  # mov
            constants.add((word >> 5 & 0xFFFF) << 16 * (word >> 21 & 3))
    return Block(problem=needs, constants=frozenset(constants))
