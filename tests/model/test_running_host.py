# SPDX-License-Identifier: Apache-2.0
"""What only a running host can answer is neither accepted nor called a hazard."""

from __future__ import annotations

import dataclasses

import pytest
from msgspec import structs

from tests.kit.acting import ask, do, load, state, with_hook
from tests.kit.payloads import ALLOC, UND, WRITE, Draft, Rel, Sec, Sym, add_code, add_hook, minimal
from tests.kit.tiny_xen import PAGE, TEXT_VIRT, tiny_xen
from xsplice_plugins.hypervisor import (
    BootedImage,
    Command,
    Hazard,
    Hypervisor,
    KnownSymbol,
    Probe,
    Unknown,
    prove,
    release,
)
from xsplice_plugins.hypervisor.facts.arches import ARM64, X86_64
from xsplice_plugins.hypervisor.image.memory import RO, Perm
from xsplice_plugins.hypervisor.proof.probes import ask as ask_probe
from xsplice_plugins.hypervisor.run.processor import read_block

VIRT = TEXT_VIRT["x86_64"]
COUNTER = VIRT + 2 * PAGE
AT_COUNTER = b"\x48\xb8" + COUNTER.to_bytes(8, "little")  # mov rax, counter
ZERO = b"\x31\xc0\xc3"  # xor eax, eax; ret
HELPERS = (
    *("_xmalloc", "_xzalloc", "xfree", "get_s_time", "init_timer", "set_timer", "kill_timer"),
    *("_spin_lock", "_spin_unlock", "printk"),
)


def host_xen() -> BootedImage:
    """Give the tiny hypervisor with the helpers that hooks call."""
    image = tiny_xen()
    symbols = {
        name: KnownSymbol(
            name=name, addr_virt=VIRT + 0x600 + 16 * index, size_bytes=16, is_function=True
        )
        for index, name in enumerate(HELPERS)
    }
    return dataclasses.replace(image, symbols={**image.symbols, **symbols})


def with_preapply(code: bytes) -> Hypervisor:
    hv = Hypervisor(host_xen(), release("4.17.5"))
    load(hv, "a", with_hook(minimal(), "preapply", code))
    return hv


def code_of(text: str) -> bytes:
    return bytes.fromhex(text)


DEPENDS = {
    "a branch": "833800 7401 c3 b801000000 c3",
    "no branch": "833805 0f94c0 0fb6c0 c3",
    "its sign": "8b00 c1f81f c3",
    "one bit": "8b00 83e008 c3",
    "a pointer": "488b00 8b00" + ZERO.hex(),
    "a trap": "833800 7502 0f0b" + ZERO.hex(),
    "a loop": "833800 75fb" + ZERO.hex(),
    "an address": "488b08 4839c1 0f94c0 0fb6c0 c3",
}


@pytest.mark.parametrize("what", DEPENDS)
def test_what_depends_on_memory_that_boot_writes_names_the_datum(what: str) -> None:
    hv = with_preapply(AT_COUNTER + code_of(DEPENDS[what]))
    with pytest.raises(Unknown, match=r"^preapply-hook: depends on counter, which only a running"):
        ask(hv, "a", Command.APPLY)


@pytest.mark.parametrize(
    "code",
    [
        "ff00",  # inc dword [rax]
        "8b08 890d00000000"[:4],  # mov ecx, [rax]
        "c70000000000 8b00 85c0 7401 cc",  # it reads what it wrote itself
    ],
)
def test_what_does_not_depend_on_it_is_accepted(code: str) -> None:
    hv = with_preapply(AT_COUNTER + code_of(code) + ZERO)
    assert do(hv, "a", Command.APPLY) == 0
    assert state(hv, "a") == ("APPLIED", 0)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("8b00 0f0b", "crash at"),  # whatever it reads
        ("31c0 8b00 c3", "crash at"),  # a null pointer
        ("48b8a5a5a5a5a5a5a5a5 8b00 c3", "crash at"),  # no address at all
        ("48b8" + (VIRT).to_bytes(8, "little").hex() + "c60000 c3", "crash at"),  # Xen's text
    ],
)
def test_what_is_certain_stays_a_hazard(code: str, words: str) -> None:
    hv = with_preapply(AT_COUNTER + code_of(code))
    with pytest.raises(Hazard, match=words) as caught:
        ask(hv, "a", Command.APPLY)
    assert not isinstance(caught.value, Unknown)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("0f31", "needs a real processor: rdtsc"),
        ("0fa2", "needs a real processor: cpuid"),
        ("b900000000 0f32", "needs a real processor: rdmsr"),
        ("0f20d8", "needs a real processor: a control register"),
        ("e460", "needs a real processor: in"),
        ("48b80050341200 83ffff 8b00", "needs memory at 0xffff830012345000"),
    ],
)
def test_what_only_hardware_or_the_heap_has_is_said(code: str, words: str) -> None:
    hv = with_preapply(code_of(code) + ZERO)
    with pytest.raises(Unknown, match=words):
        ask(hv, "a", Command.APPLY)


