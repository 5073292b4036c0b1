# SPDX-License-Identifier: Apache-2.0
"""A model with a host's memory decides what depends on it, and nothing that changes by itself."""

from __future__ import annotations

import dataclasses

import pytest
from msgspec import structs

from tests.kit.acting import ask, do, load, with_hook
from tests.kit.payloads import minimal
from tests.kit.tiny_xen import PAGE
from tests.model.test_running_host import (
    AT_COUNTER,
    COUNTER,
    DEPENDS,
    TO_COUNTER,
    VIRT,
    ZERO,
    calling,
    code_of,
    host_xen,
    with_preapply,
)
from xsplice_plugins.hypervisor import (
    BootedImage,
    Command,
    Hazard,
    HostPage,
    Hypervisor,
    KnownSymbol,
    Probe,
    Unknown,
    prove,
    release,
    seeded,
)
from xsplice_plugins.hypervisor import ask as ask_probe
from xsplice_plugins.hypervisor.image.memory import RO, RW

HEAP = 0xFFFF83001EE32000
GUEST = 0xFFFF888000000000
VCPU, IDLE = 0x1111000, 0x2222000
IS_ZERO = "833800 0f94c0 0fb6c0 c3"  # whether the word at rax is zero


def host(
    values: dict[int, int], *, unsteady: frozenset[int] = frozenset(), **symbols: int
) -> BootedImage:
    """Give the tiny hypervisor on a host that has 8-byte values at addresses."""
    image = host_xen()
    named = {
        name: KnownSymbol(name=name, addr_virt=addr, size_bytes=8, is_function=False)
        for name, addr in symbols.items()
    }
    image = dataclasses.replace(image, symbols={**image.symbols, **named})
    pages = {COUNTER & -PAGE: bytearray(PAGE)}
    for addr, value in values.items():
        page = pages.setdefault(addr & -PAGE, bytearray(PAGE))
        page[addr % PAGE : addr % PAGE + 8] = value.to_bytes(8, "little")

    def page_at(addr: int) -> HostPage | None:
        start = addr & -PAGE
        if start not in pages:
            return None
        offsets = frozenset(at - start for at in unsteady if at & -PAGE == start)
        return HostPage(data=bytes(pages[start]), perm=RW, unsteady=offsets)

    return seeded(image, page_at)


def running(image: BootedImage, code: bytes, kind: str = "preapply") -> Hypervisor:
    hv = Hypervisor(image, release("4.17.5"))
    load(hv, "a", with_hook(minimal(), kind, code))
    return hv


@pytest.mark.parametrize(("value", "result"), [(0, 1), (7, 0)])
def test_a_hook_that_asks_a_datum_is_decided_by_the_hosts(value: int, result: int) -> None:
    code = AT_COUNTER + code_of(IS_ZERO)
    with pytest.raises(Unknown):
        ask(with_preapply(code), "a", Command.APPLY)
    assert ask(running(host({COUNTER: value}), code), "a", Command.APPLY) == result


def test_a_trap_is_taken_where_the_host_says_so() -> None:
    code = AT_COUNTER + code_of(DEPENDS["a trap"])  # traps where it is zero
    with pytest.raises(Hazard, match="crash at") as caught:
        ask(running(host({COUNTER: 0}), code), "a", Command.APPLY)
    assert not isinstance(caught.value, Unknown)
    assert do(running(host({COUNTER: 1}), code), "a", Command.APPLY) == 0


def test_what_changes_from_moment_to_moment_is_still_unknown() -> None:
    code = AT_COUNTER + code_of(IS_ZERO)
    words = frozenset(range(COUNTER, COUNTER + 8))
    with pytest.raises(Unknown, match="depends on counter"):
        ask(running(host({COUNTER: 7}, unsteady=words), code), "a", Command.APPLY)
    other = frozenset(range(COUNTER + 64, COUNTER + 72))
    assert do(running(host({COUNTER: 7}, unsteady=other), code), "a", Command.APPLY) == 0


READ_HEAP = "48b8" + HEAP.to_bytes(8, "little").hex() + "833807 7402 0f0b" + ZERO.hex()


def test_the_heap_is_fetched_when_it_is_asked_for() -> None:
    assert do(running(host({HEAP: 7}), code_of(READ_HEAP)), "a", Command.APPLY) == 0
    with pytest.raises(Hazard, match="crash at"):
        ask(running(host({HEAP: 8}), code_of(READ_HEAP)), "a", Command.APPLY)


def test_unsteady_heap_is_unknown_where_it_decides() -> None:
    unsteady = frozenset(range(HEAP, HEAP + 8))
    with pytest.raises(Unknown, match=f"depends on Xen's heap at {HEAP:#x}, which only a running"):
        ask(running(host({HEAP: 7}, unsteady=unsteady), code_of(READ_HEAP)), "a", Command.APPLY)


@pytest.mark.parametrize("addr", [HEAP, GUEST])
def test_what_the_host_has_not_or_a_domain_has_is_unknown(addr: int) -> None:
    code = code_of(READ_HEAP.replace(HEAP.to_bytes(8, "little").hex(), f"{addr:016x}"))
    code = b"\x48\xb8" + addr.to_bytes(8, "little") + code[10:]
    image = host({GUEST: 7})
    with pytest.raises(Unknown, match=f"needs memory at {addr:#x}"):
        ask(running(image, code), "a", Command.APPLY)


