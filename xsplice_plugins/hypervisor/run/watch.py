# SPDX-License-Identifier: Apache-2.0
"""Addresses: what they are called, and which memory nobody knows without a running host."""

from collections.abc import Callable

from xsplice_plugins.hypervisor.facts.arches import PAGE_SIZE, X86_64
from xsplice_plugins.hypervisor.facts.verdicts import Unknown
from xsplice_plugins.hypervisor.image.image import BootedImage
from xsplice_plugins.hypervisor.image.memory import MemorySegment
from xsplice_plugins.hypervisor.image.seeding import boot_written
from xsplice_plugins.hypervisor.load.symbols import name_in_payload
from xsplice_plugins.hypervisor.run.touched import touched_by_functions
from xsplice_plugins.hypervisor.run.trials import How, Sight, symbol_of
from xsplice_plugins.hypervisor.state.hook_argument import argument_virt
from xsplice_plugins.hypervisor.state.xen import Xen

#: Distances from the end of a stack of x86 to members of ``struct cpu_info``; they are the same in
#: every release from 4.16 on. Source: xen/arch/x86/include/asm/current.h.
_CPU_INFO = {"smp_processor_id()": (64, 60), "current": (56, 48)}
_PER_CPU_OFFSET = (48, 40)
#: All CPUs run with the first CPU's offset, 0. Source: percpu_init_areas of xen/arch/x86/percpu.c.
_FIRST_OFFSET = "__per_cpu_offset"
_OTHER_INFO = "the CPU's struct cpu_info"
#: Where a host keeps each CPU's idle vcpu, and whose registers the first CPU holds.
_IDLE, _LAST = "idle_vcpu", "per_cpu__curr_vcpu"
#: Steps in which the CPU serves dom0's hypercall; in other hooks it is idle.
_ASKED = frozenset({"preapply-hook", "prerevert-hook", "probe"})
#: Xen's own part of the address space; what a domain has mapped there is not Xen's. Source:
#: xen/arch/x86/include/asm/config.h.
_XEN_VIRT = (0xFFFF800000000000, 0xFFFF880000000000)
#: Where in the model's heap hooks find what they allocate, and how much there is.
HEAP_OFFSET = 0x1000000
#: Who owns the pages that come from a running host's memory, what hooks allocate and give back.
HOST_OWNER, HEAP_OWNER, FREED = "(host)", "(heap)", "(freed)"
_HEAP_BYTES = 256 << 20
_LEADING = {HEAP_OWNER, "(timers)", "(tasklets)"}
ALLOCATED = "memory that it allocated"
#: How far a string is taken to reach, for what is not known of it.
_STRING_BYTES = 16
#: Nothing else is mapped that close to the model's stack.
STACK_AROUND_BYTES = 1 << 19
#: Where a null pointer leads.
_NULL_BYTES = 0x10000


def _known_at_boot(image: BootedImage) -> set[int]:
    """Give the bytes in those ranges that are the same on every host."""
    first = image.symbols.get(_FIRST_OFFSET)
    return set(range(first.addr_virt, first.addr_virt + 8)) if first is not None else set()


