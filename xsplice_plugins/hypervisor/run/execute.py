# SPDX-License-Identifier: Apache-2.0
"""Executing code in the model's memory: hooks of payloads, functions of the image.

The only module that imports Unicorn, and only when something is executed. The emulator works on the
very bytes of the model's segments, with their page permissions. Unicorn's memory is used in virtual
mode: without that, addresses above 2^47 are cut.
"""

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xsplice_plugins.hypervisor.facts.arches import ARM32, X86_64, Arch
from xsplice_plugins.hypervisor.facts.verdicts import Hazard
from xsplice_plugins.hypervisor.image.memory import MemorySegment, Perm
from xsplice_plugins.hypervisor.load.symbols import name_in_payload
from xsplice_plugins.hypervisor.run import intercepts
from xsplice_plugins.hypervisor.state.payload import LoadedPayload
from xsplice_plugins.hypervisor.state.xen import Xen

if TYPE_CHECKING:
    import unicorn

    from xsplice_plugins.hypervisor.image.image import BootedImage

#: A stack as Xen's: 32 KiB, aligned, with struct cpu_info at its top.
_STACK_OFFSET = 0x200000
_STACK_BYTES = 32 << 10
_CPU_INFO_BYTES = 1024
_RETURN_OFFSET = 0x300000
INSTRUCTIONS_MAX = 2_000_000
_FAULTS_MAX = 1_000
#: What fills registers and stack that nobody set: an address nothing can be mapped at.
_JUNK = 0xA5C3_5A3C_A5C3_0000
_BUG_KINDS = ("run a function", "WARN", "BUG", "ASSERT")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Registers:
    """Unicorn's numbers for the registers of a calling convention; ``link`` 0 means the stack."""

    arguments: tuple[int, ...]
    kept: tuple[tuple[str, int], ...]  #: what a function must give back as it was, by name
    lost: tuple[int, ...]  #: what any call may change, arguments and result among them
    #: the register with the condition flags, and its value with all of them clear and set
    flags: tuple[int, int, int]
    result: int
    stack: int
    pc: int
    link: int


@dataclass(slots=True, kw_only=True)
class _Run:
    """State of one call."""

    step: str
    subject: LoadedPayload | None
    argument: MemorySegment | None
    #: fill what nobody set with other values than in the call that counts
    is_rehearsal: bool = False
    stop: Hazard | None = None


