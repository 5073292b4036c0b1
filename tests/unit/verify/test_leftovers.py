# SPDX-License-Identifier: Apache-2.0
"""Which addresses of an unloaded payload count as held, in memory made in code."""

from __future__ import annotations

import dataclasses

import pytest

from tests.kit.host_memory import HostMemory
from tests.kit.tiny_xen import PAGE, TEXT_VIRT, tiny_xen
from xsplice_plugins.hypervisor import BootedImage, KnownSymbol
from xsplice_plugins.verify.leftovers import Search, payload_pages, search

VIRT = TEXT_VIRT["x86_64"]
DIRECT_MAP, TABLE = 0xFFFF830000000000, 0xFFFF82E000000000
XEN, HEAP, POOL, STACK = 0x100000, 0x110000, 0x111000, 0x120000
GUEST = range(0x180, 0x400)
PAYLOAD, OTHER = 0x130000, 0x132000
BASE = VIRT + 3 * PAGE + 0x2000
INSIDE = BASE + 0x40
FREE, IN_USE, XEN_HEAP = 3 << 58, 0x8000000000000001, 1 << 62


def image() -> BootedImage:
    """Give the tiny hypervisor; its counter comes before a pointer to the only stack."""
    made = tiny_xen()
    stack = KnownSymbol(
        name="stack_base", addr_virt=VIRT + 2 * PAGE + 64, size_bytes=16, is_function=False
    )
    return dataclasses.replace(made, symbols={**made.symbols, "stack_base": stack})


