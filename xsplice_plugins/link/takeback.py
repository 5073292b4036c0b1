# SPDX-License-Identifier: Apache-2.0
"""What the hooks on the way out surely take back: this timer, this field, this node of a list.

A mention is not enough. The very object that was handed out must reach the function that takes it
back, on every path of the hook; or the very field must be written again; or the neighbours of the
very node be linked to each other. A way around it counts only if the object itself tells that
there is nothing to take back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.link import guards
from xsplice_plugins.link.lists import Link, inserted, unlinked
from xsplice_plugins.link.things import Spot
from xsplice_plugins.target.abi import HOOK_PREFIX
from xsplice_plugins.target.held import PASSED, STORED
from xsplice_plugins.target.machine import Flow
from xsplice_plugins.target.values import POINTER_BYTES, Value, ValueFlow, test_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from xsplice_plugins.target.code import Code, Place
    from xsplice_plugins.target.held import Kept
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
#: Functions that return when all is done if this argument is not zero; -1: always.
#: Source: xen/common/{smp,spinlock,stop_machine}.c.
_WAITING = {
    "on_selected_cpus": 3,
    "smp_call_function": 2,
    "stop_machine_run": -1,
    "_spin_lock_cb": -1,
}
#: Source: `key_table` of xen/common/keyhandler.c: function, text, two flags.
_KEYS = {"register_keyhandler", "register_irq_keyhandler"}
_KEY_TABLE, _KEY_BYTES = "key_table", 24
_CALL_DEPTH_MAX = 10

_UNSURE = ("preapply", "apply")  #: if they or what follows fails, it may be unloaded at once
_EARLY = ("prerevert",)  #: replaced functions still run after these
_NOWHERE = (-1, -1)

#: ("call", name, object or None), ("store", field, ...), or a `Link` that is undone
Event = tuple[object, ...]
Events = frozenset[Event]


class TakeBack:
    """What the hooks of one payload undo."""

    def __init__(
        self,
        code: Code,
        hooks: dict[str, list[Place]],
        shared: Callable[[Place], bool],
        given: Callable[[Place], dict[str, Value]],
    ) -> None:
        """Read the hooks of a payload.

        Args:
            code: The payload's.
            hooks: Kind -> functions.
            shared: Tells where a function starts that others call, too, or may call.
            given: Returns what arguments of a function are, whoever calls it.
        """
        self._code = code
        self._values = ValueFlow(code)
        self._arguments = code.registers.arguments
        self._shared, self._given = shared, given
        self._load = frozenset(hooks.get("load", ()))
        self._coming = self._load ^ frozenset(hooks.get("postapply", ()))
        self._entered: dict[Place, bool] = {}  #: code of hooks that leave -> it unlinks a node
        self._all(hooks, _UNSURE)
        self._unsure = frozenset(self._entered)
        self._all(hooks, ("load",))
        self._begun, self._entered = frozenset(self._entered), {}
        # A revert hook stands for what would run the unload hooks.
        last = ("revert", "postrevert") if hooks.get("revert") else ("unload", "postrevert")
        self._leaving = self._all(hooks, last)
        self._after = self._all(hooks, ("postrevert",))
        self._early = self._all(hooks, _EARLY)

    def undoes(self, row: Kept, rows: Iterable[Kept]) -> bool:
        """Tell whether what ``row`` says of an address, one of ``rows``, is over after unload."""
        step = self._step_at(row)
        if row.verb == PASSED:
            return self._is_call_undone(row, step)
        if not row.verb.startswith("is stored") or step is None or step.place in self._unsure:
            return False
        if step.place in self._entered:
            return self._entered[step.place]
        return self._is_store_undone(row, step, rows)

    def value(self, row: Kept, argument: int) -> Value | None:
        """Return an argument of the call of which ``row`` tells; None if that is not known."""
        step = self._step_at(row, is_plain=True)
        value = step.value(self._arguments[argument]) if step is not None else None
        return value if value is not None and value.is_known else None

    def argument_of(self, name: str) -> int:
        """Return which argument of a function is the timer or the like that it sets up, or -1."""
        return _TAKERS.get(name, (-1, frozenset()))[0]

    def home(self, row: Kept) -> Spot | None:
        """Return the variable of Xen that ``row`` says is written; None if that is not known."""
        step = self._step_at(row, is_plain=True)
        if row.verb == PASSED:
            return Spot(_KEY_TABLE, None) if row.name in _KEYS else None
        spot = self._values.spot(step) if step is not None else None
        if row.verb.startswith("is stored") and spot is not None and isinstance(spot.base, str):
            return Spot(spot.base, spot.offset)
        return Spot(row.name, None) if row.verb == STORED else None

    def is_sure(self, place: Place, spot: Spot, own: Place, rows: Iterable[Kept]) -> bool:
        """Tell whether what an instruction loads is surely not the address of a thing.

        Its function asks for that, or it only runs before the address is there.

        Args:
            place: The instruction.
            spot: What it loads.
            own: Where the thing starts.
            rows: What may write the address there.
        """
        rows, registers = list(rows), self._code.registers
        steps = self._values.steps(self._code.start_of(place))
        written = {self._stored(row) for row in rows}
        if place in steps and written == {Value(*own)}:
            field = Value(spot.name, spot.offset or 0)
            if guards.is_other(steps, place, field, Value(*own), registers):
                return True
        return self._is_early(place, rows)

    def _stored(self, row: Kept) -> Value | None:
        step = self._step_at(row, is_plain=True)
        return self._values.stored(step) if step is not None else None

    def _is_early(self, place: Place, rows: Iterable[Kept]) -> bool:
        writers = [
            row for row in rows if not row.at or not self._entered.get((row.at[0], row.at[1]))
        ]
        if self._is_first(place, [row.at for row in writers]):
            return True
        start = self._code.start_of(place)
        steps = self._values.steps(start)
        links = {
            (row.at[0], row.at[1]): link
            for row in writers
            if (link := self._link(row, is_plain=True)) is not None
        }
        return len(links) == len({row.at for row in writers}) and all(
            guards.is_guarded(steps, start, place, link.node)
            and not (at in steps and place in guards.behind(steps, at))
            for at, link in links.items()
        )

    def _is_first(self, place: Place, others: Iterable[tuple[int, ...]]) -> bool:
        """Tell whether an instruction runs before any of others, however often these run.

        Only a hook knows: it runs once, and what was handed out is taken back before it runs again.
        """
        start = self._code.start_of(place)
        steps = self._values.steps(start)
        if start not in self._coming or place not in steps or self._shared(start):
            return False
        rows = {(at[0], at[1]) if at else _NOWHERE for at in others}
        if any(place in guards.behind(steps, at) for at in rows & steps.keys()):
            return False
        outside = rows - steps.keys()
        if start not in self._load:
            return outside <= self._entered.keys()
        is_closed = not any(guards.is_open(step) for step in steps.values())
        return not outside or (is_closed and outside.isdisjoint(self._begun | {_NOWHERE}))

    # ------------------------------------------------------------ hand-over

    def _is_call_undone(self, row: Kept, step: Step | None) -> bool:
        if any(row.name in takers for _argument, takers in _TAKERS.values()):
            return True
        if step is None:
            return False
        if row.name in _WAITING:
            argument = _WAITING[row.name]
            wait = step.value(self._arguments[argument])
            return argument < 0 or (wait.base is None and wait.offset != 0)
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

    def _is_store_undone(self, row: Kept, step: Step, rows: Iterable[Kept]) -> bool:
        link = self._link(row)
        if link is not None:
            is_undone = all(self._has(row, link._replace(side=side)) for side in (0, 1))
            return is_undone and self._is_linked_once(link, rows)
        spot, value = self._values.spot(step), self._values.stored(step)
        if self.home(row) is None or spot is None or not isinstance(spot.base, str):
            return False
        spot = spot._replace(base=_plain(spot.base))
        return self._has(row, ("store", spot)) or self._has(row, ("store", spot, value))

    def _link(self, row: Kept, *, is_plain: bool = False) -> Link | None:
        steps = self._steps_of(row, is_plain=is_plain)
        return inserted(self._values, steps.get((row.at[0], row.at[1])), steps) if steps else None

    def _is_linked_once(self, link: Link, rows: Iterable[Kept]) -> bool:
        """Tell whether a node is only put into a list while it is in none."""
        same = {(row.at[0], row.at[1]): row for row in rows if self._link(row) == link}
        places, unsure = set(same), set()
        for place, row in same.items():
            start, steps = self._code.start_of(place), self._steps_of(row)
            if not places.isdisjoint(guards.behind(steps, place)):
                return False
            if not guards.is_guarded(steps, start, place, link.node):
                unsure.add(place)
        return all(len(unsure) == 1 and self._is_first(place, places) for place in unsure)

    def _has(self, row: Kept, event: Event) -> bool:
        start = self._code.start_of((row.at[0], row.at[1]))
        is_masked = row.name in _RESTORED and start not in self._load
        is_masked = is_masked or event[1] in _BETWEEN
        if event in (self._after if is_masked else self._leaving):
            return True
        is_final = event[1] in _FINAL and row.name in _DEAD_AFTER
        return event in self._early and (is_final or start in self._coming)

    def _steps_of(self, row: Kept, *, is_plain: bool = False) -> dict[Place, Step]:
        """Return the function that ``row`` tells of; plain: whatever it is given."""
        if not row.at:
            return {}
        start = self._code.start_of((row.at[0], row.at[1]))
        return self._values.steps(start, {} if is_plain else self._given(start))

    def _step_at(self, row: Kept, *, is_plain: bool = False) -> Step | None:
        steps = self._steps_of(row, is_plain=is_plain)
        return steps.get((row.at[0], row.at[1])) if steps else None

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
        link = unlinked(spot, value)
        if link is not None:
            self._entered[place] = True
            return frozenset({link})
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


def _needless(step: Step, event: Event, *, is_equal: bool) -> Event | None:
    """Return what an event counts for where a branch goes another way around it.

    Args:
        step: The branch.
        event: What happens on its one way.
        is_equal: What was compared is equal on the other way.
    """
    row = guards.asked(step)
    if row is None:
        return None
    field, size_bytes, other, _at = row
    if event[0] == "call":
        thing, is_timer = event[2], event[1] in ("kill_timer", "stop_timer")
        is_moot = (
            is_timer and isinstance(thing, Value) and guards.is_unset(row, thing, is_equal=is_equal)
        )
        return event if is_moot else None
    if isinstance(event, Link):
        return event if guards.is_alone(row, event.node, is_equal=is_equal) else None
    if size_bytes != POINTER_BYTES:
        return None
    if not isinstance(field.base, str) or event[1] != field._replace(base=_plain(field.base)):
        return None
    if is_equal and other == Value(None, 0):
        return event
    return ("store", event[1], other) if other.is_known and not is_equal else None
