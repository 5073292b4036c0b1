# SPDX-License-Identifier: Apache-2.0
"""Hooks that ask a host something: the model's answer beside what a real Xen 4.17.5 said."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from xsplice_plugins import cli
from xsplice_plugins.hypervisor import BootedImage, boot, prove, release
from xsplice_plugins.realxen import Machine, Step

FOLDER = Path(__file__).resolve().parents[2] / "xen-patches" / "regression" / "handmade" / "hooks"
TABLE: dict[str, Any] = json.loads((FOLDER / "answers.json").read_text())["hooks"]
NAMES = sorted(TABLE)
RELEASE = release("4.17.5")

pytestmark = pytest.mark.xen


@pytest.fixture(scope="module")
def payloads(xen_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Build every hook as a payload of its own."""
    out = tmp_path_factory.mktemp("hooks")
    found = {}
    for name in NAMES:
        path = out / f"{name}.livepatch"
        words = ["build", str(FOLDER / f"{name}.c"), "--xen", str(xen_tree), "--name", name]
        assert cli.main([*words, "--signer", "none", "--out", str(path)]) == 0
        found[name] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def image(xen_tree: Path) -> BootedImage:
    """Open the built hypervisor once."""
    return boot((xen_tree / "xen" / "xen-syms").read_bytes(), release=RELEASE)


def test_every_hook_has_an_answer_and_says_its_licence() -> None:
    sources = sorted(FOLDER.glob("*.c"))
    assert [path.stem for path in sources] == NAMES
    for path in sources:
        first = path.read_text().splitlines()[0]
        assert first == "/* SPDX-License-Identifier: GPL-2.0-only */"


@pytest.mark.parametrize("name", NAMES)
def test_the_model_answers_as_the_table_says(
    payloads: dict[str, bytes], image: BootedImage, name: str
) -> None:
    report = prove([(name, payloads[name])], image, RELEASE)
    assert report.verdict == TABLE[name]["model"], report.reason
    assert report.reason.startswith(TABLE[name]["reason"])


@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_never_surer_than_a_real_xen_was(name: str) -> None:
    agrees = {0: "proved", "crash": "hazard"}
    row = TABLE[name]
    assert row["model"] in {"unknown", agrees.get(row["real"], "refused")}


@pytest.mark.qemu
@pytest.mark.slow
@pytest.mark.skipif(
    os.environ.get("XSPLICE_QEMU") != "1", reason="XSPLICE_QEMU=1 is not set: no real Xen"
)
def test_a_real_xen_answers_as_the_table_says(xen_tree: Path, payloads: dict[str, bytes]) -> None:
    machine = Machine.prepare(xen_tree / "xen" / "xen")
    calm = [name for name in NAMES if TABLE[name]["real"] != "crash"]
    steps = [
        Step(verb=verb, name=name, payload=name if verb == "upload" else "")
        for name in calm
        for verb in ("upload", "apply", "revert", "unload")
    ]
    run = machine.run(steps, {name: payloads[name] for name in calm}, agent="hypercall")
    applied = {step.step.name: step for step in run.steps if step.step.verb == "apply"}
    assert {name: applied[name].error or -applied[name].rc for name in calm} == {
        name: TABLE[name]["real"] for name in calm
    }
    for name in set(NAMES) - set(calm):
        run = machine.run(
            [Step(verb="upload", name=name, payload=name), Step(verb="apply", name=name)],
            {name: payloads[name]},
            agent="hypercall",
        )
        assert run.steps[1].outcome != "done", name