def test_after_an_unknown_nothing_is_known() -> None:
    hv = with_preapply(AT_COUNTER + code_of(DEPENDS["a branch"]))
    with pytest.raises(Unknown):
        ask(hv, "a", Command.APPLY)
    with pytest.raises(Unknown, match="the host is unknown since: depends on counter"):
        ask(hv, "a", Command.REVERT)


def test_what_a_hook_copied_from_unknown_memory_stays_unknown() -> None:
    hv = Hypervisor(host_xen(), release("4.17.5"))
    load(hv, "a", keeping("8b00 8901"))  # mov eax, [counter]; mov [kept], eax
    assert do(hv, "a", Command.APPLY) == 0
    with pytest.raises(Unknown, match="prerevert-hook: depends on counter"):
        ask(hv, "a", Command.REVERT)


def test_what_a_hook_wrote_is_known_afterwards() -> None:
    hv = Hypervisor(host_xen(), release("4.17.5"))
    load(hv, "a", keeping("c70100000000"))
    assert do(hv, "a", Command.APPLY) == 0
    assert do(hv, "a", Command.REVERT) == 0
    assert state(hv, "a") == ("CHECKED", 0)


def keeping(code: str) -> Draft:
    """Give a payload whose first hook has rax at counter and rcx at its own datum."""
    draft = minimal()
    draft.sections.append(Sec(".data", bytes(8), flags=ALLOC | WRITE))
    draft.symbols.append(Sym("kept", ".data"))
    lea = b"\x48\x8d\x0d\0\0\0\0"
    at = len(AT_COUNTER) + 3
    keep = AT_COUNTER + lea + code_of(code) + ZERO
    add_code(draft, "keep", keep, [Rel(at, 2, "kept", -4)])
    add_hook(draft, "preapply", "keep")
    add_code(draft, "check", lea + b"\x8b\x01\xc3", [Rel(3, 2, "kept", -4)])
    add_hook(draft, "prerevert", "check")
    return draft


def calling(*calls: tuple[str, str], end: str = "") -> Hypervisor:
    """Load a hook that calls helpers, each behind the code that makes its arguments."""
    draft = minimal()
    code, relocs = b"\x53", []  # push rbx
    for name, arguments in calls:
        code += code_of(arguments)
        relocs.append(Rel(len(code) + 1, 4, name, -4))
        code += b"\xe8\0\0\0\0"
    code += code_of(end) + b"\x5b" + ZERO
    draft.symbols += [Sym(name, UND) for name in dict.fromkeys(name for name, _ in calls)]
    add_code(draft, "hook", code, relocs)
    add_hook(draft, "preapply", "hook")
    hv = Hypervisor(host_xen(), release("4.17.5"))
    load(hv, "a", draft)
    return hv


IN_RBX = "4889c3"  # mov rbx, rax
FROM_RBX = "4889df"  # mov rdi, rbx
SIZE = "bf64000000"  # mov edi, 100
TO_COUNTER = "48bf" + COUNTER.to_bytes(8, "little").hex()  # mov rdi, counter


def test_memory_is_allocated_used_and_freed() -> None:
    hv = calling(("_xmalloc", SIZE), ("xfree", "4885c0 7403 c6005a" + IN_RBX + FROM_RBX))
    assert do(hv, "a", Command.APPLY) == 0


@pytest.mark.parametrize("times", [1, 2])
def test_what_one_hook_allocates_another_one_frees_once(times: int) -> None:
    draft = minimal()
    draft.sections.append(Sec(".data", bytes(8), flags=ALLOC | WRITE))
    draft.symbols += [Sym("kept", ".data"), Sym("_xmalloc", UND), Sym("xfree", UND)]
    store = code_of("50 bf64000000 e800000000 48890500000000 59") + ZERO  # kept = _xmalloc(100)
    relocs = [Rel(7, 4, "_xmalloc", -4), Rel(14, 2, "kept", -4)]
    add_code(draft, "on", store, relocs)
    add_hook(draft, "postapply", "on")
    free = code_of("50 488b3d00000000 e800000000 59") * times + ZERO
    relocs = [
        Rel(14 * turn + place, kind, name, -4)
        for turn in range(times)
        for place, kind, name in ((4, 2, "kept"), (9, 4, "xfree"))
    ]
    add_code(draft, "off", free, relocs)
    add_hook(draft, "postrevert", "off")
    hv = Hypervisor(host_xen(), release("4.17.5"))
    load(hv, "a", draft)
    assert do(hv, "a", Command.APPLY) == 0
    if times == 1:
        assert do(hv, "a", Command.REVERT) == 0
        return
    with pytest.raises(Hazard, match="twice"):
        do(hv, "a", Command.REVERT)


