# SPDX-License-Identifier: Apache-2.0
"""Executing code in the model's memory: hooks of payloads, functions of the image.

The only module that imports Unicorn, and only when something is executed. The emulator works on the
very bytes of the model's segments, with their page permissions. Unicorn's memory is used in virtual
mode: without that, addresses above 2^47 are cut.
"""

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xsplice_plugins.hypervisor import intercepts
from xsplice_plugins.hypervisor.arches import X86_64
from xsplice_plugins.hypervisor.hooks import HookHost
from xsplice_plugins.hypervisor.memory import Perm, Segment
from xsplice_plugins.hypervisor.payload import Payload
from xsplice_plugins.hypervisor.symbols import name_in_payload
from xsplice_plugins.hypervisor.verdicts import Hazard

if TYPE_CHECKING:
    import unicorn

    from xsplice_plugins.hypervisor.image import Image

#: A stack as Xen's: 32 KiB, aligned, with struct cpu_info at its top.
_STACK_VIRT = 0xFFFF830000200000
_STACK_BYTES = 32 << 10
_CPU_INFO_BYTES = 1024
_RETURN_VIRT = 0xFFFF830000300000
INSTRUCTIONS_MAX = 2_000_000
_FAULTS_MAX = 1_000
_BUG_KINDS = ("run a function", "WARN", "BUG", "ASSERT")


@dataclass(slots=True, kw_only=True)
class _Run:
    """State of one call."""

    step: str
    subject: Payload | None
    argument: Segment | None
    stop: Hazard | None = None


class Engine:
    """Unicorn over the segments of one hypervisor."""

    def __init__(self, hv: HookHost) -> None:
        import unicorn  # noqa: PLC0415  # costs 0.07 s and is needed only where code is executed
        from unicorn import x86_const  # noqa: PLC0415  # as above

        self._uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        self._uc.ctl_set_tlb_mode(unicorn.UC_TLB_VIRTUAL)
        self._regs = x86_const
        self._unicorn = unicorn
        self._hv = hv
        self._mapped: dict[int, tuple[Segment, int, object]] = {}
        self._uc.mem_map(_STACK_VIRT, _STACK_BYTES, unicorn.UC_PROT_READ | unicorn.UC_PROT_WRITE)
        self._uc.mem_map(_RETURN_VIRT, 4096, unicorn.UC_PROT_READ | unicorn.UC_PROT_EXEC)
        self._run = _Run(step="", subject=None, argument=None)
        self._uc.hook_add(unicorn.UC_HOOK_BLOCK, self._on_block)
        self._handlers = intercepts.handlers(hv.image)
        for addr in self._handlers:
            self._uc.hook_add(unicorn.UC_HOOK_CODE, self._on_intercept, begin=addr, end=addr)

    # -- memory ---------------------------------------------------------------------------------

    def _protection(self, segment: Segment) -> int:
        unicorn = self._unicorn
        perm = segment.perm
        protection = int(unicorn.UC_PROT_READ) if Perm.READ in perm else 0
        if self._hv.memory.may_write(perm):
            protection |= unicorn.UC_PROT_WRITE
        if Perm.EXEC in perm:
            protection |= unicorn.UC_PROT_EXEC
        return protection

    def _synchronise(self) -> None:
        """Map what the model maps, with today's permissions, and forget translated code."""
        uc = self._uc
        wanted = {segment.addr_virt: segment for segment in self._hv.memory.segments()}
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
        end = function_end(self._hv, addr)
        if end is not None and addr < end < addr + size:
            self._run.stop = Hazard(
                self._run.step, f"execution runs off the end of a function at {end:#x}"
            )
            uc.emu_stop()

    def _on_intercept(self, uc: "unicorn.Uc", addr: int, _size: int, _data: object) -> None:
        segment = self._hv.memory.find(addr)
        if segment is None or self._is_patched(addr, segment):
            return
        try:
            result = self._handlers[addr](self._hv, self)
        except Hazard as hazard:
            self._run.stop = Hazard(self._run.step, hazard.reason)
            uc.emu_stop()
            return
        stack = uc.reg_read(self._regs.UC_X86_REG_RSP)
        back = int.from_bytes(uc.mem_read(stack, 8), "little")
        uc.reg_write(self._regs.UC_X86_REG_RSP, stack + 8)
        uc.reg_write(self._regs.UC_X86_REG_RAX, result & ((1 << 64) - 1))
        uc.reg_write(self._regs.UC_X86_REG_RIP, back)

    def _is_patched(self, addr: int, segment: Segment) -> bool:
        """Whether a payload replaced the intercepted function: then its code really runs."""
        region = next(r for r in self._hv.image.regions if r.addr_virt == segment.addr_virt)
        offset = addr - segment.addr_virt
        return segment.data[offset : offset + 16] != region.data[offset : offset + 16]

    # -- what intercepted functions see -----------------------------------------------------------

    def argument(self, index: int) -> int:
        """Give an integer argument; the first six are in registers, the rest on the stack."""
        regs = self._regs
        names = (
            regs.UC_X86_REG_RDI,
            regs.UC_X86_REG_RSI,
            regs.UC_X86_REG_RDX,
            regs.UC_X86_REG_RCX,
            regs.UC_X86_REG_R8,
            regs.UC_X86_REG_R9,
        )
        if index < len(names):
            return int(self._uc.reg_read(names[index]))
        place = self._uc.reg_read(regs.UC_X86_REG_RSP) + 8 * (index - len(names) + 1)
        return int.from_bytes(self._uc.mem_read(place, 8), "little")

    @property
    def subject(self) -> Payload | None:
        """The payload whose hook runs."""
        return self._run.subject

    @property
    def argument_segment(self) -> Segment | None:
        """Where that hook's ``struct payload`` lies."""
        return self._run.argument

    # -- calling --------------------------------------------------------------------------------

    def call(self, addr: int, arguments: tuple[int, ...], run: _Run) -> int:
        """Call a function and give RAX.

        Raises:
            Hazard: anything but a return.
        """
        uc, regs = self._uc, self._regs
        self._synchronise()
        self._run = run
        uc.mem_write(_STACK_VIRT, bytes(_STACK_BYTES))
        top = _STACK_VIRT + _STACK_BYTES - _CPU_INFO_BYTES
        uc.mem_write(top - 8, _RETURN_VIRT.to_bytes(8, "little"))
        uc.reg_write(regs.UC_X86_REG_RSP, top - 8)
        names = (
            regs.UC_X86_REG_RDI,
            regs.UC_X86_REG_RSI,
            regs.UC_X86_REG_RDX,
            regs.UC_X86_REG_RCX,
            regs.UC_X86_REG_R8,
            regs.UC_X86_REG_R9,
        )
        for index, name in enumerate(names):
            uc.reg_write(name, arguments[index] if index < len(arguments) else 0)
        place = addr
        for _ in range(_FAULTS_MAX):
            try:
                uc.emu_start(place, _RETURN_VIRT, count=INSTRUCTIONS_MAX)
            except self._unicorn.UcError as error:
                place = self._after_fault(error, run)
                continue
            if run.stop is not None:
                raise run.stop
            if uc.reg_read(regs.UC_X86_REG_RIP) != _RETURN_VIRT:
                raise Hazard(run.step, f"no return within {INSTRUCTIONS_MAX} instructions")
            return int(uc.reg_read(regs.UC_X86_REG_RAX))
        raise Hazard(run.step, "the function faults without end")

    def _after_fault(self, error: "unicorn.UcError", run: _Run) -> int:
        """Find where execution continues after a fault: the tables decide, as in Xen's handlers."""
        hv = self._hv
        if run.stop is not None:
            raise run.stop
        rip = int(self._uc.reg_read(self._regs.UC_X86_REG_RIP))
        where = describe_address(hv, rip)
        # A payload's tables are found once its region is registered: at load in newer releases, in
        # older ones only while it is applied, so that a WARN in its pre-apply hook is a crash.
        registered = hv.payloads if hv.release.registers_region_at_load else hv.applied
        tables: tuple[Image | Payload, ...] = (hv.image, *registered)
        for table in tables:
            if rip in table.ex_table:
                return table.ex_table[rip]
            kind = table.bug_frames.get(rip)
            if kind in {0, 1}:
                hv.console.append(f"{_BUG_KINDS[kind]} at {where}")
                return rip + 2
            if kind is not None:
                raise Hazard(run.step, f"{_BUG_KINDS[kind]} at {where}")
        raise Hazard(run.step, f"crash at {where}: {error}")


