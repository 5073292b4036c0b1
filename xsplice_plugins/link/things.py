# SPDX-License-Identifier: Apache-2.0
"""What a payload defines, and who in it refers to what: to its own things, and to Xen's data."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from xsplice_plugins.elf.types import STT_FUNC, STT_OBJECT
from xsplice_plugins.link.sections import STRINGS
from xsplice_plugins.target.abi import FUNCS_SECTION, HOOK_PREFIX, NEW_ADDR_OFFSET
from xsplice_plugins.target.calls import THUNK
from xsplice_plugins.target.frames import Cell
from xsplice_plugins.target.machine import CALLS, DIRECT, PUSHED, STACK, Flow
from xsplice_plugins.target.values import POINTER_BYTES

if TYPE_CHECKING:
    from xsplice_plugins.elf.reader import ElfFile
    from xsplice_plugins.elf.types import Section
    from xsplice_plugins.link.image import XenImage
    from xsplice_plugins.target.abi import Abi
    from xsplice_plugins.target.addresses import AddressFlow
    from xsplice_plugins.target.code import Place
    from xsplice_plugins.target.machine import Effect
    from xsplice_plugins.target.references import Target

_PUSHED = (PUSHED, f"{STACK}+0")  #: where a call puts the address behind it
_SET_FRAME = 2  #: instructions: it is pushed, and set to the stack pointer
_ANY_BYTES = 1 << 62  #: of a variable of which nobody knows the size
_TEXT_MAX = 40  #: characters of a text that a message shows


class Thing(NamedTuple):
    """Something that only the payload defines, or one beneath it."""

    place: Place  #: of its first byte
    name: str  #: "" for what has none
    text: str | None  #: its content, where it is a text

    @property
    def title(self) -> str:
        """Return how messages call it."""
        if self.name:
            kind = "new" if self.place[0] else "a payload beneath's"
            return f"{kind} `{self.name.rpartition('#')[2]}`"
        if self.text is None:
            return "new data without a name"
        shown = self.text[:_TEXT_MAX] + ("..." if len(self.text) > _TEXT_MAX else "")
        return f"the text {shown!r}"


def _beneath(target: Target) -> Thing:
    """Return what a payload beneath defines: it goes with that one."""
    return Thing((0, target.symbol.number), target.symbol.name, None)


class Spot(NamedTuple):
    """A pointer in a variable of Xen."""

    name: str
    offset: int | None  #: ``None``: any of the variable


class Read(NamedTuple):
    """A field of code that refers to a variable of Xen."""

    field: Place
    spot: Spot


class Things:
    """The things of one payload, and the fields that refer to them."""

    def __init__(self, elf: ElfFile, image: XenImage, abi: Abi, flow: AddressFlow) -> None:
        """Read the payload ``elf``, whose code ``flow`` follows."""
        self.elf = elf
        self._image, self._abi, self._flow = image, abi, flow
        self._symbols = sorted(
            (s for s in elf.symbols if s.type in (STT_FUNC, STT_OBJECT) and s.shndx and s.name),
            key=lambda s: (s.shndx, s.value),
        )
        self.fields: dict[Thing, set[Place]] = {}  #: code that refers to it
        self.calls: dict[Place, set[Place]] = {}  #: function -> fields of calls to it
        self.held: dict[Thing, set[Thing]] = {}  #: data -> what its pointers lead to
        self.reads: list[Read] = []  #: what code refers to beyond the payload
        self.borrowed: set[str] = set()  #: functions of Xen whose address somebody takes
        self._read_code()
        for section in self.elf.sections:
            if not section.is_exec and self._is_content(section.index):
                self._read_data(section)
        if flow.registers.counter:
            self._read_returns()

    @cached_property
    def handed(self) -> frozenset[Thing]:
        """Return the functions whose address something holds: anybody may call them."""
        return self._taken()

    @cached_property
    def replacing(self) -> frozenset[Place]:
        """Return where the functions start that stand for ones of the image."""
        funcs = self.elf.section_by_name.get(FUNCS_SECTION)
        size = self._abi.facts.record_size_bytes
        return frozenset(
            (target.section_index, target.offset)
            for offset, target in (self._flow.targets(funcs) if funcs is not None else {}).items()
            if offset % size == NEW_ADDR_OFFSET and target.section_index is not None
        )

    def start_of(self, name: str) -> Place | None:
        """Return where the function or datum starts that has a name."""
        return next(((s.shndx, s.value) for s in self._symbols if s.name == name), None)

    def at(self, place: Place) -> Thing:
        """Return what a place is part of."""
        index, offset = place
        rows = [s for s in self._symbols if s.shndx == index and s.value <= offset]
        for symbol in rows:
            if offset < symbol.value + max(symbol.size_bytes, 1):
                return Thing((index, symbol.value), symbol.name, None)
        for symbol in rows:  # the end of a datum, as loops over it name it
            if offset == symbol.value + symbol.size_bytes and symbol.type == STT_OBJECT:
                return Thing((index, symbol.value), symbol.name, None)
        section = self.elf.sections[index]
        content = section.data
        if section.is_write or section.is_exec or not 0 <= offset < len(content):
            return Thing((index, offset), "", None)
        start = content.rfind(b"\0", 0, offset) + 1
        raw = content[start : content.find(b"\0", offset)]
        text = raw.decode("latin-1")
        is_text = all(c.isprintable() or c in "\n\t\r\x01" for c in text)
        is_text = is_text and bool(text or section.name == STRINGS)
        return Thing((index, start if is_text else offset), "", text if is_text else None)

    def meet(self, one: Spot, other: Spot) -> bool:
        """Tell whether two pointers in variables of Xen share bytes."""
        (base, start, size_bytes), (base2, start2, size2_bytes) = map(self._extent, (one, other))
        return base == base2 and -size2_bytes < start2 - start < size_bytes

    def _extent(self, spot: Spot) -> tuple[str, int, int]:
        symbol = self._image.symbols.get(spot.name)
        base, start = (spot.name, 0) if symbol is None else ("", symbol.addr_virt)
        if spot.offset is not None:
            return base, start + spot.offset, POINTER_BYTES
        size_bytes = _ANY_BYTES if symbol is None else symbol.size_bytes
        return base, start, max(size_bytes, POINTER_BYTES)

    def _taken(self) -> frozenset[Thing]:
        things = {*self.fields, *(thing for held in self.held.values() for thing in held)}
        return frozenset(t for t in things if self.elf.sections[t.place[0]].is_exec)

    # -------------------------------------------------------------- reading

    def _is_content(self, index: int) -> bool:
        section = self.elf.sections[index]
        is_special = section.name.startswith((HOOK_PREFIX, FUNCS_SECTION))
        is_table = self._abi.profile.table(section.name) is not None
        return section.is_alloc and not is_special and not is_table

    def _read_code(self) -> None:
        flow = self._flow
        for section, reloc, target in flow.seeds():
            field = (section.index, reloc.offset)
            is_branch = flow.is_branch(field)
            if target.section_index is None:
                if is_branch:
                    continue
                if self._is_beneath(target):
                    self.fields.setdefault(_beneath(target), set()).add(field)
                else:
                    self._borrow(target)
                    spot = Spot(target.symbol.name, self._distance(field, target))
                    self.reads.append(Read(field, spot))
            elif self._is_content(target.section_index):
                place = (target.section_index, target.offset)
                if is_branch:
                    self.calls.setdefault(place, set()).add(field)
                else:
                    self.fields.setdefault(self.at(place), set()).add(field)
        for index, effect in flow.instructions():
            self._read_own_address(index, effect)

    def _read_returns(self) -> None:
        """Note what functions read from their frames that calls of the payload pushed there.

        A jump pushes nothing: who jumps on, or to a part of a function that lies elsewhere, was
        called by others. A pointer may lead to each function whose address something holds.
        """
        flow = self._flow
        reached = {thing.place for thing in self._taken()} | self.replacing
        callers: dict[Place, set[Thing]] = {}
        jumpers: dict[Place, set[Place]] = {}
        for index, effect in flow.instructions():
            place = (index, effect.start)
            name, there = flow.branch(place, effect)
            is_open = effect.jumps or effect.flow is Flow.INDIRECT_CALL
            goals = reached if is_open or THUNK.fullmatch(name) else {there} if there else ()
            own, is_call = flow.start_of(place), effect.flow in CALLS
            for goal in goals if is_open or effect.flow in DIRECT else ():
                if is_call:
                    callers.setdefault(goal, set()).add(self.at(place))
                elif flow.start_of(goal) != own:
                    jumpers.setdefault(flow.start_of(goal), set()).add(own)
        for start in sorted(callers.keys() | jumpers.keys()):
            known, todo = {start}, [start]
            while todo:
                new = jumpers.get(todo.pop(), set()) - known
                known |= new
                todo += new
            self._read_return(start, {thing for at in known for thing in callers.get(at, ())})

    def _read_return(self, start: Place, callers: set[Thing]) -> None:
        """Note where a function reads the address behind a call of one of the ``callers``."""
        if not callers or start != self._flow.start_of(start):
            return
        rows = list(self._flow.block(*start).values())
        for number, effect in enumerate(rows):
            place = (start[0], effect.start)
            if effect.loads and effect.wide and effect.flow is Flow.NEXT:
                if self._is_frame(rows, number):
                    continue
                spots = self._flow.frames.before(place).operand(effect)
                for caller in callers if Cell(STACK, 0) in spots else ():
                    self.fields.setdefault(caller, set()).add(place)

    def _is_frame(self, rows: list[Effect], number: int) -> bool:
        """Tell whether compilers push a return address once more, where they align the stack.

        Behind it the frame pointer is pushed and set; then nobody reads what lies above that.
        """
        stack, moved = self._flow.registers.stack, rows[number + 1 : number + 3]
        if PUSHED not in rows[number].writes or len(moved) < _SET_FRAME:
            return False
        frame = moved[0].values & moved[1].writes
        is_set = moved[0].slot == PUSHED and moved[1].moves and moved[1].values == {stack}
        return is_set and not any(
            (row.base in frame and row.displacement >= POINTER_BYTES and (row.loads or row.takes))
            or (row.moves and not row.loads and row.values & frame and stack not in row.writes)
            for row in rows[number + 3 :]
        )

    def _read_own_address(self, section: int, effect: Effect) -> None:
        """Note an address of code that the assembler has filled in."""
        flow = self._flow
        if any(flow.target_at(section, at) for at in range(effect.start, effect.end)):
            return
        if effect.takes and effect.base and effect.base == flow.registers.counter:
            place = (section, effect.displacement)
            code, step = self.elf.sections[section].data, flow.registers.frame_return
            if code.endswith(step, 0, place[1]):
                return  # as `enable_nmis` of xen/arch/x86/include/asm/processor.h goes on
            self.fields.setdefault(self.at(place), set()).add((section, effect.displacement_at))
        elif effect.flow is Flow.CALL and effect.target is not None:
            row = flow.at((section, effect.target))
            while row is not None and row.flow is Flow.NEXT:
                if row.loads and row.slot in _PUSHED:  # as in `call 1f; 1: pop %rax`
                    thing = self.at((section, effect.end))
                    self.fields.setdefault(thing, set()).add((section, row.start))
                if flow.registers.stack in row.writes:
                    break
                row = flow.at((section, row.end))

    def _read_data(self, section: Section) -> None:
        sizes = self._abi.machine.relocation_sizes
        for reloc in self.elf.relocs(section):
            target = self._flow.targets(section)[reloc.offset]
            index = target.section_index
            owner = self.at((section.index, reloc.offset))
            if index is None:
                if self._is_beneath(target):
                    self.held.setdefault(owner, set()).add(_beneath(target))
                self._borrow(target)
            elif self._is_content(index):
                thing = self.at((index, target.offset))
                is_label = self.elf.sections[index].is_exec and thing.place[1] != target.offset
                if is_label and sizes.get(reloc.type, 0) < POINTER_BYTES:  # a table of jumps
                    self.fields.pop(owner, None)
                elif owner != thing:
                    self.held.setdefault(owner, set()).add(thing)

    def _distance(self, field: Place, target: Target) -> int | None:
        effect = self._flow.around(*field)
        if effect is None or effect.takes or effect.through - {self._flow.registers.counter}:
            return None
        return target.offset if field[1] == effect.displacement_at else None

    def _borrow(self, target: Target) -> None:
        symbol = self._image.symbols.get(target.symbol.name)
        if symbol is not None and symbol.is_function:
            self.borrowed.add(target.symbol.name)

    def _is_beneath(self, target: Target) -> bool:
        """Tell whether a name is neither the payload's nor the image's."""
        name = target.symbol.name
        return not target.symbol.shndx and bool(name) and name not in self._image.symbols
