# SPDX-License-Identifier: Apache-2.0
"""The verifier ``qemu``: what really happens, next to what the model predicts.

The payload's life is played twice on the very hypervisor it is for: by raw hypercalls, whose every
answer is compared with the model's, and by the real ``xen-livepatch``, as an administrator would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from xsplice_plugins import hypervisor
from xsplice_plugins.artefacts import (
    PAYLOAD_SIZE_MAX,
    Duty,
    Finding,
    PayloadRecord,
    Severity,
    VerifyRequest,
    read_file,
)
from xsplice_plugins.hypervisor.facts.verdicts import EBUSY
from xsplice_plugins.realxen.results import LATE, Step
from xsplice_plugins.verify.model import read_probes, release_of
from xsplice_plugins.verify.playing import World, memory_findings, play
from xsplice_plugins.verify.predict import (
    EXTRA_CHARACTERS_MAX,
    Agreement,
    Prediction,
    compare,
    printable,
)
from xsplice_plugins.verify.saved import machine_of
from xsplice_plugins.verify.upgrade import labels_of, upgrade_steps

if TYPE_CHECKING:
    from pathlib import Path

    from xsplice_plugins.hypervisor import Probe
    from xsplice_plugins.plugins.spec import Config
    from xsplice_plugins.realxen.machine import Machine
    from xsplice_plugins.realxen.results import RunResult, StepResult

#: What files of dom0 said, in the order in which they were asked.
Told = Mapping[str, Sequence[str]]

CHECK = "qemu"
_OBSERVED = ("outcome", "error", "state", "rc", "version", "extra", "tries")
_GOOD = {Severity.HELD, Severity.INFO}
#: On a loaded machine the other CPU may be there before the first one looks at the clock.
_LATE_ROUNDS = 3
_SYSFS = "/sys/hypervisor/"
#: What dom0 can ask for without help of a domain or a device: the file under /sys/hypervisor, and
#: how many characters get through. Source: xen/include/public/version.h.
VISIBLE = {
    "xen_extra_version": ("version/extra", EXTRA_CHARACTERS_MAX),
    "xen_changeset": ("properties/changeset", 63),
    "xen_compiler": ("compilation/compiler", 63),
    "xen_compile_by": ("compilation/compiled_by", 15),
    "xen_compile_date": ("compilation/compile_date", 31),
}


class Life(Struct, frozen=True, kw_only=True):
    """A payload's life as a job list."""

    steps: tuple[Step, ...]
    payloads: Mapping[str, bytes]
    #: Number of the step after which the effect shows, and of the one after which it is gone.
    during: int
    after: int


def verify_on_qemu(
    data: bytes, record: PayloadRecord, request: VerifyRequest, config: Config
) -> tuple[Finding, ...]:
    """Boot the hypervisor under QEMU and let it judge.

    Args:
        data: The whole signed file.
        record: What it holds.
        request: Image, release, expectations and what lies beneath.
        config: Settings of the run; option ``qemu-xen`` names the image that boots.

    Returns:
        What real Xen said, and where the model said otherwise.

    Raises:
        ConfigError: The image that boots is missing or of another build.
        MachineError: A package is missing; the message has the line that installs it.
        VerifyError: The machine under QEMU does not answer.
    """
    release = release_of(request.release, config)
    image = hypervisor.boot(read_file(request.image_path), release=release)
    machine = machine_of(request, config, image.build_id)
    life = life_of(record.name, data, [(path.stem, read_file(path)) for path in request.beneath])
    folder = request.payload_path.parent
    world = World(machine=machine, image=image, release=release)
    log = folder / f"{record.name}.console.log"
    played = play(world, life.steps, life.payloads, console_log=log)
    raw, predicted = played.run, played.predicted
    probes = read_probes(request.expected) if request.expected is not None else ()
    watched = machine.run(
        watched_steps(life, probes),
        life.payloads,
        console_log=folder / f"{record.name}.tool-console.log",
    )
    told, tool = split_watched(watched)
    findings = [_verdict(record.name, machine, predicted, raw, tool)]
    findings += _disagreements(record.name, predicted, raw, tool)
    findings += memory_findings(world, record.name, played, life.payloads)
    findings += _effects(record.name, probes, told)
    if request.supersedes:
        findings += _upgrade(data, record.name, request.supersedes, folder, world)
    if all(finding.severity in _GOOD for finding in findings):
        pair = machine_of(request, config, image.build_id, cpus=2)
        findings += _retried(life, record.name, folder, world, pair)
    return tuple(findings)


