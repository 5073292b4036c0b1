# SPDX-License-Identifier: Apache-2.0
"""The hook reference says what the code says (after datasette's ``tests/test_docs.py``)."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from xsplice_plugins import HOOK_API, artefacts, errors
from xsplice_plugins.plugins import spec as hookspecs
from xsplice_plugins.plugins.builtin import BUILT_IN
from xsplice_plugins.plugins.discovery import DISABLE_VARIABLE, PLUGINS_VARIABLE, TRACE_VARIABLE
from xsplice_plugins.plugins.spec import NAME

REFERENCE = (Path(hookspecs.__file__).parents[2] / "docs" / "hooks.md").read_text()
HOOKS = {
    name: getattr(function, f"{NAME}_spec")
    for name, function in vars(hookspecs).items()
    if hasattr(function, f"{NAME}_spec")
}


@pytest.mark.parametrize("name", HOOKS)
def test_each_hook_has_a_heading_with_its_exact_arguments(name: str) -> None:
    arguments = ", ".join(inspect.signature(getattr(hookspecs, name)).parameters)
    assert f"\n### {name}({arguments})\n" in REFERENCE


@pytest.mark.parametrize("name", HOOKS)
def test_each_hook_is_documented_with_its_kind(name: str) -> None:
    kind = "Collecting"
    if HOOKS[name]["firstresult"]:
        kind = "First result"
    elif HOOKS[name]["historic"]:
        kind = "Historic"
    text = REFERENCE.partition(f"### {name}(")[2].partition("\n\n")[2]
    assert text.startswith(kind)


def test_no_heading_names_a_hook_that_is_gone() -> None:
    assert re.findall(r"^### (\w+)\(", REFERENCE, re.MULTILINE) == list(HOOKS)


@pytest.mark.parametrize("name", HOOKS)
def test_each_specification_documents_each_argument(name: str) -> None:
    function = getattr(hookspecs, name)
    text = inspect.getdoc(function) or ""
    for argument in inspect.signature(function).parameters:
        assert f"    {argument}: " in text, argument


def test_every_hook_is_exported() -> None:
    assert set(HOOKS) <= set(hookspecs.__all__)


def test_built_in_plugins_variables_and_versions_are_named() -> None:
    for word in (PLUGINS_VARIABLE, DISABLE_VARIABLE, TRACE_VARIABLE):
        assert f"| `{word}` |" in REFERENCE
    for plugin in BUILT_IN:
        assert f"`{plugin.xsplice_name}`" in REFERENCE
    assert "**{}.{}**".format(*HOOK_API) in REFERENCE


def test_every_class_that_is_named_exists() -> None:
    known = {*vars(artefacts), *vars(errors), "DifferContract", "SignerContract", "SystemExit"}
    named = set(re.findall(r"`([A-Z][a-z]+[A-Z]\w+)`", REFERENCE))
    assert named <= known
