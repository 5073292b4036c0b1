# SPDX-License-Identifier: Apache-2.0
"""A job list, played in the model and on a real Xen; memory is searched after each unload."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct, field

from xsplice_plugins.artefacts import Duty, Finding, Severity
from xsplice_plugins.errors import XspliceError
from xsplice_plugins.hypervisor import Hypervisor
from xsplice_plugins.hypervisor.facts.verdicts import Stopped
from xsplice_plugins.hypervisor.proof.dangling import name_of
from xsplice_plugins.hypervisor.state.payload import name_bytes
from xsplice_plugins.verify.leftovers import Search, payload_pages, search
from xsplice_plugins.verify.predict import predict
from xsplice_plugins.verify.saved import with_saved_memory

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from xsplice_plugins.hypervisor import BootedImage, Release
    from xsplice_plugins.realxen.machine import Look, Machine
    from xsplice_plugins.realxen.memory import Mapping as PageMapping
    from xsplice_plugins.realxen.memory import Memory
    from xsplice_plugins.realxen.results import RunResult, Step
    from xsplice_plugins.verify.predict import Prediction

CHECK = "qemu.memory"


class World(Struct, frozen=True, kw_only=True):
    """A hypervisor: how the model knows it, and a machine that runs it."""

    image: BootedImage
    release: Release
    machine: Machine

    def with_memory(self) -> BootedImage:
        """Give the image with memory of the saved machine."""
        return with_saved_memory(self.image, self.machine.memory())


class Played(Struct, frozen=True, kw_only=True):
    """What both came to."""

    predicted: tuple[Prediction, ...]
    run: RunResult
    searches: Mapping[int, Search]  #: by the number of the step that unloaded
    is_readable: bool = True  #: whether the machine's memory could be looked at


class _Watcher(Struct, kw_only=True):
    """Looks at the machine before and after each unload."""

    image: BootedImage
    unloads: frozenset[int]
    pages: tuple[PageMapping, ...] = ()
    searches: dict[int, Search] = field(default_factory=dict)

    def looks(self) -> dict[int, Look]:
        moments = {moment for number in self.unloads for moment in (number - 1, number)}
        return {moment: self._look_at(moment) for moment in sorted(moments)}

    def _look_at(self, moment: int) -> Look:
        def look(memory: Memory) -> None:
            if moment in self.unloads:
                self.searches[moment] = search(memory, self.image, self.pages)
            self.pages = payload_pages(memory, self.image)

        return look


def play(
    world: World,
    steps: Sequence[Step],
    payloads: Mapping[str, bytes],
    *,
    console_log: Path,
    machine: Machine | None = None,
) -> Played:
    """Do a job list twice: in the model, and by raw hypercalls on a real Xen.

    What the model cannot tell it is asked again with memory of the saved machine.

    Args:
        world: The hypervisor.
        steps: What to do.
        payloads: Content by key.
        console_log: File for everything the machine prints.
        machine: Another machine than the world's, whose memory is neither known nor searched.

    Raises:
        XspliceError: The machine cannot be run.
    """
    image, release = world.image, world.release
    predicted = predict(steps, payloads, image=image, release=release)
    if machine is not None:
        run = machine.run(steps, payloads, agent="hypercall", console_log=console_log)
        return Played(predicted=predicted, run=run, searches={})
    if not world.machine.has_memory:
        run = world.machine.run(steps, payloads, agent="hypercall", console_log=console_log)
        return Played(predicted=predicted, run=run, searches={}, is_readable=False)
    if any(answer.unknown for answer in predicted):
        predicted = predict(steps, payloads, image=world.with_memory(), release=release)
    unloads = frozenset(n for n, step in enumerate(steps) if step.verb == "unload" and n)
    watcher = _Watcher(image=image, unloads=unloads)
    run = world.machine.run(
        steps, payloads, agent="hypercall", console_log=console_log, looks=watcher.looks()
    )
    return Played(predicted=predicted, run=run, searches=watcher.searches)


def memory_findings(
    world: World, name: str, played: Played, payloads: Mapping[str, bytes]
) -> list[Finding]:
    """Say what the machine's memory still holds of what was unloaded.

    Args:
        world: For the names of what is held.
        name: The payload that is judged.
        played: From :func:`play`.
        payloads: Content by key, as the upload steps name them.
    """
    if not played.is_readable:
        # The static checks of the obligation stand, as they do where no machine is asked.
        text = f"not checked: memory of a machine for {world.image.arch.name} cannot be searched"
        return [_finding(name, Severity.INFO, text)]
    found, clean_bytes = [], 0
    for number, result in sorted(played.searches.items()):
        step = played.run.steps[number]
        if step.outcome != "done" or step.error or step.state:
            continue
        if result.problem:
            text = f"memory was not searched whole after unload: {result.problem}"
            found.append(_finding(name, Severity.UNCHECKED, text))
        label = step.step.name
        for held in result.held:
            what = _name(world, label, held.value - result.base_virt, played, payloads)
            text = f"address of {what} is still held at {held.where} after {label} was unloaded"
            found.append(_finding(name, Severity.HAZARD, f"{text}; take it back in a hook"))
        clean_bytes = max(clean_bytes, result.searched_bytes)
    if clean_bytes and not found:
        text = f"no address of it in {clean_bytes >> 20} MiB of Xen's memory after unload"
        found.append(_finding(name, Severity.HELD, text))
    return found


def _finding(name: str, severity: Severity, text: str) -> Finding:
    step = "unload" if severity is Severity.HAZARD else ""
    return Finding(
        check=CHECK,
        severity=severity,
        subject=name,
        text=text,
        step=step,
        obligation=Duty.DATA,
    )


def _name(
    world: World, label: str, offset: int, played: Played, payloads: Mapping[str, bytes]
) -> str:
    """Name a place of a payload, by its distance from where the payload starts."""
    hv = Hypervisor(world.image, world.release)
    try:
        for result in played.run.steps:
            step = result.step
            if step.verb == "upload":
                hv.upload(name_bytes(step.name) + b"\0", payloads[step.payload])
    except (Stopped, XspliceError):
        pass  # what was loaded until then has its names
    payload = next((loaded for loaded in hv.payloads if loaded.name == label), None)
    if payload is None:
        return f"{label}+{offset:#x}"
    return name_of(payload, payload.base_virt + offset)
