# SPDX-License-Identifier: Apache-2.0
"""A small agreement set: the model and a real Xen 4.17.5 answer the same to a thousand questions.

The full set is ``make agreement``; its results are in ``docs/agreement.md``.
"""

from __future__ import annotations

import collections
import json
import os
from pathlib import Path

import pytest

from tests.kit.acting import with_alternative_call
from tests.kit.payloads import minimal, note
from tests.xen.agreement import main
from xsplice_plugins import hypervisor
from xsplice_plugins.realxen import Machine, Step
from xsplice_plugins.verify.predict import Agreement, compare, predict

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.xen,
    pytest.mark.skipif(
        os.environ.get("XSPLICE_QEMU") != "1", reason="XSPLICE_QEMU=1 is not set: no real Xen"
    ),
]

MUTATIONS, SEQUENCES, HAZARDS = 800, 60, 12


def test_the_model_answers_as_real_xen_does(
    xen_tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "outcomes"
    status = main(
        [
            *("--tree", str(xen_tree), "--seed", "1", "--json", str(table)),
            *("--count", str(MUTATIONS), "--sequences", str(SEQUENCES)),
            *("--hazards-max", str(HAZARDS)),
        ]
    )
    printed = capsys.readouterr().out
    assert status == 0, printed
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    counts = collections.Counter(row[1] for row in rows)
    assert counts["disagree"] == counts["crash unpredicted"] == 0, printed
    assert counts["agree"] >= (MUTATIONS + SEQUENCES) * 0.8, printed
    decided = ("crash predicted", "hazard survived", "unknown")
    assert sum(counts[word] for word in decided) == HAZARDS, printed
    assert counts["crash predicted"] >= 1, printed


@pytest.mark.parametrize(
    ("pointer", "agreement"),
    [
        ("hvm_funcs", Agreement.AGREE),
        # Gone after boot: any hot-patch that brings a caller of vpmu_ops along does this.
        ("arch/x86/cpu/vpmu.c#vpmu_ops", Agreement.CRASH_PREDICTED),
    ],
)
def test_alternative_calls_look_at_their_pointers_at_upload(
    xen_tree: Path, pointer: str, agreement: Agreement
) -> None:
    release = hypervisor.release("4.17.5")
    syms = (xen_tree / "xen" / "xen-syms").read_bytes()
    image = hypervisor.boot(syms, release=release)
    assert image.build_id is not None
    draft = with_alternative_call(minimal(depends=image.build_id), pointer)
    draft.sec(".livepatch.xen_depends").data = note(image.build_id)
    steps = [Step(verb="upload", name="x", payload="x")]
    predicted = predict(steps, {"x": draft.build()}, image=image, release=release)
    machine = Machine.prepare(xen_tree / "xen" / "xen")
    run = machine.run(steps, {"x": draft.build()}, agent="hypercall", timeout_seconds=30)
    assert compare(predicted, run.steps)[0] is agreement
