# SPDX-License-Identifier: Apache-2.0
"""What the agent in dom0 is asked, and what it answers.

The agent's words travel over the hypervisor's console, between the hypervisor's own lines. Each
starts with a mark, so that a line is either the agent's or the console's, and the console's
lines belong to the step during which they were printed.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from xsplice_plugins.errors import VerifyError

MARK = "@xsplice"
READY = f"{MARK} ready"
FINISHED = f"{MARK} finished"

#: Verbs of the real tool that change a payload's state.
ACTIONS = ("apply", "revert", "unload", "replace")
#: Everything the agent understands.
VERBS = ("upload", *ACTIONS, "list", "extra", "build-id", "read")

Outcome = Literal["done", "crashed", "timeout", "not-run"]

_CRASH = re.compile(
    r"\*\*\* DOUBLE FAULT \*\*\*|Panic on CPU|Kernel panic|FATAL (?:TRAP|PAGE FAULT)"
    r"|Xen BUG at|Assertion '.*' failed"
)
_LISTED = re.compile(
    r"^(?P<name>.{1,127}?) *\| (?P<state>[A-Z]+)(?: +\((?P<rc>-?\d+),[^|]*)? *(?:\||$)"
)
_WORD = re.compile(r"[A-Za-z0-9_.+:/@=-]{1,127}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing for the agent to do.

    Attributes:
        verb: One of :data:`VERBS`.
        name: The payload's name inside the hypervisor; for ``read`` a file of sysfs.
        payload: For ``upload``: key into the payloads that are handed over.
        flags: Words passed on to the tool, for example ``--nodeps``.
    """

    verb: str
    name: str = ""
    payload: str = ""
    flags: tuple[str, ...] = ()

    def line(self, number: int, files: Mapping[str, str]) -> str:
        """Return the line of the job list.

        Args:
            number: The step's number, which marks its answer.
            files: Key of each payload to its file name in dom0.

        Raises:
            VerifyError: The verb or a word is not one that the agent can be given.
        """
        if self.verb not in VERBS:
            raise VerifyError(f"step {number}: verb {self.verb!r} is unknown; one of {VERBS}")
        words = [self.name, *self.flags]
        if self.verb == "upload":
            if self.payload not in files:
                raise VerifyError(f"step {number}: payload {self.payload!r} was not handed over")
            words = [self.name, files[self.payload], *self.flags]
        for word in words:
            # The agent is a shell script: nothing that a shell would read may reach it.
            if word and _WORD.match(word) is None:
                raise VerifyError(f"step {number}: {word!r} is not a plain word; rename it")
        return " ".join([str(number), self.verb, *words]).rstrip()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What happened in one step.

    Attributes:
        step: What was asked.
        outcome: ``done``, or why there is no answer.
        status: The tool's exit status.
        error: Error number that the tool named or the hypercall returned, 0 without one.
        state: The payload's state after the step, empty when it is not listed.
        rc: Result of the payload's last action as listed, 0 or negative.
        version: What the hypervisor gave as its version after the step, as ``4.17``.
        extra: What the hypervisor's extra version read after the step.
        tries: How often the step was tried; more than 1 only after a quiesce timeout.
        output: The tool's own lines.
        listed: State of every payload after the step.
        console: Lines the hypervisor or the kernel printed during the step.
    """

    step: Step
    outcome: Outcome
    status: int = 0
    error: int = 0
    state: str = ""
    rc: int = 0
    version: str = ""
    extra: str = ""
    tries: int = 0
    output: tuple[str, ...] = ()
    listed: tuple[tuple[str, str, int], ...] = ()
    console: tuple[str, ...] = ()

    @property
    def accepted(self) -> bool:
        """Tell whether the step was run and the tool was content."""
        return self.outcome == "done" and self.status == 0 and self.error == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What happened in one run of a machine.

    Attributes:
        steps: One result per step asked for.
        restored: Whether a saved machine was used, or a cold boot.
        crash: The console line that told of a crash, empty without one.
        seconds: Wall time from start to end.
        console: Everything the console said, bounded.
    """

    steps: tuple[StepResult, ...]
    restored: bool
    crash: str
    seconds: float
    console: str


