# SPDX-License-Identifier: Apache-2.0
"""The CPU that a hook borrows: how it finds it, and how it has to give it back.

Source: xen/common/livepatch.c, where load, unload, apply and revert hooks run with interrupts off
while all CPUs wait, and the others with interrupts on; xen/include/xen/preempt.h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.hypervisor.facts.verdicts import Hazard

if TYPE_CHECKING:
    import unicorn

    from xsplice_plugins.hypervisor.run.processor import Registers
    from xsplice_plugins.hypervisor.run.watch import Watch
    from xsplice_plugins.hypervisor.state.xen import Xen

#: Steps in which all CPUs wait, with interrupts off.
_WAITING = frozenset({"load-hook", "unload-hook", "apply-hook", "revert-hook"})
#: How often this CPU was told not to be taken away: by locks, CPU maps and readers of RCU.
_COUNT = "per_cpu____preempt_count"
_COUNT_BYTES = 4
#: What fills registers that nobody set: an address nothing can be mapped at.
JUNK = 0xA5C3_5A3C_A5C3_0000


class BorrowedCpu:
    """The processor's registers and flags around one call."""

    def __init__(self, uc: unicorn.Uc, regs: Registers, xen: Xen) -> None:
        self._uc, self._regs, self._xen = uc, regs, xen
        self._step, self._is_rehearsal = "", False
        self._state = 0
        count = xen.image.symbols.get(_COUNT)
        self._count_virt = count.addr_virt if count is not None else 0
        self._count = b""

    @property
    def is_waiting(self) -> bool:
        """Whether all CPUs wait for this one, with interrupts off."""
        return self._step in _WAITING

    @property
    def is_before_revert(self) -> bool:
        """Whether replaced functions go on while a hook ends what they work with."""
        return self._step == "prerevert-hook"

    @property
    def saved(self) -> int:
        """What ``local_irq_save`` keeps: the bits that a function gives back as they were."""
        regs = self._regs
        return int(self._uc.reg_read(regs.state)) & sum(regs.state_bits.values())

    def restore(self, saved: int) -> None:
        """Let interrupts come again if they came when this was saved."""
        bit = self._regs.state_bits["interrupts"]
        self._set(bit, saved & bit)

    def let_interrupts(self, *, come: bool) -> None:
        """Let interrupts come, or keep them off."""
        regs = self._regs
        bit = regs.state_bits["interrupts"]
        self._set(bit, bit if come != regs.are_interrupts_masked else 0)

    def _set(self, bit: int, value: int) -> None:
        old = int(self._uc.reg_read(self._regs.state))
        self._uc.reg_write(self._regs.state, old & ~bit | value)

    def check_call(self, name: str) -> None:
        """See that a function that the model performs may be called.

        Raises:
            Hazard: the direction flag is set: its copies would run backwards.
        """
        if self.saved & self._regs.state_bits.get("the direction flag", 0):
            raise Hazard(self._step, f"{name} is called with the direction flag set")

    def lend(self, step: str, *, is_rehearsal: bool) -> None:
        """Set up what a call finds, with other leftovers in a rehearsal."""
        uc, regs = self._uc, self._regs
        self._step, self._is_rehearsal = step, is_rehearsal
        uc.reg_write(regs.state, regs.state_first)
        self.let_interrupts(come=not self.is_waiting)
        self.spoil()
        for _, number in regs.kept:
            # The other way round, so that neither zero nor anything else passes for "as it was".
            uc.reg_write(number, self._kept_value(number))
        self._state = self.saved
        self._count = self._xen.memory.peek(self._count_virt, _COUNT_BYTES)

    def _kept_value(self, number: int) -> int:
        return 0 if self._is_rehearsal else JUNK | number

    def spoil(self) -> None:
        """Put into registers and condition flags what no code may rely on."""
        for number in self._regs.lost:
            self._uc.reg_write(number, JUNK | number if self._is_rehearsal else 0)
        number, clear, every = self._regs.flags
        kept = int(self._uc.reg_read(number)) & ~(clear | every)
        self._uc.reg_write(number, kept | (every if self._is_rehearsal else clear))

    def take_back(self, stack_virt: int, watch: Watch) -> None:
        """See that a function that returns has put back what its caller needs.

        Args:
            stack_virt: where the stack pointer has to be.
            watch: the accesses of the call.

        Raises:
            Hazard: it did not.
        """
        uc, regs = self._uc, self._regs
        lost = [
            name for name, number in regs.kept if uc.reg_read(number) != self._kept_value(number)
        ]
        if uc.reg_read(regs.stack) != stack_virt:
            lost.append("the stack pointer")
        if lost:
            raise Hazard(self._step, f"the function returns with its caller's {lost[0]} changed")
        if self._step.endswith("-hook"):
            self._check_hook(watch)

    def _check_hook(self, watch: Watch) -> None:
        """See that a hook leaves nothing taken, and interrupts as they were."""
        held = next(iter(watch.sight.held), None)
        if held is not None:
            raise Hazard(
                self._step,
                f"the hook returns with the lock {watch.datum(held)} held: who wants it next waits "
                "for ever",
            )
        changed = self.saved ^ self._state
        names = [name for name, bit in self._regs.state_bits.items() if changed & bit]
        if "interrupts" in names:
            was, found = ("off", "on") if self.is_waiting else ("on", "off")
            raise Hazard(
                self._step, f"the hook returns with interrupts {found}; its caller has them {was}"
            )
        if names:
            raise Hazard(
                self._step, f"the hook returns with {names[0]} changed; its caller relies on it"
            )
        before = watch.as_found(self._count_virt, self._count)
        if self._xen.memory.peek(self._count_virt, _COUNT_BYTES) != before:
            raise Hazard(
                self._step,
                "the hook returns with preempt_count changed: a lock, the CPU maps or a reader of "
                "RCU was taken and not given back",
            )
