# SPDX-License-Identifier: Apache-2.0
"""What a hook does once the payload's own functions have run, and changed its variables.

Nobody knows what they have made of them. So the hook runs again in other worlds: numbers have other
values, and what turns out to be a pointer leads to an object as from Xen's allocator, which leads
to another one, up to three behind each other. The chain ends with NULL, or with the head of the
list where that leads to itself. In each world the hook must end, do no harm, and give the same
answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from xsplice_plugins.hypervisor.facts.arches import PAGE_SIZE
from xsplice_plugins.hypervisor.facts.verdicts import Unknown
from xsplice_plugins.hypervisor.image.memory import RW, MemorySegment
from xsplice_plugins.hypervisor.run.trials import (
    Filling,
    How,
    Outcome,
    World,
    numbers,
    patterns,
    settle,
)
from xsplice_plugins.hypervisor.run.watch import (
    ALLOCATED,
    FREED,
    HEAP_OFFSET,
    HEAP_OWNER,
    Watch,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from xsplice_plugins.hypervisor.state.xen import Xen

_DEPTH_MAX = 3  #: objects behind each other
_POINTERS_MAX = 320  #: in all, one for each CPU of a usual build; the time goes with the square
_LENGTHS_MAX = 96  #: of how many lengths all are tried
_BLOCKS_MORE = 20_000  #: what a hook may do more than with first values
_CONSTANTS_MAX = 200
_NAMED_MAX = 3
_BEFORE_REVERT = "prerevert-hook"


class _Lead(Struct, frozen=True):
    """A word that is used as a pointer."""

    value: int  #: where it leads
    end: int  #: what ends the chain that it is part of
    depth: int  #: how many objects come before what it leads to
    is_end: bool = False


class Worlds:
    """The worlds in which one hook is tried."""

    def __init__(
        self,
        xen: Xen,
        attempt: Callable[[How], Outcome],
        watch: Watch,
        *,
        step: str,
        is_vouched: bool = False,
    ) -> None:
        """Prepare.

        Args:
            xen: The hypervisor as before the hook.
            attempt: Runs the hook once, and undoes it.
            watch: The accesses of its runs.
            step: Named in answers.
            is_vouched: Somebody vouches for what it does with a host's values.
        """
        self._xen, self._attempt, self._watch, self._step = xen, attempt, watch, step
        self._is_vouched = is_vouched
        self._leads: dict[int, _Lead] = {}
        heap = [s.end_virt for s in xen.memory.segments() if s.owner in {HEAP_OWNER, FREED}]
        start = xen.image.arch.heap_virt + HEAP_OFFSET
        self._free_virt = max([start, *heap]) + PAGE_SIZE
        self._blocks_max = 0

    def explore(self, base: Outcome) -> None:
        """See that the hook goes well in each world.

        Args:
            base: How it went with first values.

        Raises:
            Unknown: In one of them it does not.
        """
        self._blocks_max = base.sight.blocks + _BLOCKS_MORE
        asked, constants = set[int](), {1, *base.sight.constants}
        todo = list(patterns())
        while todo:
            for number in todo:
                outcome = self._well(number)
                self._check(outcome, base, number, self._every())
                constants |= outcome.sight.constants
            todo = list(numbers(constants - asked))
            asked |= constants
            if len(asked) > _CONSTANTS_MAX:
                raise self._unknown(base, "there are too many values to try")
        count = len(self._leads)
        for length in range(0, count, max(1, -(-count // _LENGTHS_MAX))):
            leads = {
                word: lead.value if at < length else lead.end
                for at, (word, lead) in enumerate(self._leads.items())
            }
            outcome = self._attempt(self._how(_zero, leads))
            if outcome.stop is not None:
                raise self._unknown(outcome, outcome.stop.reason)
            self._check(outcome, base, _zero, leads)

    def _every(self) -> dict[int, int]:
        return {word: lead.value for word, lead in self._leads.items()}

    def _how(self, number: Filling, leads: Mapping[int, int], *, is_tagged: bool = False) -> How:
        objects = tuple(lead.value & -PAGE_SIZE for lead in self._leads.values() if not lead.is_end)
        world = World(number=number, leads=leads, objects=objects, is_tagged=is_tagged)
        return How(world=world, blocks_max=self._blocks_max)

    def _well(self, number: Filling) -> Outcome:
        """Run the hook in a world; learn which words are pointers until it goes well there."""
        while True:
            outcome = self._attempt(self._how(number, self._every()))
            if outcome.stop is None:
                return outcome
            word = self._word_at_fault(number)
            if word is None:
                raise self._unknown(outcome, outcome.stop.reason)
            while word is not None:
                if len(self._leads) >= _POINTERS_MAX:
                    words = f"more than {_POINTERS_MAX} pointers are not followed"
                    raise self._untold(outcome, words)
                self._learn(word)
                word = self._word_at_fault(number)

    def _word_at_fault(self, number: Filling) -> int | None:
        """Give the word that is used as a pointer, and that no lead is known for."""
        how = self._how(number, self._every(), is_tagged=True)
        found = self._attempt(how)
        assert how.world is not None, "it was given"
        return how.world.word_of(found.sight.fault_virt) if found.stop is not None else None

    def _learn(self, word: int) -> None:
        """Let a word lead to an object, or end the chain."""
        above = [
            lead
            for lead in self._leads.values()
            if not lead.is_end and lead.value & -PAGE_SIZE == word & -PAGE_SIZE
        ]
        end, depth = (above[0].end, above[0].depth + 1) if above else (self._end_of(word), 0)
        if depth >= _DEPTH_MAX:
            self._leads[word] = _Lead(end, end, depth, is_end=True)
            return
        # The middle of a page: a list's node is somewhere inside of what is allocated.
        self._leads[word] = _Lead(self._free_virt + PAGE_SIZE // 2, end, depth)
        self._free_virt += 2 * PAGE_SIZE

    def _end_of(self, word: int) -> int:
        """Give what ends a chain that begins at a word: itself, if it leads to itself, or NULL."""
        value = int.from_bytes(self._xen.memory.peek(word, 8), "little")
        return value if abs(value - word) <= 8 else 0  # a list's two pointers

    def _check(
        self, outcome: Outcome, base: Outcome, number: Filling, leads: Mapping[int, int]
    ) -> None:
        """See that a run gave the same answer, and that it depends on nothing else.

        Raises:
            Unknown: it does not, or it does.
        """
        sight = outcome.sight
        if self._step == _BEFORE_REVERT:
            for addr in sorted(sight.written):
                if any(start <= addr < end for start, end in self._watch.used):
                    name = self._watch.datum(addr)
                    raise self._unknown(
                        outcome,
                        f"the hook before revert changes {name} while the replaced functions still "
                        "run",
                    )
        if outcome.value != base.value:
            raise self._unknown(outcome, "the hook answers otherwise")
        is_asking = not self._is_vouched and (sight.unknown or sight.times_asked)
        if is_asking and sight.path != base.sight.path:
            world = self._how(number, leads).world
            settle(
                outcome,
                lambda how: self._attempt(replace(how, world=world)),
                self._watch.datum,
                step=self._step,
            )

    def _unknown(self, outcome: Outcome, what: str) -> Unknown:
        return self._untold(outcome, f"with another value there, {what}")

    def _untold(self, outcome: Outcome, what: str) -> Unknown:
        names = _listed(outcome.sight.changing.values())
        return Unknown(
            self._step,
            f"depends on {names}, which the payload's own functions change: {what}",
        )


def _zero(_addr: int, size: int) -> bytes:
    return bytes(size)


def _listed(names: Iterable[str]) -> str:
    found = list(dict.fromkeys(names))
    named = [name for name in found if name != ALLOCATED] or found
    return ", ".join(named[:_NAMED_MAX])


def map_objects(xen: Xen, how: How) -> None:
    """Map the objects that the pointers of a world lead to."""
    for addr in how.world.objects if how.world is not None else ():
        xen.memory.map(
            MemorySegment(
                addr_virt=addr,
                data=bytearray(PAGE_SIZE),
                perm=RW,
                name="an object of the payload's own",
                owner=HEAP_OWNER,
            )
        )
