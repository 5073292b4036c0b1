# SPDX-License-Identifier: Apache-2.0
"""What the hooks on the way out surely take back: this timer, this field, this node of a list.

A mention is not enough. The very object that was handed out must reach the function that takes it
back, on every path of the hook; or the very field must be written again; or the neighbours of the
very node be linked to each other. A way around it counts only if the object itself tells that
there is nothing to take back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.target.abi import HOOK_PREFIX
from xsplice_plugins.target.machine import Flow
from xsplice_plugins.target.values import POINTER_BYTES, Loaded, Value, ValueFlow, test_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xsplice_plugins.target.addresses import Kept
    from xsplice_plugins.target.code import Code, Place
    from xsplice_plugins.target.values import Step

#: What takes back what was handed to a function of the image, and which argument of both is the
#: object; -1 if there is none.
#: Source: xen/include/xen/{timer,tasklet,irq,rcupdate}.h, xen/arch/x86/include/asm/{irq,nmi}.h.
_TAKERS: dict[str, tuple[int, frozenset[str]]] = {
    "init_timer": (0, frozenset({"kill_timer"})),
    "set_timer": (0, frozenset({"kill_timer", "stop_timer"})),
    "migrate_timer": (0, frozenset({"kill_timer"})),
    "tasklet_init": (0, frozenset({"tasklet_kill"})),
    "softirq_tasklet_init": (0, frozenset({"tasklet_kill"})),
    "tasklet_schedule": (0, frozenset({"tasklet_kill"})),
    "tasklet_schedule_on_cpu": (0, frozenset({"tasklet_kill"})),
    "request_irq": (0, frozenset({"release_irq"})),
    "setup_irq": (0, frozenset({"release_irq"})),
    "call_rcu": (-1, frozenset({"rcu_barrier"})),
    "register_virtual_region": (0, frozenset({"unregister_virtual_region"})),
    "set_nmi_callback": (-1, frozenset({"unset_nmi_callback"})),
}
#: An apply or a revert puts the callback back that it found: xen/arch/x86/livepatch.c,
#: arch_livepatch_unmask. So an unload hook undoes only what a load hook did.
_RESTORED = {"set_nmi_callback"}
#: They wait for other CPUs, which in the other hooks wait themselves.
_BETWEEN = {"rcu_barrier"}
_FINAL = {"kill_timer", "tasklet_kill"}
#: After those, these do nothing.
_DEAD_AFTER = {"set_timer", "migrate_timer", "tasklet_schedule", "tasklet_schedule_on_cpu"}
#: Functions that return when all is done if this argument is not zero. Source: xen/common/smp.c.
_WAITING = {"on_selected_cpus": 3}
#: Source: `key_table` of xen/common/keyhandler.c: function, text, two flags.
_KEYS = {"register_keyhandler", "register_irq_keyhandler"}
_KEY_TABLE, _KEY_BYTES = "key_table", 24
#: Source: `status` of struct timer, xen/include/xen/timer.h; 0: it was never set up.
_TIMER_STATUS, _STATUS_BYTES = 0x2A, 1
_CALL_DEPTH_MAX = 10

_UNSURE = ("preapply", "apply")  #: if they or what follows fails, it may be unloaded at once
_EARLY = ("prerevert",)  #: replaced functions still run after these
_COMING = ("load", "postapply")

#: ("call", name, object or None), ("store", field, ...), ("unlink", side, node)
Event = tuple[object, ...]
Events = frozenset[Event]


class TakeBack:
    """What the hooks of one payload undo."""

    def __init__(self, code: Code, hooks: dict[str, list[Place]]) -> None:
        """Read the hooks (kind -> functions) of the payload with that code."""
        self._code = code
        self._values = ValueFlow(code)
        self._arguments = code.registers.arguments
        self._coming = {place for kind in _COMING for place in hooks.get(kind, ())}
        self._entered: dict[Place, bool] = {}  #: code of hooks that leave -> it unlinks a node
        self._all(hooks, _UNSURE)
        self._unsure, self._entered = frozenset(self._entered), {}
        # A revert hook stands for what would run the unload hooks.
        last = ("revert", "postrevert") if hooks.get("revert") else ("unload", "postrevert")
        self._leaving = self._all(hooks, last)
        self._after = self._all(hooks, ("postrevert",))
        self._load = frozenset(hooks.get("load", ()))
        self._early = self._all(hooks, _EARLY)

    def undoes(self, row: Kept) -> bool:
        """Tell whether what ``row`` says of an address is surely over after unload."""
        step = self._step_at(row)
        if row.verb.startswith("is passed"):
            return self._is_call_undone(row, step)
        if not row.verb.startswith("is stored") or step is None or step.place in self._unsure:
            return False
        if step.place in self._entered:
            return self._entered[step.place]
        return self._is_store_undone(row, step)

    # ------------------------------------------------------------ hand-over

    def _is_call_undone(self, row: Kept, step: Step | None) -> bool:
        if any(row.name in takers for _argument, takers in _TAKERS.values()):
            return True
        if step is None:
            return False
        if row.name in _WAITING:
            value = step.value(self._arguments[_WAITING[row.name]])
            return value.base is None and value.offset != 0
        if step.place in self._entered or step.place in self._unsure:
            return False
        if row.name in _KEYS:
            key = step.value(self._arguments[0])
            at = key.offset * _KEY_BYTES
            fields = (Value(_KEY_TABLE, at), Value(_KEY_TABLE, at + POINTER_BYTES))
            return key.base is None and all(self._has(row, ("store", field)) for field in fields)
        if row.name == "call_rcu" and self._calls_again(step.value(self._arguments[1]), 0):
            return False
        argument, takers = _TAKERS.get(row.name, (-1, frozenset()))
        thing = step.value(self._arguments[argument]) if argument >= 0 else None
        if thing is not None and not thing.is_known:
            return False
        return any(self._has(row, ("call", taker, thing)) for taker in takers)

    def _calls_again(self, function: Value, depth: int) -> bool:
        """Tell whether a callback may hand itself out again, or nobody knows what it is."""
        if not isinstance(function.base, int) or depth > _CALL_DEPTH_MAX:
            return not isinstance(function.base, str)
        steps = self._values.steps((function.base, function.offset)).values()
        return not steps or any(
            step.callee == "call_rcu"
            or (step.inner is not None and self._calls_again(Value(*step.inner), depth + 1))
            for step in steps
        )

    def _is_store_undone(self, row: Kept, step: Step) -> bool:
        spot, value = self._values.spot(step), self._values.stored(step)
        if spot is None:
            return False
        if value is not None and isinstance(value.base, int) and self._is_insertion(step, value):
            return all(self._has(row, ("unlink", side, value)) for side in (0, 1))
        if not isinstance(spot.base, str):
            return False
        spot = spot._replace(base=_plain(spot.base))
        return self._has(row, ("store", spot)) or self._has(row, ("store", spot, value))

    def _is_insertion(self, step: Step, node: Value) -> bool:
        """Tell whether a store of a node's address makes it part of a list, as `list_add` does."""
        there = self._values.spot(step)
        linked = {
            (at.offset - node.offset, value)
            for other in self._steps_around(step.place).values()
            if (value := self._values.stored(other)) is not None
            and (at := self._values.spot(other)) is not None
            and at.base == node.base
        }
        return any(
            there == value._replace(offset=value.offset + POINTER_BYTES - side)
            for side, value in linked
            if side in (0, POINTER_BYTES)
        )

    def _has(self, row: Kept, event: Event) -> bool:
        start = self._code.start_of((row.at[0], row.at[1]))
        is_masked = row.name in _RESTORED and start not in self._load
        is_masked = is_masked or event[1] in _BETWEEN
        if event in (self._after if is_masked else self._leaving):
            return True
        is_final = event[1] in _FINAL and row.name in _DEAD_AFTER
        return event in self._early and (is_final or start in self._coming)

    def _steps_around(self, place: Place) -> dict[Place, Step]:
        return self._values.steps(self._code.start_of(place))

    def _step_at(self, row: Kept) -> Step | None:
        if not row.at:
            return None
        place = (row.at[0], row.at[1])
        return self._steps_around(place).get(place)

    # ---------------------------------------------------------------- hooks

    def _all(self, hooks: dict[str, list[Place]], kinds: Iterable[str]) -> Events:
        rows = [self._surely(place, {}, 0) for kind in kinds for place in hooks.get(kind, ())]
        return frozenset().union(*(row for row in rows if row is not None))

    def _surely(self, start: Place, given: dict[str, Value], depth: int) -> Events | None:
        """Return what happens on every path through a function; None if no path ends."""
        steps = self._values.steps(start, given)
        if depth > _CALL_DEPTH_MAX or not steps:
            return frozenset()
        own = {place: self._events(step, depth) for place, step in steps.items()}
        known: dict[Place, Events | None] = dict.fromkeys(steps)
        before: dict[Place, list[Place]] = {}
        for step in steps.values():
            for following in step.next:
                before.setdefault(following, []).append(step.place)
        todo = sorted(steps)
        while todo:
            place = todo.pop()
            after = self._ahead(steps[place], known)
            gained = own[place]
            now = None if after is None or gained is None else after | gained
            if now != known[place]:
                known[place] = now
                todo += before.get(place, [])
        return known[start]

    def _ahead(self, step: Step, known: dict[Place, Events | None]) -> Events | None:
        if step.leaves or (not step.next and step.callee):
            return frozenset()
        rows = [known[place] for place in step.next]
        if len(rows) == 1 or None in rows:
            return next((row for row in rows if row is not None), None)
        if not rows:
            return None
        taken, passed = rows[0] or frozenset(), rows[1] or frozenset()
        if test_of(step) is None:
            return taken & passed
        is_equal = bool(step.effect.equal)
        excused = [_needless(step, event, is_equal=not is_equal) for event in taken]
        excused += [_needless(step, event, is_equal=is_equal) for event in passed]
        return taken & passed | frozenset(event for event in excused if event is not None)

    def _events(self, step: Step, depth: int) -> Events | None:
        place = step.place
        self._entered.setdefault(place, False)
        if step.effect.flow is Flow.BRANCH:
            return frozenset()  # it may go to another function, and may not
        if step.callee:
            thing = step.value(self._arguments[0])
            events: set[Event] = {("call", step.callee, None)}
            events |= {("call", step.callee, thing)} if thing.is_known else set()
            return frozenset(events)
        if step.inner is not None:
            given = {name: step.value(name) for name in self._arguments}
            return self._surely(step.inner, given, depth + 1)
        spot, value = self._values.spot(step), self._values.stored(step)
        if spot is None or value is None:
            return frozenset()
        unlinks = _unlinked(spot, value)
        if unlinks is not None:
            self._entered[place] = True
            return frozenset({unlinks})
        if isinstance(value.base, int) or not isinstance(spot.base, str):
            return frozenset()
        return frozenset({("store", spot._replace(base=_plain(spot.base)))})


