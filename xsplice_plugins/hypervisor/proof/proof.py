# SPDX-License-Identifier: Apache-2.0
"""The proof: a stack of payloads uploaded, applied, observed, reverted and unloaded in the model.

``prove`` runs the whole life of the payloads on one release and writes down what it saw; nothing in
the report depends on the machine, so it is the same bytes every time. Other releases are asked the
same question, and where their answer differs the report says so.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from xsplice_plugins.hypervisor.act.signature import OFF, SignaturePolicy
from xsplice_plugins.hypervisor.core import Hypervisor
from xsplice_plugins.hypervisor.facts.releases import Release
from xsplice_plugins.hypervisor.facts.verdicts import Hazard, Refusal, errno_name
from xsplice_plugins.hypervisor.image.image import Image
from xsplice_plugins.hypervisor.proof.observe import (
    FunctionProof,
    bytes_at,
    check_nop_records,
    image_notes,
)
from xsplice_plugins.hypervisor.proof.probes import Probe, ProbeResult, ask
from xsplice_plugins.hypervisor.run.hooks import HookRunner, emulate_hook
from xsplice_plugins.hypervisor.state.payload import Payload
from xsplice_plugins.hypervisor.state.requests import Command, Host

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One thing that was checked or done.

    Attributes:
        payload: its name.
        action: ``upload``, ``apply``, ``revert`` or ``unload``.
        step: the gate.
        text: what was found there.
    """

    payload: str
    action: str
    step: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadProof:
    """A payload of the stack, bottom first."""

    name: str
    sha256: str
    build_id: str
    depends: str
    is_reappliable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryProof:
    """SHA-256 of memory at one moment.

    Attributes:
        moment: ``before``, ``applied``, ``reverted`` or ``unloaded``.
        code: Xen's text and read-only data.
        everything: all that is mapped; hooks may leave traces in data.
        allocations: bytes allocated to payloads.
    """

    moment: str
    code: str
    everything: str
    allocations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseAnswer:
    """What another release says to the same payloads."""

    release: str
    verdict: str
    errno: int
    step: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofReport:
    """Everything a verification in the model found.

    Attributes:
        verdict: ``proved``, ``refused`` or ``hazard``.
        errno: positive where the hypervisor refused, else 0.
        step: the gate that refused, or where the hazard is; empty where proved.
    """

    schema: int = SCHEMA
    verdict: str
    errno: int = 0
    errno_name: str = ""
    step: str = ""
    reason: str = ""
    release: str
    cpu: str
    image_sha256: str
    image_build_id: str
    payloads: tuple[PayloadProof, ...]
    steps: tuple[StepRecord, ...]
    functions: tuple[FunctionProof, ...]
    memory: tuple[MemoryProof, ...]
    probes: tuple[ProbeResult, ...]
    console: tuple[str, ...]
    rendezvous: tuple[str, ...]
    notes: tuple[str, ...]
    differences: tuple[ReleaseAnswer, ...]


