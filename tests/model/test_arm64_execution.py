# SPDX-License-Identifier: Apache-2.0
"""Code of arm64 payloads is executed as well: replacements, hooks, and what goes wrong in them."""

from __future__ import annotations

import struct

import pytest

from tests.kit.acting import do
from tests.kit.payloads import UND, Draft, Rel, Sec, Sym, add_code, add_hook, minimal
from tests.kit.tiny_xen import tiny_xen
from xsplice_plugins.hypervisor import Command, Hazard, Hypervisor, Probe, prove, release
from xsplice_plugins.hypervisor.facts.arches import ARM32, ARM64
from xsplice_plugins.hypervisor.proof.probes import ask

XEN = release("4.17.5")
RET = 0xD65F03C0


def code(*words: int) -> bytes:
    return struct.pack(f"<{len(words)}I", *words)


def returning(value: int) -> bytes:
    """Machine code: movz or movn w0; ret."""
    move = 0x52800000 | value << 5 if value >= 0 else 0x12800000 | ~value << 5
    return code(move, RET)


def arm64_draft() -> Draft:
    draft = minimal(ARM64)
    draft.sec(".rodata").align = 8
    return draft


def hooked(kind: str, body: bytes) -> Hypervisor:
    draft = arm64_draft()
    add_code(draft, "hook_code", body)
    add_hook(draft, kind, "hook_code")
    hv = Hypervisor(tiny_xen(ARM64), XEN)
    assert hv.upload(b"p\0", draft.build()).code == 0
    return hv


def test_a_replacement_runs_through_the_branch() -> None:
    probe = Probe(function="xen_extra_version", kind="string", during="patched")
    hv = Hypervisor(tiny_xen(ARM64), XEN)
    hv.upload(b"p\0", arm64_draft().build())
    hv.action(b"p\0", Command.APPLY)
    hv.run_pending()
    result = ask(probe, hv, "during")
    assert result.is_good, result


@pytest.mark.parametrize("value", [0, -5])
def test_preapply_results_count(value: int) -> None:
    hv = hooked("preapply", returning(value))
    assert hv.action(b"p\0", Command.APPLY).code == value


def test_hooks_see_the_functions_state() -> None:
    # ldr x1,[x0,#112]; mov w2,#1; str w2,[x1,#4]; mov w0,#0; ret: fstate[0].applied = 1.
    hv = hooked("apply", code(0xF9403801, 0x52800022, 0xB9000422, 0x52800000, RET))
    hv.action(b"p\0", Command.APPLY)
    hv.run_pending()
    assert hv.payloads[0].state.name == "APPLIED"


@pytest.mark.parametrize(
    ("file", "is_refused"), [("words_of_xen", False), ("hook_code", True)], ids=["image", "payload"]
)
def test_a_trap_in_a_hook_is_a_hazard_unless_a_warn_frame_names_it(
    file: str, *, is_refused: bool
) -> None:
    """A frame's file name must be the image's: Arm looks at no payload's."""
    trap = code(0xD4200020, 0x52800000, RET)
    with pytest.raises(Hazard, match="crash at hook_code"):
        hooked("preapply", trap).action(b"p\0", Command.APPLY)
    draft = arm64_draft()
    add_code(draft, "hook_code", trap)
    add_hook(draft, "preapply", "hook_code")
    draft.sections.append(
        Sec(
            ".bug_frames.1",
            bytes(16),
            align=4,
            relocs=[Rel(0, 261, "hook_code"), Rel(4, 261, file, 4)],
        )
    )
    draft.symbols.append(Sym("words_of_xen", UND))
    hv = Hypervisor(tiny_xen(ARM64), XEN)
    hv.upload(b"p\0", draft.build())
    if not is_refused:
        assert hv.action(b"p\0", Command.APPLY).code == 0
        assert any(line.startswith("WARN at hook_code") for line in hv.console)
        return
    with pytest.raises(Hazard, match="a payload's WARN, which Arm refuses, at hook_code"):
        hv.action(b"p\0", Command.APPLY)


def test_arm32_hooks_are_a_hazard_because_nobody_saw_them_run() -> None:
    draft = minimal(ARM32)
    add_code(draft, "hook_code", bytes(8))
    add_hook(draft, "preapply", "hook_code")
    report = prove([("p", draft.build())], tiny_xen(ARM32), XEN)
    assert (report.verdict, report.step) == ("hazard", "preapply-hook")


def test_arm_payloads_without_hooks_are_proved() -> None:
    for arch in (ARM64, ARM32):
        report = prove([("p", minimal(arch).build())], tiny_xen(arch), XEN)
        assert report.verdict == "proved", report.reason


@pytest.mark.parametrize("kind", ["preapply", "load"])
@pytest.mark.parametrize(("pages", "is_enough"), [(7, True), (8, False), (40, False)])
def test_a_hook_has_what_is_left_of_a_stack_of_32_kib(
    kind: str, pages: int, *, is_enough: bool
) -> None:
    # sub sp, sp, #pages, lsl #12; str xzr, [sp]; add sp, sp, #pages, lsl #12
    frame = code(0xD14003FF | pages << 10, 0xF90003FF, 0x914003FF | pages << 10)
    hv = hooked(kind, frame + returning(0))
    if is_enough:
        assert do(hv, "p", Command.APPLY) == 0
        return
    with pytest.raises(Hazard, match="overruns Xen's stack"):
        do(hv, "p", Command.APPLY)


@pytest.mark.parametrize(
    ("kind", "words", "found"),
    [
        ("preapply", (0xD50342DF,), "off"),  # msr daifset, #2
        ("preapply", (0xD50342DF, 0xD50342FF), ""),  # msr daifclr, #2
        ("load", (0xD50342FF,), "on"),
        ("load", (0xD53B4221, 0xD50342FF, 0xD51B4221), ""),  # mrs x1, daif; msr daif, x1
    ],
)
def test_a_hook_leaves_interrupts_as_they_were(
    kind: str, words: tuple[int, ...], found: str
) -> None:
    hv = hooked(kind, code(*words) + returning(0))
    if not found:
        assert do(hv, "p", Command.APPLY) == 0
        return
    with pytest.raises(Hazard, match=f"returns with interrupts {found}"):
        do(hv, "p", Command.APPLY)


@pytest.mark.parametrize(
    ("word", "is_vector"),
    [
        (0x4F000400, True),  # movi v0.4s, #0
        (0x1E2703E0, True),  # fmov s0, wzr
        (0x3D8003E0, True),  # str q0, [sp]
        (0xF81F0FFF, False),  # str xzr, [sp, #-16]!
        (0x9B017C00, False),  # mul x0, x0, x1
        (0xD503201F, False),  # nop
    ],
)
def test_registers_of_guests_are_not_a_hooks(word: int, *, is_vector: bool) -> None:
    hv = hooked("load", code(word, 0x910043FF if word == 0xF81F0FFF else 0xD503201F) + returning(0))
    if not is_vector:
        assert do(hv, "p", Command.APPLY) == 0
        return
    with pytest.raises(Hazard, match="uses a register of floating-point or vectors"):
        do(hv, "p", Command.APPLY)