def hooks_of(sections: Iterable[tuple[str, Iterable[Place]]]) -> dict[str, list[Place]]:
    """Return the functions of each kind of hook, of sections with what their pointers lead to."""
    result: dict[str, list[Place]] = {}
    for name, places in sections:
        if name.startswith(HOOK_PREFIX):
            result.setdefault(name.removeprefix(HOOK_PREFIX), []).extend(places)
    return result


def _plain(name: str) -> str:
    return name if name.rpartition("#")[2] != _KEY_TABLE else _KEY_TABLE


def _unlinked(spot: Value, value: Value) -> Event | None:
    """Return which half of `list_del` a store is, and of which node."""
    at, other = spot.base, value.base
    if not isinstance(at, Loaded) or not isinstance(other, Loaded) or value.offset:
        return None
    if at.base != other.base or not isinstance(at.base, int):
        return None
    if spot.offset == POINTER_BYTES and other.offset == at.offset + POINTER_BYTES:
        return ("unlink", 0, Value(at.base, at.offset))  # next->prev = prev
    if spot.offset == 0 and at.offset == other.offset + POINTER_BYTES:
        return ("unlink", 1, Value(other.base, other.offset))  # prev->next = next
    return None


def _needless(step: Step, event: Event, *, is_equal: bool) -> Event | None:
    """Return what an event counts for where a branch goes another way around it.

    Args:
        step: The branch.
        event: What happens on its one way.
        is_equal: What was compared is equal on the other way.
    """
    test = test_of(step)
    if test is None:
        return None
    loaded, other = (test.left, test.right)
    if not isinstance(loaded.base, Loaded):
        loaded, other = other, loaded
    if not isinstance(loaded.base, Loaded) or loaded.offset:
        return None
    field, size_bytes = Value(loaded.base.base, loaded.base.offset), loaded.base.size_bytes
    is_zero = other == Value(None, 0) and is_equal
    is_itself = other == field and is_equal
    if event[0] == "call":
        thing = event[2]
        is_status = (
            isinstance(thing, Value)
            and size_bytes == _STATUS_BYTES
            and (field == thing._replace(offset=thing.offset + _TIMER_STATUS))
        )
        is_timer = event[1] in ("kill_timer", "stop_timer")
        return event if is_zero and is_status and is_timer else None
    if size_bytes != POINTER_BYTES:
        return None
    if event[0] == "unlink":
        return event if (is_zero or is_itself) and event[2] == field else None
    if not isinstance(field.base, str) or event[1] != field._replace(base=_plain(field.base)):
        return None
    if is_zero:
        return event
    return ("store", event[1], other) if other.is_known and not is_equal else None