@pytest.mark.parametrize(
    ("calls", "end", "words"),
    [
        ((("_xmalloc", SIZE), ("xfree", IN_RBX + FROM_RBX), ("xfree", FROM_RBX)), "", "twice"),
        ((("xfree", TO_COUNTER),), "", "nobody allocated"),
        ((("_spin_lock", TO_COUNTER), ("_spin_lock", TO_COUNTER)), "", "taken twice"),
        # What xmalloc gives is not cleared.
        ((("_xmalloc", SIZE),), "803800 7402 0f0b", "nobody set"),
    ],
)
def test_helpers_used_wrongly_are_hazards(
    calls: tuple[tuple[str, str], ...], end: str, words: str
) -> None:
    with pytest.raises(Hazard, match=words) as caught:
        ask(calling(*calls, end=end), "a", Command.APPLY)
    assert not isinstance(caught.value, Unknown)


def test_zeroed_memory_is_zero_and_locks_of_xen_are_free() -> None:
    hv = calling(
        ("_xzalloc", SIZE),
        ("_spin_lock", "4885c0 7407 803800 7402 0f0b" + TO_COUNTER),
        ("_spin_unlock", TO_COUNTER),
        ("_spin_lock", TO_COUNTER),
        ("_spin_unlock", TO_COUNTER),
    )
    assert do(hv, "a", Command.APPLY) == 0


@pytest.mark.parametrize(
    ("nanoseconds", "is_known"),
    [(10**9, True), (60 * 10**9, False), (86_400 * 10**9, False), (10**18, True)],
)
def test_time_is_that_of_a_host_that_has_been_up(nanoseconds: int, *, is_known: bool) -> None:
    compare = "48b9" + nanoseconds.to_bytes(8, "little").hex() + "4839c8 7703 90 90 90"
    hv = calling(("get_s_time", ""), end=compare)
    if is_known:
        assert do(hv, "a", Command.APPLY) == 0
    else:
        with pytest.raises(Unknown, match="depends on the time since boot"):
            ask(hv, "a", Command.APPLY)


def test_a_timer_lies_in_memory_until_it_is_killed() -> None:
    timer = TO_COUNTER
    others = "be00000000 ba00000000 b900000000"
    for is_killed in (False, True):
        calls = [("init_timer", timer + others), ("set_timer", timer)]
        hv = calling(*calls, *([("kill_timer", timer)] if is_killed else []))
        assert do(hv, "a", Command.APPLY) == 0
        found = [
            segment.name
            for segment in hv.memory.segments()
            if segment.owner != "xen" and COUNTER.to_bytes(8, "little") in segment.data
        ]
        assert ("Xen's list of timers" in found) is not is_killed


def test_sealed_data_is_unknown_and_read_only_data_is_not() -> None:
    image = host_xen()
    words = VIRT + PAGE
    code = b"\x48\xb8" + words.to_bytes(8, "little") + b"\x80\x38\x6f\x0f\x95\xc0\x0f\xb6\xc0\xc3"
    seal = {
        f"__ro_after_init_{end}": KnownSymbol(
            name=f"__ro_after_init_{end}", addr_virt=addr, size_bytes=0, is_function=False
        )
        for end, addr in (("start", words), ("end", words + 16))
    }
    assert next(r for r in image.regions if r.name == "rodata").perm is RO
    for extra, is_known in (({}, True), (seal, False)):
        sealed = dataclasses.replace(image, symbols={**image.symbols, **extra})
        hv = Hypervisor(sealed, release("4.17.5"))
        load(hv, "a", with_hook(minimal(), "preapply", code))
        if is_known:
            assert do(hv, "a", Command.APPLY) == 0
        else:
            with pytest.raises(Unknown, match="depends on words_of_xen"):
                ask(hv, "a", Command.APPLY)


def test_a_probe_that_reads_unknown_memory_has_no_answer() -> None:
    hv = Hypervisor(host_xen(), release("4.17.5"))
    hv.memory.segments()[0].data[0x300:0x303] = b"\x8b\x07\xc3"  # mov eax, [rdi]; ret
    question = Probe(function="answer", arguments=("counter",))
    with pytest.raises(Unknown, match="probe: depends on counter"):
        ask_probe(question, hv, "before")
    assert hv.memory.read(COUNTER, 4) == bytes(4), "asking changes nothing"
    hv.told.update(range(COUNTER, COUNTER + 8))
    assert ask_probe(question, hv, "before").found == 0
    pointing = Probe(function="answer", arguments=(COUNTER,), kind="bytes")
    hv.memory.segments()[0].data[0x300:0x304] = b"\x48\x89\xf8\xc3"  # mov rax, rdi; ret
    hv.told.clear()
    with pytest.raises(Unknown, match="probe: depends on counter"):
        ask_probe(pointing, hv, "before")


