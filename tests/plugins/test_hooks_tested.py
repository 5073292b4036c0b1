# SPDX-License-Identifier: Apache-2.0
"""Each hook has a test named after it, and is known in few places of the library."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from xsplice_plugins.plugins.spec import HOOKS

TESTS = {
    node.name
    for path in sorted(Path(__file__).parent.glob("test_*.py"))
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.FunctionDef)
}


@pytest.mark.parametrize("hook", HOOKS)
def test_the_hook_has_a_test_of_its_name(hook: str) -> None:
    assert any(name.startswith(f"test_{hook}") for name in TESTS), f"write test_{hook}_..."


def test_a_hook_is_named_in_at_most_four_files_of_the_library() -> None:
    """Its specification, its caller, its built-in answer, and the target that it can change."""
    root = Path(__file__).resolve().parents[2]
    files = [*(root / "xsplice_plugins").rglob("*.py"), *(root / "site_scons").rglob("*.py")]
    for hook in HOOKS:
        named = {path.relative_to(root).as_posix() for path in files if hook in path.read_text()}
        named -= {"xsplice_plugins/testing/contracts.py"}  # what vendors test with
        assert "xsplice_plugins/plugins/spec.py" in named
        assert len(named) <= 4, (hook, sorted(named))
