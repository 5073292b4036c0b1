# SPDX-License-Identifier: Apache-2.0
"""What is said of a changed pair, once."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.kit.differ_inputs import compile_c
from xsplice_plugins.artefacts import ObjectPair, Refusal
from xsplice_plugins.pipeline.diffing import diff_pair
from xsplice_plugins.pipeline.payload import refusal_text
from xsplice_plugins.pipeline.run import Run
from xsplice_plugins.plugins.manager import build_plugin_manager
from xsplice_plugins.plugins.spec import Config

pytestmark = pytest.mark.toolchain

TEXT = """
enum { FIRST, %s LIMIT };
extern int get(int);
int user(int a) { int kinds = LIMIT; return get(a) * 3 + kinds; }
"""
HINT = "add new constants at the end"


def _lines(told: Refusal, before: bytes, after: bytes) -> list[str]:
    """Return what is said of an object whose sources tell one refusal."""
    pair = ObjectPair(
        object_path="file.o",
        source_path="file.c",
        is_changed=True,
        is_init=False,
        digest_baseline=hashlib.sha256(before).hexdigest(),
        digest_new=hashlib.sha256(after).hexdigest(),
        layouts="in the sources",
        refused=(told,),
    )
    run = Run(config=Config(release="4.17.5"), plugins=build_plugin_manager(environ={}))
    delta, _ = diff_pair(run, pair, before, after)
    return refusal_text([delta]).splitlines()


@pytest.mark.parametrize("name", ["constant LIMIT: its value", "constant OTHER: its value"])
def test_a_constant_is_one_line_with_what_sources_and_debug_information_say(
    name: str, tmp_path: Path
) -> None:
    before, after = (compile_c(tmp_path, TEXT % more, "-g") for more in ("", "MORE,"))
    told = Refusal(name=name, reason="its value changes", code="LAYOUT", hint=HINT)
    lines = _lines(told, before, after)
    fact = "`LIMIT` was 1 and would be 2"
    if "LIMIT" in name:
        [line] = lines
        assert line.startswith(f"file.o: {name}: its value changes ({fact}) [LAYOUT]; {HINT}")
        return
    assert sorted(line.partition(" [")[0] for line in lines) == [
        f"file.o: constant LIMIT: {fact}; memory holds what the old code stored",
        "file.o: constant OTHER: its value: its value changes",
    ]


@pytest.mark.parametrize("name", ["struct item: field more", "struct other: field more"])
def test_a_structure_is_one_line_with_what_sources_and_debug_information_say(
    name: str, tmp_path: Path
) -> None:
    text = "struct item { %s int kind; }; extern int get(int);"
    text += "int user(struct item *i) { return get(i->kind) * 3; }"
    before, after = (compile_c(tmp_path, text % more, "-g") for more in ("", "int more;"))
    told = Refusal(name=name, reason="it is added", code="LAYOUT", hint=HINT)
    lines = _lines(told, before, after)
    if "item" in name:
        [line] = lines
        assert line.startswith(f"file.o: {name}: it is added (`struct item` ")
        assert line.endswith(f") [LAYOUT]; {HINT}")
        return
    assert len(lines) == 2
    assert f"file.o: {name}: it is added [LAYOUT]; {HINT}" in lines
