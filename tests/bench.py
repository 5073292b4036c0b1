# SPDX-License-Identifier: Apache-2.0
"""Measure the main path against its floor, the compiler itself, as ratios in one run.

Run by ``make bench``. Every figure is a median over several runs of whole commands, the command
and its floor in turn, so that a machine whose speed drifts drifts for both.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.kit import build as kit  # noqa: E402  the path is set above
from xsplice_plugins import artefacts, capture, patch  # noqa: E402
from xsplice_plugins.artefacts import (  # noqa: E402
    CapturePlan,
    CompileJob,
    PatchSet,
    PayloadRecord,
    Severity,
    Sources,
    VerifyRequest,
)
from xsplice_plugins.kbuild.commands import option_word  # noqa: E402
from xsplice_plugins.kbuild.facts import facts_of_tree  # noqa: E402
from xsplice_plugins.kbuild.indexing import read_index  # noqa: E402
from xsplice_plugins.kbuild.tree import locate_tree  # noqa: E402
from xsplice_plugins.plugins.spec import Config  # noqa: E402
from xsplice_plugins.rebuild import verify_by_rebuild  # noqa: E402

REPEATS = 5
#: As for a person: Python keeps what it compiled of this checkout, from the warm-up on.
KEPT = {"PYTHONDONTWRITEBYTECODE": ""}
PATCHES = ROOT / "xen-patches" / "regression" / "4.17"


def scons(target: str, build: Path, **settings: object) -> kit.Run:
    """Run this project's SConstruct as a person does."""
    return kit.scons(target, build, environ=KEPT, **settings)


def timed(work: Callable[[], object]) -> float:
    """Return the wall time of one call in seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turn(
    measured: Callable[[], object],
    floor: Callable[[], object],
    before: Callable[[], object],
    repeats: int = REPEATS,
) -> tuple[float, float]:
    """Return the medians of two kinds of run, taken in turn after one warm-up of each."""
    pairs = []
    for _ in range(repeats + 1):
        before()
        pairs.append((timed(measured), timed(floor)))
    return (
        statistics.median(p[0] for p in pairs[1:]),
        statistics.median(p[1] for p in pairs[1:]),
    )


def report(what: str, took: float, floor: float, limit: float, words: str) -> None:
    """Print one figure with its limit."""
    mark = "ok  " if took <= limit else "OVER"
    print(f"{mark} {what}: {took:.2f} s; {words} {floor:.2f} s; limit {limit:.2f} s")  # noqa: T201


class Tree:
    """A built Xen tree and what the floor runs need of it."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root = root
        self.folder = folder
        self.tree = locate_tree(root)

    def plan(self, case: str) -> tuple[PatchSet, CapturePlan]:
        """Return what a hot-patch reaches."""
        patch_set = patch.read_patch_set(
            [PATCHES / case / "fix.patch"], source_root=self.tree.source_root
        )
        return patch_set, capture.plan(self.tree, patch_set)

    def floor_of_compiles(
        self, case: str, only: frozenset[str] | None = None
    ) -> Callable[[], object]:
        """Return a run of the bare recorded commands of both sides, as many at once as cores."""
        patch_set, plan = self.plan(case)
        copies = []
        for side, applied in (("old", None), ("new", patch_set)):
            copy = self.folder / f"floor-{case}-{side}"
            if not copy.exists():
                capture.copy_tree(self.tree, copy, applied)
            copies.append(copy)

        def run() -> None:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                jobs = [
                    pool.submit(bare, copy / job.cwd, without_output(job))
                    for job in plan.jobs
                    if only is None or job.object_path in only
                    for copy in copies
                ]
                for job in jobs:
                    job.result()

        return run

    def floor_of_preprocessing(self, case: str) -> tuple[int, Callable[[], object]]:
        """Return the number of objects reached, and a run that preprocesses each once."""
        patch_set, plan = self.plan(case)
        copy = self.folder / f"floor-{case}-new"
        if not copy.exists():
            capture.copy_tree(self.tree, copy, patch_set)

        def run() -> None:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                jobs = [
                    pool.submit(
                        bare,
                        copy / job.cwd,
                        without_output(job).replace(" -c ", " -E "),
                    )
                    for job in plan.jobs
                ]
                for job in jobs:
                    job.result()

        return len(plan.jobs), run


def without_output(job: CompileJob) -> str:
    """Return a recorded command that writes nothing: a copy's files are links into the tree."""
    command = job.command.replace(job.output, "/dev/null")
    made = option_word(command, "-MF")
    return command.replace(f"-MF {made}", "-MF /dev/null") if made else command


