# SPDX-License-Identifier: Apache-2.0
"""Hooks around an apply and a revert that end with -EBUSY, each with a right payload beside it."""

from __future__ import annotations

import dataclasses

import pytest

from tests.kit.acting import returning, with_hook
from tests.kit.payloads import ALLOC, UND, WRITE, Draft, Rel, Sec, Sym, add_code, add_hook, minimal
from tests.kit.tiny_xen import TEXT_VIRT, tiny_xen
from xsplice_plugins.hypervisor import Host, KnownSymbol, Probe, prove, release
from xsplice_plugins.hypervisor.proof.proof import ProofReport

LATE = "apply ends with -EBUSY (its CPUs come too late)"
WAITING = "apply ends with -EBUSY (a domain waits in a queue)"
REVERT = "revert ends with -EBUSY (its CPUs come too late), then asked again"
ZERO = "31c0c3"  # xor eax, eax; ret
#: lea new_function(%rip), %rax; mov %rax, counter(%rip)
HAND_OUT = ("488d0500000000 48890500000000", [(3, 2, "new_function", -4), (10, 2, "counter", -4)])
TAKE_BACK = ("48c7050000000000000000", [(3, 2, "counter", -8)])  # movq $0, counter(%rip)
#: kept = _xmalloc(100)
BORROW = (
    "50 bf64000000 e800000000 48890500000000 59",
    [(7, 4, "_xmalloc", -4), (14, 2, "kept", -4)],
)
GIVE_BACK = ("50 488b3d00000000 e800000000 59", [(4, 2, "kept", -4), (9, 4, "xfree", -4)])
COUNT = ("8b0500000000 ff0500000000 c3", [(2, 2, "kept", -4), (8, 2, "kept", -4)])  # kept++
FLIP = ("8b0500000000 83350000000001 c3", [(2, 2, "kept", -4), (8, 2, "kept", -5)])  # kept ^= 1
TRAP_AGAIN = ("833d0000000000 7402 0f0b ff0500000000", [(2, 2, "kept", -5), (13, 2, "kept", -4)])


def draft_of(
    build_id: bytes = b"\xa1" * 20, **hooks: tuple[tuple[str, list[tuple[int, int, str, int]]], ...]
) -> Draft:
    """Draft a payload with hooks made of pieces of code; a void or zero result ends each."""
    draft = minimal(build_id=build_id)
    draft.sections.append(Sec(".data", b"\0" * 8, flags=ALLOC | WRITE, align=8))
    draft.symbols += [Sym("kept", ".data", size=8)]
    draft.symbols += [Sym(name, UND) for name in ("counter", "_xmalloc", "xfree")]
    for kind, pieces in hooks.items():
        code, relocs = b"", []
        for text, places in pieces:
            relocs += [Rel(len(code) + at, *rest) for at, *rest in places]
            code += bytes.fromhex(text)
        add_code(draft, f"at_{kind}", code + bytes.fromhex(ZERO), relocs)
        add_hook(draft, kind, f"at_{kind}")
    return draft


def proof(*drafts: Draft, probes: tuple[Probe, ...] = ()) -> ProofReport:
    image = tiny_xen()
    symbols = {
        name: KnownSymbol(
            name=name, addr_virt=TEXT_VIRT["x86_64"] + place, size_bytes=16, is_function=True
        )
        for name, place in (("_xmalloc", 0x600), ("xfree", 0x610))
    }
    image = dataclasses.replace(image, symbols={**image.symbols, **symbols})
    payloads = [(f"p{number}", draft.build()) for number, draft in enumerate(drafts)]
    return prove(payloads, image, release("4.17.5"), probes=probes, host=Host())


def played(report: ProofReport) -> list[str]:
    return [step.text for step in report.steps if step.step == "failure"]


def test_what_is_handed_out_before_apply_dangles_when_apply_fails() -> None:
    report = proof(draft_of(preapply=(HAND_OUT,), postrevert=(TAKE_BACK,)))
    assert (report.verdict, report.step) == ("hazard", "unload")
    assert report.reason.startswith(f"{LATE}, then it is unloaded: counter+0x0/0x8 still points to")
    assert report.reason.endswith(
        "no hook runs then; hand it out in one that runs once it is applied"
    )


#: movl $5, counter(%rip); xor counter(%rip); kept = counter; counter = kept
SET = ("c7050000000005000000", [(2, 2, "counter", -8)])
TURN = ("83350000000001", [(2, 2, "counter", -5)])
KEEP = ("8b0500000000 890500000000", [(2, 2, "counter", -4), (8, 2, "kept", -4)])
RESTORE = ("8b0500000000 890500000000", [(2, 2, "kept", -4), (8, 2, "counter", -4)])


@pytest.mark.parametrize("change", [SET, TURN])
def test_what_a_hook_before_apply_changes_in_xen_stays_when_apply_fails(
    change: tuple[str, list[tuple[int, int, str, int]]],
) -> None:
    report = proof(draft_of(preapply=(KEEP, change), postrevert=(RESTORE,)))
    assert (report.verdict, report.step) == ("unknown", "preapply-hook")
    assert report.reason.startswith(f"{LATE}, then it is unloaded: a hook changes counter, and")
    later = draft_of(preapply=(), load=(KEEP,), postapply=(change,), postrevert=(RESTORE,))
    assert proof(later).reason.startswith(f"{WAITING}, then it is unloaded: a hook changes counter")
    looks = ("837f0400 7401 c3", [])  # as below: nothing if it failed
    right = draft_of(preapply=(), load=(KEEP,), postapply=(looks, change), postrevert=(RESTORE,))
    assert proof(right).verdict == "proved", proof(right).reason
    assert proof(draft_of(preapply=(KEEP,))).verdict == "proved", "its own variable"


