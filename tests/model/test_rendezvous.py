# SPDX-License-Identifier: Apache-2.0
"""The meeting of all CPUs: who is kicked, when it fails, and what the model adds."""

from __future__ import annotations

import pytest

from tests.kit.payloads import minimal
from tests.kit.tiny_xen import TEXT_VIRT, tiny_xen
from xsplice_plugins.hypervisor import Command, Host, Hypervisor, release
from xsplice_plugins.hypervisor.state.rendezvous import (
    Cpu,
    CpuState,
    idle_cpus,
    meet,
)

TIMEOUT_NS = 30_000_000


def test_everybody_else_is_kicked_and_the_slowest_decides() -> None:
    cpus = [Cpu(number=number, state=state) for number, state in enumerate(CpuState)]
    meeting = meet(cpus, timeout_ns=TIMEOUT_NS, is_idle_only=True)
    assert meeting.is_met
    assert meeting.ipis == (1, 2, 3, 4)
    assert meeting.elapsed_ns == max(cpu.state for cpu in cpus[1:])


def test_a_single_cpu_needs_nobody() -> None:
    meeting = meet(idle_cpus(1), timeout_ns=1, is_idle_only=True)
    assert (meeting.is_met, meeting.ipis, meeting.elapsed_ns) == (True, (), 0)


@pytest.mark.parametrize(("late_ns", "is_met"), [(-1, True), (0, False), (1, False)])
def test_the_deadline_is_sharp(late_ns: int, is_met: bool) -> None:
    cpus = idle_cpus(2)
    cpus[1].delay_ns = TIMEOUT_NS - CpuState.IDLE + late_ns
    assert meet(cpus, timeout_ns=TIMEOUT_NS, is_idle_only=True).is_met == is_met


def test_the_action_names_its_own_deadline() -> None:
    cpus = idle_cpus(2)
    cpus[1].delay_ns = 1_000_000
    for timeout, wanted in ((1_000_000, -16), (2_000_000, 0), (0, 0)):
        hv = Hypervisor(tiny_xen(), release("4.17.5"), host=Host(cpus=cpus))
        hv.upload(b"a\0", minimal().build())
        assert hv.action(b"a\0", Command.APPLY, timeout_ns=timeout).code == 0
        hv.run_pending()
        assert hv.payloads[0].rc == wanted


def test_nmis_are_swallowed_and_do_not_stop_the_work() -> None:
    cpus = idle_cpus(3)
    cpus[2].nmi_at_ns = 100
    meeting = meet(cpus, timeout_ns=TIMEOUT_NS, is_idle_only=True)
    assert meeting.is_met
    assert meeting.nmis_lost == (2,)


def test_cpus_meet_where_the_release_says() -> None:
    old = meet(idle_cpus(), timeout_ns=TIMEOUT_NS, is_idle_only=release("4.13.0").is_idle_only)
    new = meet(idle_cpus(), timeout_ns=TIMEOUT_NS, is_idle_only=release("4.13.1").is_idle_only)
    assert any("on the way out" in line for line in old.log)
    assert any("in the idle loop" in line for line in new.log)


@pytest.mark.parametrize(("offset", "rc"), [(0, -16), (12, -16), (13, 0), (-1, 0)])
def test_stack_verification_of_the_plan(offset: int, rc: int) -> None:
    """A return address inside the function to be patched forbids the patch; no release checks."""
    cpus = idle_cpus(2)
    cpus[1].stack = (TEXT_VIRT["x86_64"] + 0x100 + offset,)
    for checks in (True, False):
        hv = Hypervisor(tiny_xen(), release("4.17.5"), host=Host(cpus=cpus, checks_stacks=checks))
        hv.upload(b"a\0", minimal().build())
        hv.action(b"a\0", Command.APPLY)
        hv.run_pending()
        assert hv.payloads[0].rc == (rc if checks else 0)


def test_stack_verification_guards_the_revert_too() -> None:
    cpus = idle_cpus(2)
    hv = Hypervisor(tiny_xen(), release("4.17.5"), host=Host(cpus=cpus, checks_stacks=True))
    hv.upload(b"a\0", minimal().build())
    hv.action(b"a\0", Command.APPLY)
    hv.run_pending()
    cpus[1].stack = (hv.payloads[0].functions[0].new_virt + 1,)
    hv.action(b"a\0", Command.REVERT)
    hv.run_pending()
    assert (hv.payloads[0].state.name, hv.payloads[0].rc) == ("APPLIED", -16)
    cpus[1].stack = ()
    hv.action(b"a\0", Command.REVERT)
    hv.run_pending()
    assert (hv.payloads[0].state.name, hv.payloads[0].rc) == ("CHECKED", 0)
