#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Payloads that load and are wrong: how many of them the independent check catches, by kind."""

from __future__ import annotations

import argparse
import collections
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.xen.right_payloads import CASES, addresses_of, build, image_of, is_caught, judge
from tests.xen.wrong_payloads import wrong_payloads
from xsplice_plugins import hypervisor


class Loader:
    """Says whether the model takes a payload; nothing of it is run."""

    def __init__(self, tree: Path, release: str) -> None:
        self.release = hypervisor.release(release)
        self.image = hypervisor.boot((tree / "xen/xen-syms").read_bytes(), release=self.release)

    def takes(self, data: bytes) -> bool:
        """Tell whether an upload succeeds."""
        try:
            xen = hypervisor.Hypervisor(self.image, self.release)
            return xen.upload(b"wrong\0", data).accepted
        except hypervisor.Hazard:
            return False


def main() -> int:
    """Run the campaign; 1 if a wrong payload was not caught."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tree", type=Path, required=True)
    parser.add_argument("--each", type=int, default=8, help="of a kind and payload, at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", nargs="*", default=CASES)
    parser.add_argument("--patches", nargs="*", type=Path, help="fixes of your own instead")
    parser.add_argument("--release", default="4.17.5", help="of the tree")
    parser.add_argument("--build", type=Path, help="folder for what is built; kept")
    given = parser.parse_args()
    dice = random.Random(given.seed)  # noqa: S311  # cases, not secrets
    loader = Loader(given.tree, given.release)
    patches: dict[str, Path | None] = dict.fromkeys(given.cases)
    if given.patches:
        patches = {path.stem: path for path in given.patches}
    table: dict[str, collections.Counter[str]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        base = given.build or Path(scratch)
        for case, patch in patches.items():
            built = build(case, given.tree, base / case, patch)
            image = image_of(given.tree, built.facts)
            assert not is_caught(judge(image, built, built.payload)), case
            for wrong in wrong_payloads(built.payload, addresses_of(image), dice, given.each):
                row = table.setdefault(wrong.kind, collections.Counter())
                if not loader.takes(wrong.data):
                    row["refused"] += 1
                    continue
                start = time.perf_counter()
                caught = is_caught(judge(image, built, wrong.data))
                row["time"] += round(1000 * (time.perf_counter() - start))  # milliseconds
                row["caught" if caught else "missed"] += 1
                if not caught:
                    sys.stdout.write(f"MISSED {case}: {wrong.kind}: {wrong.name}\n")
    sys.stdout.write(f"seed {given.seed}\n{'kind':34} caught missed  refused by the loader\n")
    total: collections.Counter[str] = collections.Counter()
    for kind, row in sorted(table.items()):
        sys.stdout.write(f"{kind:34} {row['caught']:6} {row['missed']:6} {row['refused']:8}\n")
        total += row
    sys.stdout.write(f"{'all':34} {total['caught']:6} {total['missed']:6} {total['refused']:8}\n")
    sys.stdout.write(
        f"{total['time'] / max(total['caught'] + total['missed'], 1):.0f} ms a check\n"
    )
    return 1 if total["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
