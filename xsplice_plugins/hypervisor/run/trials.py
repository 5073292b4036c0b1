# SPDX-License-Identifier: Apache-2.0
"""What boot has written and no file tells: run with other contents, and see whether it matters.

Code that reads such memory runs again with each of several fillings of exactly the bytes that it
read before it wrote them. Where the outcome or the way through the code differs, the model cannot
answer: it says which datum the answer depends on. Fillings are patterns, addresses, and every
constant that the code at hand contains, since it may compare with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice

from msgspec import Struct, field

from xsplice_plugins.hypervisor.facts.verdicts import Hazard, HostUnknown

#: Gives the bytes that a read of so many bytes at an address finds; None for those of the file.
Filling = Callable[[int, int], bytes]
#: More blocks than this are not executed: the answer is then taken to depend on what was read.
_BLOCKS_MAX = 2_000_000
#: How long hosts have been up that take a payload: some seconds, minutes, days, years.
UPTIMES_NS = (2_000_000_000, 100_000_000_000, 100_000_000_000_000, 90_000_000_000_000_000)
#: What stands for no allocation, and for all of them, among their numbers.
NO_ALLOCATION, EVERY_ALLOCATION = 0, -1
_CULPRITS_MAX = 24
_NAMED_MAX = 3


#: Where nothing can be mapped; a pointer that a world does not know yet leads near such a place.
_TAG, _TAG_STEP, _TAG_REACH = 0x5A5A_0000_0000_0000, 1 << 24, 1 << 20


class World(Struct, frozen=True, kw_only=True):
    """What a payload's own functions have made of its variables, as far as code reads them."""

    number: Filling
    #: what words hold that are known as pointers; else they may be told from each other
    leads: Mapping[int, int]
    objects: tuple[int, ...] = ()  #: pages that such pointers lead to, as from Xen's allocator
    is_tagged: bool = False
    tags: list[int] = field(default_factory=list)  #: the words, in the order of their tags

    def content(self, addr: int, size: int) -> bytes:
        """Give what a read of so many bytes finds at an address."""
        word = addr & -8
        if word in self.leads:
            data = self.leads[word].to_bytes(8, "little")
            data += self.number(word + 8, 8)
            return data[addr - word : addr - word + size]
        if self.is_tagged and size == 8 and addr == word:
            self.tags.append(word)
            return (_TAG + len(self.tags) * _TAG_STEP).to_bytes(8, "little")
        return self.number(addr, size)

    def word_of(self, addr: int) -> int | None:
        """Give the word whose tag an address is near to."""
        at, distance = divmod(addr - _TAG + _TAG_REACH, _TAG_STEP)
        is_near = 0 < at <= len(self.tags) and distance <= 2 * _TAG_REACH
        return self.tags[at - 1] if is_near else None


class How(Struct, frozen=True, kw_only=True):
    """One way to run the same code."""

    #: fill registers and stack that nobody set with other values than in the run that counts
    is_rehearsal: bool = False
    filling: Filling | None = None
    only: frozenset[str] = frozenset()  #: fill these data alone; all where empty
    time_ns: int = UPTIMES_NS[0]  #: since boot
    blocks_max: int = 0  #: stop after more blocks; 0 for no such limit
    #: which allocation gives NULL, counted from 1; every one, or none
    failing: int = NO_ALLOCATION
    world: World | None = None  #: what a payload's own functions have made of its variables


class Sight(Struct, kw_only=True):
    """What one run looked at."""

    unknown: dict[int, None] = field(default_factory=dict)  #: bytes nobody knows, as first read
    written: set[int] = field(default_factory=set)  #: bytes of such memory that it wrote
    constants: set[int] = field(default_factory=set)  #: of the instructions that were executed
    path: int = 0  #: a hash over the blocks, in order
    blocks: int = 0  #: how many were executed
    times_asked: int = 0  #: how often it asked for the time
    allocations: int = 0  #: how often it asked for memory
    #: locks of unknown memory that it holds, and how often
    held: dict[int, int] = field(default_factory=dict)
    #: bytes that a payload's own functions may have changed, and the variable's name
    changing: dict[int, str] = field(default_factory=dict)
    fault_virt: int = 0  #: the address at which it failed, where that was one


