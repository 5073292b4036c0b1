# SPDX-License-Identifier: Apache-2.0
"""``xsplice values`` on a real tree: a real Xen has the new value while the payload is applied."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

import pytest

from xsplice_plugins import cli
from xsplice_plugins.realxen import Machine, Step

pytestmark = pytest.mark.xen

FILE = "xen/arch/x86/acpi/cpu_idle.c"
#: Says what the variable holds.
PROBE = """
#include <xen/acpi.h>
#include <xsplice.h>
static int cf_check asks(struct payload *p)
{
    printk("limit is %u\\n", max_csubstate);
    return 0;
}
XSPLICE_PREAPPLY_HOOK(asks);
static unsigned int minor(void) { return 66; }
XSPLICE_REPLACE("xen_minor_version", minor);
"""


@pytest.fixture(scope="module")
def fix(xen_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the fix, written again."""
    folder = tmp_path_factory.mktemp("values")
    old = (xen_tree / FILE).read_text()
    new = old.replace("max_csubstate __read_mostly = UINT_MAX", "max_csubstate __read_mostly = 7")
    assert new != old
    rows = (text.splitlines(keepends=True) for text in (old, new))
    (folder / "plain.patch").write_text(
        "".join(difflib.unified_diff(*rows, f"a/{FILE}", f"b/{FILE}"))
    )
    words = ["values", folder / "plain.patch", "--variable", "max_csubstate", "--xen", xen_tree]
    assert cli.main([str(word) for word in [*words, "--out", folder / "fix.patch"]]) == 0
    return folder / "fix.patch"


def patched(fix: Path, tree: Path, name: str) -> int:
    """Run ``xsplice patch --verify``; return its status."""
    words = ["patch", fix.with_name(f"{name}.patch"), "--xen", tree, "--out", fix.parent]
    return cli.main([str(word) for word in [*words, "--verify"]])


def test_what_was_refused_is_proved(fix: Path, xen_tree: Path) -> None:
    assert patched(fix, xen_tree, "plain") == 4
    assert patched(fix, xen_tree, "fix") == 0


@pytest.mark.qemu
@pytest.mark.skipif(os.environ.get("XSPLICE_QEMU") != "1", reason="XSPLICE_QEMU=1 is not set")
def test_the_value_is_there_while_it_is_applied(fix: Path, xen_tree: Path) -> None:
    assert patched(fix, xen_tree, "fix") == 0
    source = fix.with_name("probe.c")
    source.write_text(PROBE)
    payloads = {"fix": fix.with_name("fix.livepatch").read_bytes()}
    for name in ("plain", "stacked"):
        out = fix.with_name(f"{name}-probe.livepatch")
        words = ["build", source, "--xen", xen_tree, "--name", name, "--out", out]
        words += ["--depends", fix.with_name("fix.livepatch")] if name == "stacked" else []
        assert cli.main([str(word) for word in [*words, "--signer", "none"]]) == 0
        payloads[name] = out.read_bytes()
    order = (
        ("plain", "upload apply revert unload"),
        ("fix", "upload apply"),
        ("stacked", "upload apply revert unload"),
        ("fix", "revert unload"),
        ("plain", "upload apply"),
    )
    steps = [
        Step(verb=verb, name=name, payload=name if verb == "upload" else "")
        for name, verbs in order
        for verb in verbs.split()
    ]
    run = Machine.prepare(xen_tree / "xen" / "xen").run(steps, payloads)
    assert [step.error for step in run.steps] == [0] * len(steps), run.console[-2000:]
    assert re.findall(r"limit is (\d+)", run.console) == [str(2**32 - 1), "7", str(2**32 - 1)]
