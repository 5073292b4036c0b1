# SPDX-License-Identifier: Apache-2.0
"""Executing code in the model's memory: hooks of payloads, functions of the image.

The only module that imports Unicorn, and only when something is executed. The emulator works on the
very bytes of the model's segments, with their page permissions. Unicorn's memory is used in virtual
mode: without that, addresses above 2^47 are cut.
"""

import ctypes
from typing import TYPE_CHECKING

from msgspec import Struct, field
from msgspec.structs import replace

from xsplice_plugins.hypervisor.facts.arches import ARM32, MASK64
from xsplice_plugins.hypervisor.facts.verdicts import Hazard, Unknown
from xsplice_plugins.hypervisor.image.memory import RW, MemorySegment, Perm
from xsplice_plugins.hypervisor.run import intercepts
from xsplice_plugins.hypervisor.run.borrowed import JUNK, BorrowedCpu
from xsplice_plugins.hypervisor.run.faults import (
    STACK_CALLED_BYTES,
    STACK_USED_BYTES,
    Fault,
    after_fault,
    overrun,
)
from xsplice_plugins.hypervisor.run.helpers import RUN_IT, Call
from xsplice_plugins.hypervisor.run.processor import Block, processor, read_block
from xsplice_plugins.hypervisor.run.trials import How, Sight
from xsplice_plugins.hypervisor.run.watch import Watch, describe_address, function_end
from xsplice_plugins.hypervisor.state.payload import LoadedPayload
from xsplice_plugins.hypervisor.state.xen import Xen

if TYPE_CHECKING:
    import unicorn

#: Where the top of the stack lies: aligned as Xen's, with struct cpu_info beneath it.
_STACK_TOP_OFFSET = 0x208000
_CPU_INFO_BYTES = 1024
_RETURN_OFFSET = 0x300000
INSTRUCTIONS_MAX = 2_000_000
_FAULTS_MAX = 1_000


class _Run(Struct, kw_only=True):
    """State of one call."""

    step: str
    subject: LoadedPayload | None
    argument: MemorySegment | None
    how: How
    sight: Sight = field(default_factory=Sight)
    fault_virt: int | None = None
    stop: Hazard | None = None


