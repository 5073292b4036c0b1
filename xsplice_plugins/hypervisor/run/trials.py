# SPDX-License-Identifier: Apache-2.0
"""What boot has written and no file tells: run with other contents, and see whether it matters.

Code that reads such memory runs again with each of several fillings of exactly the bytes that it
read before it wrote them. Where the outcome or the way through the code differs, the model cannot
answer: it says which datum the answer depends on. Fillings are patterns, addresses, and every
constant that the code at hand contains, since it may compare with them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from xsplice_plugins.hypervisor.facts.verdicts import Hazard, Unknown

#: Gives the bytes that a read of so many bytes at an address finds; None for those of the file.
Filling = Callable[[int, int], bytes]
#: More constants than this are not tried: the answer is then taken to depend on what was read.
CONSTANTS_MAX = 256
_CULPRITS_MAX = 24
_NAMED_MAX = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """One way to run the same code."""

    #: fill registers and stack that nobody set with other values than in the run that counts
    is_rehearsal: bool = False
    filling: Filling | None = None
    only: frozenset[str] = frozenset()  #: fill these data alone; all where empty
    number: int = 0  #: of the filling, for what is no memory: the time
    blocks_max: int = 0  #: stop after more blocks; 0 for no such limit


@dataclass(slots=True, kw_only=True)
class Sight:
    """What one run looked at."""

    unknown: dict[int, None] = field(default_factory=dict)  #: bytes nobody knows, as first read
    written: set[int] = field(default_factory=set)  #: bytes of such memory that it wrote
    constants: set[int] = field(default_factory=set)  #: of the instructions that were executed
    path: int = 0  #: a hash over the blocks, in order
    blocks: int = 0  #: how many were executed
    is_timed: bool = False  #: it asked for the time
    held: set[int] = field(default_factory=set)  #: locks of unknown memory that it holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one run ended."""

    value: object  #: whatever decides how Xen goes on
    console: tuple[str, ...] = ()  #: what it printed
    stop: Hazard | None  #: why it did not return
    sight: Sight

    def differs(self, other: "Outcome") -> bool:
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


def _fillings(sight: Sight) -> Iterator[Filling]:
    def number(of: Callable[[int], int]) -> Filling:
        return lambda addr, size: (of(addr) & (1 << 8 * size) - 1).to_bytes(size, "little")

    for byte in (0xA5, 0x5A, 0, 0xFF):
        yield number(lambda _, byte=byte: byte * 0x0101010101010101)  # type: ignore[misc]
    yield number(lambda addr: addr * 0x9E3779B97F4A7C15 >> 7)  # another one at each address
    yield number(lambda addr: addr)  # an empty list's head
    for constant in sorted({1} | sight.constants):
        yield number(lambda _, constant=constant: constant)  # type: ignore[misc]
        yield number(lambda _, constant=constant: -constant)  # type: ignore[misc]


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
        Unknown: it depends on memory that boot has written, or on the time.
    """
    limit = base.sight.blocks + 1
    if base.sight.is_timed and any(
        attempt(How(number=n, blocks_max=limit)).differs(base) for n in (1, 2)
    ):
        raise Unknown(step, "depends on the time since boot")
    if not base.sight.unknown:
        return
    data: dict[str, str] = {}
    for addr in base.sight.unknown:
        datum = name(addr)
        data.setdefault(symbol_of(datum), datum)
    if len(base.sight.constants) > CONSTANTS_MAX:
        raise Unknown(step, f"depends on {_listed(data)}: too many values to try")
    for filling in _fillings(base.sight):
        if attempt(How(filling=filling, blocks_max=limit)).differs(base):
            raise Unknown(step, f"depends on {_culprit(data, base, attempt, filling)}")


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
