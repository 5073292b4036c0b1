# SPDX-License-Identifier: Apache-2.0
"""Apply the classes of `differ_mutations` to a real tree and hold the differ to the oracle.

Run by hand for the published table::

    python -m tests.xen.differ_campaign TREE FOLDER EDITS_PER_CLASS [CLASS ...] > table.md
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.xen.differ_mutations import CLASSES, Edit, MutationClass
from tests.xen.differ_oracle import differing
from tests.xen.differ_pairs import EditedTree
from xsplice_plugins.diff.differ import diff_objects
from xsplice_plugins.diff.parts import source_name
from xsplice_plugins.plugins.spec import Config

if TYPE_CHECKING:
    from xsplice_plugins.artefacts import Delta

FILES = (
    "common/domain.c",
    "common/event_channel.c",
    "common/memory.c",
    "common/timer.c",
    "common/rangeset.c",
    "common/sched/core.c",
    "common/sched/credit2.c",
    "common/domctl.c",
    "common/page_alloc.c",
    "common/keyhandler.c",
    "arch/x86/mm/p2m.c",
    "arch/x86/hvm/vlapic.c",
    "arch/x86/hvm/hpet.c",
    "arch/x86/irq.c",
    "arch/x86/msi.c",
    "arch/x86/time.c",
    "drivers/char/console.c",
    "drivers/passthrough/pci.c",
    "common/vsprintf.c",
    "common/kernel.c",
    "arch/x86/hvm/mtrr.c",
    "arch/x86/hvm/vmx/vvmx.c",
    "arch/x86/cpu/vpmu_amd.c",
    "arch/x86/hvm/hvm.c",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one edit."""

    mutation: str
    source: str
    function: str
    verdict: str  #: one of the table's columns
    detail: str = ""
    is_spread: bool = False  #: more functions than the edited one changed


#: Judges one edit; None if it does not compile.
Judge = Callable[[EditedTree, MutationClass, str, Edit], "Outcome | None"]
COLUMNS = ("exact", "refused", "no code", "missed", "over")


def judge(tree: EditedTree, mutation: MutationClass, source: str, edit: Edit) -> Outcome | None:
    """Compile one edit, compare, and hold the answer to the oracle; None if it does not compile."""
    try:
        data = tree.compile(source, {source: edit.text})
    except ValueError:
        return None
    before = (tree.tree / source).with_suffix(".o")
    after = tree.out / (source.replace("/", "_") + ".o")
    delta = diff_objects(
        before.read_bytes(),
        data,
        object_path=source[:-1] + "o",
        source_path=source,
        config=Config(),
    )
    verdict, detail = _verdict(delta, mutation.expects, differing(before, after))
    names = {source_name(c.symbol) for c in delta.changed}
    return Outcome(
        mutation=mutation.name,
        source=source,
        function=edit.function,
        verdict=verdict,
        detail=detail,
        is_spread=bool(names - {edit.function}),
    )


def _verdict(delta: Delta, expects: str, oracle: set[str]) -> tuple[str, str]:
    plain = {r.code: r.name.split("#")[-1] for r in (*delta.refused, *delta.boot)}
    reported = {source_name(c.symbol) for c in delta.changed}
    reported |= {source_name(n.symbol) for n in delta.new if n.kind == "function"}
    reported |= {source_name(r.name.split("#")[-1]) for r in delta.removed}
    reported |= {source_name(r.name.split("#")[-1]) for r in (*delta.refused, *delta.boot)}
    reported.discard("")
    if expects == "table":
        done = bool(delta.refused or delta.new or delta.changed)
        if not done and oracle:
            return "missed", f"missed {sorted(oracle)}"
        return ("exact" if done else "no code"), ""
    if expects != "functions":
        if expects in plain:
            return "refused", ""
        return (
            "missed" if oracle else "no code"
        ), f"codes {sorted(plain)}, oracle {sorted(oracle)}"
    data_names = {source_name(n.symbol) for n in delta.new if n.kind != "function"}
    missed = oracle - reported
    over = reported - oracle - data_names - _data_removed(delta)
    if missed:
        return "missed", f"missed {sorted(missed)}"
    if over:
        return "over", f"over {sorted(over)}, refused {sorted(plain.items())}"
    return ("exact" if oracle else "no code"), ""


def _data_removed(delta: Delta) -> set[str]:
    changed = {source_name(c.symbol) for c in delta.changed}
    return {source_name(r.name.split("#")[-1]) for r in delta.removed} - changed


def campaign(
    tree: EditedTree,
    per_class: int,
    names: tuple[str, ...] = (),
    judged: Judge = judge,
) -> list[Outcome]:
    """Judge up to ``per_class`` compiling edits of every class (or the named), over the files."""
    files = FILES
    outcomes = []
    for number, mutation in enumerate(CLASSES):
        if names and mutation.name not in names:
            continue
        done = 0
        tried = 0
        order = files[number % len(files) :] + files[: number % len(files)]
        pools = [(source, list(mutation.edits(tree.text(source)))) for source in order]
        for turn in range(max((len(p) for _, p in pools), default=0)):
            for source, pool in pools:
                if turn >= len(pool) or done >= per_class or tried > 3 * per_class:
                    continue
                tried += 1
                # Not the first functions only: step through the file.
                edit = pool[(turn * 7 + number) % len(pool)]
                outcome = judged(tree, mutation, source, edit)
                if outcome is not None:
                    outcomes.append(outcome)
                    done += 1
    return outcomes


def table(outcomes: list[Outcome], columns: tuple[str, ...] = COLUMNS) -> str:
    """Return the published table."""
    lines = [
        "| class of edit | edits | " + " | ".join(columns) + " | reached further functions |",
        "|---|" + "---:|" * (len(columns) + 2),
    ]
    total: Counter[str] = Counter()
    spread_total = 0
    for mutation in CLASSES:
        rows = [o for o in outcomes if o.mutation == mutation.name]
        counts = Counter(o.verdict for o in rows)
        spread = sum(o.is_spread for o in rows)
        total.update(counts)
        spread_total += spread
        cells = " | ".join(str(counts[c]) for c in columns)
        lines.append(f"| {mutation.name} | {len(rows)} | {cells} | {spread} |")
    cells = " | ".join(f"**{total[c]}**" for c in columns)
    lines.append(f"| **all** | **{len(outcomes)}** | {cells} | **{spread_total}** |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Run the campaign and write the table; failures go to standard error."""
    tree = EditedTree(Path(arguments[0]), Path(arguments[1]))
    outcomes = campaign(tree, int(arguments[2]), tuple(arguments[3:]))
    sys.stdout.write(table(outcomes))
    bad = [o for o in outcomes if o.verdict in ("missed", "over")]
    for outcome in bad:
        text = f"{outcome.mutation}: {outcome.source} {outcome.function}: {outcome.detail}\n"
        sys.stderr.write(re.sub(r"\s+", " ", text) + "\n")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