def life_of(name: str, data: bytes, beneath: Sequence[tuple[str, bytes]]) -> Life:
    """Return the job list of one payload's life on top of others.

    Args:
        name: The payload's name.
        data: The payload.
        beneath: Payloads applied before it, bottom first.
    """
    stack = [*beneath, (name, data)]
    steps = [Step(verb="extra")]
    for number, (label, _) in enumerate(stack):
        steps.append(Step(verb="upload", name=label, payload=str(number)))
        steps.append(Step(verb="apply", name=label))
    during = len(steps) - 1
    steps += [Step(verb=verb, name=name) for verb in ("revert", "unload")]
    after = len(steps) - 1
    for label, _ in reversed(beneath):
        steps += [Step(verb=verb, name=label) for verb in ("revert", "unload")]
    payloads = {str(number): content for number, (_, content) in enumerate(stack)}
    return Life(steps=tuple(steps), payloads=payloads, during=during, after=after)


def watched_steps(life: Life, probes: Sequence[Probe]) -> tuple[Step, ...]:
    """Return a life with questions for what the probes ask, at each of their moments.

    Args:
        life: From :func:`life_of`.
        probes: Those that dom0 cannot ask for are left to the model.
    """
    names = sorted({probe.function for probe in probes} & set(VISIBLE))
    steps: list[Step] = []
    for number, step in enumerate(life.steps):
        steps.append(step)
        if number in {0, life.during, life.after}:
            steps += [Step(verb="read", name=_SYSFS + VISIBLE[name][0]) for name in names]
    return tuple(steps)


def split_watched(run: RunResult) -> tuple[Told, RunResult]:
    """Take the answers to questions out of a watched run.

    Returns:
        What each file read, before, during and after; and the run as if nobody had asked.
    """
    told: dict[str, list[str]] = {}
    for result in run.steps:
        if result.step.verb == "read" and result.outcome == "done":
            said = result.output[0] if result.output else ""
            answers = told.setdefault(result.step.name.removeprefix(_SYSFS), [])
            answers.append(said if not result.status else f"(no answer: {said})")
    left = tuple(result for result in run.steps if result.step.verb != "read")
    return told, replace(run, steps=left)


def _upgrade(
    data: bytes, name: str, older: Sequence[Path], folder: Path, world: World
) -> list[Finding]:
    """Let a payload take the place of others, as ``replace`` does it, and take it off again."""
    labels = labels_of(name, older)
    payloads = {name: data}
    payloads |= {
        label: read_file(path, limit_bytes=PAYLOAD_SIZE_MAX)
        for label, path in zip(labels, older, strict=True)
    }
    up, down = upgrade_steps(name, labels)
    steps = (*up, *down)
    log = folder / f"{name}.upgrade-console.log"
    played = play(world, steps, payloads, console_log=log)
    tool = world.machine.run(steps, payloads)
    verdict = _verdict(name, world.machine, played.predicted, played.run, tool)
    verdict = replace(verdict, obligation=Duty.STACK)
    if verdict.severity is Severity.HELD:
        text = f"real Xen put it in the place of {' and '.join(labels)} by replace, twice"
        verdict = replace(verdict, text=text)
    found = [verdict, *_disagreements(name, played.predicted, played.run, tool)]
    found += memory_findings(world, name, played, payloads)
    return [
        replace(finding, check=f"{CHECK}.upgrade{finding.check.removeprefix(CHECK)}")
        for finding in found
    ]


def _retried(life: Life, name: str, folder: Path, world: World, machine: Machine) -> list[Finding]:
    """Keep dom0 busy, let the CPUs come too late at first, and ask again."""
    late_life = (
        replace(step, flags=LATE)
        if step.name == name and step.verb in {"apply", "revert"}
        else step
        for step in life.steps
    )
    steps = tuple(late_life)
    cpus, with_what = "two CPUs", ""
    if machine.can_be_busy:
        steps = (Step(verb="busy"), *steps, Step(verb="idle"))
        cpus, with_what = "two busy CPUs", ", with a dom0 that makes hypercalls without pause"
    log = folder / f"{name}.busy-console.log"
    for _ in range(_LATE_ROUNDS):
        played = play(world, steps, life.payloads, console_log=log, machine=machine)
        verdict = _verdict(name, machine, played.predicted, played.run, played.run)
        is_late = all(result.tries > 1 for result in played.run.steps if result.step.flags)
        if is_late or verdict.severity is not Severity.HELD:
            break
    if verdict.severity is Severity.HELD and is_late:
        text = (
            f"on two CPUs{with_what}, apply and revert that got no time ended with -EBUSY and "
            "changed nothing; asked again, they did it"
        )
        verdict = replace(verdict, text=text)
    elif verdict.severity is Severity.HELD or verdict.step == "busy":
        text = f"CPUs that come too late could not be brought about on {cpus}"
        verdict = replace(verdict, severity=Severity.INFO, text=text)
    else:
        text = f"on {cpus} that came too late at first: {verdict.text}"
        verdict = replace(verdict, text=text)
    found = [verdict]
    if verdict.step != "busy":
        found += _disagreements(name, played.predicted, played.run, played.run)
    return [
        replace(finding, check=f"{CHECK}.busy{finding.check.removeprefix(CHECK)}")
        for finding in found
    ]


