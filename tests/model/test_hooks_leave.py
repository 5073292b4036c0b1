# SPDX-License-Identifier: Apache-2.0
"""What a hook may take of a CPU, and how it has to leave it; each rule beside what keeps it."""

from __future__ import annotations

import dataclasses

import pytest

from tests.kit.acting import do, fresh, returning, state, with_hook
from tests.kit.payloads import UND, Rel, Sym, add_code, add_hook, minimal
from tests.kit.tiny_xen import PAGE, TEXT_VIRT, tiny_xen
from xsplice_plugins.hypervisor import Command, Hazard, Hypervisor, KnownSymbol, Unknown, release

COUNTER = TEXT_VIRT["x86_64"] + 2 * PAGE
SIZE = "bf64000000"  # mov edi, 100
LOCK = "48bf" + COUNTER.to_bytes(8, "little").hex()  # mov rdi, counter
HOOKS = ("preapply", "load", "postapply")


def applied(kind: str, code: str) -> tuple[str, int]:
    """Apply a payload with one hook that does this and returns zero; give state and rc."""
    hv = fresh(("a", with_hook(minimal(), kind, bytes.fromhex(code) + returning(0))))
    do(hv, "a", Command.APPLY)
    return state(hv, "a")


def called(
    kind: str,
    *calls: tuple[str, str],
    end: str = "",
    version: str = "4.17.5",
    asserts: bool = False,
) -> tuple[str, int]:
    """The same with a hook that calls functions of Xen, each behind code for its arguments."""
    draft = minimal()
    code, relocs = b"\x53", []  # push rbx
    for name, arguments in calls:
        code += bytes.fromhex(arguments)
        relocs.append(Rel(len(code) + 1, 4, name, -4))
        code += b"\xe8\0\0\0\0"
    add_code(draft, "hook", code + bytes.fromhex(end) + b"\x5b" + returning(0), relocs)
    add_hook(draft, kind, "hook")
    names = dict.fromkeys(name for name, _ in calls)
    draft.symbols += [Sym(name, UND) for name in names]
    image = tiny_xen()
    added = {
        name: KnownSymbol(
            name=name,
            addr_virt=COUNTER - 2 * PAGE + 0x600 + 16 * at,
            size_bytes=16,
            is_function=True,
        )
        for at, name in enumerate(names)
    }
    added["per_cpu____preempt_count"] = KnownSymbol(
        name="per_cpu____preempt_count", addr_virt=COUNTER + 8, size_bytes=4, is_function=False
    )
    frames = {TEXT_VIRT["x86_64"]: 3} if asserts else {}
    image = dataclasses.replace(image, symbols={**image.symbols, **added}, bug_frames=frames)
    hv = Hypervisor(image, release(version))
    assert hv.upload(b"a\0", draft.build()).code == 0
    do(hv, "a", Command.APPLY)
    return state(hv, "a")


def hazard(kind: str, code: str) -> str:
    with pytest.raises(Hazard) as caught:
        applied(kind, code)
    assert not isinstance(caught.value, Unknown), caught.value
    return caught.value.reason


def framed(size_bytes: int) -> str:
    """Write to the far end of a frame of the stack."""
    size = size_bytes.to_bytes(4, "little").hex()
    return f"4881ec{size} c6042401 4881c4{size}"  # sub rsp; movb $1, (%rsp); add rsp


@pytest.mark.parametrize("kind", HOOKS)
def test_a_hook_has_what_is_left_of_a_stack_of_8_kib(kind: str) -> None:
    assert applied(kind, framed(5000)) == ("APPLIED", 0)
    for size_bytes in (5700, 12_000, 200_000):
        assert "overruns Xen's stack at a_hook" in hazard(kind, framed(size_bytes)).replace(
            f"{kind}_a1", "a_hook"
        )


@pytest.mark.parametrize(("size_bytes", "is_enough"), [(4400, True), (4800, False)])
def test_what_a_hook_calls_needs_stack_too(size_bytes: int, *, is_enough: bool) -> None:
    size = size_bytes.to_bytes(4, "little").hex()
    calls = [("_xmalloc", f"4881ec{size} {SIZE}"), ("xfree", "4889c7")]
    if is_enough:
        assert called("preapply", *calls, end=f"4881c4{size}") == ("APPLIED", 0)
    else:
        with pytest.raises(Hazard, match="overruns Xen's stack at _xmalloc"):
            called("preapply", *calls, end=f"4881c4{size}")


LOCKS = [
    ("_spin_lock", "_spin_unlock"),
    ("_spin_lock_irqsave", "_spin_unlock_irqrestore"),
    ("_spin_trylock", "_spin_unlock"),
    ("_spin_lock_recursive", "_spin_unlock_recursive"),
    ("_nrspin_lock", "_nrspin_unlock"),
    ("_rspin_lock_irqsave", "_rspin_unlock_irqrestore"),
]
SAVED = "4889c6"  # mov rsi, rax