class Host:
    """A machine of 4 MiB: Xen's three pages, its heap, dom0, and a payload of two pages."""

    def __init__(self) -> None:
        self.made = HostMemory()
        for number in range(3):
            self.made.map(VIRT + number * PAGE, XEN + number * PAGE)
        for number in range(8):
            self.made.map(DIRECT_MAP + STACK + number * PAGE, STACK + number * PAGE)
        self.map_payload()
        self.table = 0x140000
        for number in range(8):
            self.made.map(TABLE + number * PAGE, self.table + number * PAGE)
        for frame in range(1024):
            self.state(frame, 0)
        for frame in GUEST:
            self.state(frame, IN_USE, owner=0x77)
        for place in (HEAP, POOL, OTHER):
            self.state(place // PAGE, XEN_HEAP | IN_USE)
        self.put(XEN + 2 * PAGE + 64, DIRECT_MAP + STACK)

    def map_payload(self) -> None:
        """Load the payload."""
        for number in range(2):
            self.made.map(BASE + number * PAGE, PAYLOAD + number * PAGE)

    def unload(self) -> None:
        """Take its pages away and give them back."""
        for number in range(2):
            self.made.map(BASE + number * PAGE, 0, flags=0)
            self.state(PAYLOAD // PAGE + number, FREE)

    def state(self, frame: int, state: int, owner: int = 0) -> None:
        """Say what a page is used for."""
        place = self.table + 32 * frame
        self.put(place + 8, state)
        self.put(place + 24, owner)

    def put(self, phys: int, value: int) -> None:
        """Write a word of physical memory."""
        self.made.put(phys, value.to_bytes(8, "little"))

    def searched(self) -> Search:
        """Unload the payload and search."""
        xen = image()
        pages = payload_pages(self.made.memory(), xen)
        self.unload()
        return search(self.made.memory(), xen, pages)


def places(result: Search) -> list[str]:
    assert all(held.value == INSIDE for held in result.held)
    return [held.where for held in result.held]


def test_clean_memory_holds_nothing() -> None:
    result = Host().searched()
    assert (result.held, result.problem, result.base_virt) == ((), "", BASE)
    assert result.searched_bytes > 3 * PAGE


@pytest.mark.parametrize(
    ("phys", "where"),
    [
        (XEN + 2 * PAGE, "counter+0x0/0x8"),
        (XEN + 2 * PAGE + 8, "counter+0x8/0x8"),
        (HEAP, "Xen's heap at 0xffff830000110000"),
        (HEAP + PAGE - 8, "Xen's heap at 0xffff830000110ff8"),
    ],
)
def test_an_address_in_data_or_heap_is_held(phys: int, where: str) -> None:
    host = Host()
    host.put(phys, INSIDE)
    assert places(host.searched()) == [where]


@pytest.mark.parametrize(
    ("phys", "value"),
    [
        (HEAP + 4, INSIDE),  # no pointer lies there
        (HEAP, BASE - 1),
        (HEAP, BASE + 2 * PAGE),
        (STACK + 0x100, INSIDE),  # left from a call that has returned
        (GUEST[3] * PAGE, INSIDE),  # Xen follows no pointer of a domain's
        (PAYLOAD, INSIDE),  # it points to itself, and is free
    ],
    ids=["unaligned", "before it", "behind it", "stack", "domain", "itself"],
)
def test_what_xen_cannot_follow_is_not_held(phys: int, value: int) -> None:
    host = Host()
    host.put(phys, value)
    assert places(host.searched()) == []


def test_the_same_page_counts_when_it_is_in_use_and_not_when_it_is_free() -> None:
    for state, count in ((XEN_HEAP | IN_USE, 1), (FREE, 0)):
        host = Host()
        host.put(HEAP, INSIDE)
        host.state(HEAP // PAGE, state)
        assert len(host.searched().held) == count


def test_memory_of_xens_own_that_no_list_has_is_searched_too() -> None:
    host = Host()
    host.put(0x150000, INSIDE)  # allocated at boot: in use, no heap, no domain
    assert places(host.searched()) == ["Xen's heap at 0xffff830000150000"]


def test_another_payload_that_still_refers_to_it_is_named() -> None:
    host = Host()
    other = BASE + 4 * PAGE
    host.made.map(other, OTHER)
    host.put(OTHER + 16, INSIDE)
    assert places(host.searched()) == [f"another payload's memory at {other + 16:#x}"]


def chain(host: Host, *blocks: tuple[int, bool], end: int = 0) -> list[int]:
    """Make a page of the pool out of blocks (bytes, is free); give where each one's bytes begin."""
    at, before, starts, was_free = POOL, 0, [], False
    for size, is_free in blocks:
        host.put(at, before)
        host.put(at + 8, size | is_free | 2 * was_free)
        starts.append(at + 16)
        before, was_free = DIRECT_MAP + at, is_free
        at += 16 + size
    host.put(at, before)
    host.put(at + 8, end | 2 * was_free)
    return starts


BLOCKS = ((64, False), (1024, True), (PAGE - 64 - 1024 - 64, False))


def test_a_free_block_of_the_pool_holds_nothing_and_one_in_use_does() -> None:
    for number, count in ((0, 1), (1, 0), (2, 1)):
        host = Host()
        starts = chain(host, *BLOCKS)
        host.put(starts[number] + 24, INSIDE)
        assert len(host.searched().held) == count, number


@pytest.mark.parametrize("damage", ["a link", "the end", "a size"])
def test_a_page_that_is_no_chain_of_blocks_is_taken_as_in_use(damage: str) -> None:
    host = Host()
    starts = chain(host, *BLOCKS, end=64 if damage == "the end" else 0)
    host.put(starts[1] + 24, INSIDE)
    if damage == "a link":
        host.put(starts[2] - 16, DIRECT_MAP + HEAP)
    elif damage == "a size":
        host.put(starts[2] - 8, 64)
    assert len(host.searched().held) == 1


@pytest.mark.parametrize("what", ["elsewhere", "states", "owners"])
def test_a_table_of_pages_that_is_not_as_known_is_said_and_data_are_searched(what: str) -> None:
    host = Host()
    host.put(XEN + 2 * PAGE, INSIDE)
    host.put(HEAP, INSIDE)
    if what == "elsewhere":
        host.made.map(TABLE, 0, flags=0)
    elif what == "states":
        host.state(XEN // PAGE, FREE)
    else:
        for frame in GUEST:
            host.state(frame, IN_USE, owner=frame)
    result = host.searched()
    assert "its heap was left out" in result.problem
    assert places(result) == ["counter+0x0/0x8"]


def test_a_payload_that_is_still_there_was_not_searched_for() -> None:
    host, xen = Host(), image()
    memory = host.made.memory()
    assert search(memory, xen, payload_pages(memory, xen)).problem.startswith("no page")


def test_what_xen_only_notes_and_prints_is_not_held() -> None:
    host, xen = Host(), image()
    noted = KnownSymbol(
        name="arch/x86/traps.c#per_cpu__last_extable_addr",
        addr_virt=VIRT + 2 * PAGE + 128,
        size_bytes=8,
        is_function=False,
    )
    for extra, count in (({}, 1), ({noted.name: noted}, 0)):
        host.map_payload()
        host.put(XEN + 2 * PAGE + 128, INSIDE)
        named = dataclasses.replace(xen, symbols={**xen.symbols, **extra})
        pages = payload_pages(host.made.memory(), named)
        host.unload()
        assert len(search(host.made.memory(), named, pages).held) == count


@pytest.mark.parametrize(
    ("name", "function", "state"),
    [("common/smp.c#call_data", 0, 24), ("common/stop_machine.c#stopmachine_data", 24, 4)],
)
@pytest.mark.parametrize("is_over", [True, False])
def test_a_call_that_is_over_holds_nothing(
    name: str, function: int, state: int, *, is_over: bool
) -> None:
    host, xen = Host(), image()
    place = 2 * PAGE + 128
    call = KnownSymbol(name=name, addr_virt=VIRT + place, size_bytes=40, is_function=False)
    named = dataclasses.replace(xen, symbols={**xen.symbols, name: call})
    host.put(XEN + place + function, INSIDE)
    last = 4 << 32 if state < function else 0
    host.put(XEN + place + (state & -8), last if is_over else last ^ 1 << 32)
    pages = payload_pages(host.made.memory(), named)
    host.unload()
    found = [held.where for held in search(host.made.memory(), named, pages).held]
    assert found == ([] if is_over else [f"{name}+{function:#x}/0x28"])