class Outcome(Struct, frozen=True, kw_only=True):
    """How one run ended."""

    value: object  #: whatever decides how Xen goes on
    console: tuple[str, ...] = ()  #: what it printed
    stop: Hazard | None  #: why it did not return
    sight: Sight

    def differs(self, other: Outcome) -> bool:
        """Whether two runs took another way or came to another end."""
        return (self.value, self.console, str(self.stop), self.sight.path) != (
            other.value,
            other.console,
            str(other.stop),
            other.sight.path,
        )


def symbol_of(datum: str) -> str:
    """Give a datum's symbol without the offset."""
    return datum.partition("+0x")[0]


def _number(of: Callable[[int], int]) -> Filling:
    return lambda addr, size: (of(addr) & (1 << 8 * size) - 1).to_bytes(size, "little")


def patterns() -> Iterator[Filling]:
    """Give ways to fill memory that have nothing to do with the code: patterns and addresses."""
    for byte in (0xA5, 0x5A, 0, 0xFF):
        yield _number(lambda _, byte=byte: byte * 0x0101010101010101)  # type: ignore[misc]
    yield _number(lambda addr: addr * 0x9E3779B97F4A7C15 >> 7)  # another one at each address
    yield _number(lambda addr: addr)  # an empty list's head


def numbers(constants: Iterable[int]) -> Iterator[Filling]:
    """Give ways to fill memory with what code may compare with."""
    for constant in sorted(constants):
        yield _number(lambda _, constant=constant: constant)  # type: ignore[misc]
        yield _number(lambda _, constant=constant: -constant)  # type: ignore[misc]


def _times(sight: Sight) -> Iterator[int]:
    """Give other times since boot, those around the constants of the code among them."""
    yield from UPTIMES_NS[1:]
    for constant in sorted(sight.constants):
        if UPTIMES_NS[0] < constant < UPTIMES_NS[-1]:
            yield from (constant - 1, constant + 1)


def settle(
    base: Outcome, attempt: Callable[[How], Outcome], name: Callable[[int], str], *, step: str
) -> None:
    """See that an outcome does not depend on what the model cannot know.

    Args:
        base: the run with the file's content.
        attempt: runs the same code from the same state again, and undoes it.
        name: gives a byte's datum.
        step: named in the answer.

    Raises:
        HostUnknown: it depends on memory that boot has written, or on the time.
    """
    limit = base.sight.blocks + 1
    for time_ns in _times(base.sight) if base.sight.times_asked else ():
        if attempt(How(time_ns=time_ns, blocks_max=limit)).differs(base):
            raise HostUnknown(step, "depends on the time since boot")
    if not base.sight.unknown:
        return
    data: dict[str, str] = {}
    for addr in base.sight.unknown:
        datum = name(addr)
        data.setdefault(symbol_of(datum), datum)
    if base.sight.blocks * len(base.sight.constants) > _BLOCKS_MAX:
        raise HostUnknown(step, f"depends on {_listed(data)}: too many values to try")
    for filling in (*patterns(), *numbers({1} | base.sight.constants)):
        if attempt(How(filling=filling, blocks_max=limit)).differs(base):
            raise HostUnknown(step, f"depends on {_culprit(data, base, attempt, filling)}")


def _culprit(
    data: Mapping[str, str], base: Outcome, attempt: Callable[[How], Outcome], filling: Filling
) -> str:
    """Name the first datum that makes the difference alone, or the first few that were read."""
    for symbol, datum in islice(data.items(), _CULPRITS_MAX):
        how = How(filling=filling, only=frozenset({symbol}), blocks_max=base.sight.blocks + 1)
        if attempt(how).differs(base):
            return f"{datum}, which only a running host knows"
    return _listed(data)


def _listed(data: Mapping[str, str]) -> str:
    return f"{', '.join(islice(data.values(), _NAMED_MAX))}, which only a running host knows"
