# SPDX-License-Identifier: Apache-2.0
"""What ordinary hooks call and a booted host provides: memory, time, locks.

Source: xen/common/{xmalloc_tlsf,spinlock}.c.
"""

from collections.abc import Callable

from msgspec import Struct

from xsplice_plugins.hypervisor.facts.arches import PAGE_SIZE, X86_64, page_align
from xsplice_plugins.hypervisor.facts.verdicts import Hazard, Unknown
from xsplice_plugins.hypervisor.image.memory import RW, MemorySegment
from xsplice_plugins.hypervisor.run.borrowed import BorrowedCpu
from xsplice_plugins.hypervisor.run.trials import EVERY_ALLOCATION, How
from xsplice_plugins.hypervisor.run.watch import FREED, HEAP_OFFSET, HEAP_OWNER, HOST_OWNER, Watch
from xsplice_plugins.hypervisor.state.payload import LoadedPayload
from xsplice_plugins.hypervisor.state.xen import Xen

_STEP = "intercept"


class Call(Struct, frozen=True, kw_only=True):
    """What an intercepted function sees of its caller."""

    argument: Callable[[int], int]  #: gives an integer argument by its index
    subject: LoadedPayload | None  #: the payload whose hook runs
    segment: MemorySegment | None  #: where that hook's ``struct payload`` lies
    how: How  #: how this run goes
    cpu: BorrowedCpu  #: the processor it runs on
    watch: Watch  #: what is known of memory
    map: Callable[[MemorySegment], None]  #: lets the processor see new memory


#: Gives the function's result, None where it has none: then its caller finds anything there.
#: ``RUN_IT`` lets the function's own code run.
Handler = Callable[[Xen, Call], int | None]
RUN_IT = -1 << 64

_HEAP_BYTES_MAX = 16 << 20
_UNSET, _POISON = 0xA5, 0xDD
#: No hook asks for the time so often, unless it does nothing else until the time has come.
_ASKED_MAX = 1000
_ASSERT = 3  #: the kind of a bug frame


# -- memory ---------------------------------------------------------------------------------------


def _check_context(xen: Xen, call: Call, *, unmaps: bool = False) -> None:
    """See that memory is not taken or given back while all CPUs wait for the one that asks.

    Xen may have to flush their TLBs for it, and waits until they have answered. Builds for
    debugging ask first (``ASSERT_ALLOC_CONTEXT`` of xen/include/xen/irq.h, since 4.17).

    Raises:
        Hazard: Xen asserts, or is sure to wait: what is unmapped is flushed everywhere.
        Unknown: whether there is something to flush, a running host decides.
    """
    if not call.cpu.is_waiting:
        return
    advice = "take it in a postapply hook and free it in a postrevert hook"
    if xen.release.version >= (4, 17, 0) and _ASSERT in xen.image.bug_frames.values():
        raise Hazard(_STEP, f"ASSERT: memory is asked for while all CPUs wait; {advice}")
    if unmaps and xen.image.arch == X86_64:
        words = "memory is unmapped while all CPUs wait: none of them answers the flush"
        raise Hazard(_STEP, f"{words}; {advice}")
    raise Unknown(
        _STEP,
        "memory is asked for while all CPUs wait: if Xen has to flush their TLBs for it, it waits "
        f"for ever; {advice}",
    )


def _new(xen: Xen, call: Call, size_bytes: int, *, is_zeroed: bool) -> int:
    """Allocate: the object ends where its pages end, so that what lies behind it is not mapped.

    Where a run shall find no memory for it, that is NULL.
    """
    _check_context(xen, call)
    if not 0 < size_bytes <= _HEAP_BYTES_MAX:
        raise Unknown(_STEP, f"needs {size_bytes} bytes of Xen's heap")
    sight = call.watch.sight
    sight.allocations += 1
    if call.how.failing in {EVERY_ALLOCATION, sight.allocations}:
        return 0
    start = xen.image.arch.heap_virt + HEAP_OFFSET
    ends = [s.end_virt for s in xen.memory.segments() if s.owner in {HEAP_OWNER, FREED}]
    pages = page_align(size_bytes)
    byte = 0 if is_zeroed or not call.how.is_rehearsal else _UNSET
    segment = MemorySegment(
        addr_virt=max([start, *ends]) + PAGE_SIZE,
        data=bytearray([byte]) * pages,
        perm=RW,
        name=f"{size_bytes} bytes",
        owner=HEAP_OWNER,
    )
    xen.memory.map(segment)
    call.map(segment)
    return segment.addr_virt + (pages - size_bytes & ~15)


def _allocate(index: int, *, is_zeroed: bool) -> Handler:
    return lambda xen, call: _new(xen, call, call.argument(index), is_zeroed=is_zeroed)


def _allocate_pages(xen: Xen, call: Call) -> int:
    return _new(xen, call, PAGE_SIZE << min(call.argument(0) & 0xFFFFFFFF, 32), is_zeroed=False)


def _allocate_string(xen: Xen, call: Call) -> int:
    text = call.watch.text_at(call.argument(0), step=_STEP) + b"\0"
    place = _new(xen, call, len(text), is_zeroed=True)
    if place:
        xen.memory.write(place, text, step=_STEP)
    return place


def _reallocate(xen: Xen, call: Call) -> int:
    old = call.argument(0)
    place = _new(xen, call, call.argument(1), is_zeroed=False)
    segment = _allocation(xen, call, old) if old and place else None
    if segment is not None:
        kept = xen.memory.peek(old, call.argument(1))
        xen.memory.write(place, kept, step=_STEP)
        _give_back(segment)
    return place