class Watch:
    """The accesses of one run to what boot or a hook may have written."""

    def __init__(
        self,
        xen: Xen,
        stack: MemorySegment,
        *,
        info_bytes: int,
        map_segment: Callable[..., None],
    ) -> None:
        self._xen = xen
        self._map = map_segment
        self._unsteady = set(xen.image.unsteady)
        self._stack = stack
        self._info_virt = stack.end_virt - info_bytes
        written = boot_written(xen.image)
        is_seeded = xen.image.host_pages is not None
        self._unknown = (*(() if is_seeded else written), (self._info_virt, stack.end_virt))
        #: what to be told of, [start, end)
        heap_virt = self._heap_virt = xen.image.arch.heap_virt + HEAP_OFFSET
        self._heap_end = heap_virt + _HEAP_BYTES
        hook_virt = argument_virt(xen.image.arch)
        self.ranges = (
            *written,
            (self._info_virt, stack.end_virt),
            xen.image.arena,
            (hook_virt, hook_virt + PAGE_SIZE),
            (heap_virt, self._heap_end),
        )
        self._known = _known_at_boot(xen.image)
        if xen.image.arch == X86_64:
            start, end = _PER_CPU_OFFSET
            self._known.update(range(stack.end_virt - start, stack.end_virt - end))
        self._changing: tuple[tuple[int, int], ...] = ()
        #: where code other than hooks finds variables
        self.used: tuple[tuple[int, int], ...] = ()
        self.begin(How(), Sight())

    def begin(self, how: How, sight: Sight, *, step: str = "") -> None:
        """Start another run, as what ``step`` names."""
        self.how, self.sight = how, sight
        self._replaced: dict[int, int] = {}
        self._filled: dict[int, int] = {}
        self._heap: tuple[MemorySegment, ...] = ()
        if step.endswith("-hook"):
            self._begin_hook(is_first=how.is_rehearsal)
        else:
            self._changing = self.used = ()
        self._current = self._host_current(step)
        start, _ = _CPU_INFO["current"]
        place = len(self._stack.data) - start
        self._stack.data[place : place + 8] = (self._current or 0).to_bytes(8, "little")

    def _begin_hook(self, *, is_first: bool) -> None:
        """Note what functions of payloads that were in force may have changed since."""
        xen = self._xen
        in_force = [payload for payload in xen.payloads if payload.was_applied]
        if is_first:
            # What hooks allocated, and lists of Xen's that the model keeps.
            others = [s for s in xen.memory.segments() if s.owner in _LEADING]
            rows = [touched_by_functions(p, xen.image.arch, others) for p in in_force]
            self._changing = tuple(extent for row in rows for extent in row.changed)
            self.used = tuple(extent for row in rows for extent in row.used)
        if in_force:
            self._heap = tuple(s for s in xen.memory.segments() if s.owner == HEAP_OWNER)

    def is_changing(self, addr: int) -> bool:
        """Whether a payload's own functions may have changed a byte since the file was loaded."""
        return (
            addr in self._xen.carried
            or any(start <= addr < end for start, end in self._changing)
            or any(
                part.addr_virt <= addr < part.end_virt and part.owner == HEAP_OWNER
                for part in self._heap
            )
        )

    def is_freed(self, addr: int) -> bool:
        """Whether memory was given back."""
        segment = self._xen.memory.find(addr) if self._heap_virt <= addr < self._heap_end else None
        return segment is not None and segment.owner == FREED

    def _host_current(self, step: str) -> int | None:
        """Give ``current`` where a host's memory tells: the idle CPU's, or dom0's that asks.

        While a CPU is idle, it keeps the registers of who ran before: that is ``curr_vcpu``.
        """
        xen = self._xen
        if xen.image.host_pages is None or xen.image.arch != X86_64:
            return None
        idle, last = (self._number(name) for name in (_IDLE, _LAST))
        if step in _ASKED:
            return last if last != idle else None
        return idle if xen.release.is_idle_only and step.endswith("-hook") else None

    def _number(self, name: str) -> int | None:
        symbol = self._xen.image.symbols.get(name)
        data = self._xen.memory.peek(symbol.addr_virt, 8) if symbol is not None else b""
        return int.from_bytes(data, "little") or None

    def is_unknown(self, addr: int) -> bool:
        """Whether nobody knows a byte: boot or a payload's functions may have written it."""
        if addr in self._xen.unsure or self.is_changing(addr):
            return True
        if addr in self._known or addr in self._xen.told:
            return False
        if addr in self._unsteady:
            return True
        if self._current is not None:
            start, end = _CPU_INFO["current"]
            if end < self._stack.end_virt - addr <= start:
                return False
        return any(start <= addr < end for start, end in self._unknown)

    def note_write(self, addr: int, size: int) -> None:
        """Take what is written there as known for the rest of the run."""
        self.sight.written.update(range(addr, addr + size))

    def note_read(self, addr: int, size: int) -> None:
        """Note what of a read nobody knows, and fill it as this run wants it."""
        sight, how = self.sight, self.how
        fresh = [
            place
            for place in range(addr, addr + size)
            if place not in sight.unknown
            and place not in sight.changing
            and place not in sight.written
            and self.is_unknown(place)
        ]
        if not fresh:
            return
        changing = [place for place in fresh if self.is_changing(place)]
        if changing:
            sight.changing |= {place: self.datum(place) for place in changing}
            if how.world is not None:
                self._fill(changing, addr, how.world.content(addr, size))
        others = [place for place in fresh if place not in sight.changing]
        sight.unknown.update(dict.fromkeys(others))
        if how.filling is not None:
            is_all = not how.only
            chosen = [p for p in others if is_all or symbol_of(self.datum(p)) in how.only]
            self._fill(chosen, addr, how.filling(addr, size))

    def _fill(self, places: list[int], addr: int, new: bytes) -> None:
        for place in places:
            segment = self._segment_at(place)
            if segment is not None:
                offset = place - segment.addr_virt
                self._replaced[place] = segment.data[offset]
                segment.data[offset] = self._filled[place] = new[place - addr]

    def as_found(self, addr: int, data: bytes) -> bytes:
        """Give what a run found at an address where the file has such data."""
        return bytes(self._filled.get(addr + at, byte) for at, byte in enumerate(data))

    def put_back(self) -> None:
        """Put the file's bytes back where a filling stood and the code wrote nothing."""
        for addr, byte in self._replaced.items():
            segment = self._segment_at(addr)
            if segment is not None and addr not in self.sight.written:
                segment.data[addr - segment.addr_virt] = byte
        self._replaced = {}

    def _segment_at(self, addr: int) -> MemorySegment | None:
        stack = self._stack
        is_stack = stack.addr_virt <= addr < stack.end_virt
        return stack if is_stack else self._xen.memory.find(addr)

    def text_at(self, addr: int, *, step: str) -> bytes:
        """Read a string as the running code would, on its stack too.

        Raises:
            Hazard: it runs into unmapped memory.
            Unknown: it lies where only a running host has memory.
        """
        if self._segment_at(addr) is self._stack:
            return bytes(self._stack.data[addr - self._stack.addr_virt :]).partition(b"\0")[0]
        self.note_read(addr, _STRING_BYTES)
        self.require(addr, step=step)
        return self._xen.memory.read_c_string(addr, step=step)

    def require(self, addr: int, *, step: str) -> None:
        """See that what is read next is known, where a running host may have memory.

        Raises:
            Unknown: nobody knows what is there.
        """
        if self.may_be_mapped(addr) and not self.fetch(addr):
            raise Unknown(step, f"needs memory at {addr:#x} that only a running host has")

    def datum(self, addr: int) -> str:
        """Name what lies at an address: a symbol, ``current``, or what made a byte unsure."""
        for notes in (self._xen.unsure, self._xen.carried):
            if addr in notes:
                return notes[addr]
        if self.is_changing(addr):
            return name_of_changing(self._xen, addr)
        if argument_virt(self._xen.image.arch) <= addr < self._stack.addr_virt:
            return "struct payload"
        if self._info_virt <= addr < self._stack.end_virt:
            below = self._stack.end_virt - addr
            members = _CPU_INFO if self._xen.image.arch == X86_64 else {}
            names = (name for name, (start, end) in members.items() if end < below <= start)
            return next(names, _OTHER_INFO)
        if addr in self._unsteady - self._xen.image.unsteady:
            return f"Xen's heap at {addr & -8:#x}"
        name, _, place = (self._xen.image.name_of(addr) or f"{addr:#x}+0x0/").rpartition("+")
        offset = place.partition("/")[0]
        return name if offset == "0x0" else f"{name}+{offset}"

    def fetch(self, addr: int) -> bool:
        """Map the page at an address from a running host's memory; False where there is none."""
        image, memory = self._xen.image, self._xen.memory
        is_xens = _XEN_VIRT[0] <= addr < _XEN_VIRT[1] and self.may_be_mapped(addr)
        if image.host_pages is None or not is_xens or memory.find(addr) is not None:
            return False
        found = image.host_pages(addr)
        if found is None:
            return False
        segment = MemorySegment(
            addr_virt=addr & -PAGE_SIZE,
            data=bytearray(found.data),
            perm=found.perm,
            name="a running host's memory",
            owner=HOST_OWNER,
        )
        memory.map(segment)
        self._map(segment, is_watched=bool(found.unsteady))
        self._unsteady.update(segment.addr_virt + at for at in found.unsteady)
        return True

    def may_be_mapped(self, addr: int) -> bool:
        """Whether a running host may have something where the model maps nothing.

        That is what lies among Xen's addresses, but not in the image and not where payloads lie.
        """
        image, stack = self._xen.image, self._stack
        last = image.regions[-1]
        is_near = abs(addr - stack.addr_virt) < STACK_AROUND_BYTES
        if self._segment_at(addr) is not None or is_near:
            return False
        own = ((image.regions[0].addr_virt, last.addr_virt + len(last.data)), image.arena)
        if any(start <= addr < end for start, end in own):
            return False
        if image.arch == X86_64:
            return addr >> 47 == (1 << 17) - 1
        return _NULL_BYTES <= addr < 1 << 48


def name_of_changing(xen: Xen, addr: int) -> str:
    """Call a byte by the payload's variable that it lies in, else by what it is part of."""
    for payload in xen.payloads:
        for symbol in payload.symbols:
            if symbol.addr_virt <= addr < symbol.addr_virt + symbol.size_bytes:
                return symbol.name
        for part in payload.segments:
            if part.addr_virt <= addr < part.end_virt:
                return f"its {part.name}+{addr - part.addr_virt:#x}"
    return ALLOCATED


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
