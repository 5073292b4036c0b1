# SPDX-License-Identifier: Apache-2.0
"""The rendezvous: every CPU meets in a place without a live stack, one works, all leave.

Time is counted in nanoseconds since the master took the work and passes only as far as CPUs need
it; nothing sleeps. Source: ``check_for_livepatch_work`` of xen/common/livepatch.c.
"""

import enum
from collections.abc import Sequence

from msgspec import Struct, field


class CpuState(enum.IntEnum):
    """What a CPU does when the work is raised: ns until it reaches the meeting place from there."""

    GUEST = 4_000
    HYPERCALL = 20_000
    SOFTIRQ = 10_000
    IDLE = 500
    NMI = 50_000


class Cpu(Struct, kw_only=True):
    """One CPU."""

    number: int  #: 0 takes the hypercall and becomes master
    state: CpuState = CpuState.IDLE  #: what it does when the work is raised
    stack: tuple[int, ...] = ()  #: return addresses on its hypervisor stack, innermost first
    delay_ns: int = 0  #: how much longer than usual it takes to arrive
    is_stuck: bool = False  #: it never comes (a spinning hypercall, a lost CPU)
    nmi_at_ns: int | None = None  #: when an NMI hits it, None for never


class Meeting(Struct, frozen=True, kw_only=True):
    """How a rendezvous went."""

    is_met: bool  #: all CPUs were there in time
    reason: str  #: why not
    ipis: tuple[int, ...]  #: CPUs that were kicked
    elapsed_ns: int  #: until the last one came, or the deadline
    nmis_lost: tuple[int, ...] = ()  #: CPUs whose NMI was swallowed while the handlers were masked
    log: tuple[str, ...] = field(default=())  #: one line per event, in order of time


def idle_cpus(count: int = 2) -> list[Cpu]:
    """Give CPUs of which the first is in the hypercall and the rest idle."""
    return [
        Cpu(number=number, state=CpuState.IDLE if number else CpuState.HYPERCALL)
        for number in range(count)
    ]


def _arrival_ns(cpu: Cpu) -> int | None:
    if cpu.is_stuck:
        return None
    arrival = cpu.state + cpu.delay_ns
    if cpu.nmi_at_ns is not None and cpu.nmi_at_ns < arrival:
        # Before the meeting an NMI is handled (or swallowed by the mask) and costs its time.
        arrival += CpuState.NMI
    return arrival


def meet(
    cpus: Sequence[Cpu], *, timeout_ns: int, is_idle_only: bool, is_lock_busy: bool = False
) -> Meeting:
    """Bring all CPUs together.

    Args:
        cpus: the online CPUs; the first is master.
        timeout_ns: the one deadline for both phases (arrive, then disable interrupts).
        is_idle_only: since 4.13.1 CPUs meet in the idle loop; before, on the way to the guest.
        is_lock_busy: the CPU-maps lock is taken.

    Returns:
        How it went; state is unchanged where it failed.
    """
    master = cpus[0]
    place = "in the idle loop" if is_idle_only else "on the way out of the hypervisor"
    if is_lock_busy:
        return Meeting(is_met=False, reason="CPU maps are locked", ipis=(), elapsed_ns=0)
    log = [f"0 ns: CPU{master.number} is master, NMIs are masked"]
    others = cpus[1:]
    ipis = tuple(cpu.number for cpu in others)
    log.extend(f"0 ns: CPU{number} is kicked" for number in ipis)
    arrivals = [(_arrival_ns(cpu), cpu) for cpu in others]
    missing = [cpu.number for arrival, cpu in arrivals if arrival is None or arrival >= timeout_ns]
    present = sorted((arrival, cpu.number) for arrival, cpu in arrivals if arrival is not None)
    log.extend(
        f"{arrival} ns: CPU{number} arrives {place}"
        for arrival, number in present
        if arrival < timeout_ns
    )
    lost = tuple(cpu.number for cpu in cpus if cpu.nmi_at_ns is not None)
    if missing:
        names = ", ".join(f"CPU{number}" for number in missing)
        elapsed, reason = timeout_ns, f"{names} did not come within {timeout_ns} ns"
        log.append(f"{timeout_ns} ns: deadline, {names} did not come; all leave")
    else:
        elapsed, reason = max((arrival for arrival, _ in present), default=0), ""
        log.append(f"{elapsed} ns: interrupts are off everywhere, CPU{master.number} works")
    return Meeting(
        is_met=not missing,
        reason=reason,
        ipis=ipis,
        elapsed_ns=elapsed,
        nmis_lost=lost,
        log=tuple(log),
    )
