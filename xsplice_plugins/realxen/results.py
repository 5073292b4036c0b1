# SPDX-License-Identifier: Apache-2.0
"""What the agent in dom0 is asked, and what it answers.

The agent's words travel over the hypervisor's console, between the hypervisor's own lines. Each
starts with a mark, so that a line is either the agent's or the console's, and the console's
lines belong to the step during which they were printed.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from xsplice_plugins.errors import VerifyError

MARK = "@xsplice"
READY = f"{MARK} ready"
FINISHED = f"{MARK} finished"

#: Verbs of the real tool that change a payload's state.
ACTIONS = ("apply", "revert", "unload", "replace")
#: By raw hypercalls alone: from now on, or no longer, a process on each of dom0's CPUs asks for
#: Xen's version without pause. ``idle`` says on each line what one of them saw.
LOADS = ("busy", "idle")
#: Everything the agent understands.
VERBS = ("upload", *ACTIONS, *LOADS, "list", "extra", "build-id", "read")

#: For actions by raw hypercalls: the time of the first try in ns. In 1 hardly any CPU can come.
FIRST = "--first="
LATE = (f"{FIRST}1",)

Outcome = Literal["done", "crashed", "timeout", "not-run"]

_CRASH = re.compile(
    r"\*\*\* DOUBLE FAULT \*\*\*|Panic on CPU|Kernel panic|FATAL (?:TRAP|PAGE FAULT)"
    r"|Xen BUG at|Assertion '.*' failed|CPU\d+: Unexpected Trap:"
)
_LISTED = re.compile(
    r"^(?P<name>.{1,127}?) *\| (?P<state>[A-Z]+)(?: +\((?P<rc>-?\d+),[^|]*)? *(?:\||$)"
)
_WORD = re.compile(r"[A-Za-z0-9_.+:/@=-]{1,127}\Z")


class Step(Struct, frozen=True, kw_only=True):
    """One thing for the agent to do."""

    verb: str  #: one of `VERBS`
    name: str = ""  #: of the payload inside the hypervisor; for ``read`` a file of sysfs
    payload: str = ""  #: for ``upload``: key into the payloads that are handed over
    flags: tuple[str, ...] = ()  #: words passed on to the tool, for example ``--nodeps``

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


class StepResult(Struct, frozen=True, kw_only=True):
    """What happened in one step, and how things stand after it."""

    step: Step
    outcome: Outcome
    status: int = 0  #: the tool's exit status
    error: int = 0  #: that the tool named or the hypercall returned, positive; 0 without one
    state: str = ""  #: of the payload; "" when it is not listed
    rc: int = 0  #: of the payload's last action as listed, 0 or negative
    version: str = ""  #: what the hypervisor gave as its version, as ``4.17``
    extra: str = ""  #: what the hypervisor's extra version read
    tries: int = 0  #: more than 1 only after a quiesce timeout
    output: tuple[str, ...] = ()  #: the tool's own lines
    listed: tuple[tuple[str, str, int], ...] = ()  #: state of every payload
    console: tuple[str, ...] = ()  #: what hypervisor and kernel printed during the step

    @property
    def accepted(self) -> bool:
        """Tell whether the step was run and the tool was content."""
        return self.outcome == "done" and self.status == 0 and self.error == 0


class RunResult(Struct, frozen=True, kw_only=True):
    """What happened in one run of a machine."""

    steps: tuple[StepResult, ...]  #: one per step asked for
    restored: bool  #: whether a saved machine was used, or a cold boot
    crash: str  #: the console line that told of a crash; "" without one
    console: str  #: everything the console said, bounded
    seconds: float = 0  #: wall time from start to end


def crash_line(line: str) -> str:
    """Return a console's line when it tells of a crash of the hypervisor or dom0, else ""."""
    return line.strip() if _CRASH.search(line) else ""


def parse_listed(lines: Sequence[str]) -> tuple[tuple[str, str, int], ...]:
    """Return name, state and rc (0 or negative) of each payload of ``xen-livepatch list``."""
    return tuple(
        (match["name"].strip(), match["state"], -abs(int(match["rc"] or 0)))
        for match in filter(None, map(_LISTED.match, lines))
        if match["name"].strip() != "ID"
    )


def parse_error(lines: Sequence[str]) -> int:
    """Return the error number that the tool's output names, 0 without one."""
    match = re.search(r"\bError -?(\d+):", "\n".join(lines))
    return int(match[1]) if match else 0


def parse_console(text: str, steps: Sequence[Step], *, broken: Outcome) -> tuple[StepResult, ...]:
    """Read the agent's answers out of a console log.

    Args:
        text: The console's text from the ready line on.
        steps: What was asked.
        broken: Outcome of the step that has begun and not ended.

    Returns:
        One result per step, in order.
    """
    results = [StepResult(step=step, outcome="not-run") for step in steps]
    number = -1  # of the step that has begun and has not ended
    said: dict[str, list[str]] = {}
    for line in text.replace("\r", "").split("\n"):
        before, mark, rest = line.partition(MARK + " ")
        if before.strip() and number >= 0:  # the mark may come in the middle of a line
            said["console"].append(before)
        word, _, rest = rest.partition(" ")
        if word == "begin" and rest.isdigit() and int(rest) < len(steps):
            number, said = int(rest), {"out": [], "lst": [], "console": []}
            results[number] = StepResult(step=steps[number], outcome=broken)
        elif number >= 0 and mark and word in {"out", "lst"}:
            said[word].append(rest)
        elif number >= 0 and word == "end":
            results[number] = _ended(steps[number], number, said, rest)
            number = -1
    if number >= 0:
        output, lines = tuple(said["out"]), _folded(said["console"])
        results[number] = replace(results[number], output=output, console=lines)
    return tuple(results)


_END = re.compile(
    r"(\d+) status=(\d+) tries=(\d+)"
    r"(?: ret=(?P<ret>-?\d+) state=(?P<state>[A-Z]*) rc=(?P<rc>-?\d+))?"
    r" version=(?P<version>[-0-9.]+) extra=<(?P<extra>.*)>"
)


def _ended(step: Step, number: int, said: Mapping[str, Sequence[str]], rest: str) -> StepResult:
    match = _END.fullmatch(rest)
    if match is None or int(match[1]) != number:
        raise VerifyError(f"agent in dom0: answer {rest!r} cannot be read; see the console log")
    listed = parse_listed(said["lst"])
    if match["ret"] is None:
        state, rc = next(((s, r) for name, s, r in listed if name == step.name), ("", 0))
        error = parse_error(said["out"])
    else:
        state, rc = match["state"], int(match["rc"])
        error = max(0, -int(match["ret"]))  # a vetoing hook may return any number
    return StepResult(
        step=step,
        outcome="done",
        status=int(match[2]),
        error=error,
        state=state,
        rc=rc,
        version=match["version"],
        extra=match["extra"],
        tries=int(match[3]),
        output=tuple(said["out"]),
        listed=listed,
        console=_folded(said["console"]),
    )


def _folded(lines: Sequence[str]) -> tuple[str, ...]:
    """Fold repeated lines: a hypervisor that double-faults says one thing for ever."""
    counted = [(line, len(tuple(group))) for line, group in itertools.groupby(lines)]
    return tuple(
        line if count == 1 else f"{line} (repeated {count} times)" for line, count in counted
    )