@pytest.mark.parametrize("kind", HOOKS)
@pytest.mark.parametrize(("take", "give"), LOCKS)
def test_a_lock_of_xen_is_given_back_before_the_hook_returns(
    kind: str, take: str, give: str
) -> None:
    assert called(kind, (take, LOCK), (give, LOCK + SAVED)) == ("APPLIED", 0)
    with pytest.raises(Hazard, match="returns with the lock counter held"):
        called(kind, (take, LOCK))
    with pytest.raises(Hazard, match="given back by who does not hold it"):
        called(kind, (give, LOCK))
    with pytest.raises(Hazard, match="given back by who does not hold it"):
        called(kind, (take, LOCK), (give, LOCK + SAVED), (give, LOCK))


def test_only_a_recursive_lock_is_taken_twice_and_a_try_fails() -> None:
    take, give = ("_spin_lock_recursive", LOCK), ("_spin_unlock_recursive", LOCK)
    assert called("load", take, take, give, give) == ("APPLIED", 0)
    with pytest.raises(Hazard, match="lock counter held"):
        called("load", take, take, give)
    with pytest.raises(Hazard, match="taken twice"):
        called("load", take, ("_spin_lock", LOCK))
    try_again = [("_spin_lock", LOCK), ("_spin_trylock", LOCK)]
    crash = "85c0 7402 0f0b"  # the try answers 0
    assert called("load", *try_again, ("_spin_unlock", crash + LOCK)) == ("APPLIED", 0)


CLI, STI = "fa", "fb"
SAVE, RESTORE = "9c", "9d"  # pushf, popf


@pytest.mark.parametrize(
    ("kind", "code", "found"),
    [
        ("preapply", CLI, "off"),
        ("preapply", CLI + STI, ""),
        ("preapply", SAVE + CLI + RESTORE, ""),
        ("postapply", CLI, "off"),
        ("postapply", STI, ""),
        ("load", STI, "on"),
        ("load", STI + CLI, ""),
        ("load", SAVE + CLI + RESTORE, ""),
    ],
)
def test_a_hook_leaves_interrupts_as_they_were(kind: str, code: str, found: str) -> None:
    if found:
        assert f"returns with interrupts {found}" in hazard(kind, code)
    else:
        assert applied(kind, code) == ("APPLIED", 0)


@pytest.mark.parametrize("kind", HOOKS)
@pytest.mark.parametrize(
    ("left", "undone", "name"),
    [
        ("fd", "fc", "the direction flag"),  # std, cld
        ("9c 48810c2400000400 9d", "9c 48812424fffffbff 9d", "AC"),
        ("9c 48810c2400400000 9d", "9c 48812424ffbfffff 9d", "NT"),
    ],
)
def test_a_hook_leaves_the_processors_state_as_it_was(
    kind: str, left: str, undone: str, name: str
) -> None:
    assert f"returns with {name} changed" in hazard(kind, left)
    assert applied(kind, left + undone) == ("APPLIED", 0)


def test_functions_are_called_with_the_direction_flag_clear() -> None:
    calls = [("_spin_lock", LOCK + "fd"), ("_spin_unlock", LOCK)]
    with pytest.raises(Hazard, match=r"_spin_lock.* is called with the direction flag set"):
        called("load", *calls, end="fc")
    assert called("load", ("_spin_lock", LOCK + "fdfc"), calls[1]) == ("APPLIED", 0)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("31c0 8ed0", "a segment register"),  # mov ss, eax
        ("31c0 8ee0", "a segment register"),  # mov fs, eax
        ("8cd8", "a segment register"),  # mov eax, ds
        ("65488b042500000000", "a segment's base"),  # mov rax, gs:0
        ("0f01f8", "swapgs"),
        ("0f06", "clts"),
    ],
)
def test_segments_need_a_real_processor(code: str, words: str) -> None:
    with pytest.raises(Unknown, match=f"needs a real processor: {words}"):
        applied("load", code)
    assert applied("load", "3e488b442480") == ("APPLIED", 0)  # mov rax, ds:[rsp-128]


@pytest.mark.parametrize(("kind", "is_fine"), [("preapply", True), ("load", False)])
def test_a_lock_that_lets_interrupts_come_is_for_hooks_that_have_them(
    kind: str, *, is_fine: bool
) -> None:
    calls = [("_spin_lock_irq", LOCK), ("_spin_unlock_irq", LOCK)]
    if is_fine:
        assert called(kind, *calls) == ("APPLIED", 0)
    else:
        with pytest.raises(Hazard, match="returns with interrupts on"):
            called(kind, *calls)


