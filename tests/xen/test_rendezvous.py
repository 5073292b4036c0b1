# SPDX-License-Identifier: Apache-2.0
"""A real Xen on four CPUs, with a dom0 that enters the patched function on each of them meanwhile.

With ``XSPLICE_QEMU=1``; `tests.xen.trees` says which trees are at hand.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from tests.xen.rendezvous import payload_for
from tests.xen.trees import located, tree_like
from xsplice_plugins import hypervisor
from xsplice_plugins.realxen import Machine, Step
from xsplice_plugins.realxen.results import LATE, RunResult
from xsplice_plugins.verify.predict import Agreement, compare, predict

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.xen,
    pytest.mark.qemu,
    pytest.mark.skipif(not os.environ.get("XSPLICE_QEMU"), reason="XSPLICE_QEMU is not set"),
]
CPUS = 4
ROUNDS = 6
RELEASES = [("4.17", True), ("4.20", False), ("4.22", False)]
SAW = re.compile(r"cpu=(\d+) calls=(\d+) answers=([\d.,]*)")
UP, APPLY, REVERT = (Step(verb=verb, name="p") for verb in ("upload", "apply", "revert"))
UP = replace(UP, payload="p")
#: In time, and first without time.
LIVES = [APPLY, REVERT] * ROUNDS + [replace(step, flags=LATE) for step in (APPLY, REVERT)] * ROUNDS


def ask(tree: Path, folder: Path, steps: list[Step]) -> RunResult:
    """Run a job list on four CPUs; the model must have said the same."""
    payloads = {"p": payload_for(tree, folder)}
    release = located(tree).release
    known = hypervisor.release(release)
    image = hypervisor.boot((tree / "xen" / "xen-syms").read_bytes(), release=known)
    machine = Machine.prepare(tree / "xen" / "xen", release=release[:4], cpus=CPUS)
    done = machine.run(steps, payloads, agent="hypercall", console_log=folder / "console.log")
    assert not done.crash, done.console[-2000:]
    said = predict(steps, payloads, image=image, release=known)
    assert compare(said, done.steps) == (Agreement.AGREE, "")
    return done


def seen(done: RunResult) -> tuple[dict[int, int], Counter[str]]:
    """Give how many calls each CPU made, and on how many each answer was seen."""
    rows = [match for line in done.steps[-1].output if (match := SAW.match(line))]
    return (
        {int(row[1]): int(row[2]) for row in rows},
        Counter(answer for row in rows for answer in row[3].split(",")),
    )


@pytest.mark.parametrize(("release", "is_debians"), RELEASES)
def test_a_busy_dom0_on_four_cpus_sees_the_old_function_or_the_new_one(
    release: str, is_debians: bool, tmp_path: Path
) -> None:
    tree = tree_like(release, is_debians=is_debians)
    tail = [Step(verb="unload", name="p"), Step(verb="idle")]
    done = ask(tree, tmp_path, [UP, Step(verb="busy"), *LIVES, *tail])
    late = [step for step in done.steps if step.step.flags]
    assert len(late) == 2 * ROUNDS
    assert sum(step.tries > 1 for step in late) > ROUNDS, "without time CPUs hardly ever meet"
    calls, answers = seen(done)
    assert sorted(calls) == list(range(CPUS))
    assert min(calls.values()) > 0
    assert set(answers) == {release, "4.66"}
    assert answers["4.66"] == CPUS, "each CPU entered the new function"


def test_a_dom0_that_is_not_busy_says_nothing_and_without_apply_sees_the_old_function(
    tmp_path: Path,
) -> None:
    tree = tree_like("4.17", is_debians=True)
    done = ask(tree, tmp_path, [UP, Step(verb="idle")])
    assert seen(done) == ({}, {})
    done = ask(tree, tmp_path, [Step(verb="busy"), UP, Step(verb="idle")])
    assert seen(done)[1] == {"4.17": CPUS}
