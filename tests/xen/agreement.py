#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Ask the model and a real Xen the same questions, and count where they agree.

Cases are mutations of valid payloads and random sequences of operations on unmodified ones. The
seed is printed; ``--case NAME`` replays one case and shows both sides step by step.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.xen.mutations import mutations
from xsplice_plugins import hypervisor
from xsplice_plugins.cache import cache_folder, locked
from xsplice_plugins.errors import XspliceError
from xsplice_plugins.realxen import Machine, Step, StepResult
from xsplice_plugins.realxen.platforms import X86_64, Platform
from xsplice_plugins.system import debian
from xsplice_plugins.verify.predict import Agreement, Prediction, compare, predict

BATCH = 150
SEQUENCE_STEPS = 14
#: A batch that says nothing for so long hangs.
BASE_SECONDS, CASE_SECONDS = 20.0, 0.3
#: These hold an address of their own build, which is in the middle of something in another.
ABSOLUTE_BASES = ("xen_nop", "xen_no_xen_buildid")
BAD = (Agreement.DISAGREE, Agreement.CRASH_UNPREDICTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One question: payloads and what to do with them."""

    name: str
    steps: tuple[Step, ...]
    payloads: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a case came to."""

    case: Case
    agreement: Agreement
    text: str
    predicted: tuple[Prediction, ...]
    observed: tuple[StepResult, ...]


def cycle(case: str, payload: bytes) -> Case:
    """Return the case of one payload's whole life, with a second revert for vetoing hooks."""
    steps = [Step(verb="upload", name="x", payload="x")]
    steps += [Step(verb=verb, name="x") for verb in ("apply", "revert", "revert", "unload")]
    return Case(name=case, steps=tuple(steps), payloads=(("x", payload),))


def sequence(number: int, seed: int, bases: dict[str, bytes]) -> Case:
    """Return a random sequence of operations on unmodified payloads."""
    dice = random.Random(f"{seed}-{number}")  # noqa: S311  # cases, not secrets
    chosen = dice.sample(sorted(bases), 3)
    steps = [Step(verb="upload", name=name, payload=name) for name in chosen]
    verbs = ("apply", "apply", "apply", "revert", "revert", "replace", "unload", "upload")
    for _ in range(SEQUENCE_STEPS):
        name, verb = dice.choice(chosen), dice.choice(verbs)
        flags = ("--nodeps",) if verb == "apply" and not dice.randrange(4) else ()
        payload = dice.choice(chosen) if verb == "upload" else ""
        steps.append(Step(verb=verb, name=name, payload=payload, flags=flags))
    payloads = tuple((name, bases[name]) for name in chosen)
    return Case(name=f"sequence:{seed}:{number}", steps=tuple(steps), payloads=payloads)


def clean_up(case: Case) -> list[Step]:
    """Return steps that leave nothing loaded, whatever the case did, and show that."""
    names = sorted({step.name for step in case.steps if step.name})
    steps = [Step(verb="revert", name=name) for _ in names for name in names]
    return [*steps, *(Step(verb="unload", name=name) for name in names), Step(verb="list")]


def all_cases(bases: dict[str, bytes]) -> Iterator[Case]:
    """Give every mutation of every base, in a fixed order."""
    for base, data in sorted(bases.items()):
        yield cycle(f"{base}:unmodified", data)
        for name, mutated in mutations(data):
            yield cycle(f"{base}:{name}", mutated)


def predicted_of(
    case: Case, image: hypervisor.Image, release: hypervisor.Release
) -> tuple[Prediction, ...]:
    """Ask the model; where it fails instead of answering, that is its answer."""
    try:
        return predict(case.steps, dict(case.payloads), image=image, release=release)
    except Exception as error:  # noqa: BLE001  # whatever it is, the model is wrong
        return (Prediction(error=-1, reason=f"the model failed: {error!r}"),)


def run_batch(machine: Machine, cases: Sequence[Case]) -> tuple[list[tuple[StepResult, ...]], bool]:
    """Run cases one after another in one boot.

    Returns:
        Results of the cases that ran on a clean machine, and whether the machine was restored.
    """
    steps: list[Step] = []
    payloads: dict[str, bytes] = {}
    spans = []
    for number, case in enumerate(cases):
        payloads |= {f"{number}-{key}": data for key, data in case.payloads}
        begin = len(steps)
        for step in (*case.steps, *clean_up(case)):
            key = f"{number}-{step.payload}" if step.payload else ""
            steps.append(Step(verb=step.verb, name=step.name, payload=key, flags=step.flags))
        spans.append((begin, begin + len(case.steps), len(steps)))
    bound = BASE_SECONDS + CASE_SECONDS * len(cases)
    run = machine.run(steps, payloads, agent="hypercall", timeout_seconds=bound)
    found = []
    for begin, end, clean in spans:
        found.append(run.steps[begin:end])
        last = run.steps[clean - 1]
        if last.outcome != "done" or last.listed:
            break
    return found, run.restored


def judge_prefix(
    machine: Machine, case: Case, predicted: tuple[Prediction, ...]
) -> tuple[Agreement, str]:
    """Judge a case that stopped answering before its end, by the steps before the last one alone.

    The last one is a hazard, or depends on what only a host knows.

    A hypervisor that hangs takes its last words along: they are still in its transmit buffer.
    """
    calm = Case(name=case.name, steps=case.steps[: len(predicted) - 1], payloads=case.payloads)
    ((observed, *_), _) = run_batch(machine, [calm])
    agreement, text = compare(predicted[:-1], observed)
    last = predicted[-1]
    if agreement is Agreement.AGREE:
        met = Agreement.CRASH_PREDICTED if last.hazard else Agreement.UNKNOWN
        return met, f"its last words are lost: {last.hazard or last.unknown}"
    return agreement, text


def judge(
    machine: Machine, cases: Sequence[tuple[Case, tuple[Prediction, ...]]], *, batch: int
) -> Iterator[Outcome]:
    """Run cases on the real Xen and compare."""
    left = list(cases)
    while left:
        found, _ = run_batch(machine, [case for case, _ in left[:batch]])
        for (case, predicted), observed in zip(left, found, strict=False):
            agreement, text = compare(predicted, observed)
            is_open = bool(predicted[-1].hazard or predicted[-1].unknown)
            if agreement is Agreement.CRASH_UNPREDICTED and is_open:
                agreement, text = judge_prefix(machine, case, predicted)
            yield Outcome(
                case=case,
                agreement=agreement,
                text=text,
                predicted=predicted,
                observed=tuple(observed),
            )
        left = left[len(found) :]


def show(outcome: Outcome) -> None:
    """Print both sides of a case."""
    print(f"{outcome.case.name}: {outcome.agreement} {outcome.text}")  # noqa: T201  # a command
    for number, real in enumerate(outcome.observed):
        ours = outcome.predicted[number] if number < len(outcome.predicted) else None
        said = "-" if ours is None else f"{ours.error} {ours.state} {ours.rc} {ours.extra!r}"
        if ours is not None and (ours.hazard or ours.unknown or ours.reason):
            said += f" [{ours.hazard or ours.unknown or ours.reason}]"
        seen = f"{real.outcome} {real.error} {real.state} {real.rc} {real.extra!r}"
        print(f"  {real.step.verb:8}{real.step.name}\n    model {said}\n    real  {seen}")  # noqa: T201
        for line in real.console:
            print(f"      {line}")  # noqa: T201


def read_bases(tree: Path, extra: Sequence[Path]) -> dict[str, bytes]:
    """Read the payloads that cases are made from."""
    folder = tree / "xen" / "test" / "livepatch"
    paths = [*sorted(folder.glob("*.livepatch")), *extra]
    return {path.stem: path.read_bytes() for path in paths}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The hypervisor that both sides are asked about."""

    xen: Path
    syms: bytes
    release: str


def debian_target(line: str, cache: Path, machine: Platform = X86_64) -> Target:
    """Fetch the hypervisor that Debian ships, with its symbols.

    Args:
        line: The Xen release, for example ``4.20``.
        cache: The user's cache folder.
        machine: What it runs on.
    """
    folder = cache / "shipped" / f"{line}{machine.suffix}"
    suite = debian.suite_of(line)
    own = cache / "apt" / f"{suite}{machine.suffix}"
    with locked(own):
        if not (folder / "package").is_file():
            sources = debian.choose_sources(debian.system_sources(), suite=suite)
            apt = debian.open_apt(own, sources, architecture=machine.debian)
            name = f"xen-hypervisor-{line}-{machine.debian}"
            packages = debian.unpack_packages(apt, [name, f"{name}-dbg"], folder)
            (folder / "package").write_text(packages[0])
    syms = (folder / "usr/lib/debug/boot" / f"xen-syms-{line}-{machine.debian}").read_bytes()
    version = (folder / "package").read_text().split("_")[1].split("+")[0]
    names = (f"xen-{line}-{machine.debian}{ending}" for ending in (".gz", ""))  # arm64: as it is
    xen = next(path for name in names if (path := folder / "boot" / name).is_file())
    return Target(xen=xen, syms=syms, release=version)


def rebased(bases: dict[str, bytes], *, old: bytes | None, new: bytes | None) -> dict[str, bytes]:
    """Make payloads of one build pass for payloads of another; symbols are found by name."""
    if old is None or new is None or old == new:
        return bases
    return {
        name: data.replace(old, new) for name, data in bases.items() if name not in ABSOLUTE_BASES
    }


def choose(args: argparse.Namespace, bases: dict[str, bytes]) -> list[Case]:
    """Return the cases of this run."""
    if args.case and args.case.startswith("sequence:"):
        _, seed, number = args.case.split(":")
        return [sequence(int(number), int(seed), bases)]
    if args.case:
        found = [case for case in all_cases(bases) if case.name == args.case]
        if not found:
            raise XspliceError(f"{args.case}: there is no such case; see --json for names")
        return found
    # Counted first and made again: all of them at once would not fit into memory.
    total = sum(1 for _ in all_cases(bases))
    dice = random.Random(args.seed)  # noqa: S311  # as above
    numbers = set(dice.sample(range(total), min(args.count, total)))
    chosen = [
        case
        for number, case in enumerate(all_cases(bases))
        if number in numbers or case.name.endswith(":unmodified")
    ]
    return chosen + [sequence(number, args.seed, bases) for number in range(args.sequences)]


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tree", type=Path, default=os.environ.get("XSPLICE_XEN_TREE"))
    parser.add_argument("--debian", help="ask about the Xen that Debian ships: 4.17 or 4.20")
    parser.add_argument("--release", default="4.17.5", help="release of the tree")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=2000, help="mutations to try")
    parser.add_argument("--sequences", type=int, default=200, help="sequences to try")
    parser.add_argument("--hazards-max", type=int, default=100, help="one boot each")
    parser.add_argument("--case", help="replay one case and show both sides")
    parser.add_argument("--json", type=Path, help="write every case's outcome, one a line")
    parser.add_argument("payloads", nargs="*", type=Path, help="more payloads to start from")
    args = parser.parse_args(argv)
    if args.tree is None:
        parser.error("no Xen tree: give --tree or set XSPLICE_XEN_TREE")
    return args


def main(argv: Sequence[str]) -> int:
    """Run the agreement suite."""
    args = arguments(argv)
    say = sys.stdout.write
    try:
        folder = Path(args.tree) / "xen"
        target = built = Target(
            xen=folder / "xen", syms=(folder / "xen-syms").read_bytes(), release=args.release
        )
        if args.debian:
            target = debian_target(args.debian, cache_folder(os.environ))
        release = hypervisor.release(target.release)
        image = hypervisor.boot(target.syms, release=release)
        own = hypervisor.boot(built.syms, release=hypervisor.release(args.release))
        machine = Machine.prepare(target.xen, release=".".join(target.release.split(".")[:2]))
        bases = read_bases(Path(args.tree), args.payloads)
        cases = choose(args, rebased(bases, old=own.build_id, new=image.build_id))
        began = time.monotonic()
        judged = [(case, predicted_of(case, image, release)) for case in cases]
        modelled = time.monotonic()
        calm = [pair for pair in judged if not any(step.hazard or step.unknown for step in pair[1])]
        risky = [pair for pair in judged if any(step.hazard or step.unknown for step in pair[1])]
        outcomes = list(judge(machine, calm, batch=BATCH))
        batched = time.monotonic()
        outcomes += judge(machine, risky[: args.hazards_max], batch=1)
    except XspliceError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    except KeyboardInterrupt:
        sys.stderr.write("agreement: interrupted; nothing was compared to the end\n")
        return 130
    if args.json is not None:
        args.json.write_text(
            "".join(json.dumps([o.case.name, o.agreement, o.text]) + "\n" for o in outcomes)
        )
    if args.case:
        for outcome in outcomes:
            show(outcome)
    for outcome in outcomes:
        if outcome.agreement in BAD:
            say(f"{outcome.agreement}: {outcome.case.name}\n    {outcome.text}\n")
    table = collections.Counter(outcome.agreement for outcome in outcomes)
    say(f"seed {args.seed}, Xen {target.release}, {len(outcomes)} cases\n")
    for agreement in Agreement:
        say(f"  {agreement.value:20}{table[agreement]:7}\n")
    left_out = max(0, len(risky) - args.hazards_max)
    if left_out:
        say(f"  {'hazards left out':20}{left_out:7}  (--hazards-max)\n")
    say(
        f"  model {modelled - began:.1f} s; real Xen {len(calm)} cases in batches "
        f"{batched - modelled:.1f} s, hazards {time.monotonic() - batched:.1f} s\n"
    )
    return 1 if any(outcome.agreement in BAD for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