def test_the_report_says_unknown() -> None:
    draft = with_hook(minimal(), "preapply", AT_COUNTER + code_of(DEPENDS["no branch"]))
    report = prove([("a", draft.build())], host_xen(), release("4.17.5"))
    assert (report.verdict, report.step, report.errno) == ("unknown", "preapply-hook", 0)
    assert report.reason == "depends on counter, which only a running host knows"


def test_contents_are_put_back_after_trying_others() -> None:
    hv = with_preapply(AT_COUNTER + code_of("8b08") + ZERO)
    before = hv.memory.digest(owner="xen", code_only=True)
    assert do(hv, "a", Command.APPLY) == 0
    assert hv.memory.read(COUNTER, 8) == bytes(8)
    do(hv, "a", Command.REVERT)
    assert hv.memory.digest(owner="xen", code_only=True) == before
    assert all(Perm.WRITE not in s.perm or s.name != "text" for s in hv.memory.segments())


@pytest.mark.parametrize(
    ("code", "needs"),
    [
        ("40d03cd5", ""),  # mrs x0, tpidr_el2: this CPU's offset
        ("20e03bd5", "the system register"),  # mrs x0, cntpct_el0
        ("1f2003d5", ""),  # nop
    ],
)
def test_blocks_of_arm64_are_read_for_system_registers(code: str, needs: str) -> None:
    assert read_block(bytes.fromhex(code), 0x1000, ARM64).problem.startswith(needs)
    assert bool(read_block(bytes.fromhex(code), 0x1000, ARM64).problem) == bool(needs)


def test_constants_of_a_block_are_collected() -> None:
    block = read_block(code_of("83f805 8d50fe 48c7c1ffffffff"), 0x1000, X86_64)
    assert {5, 2, 1} <= block.constants
    assert 0x2A in read_block(bytes.fromhex("1fa80071"), 0x1000, ARM64).constants  # cmp w0, #42


def test_an_answer_that_somebody_wrote_down_is_checked_on_the_image_as_built() -> None:
    image = host_xen()
    text = bytearray(image.regions[0].data)
    text[0x300:0x303] = b"\x8b\x07\xc3"  # mov eax, [rdi]; ret
    changed = structs.replace(image.regions[0], data=bytes(text))
    reading = dataclasses.replace(image, regions=(changed, *image.regions[1:]))
    for value, verdict in ((0, "proved"), (1, "refused")):
        question = Probe(function="answer", arguments=("counter",), before=value, after=value)
        report = prove([("a", minimal().build())], reading, release("4.17.5"), probes=[question])
        assert report.verdict == verdict
        assert report.notes[0] == (
            "answer() before: depends on counter, which only a running host knows; "
            "asked as the file has it"
        )


def test_members_of_the_hooks_argument_that_the_model_has_not_are_unknown() -> None:
    for offset, is_known in ((40, True), (16, False)):  # the size of its text, a list
        code = code_of(f"488b47{offset:02x} 4885c0 7401 90") + ZERO
        hv = with_preapply(code)
        if is_known:
            assert do(hv, "a", Command.APPLY) == 0
        else:
            with pytest.raises(Unknown, match="depends on struct payload"):
                ask(hv, "a", Command.APPLY)


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_timer_of_a_payload_that_nobody_kills_is_found_at_unload(*, is_killed: bool) -> None:
    draft = minimal()
    draft.sections.append(Sec(".data", bytes(48), flags=ALLOC | WRITE))
    draft.symbols.append(Sym("timer", ".data"))
    draft.symbols += [Sym("init_timer", UND), Sym("kill_timer", UND)]
    for kind, helper in (("load", "init_timer"), ("unload", "kill_timer")):
        code = b"\x53\x48\x8d\x3d\0\0\0\0\x31\xf6\xe8\0\0\0\0\x5b\xc3"
        add_code(draft, kind, code, [Rel(4, 2, "timer", -4), Rel(11, 4, helper, -4)])
        if kind == "load" or is_killed:
            add_hook(draft, kind, kind)
    report = prove([("a", draft.build())], host_xen(), release("4.17.5"))
    assert report.verdict == ("proved" if is_killed else "hazard")
    assert report.reason.startswith("" if is_killed else "Xen's list of timers still points to")
