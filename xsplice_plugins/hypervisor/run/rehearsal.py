# SPDX-License-Identifier: Apache-2.0
"""Finding code that relies on values nobody set, by running it twice.

Code that is called finds its arguments, and in every other register, in the stack below, in the
condition flags, and in the gaps between a payload's sections whatever was there before. Xen
allocates a payload's pages without clearing them, and functions without a result leave anything in
its register. A first run, the rehearsal, has other values in all these places than the run that
counts; where the two come out differently, the outcome on a real host is anybody's guess.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields

from xsplice_plugins.hypervisor.image.memory import MemorySegment
from xsplice_plugins.hypervisor.load.layout import FILLER
from xsplice_plugins.hypervisor.state.payload import Function, LoadedPayload
from xsplice_plugins.hypervisor.state.xen import Xen

RELIES = "it relies on a register, a stack slot or memory that nobody set"
_OTHER_FILLER = bytes(0 if byte == FILLER[0] else byte for byte in range(256))


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything a hook can change."""

    segments: tuple[tuple[MemorySegment, bytes], ...]
    values: tuple[tuple[object, str, object], ...]
    applied: tuple[LoadedPayload, ...]
    console: tuple[str, ...]


def take_snapshot(xen: Xen, payload: LoadedPayload) -> Snapshot:
    """Remember everything that a hook of a payload can change."""
    owners: tuple[LoadedPayload | Function, ...] = (payload, *payload.functions)
    return Snapshot(
        segments=tuple((segment, bytes(segment.data)) for segment in xen.memory.segments()),
        values=tuple(
            (owner, item.name, getattr(owner, item.name))
            for owner in owners
            for item in fields(owner)
        ),
        applied=tuple(xen.applied),
        console=tuple(xen.console),
    )


def put_back(xen: Xen, snapshot: Snapshot) -> None:
    """Undo what happened since a snapshot."""
    for segment, data in snapshot.segments:
        if segment.data != data:
            segment.data[:] = data
            segment.touch()
    for owner, name, value in snapshot.values:
        setattr(owner, name, value)
    xen.applied[:] = snapshot.applied
    xen.console[:] = snapshot.console


@contextmanager
def other_leftovers(payloads: Sequence[LoadedPayload]) -> Iterator[None]:
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
