# SPDX-License-Identifier: Apache-2.0
"""Code that relies on what nobody promised it; each was seen to go wrong on a real Xen 4.17.5."""

from __future__ import annotations

import dataclasses
import struct

import pytest

from tests.kit.acting import (
    ask,
    do,
    fresh,
    load,
    returning,
    state,
    with_alternative_call,
    with_hook,
)
from tests.kit.payloads import (
    ALLOC,
    RELA,
    UND,
    WRITE,
    Draft,
    Rel,
    Sec,
    Sym,
    add_code,
    add_hook,
    expectation,
    minimal,
)
from tests.kit.tiny_xen import PAGE, TEXT_VIRT, tiny_xen
from xsplice_plugins.hypervisor import (
    BootedImage,
    Command,
    Hazard,
    Hypervisor,
    KnownSymbol,
    Probe,
    Region,
    release,
)
from xsplice_plugins.hypervisor.image.memory import Perm
from xsplice_plugins.hypervisor.proof.probes import ask as ask_probe

VIRT = TEXT_VIRT["x86_64"]
FOUND = "relies on a register, a stack slot or memory that nobody set"
RET = b"\xc3"


def talking_xen() -> BootedImage:
    """Give the tiny hypervisor with the functions that hooks call, and an init page."""
    image = tiny_xen()
    added = {"printk": 0x600, "revert_payload": 0x610, "revert_payload_tail": 0x620}
    symbols = {
        name: KnownSymbol(name=name, addr_virt=VIRT + at, size_bytes=16, is_function=True)
        for name, at in added.items()
    }
    start = image.arena[0]
    boot = Region(name="init", addr_virt=start, data=bytes(PAGE), perm=Perm.NONE)
    symbols["boot_ops"] = KnownSymbol(
        name="boot_ops", addr_virt=start, size_bytes=8, is_function=False
    )
    return dataclasses.replace(
        image,
        regions=(*image.regions, boot),
        symbols={**image.symbols, **symbols},
        init_ranges=((start, start + PAGE),),
        arena=(start + PAGE, image.arena[1]),
    )


def booted(draft: Draft) -> Hypervisor:
    hv = Hypervisor(talking_xen(), release("4.17.5"))
    load(hv, "a", draft)
    return hv


def calling(draft: Draft, kind: str, *functions: str, then: bytes = b"\x31\xc0\xc3") -> Draft:
    """Add a hook that calls functions with its own argument, or a message, and then runs code."""
    code = b"\x53\x48\x89\xfb"  # push rbx; mov rbx, rdi
    relocs = []
    for name in functions:
        if name == "printk":
            relocs.append(Rel(len(code) + 3, 2, "message", -4))
            code += b"\x48\x8d\x3d\0\0\0\0"  # lea rdi, [message]
        else:
            code += b"\x48\x89\xdf"  # mov rdi, rbx
        relocs.append(Rel(len(code) + 1, 4, name, -4))
        code += b"\xe8\0\0\0\0"
    code += b"\x5b" + then
    known = {symbol.name for symbol in draft.symbols}
    draft.symbols += [Sym(name, UND) for name in dict.fromkeys(functions) if name not in known]
    if "message" not in known:
        draft.sections.append(Sec(".rodata.message", b"hello\n\0"))
        draft.symbols.append(Sym("message", ".rodata.message", info=0))
    add_code(draft, f"{kind}_code", code, relocs)
    add_hook(draft, kind, f"{kind}_code")
    return draft


def test_taking_a_payload_from_the_stack_twice_follows_poisoned_pointers() -> None:
    """A hook in the wrong place called what another one had called already."""
    draft = calling(minimal(), "revert", "revert_payload")
    hv = booted(calling(draft, "postrevert", "revert_payload_tail"))
    do(hv, "a", Command.APPLY)
    ask(hv, "a", Command.REVERT)
    with pytest.raises(Hazard, match="list poison"):
        hv.run_pending()


