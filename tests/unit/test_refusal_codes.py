# SPDX-License-Identifier: Apache-2.0
"""Every code that a refusal can carry is documented, and every documented one is used."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import xsplice_plugins
from xsplice_plugins.artefacts.verify import ANSWERED
from xsplice_plugins.diff.refusals import REFUSALS
from xsplice_plugins.settings import SETTINGS

ROOT = Path(__file__).parents[2]
SOURCES = sorted(Path(xsplice_plugins.__file__).parent.rglob("*.py"))


def strings(*, but: str) -> set[str]:
    """Return every upper-case word that stands as a string in the library's code."""
    found = set()
    for path in SOURCES:
        if path.name == but:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def test_every_code_that_is_raised_is_documented() -> None:
    raised = set()
    for path in SOURCES:
        raised |= set(re.findall(r'\bcode(?:, reason)? ?= ?"([A-Z_]+)"', path.read_text()))
    assert {"ASSEMBLER", "LAYOUT"} <= raised
    assert raised <= REFUSALS.keys()


def test_every_documented_code_is_used() -> None:
    assert REFUSALS.keys() <= strings(but="refusals.py")


def test_what_a_word_answers_is_documented_and_offered_by_no_refusal() -> None:
    """`ACCEPT=` answers questions of a report; a change that is refused for good has none."""
    refused = {code for code, doc in REFUSALS.items() if doc.word}
    assert refused == set(ANSWERED) & REFUSALS.keys()
    for code in refused:
        assert f"ACCEPT={code}:" in REFUSALS[code].word
    page = (ROOT / "docs/proof.md").read_text()
    assert all(f"`{code}`" in page or f"ACCEPT={code}:" in page for code in ANSWERED)
    assert not any("ACCEPT" in doc.hint for doc in REFUSALS.values())
    (setting,) = (row for row in SETTINGS if row.name == "ACCEPT")
    assert all(f"{code}:" in setting.help for code in ANSWERED)
