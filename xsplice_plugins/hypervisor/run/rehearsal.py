# SPDX-License-Identifier: Apache-2.0
"""Finding code that relies on values nobody set, by running it twice.

Code that is called finds its arguments, and in every other register, in the stack below, in the
condition flags, and in the gaps between a payload's sections whatever was there before. Xen
allocates a payload's pages without clearing them, and functions without a result leave anything in
its register. A first run, the rehearsal, has other values in all these places than the run that
counts; where the two come out differently, the outcome on a real host is anybody's guess.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields

from msgspec import Struct

from xsplice_plugins.hypervisor.facts.verdicts import Hazard, HostUnknown, Unknown
from xsplice_plugins.hypervisor.image.memory import MemorySegment
from xsplice_plugins.hypervisor.load.layout import FILLER
from xsplice_plugins.hypervisor.run.execute import engine_of
from xsplice_plugins.hypervisor.run.trials import (
    EVERY_ALLOCATION,
    NO_ALLOCATION,
    How,
    Outcome,
    Sight,
    settle,
)
from xsplice_plugins.hypervisor.run.worlds import Worlds, map_objects
from xsplice_plugins.hypervisor.state.payload import Function, LoadedPayload
from xsplice_plugins.hypervisor.state.xen import Xen

RELIES = "it relies on a register, a stack slot or memory that nobody set"
_POOR = "depends on memory: where an allocation gives NULL"
_FAILING_MAX = 8  #: so many allocations fail alone
_OTHER_FILLER = bytes(0 if byte == FILLER[0] else byte for byte in range(256))


class Snapshot(Struct, frozen=True, kw_only=True):
    """Everything a hook can change."""

    segments: tuple[tuple[MemorySegment, bytes, str], ...]  #: with content and owner
    values: tuple[tuple[object, str, object], ...]
    applied: tuple[LoadedPayload, ...]
    console: tuple[str, ...]


def _take_snapshot(xen: Xen, payload: LoadedPayload | None) -> Snapshot:
    """Remember everything that code can change, with a hook's payload."""
    owners: tuple[LoadedPayload | Function, ...] = ()
    if payload is not None:
        owners = (payload, *payload.functions)
    return Snapshot(
        segments=tuple((s, bytes(s.data), s.owner) for s in xen.memory.segments()),
        values=tuple(
            (owner, item.name, getattr(owner, item.name))
            for owner in owners
            for item in fields(owner)
        ),
        applied=tuple(xen.applied),
        console=tuple(xen.console),
    )


def _put_back(xen: Xen, snapshot: Snapshot) -> None:
    """Undo what happened since a snapshot."""
    kept = {id(segment) for segment, _, _ in snapshot.segments}
    for segment in xen.memory.segments():
        if id(segment) not in kept:  # what the code allocated
            xen.memory.unmap(segment)
    for segment, data, whose in snapshot.segments:
        segment.owner = whose  # what was given back is allocated again
        if segment.data != data:
            segment.data[:] = data
            segment.touch()
    for owner, name, value in snapshot.values:
        setattr(owner, name, value)
    xen.applied[:] = snapshot.applied
    xen.console[:] = snapshot.console


@contextmanager
def _other_leftovers(payloads: Sequence[LoadedPayload]) -> Iterator[None]:
    """Show other bytes in the gaps between the payloads' sections, where nothing was written."""
    kept: list[tuple[MemorySegment, int, bytes]] = []
    for payload in payloads:
        for segment, start, end in payload.gaps:
            before = bytes(segment.data[start:end])
            segment.data[start:end] = before.translate(_OTHER_FILLER)
            kept.append((segment, start, before))
    try:
        yield
    finally:
        for segment, start, before in reversed(kept):
            segment.data[start : start + len(before)] = before


