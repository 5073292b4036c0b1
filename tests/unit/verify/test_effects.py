# SPDX-License-Identifier: Apache-2.0
"""Remarks on what a payload reaches: when its functions run, and what keeps the old value."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from msgspec import structs

from tests.kit.payloads import Sec, minimal
from tests.unit.verify.effect_inputs import (
    IMAGE,
    TEXT,
    compiled,
    record,
)
from xsplice_plugins.artefacts import Finding, Severity
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.hypervisor.facts.arches import ARM32, ARM64, X86_64, Arch
from xsplice_plugins.verify.callgraph import read_calls
from xsplice_plugins.verify.effects import effect_findings

if TYPE_CHECKING:
    from pathlib import Path

CPU = "runs only when a CPU comes up"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("identify_cpu", f"`identify_cpu` {CPU} (`start_secondary` -> `identify_cpu`)"),
        ("set_up_cpu", f"{CPU} (`start_secondary` -> `identify_cpu` -> `set_up_cpu`)"),
        ("set_up_cpu", "; what it stored at boot is the old code's"),
        ("set_up_again", f"{CPU} (`enter_state_helper` -> `set_up_again`)"),
        ("set_up_again", "; what it stored at boot is the old code's"),
        ("init_vendor", f"{CPU} (`amd_cpu_dev` -> `init_vendor`)"),
        ("tune_vendor", f"{CPU} (`amd_cpu_dev` -> `init_vendor` -> `tune_vendor`)"),
        ("cpu_callback", "only when a CPU comes or goes (`cpu_nfb` -> `cpu_callback`)"),
        ("late", "`late` runs only while the host boots (`start_xen` -> `late`)"),
        ("file.c#first_cpu", "`first_cpu` runs only while the host boots"),
        ("do_nmi", "`do_nmi` is reached from an NMI or a machine check"),
        ("count_nmi", "(`do_nmi` -> `count_nmi`)"),
        ("save_note", "the way into a crash kernel"),
    ],
)
def test_when_a_function_runs_is_said_with_the_chain(
    name: str, words: str, other_object: bytes
) -> None:
    (finding,) = effect_findings(other_object, record(name), IMAGE)
    assert words in finding.text
    assert (finding.check, finding.severity, finding.subject) == ("effect", Severity.WARNING, name)


@pytest.mark.parametrize(
    "name", ["shared", "set_domain", "do_domctl", "show_registers", "taken", "z_handed"]
)
def test_functions_that_run_at_any_time_get_no_remark(name: str, other_object: bytes) -> None:
    """One of them is reached from an NMI only where the host dies; two are stored by boot code."""
    assert effect_findings(other_object, record(name), IMAGE) == ()


@pytest.mark.parametrize("name", ["called_and_handed", "worker"])
def test_what_boot_code_hands_on_runs_later_though_boot_code_calls_it_too(
    name: str, other_object: bytes
) -> None:
    """It is a callback itself, or a callback calls it; `late` is only called."""
    assert effect_findings(other_object, record(name), IMAGE) == ()
    (finding,) = effect_findings(other_object, record("late"), IMAGE)
    assert "runs only while the host boots" in finding.text


def test_other_machines_get_no_remark(other_object: bytes) -> None:
    other = dataclasses.replace(IMAGE, arch=ARM32)
    assert read_calls(other).callers == {}
    assert effect_findings(other_object, record("identify_cpu"), other) == ()


@pytest.mark.parametrize(
    ("arch", "kind", "is_said"), [(ARM64, 1, True), (ARM64, 2, False), (X86_64, 1, False)]
)
def test_a_warn_that_comes_with_a_payload_is_no_warn_on_arm(
    arch: Arch, kind: int, *, is_said: bool
) -> None:
    draft = minimal(arch)
    draft.sections.append(Sec(f".bug_frames.{kind}", bytes(32), align=4))
    other = dataclasses.replace(IMAGE, arch=arch)
    found = effect_findings(draft.build(), record("identify_cpu"), other)
    said = [finding for finding in found if "a WARN in a payload stops the host" in finding.text]
    assert [finding.severity for finding in said] == [Severity.UNCHECKED] * is_said
    assert all(finding.text.startswith("2 WARN come with it") for finding in said)


def test_a_changed_callee_is_named(other_object: bytes) -> None:
    reason = "`helper` was inlined into `shared`"
    (finding,) = effect_findings(other_object, record("shared", reason=reason), IMAGE)
    assert finding.text == f"`shared` itself may be unchanged: {reason}"


SOURCE = """
struct timer {{ long pad[4]; unsigned char source; int other; }};
void shared(struct timer *t) {{ t->source = {source}; t->other = {other}; {more} }}
"""


def stores(tmp_path: Path, before: str, after: str) -> tuple[Finding, ...]:
    """Give the remarks for one version of the function replaced by another."""
    old = read_elf(compiled(tmp_path, before), "old").section_by_name[".text"].data
    new = compiled(tmp_path, after)
    text = bytearray(IMAGE.regions[0].data)
    start = IMAGE.symbols["shared"].addr_virt - TEXT
    text[start : start + len(old)] = old
    changed = structs.replace(IMAGE.regions[0], data=bytes(text))
    patched = dataclasses.replace(IMAGE, regions=(changed, *IMAGE.regions[1:]))
    return effect_findings(new, record("shared", size=len(old)), patched)


def test_a_constant_that_lives_on_in_objects_is_said(tmp_path: Path) -> None:
    before = SOURCE.format(source=1, other=7, more="")
    (finding,) = stores(tmp_path, before, SOURCE.format(source=4, other=7, more=""))
    assert finding.text == (
        "`shared` stores 0x4 where it stored 0x1 (into objects at offset 0x20): those that exist "
        "keep the old value"
    )


@pytest.mark.parametrize(
    "after",
    [
        SOURCE.format(source=1, other=7, more=""),
        SOURCE.format(source=1, other=7, more="t->pad[0] = 3;"),  # a new store, no changed one
        "struct timer; void shared(struct timer *t) { }",
    ],
)
def test_what_stores_the_same_or_nothing_gets_no_remark(tmp_path: Path, after: str) -> None:
    assert stores(tmp_path, SOURCE.format(source=1, other=7, more=""), after) == ()


VECTOR = '{ asm volatile("pxor %%xmm0, %%xmm0" :: "r"(t)); }'
PLAIN = '{ asm volatile("lfence" :: "r"(t)); }'


@pytest.mark.parametrize(
    ("before", "after", "is_said"),
    [(PLAIN, VECTOR, True), (VECTOR, VECTOR, False), (VECTOR, PLAIN, False), (PLAIN, PLAIN, False)],
)
def test_a_register_of_guests_that_comes_to_be_used_is_said(
    tmp_path: Path, before: str, after: str, *, is_said: bool
) -> None:
    head = "void shared(void *t) "
    found = stores(tmp_path, head + before, head + after)
    assert [finding.severity for finding in found] == [Severity.WARNING] * is_said
    for finding in found:
        assert finding.text.startswith(
            "`shared` uses a register of floating-point or vectors (pxor xmm0,xmm0)"
        )


def test_a_payload_that_cannot_be_read_is_said() -> None:
    (finding,) = effect_findings(b"no ELF file", record("shared"), IMAGE)
    assert finding.severity is Severity.UNCHECKED
    assert finding.text.startswith("not looked at: fix: ")
