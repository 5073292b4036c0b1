#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Fixes of Xen's stable branches on bases of each release: the verdict, and what real Xen says.

    release_table.py --clone ~/xen --row 4.20.0=RELEASE-4.20.0..staging-4.20 --count 10

For each row (a base's name, and commits of the clone) commits that touch C files and headers only
and apply cleanly are taken at even distances; each goes through ``xsplice patch --verify``. The
accepted payloads are loaded, applied, reverted and unloaded by a real Xen of that release. Nothing
of the clone is kept but commit numbers and verdicts; the table goes to the standard output.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from xsplice_plugins.bases.store import load_base, tree_of

ROOT = Path(__file__).resolve().parents[2]
WORDS = {0: "PROVED", 2: "error", 3: "no change", 4: "refused", 5: "UNPROVED", 6: "machine"}
_CODE = re.compile(r"\[([A-Z]+(?:_[A-Z]+)*)\]")


@dataclass(kw_only=True)
class Fix:
    """One commit on one base."""

    commit: str
    subject: str
    status: int = -1
    why: str = ""
    real: str = ""
    payload: Path | None = field(default=None, repr=False)


def run(*command: object, **more: object) -> subprocess.CompletedProcess[str]:
    """Run a program and keep what it says."""
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload,no-any-return]


def candidates(clone: Path, span: str, tree: Path, folder: Path, count: int) -> list[Fix]:
    """Return commits that apply, at even distances; their diffs lie in the folder."""
    lines = run("git", "-C", clone, "log", "--no-merges", "--reverse", "--format=%H %s", span,
                "--", "xen/common", "xen/arch/x86", "xen/drivers", "xen/xsm").stdout  # fmt: skip
    good = []
    for line in lines.splitlines():
        commit, _, subject = line.partition(" ")
        diff = run("git", "-C", clone, "show", "--format=", commit, "--", "xen").stdout
        names = re.findall(r"^\+\+\+ (\S+)", diff, re.MULTILINE)
        if not names or not all(name.endswith((".c", ".h")) for name in names):
            continue
        if "arch/arm" in diff and "arch/x86" not in diff and "common/" not in diff:
            continue
        patch = folder / f"{commit[:12]}.patch"
        patch.write_text(diff)
        dry = ("patch", "-p1", "--dry-run", "--fuzz=0", "--force", "-d", tree, "-i", patch)
        if run(*dry).returncode == 0:
            good.append(Fix(commit=commit[:12], subject=subject))
    step = max(1, len(good) // count)
    return good[::step][:count]


def build(fix: Fix, base: str, folder: Path) -> None:
    """Make and prove the payload of a commit."""
    out = folder / "out"
    words = ("patch", folder / f"{fix.commit}.patch", "--xen", f"base:{base}", "--verify")
    ended = run(sys.executable, "-m", "xsplice_plugins", *words, "--out", out, cwd=ROOT)
    fix.status = ended.returncode
    said = ended.stdout + ended.stderr
    fix.why = ", ".join(dict.fromkeys(_CODE.findall(said)))
    payload = out / f"{fix.commit}.livepatch"
    fix.payload = payload if payload.is_file() and fix.status == 0 else None
    (folder / f"{fix.commit}.log").write_text(said)


def ask_real_xen(fixes: list[Fix], base: str, tree: Path) -> None:
    """Let a real Xen of the release load, apply, revert and unload each payload."""
    mine = [fix for fix in fixes if fix.payload]
    if not mine:
        return
    line = ".".join(load_base(base).release.split(".")[:2])
    words = ("try", "--json", "--boot", tree / "xen" / "xen", "--tool-release", line)
    payloads = [fix.payload for fix in mine]
    ended = run(sys.executable, "-m", "xsplice_plugins", *words, *payloads, cwd=ROOT)
    steps: dict[str, list[dict[str, object]]] = {}
    for result in json.loads(ended.stdout or "[]"):
        for step in result["steps"]:
            steps.setdefault(str(step["step"]["name"]), []).append(step)
    for fix in mine:
        rows = steps.get(fix.commit, [])
        good = [
            row
            for row in rows
            if row["outcome"] == "done" and not row["status"] and not row["error"]
        ]
        fix.real = f"{len(good)} of 4" if rows else f"not asked: {ended.stderr[-80:].strip()}"


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clone", type=Path, required=True)
    parser.add_argument("--row", action="append", required=True, metavar="BASE=COMMITS")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--keep", type=Path, help="folder for diffs, payloads and logs")
    arguments = parser.parse_args()
    print("| base | commit | verdict | codes | real Xen |\n|---|---|---|---|---|")  # noqa: T201
    for row in arguments.row:
        base, _, span = row.partition("=")
        tree = tree_of(f"base:{base}")
        with tempfile.TemporaryDirectory() as scratch:
            folder = arguments.keep / base if arguments.keep else Path(scratch)
            folder.mkdir(parents=True, exist_ok=True)
            fixes = candidates(arguments.clone, span, tree, folder, arguments.count)
            for fix in fixes:
                build(fix, base, folder)
                print(f"{base} {fix.commit} {fix.status} {fix.why}", file=sys.stderr, flush=True)  # noqa: T201
            ask_real_xen(fixes, base, tree)
        for fix in fixes:
            words = (base, fix.commit, WORDS.get(fix.status, str(fix.status)), fix.why, fix.real)
            print(f"| {' | '.join(words)} |", flush=True)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
