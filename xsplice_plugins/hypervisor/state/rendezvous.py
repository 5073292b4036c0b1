# SPDX-License-Identifier: Apache-2.0
"""The rendezvous: every CPU meets in a place without a live stack, one works, all leave.

Time is counted in nanoseconds since the master took the work and passes only as far as CPUs need
it; nothing sleeps. The same primitive carries a microcode update. Source: specification section 9.
"""

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


class CpuState(enum.Enum):
    """What a CPU is doing when the work is raised."""

    GUEST = "guest"
    HYPERCALL = "hypercall"
    SOFTIRQ = "softirq"
    IDLE = "idle"
    NMI = "nmi"


#: Time until a CPU reaches the meeting place from a state, where nothing keeps it.
LATENCY_NS = {
    CpuState.GUEST: 4_000,
    CpuState.HYPERCALL: 20_000,
    CpuState.SOFTIRQ: 10_000,
    CpuState.IDLE: 500,
    CpuState.NMI: 50_000,
}


@dataclass(slots=True, kw_only=True)
class Cpu:
    """One CPU.

    Attributes:
        number: 0 takes the hypercall and becomes master.
        state: what it does when the work is raised.
        stack: return addresses on its hypervisor stack, innermost first.
        delay_ns: how much longer than usual it takes to arrive.
        is_stuck: it never comes (a spinning hypercall, a lost CPU).
        nmi_at_ns: when an NMI hits it, None for never.
        microcode: the revision it runs.
    """

    number: int
    state: CpuState = CpuState.IDLE
    stack: tuple[int, ...] = ()
    delay_ns: int = 0
    is_stuck: bool = False
    nmi_at_ns: int | None = None
    microcode: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """How a rendezvous went.

    Attributes:
        is_met: all CPUs were there in time.
        reason: why not.
        ipis: CPUs that were kicked.
        elapsed_ns: until the last one came, or the deadline.
        nmis_lost: CPUs whose NMI was swallowed while the handlers were masked.
        log: one line per event, in order of time.
    """

    is_met: bool
    reason: str
    ipis: tuple[int, ...]
    elapsed_ns: int
    nmis_lost: tuple[int, ...] = ()
    log: tuple[str, ...] = field(default=())


def idle_cpus(count: int = 2) -> list[Cpu]:
    """Give CPUs of which the first is in the hypercall and the rest idle."""
    return [
        Cpu(number=number, state=CpuState.IDLE if number else CpuState.HYPERCALL)
        for number in range(count)
    ]


def _arrival_ns(cpu: Cpu) -> int | None:
    if cpu.is_stuck:
        return None
    arrival = LATENCY_NS[cpu.state] + cpu.delay_ns
    if cpu.nmi_at_ns is not None and cpu.nmi_at_ns < arrival:
        # Before the meeting an NMI is handled (or swallowed by the mask) and costs its time.
        arrival += LATENCY_NS[CpuState.NMI]
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
        log.append(f"{timeout_ns} ns: deadline, {names} did not come; all leave")
        return Meeting(
            is_met=False,
            reason=f"{names} did not come within {timeout_ns} ns",
            ipis=ipis,
            elapsed_ns=timeout_ns,
            nmis_lost=lost,
            log=tuple(log),
        )
    elapsed = max((arrival for arrival, _ in present), default=0)
    log.append(f"{elapsed} ns: interrupts are off everywhere, CPU{master.number} works")
    return Meeting(
        is_met=True, reason="", ipis=ipis, elapsed_ns=elapsed, nmis_lost=lost, log=tuple(log)
    )


def run_together(
    cpus: Sequence[Cpu],
    work: Callable[[Cpu], None],
    *,
    timeout_ns: int,
    is_idle_only: bool = True,
) -> Meeting:
    """Run work on every CPU while all are together: the primitive under any stop-the-world job.

    Args:
        cpus: the online CPUs; the first is master and works first.
        work: called once per CPU, in order, only where all met.
        timeout_ns: deadline of the meeting.
        is_idle_only: where CPUs meet.
    """
    meeting = meet(cpus, timeout_ns=timeout_ns, is_idle_only=is_idle_only)
    if meeting.is_met:
        for cpu in cpus:
            work(cpu)
    return meeting


def update_microcode(cpus: Sequence[Cpu], revision: int, *, timeout_ns: int) -> Meeting:
    """Load a microcode revision on all CPUs at once, as the 2015 plan says the rendezvous should.

    Args:
        cpus: the online CPUs.
        revision: to load; CPUs that run a newer one keep it.
        timeout_ns: deadline of the meeting; on failure no CPU is changed.
    """

    def load(cpu: Cpu) -> None:
        cpu.microcode = max(cpu.microcode, revision)

    return run_together(cpus, load, timeout_ns=timeout_ns)