def test_what_is_handed_out_once_it_is_applied_is_proved() -> None:
    right = draft_of(preapply=(), load=(HAND_OUT,), unload=(TAKE_BACK,), postrevert=())
    report = proof(right)
    assert report.verdict == "proved", report.reason
    assert played(report) == [
        f"{why}, then {how}" for why in (LATE, WAITING) for how in ("it is unloaded", "asked again")
    ]


def test_a_hook_before_apply_runs_again_when_apply_is_asked_again() -> None:
    report = proof(draft_of(preapply=(TRAP_AGAIN,)))
    assert report.verdict == "hazard"
    assert report.reason.startswith(f"{LATE}, then asked again: ")
    report = proof(draft_of(preapply=(COUNT,)))
    assert report.verdict == "proved", "a payload that refuses the second time can be unloaded"


@pytest.mark.parametrize("is_looked_at", [True, False])
def test_a_hook_behind_apply_is_told_whether_it_failed(*, is_looked_at: bool) -> None:
    # cmpl $0, 4(%rdi); je over the ret; ret
    look = (("837f0400 7401 c3", []),) if is_looked_at else ()
    report = proof(draft_of(postapply=(*look, HAND_OUT), postrevert=(TAKE_BACK,)))
    if is_looked_at:
        assert report.verdict == "proved", report.reason
    else:
        assert report.verdict == "hazard"
        assert report.reason.startswith(f"{WAITING}, then it is unloaded: counter+0x0/0x8")
        assert report.reason.endswith("take it back in a hook")


def test_a_revert_that_is_refused_each_time_is_a_hazard() -> None:
    report = proof(draft_of(prerevert=(COUNT,)))
    assert (report.verdict, report.step) == ("hazard", "revert")
    assert report.reason.startswith(f"{REVERT}: revert ends with ")
    assert report.reason.endswith("each time; the payload cannot be taken off")
    report = proof(draft_of(prerevert=(FLIP,)))
    assert report.verdict == "proved", "it refuses once only"
    assert played(report) == [REVERT]


def test_memory_that_is_freed_before_a_revert_may_be_in_use() -> None:
    report = proof(draft_of(postapply=(BORROW,), prerevert=(GIVE_BACK,)))
    assert (report.verdict, report.step) == ("unknown", "prerevert-hook")
    assert "frees memory (100 bytes) while the replaced functions still run" in report.reason
    right = draft_of(postapply=(BORROW,), prerevert=(), postrevert=(GIVE_BACK,))
    assert proof(right).verdict == "proved"
    own = draft_of(prerevert=(BORROW, GIVE_BACK))
    assert proof(own).verdict == "proved", "what it borrowed itself"


@pytest.mark.parametrize("is_spoilt", [True, False])
def test_expected_answers_hold_after_a_revert_that_failed(*, is_spoilt: bool) -> None:
    spoil = ("c6050000000078", [(2, 2, "kept", -5)])  # movb $'x', kept(%rip)
    draft = draft_of(prerevert=(spoil,) if is_spoilt else ())
    draft.sec(".data").data = b"patched\0"
    code = draft.sec(".text.new")
    code.relocs = [dataclasses.replace(rel, symbol="kept") for rel in code.relocs]
    probe = Probe(function="xen_extra_version", kind="string", during="patched")
    report = proof(draft, probes=(probe,))
    assert report.verdict == ("hazard" if is_spoilt else "proved"), report.reason
    if is_spoilt:
        assert report.reason == f"{REVERT}: xen_extra_version: 'xatched' instead of 'patched'"


@pytest.mark.parametrize("used", ["", "by its code", "through a pointer"])
def test_a_variable_that_changes_before_a_revert_may_be_in_use(used: str) -> None:
    draft = draft_of(prerevert=(FLIP,), postrevert=(FLIP,))
    if used == "by its code":
        code = draft.sec(".text.new")
        code.relocs = [dataclasses.replace(rel, symbol="kept") for rel in code.relocs]
    if used == "through a pointer":
        draft.sections.append(Sec(".data.rel.ro", bytes(8), align=8, relocs=[Rel(0, 1, "kept")]))
    report = proof(draft)
    if not used:
        assert report.verdict == "proved", "hooks alone use it"
        return
    assert (report.verdict, report.step) == ("unknown", "prerevert-hook")
    text = "the hook before revert changes kept while the replaced functions still run"
    assert text in report.reason


def test_the_payload_on_top_of_others_is_played() -> None:
    lower = minimal(target="answer")
    lower_id = lower.sec(".note.gnu.build-id").data[-20:]
    upper = with_hook(minimal(build_id=b"\xc3" * 20, depends=lower_id), "prerevert", returning(0))
    report = proof(lower, upper)
    assert report.verdict == "proved", report.reason
    assert played(report) == [REVERT]


def test_nothing_is_played_without_such_hooks() -> None:
    assert played(proof(draft_of(load=(), unload=()))) == []