class Engine:
    """Unicorn over the segments of one hypervisor."""

    def __init__(self, xen: Xen) -> None:
        import unicorn  # noqa: PLC0415  # costs 0.07 s and is needed only where code is executed

        arch = xen.image.arch
        self._uc, self._regs = _processor(arch)
        self._uc.ctl_set_tlb_mode(unicorn.UC_TLB_VIRTUAL)
        self._stack_virt = arch.heap_virt + _STACK_OFFSET
        self._return_virt = arch.heap_virt + _RETURN_OFFSET
        self._unicorn = unicorn
        self._xen = xen
        self._mapped: dict[int, tuple[MemorySegment, int, object]] = {}
        self._uc.mem_map(
            self._stack_virt, _STACK_BYTES, unicorn.UC_PROT_READ | unicorn.UC_PROT_WRITE
        )
        self._uc.mem_map(self._return_virt, 4096, unicorn.UC_PROT_READ | unicorn.UC_PROT_EXEC)
        self._run = _Run(step="", subject=None, argument=None)
        self._uc.hook_add(unicorn.UC_HOOK_BLOCK, self._on_block)
        self._handlers = intercepts.handlers(xen.image)
        for addr in self._handlers:
            self._uc.hook_add(unicorn.UC_HOOK_CODE, self._on_intercept, begin=addr, end=addr)

    # -- memory ---------------------------------------------------------------------------------

    def _protection(self, segment: MemorySegment) -> int:
        unicorn = self._unicorn
        perm = segment.perm
        protection = int(unicorn.UC_PROT_READ) if Perm.READ in perm else 0
        if self._xen.memory.may_write(perm):
            protection |= unicorn.UC_PROT_WRITE
        if Perm.EXEC in perm:
            protection |= unicorn.UC_PROT_EXEC
        return protection

    def _synchronise(self) -> None:
        """Map what the model maps, with today's permissions, and forget translated code."""
        uc = self._uc
        wanted = {segment.addr_virt: segment for segment in self._xen.memory.segments()}
        for addr, (segment, _, _) in list(self._mapped.items()):
            if wanted.get(addr) is not segment:
                uc.mem_unmap(addr, len(segment.data))
                del self._mapped[addr]
        for addr, segment in wanted.items():
            protection = self._protection(segment)
            known = self._mapped.get(addr)
            if known is None:
                buffer = (ctypes.c_char * len(segment.data)).from_buffer(segment.data)
                pointer = ctypes.cast(buffer, ctypes.c_void_p)
                uc.mem_map_ptr(addr, len(segment.data), protection, pointer)
                self._mapped[addr] = (segment, protection, buffer)
            elif known[1] != protection:
                uc.mem_protect(addr, len(segment.data), protection)
                self._mapped[addr] = (segment, protection, known[2])
        uc.ctl_flush_tb()

    # -- callbacks ------------------------------------------------------------------------------

    def _on_block(self, uc: "unicorn.Uc", addr: int, size: int, _data: object) -> None:
        """Stop code that runs straight over the end of its function."""
        end = function_end(self._xen, addr)
        if end is not None and addr < end < addr + size:
            self._run.stop = Hazard(
                self._run.step, f"execution runs off the end of a function at {end:#x}"
            )
            uc.emu_stop()

    def _on_intercept(self, uc: "unicorn.Uc", addr: int, _size: int, _data: object) -> None:
        segment = self._xen.memory.find(addr)
        if segment is None or self._is_patched(addr, segment):
            return
        try:
            result = self._handlers[addr](self._xen, self._call())
        except Hazard as hazard:
            self._run.stop = Hazard(self._run.step, hazard.reason)
            uc.emu_stop()
            return
        regs = self._regs
        if regs.link:
            back = uc.reg_read(regs.link)
        else:
            stack = uc.reg_read(regs.stack)
            back = int.from_bytes(uc.mem_read(stack, 8), "little")
            uc.reg_write(regs.stack, stack + 8)
        self._spoil()
        if result is not None:
            uc.reg_write(regs.result, result & ((1 << 64) - 1))
        uc.reg_write(regs.pc, back)

    def _spoil(self) -> None:
        """Put into registers what no code may rely on."""
        is_rehearsal = self._run.is_rehearsal
        for number in self._regs.lost:
            self._uc.reg_write(number, _JUNK | number if is_rehearsal else 0)
        number, clear, every = self._regs.flags
        self._uc.reg_write(number, every if is_rehearsal else clear)

    def _is_patched(self, addr: int, segment: MemorySegment) -> bool:
        """Whether a payload replaced the intercepted function: then its code really runs."""
        region = next(r for r in self._xen.image.regions if r.addr_virt == segment.addr_virt)
        offset = addr - segment.addr_virt
        return segment.data[offset : offset + 16] != region.data[offset : offset + 16]

    def _call(self) -> intercepts.Call:
        run = self._run
        return intercepts.Call(argument=self._argument, subject=run.subject, segment=run.argument)

    def _argument(self, index: int) -> int:
        """Give an integer argument: the first ones are in registers, the rest on the stack."""
        regs = self._regs
        if index < len(regs.arguments):
            return int(self._uc.reg_read(regs.arguments[index]))
        skip = index - len(regs.arguments) + (0 if regs.link else 1)
        place = self._uc.reg_read(regs.stack) + 8 * skip
        return int.from_bytes(self._uc.mem_read(place, 8), "little")

    # -- calling --------------------------------------------------------------------------------

    def call(self, addr: int, arguments: tuple[int, ...], run: _Run) -> int:
        """Call a function and give its result.

        Raises:
            Hazard: anything but a return.
        """
        uc, regs = self._uc, self._regs
        self._synchronise()
        self._run = run
        below = _STACK_BYTES - _CPU_INFO_BYTES
        junk = _JUNK.to_bytes(8, "little") * (below // 8) if run.is_rehearsal else bytes(below)
        uc.mem_write(self._stack_virt, junk + bytes(_CPU_INFO_BYTES))
        top = self._stack_virt + _STACK_BYTES - _CPU_INFO_BYTES
        if regs.link:
            uc.reg_write(regs.link, self._return_virt)
        else:
            top -= 8
            uc.mem_write(top, self._return_virt.to_bytes(8, "little"))
        uc.reg_write(regs.stack, top)
        self._spoil()
        for number, argument in zip(regs.arguments, arguments, strict=False):
            uc.reg_write(number, argument)
        for _, number in regs.kept:
            # The other way round, so that neither zero nor anything else passes for "as it was".
            uc.reg_write(number, 0 if run.is_rehearsal else _JUNK | number)
        place = addr
        for _ in range(_FAULTS_MAX):
            try:
                uc.emu_start(place, self._return_virt, count=INSTRUCTIONS_MAX)
            except self._unicorn.UcError as error:
                place = self._after_fault(error, run)
                continue
            if run.stop is not None:
                raise run.stop
            if uc.reg_read(regs.pc) != self._return_virt:
                raise Hazard(run.step, f"no return within {INSTRUCTIONS_MAX} instructions")
            self._check_kept(top + (0 if regs.link else 8))
            return int(uc.reg_read(regs.result))
        raise Hazard(run.step, "the function faults without end")

    def _check_kept(self, stack_virt: int) -> None:
        """See that the caller finds its registers as they were; its next instruction needs them."""
        uc, run = self._uc, self._run
        lost = [
            name
            for name, number in self._regs.kept
            if uc.reg_read(number) != (0 if run.is_rehearsal else _JUNK | number)
        ]
        if uc.reg_read(self._regs.stack) != stack_virt:
            lost.append("the stack pointer")
        if lost:
            raise Hazard(run.step, f"the function returns with its caller's {lost[0]} changed")

    def _after_fault(self, error: "unicorn.UcError", run: _Run) -> int:
        """Find where execution continues after a fault: the tables decide, as in Xen's handlers."""
        xen = self._xen
        if run.stop is not None:
            raise run.stop
        rip = int(self._uc.reg_read(self._regs.pc))
        where = describe_address(xen, rip)
        # A payload's tables are found once its region is registered: at load in newer releases, in
        # older ones only while it is applied, so that a WARN in its pre-apply hook is a crash.
        registered = xen.payloads if xen.release.registers_region_at_load else xen.applied
        tables: tuple[BootedImage | LoadedPayload, ...] = (xen.image, *registered)
        # On x86 Xen looks at the instruction before it looks for a frame (do_invalid_op).
        trap = xen.release.bug_instruction if xen.image.arch == X86_64 else bytes(4)
        is_bug = xen.image.arch != X86_64 or xen.memory.peek(rip, len(trap)) == trap
        for table in tables:
            if rip in table.ex_table:
                return table.ex_table[rip]
            kind = table.bug_frames.get(rip) if is_bug else None
            if kind in {0, 1}:
                xen.console.append(f"{_BUG_KINDS[kind]} at {where}")
                return rip + len(trap)
            if kind is not None:
                raise Hazard(run.step, f"{_BUG_KINDS[kind]} at {where}")
        raise Hazard(run.step, f"crash at {where}: {error}")


def _processor(arch: Arch) -> "tuple[unicorn.Uc, _Registers]":
    """Make a processor of an architecture that the model executes.

    Source: System V ABI for x86_64, figure 3.4; procedure call standard for arm64, section 6.1.1.
    """
    import unicorn  # noqa: PLC0415  # as in Engine

    if arch == X86_64:
        from unicorn import x86_const as numbers  # noqa: PLC0415  # as in Engine

        kind, mode, prefix = unicorn.UC_ARCH_X86, unicorn.UC_MODE_64, "UC_X86_REG_"
        arguments, scratch = "rdi rsi rdx rcx r8 r9", "rax r10 r11"
        kept, flags = "rbx rbp r12 r13 r14 r15", ("eflags", 0x2, 0x8D7)
        result, stack, pc, link = "rax", "rsp", "rip", ""
    else:
        from unicorn import arm64_const as numbers  # noqa: PLC0415  # as in Engine

        kind, mode, prefix = unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM, "UC_ARM64_REG_"
        arguments, scratch, kept = (
            " ".join(f"x{index}" for index in row)
            for row in (range(8), range(8, 18), range(19, 30))
        )
        flags = ("nzcv", 0, 0xF << 28)
        result, stack, pc, link = "x0", "sp", "pc", "lr"

    def named(names: str) -> tuple[int, ...]:
        return tuple(getattr(numbers, prefix + name.upper()) for name in names.split())

    return unicorn.Uc(kind, mode), _Registers(
        arguments=named(arguments),
        kept=tuple(zip(kept.split(), named(kept), strict=True)),
        lost=named(f"{arguments} {scratch}"),
        flags=(named(flags[0])[0], flags[1], flags[2]),
        result=named(result)[0],
        stack=named(stack)[0],
        pc=named(pc)[0],
        link=sum(named(link)),
    )


def function_end(xen: Xen, addr: int) -> int | None:
    """Give the end of the function around an address, None where nothing tells.

    In a payload, whose symbols can be wrong, it is the end of the section.
    """
    symbol = xen.image.function_at(addr)
    if symbol is not None:
        return symbol.addr_virt + symbol.size_bytes
    for payload in xen.payloads:
        if payload.holds_text(addr):
            return min((end for end in payload.section_ends if end > addr), default=None)
    return None


def describe_address(xen: Xen, addr: int) -> str:
    """Name an address for a message."""
    for payload in xen.payloads:
        name = name_in_payload(payload, addr)
        if name is not None:
            return name
    return xen.image.name_of(addr) or f"{addr:#x}"


def call_function(
    xen: Xen,
    addr_virt: int,
    arguments: tuple[int, ...],
    *,
    step: str,
    subject: LoadedPayload | None = None,
    argument: MemorySegment | None = None,
    is_pure: bool = False,
    is_rehearsal: bool = False,
) -> int:
    """Call a function inside a hypervisor.

    Args:
        xen: the hypervisor; its engine is made at the first call.
        addr_virt: the first instruction.
        arguments: up to six integers.
        step: named in hazards.
        subject: the payload whose hook this is.
        argument: the hook's ``struct payload``.
        is_pure: put back what the call wrote, so that asking changes nothing.
        is_rehearsal: fill registers and stack that nobody set with other values than usual; what
            then comes out differently was never defined.

    Returns:
        The first result register.

    Raises:
        Hazard: it crashed, panicked, ran into the weeds or did not return.
    """
    if xen.image.arch == ARM32:
        raise Hazard(step, "the model executes x86_64 and arm64 code, not arm32's")
    engine = xen.engine
    if not isinstance(engine, Engine):
        engine = xen.engine = Engine(xen)
    writable = (s for s in xen.memory.segments() if is_pure and Perm.WRITE in s.perm)
    before = [(segment, bytes(segment.data)) for segment in writable]
    try:
        return engine.call(
            addr_virt,
            arguments,
            _Run(step=step, subject=subject, argument=argument, is_rehearsal=is_rehearsal),
        )
    finally:
        for segment in xen.memory.segments():
            if xen.memory.may_write(segment.perm):
                segment.touch()
        for segment, data in before:
            segment.data[:] = data
