#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Hold every accepted regression hot-patch against a full rebuild, and print the table.

A tree is made once for each, about ten seconds and more where a header is patched:
``tests/xen/rebuild_table.py --tree TREE [NAME...]``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.kit.build import ROOT, scons
from xsplice_plugins.kbuild.tree import locate_tree

FOLDER = ROOT / "xen-patches" / "regression"
FIGURES = re.compile(
    r"^  whole: (\d+) of \d+ objects made again, (\d+) differ.*?"
    r"(\d+) replaced and (\d+) untouched",
    re.MULTILINE,
)


def accepted(release: str) -> list[str]:
    """Return the names of the accepted hot-patches of a release, for example ``4.17``."""
    return sorted(
        path.parent.name
        for path in (FOLDER / release).glob("*/expected.json")
        if json.loads(path.read_text())["verdict"] == "accepted"
    )


def main() -> int:
    """Print one row for each; the status is 1 if one of them is not proved."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tree", type=Path, required=True, help="a built Xen tree")
    parser.add_argument("names", nargs="*", help="hot-patches; default: all of the release")
    arguments = parser.parse_args()
    release = ".".join(locate_tree(arguments.tree).release.split(".")[:2])
    print("hot-patch | made again | differ | replaced | untouched | seconds | verdict")  # noqa: T201
    failed = 0
    with tempfile.TemporaryDirectory(prefix="xsplice-rebuild-") as build:
        for name in arguments.names or accepted(release):
            start = time.perf_counter()
            run = scons(
                "xsplice-verify", Path(build), XEN=arguments.tree.absolute(), NAME=name,
                PATCH=FOLDER / release / name / "fix.patch", SIGNER="none", ON="model,rebuild",
            )  # fmt: skip
            took = time.perf_counter() - start
            found = FIGURES.search(run.text)
            figures = found.groups() if found else ("-",) * 4
            verdict = re.search(r"^(PROVED|UNPROVED|REFUSED|HAZARD)", run.text, re.MULTILINE)
            words = verdict[1] if verdict else f"status {run.status}"
            print(" | ".join((name, *figures, f"{took:.0f}", words)), flush=True)  # noqa: T201
            failed += run.status != 0
            if run.status:
                print(run.text[-2000:])  # noqa: T201
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
