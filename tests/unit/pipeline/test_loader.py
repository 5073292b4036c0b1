# SPDX-License-Identifier: Apache-2.0
"""Code of a matched base that takes payloads, and is otherwise in the shipped image."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit.differ_inputs import compile_c
from xsplice_plugins.artefacts import BaseMatch, Duty, Severity
from xsplice_plugins.pipeline import checking

pytestmark = pytest.mark.toolchain

PLAIN = "int user(int a) { return a; }\n"
TABLES = {
    ".altinstructions": "alternative",
    ".alt_call_sites": "alternative",
    ".ex_table": "extable",
    ".bug_frames.2": "traps",
}


@pytest.mark.parametrize("table", ["", *TABLES])
def test_other_code_that_takes_payloads_is_a_question(tmp_path: Path, table: str) -> None:
    more = f'asm (".section {table}, \\"a\\"; .long 0; .previous");\n' if table else ""
    payload = compile_c(tmp_path, PLAIN + more)
    files = ("common/livepatch.o", "common/virtual_region.o", "arch/x86/livepatch.o")
    readers = {name: f"arch/x86/{stem}.o" for name, stem in TABLES.items()}

    def asked(**rows: object) -> list[str]:
        base = BaseMatch(image="", findings=(), is_matched=True, **rows)  # type: ignore[arg-type]
        found = list(checking.loader_findings(payload, base))
        assert {row.obligation for row in found} <= {Duty.LOADER}
        assert {row.severity for row in found} <= {Severity.UNCHECKED}
        return [row.subject for row in found]

    for path in files:
        assert asked(differs=(f"f ({path})",)) == asked(absent=(f"f ({path})",)) == [path]
        assert asked(strangers=("f",), owners=(("f", (path,)),)) == [path]
    for name, path in readers.items():
        if "alternative" in path and "alt" in table:
            continue  # both tables are read by that file
        is_read = name == table or (table == ".ex_table" and "traps" in path)
        assert asked(differs=(f"f ({path})",)) == ([path] if is_read else [])
    if table.startswith(".alt"):
        assert asked(differs=("f (arch/x86/alternative.o)",)) == ["arch/x86/alternative.o"]
    assert asked(differs=("f (common/user.o)",)) == []
    assert asked(owners=(("f", files),)) == [], "what is no stranger has other sources at most"