@pytest.mark.parametrize("kind", HOOKS)
def test_what_counts_against_being_preempted_is_even(kind: str) -> None:
    more, less = "ff4708", "ff4f08"  # inc and dec dword [rdi + 8]
    assert called(kind, end=LOCK + more + less) == ("APPLIED", 0)
    for uneven in (more, less, more + more + less):
        with pytest.raises(Hazard, match="returns with preempt_count changed"):
            called(kind, end=LOCK + uneven)


VECTORS = {
    "sse": "660fefc0",  # pxor xmm0, xmm0
    "sse to memory": "0f11442480",  # movups [rsp-128], xmm0
    "mmx": "0fefc0",  # pxor mm0, mm0
    "x87": "d9ee",  # fldz
    "avx": "c5f877",  # vzeroupper
    "control": "0fae5c2480",  # stmxcsr [rsp-128]
    "save": "0fae8424 00feffff",  # fxsave [rsp-512]
}


@pytest.mark.parametrize("kind", HOOKS)
@pytest.mark.parametrize("what", VECTORS)
def test_registers_of_guests_are_not_a_hooks(kind: str, what: str) -> None:
    assert "uses a register of floating-point or vectors" in hazard(kind, VECTORS[what])


@pytest.mark.parametrize(
    "code",
    [
        "0fc3442480",  # movnti [rsp-128], eax
        "0faee8",  # lfence
        "f390",  # pause
        "0f1808",  # prefetcht0 [rax]
        "f3480fb8c0",  # popcnt rax, rax
    ],
)
def test_instructions_of_vector_sets_that_need_no_such_register_are_fine(code: str) -> None:
    assert applied("load", code) == ("APPLIED", 0)


TAKE, FREE = ("_xmalloc", SIZE), ("xfree", "4889c7")  # mov rdi, rax


@pytest.mark.parametrize("kind", ["preapply", "postapply"])
@pytest.mark.parametrize("free", ["xfree", "vfree"])
def test_memory_is_there_for_hooks_that_nobody_waits_for(kind: str, free: str) -> None:
    assert called(kind, TAKE, (free, FREE[1]), asserts=True) == ("APPLIED", 0)


@pytest.mark.parametrize("kind", ["load", "apply"])
@pytest.mark.parametrize(
    ("call", "version", "asserts", "is_certain"),
    [
        (TAKE, "4.17.5", False, False),
        (TAKE, "4.17.5", True, True),
        (TAKE, "4.16.3", True, False),  # it only asks whether an interrupt is handled
        (("xfree", LOCK), "4.17.5", False, False),
        (("vfree", LOCK), "4.17.5", False, True),
    ],
)
def test_memory_is_not_asked_for_while_all_cpus_wait(
    kind: str, call: tuple[str, str], version: str, *, asserts: bool, is_certain: bool
) -> None:
    with pytest.raises(Hazard, match="while all CPUs wait") as caught:
        called(kind, call, version=version, asserts=asserts)
    assert isinstance(caught.value, Unknown) != is_certain


def test_what_frees_nothing_asks_for_nothing() -> None:
    for name in ("xfree", "vfree"):
        assert called("load", (name, "31ff"), asserts=True) == ("APPLIED", 0)  # xor edi, edi


@pytest.mark.parametrize("kind", HOOKS)
def test_a_hook_does_not_wait_for_time_to_pass(kind: str) -> None:
    """The clock of the model stands still; while all CPUs wait nobody may spin for long."""
    image = tiny_xen()
    now = KnownSymbol(
        name="get_s_time", addr_virt=COUNTER - 2 * PAGE + 0x600, size_bytes=16, is_function=True
    )
    image = dataclasses.replace(image, symbols={**image.symbols, now.name: now})
    for again, words in (("ebf9", "it waits for time to pass"), ("9090", "")):
        draft = minimal()
        draft.symbols.append(Sym(now.name, UND))
        # push rax; call get_s_time; again: jmp to the call; pop rcx
        code = bytes.fromhex("50 e800000000" + again + "59") + returning(0)
        add_code(draft, "hook", code, [Rel(2, 4, now.name, -4)])
        add_hook(draft, kind, "hook")
        hv = Hypervisor(image, release("4.17.5"))
        assert hv.upload(b"a\0", draft.build()).code == 0
        if not words:
            do(hv, "a", Command.APPLY)
            assert state(hv, "a") == ("APPLIED", 0)
            continue
        with pytest.raises(Hazard, match=words) as caught:
            do(hv, "a", Command.APPLY)
        assert isinstance(caught.value, Unknown) == (kind != "load")