def test_a_payload_that_was_never_applied_may_be_taken_from_the_stack_once() -> None:
    hv = booted(calling(minimal(), "preapply", "revert_payload_tail"))
    do(hv, "a", Command.APPLY)
    assert state(hv, "a") == ("APPLIED", 0)
    do(hv, "a", Command.REVERT)
    assert state(hv, "a") == ("CHECKED", 0)
    hv = booted(calling(minimal(), "preapply", "revert_payload_tail", "revert_payload_tail"))
    with pytest.raises(Hazard, match="list poison"):
        ask(hv, "a", Command.APPLY)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("31db", "rbx"),
        ("31ed", "rbp"),
        ("4d31e4", "r12"),
        ("4d31ed", "r13"),
        ("4d31f6", "r14"),
        ("4d31ff", "r15"),
        ("488d6424f8", "crash"),  # lea rsp, [rsp-8]
        ("", "the stack pointer"),
    ],
)
@pytest.mark.parametrize("kind", ["preapply", "load"])
def test_a_hook_gives_its_callers_registers_back(kind: str, spoil: str, words: str) -> None:
    """A hook that starts in its own middle pops registers that it never pushed."""
    code = bytes.fromhex(spoil) + returning(0)
    if words == "the stack pointer":
        code = bytes.fromhex("59 48 83 c4 08 31 c0 ff e1")  # pop rcx; add rsp, 8; jmp rcx
    hv = fresh(("a", with_hook(minimal(), kind, code)))
    with pytest.raises(Hazard, match=words):
        do(hv, "a", Command.APPLY)


@pytest.mark.parametrize("kind", ["preapply", "load"])
def test_a_hook_may_use_its_callers_registers_and_put_them_back(kind: str) -> None:
    code = bytes.fromhex("53 55 4154 31db 31ed 4d31e4 415c 5d 5b") + returning(0)
    hv = fresh(("a", with_hook(minimal(), kind, code)))
    do(hv, "a", Command.APPLY)
    assert state(hv, "a") == ("APPLIED", 0)


@pytest.mark.parametrize(
    "code",
    [
        RET,  # what rax happened to be
        b"\x89\xf0" + RET,  # mov eax, esi
        b"\x8b\x44\x24\xf0" + RET,  # mov eax, [rsp-16]
        b"\x0f\x94\xc0\x0f\xb6\xc0" + RET,  # sete al; movzx eax, al
        b"\x48\x8b\x02" + returning(0),  # mov rax, [rdx]
    ],
    ids=["result", "argument", "stack", "flags", "pointer"],
)
def test_a_hook_may_not_decide_by_what_nobody_set(code: bytes) -> None:
    hv = fresh(("a", with_hook(minimal(), "preapply", code)))
    with pytest.raises(Hazard, match=f"{FOUND}|crash"):
        ask(hv, "a", Command.APPLY)


def test_what_a_hook_without_result_leaves_does_not_matter() -> None:
    hv = fresh(("a", with_hook(minimal(), "postapply", RET)))
    do(hv, "a", Command.APPLY)
    assert state(hv, "a") == ("APPLIED", 0)


def test_printk_leaves_anything_in_the_result_register() -> None:
    """Real Xen went on to revert where the model had seen a veto."""
    hv = booted(calling(minimal(), "prerevert", "printk", then=RET))
    do(hv, "a", Command.APPLY)
    with pytest.raises(Hazard, match=FOUND):
        ask(hv, "a", Command.REVERT)


def test_a_hook_runs_twice_and_counts_once() -> None:
    hv = booted(calling(minimal(), "preapply", "printk"))
    do(hv, "a", Command.APPLY)
    assert hv.console.count("hello") == 1


def test_gaps_between_sections_hold_anything() -> None:
    """A hook read behind the payload's data; a version string went on into the next gap."""
    draft = minimal()
    draft.sections.append(Sec(".data", bytes(4), flags=ALLOC | WRITE))
    draft.symbols.append(Sym("number", ".data", info=0))
    for offset, is_set in ((0, True), (4, False)):
        code, relocs = b"\x8b\x05\0\0\0\0" + RET, [Rel(2, 2, "number", offset - 4)]
        tried = dataclasses.replace(
            draft, sections=list(draft.sections), symbols=list(draft.symbols)
        )
        add_code(tried, "reading", code, relocs)
        add_hook(tried, "preapply", "reading")
        hv = fresh(("a", tried))
        if is_set:
            assert ask(hv, "a", Command.APPLY) == 0
            continue
        with pytest.raises(Hazard, match=FOUND):
            ask(hv, "a", Command.APPLY)


def test_a_string_that_ends_in_a_gap_is_no_answer() -> None:
    draft = minimal()
    draft.sec(".rodata").data = draft.sec(".rodata").data[:-1]
    draft.sec(".note.gnu.build-id").align = 64
    hv = fresh(("a", draft))
    do(hv, "a", Command.APPLY)
    result = ask_probe(Probe(function="xen_extra_version", kind="string"), hv, "during")
    assert FOUND in result.problem


