# SPDX-License-Identifier: Apache-2.0
"""Timers and tasklets: what a hook sets up, and Xen calls when its turn has come.

Source: xen/common/{timer,tasklet}.c, and xen/include/xen/{timer,tasklet}.h for the members of
``struct timer`` and ``struct tasklet``.
"""

from xsplice_plugins.hypervisor.facts.arches import PAGE_SIZE
from xsplice_plugins.hypervisor.facts.verdicts import Unknown
from xsplice_plugins.hypervisor.image.memory import RW, MemorySegment
from xsplice_plugins.hypervisor.run.helpers import RUN_IT, Call, Handler
from xsplice_plugins.hypervisor.run.watch import HEAP_OWNER
from xsplice_plugins.hypervisor.state.xen import Xen

_STEP = "intercept"
#: Where the model keeps the addresses of all timers, as Xen's lists would.
_TIMERS_OFFSET = 0x500000
_TIMER_INACTIVE, _TIMER_KILLED, _TIMER_IN_HEAP = 1, 2, 3
_FUNCTION, _STATUS, _TIMER_BYTES = 24, 42, 48
#: The same of tasklets that wait for their turn.
_TASKLETS_OFFSET = 0x540000
_SCHEDULED_ON, _IS_SOFTIRQ, _IS_DEAD, _TASKLET_BYTES = 16, 20, 22, 40


def _timers(xen: Xen) -> MemorySegment:
    return _list_of(xen, _TIMERS_OFFSET, "timers")


def _list_of(xen: Xen, offset: int, what: str) -> MemorySegment:
    addr = xen.image.arch.heap_virt + offset
    segment = xen.memory.find(addr)
    if segment is None:
        segment = MemorySegment(
            addr_virt=addr,
            data=bytearray(PAGE_SIZE),
            perm=RW,
            name=f"Xen's list of {what}",
            owner=f"({what})",
        )
        xen.memory.map(segment)
    return segment


def _entry(segment: MemorySegment, addr_virt: int) -> int | None:
    """Give the offset of a timer's entry; of a free one for address 0."""
    wanted = addr_virt.to_bytes(8, "little")
    offsets = range(0, len(segment.data), 8)
    return next((o for o in offsets if segment.data[o : o + 8] == wanted), None)


def _init_timer(xen: Xen, call: Call) -> None:
    timer, segment = call.argument(0), _timers(xen)
    body = bytearray(_TIMER_BYTES)
    for index in (1, 2):
        place = _FUNCTION + 8 * (index - 1)
        body[place : place + 8] = call.argument(index).to_bytes(8, "little")
    body[_STATUS] = _TIMER_INACTIVE
    xen.memory.write(timer, bytes(body), step=_STEP)
    call.watch.note_write(timer, _TIMER_BYTES)
    free = _entry(segment, 0)
    if _entry(segment, timer) is None and free is not None:
        segment.data[free : free + 8] = timer.to_bytes(8, "little")


def _set_status(xen: Xen, call: Call, status: int) -> int:
    """Change a timer that this hypervisor knows; a foreign one is left to its own code."""
    timer = call.argument(0)
    if _entry(_timers(xen), timer) is None:
        return RUN_IT
    xen.memory.write(timer + _STATUS, bytes([status]), step=_STEP)
    call.watch.note_write(timer + _STATUS, 1)
    return 0


def _kill_timer(xen: Xen, call: Call) -> int:
    done = _set_status(xen, call, _TIMER_KILLED)
    segment = _timers(xen)
    place = _entry(segment, call.argument(0))
    if place is not None:
        segment.data[place : place + 8] = bytes(8)
    return done


# -- tasklets -------------------------------------------------------------------------------------


def _is_own(xen: Xen, addr_virt: int) -> bool:
    """Whether an object is a payload's, or allocated by a hook."""
    segment = xen.memory.find(addr_virt)
    is_heap = segment is not None and segment.owner == HEAP_OWNER
    return is_heap or xen.image.arena[0] <= addr_virt < xen.image.arena[1]


def _set_tasklet(xen: Xen, call: Call, offset: int, data: bytes) -> None:
    place = call.argument(0) + offset
    xen.memory.write(place, data, step=_STEP)
    call.watch.note_write(place, len(data))


def _note_tasklet(xen: Xen, addr_virt: int, *, is_waiting: bool) -> None:
    """Put a tasklet on the list of those that wait for their turn, or take it off."""
    segment = _list_of(xen, _TASKLETS_OFFSET, "tasklets")
    place = _entry(segment, addr_virt)
    if is_waiting and place is None:
        place = _entry(segment, 0)
    if place is not None:
        segment.data[place : place + 8] = (addr_virt if is_waiting else 0).to_bytes(8, "little")


def _init_tasklet(*, is_softirq: bool) -> Handler:
    def init(xen: Xen, call: Call) -> int | None:
        tasklet = call.argument(0)
        if not _is_own(xen, tasklet):
            return RUN_IT
        words = (tasklet, tasklet, 0xFFFFFFFF, call.argument(1), call.argument(2))
        body = bytearray(b"".join(word.to_bytes(8, "little") for word in words))
        body[_IS_SOFTIRQ] = is_softirq
        _set_tasklet(xen, call, 0, bytes(body))
        return None

    return init


def _schedule_tasklet(*, names_cpu: bool) -> Handler:
    def schedule(xen: Xen, call: Call) -> int | None:
        """Let a tasklet that a hook has set up wait for its turn; others run their own code."""
        tasklet = call.argument(0)
        head = xen.memory.peek(tasklet, _TASKLET_BYTES)
        if not _is_own(xen, tasklet) or head[:16] != tasklet.to_bytes(8, "little") * 2:
            return RUN_IT
        cpu = call.argument(1) & 0xFFFFFFFF if names_cpu else 0
        if cpu:
            raise Unknown(_STEP, f"needs CPU {cpu}, which not every host has")
        if not head[_IS_DEAD]:
            _set_tasklet(xen, call, _SCHEDULED_ON, bytes(4))
            _note_tasklet(xen, tasklet, is_waiting=True)
        return None

    return schedule


def _kill_tasklet(xen: Xen, call: Call) -> int | None:
    """Take a tasklet off; Xen gets along with one that was never set up."""
    tasklet = call.argument(0)
    if not _is_own(xen, tasklet):
        return RUN_IT
    if any(xen.memory.peek(tasklet, 16)):
        _set_tasklet(xen, call, 0, tasklet.to_bytes(8, "little") * 2)
        _set_tasklet(xen, call, _SCHEDULED_ON, b"\xff\xff\xff\xff")
        _set_tasklet(xen, call, _IS_DEAD, b"\1")
        _note_tasklet(xen, tasklet, is_waiting=False)
    return None


WAITING: dict[str, Handler] = {
    "init_timer": _init_timer,
    "set_timer": lambda xen, call: _set_status(xen, call, _TIMER_IN_HEAP),
    "stop_timer": lambda xen, call: _set_status(xen, call, _TIMER_INACTIVE),
    "kill_timer": _kill_timer,
    "tasklet_init": _init_tasklet(is_softirq=False),
    "softirq_tasklet_init": _init_tasklet(is_softirq=True),
    "tasklet_schedule": _schedule_tasklet(names_cpu=False),
    "tasklet_schedule_on_cpu": _schedule_tasklet(names_cpu=True),
    "tasklet_kill": _kill_tasklet,
}
