# SPDX-License-Identifier: Apache-2.0
"""What ``xsplice explain`` shows is compiled: refused with its code, and not refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit.differ_inputs import diff_c
from xsplice_plugins import cli
from xsplice_plugins.artefacts import Delta
from xsplice_plugins.diff.examples import EXAMPLES
from xsplice_plugins.diff.refusals import REFUSALS

#: What Xen's headers give, as far as an object shows it.
HEAD = """
extern int load(int);
#define NR_CPUS 64
#define DEFINE_PER_CPU(type, name) PERCPU type name
#define KEY_HANDLER(f) \\
    static used __attribute__((section(".data.keys"))) int (*const key_##f)(int) = f
extern void register_key(int (*)(int));
#define LIVEPATCH_LOAD_HOOK(f) \\
    static used __attribute__((section(".livepatch.hooks.load"))) void (*const hook_##f)(void) = f
"""


def compared(folder: Path, before: str, after: str) -> Delta:
    """Compare two versions of an example."""
    return diff_c(folder, HEAD + before, HEAD + after, "-g", "-Wno-unused")


@pytest.mark.toolchain
@pytest.mark.parametrize("code", sorted(EXAMPLES))
def test_an_example_is_refused_and_the_other_way_is_not(code: str, tmp_path: Path) -> None:
    example = EXAMPLES[code]
    refused = compared(tmp_path, example.before, example.refused)
    said = {row.code for row in refused.refused} | {row.code for row in refused.boot}
    assert said == {code}
    instead = compared(tmp_path, example.before, example.instead)
    assert (instead.refused, instead.boot) == ((), ())
    assert instead.is_active


def test_explain_shows_the_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert EXAMPLES.keys() <= REFUSALS.keys()
    for code, example in EXAMPLES.items():
        assert cli.main(["explain", code]) == 0
        said = capsys.readouterr().out
        for text in (example.before, example.refused, example.instead):
            assert "".join(f"    {line}\n" for line in text.splitlines()) in said
    assert cli.main(["explain", "GENERATED"]) == 0
    assert "For example" not in capsys.readouterr().out
