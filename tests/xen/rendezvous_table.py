# SPDX-License-Identifier: Apache-2.0
"""How often a real Xen's CPUs do not meet in time: one row for each time and load.

``python tests/xen/rendezvous_table.py --tree TREE --cpus 4 --rounds 100``
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.xen.rendezvous import payload_for
from xsplice_plugins.kbuild.tree import locate_tree
from xsplice_plugins.realxen import Machine, Step
from xsplice_plugins.realxen.results import FIRST, RunResult

TIMES_NS = (300_000_000, 30_000_000, 1_000_000, 1)


def steps_of(rounds: int, time_ns: int, *, is_busy: bool) -> list[Step]:
    """Give a job list: so many times apply and revert, each with that time at first."""
    up = Step(verb="upload", name="p", payload="p")
    flags = (f"{FIRST}{time_ns}",)
    pair = [Step(verb=verb, name="p", flags=flags) for verb in ("apply", "revert")]
    load = [Step(verb="busy")] if is_busy else []
    return [up, *load, *pair * rounds, *([Step(verb="idle")] if is_busy else [])]


def row_of(done: RunResult) -> str:
    """Say how many first tries did not do it, how many tries it took at most, and what failed."""
    tried = [step for step in done.steps if step.step.flags]
    ended = [step for step in tried if step.outcome == "done"]
    late = sum(step.tries > 1 for step in ended)
    most = max((step.tries for step in ended), default=0)
    stayed = sum(step.rc != 0 for step in ended)
    return f"{late} of {len(ended)} | {most} | {stayed} | {done.crash or len(tried) - len(ended)}"


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tree", type=Path, required=True)
    parser.add_argument("--cpus", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--cold", action="store_true", help="boot in place of restoring")
    given = parser.parse_args()
    release = locate_tree(given.tree).release
    xen = given.tree / "xen" / "xen"
    machine = Machine.prepare(xen, release=release[:4], cpus=given.cpus)
    with tempfile.TemporaryDirectory() as folder:
        payloads = {"p": payload_for(given.tree, Path(folder))}
    print("Xen | CPUs | dom0 | first time | not met | most tries | still -EBUSY | not ended")  # noqa: T201
    for is_busy, time_ns in product((False, True), TIMES_NS):
        steps = steps_of(given.rounds, time_ns, is_busy=is_busy)
        done = machine.run(steps, payloads, agent="hypercall", cold=given.cold)
        load = "busy" if is_busy else "idle"
        row = f"{release} | {given.cpus} | {load} | {time_ns} ns | {row_of(done)}"
        print(row, flush=True)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
