# SPDX-License-Identifier: Apache-2.0
"""A small agreement set: the model and a real Xen 4.17.5 answer the same to a thousand questions.

The full set is ``make agreement``; its results are in ``xsplice_plugins/verify/qemu/AGREEMENT.md``.
"""

from __future__ import annotations

import collections
import json
import os
from pathlib import Path

import pytest

from tests.xen.agreement import main

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
    assert counts["crash predicted"] + counts["hazard survived"] == HAZARDS, printed
    assert counts["crash predicted"] >= 1, printed