def test_a_hook_writes_the_hosts_heap_and_finds_it_again() -> None:
    store = "48b8" + HEAP.to_bytes(8, "little").hex() + "ff00" + ZERO.hex()
    hv = running(host({HEAP: 7}), code_of(store))
    assert do(hv, "a", Command.APPLY) == 0
    assert hv.memory.read(HEAP, 4) == (8).to_bytes(4, "little")


def test_a_pointer_that_a_hook_leaves_in_the_hosts_heap_is_found() -> None:
    lea = "48b9" + HEAP.to_bytes(8, "little").hex() + "488d05f0ffffff 488901" + ZERO.hex()
    draft = with_hook(minimal(), "preapply", code_of(lea))
    report = prove([("p", draft.build())], host({HEAP: 7}), release("4.17.5"))
    assert (report.verdict, report.step) == ("hazard", "unload")
    assert "a running host's memory still points to" in report.reason


def test_read_only_pages_of_the_host_cannot_be_written() -> None:
    image = host({HEAP: 7})
    page = image.host_pages
    assert page is not None

    def sealed(addr: int) -> HostPage | None:
        found = page(addr)
        return None if found is None else structs.replace(found, perm=RO)

    store = "48b8" + HEAP.to_bytes(8, "little").hex() + "ff00" + ZERO.hex()
    hv = running(dataclasses.replace(image, host_pages=sealed), code_of(store))
    with pytest.raises(Hazard, match="crash at"):
        ask(hv, "a", Command.APPLY)


#: Puts `current` into rax; it lies below the top of a stack of 32 KiB.
AT_CURRENT = "4889e0 480dff7f0000 488b40c9"


@pytest.mark.parametrize(
    ("kind", "found"), [("preapply", VCPU), ("load", IDLE), ("postapply", IDLE)]
)
@pytest.mark.parametrize("wanted", [VCPU, IDLE])
def test_current_is_who_asks_or_the_idle_cpu(kind: str, found: int, wanted: int) -> None:
    values = {COUNTER + 64: IDLE, COUNTER + 72: VCPU}
    image = host(values, idle_vcpu=COUNTER + 64, per_cpu__curr_vcpu=COUNTER + 72)
    is_current = AT_CURRENT + "483d" + wanted.to_bytes(4, "little").hex() + "7402 0f0b"
    hv = running(image, code_of(is_current) + ZERO, kind)
    if wanted == found:
        do(hv, "a", Command.APPLY)
    else:
        with pytest.raises(Hazard, match="crash at"):
            do(hv, "a", Command.APPLY)


def test_current_is_unknown_where_the_host_does_not_tell() -> None:
    code = code_of(AT_CURRENT + "4885c0 0f94c0 0fb6c0 c3")
    lazy = {COUNTER + 64: IDLE, COUNTER + 72: IDLE}
    told = host(lazy, idle_vcpu=COUNTER + 64, per_cpu__curr_vcpu=COUNTER + 72)
    for image in (host({}), told):
        with pytest.raises(Unknown, match="depends on current"):
            ask(running(image, code), "a", Command.APPLY)


def test_which_cpu_asks_is_unknown_on_any_host() -> None:
    code = code_of(AT_CURRENT.replace("488b40c9", "8b40c1") + "85c0 0f94c0 0fb6c0 c3")
    values = {COUNTER + 64: IDLE, COUNTER + 72: VCPU}
    image = host(values, idle_vcpu=COUNTER + 64, per_cpu__curr_vcpu=COUNTER + 72)
    with pytest.raises(Unknown, match=r"depends on smp_processor_id\(\)"):
        ask(running(image, code), "a", Command.APPLY)


def test_memory_that_the_host_allocated_is_not_given_back_by_the_model() -> None:
    free = calling(("xfree", "48bf" + HEAP.to_bytes(8, "little").hex()))
    with pytest.raises(Unknown, match="only a running host has"):
        ask(free, "a", Command.APPLY)
    with pytest.raises(Hazard, match="nobody allocated"):
        ask(calling(("xfree", TO_COUNTER)), "a", Command.APPLY)


def test_a_probe_is_answered_with_the_hosts_memory() -> None:
    reading = Probe(function="answer", arguments=("counter",))
    text = Probe(function="answer", arguments=(HEAP,), kind="string")
    for code, probe, wanted in (
        ("8b07 c3", reading, 7),  # mov eax, [rdi]
        ("4889f8 c3", text, "abc"),  # mov rax, rdi
    ):
        image = host({COUNTER: 7, HEAP: int.from_bytes(b"abc", "little")})
        hv = Hypervisor(image, release("4.17.5"))
        body = code_of(code)
        hv.memory.segments()[0].data[0x300 : 0x300 + len(body)] = body
        assert ask_probe(probe, hv, "before").found == wanted
    lost = Probe(function="answer", arguments=(HEAP + PAGE,), kind="string")
    with pytest.raises(Unknown, match="needs memory at"):
        ask_probe(lost, hv, "before")


def test_the_text_and_read_only_data_stay_the_models() -> None:
    image, made = host_xen(), host({VIRT: 1, VIRT + PAGE: 1, COUNTER: 1})
    assert made.regions[:2] == image.regions[:2]
    assert made.regions[2].data[:8] == (1).to_bytes(8, "little")


def test_the_same_host_gives_the_same_report() -> None:
    draft = with_hook(minimal(), "preapply", AT_COUNTER + code_of(IS_ZERO))
    first, second = (
        prove([("p", draft.build())], host({COUNTER: 7}), release("4.17.5")) for _ in range(2)
    )
    assert first == second
    assert first.verdict == "proved"
