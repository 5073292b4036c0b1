# SPDX-License-Identifier: Apache-2.0
"""Hooks that set up a tasklet, let it wait for its turn, and kill it."""

from __future__ import annotations

import dataclasses

import pytest

from tests.kit.payloads import ALLOC, UND, WRITE, Rel, Sec, Sym, add_code, add_hook, minimal
from tests.kit.tiny_xen import TEXT_VIRT, tiny_xen
from xsplice_plugins.hypervisor import KnownSymbol, prove, release
from xsplice_plugins.hypervisor.proof.proof import ProofReport

LEFT = "Xen's list of tasklets still points to tasklet"
SCHEDULE, ON_CPU = "tasklet_schedule", "tasklet_schedule_on_cpu"


def life(load: list[str], unload: list[str], *, cpu: int = 0) -> ProofReport:
    """Play a payload whose hooks call these functions with its tasklet."""
    draft = minimal()
    draft.sections.append(Sec(".data", bytes(40), flags=ALLOC | WRITE, align=8))
    draft.symbols.append(Sym("tasklet", ".data", size=40))
    names = sorted({*load, *unload})
    draft.symbols += [Sym(name, UND) for name in names]
    for kind, helpers in (("load", load), ("unload", unload)):
        code, relocs = b"\x53", []
        for helper in helpers:  # lea tasklet(%rip), %rdi; mov $cpu, %esi; call
            relocs += [Rel(len(code) + 3, 2, "tasklet", -4), Rel(len(code) + 13, 4, helper, -4)]
            code += bytes.fromhex(f"488d3d00000000 be{cpu:02x}000000 e800000000")
        add_code(draft, kind, code + b"\x5b\xc3", relocs)
        add_hook(draft, kind, kind)
    image = tiny_xen()
    start = TEXT_VIRT["x86_64"] + 0x600
    known = {
        name: KnownSymbol(name=name, addr_virt=start + 16 * at, size_bytes=16, is_function=True)
        for at, name in enumerate(names)
    }
    image = dataclasses.replace(image, symbols={**image.symbols, **known})
    return prove([("a", draft.build())], image, release("4.17.5"))


@pytest.mark.parametrize("init", ["tasklet_init", "softirq_tasklet_init"])
@pytest.mark.parametrize("schedule", [SCHEDULE, ON_CPU])
def test_a_tasklet_waits_until_it_is_killed(init: str, schedule: str) -> None:
    assert life([init, schedule], ["tasklet_kill"] * 2).verdict == "proved"
    left = life([init, schedule], [])
    assert (left.verdict, left.reason[: len(LEFT)]) == ("hazard", LEFT)


def test_a_tasklet_that_is_dead_does_not_wait_again() -> None:
    late = ["tasklet_kill", SCHEDULE]
    assert life(["tasklet_init", SCHEDULE], late).verdict == "proved"
    assert life(["tasklet_init", SCHEDULE], [*late, "tasklet_init", SCHEDULE]).verdict == "hazard"


def test_one_that_was_never_set_up_may_be_killed() -> None:
    assert life([], ["tasklet_kill"]).verdict == "proved"
    assert life([SCHEDULE], ["tasklet_kill"]).verdict == "hazard", "Xen's own code runs"


def test_a_cpu_by_number_may_be_missing() -> None:
    report = life(["tasklet_init", ON_CPU], ["tasklet_kill"], cpu=7)
    assert (report.verdict, report.reason) == ("unknown", "needs CPU 7, which not every host has")
    assert life(["tasklet_init", SCHEDULE], ["tasklet_kill"], cpu=7).verdict == "proved"
