# SPDX-License-Identifier: Apache-2.0
"""arm64 end to end: hot-patches of our own on a tree built for it, judged by model and real Xen."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.kit.build import ROOT, scons
from tests.kit.payloads import minimal
from tests.xen import agreement
from tests.xen.trees import located, tree_like
from xsplice_plugins import hypervisor
from xsplice_plugins.cache import cache_folder
from xsplice_plugins.hypervisor.facts.arches import ARM64
from xsplice_plugins.hypervisor.facts.verdicts import ENOSYS
from xsplice_plugins.realxen import platforms

FOLDER = ROOT / "xen-patches" / "regression" / "arm64"
CASES = sorted(path.name for path in FOLDER.iterdir())
MUTATIONS, SEQUENCES, HAZARDS = 500, 40, 8

pytestmark = [pytest.mark.xen, pytest.mark.toolchain]
real = pytest.mark.skipif(
    os.environ.get("XSPLICE_QEMU") != "1", reason="XSPLICE_QEMU=1 is not set: no real Xen"
)


@pytest.fixture
def tree() -> Path:
    """Return a built tree of 4.17 for arm64; skip where there is none."""
    return tree_like("4.17", "arm64")


def expected_of(case: str) -> dict[str, Any]:
    expected: dict[str, Any] = json.loads((FOLDER / case / "expected.json").read_text())
    return expected


def of_verdict(verdict: str) -> list[str]:
    return [case for case in CASES if expected_of(case)["verdict"] == verdict]


def verified(case: str, tree: Path, folder: Path, judges: str) -> dict[str, Any]:
    """Build a hot-patch and return its report, which says proved."""
    run = scons(
        "xsplice-verify", folder, XEN=tree, PATCH=FOLDER / case / "fix.patch", NAME="fix",
        EXPECT=FOLDER / case / "expected.json", ON=judges,
    )  # fmt: skip
    run.assert_success()
    record = json.loads((folder / "fix" / "fix.payload.json").read_text())
    assert sorted(item["name"] for item in record["functions"]) == expected_of(case)["replaced"]
    report: dict[str, Any] = json.loads((folder / "fix" / "fix.verify.json").read_text())
    assert report["verdict"] == "proved"
    return report


@pytest.mark.parametrize("case", of_verdict("accepted"))
def test_accepted_hot_patch_is_built_and_proved(case: str, tree: Path, tmp_path: Path) -> None:
    verified(case, tree, tmp_path, "model")


@pytest.mark.parametrize("case", of_verdict("refused"))
def test_refused_hot_patch_is_refused_by_name(case: str, tree: Path, tmp_path: Path) -> None:
    run = scons("xsplice", tmp_path, XEN=tree, PATCH=FOLDER / case / "fix.patch", NAME="fix")
    assert run.status == 4, run.text
    for code in expected_of(case)["refused"]:
        assert f"[{code}]" in run.text
    assert not list(tmp_path.rglob("*.livepatch*"))


@pytest.mark.parametrize("case", of_verdict("unproved"))
def test_what_a_real_xen_would_not_survive_is_not_proved(
    case: str, tree: Path, tmp_path: Path
) -> None:
    run = scons("xsplice-verify", tmp_path, XEN=tree, PATCH=FOLDER / case / "fix.patch", NAME="fix")
    assert run.status == 5, run.text
    assert "a WARN in a payload stops the host" in run.text
    assert not list(tmp_path.rglob("fix.verify.json"))


def test_every_window_for_payloads_is_reached_by_a_jump_from_all_of_the_image(tree: Path) -> None:
    """In range by placement: neither a call out of the payload nor one into it needs a veneer."""
    image = hypervisor.boot(
        (tree / "xen" / "xen-syms").read_bytes(), release=hypervisor.release("4.17.5")
    )
    low, high = image.regions[0].addr_virt, image.arena[0] + (2 << 20)
    assert high - low < ARM64.range_bytes
    ends = [region.addr_virt + len(region.data) for region in image.regions]
    assert max(ends) <= image.arena[0]


@pytest.mark.qemu
@real
@pytest.mark.parametrize("case", of_verdict("accepted"))
def test_a_real_xen_takes_it_and_answers_as_the_model(
    case: str, tree: Path, tmp_path: Path
) -> None:
    report = verified(case, tree, tmp_path, "model,qemu")
    found = {finding["check"]: finding for finding in report["findings"]}
    assert found["qemu"]["severity"] == "held"
    assert found["qemu.busy"]["severity"] == "held"
    assert "qemu.agreement" not in found
    assert "not checked" in found["qemu.memory"]["text"]
    steps = found["qemu"]["evidence"]["steps"]
    assert [step["observed"]["outcome"] for step in steps] == ["done"] * len(steps)


@pytest.mark.qemu
@real
@pytest.mark.parametrize(
    ("case", "crash"),
    [("frame-of-handler", ""), ("new-warn", "Unexpected Trap: Undefined Breakpoint Value")],
)
def test_a_frame_in_a_payload_is_met(case: str, crash: str, tree: Path, tmp_path: Path) -> None:
    """One that runs a function is taken; a WARN is not, and the host stops, as is said of it."""
    patch = FOLDER / case / "fix.patch"
    scons("xsplice", tmp_path, XEN=tree, PATCH=patch, NAME="fix").assert_success()
    data = (tmp_path / "fix" / "fix.livepatch").read_bytes()
    verbs = "apply", "list", "build-id", "revert", "unload"
    steps = [agreement.Step(verb="upload", name="fix", payload="fix")]
    steps += [
        agreement.Step(verb=v, name="" if v in {"build-id", "list"} else "fix") for v in verbs
    ]
    machine = agreement.Machine.prepare(tree / "xen" / "xen")
    run = machine.run(steps, {"fix": data}, agent="hypercall", timeout_seconds=60)
    done = [step.outcome == "done" for step in run.steps]
    assert done == ([True] * 6 if not crash else [True] * 3 + [False] * 3)
    assert (run.steps[2].error, run.steps[2].listed) == (0, (("fix", "APPLIED", 0),))
    assert crash in run.console
    assert bool(crash) == bool(run.crash)
    assert "----[ Xen-4.17" in run.console, "what either of them prints"


@pytest.mark.qemu
@real
def test_payloads_lie_where_the_model_puts_them(tree: Path, tmp_path: Path) -> None:
    """The console names the address of a table in the payload; the model has it there too."""
    patch = FOLDER / "alternative" / "fix.patch"
    scons("xsplice", tmp_path, XEN=tree, PATCH=patch, NAME="fix").assert_success()
    data = (tmp_path / "fix" / "fix.livepatch").read_bytes()
    release = hypervisor.release("4.17.5")
    image = hypervisor.boot((tree / "xen" / "xen-syms").read_bytes(), release=release)
    hv = hypervisor.Hypervisor(image, release)
    assert hv.upload(b"h\0", data).code == 0
    payload = hv.payloads[0]
    machine = agreement.Machine.prepare(tree / "xen" / "xen")
    steps = [agreement.Step(verb="upload", name="h", payload="h")]
    (result,) = machine.run(steps, {"h": data}, agent="hypercall").steps
    line = next(line for line in result.console if "Patching with alt table" in line)
    start = int(line.split("alt table ")[1].split()[0], 16)
    assert payload.ro_virt <= start < payload.ro_virt + 4096
    assert payload.base_virt >> 20 == image.arena[0] >> 20


@pytest.mark.qemu
@real
def test_the_hypervisor_that_debian_ships_boots_and_knows_no_payloads() -> None:
    """No tree is needed. Debian builds it for arm64 without live patching, and it says so."""
    shipped = agreement.debian_target("4.17", cache_folder(os.environ), platforms.ARM64)
    image = hypervisor.boot(shipped.syms, release=hypervisor.release(shipped.release))
    assert image.build_id is not None
    steps = [agreement.Step(verb=verb) for verb in ("extra", "build-id")]
    steps.append(agreement.Step(verb="upload", name="p", payload="p"))
    machine = agreement.Machine.prepare(shipped.xen)
    run = machine.run(steps, {"p": minimal(ARM64).build()}, agent="hypercall")
    assert (run.crash, [step.outcome for step in run.steps]) == ("", ["done"] * 3)
    assert f".{shipped.release.split('.')[2]}" == run.steps[0].extra
    assert run.steps[1].output == (image.build_id.hex(),)
    assert run.steps[2].error == ENOSYS


@pytest.mark.qemu
@real
@pytest.mark.slow
@pytest.mark.parametrize("release", ["4.17", "4.18", "4.19", "4.20", "4.21", "4.22"])
def test_the_model_answers_as_real_xen_does(
    release: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = tree_like(release, "arm64")
    table = tmp_path / "outcomes"
    status = agreement.main(
        [
            *("--tree", str(tree), "--release", located(tree).release, "--seed", "1"),
            *("--json", str(table), "--count", str(MUTATIONS)),
            *("--sequences", str(SEQUENCES), "--hazards-max", str(HAZARDS)),
        ]
    )
    printed = capsys.readouterr().out
    assert status == 0, printed
    rows = [json.loads(line)[1] for line in table.read_text().splitlines()]
    assert rows.count("agree") >= 500, printed
    assert "disagree" not in rows, printed
    assert "crash unpredicted" not in rows, printed