def test_asking_a_function_that_looks_at_old_flags_is_no_answer() -> None:
    """A function that starts in its own middle jumps by flags that nobody set."""
    draft = minimal()
    draft.sec(".text.new").data = b"\x75\x07" + draft.sec(".text.new").data + b"\x31\xc0\xc3"
    draft.sec(".text.new").relocs[0].offset += 2
    draft.symbol("new_function").size += 5
    hv = fresh(("a", draft))
    do(hv, "a", Command.APPLY)
    result = ask_probe(Probe(function="xen_extra_version", kind="long"), hv, "during")
    assert FOUND in result.problem


@pytest.mark.parametrize("is_readable", [True, False])
def test_a_failed_expectation_prints_the_functions_name(is_readable: bool) -> None:
    draft = minimal()
    draft.record(expect=expectation(b"\xde\xad"))
    if not is_readable:
        draft.sec(".livepatch.funcs").relocs[0].addend = 64 << 20
    hv = fresh(("a", draft))
    if is_readable:
        assert ask(hv, "a", Command.APPLY) == -22
        return
    with pytest.raises(Hazard, match="expectations: page fault reading a string"):
        ask(hv, "a", Command.APPLY)


def test_an_alternative_call_through_boot_data_page_faults_at_upload() -> None:
    """Tables such as ``vpmu_ops`` are gone after boot; a patch of their callers reads them."""
    hv = Hypervisor(talking_xen(), release("4.17.5"))
    assert hv.upload(b"a\0", with_alternative_call(minimal(), "counter").build()).code == 0
    hv = Hypervisor(talking_xen(), release("4.17.5"))
    with pytest.raises(Hazard, match="alternatives: page fault reading"):
        hv.upload(b"a\0", with_alternative_call(minimal(), "boot_ops").build())


@pytest.mark.parametrize(("value", "size"), [(0, 1), (0, 0), (1, 6), (3, 400)])
def test_code_may_run_past_what_its_symbol_says(value: int, size: int) -> None:
    """Real Xen looks at no symbol's size; it survived what the model had called a crash."""
    draft = with_hook(minimal(), "preapply", b"\x90" * 4 + returning(0))
    hook = draft.symbol("preapply_a1")
    draft.symbols.append(Sym("entry", hook.section, info=0x12))
    draft.sec(".livepatch.hooks.preapply").relocs[0].symbol = "entry"
    hook.value, hook.size = value, size
    assert ask(fresh(("a", draft)), "a", Command.APPLY) == 0


@pytest.mark.parametrize("size", [0, 4, 400])
def test_code_that_runs_into_a_gap_or_into_the_next_function_is_a_hazard(size: int) -> None:
    draft = with_hook(minimal(), "preapply", b"\x90" * 4)
    draft.symbol("preapply_a1").size = size
    with pytest.raises(Hazard):
        ask(fresh(("a", draft)), "a", Command.APPLY)
    draft = with_hook(minimal(), "preapply", b"\x90" * 16)
    add_code(draft, "next", returning(0))
    draft.sections.insert(0, draft.sections.pop(2))  # the hook right before "next"
    with pytest.raises(Hazard, match="runs off the end"):
        ask(fresh(("a", draft)), "a", Command.APPLY)


@pytest.mark.parametrize(
    ("size", "entsize", "is_refused"),
    [(2**64 - 1, 24, True), (2**64 - 25, 24, True), (2**64 - 16, 24, False), (2**64 - 1, 0, False)],
)
def test_a_relocation_table_whose_size_wraps_is_refused_before_it_is_read(
    size: int, entsize: int, is_refused: bool
) -> None:
    data = bytearray(minimal().build())
    (shoff,) = struct.unpack_from("<Q", data, 40)
    (count,) = struct.unpack_from("<H", data, 60)
    at = next(
        shoff + 64 * index
        for index in range(count)
        if struct.unpack_from("<I", data, shoff + 64 * index + 4)[0] == RELA
    )
    struct.pack_into("<Q", data, at + 32, size)
    struct.pack_into("<Q", data, at + 56, entsize)
    hv = Hypervisor(tiny_xen(), release("4.17.5"))
    if is_refused:
        answer = hv.upload(b"a\0", bytes(data))
        assert (answer.code, answer.step) == (-22, "relocations")
        return
    with pytest.raises(Hazard, match="wraps"):
        hv.upload(b"a\0", bytes(data))