def run_tried(
    xen: Xen,
    payload: LoadedPayload | None,
    *,
    run: Callable[[How, Sight], int],
    value: Callable[[int], object],
    step: str,
    is_pure: bool = False,
    is_as_filed: bool = False,
    vouch: Callable[[str], None] | None = None,
) -> int:
    """Run code: rehearsed, as it counts, and with other contents of what it read and nobody knows.

    Args:
        xen: the hypervisor; has afterwards what the run that counts left there.
        payload: whose hook it is, if it is one.
        run: runs the code once.
        value: gives what matters of a run's result, read right after it.
        step: named in answers.
        is_pure: undo the run that counts as well.
        is_as_filed: take what boot may have written to be as in the file.
        vouch: somebody vouches for what the code does with a host's values: is told what they are.

    Returns:
        The result of the run that counts.

    Raises:
        Hazard: the code does not return, or relies on what nobody set.
        Unknown: its outcome depends on a running host.
    """
    before = _take_snapshot(xen, payload)
    results: list[int] = []
    traces: list[dict[int, int]] = []
    other_worlds: list[dict[int, int]] = []

    def attempt(how: How, *, is_kept: bool = False) -> Outcome:
        sight, said, stop = Sight(), None, None
        with _other_leftovers(xen.payloads) if how.is_rehearsal else nullcontext():
            map_objects(xen, how)
            try:
                results[:] = [run(how, sight)]
                said = value(results[0])
            except Hazard as hazard:
                stop = hazard
            console = tuple(xen.console[len(before.console) :])
            if how.world is not None and stop is None:
                other_worlds.append(_bytes_at(xen, sight.written))
            elif not how.is_rehearsal and how.failing == NO_ALLOCATION:
                traces.append(_bytes_at(xen, sight.written))
            if not is_kept:
                _put_back(xen, before)
        return Outcome(value=said, console=console, stop=stop, sight=sight)

    first = attempt(How(is_rehearsal=True))
    base = attempt(How(), is_kept=not is_pure)
    if first.value != base.value or (first.stop is None) != (base.stop is None):
        stop = first.stop or base.stop
        raise Hazard(step, f"{RELIES}{f': {stop.reason}' if stop is not None else ''}")
    seen = base.sight
    is_asking = seen.unknown or seen.changing or seen.times_asked or seen.allocations
    is_known = is_as_filed or not is_asking
    if base.stop is None and is_known:
        if not is_pure:
            _note_writes(xen, traces, "")
        return results[0]
    watch = engine_of(xen).watch
    if not is_as_filed and not isinstance(base.stop, Unknown):
        _put_back(xen, before)
        try:
            settle(base, attempt, watch.datum, step=step)
        except HostUnknown as unknown:
            if vouch is None or base.stop is not None:
                raise
            vouch(unknown.reason)
        if base.stop is None:
            _try_without_memory(attempt, seen.allocations, step=step)
        if seen.changing and base.stop is None:
            Worlds(xen, attempt, watch, step=step, is_vouched=vouch is not None).explore(base)
    if base.stop is not None:
        raise base.stop
    attempt(How(), is_kept=not is_pure)
    if not is_pure:
        _note_writes(xen, traces, watch.datum(next(iter(seen.unknown), 0)))
        _note_carried(xen, [traces[-1], *other_worlds], next(iter(seen.changing.values()), ""))
    return results[0]


def _try_without_memory(attempt: Callable[[How], Outcome], allocations: int, *, step: str) -> None:
    """See that code goes well where there is no memory at all, or none for one allocation.

    Raises:
        Unknown: it does not.
    """
    if not allocations:
        return
    for failing in (EVERY_ALLOCATION, *range(1, min(allocations, _FAILING_MAX) + 1)):
        stop = attempt(How(failing=failing)).stop
        if stop is not None:
            which = "" if failing == EVERY_ALLOCATION else f" (number {failing} alone)"
            raise Unknown(step, f"{_POOR}{which}: {stop.reason}")


def _bytes_at(xen: Xen, addresses: Iterable[int]) -> dict[int, int]:
    return {addr: xen.memory.peek(addr, 1)[0] for addr in addresses if xen.memory.find(addr)}


def _note_writes(xen: Xen, traces: Sequence[Mapping[int, int]], source: str) -> None:
    """Tell bytes that were written alike in every run from those that came from unknown memory."""
    for addr, byte in traces[-1].items():
        if all(trace.get(addr) == byte for trace in traces):
            xen.told.add(addr)
            xen.unsure.pop(addr, None)
        else:
            xen.told.discard(addr)
            xen.unsure[addr] = source


def _note_carried(xen: Xen, traces: Sequence[Mapping[int, int]], source: str) -> None:
    """Note bytes that came out differently for what a payload's own functions have changed."""
    for addr in set().union(*traces):
        if xen.memory.find(addr) is None:
            continue  # it was in an object of another world
        now = xen.memory.peek(addr, 1)[0]
        if all(trace.get(addr, now) == now for trace in traces):
            xen.carried.pop(addr, None)
        else:
            xen.carried[addr] = source
