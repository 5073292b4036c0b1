# SPDX-License-Identifier: Apache-2.0
"""The subcommand that tries payloads on a real Xen: ``xsplice try --boot F PAYLOAD...``.

For each payload: upload, apply, revert, unload, with the extra version read in between; all in
one boot. A payload that crashes the machine ends that boot; the rest run on a fresh one.
"""

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from xsplice_plugins.artefacts import read_file
from xsplice_plugins.commands.words import Row, show
from xsplice_plugins.errors import ConfigError, VerifyError
from xsplice_plugins.realxen.machine import AgentKind, Machine
from xsplice_plugins.realxen.results import RunResult, Step, StepResult
from xsplice_plugins.realxen.session import signals_as_interrupt


def cycle(name: str, key: str) -> tuple[Step, ...]:
    """Return the steps that load one payload and take it off again."""
    return (
        Step(verb="upload", name=name, payload=key),
        Step(verb="apply", name=name),
        Step(verb="revert", name=name),
        Step(verb="unload", name=name),
    )


def try_each(
    machine: Machine, payloads: dict[str, bytes], log: Path | None, agent: AgentKind | None
) -> list[RunResult]:
    """Run every payload's cycle; one that crashes or stays loaded ends that boot."""
    left = list(payloads)
    results = []
    while left:
        steps = [step for key in left for step in cycle(key, key)]
        run = machine.run(steps, payloads, console_log=log, agent=agent)
        spoiled = [
            number
            for number, step in enumerate(run.steps)
            if step.outcome != "done" or (step.step.verb == "unload" and step.state)
        ]
        count = spoiled[0] // 4 + 1 if spoiled else len(left)
        results.append(replace(run, steps=run.steps[: count * 4]))
        left = left[count:]
    return results


def row(result: StepResult) -> str:
    """Return one line of the table."""
    what = f"{result.step.name:32} {result.step.verb:8}"
    if result.outcome != "done":
        return f"{what} {result.outcome.upper()}"
    error = f"error {result.error}" if result.error else ""
    verdict = "ok" if result.accepted else "REFUSED"
    text = f"{what} {verdict:8} {error:9} {result.state:8} rc={result.rc:<4} extra={result.extra!r}"
    return text + (f" tries={result.tries}" if result.tries > 1 else "")


def _add_try(parser: ArgumentParser) -> None:
    parser.add_argument("--boot", type=Path, required=True, help="the image that boots: xen/xen")
    parser.add_argument("--tool-release", default="4.17", help="whose xen-livepatch to use")
    parser.add_argument("--console-log", type=Path, help="where to keep what the console said")
    parser.add_argument("--agent", choices=("tool", "hypercall"), help="who speaks to Xen in dom0")
    parser.add_argument("--mirror", default="", help="Debian archive to use")
    parser.add_argument("payloads", nargs="*", type=Path, metavar="PAYLOAD")


def _try(arguments: Namespace) -> int:
    """Run every payload's life; a signal leaves no machine behind."""
    with signals_as_interrupt():
        return _try_all(arguments)


def _try_all(arguments: Namespace) -> int:
    payloads = {}
    for path in arguments.payloads:
        if path.stem in payloads:
            raise ConfigError(f"{path}: two payloads are called {path.stem}; rename one")
        payloads[path.stem] = read_file(path)
    read_file(arguments.boot)
    machine = Machine.prepare(
        arguments.boot,
        release=arguments.tool_release,
        mirror=arguments.mirror,
        say=lambda text: print(text, file=sys.stderr),  # noqa: T201  # this is a command
    )
    results = try_each(machine, payloads, arguments.console_log, arguments.agent)
    if arguments.json:
        shown = [
            {key: value for key, value in msgspec.to_builtins(r).items() if key != "console"}
            for r in results
        ]
        show(json.dumps(shown, indent=2) + "\n")
    else:
        _print_table(results)
    is_good = all(step.accepted for run in results for step in run.steps)
    return 0 if is_good else VerifyError.exit_status


def _print_table(results: Sequence[RunResult]) -> None:
    for run in results:
        for step in run.steps:
            if step.outcome == "not-run":
                continue
            sys.stdout.write(row(step) + "\n")
            for line in step.console:
                sys.stdout.write(f"    {line}\n")
            if not step.accepted:
                for line in step.output:
                    sys.stdout.write(f"    tool: {line}\n")
        how = "restored" if run.restored else "cold boot"
        crash = f"; CRASH: {run.crash}" if run.crash else ""
        sys.stdout.write(f"-- {how}, {run.seconds:.1f} s{crash}\n")


COMMANDS: tuple[Row, ...] = (
    ("try", "boot a real Xen under QEMU and try payloads on it", _add_try, _try),
)