def bare(folder: Path, command: str) -> None:
    """Run one recorded command as make would."""
    subprocess.run(["sh", "-c", command], cwd=folder, check=True, capture_output=True)


def main() -> int:
    """Print every figure with its limit."""
    root = os.environ.get("XSPLICE_XEN_TREE")
    if not root:
        print("XSPLICE_XEN_TREE is not set; run `make bench`")  # noqa: T201
        return 1
    with tempfile.TemporaryDirectory(prefix="xsplice-bench-") as name:
        folder = Path(name)
        tree = Tree(Path(root), folder)
        one_file(tree, folder / "one")
        base(tree, folder / "one")
        imported(folder / "imported")
        model(tree)
        header(tree, folder / "header")
        full_rebuild(tree, folder / "rebuild")
    return 0


MODEL = """
import sys
from pathlib import Path
from xsplice_plugins.hypervisor import Probe, boot, prove, release
image = boot(Path(sys.argv[1]).read_bytes(), release=release("4.17.5"))
probes = [
    Probe(function="xen_extra_version", kind="string", during="Hello World"),
    Probe(function="xen_minor_version", before=17),
]
data = Path(sys.argv[2]).read_bytes()
for _ in range(int(sys.argv[3])):
    assert prove([("hello", data)], image, release("4.17.5"), probes=probes).verdict == "proved"
"""


def model(tree: Tree) -> None:
    """Measure the model: start, load, apply, two probes, revert; and a further payload."""
    hello = tree.root / "xen/test/livepatch/xen_hello_world.livepatch"

    def run(count: int) -> None:
        command = [sys.executable, "-c", MODEL, tree.tree.xen_syms, hello, str(count)]
        subprocess.run(command, cwd=ROOT, check=True, env=os.environ | KEPT)

    one, eleven = in_turn(lambda: run(1), lambda: run(11), lambda: None)
    report("model, one payload with start-up", one, 0.0, 1.0, "floor")
    report("model, each further payload", (eleven - one) / 10, 0.0, 0.3, "floor")


def one_file(tree: Tree, build: Path) -> None:
    """Measure the one-file fix: cold, up to date, verify."""
    case = "extra-version"
    settings = {"XEN": tree.root, "PATCH": PATCHES / case / "fix.patch", "NAME": case}

    def run(target: str = "xsplice") -> None:
        scons(target, build, **settings).assert_success()

    def forget() -> None:
        shutil.rmtree(build, ignore_errors=True)

    def forget_fix() -> None:
        shutil.rmtree(build / case, ignore_errors=True)

    def prove_again() -> None:
        next(build.rglob("*.verify.json")).unlink()
        run("xsplice-verify")

    compiles = tree.floor_of_compiles(case)
    took, floor = in_turn(run, compiles, forget)
    report("one-file fix, first on its base", took, floor, 1.35 * floor + 0.5, "bare compiles")
    took, floor = in_turn(run, compiles, forget_fix)
    report("one-file fix, base's side kept", took, floor, 0.8 * floor + 0.5, "bare compiles")
    took, floor = in_turn(run, lambda: None, lambda: None)
    report("up-to-date run", took, floor, 1.5, "floor")
    run("xsplice-verify")
    took, floor = in_turn(
        lambda: run("xsplice-verify"),
        lambda: None,
        lambda: next(build.rglob("*.verify.json")).unlink(),
    )
    report("verify, warm", took, floor, 2.0, "floor")
    took, kept = in_turn(
        lambda: run("xsplice-verify"),
        prove_again,
        lambda: [path.unlink() for path in checked(build)],
    )
    floor = timed(compiles)
    report("comparison with a rebuild", took - kept, floor, 0.6 * floor + 0.4, "bare compiles")


def checked(build: Path) -> list[Path]:
    """Return what says how payloads compare with a rebuild, and what was concluded from it."""
    return [*build.rglob("*.checks.json"), *build.rglob("*.verify.json")]


def base(tree: Tree, build: Path) -> None:
    """Measure the match of the whole tree with its image, and a run that has it already."""
    case = "extra-version"
    settings = {"XEN": tree.root, "PATCH": PATCHES / case / "fix.patch", "NAME": case}

    def run() -> None:
        scons("xsplice-verify", build, **settings).assert_success()

    def forget() -> None:
        run()
        for path in [*build.glob("base-*.json"), *build.rglob("*.verify.json")]:
            path.unlink()

    def prove_again() -> None:
        next(build.rglob("*.verify.json")).unlink()
        run()

    took, kept = in_turn(run, prove_again, forget)
    report("match of the whole tree, once for each base", took - kept, 0.0, 10.0, "floor")


