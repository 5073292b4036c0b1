# SPDX-License-Identifier: Apache-2.0
"""The proof: a stack of payloads uploaded, applied, observed, reverted and unloaded in the model.

``prove`` runs the whole life of the payloads on one release and writes down what it saw; nothing in
the report depends on the machine, so it is the same bytes every time. Other releases are asked the
same question, and where their answer differs the report says so.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from xsplice_plugins.hypervisor.core import Hypervisor
from xsplice_plugins.hypervisor.facts.releases import Release
from xsplice_plugins.hypervisor.facts.verdicts import (
    ENOSYS,
    Hazard,
    HostUnknown,
    Stopped,
    Unknown,
    XenRefusal,
    errno_name,
)
from xsplice_plugins.hypervisor.image.image import BootedImage
from xsplice_plugins.hypervisor.load.signature import OFF, SignaturePolicy
from xsplice_plugins.hypervisor.proof.dangling import check_pointers
from xsplice_plugins.hypervisor.proof.failing import Course, play_failures
from xsplice_plugins.hypervisor.proof.observe import (
    FunctionProof,
    bytes_at,
    check_nop_records,
    image_notes,
)
from xsplice_plugins.hypervisor.proof.probes import Probe, ProbeResult, ask
from xsplice_plugins.hypervisor.proof.remaining import remaining, xens_data
from xsplice_plugins.hypervisor.run.hooks import vouched
from xsplice_plugins.hypervisor.state.payload import LoadedPayload, name_bytes
from xsplice_plugins.hypervisor.state.requests import Command, Host

SCHEMA = 1


class StepRecord(Struct, frozen=True, kw_only=True):
    """One thing that was checked or done."""

    payload: str  #: its name
    action: str  #: ``upload``, ``apply``, ``revert`` or ``unload``
    step: str  #: the gate
    text: str  #: what was found there


class PayloadProof(Struct, frozen=True, kw_only=True):
    """A payload of the stack, bottom first."""

    name: str
    sha256: str
    build_id: str
    depends: str
    is_reappliable: bool


class MemoryProof(Struct, frozen=True, kw_only=True):
    """SHA-256 of memory at one moment."""

    moment: str  #: ``before``, ``applied``, ``reverted`` or ``unloaded``
    code: str  #: Xen's text and read-only data
    everything: str  #: all that is mapped; hooks may leave traces in data
    allocations: int  #: bytes allocated to payloads


class ReleaseAnswer(Struct, frozen=True, kw_only=True):
    """What another release says to the same payloads."""

    release: str
    verdict: str
    errno: int
    step: str
    reason: str


class ProofReport(Struct, frozen=True, kw_only=True):
    """Everything a verification in the model found."""

    schema: int = SCHEMA
    verdict: str  #: ``proved``, ``refused``, ``hazard`` or ``unknown``
    errno: int = 0  #: positive where the hypervisor refused, else 0
    errno_name: str = ""
    step: str = ""  #: the gate that refused, or where the hazard is; empty where proved
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
    remarks: tuple[str, ...]  #: what hooks leave in the hypervisor for good
    differences: tuple[ReleaseAnswer, ...]
    #: whose hook depends on a host's values; "" where that is not why it is unknown
    asks: str = ""
    #: hooks that somebody vouches for: payload, kind, what only a host knows of it
    vouched: tuple[tuple[str, str, str], ...] = ()


class _Course:
    """One life of the stack, with the notes taken on the way."""

    def __init__(self, hv: Hypervisor, probes: Sequence[Probe]) -> None:
        self.hv = hv
        self.questions = probes
        self.steps: list[StepRecord] = []
        self.memory: list[MemoryProof] = []
        self.probes: list[ProbeResult] = []
        self.functions: list[FunctionProof] = []
        self.proofs: list[PayloadProof] = []
        self.notes: list[str] = []
        self.remarks: tuple[str, ...] = ()
        self.asks = ""

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
        """Ask every probe; where the answer depends on a running host, of the image as built.

        Raises:
            Hazard: a function crashed, or the answer is wrong.
            Unknown: it needs what only a running host has.
        """
        for probe in self.questions:
            try:
                result = ask(probe, self.hv, moment)
            except Unknown as unknown:
                # Who writes an answer down speaks of the image as it was built.
                result = ask(probe, self.hv, moment, is_as_filed=True)
                self.notes.append(
                    f"{probe.function}() {moment}: {unknown.reason}; asked as the file has it"
                )
            self.probes.append(result)
            if result.problem:
                raise Hazard("probe", f"{probe.function}: {result.problem}")

    def upload(self, name: str, data: bytes) -> LoadedPayload:
        answer = self.hv.upload(name_bytes(name) + b"\0", data)
        if answer.code < 0:
            self.note(name, "upload", answer.step, answer.reason)
            raise XenRefusal(-answer.code, answer.step, answer.reason)
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

    def act(self, payload: LoadedPayload, command: Command) -> None:
        """Ask for an action, let the CPUs do it, and insist on success."""
        action = command.name.lower()
        answer = self.hv.action(name_bytes(payload.name) + b"\0", command)
        if answer.code:
            self.note(payload.name, action, answer.step, answer.reason)
            raise XenRefusal(abs(answer.code), answer.step, answer.reason)
        meeting = self.hv.run_pending()
        if command == Command.UNLOAD:
            self.note(payload.name, action, "unload", "memory freed")
            return
        if payload.rc:
            reason = meeting.reason if meeting is not None and meeting.reason else answer.reason
            text = payload.why or reason or f"{action} ended with rc {payload.rc}"
            self.note(payload.name, action, answer.step, text)
            step = "rendezvous" if meeting is not None and not meeting.is_met else action
            raise XenRefusal(abs(payload.rc), step, text)
        text = f"done after {meeting.elapsed_ns if meeting else 0} ns, rc 0"
        self.note(payload.name, action, "rendezvous", text)

    def run(self, payloads: Sequence[tuple[str, bytes]]) -> None:
        """Live the whole life.

        Raises:
            XenRefusal: the hypervisor refused something.
            Hazard: a step is undefined, or memory did not come back.
        """
        hv = self.hv
        self.measure("before")
        xens = xens_data(hv)
        self.observe("before")
        stack: list[LoadedPayload] = []
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
            replace(function, bytes_after=bytes_at(int(function.old_virt, 16), hv))
            for function in self.functions
        ]
        self.measure("reverted")
        self.observe("after")
        for payload in reversed(stack):
            self.act(payload, Command.UNLOAD)
        self.measure("unloaded")
        self._compare()
        self.remarks = remaining(hv, xens)
        check_pointers(stack, hv)

    def _compare(self) -> None:
        if len({proof.code for proof in self.memory if proof.moment != "applied"}) != 1:
            raise Hazard("revert", "code or read-only data is not what it was before")
        if self.memory[-1].allocations:
            raise Hazard("unload", f"{self.memory[-1].allocations} bytes are still allocated")
        wrong = [result for result in self.probes if not result.is_good]
        if wrong:
            first = wrong[0]
            raise XenRefusal(
                0,
                "probe",
                f"{first.function} {first.moment}: {first.found!r} instead of {first.expected!r}",
            )


def _asked(probes: Sequence[Probe], hv: Hypervisor) -> None:
    """Ask once more what holds while everything is applied.

    Raises:
        Hazard: A function crashed, or the answer is wrong.
    """
    for probe in probes:
        try:
            result = ask(probe, hv, "during")
        except Unknown:
            result = ask(probe, hv, "during", is_as_filed=True)
        if not result.is_good:
            what = result.problem or f"{result.found!r} instead of {result.expected!r}"
            raise Hazard("probe", f"{probe.function}: {what}")


_VERDICTS = {
    XenRefusal: "refused",
    Hazard: "hazard",
    Unknown: "unknown",
    HostUnknown: "unknown",
}


def _live(
    payloads: Sequence[tuple[str, bytes]],
    hv: Hypervisor,
    probes: Sequence[Probe] = (),
    *,
    boot: Callable[[], Hypervisor] | None = None,
) -> tuple[_Course, ReleaseAnswer]:
    """Live the whole life, and with ``boot`` play on new hosts how actions around hooks fail."""
    life = _Course(hv, probes)
    verdict, problem = "proved", None
    try:
        if not hv.release.supports(hv.image.arch):
            text = f"Xen {hv.release.name} has no live patching on {hv.image.arch.name}"
            raise XenRefusal(ENOSYS, "release", text)
        life.run(payloads)
        if boot is not None:
            course = Course(payloads=payloads, boot=boot, observe=lambda host: _asked(probes, host))
            for action, text in play_failures(course):
                life.note(payloads[-1][0], action, "failure", text)
    except Stopped as stopped:
        verdict, problem = _VERDICTS[type(stopped)], stopped
        life.asks = stopped.payload if isinstance(stopped, HostUnknown) else ""
    return life, ReleaseAnswer(
        release=hv.release.name,
        verdict=verdict,
        errno=problem.errno if problem else 0,
        step=problem.step if problem else "",
        reason=problem.reason if problem else "",
    )


def _without_execution(_hv: object, payload: LoadedPayload, kind: str, _addr: int) -> int:
    """Stand in for hooks where another release is asked: its layout would not fit the payload.

    A hook that replaces the action at least has to keep the flags, or the host panics.
    """
    if kind in {"apply", "revert"}:
        for function in payload.functions:
            function.is_applied = kind == "apply"
    return 0


def prove(
    payloads: Sequence[tuple[str, bytes]],
    image: BootedImage,
    release: Release,
    *,
    probes: Sequence[Probe] = (),
    compared: Sequence[Release] = (),
    signatures: SignaturePolicy = OFF,
    host: Host | None = None,
    vouched_for: Mapping[str, Collection[str]] | None = None,
) -> ProofReport:
    """Prove a stack of payloads in the model.

    Args:
        payloads: (name, file) bottom first; each depends on the one below, the first on Xen.
        image: the hypervisor as after boot.
        release: whose behaviour counts.
        probes: questions asked before, during and after.
        compared: other releases to ask; hooks are taken to succeed there.
        signatures: whether uploads must be signed.
        host: the conditions around the hypervisor.
        vouched_for: kinds of hooks for which somebody vouches where only a host knows, by the
            payload's name.

    Returns:
        The report; refusals and hazards are verdicts in it, not exceptions.
    """
    said: list[tuple[str, str, str]] = []
    runner = vouched(vouched_for or {}, said)

    def boot() -> Hypervisor:
        return Hypervisor(image, release, host=host, signatures=signatures, hook_runner=runner)

    hv = boot()
    life, mine = _live(payloads, hv, probes, boot=boot)
    others = [
        _live(payloads, Hypervisor(image, other, hook_runner=_without_execution))[1]
        for other in compared
        if other.name != release.name
    ]
    return ProofReport(
        verdict=mine.verdict,
        errno=mine.errno,
        errno_name=errno_name(mine.errno) if mine.errno else "",
        step=mine.step,
        reason=mine.reason,
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
        notes=(*image_notes(life.functions, image), *life.notes),
        remarks=life.remarks,
        differences=tuple(
            other for other in others if (other.verdict, other.errno) != (mine.verdict, mine.errno)
        ),
        asks=life.asks,
        vouched=tuple(dict.fromkeys(said)),
    )
