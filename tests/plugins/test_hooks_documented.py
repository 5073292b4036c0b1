# SPDX-License-Identifier: Apache-2.0
"""The hook reference says what the code says (after datasette's ``tests/test_docs.py``)."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from xsplice_plugins import HOOK_API, artefacts, errors
from xsplice_plugins.plugins import spec
from xsplice_plugins.plugins.builtin import built_in_plugins
from xsplice_plugins.plugins.discovery import DISABLE_VARIABLE, PLUGINS_VARIABLE, TRACE_VARIABLE
from xsplice_plugins.plugins.spec import HOOKS, NAME

REFERENCE = (Path(spec.__file__).parents[2] / "docs" / "hooks.md").read_text()


@pytest.mark.parametrize("name", HOOKS)
def test_each_hook_has_a_heading_with_its_exact_arguments(name: str) -> None:
    arguments = ", ".join(inspect.signature(getattr(spec, name)).parameters)
    assert f"\n### {name}({arguments})\n" in REFERENCE


@pytest.mark.parametrize("name", HOOKS)
def test_each_hook_is_documented_with_its_kind_and_the_variable_that_chooses(name: str) -> None:
    about = HOOKS[name]
    text = REFERENCE.partition(f"### {name}(")[2].partition("\n\n")[2].partition("###")[0]
    assert text.startswith(about.kind.capitalize())
    assert f"`{about.variable}`" in text or not about.variable


def test_no_heading_names_a_hook_that_is_gone() -> None:
    assert re.findall(r"^### (\w+)\(", REFERENCE, re.MULTILINE) == list(HOOKS)


@pytest.mark.parametrize("name", HOOKS)
def test_each_specification_documents_each_argument(name: str) -> None:
    function = getattr(spec, name)
    text = inspect.getdoc(function) or ""
    for argument in inspect.signature(function).parameters:
        assert f"    {argument}: " in text, argument


def test_the_table_says_what_pluggy_is_told() -> None:
    told = {n: getattr(f, f"{NAME}_spec") for n, f in vars(spec).items() if n.startswith(NAME)}
    assert list(told) == list(HOOKS)
    for name, about in HOOKS.items():
        assert (about.kind == "chosen") == bool(told[name]["firstresult"]), name
        assert (about.kind == "historic") == bool(told[name]["historic"]), name
        assert about.answer in str(inspect.signature(getattr(spec, name)).return_annotation), name
        assert not about.setting or hasattr(spec.Config(), about.setting), name


def test_built_in_plugins_variables_and_versions_are_named() -> None:
    for word in (PLUGINS_VARIABLE, DISABLE_VARIABLE, TRACE_VARIABLE):
        assert f"| `{word}` |" in REFERENCE
    for name in built_in_plugins():
        assert f"`{name}`" in REFERENCE
    assert "**{}.{}**".format(*HOOK_API) in REFERENCE


def test_every_class_that_is_named_exists() -> None:
    known = {*vars(artefacts), *vars(errors), "DifferContract", "SignerContract", "SystemExit"}
    named = set(re.findall(r"`([A-Z][a-z]+[A-Z]\w+)`", REFERENCE))
    assert named <= known