class _Life:
    """One life of the stack, with the notes taken on the way."""

    def __init__(self, hv: Hypervisor, probes: Sequence[Probe]) -> None:
        self.hv = hv
        self.questions = probes
        self.steps: list[StepRecord] = []
        self.memory: list[MemoryProof] = []
        self.probes: list[ProbeResult] = []
        self.functions: list[FunctionProof] = []
        self.proofs: list[PayloadProof] = []

    def note(self, payload: str, action: str, step: str, text: str) -> None:
        self.steps.append(StepRecord(payload=payload, action=action, step=step, text=text))

    def measure(self, moment: str) -> None:
        memory = self.hv.memory
        self.memory.append(
            MemoryProof(
                moment=moment,
                code=memory.digest(owner="xen", code_only=True),
                everything=memory.digest(),
                allocations=sum(size for _, size in self.hv.arena.in_use()),
            )
        )

    def observe(self, moment: str) -> None:
        """Ask every probe.

        Raises:
            Hazard: a function crashed, or the answer is wrong.
        """
        for probe in self.questions:
            result = ask(probe, self.hv, moment)
            self.probes.append(result)
            if result.problem:
                raise Hazard("probe", f"{probe.function}: {result.problem}")

    def upload(self, name: str, data: bytes) -> Payload:
        answer = self.hv.upload(name.encode("latin-1") + b"\0", data)
        if answer.code < 0:
            self.note(name, "upload", answer.step, answer.reason)
            raise Refusal(-answer.code, answer.step, answer.reason)
        payload = self.hv.payloads[-1]
        for step, text in payload.log:
            self.note(name, "upload", step, text)
        self.proofs.append(
            PayloadProof(
                name=name,
                sha256=hashlib.sha256(data).hexdigest(),
                build_id=payload.build_id.hex(),
                depends=payload.depends.hex(),
                is_reappliable=payload.is_safe_to_reapply,
            )
        )
        return payload

    def act(self, payload: Payload, command: Command) -> None:
        """Ask for an action, let the CPUs do it, and insist on success."""
        action = command.name.lower()
        answer = self.hv.action(payload.name.encode("latin-1") + b"\0", command)
        if answer.code:
            self.note(payload.name, action, answer.step, answer.reason)
            raise Refusal(abs(answer.code), answer.step, answer.reason)
        meeting = self.hv.run_pending()
        if command == Command.UNLOAD:
            self.note(payload.name, action, "unload", "memory freed")
            return
        if payload.rc:
            reason = meeting.reason if meeting is not None and meeting.reason else answer.reason
            text = reason or f"{action} ended with rc {payload.rc}"
            self.note(payload.name, action, answer.step, text)
            step = "rendezvous" if meeting is not None and not meeting.is_met else action
            raise Refusal(abs(payload.rc), step, text)
        text = f"done after {meeting.elapsed_ns if meeting else 0} ns, rc 0"
        self.note(payload.name, action, "rendezvous", text)

    def run(self, payloads: Sequence[tuple[str, bytes]]) -> None:
        """Live the whole life.

        Raises:
            Refusal: the hypervisor refused something.
            Hazard: a step is undefined, or memory did not come back.
        """
        hv = self.hv
        self.measure("before")
        self.observe("before")
        stack: list[Payload] = []
        for name, data in payloads:
            payload = self.upload(name, data)
            spots = [(f, bytes_at(f.old_virt, hv)) for f in payload.functions]
            stack.append(payload)
            self.act(payload, Command.APPLY)
            self.functions.extend(
                FunctionProof(
                    payload=name,
                    name=function.name,
                    old_virt=f"{function.old_virt:#x}",
                    new_virt=f"{function.new_virt:#x}",
                    old_size_bytes=function.old_size_bytes,
                    new_size_bytes=function.new_size_bytes,
                    patch_offset=function.patch_offset,
                    bytes_before=before,
                    bytes_during=bytes_at(function.old_virt, hv),
                    bytes_after="",
                )
                for function, before in spots
            )
        self.measure("applied")
        self.observe("during")
        check_nop_records(stack, hv)
        for payload in reversed(stack):
            self.act(payload, Command.REVERT)
        self.functions = [
            function.reverted(bytes_at(int(function.old_virt, 16), hv))
            for function in self.functions
        ]
        self.measure("reverted")
        self.observe("after")
        for payload in reversed(stack):
            self.act(payload, Command.UNLOAD)
        self.measure("unloaded")
        self._compare()

    def _compare(self) -> None:
        if len({proof.code for proof in self.memory if proof.moment != "applied"}) != 1:
            raise Hazard("revert", "code or read-only data is not what it was before")
        if self.memory[-1].allocations:
            raise Hazard("unload", f"{self.memory[-1].allocations} bytes are still allocated")
        wrong = [result for result in self.probes if not result.is_good]
        if wrong:
            first = wrong[0]
            raise Refusal(
                0,
                "probe",
                f"{first.function} {first.moment}: {first.found!r} instead of {first.expected!r}",
            )