def _verdict(
    name: str, machine: Machine, predicted: Sequence[Prediction], raw: RunResult, tool: RunResult
) -> Finding:
    crash = raw.crash or tool.crash
    broken = next((step for step in raw.steps if step.outcome != "done"), None)
    refused = next((step for step in raw.steps if step.error or step.rc), None)
    by_tool = next((step for step in tool.steps if not step.accepted), None)
    severity, errno, at = Severity.HELD, 0, ""
    text = "real Xen uploaded, applied, reverted and unloaded it, twice"
    if not machine.has_tool:
        text += ", asked by our own agent, for Debian carries no xen-livepatch of this release"
    if crash or broken is not None:
        severity, at = Severity.HAZARD, broken.step.verb if broken is not None else "tool"
        text = f"real Xen did not survive: {crash or 'no answer in time'}"
    elif refused is not None:
        severity, errno, at = Severity.ERROR, refused.error or -refused.rc, refused.step.verb
        said = f": {refused.console[-1]}" if refused.console else ""
        text = f"real Xen refused {refused.step.verb} with error {errno}{said}"
        if refused.rc == -EBUSY and refused.tries > 1:
            text += f" (its CPUs did not meet in {refused.tries} tries; ask again)"
    elif by_tool is not None:
        severity, errno, at = Severity.ERROR, by_tool.error, by_tool.step.verb
        text = f"xen-livepatch refused: {' / '.join(by_tool.output)}"
    evidence = {
        "machine": {"packages": list(machine.packages), "qemu": machine.qemu},
        "steps": [_row(number, real, predicted) for number, real in enumerate(raw.steps)],
        "tool": [_row(number, real, ()) for number, real in enumerate(tool.steps)],
    }
    return Finding(
        check=CHECK,
        severity=severity,
        subject=name,
        text=text,
        errno=errno,
        step=at,
        evidence=evidence,
    )


def _row(number: int, real: StepResult, predicted: Sequence[Prediction]) -> dict[str, object]:
    row: dict[str, object] = {
        "verb": real.step.verb,
        "name": real.step.name,
        "observed": {name: getattr(real, name) for name in _OBSERVED},
        "console": list(real.console),
    }
    if real.output:
        row["output"] = list(real.output)
    if number < len(predicted):
        row["predicted"] = msgspec.to_builtins(predicted[number])
    return row


def _disagreements(
    name: str, predicted: Sequence[Prediction], raw: RunResult, tool: RunResult
) -> list[Finding]:
    agreement, text = compare(predicted, raw.steps)
    found = []
    if agreement in {Agreement.DISAGREE, Agreement.CRASH_UNPREDICTED}:
        found.append(f"the model is wrong: {text}")
    elif agreement is Agreement.HAZARD_SURVIVED:
        found.append(f"the model sees a hazard that real Xen survived this time: {text}")
    for ours, real in zip(raw.steps, tool.steps, strict=True):
        if ours.outcome == real.outcome == "done" and ours.state != real.state:
            found.append(
                f"{real.step.verb} {real.step.name}: {ours.state or 'not loaded'} after the raw "
                f"hypercall, {real.state or 'not loaded'} after xen-livepatch"
            )
            break
    return [
        Finding(check=f"{CHECK}.agreement", severity=Severity.ERROR, subject=name, text=words)
        for words in found
    ]


def _effects(name: str, probes: Sequence[Probe], told: Told) -> list[Finding]:
    found = []
    for probe in probes:
        if probe.function not in VISIBLE:
            continue
        file, characters_max = VISIBLE[probe.function]
        for moment, seen in zip(("before", "during", "after"), told.get(file, ()), strict=False):
            wanted = getattr(probe, moment)
            if wanted is None:
                continue
            short = printable(str(wanted))[:characters_max]
            severity = Severity.INFO if seen == short else Severity.ERROR
            found.append(
                Finding(
                    check=f"{CHECK}.effect",
                    severity=severity,
                    subject=name,
                    text=f"{probe.function} {moment}: expected {short!r}, real Xen says {seen!r}",
                )
            )
    return found