def crash_line(line: str) -> str:
    """Return the line when it tells of a crash of the hypervisor or of dom0, else nothing.

    Args:
        line: One console line.
    """
    return line.strip() if _CRASH.search(line) else ""


def parse_listed(lines: Sequence[str]) -> tuple[tuple[str, str, int], ...]:
    """Read ``xen-livepatch list``.

    Args:
        lines: Its output.

    Returns:
        Name, state and rc (0 or negative) of each payload, in the tool's order.
    """
    found = []
    for line in lines:
        match = _LISTED.match(line)
        if match is not None and match["name"].strip() != "ID":
            found.append((match["name"].strip(), match["state"], -abs(int(match["rc"] or 0))))
    return tuple(found)


def parse_error(lines: Sequence[str]) -> int:
    """Return the error number that the tool named, 0 without one.

    Args:
        lines: The tool's output.
    """
    for line in lines:
        match = re.search(r"\bError (-?\d+):", line)
        if match is not None:
            return abs(int(match.group(1)))
    return 0


@dataclass(slots=True)
class _Open:
    """A step that has begun and has not ended."""

    number: int
    output: list[str]
    listed: list[str]
    console: list[str]


def parse_console(text: str, steps: Sequence[Step], *, broken: Outcome) -> tuple[StepResult, ...]:
    """Read the agent's answers out of a console log.

    Args:
        text: The console's text from the ready line on.
        steps: What was asked.
        broken: Outcome of the step that has begun and not ended.

    Returns:
        One result per step, in order.
    """
    results: dict[int, StepResult] = {}
    current: _Open | None = None
    for line in text.replace("\r", "").split("\n"):
        before, mark, rest = line.partition(MARK + " ")
        if not mark:
            if current is not None and line.strip():
                current.console.append(line)
            continue
        if before.strip() and current is not None:
            current.console.append(before)  # the hypervisor was in the middle of a line
        word, _, rest = rest.partition(" ")
        if word == "begin" and rest.isdigit() and int(rest) < len(steps):
            current = _Open(int(rest), [], [], [])
        elif current is not None and word == "out":
            current.output.append(rest)
        elif current is not None and word == "lst":
            current.listed.append(rest)
        elif current is not None and word == "end":
            results[current.number] = _ended(steps[current.number], current, rest)
            current = None
    if current is not None:
        results[current.number] = StepResult(
            step=steps[current.number],
            outcome=broken,
            output=tuple(current.output),
            console=_folded(current.console),
        )
    return tuple(
        results.get(number) or StepResult(step=step, outcome="not-run")
        for number, step in enumerate(steps)
    )


_END = re.compile(
    r"(\d+) status=(\d+) tries=(\d+)"
    r"(?: ret=(?P<ret>-?\d+) state=(?P<state>[A-Z]*) rc=(?P<rc>-?\d+))?"
    r" version=(?P<version>[-0-9.]+) extra=<(?P<extra>.*)>"
)


def _ended(step: Step, current: _Open, rest: str) -> StepResult:
    match = _END.fullmatch(rest)
    if match is None or int(match.group(1)) != current.number:
        raise VerifyError(f"agent in dom0: answer {rest!r} cannot be read; see the console log")
    listed = parse_listed(current.listed)
    if match["ret"] is None:
        state, rc = next(((s, r) for name, s, r in listed if name == step.name), ("", 0))
        error = parse_error(current.output)
    else:
        state, rc = match["state"], int(match["rc"])
        error = max(0, -int(match["ret"]))  # a vetoing hook may return any number
    return StepResult(
        step=step,
        outcome="done",
        status=int(match.group(2)),
        error=error,
        state=state,
        rc=rc,
        version=match["version"],
        extra=match["extra"],
        tries=int(match.group(3)),
        output=tuple(current.output),
        listed=listed,
        console=_folded(current.console),
    )


def _folded(lines: Sequence[str]) -> tuple[str, ...]:
    """Fold repeated lines: a hypervisor that double-faults says one thing for ever."""
    counted = [(line, len(tuple(group))) for line, group in itertools.groupby(lines)]
    return tuple(
        line if count == 1 else f"{line} (repeated {count} times)" for line, count in counted
    )