def imported(build: Path) -> None:
    """Measure a one-line fix on a base made of an unbuilt tree, against the same built tree."""
    named = dict(
        word.split("=", 1) for word in os.environ.get("XSPLICE_TREES", "").split(",") if word
    )
    if not {"built", "imported"} <= named.keys():
        print("     imported base: XSPLICE_TREES=built=TREE,imported=TREE is not set")  # noqa: T201
        return
    case = "extra-version"
    release = locate_tree(Path(named["built"])).release.rpartition(".")[0]
    fix = ROOT / "xen-patches/regression" / release / case / "fix.patch"

    def run(name: str) -> None:
        scons("xsplice", build / name, XEN=named[name], PATCH=fix, NAME=case).assert_success()

    def forget(below: str) -> None:
        for name in ("built", "imported"):
            shutil.rmtree(build / name / below, ignore_errors=True)

    for what, below in (("first", ""), ("kept", case)):
        before = partial(forget, below)
        took, floor = in_turn(lambda: run("imported"), lambda: run("built"), before, 3)
        report(f"one-file fix, imported base, {what}", took, floor, 1.2 * floor, "built tree")


def header(tree: Tree, build: Path) -> None:
    """Measure a header fix that reaches many objects of which few change."""
    case = "header-wide"
    settings = {"XEN": tree.root, "PATCH": PATCHES / case / "fix.patch", "NAME": case}
    count, preprocess = tree.floor_of_preprocessing(case)

    def run() -> None:
        scons("xsplice", build, **settings).assert_success()

    all_compiles = timed(tree.floor_of_compiles(case))
    words = "bare compiles of all of them, both sides"
    what = f"header fix over {count} objects"
    report(f"{what}, first", timed(run), all_compiles, 1.35 * all_compiles + 0.5, words)

    def forget() -> None:
        shutil.rmtree(build / case, ignore_errors=True)

    took, floor = in_turn(run, preprocess, forget)
    compiled = frozenset(
        pair.object_path
        for record in build.rglob("*.pair.json")
        if not (pair := artefacts.load(record, artefacts.ObjectPair)).note.endswith("not compiled")
    )
    compiles = timed(tree.floor_of_compiles(case, compiled))
    report(f"{what}, base's side kept", took, all_compiles, 0.8 * all_compiles + 0.5, words)
    words = f"{len(compiled)} compiles of both sides {compiles:.2f} s, preprocessing all once"
    report(what, took, floor, 1.5 * floor + compiles, words)
    prove = timed(lambda: scons("xsplice-verify", build, **settings).assert_success())
    for path in build.rglob("*.verify.json"):
        path.unlink()
    kept = timed(lambda: scons("xsplice-verify", build, **settings).assert_success())
    limit = 0.6 * all_compiles + 0.4
    report(f"{what}, comparison and base", prove - kept, all_compiles, limit, "bare compiles")


def full_rebuild(tree: Tree, build: Path) -> None:
    """Measure the verifier ``rebuild`` against a bare make of the patched copy."""
    for case, repeats in (("extra-version", REPEATS), ("header-wide", 1)):
        fix = PATCHES / case / "fix.patch"
        settings = {"XEN": tree.root, "PATCH": fix, "NAME": case, "SIGNER": "none"}
        scons("xsplice", build, **settings).assert_success()
        payload, copy = build / case / f"{case}.livepatch", build / "copy"
        facts = facts_of_tree(tree.tree, cache=build / "facts")
        config = Config(release=tree.tree.release, facts=facts)
        record = artefacts.load(build / case / f"{case}.payload.json", PayloadRecord)
        request = VerifyRequest(
            payload_path=payload,
            image_path=tree.tree.xen_syms,
            release=tree.tree.release,
            sources=Sources(tree=tree.tree.build_root, patch_set=tree.plan(case)[0]),
        )
        index = read_index(tree.tree)

        def verify() -> None:
            found = verify_by_rebuild(payload.read_bytes(), record, request, config)  # noqa: B023
            assert [row.severity for row in found] == [Severity.HELD], found

        def make() -> None:
            capture.make_again(index, copy, jobs=len(os.sched_getaffinity(0)))  # noqa: B023

        def lay_out() -> None:
            shutil.rmtree(copy, ignore_errors=True)  # noqa: B023
            capture.lay_out_copy(tree.tree, request.sources.patch_set, copy)  # noqa: B023

        took, floor = in_turn(verify, make, lay_out, repeats)
        report(f"full rebuild, {case}", took, floor, 1.2 * floor, "bare make of the copy")


if __name__ == "__main__":
    sys.exit(main())