def _live(
    payloads: Sequence[tuple[str, bytes]], hv: Hypervisor, probes: Sequence[Probe]
) -> tuple[_Life, str, Refusal | Hazard | None]:
    life = _Life(hv, probes)
    if not hv.release.supports(hv.image.arch):
        text = f"Xen {hv.release.name} has no live patching on {hv.image.arch.name}"
        return life, "refused", Refusal(38, "release", text)
    try:
        life.run(payloads)
    except Refusal as refusal:
        return life, "refused", refusal
    except Hazard as hazard:
        return life, "hazard", hazard
    return life, "proved", None


def _without_execution(_hv: object, payload: Payload, kind: str, _addr: int) -> int:
    """Stand in for hooks where another release is asked: its layout would not fit the payload.

    A hook that replaces the action at least has to keep the flags, or the host panics.
    """
    if kind in {"apply", "revert"}:
        for function in payload.functions:
            function.is_applied = kind == "apply"
    return 0


def compare_releases(
    payloads: Sequence[tuple[str, bytes]], image: Image, releases: Sequence[Release]
) -> tuple[ReleaseAnswer, ...]:
    """Ask other releases the same question; hooks are taken to succeed.

    Args:
        payloads: the stack, bottom first.
        image: the hypervisor the payloads were made for.
        releases: whose answers are wanted.
    """
    answers = []
    for other in releases:
        hv = Hypervisor(image, other, hook_runner=_without_execution)
        _, verdict, problem = _live(payloads, hv, ())
        answers.append(
            ReleaseAnswer(
                release=other.name,
                verdict=verdict,
                errno=problem.errno if isinstance(problem, Refusal) else 0,
                step=problem.step if problem else "",
                reason=problem.reason if problem else "",
            )
        )
    return tuple(answers)


def prove(
    payloads: Sequence[tuple[str, bytes]],
    image: Image,
    release: Release,
    *,
    probes: Sequence[Probe] = (),
    compared: Sequence[Release] = (),
    signatures: SignaturePolicy = OFF,
    host: Host | None = None,
    hook_runner: HookRunner = emulate_hook,
) -> ProofReport:
    """Prove a stack of payloads in the model.

    Args:
        payloads: (name, file) bottom first; each depends on the one below, the first on Xen.
        image: the hypervisor as after boot.
        release: whose behaviour counts.
        probes: questions asked before, during and after.
        compared: other releases to ask.
        signatures: whether uploads must be signed.
        host: the conditions around the hypervisor.
        hook_runner: how hooks are run; the emulator by default.

    Returns:
        The report; refusals and hazards are verdicts in it, not exceptions.
    """
    hv = Hypervisor(image, release, host=host, signatures=signatures, hook_runner=hook_runner)
    life, verdict, problem = _live(payloads, hv, probes)
    errno = problem.errno if isinstance(problem, Refusal) else 0
    others = [other for other in compared if other.name != release.name]
    answers = compare_releases(payloads, image, others)
    return ProofReport(
        verdict=verdict,
        errno=errno,
        errno_name=errno_name(errno) if errno else "",
        step=problem.step if problem else "",
        reason=problem.reason if problem else "",
        release=release.name,
        cpu=image.cpu.name,
        image_sha256=image.digest,
        image_build_id=(image.build_id or b"").hex(),
        payloads=tuple(life.proofs),
        steps=tuple(life.steps),
        functions=tuple(life.functions),
        memory=tuple(life.memory),
        probes=tuple(life.probes),
        console=tuple(hv.console),
        rendezvous=tuple(line for meeting in hv.meetings for line in meeting.log),
        notes=image_notes(life.functions, image),
        differences=tuple(
            answer for answer in answers if (answer.verdict, answer.errno) != (verdict, errno)
        ),
    )
