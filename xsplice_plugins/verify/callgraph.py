# SPDX-License-Identifier: Apache-2.0
"""Who calls whom in an image, read off its bytes.

On x86 a displacement of 32 bits behind a call or jump that lands exactly on a function's first byte
is a call; on arm64 a branch that does. Compiled code has no other use for such bytes often enough
to matter: remarks are made of it, no verdict. Addresses of functions that lie in data, or are
computed by code, are kept apart.
"""

import struct
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from xsplice_plugins.hypervisor import BootedImage
from xsplice_plugins.hypervisor.image.memory import Perm

#: Xen's own list of functions for messages; nobody calls what it names.
_LISTINGS = frozenset({"symbols_addresses"})


class CallGraph(Struct, frozen=True, kw_only=True):
    """The calls of one image, by decorated name."""

    callers: Mapping[str, frozenset[str]]  #: function to those that call it
    takers: Mapping[str, frozenset[str]]  #: function to the code and tables that hold its address
    boot_only: frozenset[str]  #: code and tables of memory that is freed after boot

    def path_to(
        self, name: str, is_root: Callable[[str], bool], *, is_wall: Callable[[str], bool]
    ) -> tuple[str, ...]:
        """Give a shortest chain of calls from a root to a function, empty where there is none.

        Args:
            name: the function.
            is_root: where chains may begin.
            is_wall: what no chain leads through.
        """
        ways: dict[str, tuple[str, ...]] = {name: (name,)}
        queue = deque(ways)
        while queue:
            at = queue.popleft()
            if is_root(at):
                return ways[at]
            if is_wall(at):
                continue
            for caller in sorted(self.callers.get(at, frozenset()) - ways.keys()):
                ways[caller] = (caller, *ways[at])
                queue.append(caller)
        return ()

    def origins(self, name: str, is_root: Callable[[str], bool]) -> Mapping[str, tuple[str, ...]]:
        """Give where every chain of calls to a function begins, with one chain for each.

        A chain begins at a root, at a table or code that holds a function's address, and at a
        function that nobody calls. Of code that does both, a chain through the address is given.
        """
        ways: dict[str, tuple[str, ...]] = {name: (name,)}
        found: dict[str, tuple[str, ...]] = {}
        handed: dict[str, tuple[str, ...]] = {}
        queue = deque(ways)
        while queue:
            at = queue.popleft()
            callers = self.callers.get(at, frozenset())
            takers = self.takers.get(at, frozenset())
            if is_root(at) or at in self.boot_only or not (callers or takers):
                found.setdefault(at, ways[at])
                continue
            for taker in sorted(takers):
                handed.setdefault(taker, (taker, *ways[at]))
            for caller in sorted(callers - ways.keys()):
                ways[caller] = (caller, *ways[at])
                queue.append(caller)
        return found | handed


def _owner(name: str) -> str:
    """Give the function that a compiler's piece of it belongs to."""
    return name.removesuffix(".cold")


class _Names:
    """Symbols by address."""

    def __init__(self, image: BootedImage) -> None:
        ordered = sorted(image.symbols.values(), key=lambda s: (s.addr_virt, s.size_bytes))
        self.functions = {s.addr_virt: _owner(s.name) for s in ordered if s.is_function}
        self._addresses = [s.addr_virt for s in ordered]
        self._names = [_owner(s.name) for s in ordered]

    def around(self, addr_virt: int) -> str:
        """Give the name of what lies at an address."""
        index = bisect_right(self._addresses, addr_virt)
        return self._names[index - 1] if index else f"{addr_virt:#x}"


def read_calls(image: BootedImage) -> CallGraph:
    """Read an image's calls.

    Args:
        image: Of x86_64 or arm64; of other machines the answer is empty.
    """
    names = _Names(image)
    callers: dict[str, set[str]] = {}
    takers: dict[str, set[str]] = {}
    boot_only: set[str] = set()
    for region in image.regions if image.arch.is_call_graph_read else ():
        if region.name in {"text", "init"} and image.arch.references is not None:
            for at, target, is_branch in image.arch.references(region.data, region.addr_virt):
                if target in names.functions:
                    into = callers if is_branch else takers
                    into.setdefault(names.functions[target], set()).add(names.around(at))
        words = struct.iter_unpack("<Q", region.data) if region.name != "text" else ()
        for index, (word,) in enumerate(words):
            if word in names.functions:
                place = names.around(region.addr_virt + 8 * index)
                if place not in _LISTINGS:
                    takers.setdefault(names.functions[word], set()).add(place)
        if region.perm is Perm.NONE:
            end = region.addr_virt + len(region.data)
            boot_only.update(
                _owner(s.name)
                for s in image.symbols.values()
                if region.addr_virt <= s.addr_virt < end
            )
    return CallGraph(
        callers={name: frozenset(found - {name}) for name, found in callers.items()},
        takers={name: frozenset(found - {name}) for name, found in takers.items()},
        boot_only=frozenset(boot_only),
    )


def chain_text(chain: Sequence[str]) -> str:
    """Write a chain of calls for people."""
    return " -> ".join(f"`{name.rpartition('#')[2]}`" for name in chain)
