# SPDX-License-Identifier: Apache-2.0
"""Which of a payload's variables code other than its hooks refers to, and which that may change.

Such code runs from the moment of an apply on, as often as it likes: what a later hook finds there
no file tells. Only code that nobody but hooks calls counts as theirs.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from typing import TYPE_CHECKING

from xsplice_plugins.hypervisor.facts.arches import X86_64, Arch
from xsplice_plugins.hypervisor.image.memory import Perm
from xsplice_plugins.hypervisor.state.payload import Touched

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from xsplice_plugins.hypervisor.image.memory import MemorySegment
    from xsplice_plugins.hypervisor.state.payload import LoadedPayload

_READS, _CHANGES, _TAKES, _GOES = "reads", "changes", "takes the address of", "goes to"
_WORD_BYTES = 8


def touched_by_functions(
    payload: LoadedPayload, arch: Arch, others: Iterable[MemorySegment] = ()
) -> Touched:
    """Find the variables that code other than hooks refers to, or finds by what they lead to now.

    Args:
        payload: A loaded one; keeps what its code tells.
        arch: Its machine; only on x86_64 is code read, elsewhere all variables may be changed.
        others: More memory from where such code, or Xen's, finds variables.
    """
    writable = [part for part in payload.segments if Perm.WRITE in part.perm]
    if not writable:
        return Touched()
    if arch != X86_64:
        every = tuple((part.addr_virt, part.end_virt) for part in writable)
        return Touched(used=every, changed=every)
    variables = _Variables(payload, writable)
    if payload.touched is None:
        rows = [
            (extent, kind)
            for target, kind in _of_functions(payload)
            for extent in variables.around(target, is_start=kind == _TAKES)
        ]
        payload.touched = Touched(
            used=tuple(sorted({extent for extent, _ in rows})),
            changed=tuple(sorted({extent for extent, kind in rows if kind in (_CHANGES, _TAKES)})),
        )
    used, changed = set(payload.touched.used), set(payload.touched.changed)
    constant = [part for part in payload.segments if not part.perm & (Perm.WRITE | Perm.EXEC)]
    words = [word for part in (*constant, *others) for word in _words(part)]
    todo = list(used)
    while words or todo:
        if not words:
            words = list(variables.words(todo.pop()))
            continue
        place, value = words.pop()
        for extent in variables.around(value, is_start=True) if value else ():
            if not extent[0] <= place < extent[1]:
                todo += () if extent in used else (extent,)
                used.add(extent)
                changed.add(extent)
    return Touched(used=tuple(sorted(used)), changed=tuple(sorted(changed)))


class _Variables:
    """A payload's variables by their symbols."""

    def __init__(self, payload: LoadedPayload, writable: Sequence[MemorySegment]) -> None:
        self._parts = writable
        self._known = sorted(
            {
                (symbol.addr_virt, symbol.addr_virt + symbol.size_bytes)
                for symbol in payload.symbols
                if symbol.size_bytes and self._part(symbol.addr_virt) is not None
            }
        )
        self._starts = [start for start, _ in self._known]

    def _part(self, addr: int) -> MemorySegment | None:
        return next((p for p in self._parts if p.addr_virt <= addr < p.end_virt), None)

    def around(self, addr: int, *, is_start: bool) -> Iterator[tuple[int, int]]:
        """Give what lies at an address; where code counts from there, what may follow as well."""
        part = self._part(addr)
        if part is None:
            return
        at = bisect_right(self._starts, addr)
        row = self._known[at - 1] if at and addr < self._known[at - 1][1] else None
        if row is not None:
            yield row
        if row is not None and (not is_start or row[0] == addr):
            return
        if not is_start:
            word = addr & -_WORD_BYTES
            yield word, word + _WORD_BYTES
            return
        following = self._known[at] if at < len(self._known) else None
        yield addr, following[1] if following is not None else part.end_virt

    def words(self, extent: tuple[int, int]) -> Iterator[tuple[int, int]]:
        """Give place and value of each whole word of a variable."""
        part = self._part(extent[0])
        assert part is not None, "a variable lies in memory that can be written"
        start, end = -(-extent[0] // _WORD_BYTES) * _WORD_BYTES, extent[1]
        for place in range(start, end - _WORD_BYTES + 1, _WORD_BYTES):
            offset = place - part.addr_virt
            yield place, int.from_bytes(part.data[offset : offset + _WORD_BYTES], "little")


def _words(part: MemorySegment) -> Iterator[tuple[int, int]]:
    """Give place and value of each word that is not zero."""
    words = memoryview(part.data).cast("Q")
    for at, value in enumerate(words):
        if value:
            yield part.addr_virt + at * _WORD_BYTES, value


def _of_functions(payload: LoadedPayload) -> list[tuple[int, str]]:
    """Give what code refers to that does not run in hooks alone."""
    code = [part for part in payload.segments if Perm.EXEC in part.perm]
    hooks = {*payload.hooks.values(), *payload.load_hooks, *payload.unload_hooks}
    spans = [span for part in code for span in _spans(payload, part)]
    starts = [start for start, _, _ in spans]
    references = [list(_references(data, start)) for start, _, data in spans]

    def span_at(addr: int) -> int | None:
        at = bisect_right(starts, addr) - 1
        return at if at >= 0 and addr < spans[at][1] else None

    goes: list[set[int]] = [set() for _ in spans]
    live = {at for f in payload.functions if (at := span_at(f.new_virt)) is not None}
    for part in payload.segments:
        for _, value in _words(part) if Perm.EXEC not in part.perm else ():
            at = span_at(value)
            if at is not None and starts[at] not in hooks:
                live.add(at)
    for number, rows in enumerate(references):
        for target, kind in rows:
            at = span_at(target)
            if at is not None and at != number:
                goes[number].add(at)
            if at is not None and kind == _TAKES:
                live.add(at)
    called = set().union(*goes)
    live |= {at for at, start in enumerate(starts) if at not in called and start not in hooks}
    todo = list(live)
    while todo:
        fresh = goes[todo.pop()] - live
        live |= fresh
        todo += fresh
    return [row for at in sorted(live) for row in references[at]]


def _spans(payload: LoadedPayload, part: MemorySegment) -> Iterator[tuple[int, int, bytes]]:
    """Cut code at the starts and ends of functions: start, end, bytes."""
    cuts = {part.addr_virt, part.end_virt}
    for symbol in payload.symbols:
        cuts |= {symbol.addr_virt, symbol.addr_virt + symbol.size_bytes}
    inside = sorted(cut for cut in cuts if part.addr_virt <= cut <= part.end_virt)
    for start, end in pairwise(inside):
        data = bytes(part.data[start - part.addr_virt : end - part.addr_virt])
        if any(data):
            yield start, end, data


def _references(code: bytes, addr_virt: int) -> Iterator[tuple[int, str]]:
    """Give what the instructions of x86 code refer to: address, and how."""
    import iced_x86 as iced  # noqa: PLC0415  # needed where code is read

    info, access = iced.InstructionInfoFactory(), iced.OpAccess
    harmless = {access.NONE, access.READ, access.COND_READ}
    branches = {iced.OpKind.NEAR_BRANCH16, iced.OpKind.NEAR_BRANCH32, iced.OpKind.NEAR_BRANCH64}
    decoder = iced.Decoder(64, code, ip=addr_virt)
    for insn in decoder:
        if insn.is_invalid:  # BUG() of newer releases is one byte that is no instruction
            decoder.position = max(insn.ip - addr_virt + 1, 1)
            decoder.ip = addr_virt + decoder.position
            continue
        for index in range(insn.op_count):
            kind = insn.op_kind(index)
            if kind in branches:
                yield insn.near_branch_target, _GOES
            elif kind == iced.OpKind.IMMEDIATE64:
                yield insn.immediate(index), _TAKES
        for memory in info.info(insn).used_memory():
            is_fixed = insn.is_ip_rel_memory_operand or memory.base == iced.Register.NONE
            if is_fixed and memory.displacement:
                kind = _READS if memory.access in harmless else _CHANGES
                yield memory.displacement, kind
        if insn.mnemonic == iced.Mnemonic.LEA and insn.is_ip_rel_memory_operand:
            yield insn.ip_rel_memory_address, _TAKES