def function_end(hv: HookHost, addr: int) -> int | None:
    """Give the end of the function around an address, None where no typed symbol covers it."""
    symbol = hv.image.function_at(addr)
    if symbol is not None:
        return symbol.addr_virt + symbol.size_bytes
    for payload in hv.payloads:
        if not payload.holds_text(addr):
            continue
        for name in payload.symbols:
            if name.addr_virt <= addr < name.addr_virt + name.size_bytes:
                return name.addr_virt + name.size_bytes
    return None


def describe_address(hv: HookHost, addr: int) -> str:
    """Name an address for a message."""
    for payload in hv.payloads:
        name = name_in_payload(payload, addr)
        if name is not None:
            return name
    return hv.image.name_of(addr) or f"{addr:#x}"


def call_function(
    hv: HookHost,
    addr_virt: int,
    arguments: tuple[int, ...],
    *,
    step: str,
    subject: Payload | None = None,
    argument: Segment | None = None,
    is_pure: bool = False,
) -> int:
    """Call a function inside a hypervisor.

    Args:
        hv: the hypervisor; its engine is made at the first call.
        addr_virt: the first instruction.
        arguments: up to six integers.
        step: named in hazards.
        subject: the payload whose hook this is.
        argument: the hook's ``struct payload``.
        is_pure: put back what the call wrote, so that asking changes nothing.

    Returns:
        RAX.

    Raises:
        Hazard: it crashed, panicked, ran into the weeds or did not return.
    """
    if hv.image.arch != X86_64:
        raise Hazard(step, f"the model executes x86_64 code only, this is {hv.image.arch.name}")
    engine = hv.engine
    if not isinstance(engine, Engine):
        engine = hv.engine = Engine(hv)
    before = _writable_bytes(hv) if is_pure else ()
    try:
        return engine.call(
            addr_virt, arguments, _Run(step=step, subject=subject, argument=argument)
        )
    finally:
        for segment in hv.memory.segments():
            if hv.memory.may_write(segment.perm):
                segment.touch()
        for segment, data in before:
            segment.data[:] = data


def _writable_bytes(hv: HookHost) -> tuple[tuple[Segment, bytes], ...]:
    return tuple(
        (segment, bytes(segment.data))
        for segment in hv.memory.segments()
        if Perm.WRITE in segment.perm
    )