class Engine:
    """Unicorn over the segments of one hypervisor."""

    def __init__(self, xen: Xen) -> None:
        import unicorn  # noqa: PLC0415  # costs 0.07 s and is needed only where code is executed

        arch = xen.image.arch
        self._uc, self._regs = processor(arch)
        self._cpu = BorrowedCpu(self._uc, self._regs, xen)
        self._uc.ctl_set_tlb_mode(unicorn.UC_TLB_VIRTUAL)
        self._stack = MemorySegment(
            addr_virt=arch.heap_virt + _STACK_TOP_OFFSET - arch.stack_bytes,
            data=bytearray(arch.stack_bytes),
            perm=RW,
            name="stack",
            owner="(stack)",
        )
        self._return_virt = arch.heap_virt + _RETURN_OFFSET
        self._unicorn = unicorn
        self._xen = xen
        self._mapped: dict[int, tuple[MemorySegment, int, object]] = {}
        self._uc.mem_map(self._return_virt, 4096, unicorn.UC_PROT_READ | unicorn.UC_PROT_EXEC)
        self._run = _Run(step="", subject=None, argument=None, how=How())
        self._blocks: dict[tuple[int, int], Block] = {}
        self._uc.hook_add(unicorn.UC_HOOK_BLOCK, self._on_block)
        self._uc.hook_add(unicorn.UC_HOOK_MEM_INVALID, self._on_fault)
        self.watch = Watch(xen, self._stack, info_bytes=_CPU_INFO_BYTES, map_segment=self.map)
        self._watched: set[int] = set()
        for first, last in self.watch.ranges:
            self._watch_range(first, last)
        self._handlers = intercepts.handlers(xen.image)
        for addr in self._handlers:
            self._uc.hook_add(unicorn.UC_HOOK_CODE, self._on_intercept, begin=addr, end=addr)

    def _watch_range(self, first: int, last: int) -> None:
        unicorn = self._unicorn
        for kind in (unicorn.UC_HOOK_MEM_READ, unicorn.UC_HOOK_MEM_WRITE):
            self._uc.hook_add(kind, self._on_access, begin=first, end=last - 1)

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
        wanted = {s.addr_virt: s for s in (*self._xen.memory.segments(), self._stack)}
        for addr, (segment, _, _) in list(self._mapped.items()):
            if wanted.get(addr) is not segment:
                uc.mem_unmap(addr, len(segment.data))
                del self._mapped[addr]
        for addr, segment in wanted.items():
            protection = self._protection(segment)
            known = self._mapped.get(addr)
            if known is None:
                self.map(segment)
            elif known[1] != protection:
                uc.mem_protect(addr, len(segment.data), protection)
                self._mapped[addr] = (segment, protection, known[2])
        self._blocks.clear()
        uc.ctl_flush_tb()

    def map(self, segment: MemorySegment, *, is_watched: bool = False) -> None:
        """Let the processor see a segment's own bytes; tell the watch of accesses if wanted."""
        if is_watched and segment.addr_virt not in self._watched:
            self._watched.add(segment.addr_virt)
            self._watch_range(segment.addr_virt, segment.end_virt)
        if segment.addr_virt in self._mapped:  # what lay there is no longer the model's
            self._uc.mem_unmap(segment.addr_virt, len(self._mapped[segment.addr_virt][0].data))
        protection = self._protection(segment)
        buffer = (ctypes.c_char * len(segment.data)).from_buffer(segment.data)
        pointer = ctypes.cast(buffer, ctypes.c_void_p)
        self._uc.mem_map_ptr(segment.addr_virt, len(segment.data), protection, pointer)
        self._mapped[segment.addr_virt] = (segment, protection, buffer)

    # -- callbacks ------------------------------------------------------------------------------

    def _on_access(
        self, _uc: object, access: int, addr: int, size: int, _value: int, _data: object
    ) -> None:
        if access == self._unicorn.UC_MEM_WRITE:
            self.watch.note_write(addr, size)
        else:
            self.watch.note_read(addr, size)
        if self.watch.is_freed(addr):
            words = f"memory at {addr:#x} is used after it was given back"
            self._run.stop = Hazard(self._run.step, words)
            self._uc.emu_stop()

    def _on_fault(
        self, _uc: object, _access: int, addr: int, _size: int, _value: int, _data: object
    ) -> bool:
        addr &= MASK64
        if self.watch.fetch(addr):
            return True
        self._run.fault_virt = self._run.sight.fault_virt = addr
        return False

    def _on_block(self, uc: "unicorn.Uc", addr: int, size: int, _data: object) -> None:
        """Stop code that runs over the end of its function, or needs what the model has not."""
        run, sight = self._run, self._run.sight
        block = self._blocks.get((addr, size))
        if block is None:
            block = self._blocks[addr, size] = self._read_block(addr, size)
            sight.constants.update(block.constants)
        sight.path = hash((sight.path, addr))
        sight.blocks += 1
        if block.problem:
            kind = Hazard if block.is_hazard else Unknown
            run.stop = kind(run.step, block.problem)
            uc.emu_stop()
        elif run.how.blocks_max and sight.blocks > run.how.blocks_max:
            words = "it takes another way"
            if run.how.world is not None:
                words = f"it does not return within {run.how.blocks_max} pieces of code"
            run.stop = Unknown(run.step, words)
            uc.emu_stop()

    def _read_block(self, addr: int, size: int) -> Block:
        """Look at a block for the first time in a call."""
        xen = self._xen
        end = function_end(xen, addr)
        if end is not None and addr < end < addr + size:
            return Block(
                problem=f"execution runs off the end of a function at {end:#x}", is_hazard=True
            )
        block = read_block(xen.memory.peek(addr, size), addr, xen.image.arch)
        if not block.problem or addr in self._handlers:
            return replace(block, problem="", is_hazard=False)
        where = describe_address(xen, addr)
        if block.is_hazard:
            return replace(block, problem=f"{block.problem} at {where}")
        return replace(block, problem=f"needs a real processor: {block.problem} at {where}")

    def _on_intercept(self, uc: "unicorn.Uc", addr: int, _size: int, _data: object) -> None:
        segment = self._xen.memory.find(addr)
        if segment is None or self._is_patched(addr, segment):
            return
        try:
            if uc.reg_read(self._regs.stack) - STACK_CALLED_BYTES < self._stack.addr_virt:
                raise overrun("", self._stack, describe_address(self._xen, addr))
            self._cpu.check_call(describe_address(self._xen, addr))
            result = self._handlers[addr](self._xen, self._call())
        except Hazard as hazard:
            self._run.stop = type(hazard)(self._run.step, hazard.reason)
            uc.emu_stop()
            return
        if result == RUN_IT:
            return
        regs = self._regs
        if regs.link:
            back = uc.reg_read(regs.link)
        else:
            stack = uc.reg_read(regs.stack)
            back = int.from_bytes(uc.mem_read(stack, 8), "little")
            uc.reg_write(regs.stack, stack + 8)
        self._cpu.spoil()
        if result is not None:
            uc.reg_write(regs.result, result & ((1 << 64) - 1))
        uc.reg_write(regs.pc, back)

    def _is_patched(self, addr: int, segment: MemorySegment) -> bool:
        """Whether a payload replaced the intercepted function: then its code really runs."""
        region = next(
            (r for r in self._xen.image.regions if r.addr_virt == segment.addr_virt), None
        )
        if region is None:
            return True
        offset = addr - segment.addr_virt
        return segment.data[offset : offset + 16] != region.data[offset : offset + 16]

    def _call(self) -> Call:
        run = self._run
        return Call(
            argument=self._argument,
            subject=run.subject,
            segment=run.argument,
            how=run.how,
            cpu=self._cpu,
            watch=self.watch,
            map=self.map,
        )

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
        below = len(self._stack.data) - _CPU_INFO_BYTES
        junk = JUNK.to_bytes(8, "little") * (below // 8) if run.how.is_rehearsal else bytes(below)
        self._stack.data[:] = junk + bytes(_CPU_INFO_BYTES)
        self.watch.begin(run.how, run.sight, step=run.step)
        top = self._stack.end_virt - STACK_USED_BYTES
        if regs.link:
            uc.reg_write(regs.link, self._return_virt)
        else:
            top -= 8
            uc.mem_write(top, self._return_virt.to_bytes(8, "little"))
        uc.reg_write(regs.stack, top)
        self._cpu.lend(run.step, is_rehearsal=run.how.is_rehearsal)
        for number, argument in zip(regs.arguments, arguments, strict=False):
            uc.reg_write(number, argument)
        place = addr
        for _ in range(_FAULTS_MAX):
            try:
                uc.emu_start(place, self._return_virt, count=INSTRUCTIONS_MAX)
            except self._unicorn.UcError as error:
                if run.stop is not None:
                    raise run.stop from error
                place = self._after_fault(str(error))
                continue
            if run.stop is not None:
                raise run.stop
            if uc.reg_read(regs.pc) != self._return_virt:
                raise Hazard(run.step, f"no return within {INSTRUCTIONS_MAX} instructions")
            self._cpu.take_back(top + (0 if regs.link else 8), self.watch)
            return int(uc.reg_read(regs.result))
        raise Hazard(run.step, "the function faults without end")

    def _after_fault(self, words: str) -> int:
        """Give where execution goes on after a fault.

        Raises:
            Hazard: nowhere.
        """
        regs, run = self._regs, self._run
        fault = Fault(
            step=run.step,
            words=words,
            pc_virt=int(self._uc.reg_read(regs.pc)),
            addr_virt=run.fault_virt,
            stack_virt=int(self._uc.reg_read(regs.stack)),
        )
        return after_fault(fault, self._xen, self.watch, self._stack)


def engine_of(xen: Xen) -> Engine:
    """Give what executes code in a hypervisor; it is made at the first call."""
    if not isinstance(xen.engine, Engine):
        xen.engine = Engine(xen)
    assert isinstance(xen.engine, Engine), "nothing else executes code"
    return xen.engine


def call_function(
    xen: Xen,
    addr_virt: int,
    arguments: tuple[int, ...],
    *,
    step: str,
    subject: LoadedPayload | None = None,
    argument: MemorySegment | None = None,
    is_pure: bool = False,
    how: How | None = None,
    sight: Sight | None = None,
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
        how: with which contents of what nobody knows; the file's if left out.
        sight: gets what the call looked at.

    Returns:
        The first result register.

    Raises:
        Hazard: it crashed, panicked, ran into the weeds or did not return.
        Unknown: it needs what only a running host has.
    """
    if xen.image.arch == ARM32:
        raise Hazard(step, "the model executes x86_64 and arm64 code, not arm32's")
    engine = engine_of(xen)
    writable = (s for s in xen.memory.segments() if is_pure and Perm.WRITE in s.perm)
    before = [(segment, bytes(segment.data)) for segment in writable]
    try:
        return engine.call(
            addr_virt,
            arguments,
            _Run(
                step=step,
                subject=subject,
                argument=argument,
                how=how or How(),
                sight=sight if sight is not None else Sight(),
            ),
        )
    finally:
        engine.watch.put_back()
        for segment in xen.memory.segments():
            if xen.memory.may_write(segment.perm):
                segment.touch()
        for segment, data in before:
            segment.data[:] = data
