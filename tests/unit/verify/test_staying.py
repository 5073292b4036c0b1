# SPDX-License-Identifier: Apache-2.0
"""Code that a CPU or a vCPU may be inside of when a payload goes."""

from __future__ import annotations

import dataclasses

import pytest

from tests.kit.payloads import UND, Rel, Sym, add_code, minimal
from tests.kit.tiny_xen import PAGE, TEXT_VIRT, tiny_xen
from xsplice_plugins.artefacts import Duty, Finding, PayloadRecord, Severity
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.hypervisor import BootedImage, KnownSymbol, Region
from xsplice_plugins.hypervisor.facts.arches import ARM64, X86_64, Arch
from xsplice_plugins.hypervisor.image.memory import RX
from xsplice_plugins.verify.callgraph import read_calls
from xsplice_plugins.verify.staying import staying

STRIDE = 16
#: Function to what it calls.
CALLS = {
    "wait": (), "context_switch": (), "claim": ("wait",), "monitor": ("claim",), "other": (),
    "file.c#schedule_next": ("context_switch",),
}  # fmt: skip
RECORD = PayloadRecord(
    name="fix", release="4.17.5", machine=62, build_id="", depends="", xen_depends="", digest="",
    size_bytes=0, functions=(), new=(), hooks=(), references=(),
)  # fmt: skip


def image(arch: Arch) -> BootedImage:
    """Lay the functions out and let them call each other."""
    start = TEXT_VIRT["x86_64"]
    places = {name: start + STRIDE * number for number, name in enumerate(CALLS)}
    text = bytearray(PAGE)
    for name, callees in CALLS.items():
        for callee in callees:
            at, step = places[name] - start, places[callee] - places[name]
            if arch == ARM64:
                code = (0x94000000 | (step >> 2 & 0x3FFFFFF)).to_bytes(4, "little")
            else:
                code = b"\xe8" + (step - 5).to_bytes(4, "little", signed=True)
            text[at : at + len(code)] = code
    symbols = {
        name: KnownSymbol(name=name, addr_virt=at, size_bytes=STRIDE, is_function=True)
        for name, at in places.items()
    }
    region = Region(name="text", addr_virt=start, data=bytes(text), perm=RX)
    return dataclasses.replace(tiny_xen(arch), arch=arch, regions=(region,), symbols=symbols)


def found(name: str, callee: str, arch: Arch = X86_64, *, opcode: str = "e8") -> list[Finding]:
    """Ask about a payload that brings one function, which calls another."""
    draft = minimal(arch)
    draft.symbols.append(Sym(callee, UND))
    code, rel = bytes.fromhex(opcode + "00000000c3"), Rel(1, 4, callee, -4)
    if arch == ARM64:
        code = bytes.fromhex("00000094c0035fd6")
        rel = Rel(0, 283 if opcode == "e8" else 282, callee, 0)
    add_code(draft, name, code, [rel])
    there = image(arch)
    return list(staying(read_elf(draft.build(), "fix"), RECORD, read_calls(there), there))


def test_a_vcpu_that_waits_in_a_new_function_is_there_still_after_unload() -> None:
    (finding,) = found("claim", "wait")
    assert (finding.severity, finding.obligation) == (Severity.UNCHECKED, Duty.LOADER)
    assert finding.text.startswith("a vCPU that waits may be inside `claim` (`claim` -> `wait`)")
    assert found("claim", "other") == [], "what the new code calls counts, not the old"


def test_further_up_it_is_a_remark() -> None:
    (finding,) = found("emulate", "monitor")
    assert (finding.severity, finding.obligation) == (Severity.WARNING, "")
    assert "(`emulate` -> `monitor` -> `claim` -> `wait`): do not revert while" in finding.text


def test_a_jump_leaves_nothing_behind() -> None:
    assert found("claim", "wait", opcode="e9") == []
    assert found("next", "file.c#schedule_next", ARM64, opcode="e9") == []


def test_on_arm_every_vcpu_that_does_not_run_is_inside_the_scheduler() -> None:
    (finding,) = found("next", "file.c#schedule_next", ARM64)
    assert (finding.severity, finding.obligation) == (Severity.UNCHECKED, Duty.LOADER)
    assert finding.text.startswith("a vCPU that does not run may be inside `next` (`next` -> `sch")
    (finding,) = found("do_softirq", "other", ARM64)
    assert "a vCPU that does not run may be inside `do_softirq`" in finding.text
    assert found("next", "file.c#schedule_next") == [], "on x86 a switch throws the stack away"


@pytest.mark.parametrize(
    ("name", "is_parked"),
    [("play_dead", True), ("acpi_dead_idle", True), ("default_idle", False), ("dead", False)],
)
def test_a_cpu_that_is_offline_stays_where_it_is(name: str, *, is_parked: bool) -> None:
    rows = found(name, "other")
    assert [row.severity for row in rows] == [Severity.UNCHECKED] * is_parked
    assert all("is where a CPU stays while it is offline" in row.text for row in rows)
