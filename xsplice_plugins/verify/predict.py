# SPDX-License-Identifier: Apache-2.0
"""What the model says a job list will come to, and how that compares with what came."""

from collections.abc import Mapping, Sequence
from enum import StrEnum

from msgspec import Struct

from xsplice_plugins import hypervisor
from xsplice_plugins.errors import VerifyError
from xsplice_plugins.hypervisor import (
    BootedImage,
    Command,
    Hazard,
    Hypervisor,
    Probe,
    Release,
    Unknown,
    ask,
)
from xsplice_plugins.hypervisor.facts.verdicts import EBUSY
from xsplice_plugins.hypervisor.state.payload import name_bytes
from xsplice_plugins.realxen.results import LATE, LOADS, Step, StepResult

#: The hypervisor copies its extra version into 16 bytes, the last of them NUL.
EXTRA_CHARACTERS_MAX = 15
_TIMEOUT_NS = 300_000_000
_COMMANDS = {command.name.lower(): command for command in Command}
#: The functions that dom0's question for the version reaches; the agent asks after every step.
_PROBES = (
    Probe(function="xen_major_version"),
    Probe(function="xen_minor_version"),
    Probe(function="xen_extra_version", kind="string"),
)


class Prediction(Struct, frozen=True, kw_only=True):
    """What the model expects of one step, as the agent would tell it."""

    error: int = 0  #: Positive error number of the hypercall, 0 without one
    state: str = ""  #: As listed; empty when the payload is not loaded
    rc: int = 0  #: Result of the payload's last action
    version: str = ""  #: For example ``4.17``
    extra: str = ""  #: The extra version, as short as the hypervisor makes it
    hazard: str = ""  #: Why the step has no defined outcome; empty where it has one
    unknown: str = ""  #: What only a running host can answer; empty where the model can
    reason: str = ""  #: The gate that refused


class Agreement(StrEnum):
    """How a prediction and an observation relate."""

    AGREE = "agree"
    DISAGREE = "disagree"
    CRASH_PREDICTED = "crash predicted"
    CRASH_UNPREDICTED = "crash unpredicted"
    UNKNOWN = "unknown"  #: the model had no answer
    HAZARD_SURVIVED = "hazard survived"  #: undefined, and this time nothing was seen of it


def predict(
    steps: Sequence[Step],
    payloads: Mapping[str, bytes],
    *,
    image: BootedImage,
    release: Release,
    hv: Hypervisor | None = None,
) -> tuple[Prediction, ...]:
    """Run a job list in a model.

    Args:
        steps: As for :meth:`Machine.run`.
        payloads: Content by key.
        image: The hypervisor as after boot.
        release: Its release.
        hv: The model, which is not asked for its version then; ``None`` for a fresh one.

    Returns:
        One prediction per step, up to and including the first hazard or unknown.
    """
    is_asked = hv is None
    hv = hv or Hypervisor(image, release)
    version, extra = _ask(hv) if is_asked else ("", "")
    found: list[Prediction] = []
    for step in steps:
        try:
            answer = _perform(step, payloads, hv)
            # Asking starts the emulator; with nothing applied the answer is the first one.
            now = _ask(hv) if is_asked and hv.applied else (version, extra)
        except Unknown as unknown:
            found.append(Prediction(unknown=f"{unknown.step}: {unknown.reason}"))
            break
        except Hazard as hazard:
            found.append(Prediction(hazard=f"{hazard.step}: {hazard.reason}"))
            break
        _, status = hv.get(name_bytes(step.name) + b"\0")
        why = status.why if status is not None else ""
        found.append(
            Prediction(
                error=max(0, -answer.code),
                state=status.state.name if status is not None else "",
                rc=status.rc if status is not None else 0,
                version=now[0],
                extra=now[1],
                reason=f"{answer.step}: {answer.reason}" if answer.code < 0 else why,
            )
        )
    return tuple(found)


def _perform(step: Step, payloads: Mapping[str, bytes], hv: Hypervisor) -> hypervisor.Answer:
    name = name_bytes(step.name) + b"\0"
    if step.verb == "upload":
        return hv.upload(name, payloads[step.payload])
    if step.verb in _COMMANDS:
        flags = 1 if "--nodeps" in step.flags else 0
        for timeout_ns in (1, _TIMEOUT_NS) if step.flags == LATE else (_TIMEOUT_NS,):
            answer = hv.action(name, _COMMANDS[step.verb], timeout_ns=timeout_ns, flags=flags)
            hv.run_pending()
            _, status = hv.get(name)
            if answer.code or status is None or status.rc != -EBUSY:
                break
        return answer
    if step.verb in {"list", "extra", *LOADS}:
        return hypervisor.Answer(code=0, step=step.verb)
    raise VerifyError(f"{step.verb}: the model has no answer to it; leave it out of the job list")


def _ask(hv: Hypervisor) -> tuple[str, str]:
    """Return version and extra version; raise the hazard of a function that crashes."""
    answers = [ask(probe, hv, "during") for probe in _PROBES]
    for answer in answers:
        if answer.problem:
            raise Hazard("probe", f"{answer.function}: {answer.problem}")
    major, minor, extra = (answer.found for answer in answers)
    return f"{major}.{minor}", str(extra)[:EXTRA_CHARACTERS_MAX]


def printable(text: str) -> str:
    """Return a text as the agent can print it: a console carries no arbitrary bytes."""
    return "".join(char if " " <= char <= "~" else "?" for char in text)


def compare(
    predicted: Sequence[Prediction], observed: Sequence[StepResult]
) -> tuple[Agreement, str]:
    """Compare a prediction with what happened.

    Args:
        predicted: From :func:`predict`.
        observed: From a run with the hypercall agent.

    Returns:
        The relation, and the first difference in words (empty where they agree).
    """
    for number, (ours, real) in enumerate(zip(predicted, observed, strict=False)):
        where = f"step {number} ({real.step.verb} {real.step.name})"
        if ours.unknown:
            return Agreement.UNKNOWN, f"{where}: {ours.unknown}"
        if ours.hazard:
            # What a broken host answers afterwards means nothing.
            if any(later.outcome != "done" for later in observed):
                return Agreement.CRASH_PREDICTED, f"{where}: {ours.hazard}"
            return Agreement.HAZARD_SURVIVED, f"{where}: {ours.hazard}"
        if real.outcome != "done":
            return Agreement.CRASH_UNPREDICTED, f"{where}: real Xen {real.outcome}"
        pairs = (
            ("error", ours.error, real.error),
            ("state", ours.state, real.state),
            ("rc", ours.rc, real.rc),
            ("version", ours.version, real.version),
            ("extra", printable(ours.extra), printable(real.extra)),
        )
        for what, mine, theirs in pairs:
            if mine != theirs:
                why = f" ({ours.reason})" if ours.reason else ""
                said = f"; console: {real.console[-1]}" if real.console else ""
                text = f"{where}: {what}: model {mine!r}{why}, real Xen {theirs!r}{said}"
                return Agreement.DISAGREE, text
    return Agreement.AGREE, ""