def _allocation(xen: Xen, call: Call, addr_virt: int) -> MemorySegment:
    segment = xen.memory.find(addr_virt)
    if segment is not None and segment.owner == HEAP_OWNER:
        return segment
    is_hosts = segment is not None and segment.owner == HOST_OWNER
    if is_hosts or call.watch.may_be_mapped(addr_virt):
        raise Unknown(_STEP, f"needs memory at {addr_virt:#x} that only a running host has")
    call.watch.sight.fault_virt = addr_virt
    was = "twice" if segment is not None and segment.owner == FREED else "that nobody allocated"
    raise Hazard(_STEP, f"memory at {addr_virt:#x} is freed {was}")


def _free(xen: Xen, call: Call) -> None:
    if call.argument(0):
        _check_context(xen, call)
        segment = _allocation(xen, call, call.argument(0))
        if call.how.world is not None and call.cpu.is_before_revert:
            raise Unknown(
                _STEP,
                "the hook before revert frees memory while the replaced functions still run; free "
                "it after the revert",
            )
        _give_back(segment)


def _unmap(xen: Xen, call: Call) -> None:
    if call.argument(0):
        _check_context(xen, call, unmaps=True)
        _free(xen, call)


def _give_back(segment: MemorySegment) -> None:
    """Keep freed memory mapped, with contents that nobody gets along with."""
    segment.owner = FREED
    segment.data[:] = bytes([_POISON]) * len(segment.data)


# -- time -----------------------------------------------------------------------------------------


def _now(_xen: Xen, call: Call) -> int:
    """Give the time, which stands still: nobody waits for it here.

    Raises:
        Hazard: the hook waits for it, and all CPUs wait for the hook.
        Unknown: it waits for it while others go on.
    """
    sight = call.watch.sight
    sight.times_asked += 1
    if sight.times_asked > _ASKED_MAX:
        words = f"it waits for time to pass: no return after it asked {_ASKED_MAX} times"
        if call.cpu.is_waiting:
            raise Hazard(_STEP, f"{words}, while all CPUs wait")
        raise Unknown(_STEP, words)
    return call.how.time_ns


def _nothing(_xen: Xen, _call: Call) -> None:
    """Stand for what changes nothing that anybody sees."""


# -- locks ----------------------------------------------------------------------------------------


def _lock(
    *, is_recursive: bool = False, tries: bool = False, irq: bool = False, saves: bool = False
) -> Handler:
    """Take a lock of Xen's own, which is free at such a moment; others run their own code.

    Args:
        is_recursive: who holds it may take it again.
        tries: give 1 or 0 and do not wait.
        irq: keep interrupts off from now on.
        saves: the same, and give how it was.
    """

    def take(_xen: Xen, call: Call) -> int | None:
        lock, held = call.argument(0), call.watch.sight.held
        if not call.watch.is_unknown(lock):
            return RUN_IT
        if lock in held and not is_recursive:
            if tries:
                return 0
            raise Hazard(_STEP, f"the lock {call.watch.datum(lock)} is taken twice: no CPU goes on")
        held[lock] = held.get(lock, 0) + 1
        before = call.cpu.saved
        if irq or saves:
            call.cpu.let_interrupts(come=False)
        return before if saves else 1 if tries else None

    return take


def _unlock(*, irq: bool = False, restores: bool = False) -> Handler:
    """Give a lock of Xen's own back, and let interrupts come as before."""

    def give(_xen: Xen, call: Call) -> int | None:
        lock, held = call.argument(0), call.watch.sight.held
        if not call.watch.is_unknown(lock):
            return RUN_IT
        if lock not in held:
            name = call.watch.datum(lock)
            raise Hazard(_STEP, f"the lock {name} is given back by who does not hold it")
        held[lock] -= 1
        if not held[lock]:
            del held[lock]
        if irq:
            call.cpu.let_interrupts(come=True)
        elif restores:
            call.cpu.restore(call.argument(1))
        return None

    return give


def _locks() -> dict[str, Handler]:
    """Give the functions of all kinds of spin locks; a recursive kind has others beside them."""
    found: dict[str, Handler] = {
        "_spin_lock_cb": _lock(),
        "_spin_lock_recursive": _lock(is_recursive=True),
        "_spin_trylock_recursive": _lock(is_recursive=True, tries=True),
        "_spin_unlock_recursive": _unlock(),
    }
    for kind in ("spin", "nrspin", "rspin"):
        is_recursive = kind == "rspin"
        found |= {
            f"_{kind}_lock": _lock(is_recursive=is_recursive),
            f"_{kind}_lock_irq": _lock(is_recursive=is_recursive, irq=True),
            f"_{kind}_lock_irqsave": _lock(is_recursive=is_recursive, saves=True),
            f"_{kind}_trylock": _lock(is_recursive=is_recursive, tries=True),
            f"_{kind}_unlock": _unlock(),
            f"_{kind}_unlock_irq": _unlock(irq=True),
            f"_{kind}_unlock_irqrestore": _unlock(restores=True),
        }
    return found


HELPERS: dict[str, Handler] = {
    "_xmalloc": _allocate(0, is_zeroed=False),
    "_xzalloc": _allocate(0, is_zeroed=True),
    "_xrealloc": _reallocate,
    "_xvmalloc": _allocate(0, is_zeroed=False),
    "_xvzalloc": _allocate(0, is_zeroed=True),
    "vmalloc": _allocate(0, is_zeroed=False),
    "vzalloc": _allocate(0, is_zeroed=True),
    "alloc_xenheap_pages": _allocate_pages,
    "xstrdup": _allocate_string,
    **dict.fromkeys(("xfree", "xvfree", "free_xenheap_pages"), _free),
    "vfree": _unmap,
    "get_s_time": _now,
    "udelay": _nothing,
    **_locks(),
}
