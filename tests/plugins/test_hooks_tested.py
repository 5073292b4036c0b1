# SPDX-License-Identifier: Apache-2.0
"""Each hook has a test named after it (after datasette's ``tests/test_plugins.py``)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from xsplice_plugins.plugins import spec as hookspecs
from xsplice_plugins.plugins.spec import NAME

TESTS = {
    node.name
    for path in sorted(Path(__file__).parent.glob("test_*.py"))
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.FunctionDef)
}


@pytest.mark.parametrize(
    "hook", [name for name, value in vars(hookspecs).items() if hasattr(value, f"{NAME}_spec")]
)
def test_the_hook_has_a_test_of_its_name(hook: str) -> None:
    assert any(name.startswith(f"test_{hook}") for name in TESTS), f"write test_{hook}_..."
