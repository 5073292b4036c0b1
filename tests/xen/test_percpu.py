# SPDX-License-Identifier: Apache-2.0
"""``xsplice percpu`` on a real tree: its hook asks which CPUs run, which a real Xen answers."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

import pytest

from xsplice_plugins import cli

pytestmark = pytest.mark.xen

FILE = "xen/arch/x86/acpi/cpu_idle.c"
HEAD = "uint32_t pmstat_get_cx_nr(uint32_t cpuid)\n{\n"
NEW = (
    f"static DEFINE_PER_CPU(unsigned int, asked);\n\n{HEAD}"
    '    printk("asked %u\\n", ++per_cpu(asked, cpuid));\n'
)
#: No file tells how long a host has been up.
START = '({ if ( NOW() > SECONDS(50) ) printk("late %u", cpu); cpu + 1; })'
UNPROVED = 5


@pytest.fixture(scope="module")
def fix(xen_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the fix, written again."""
    folder = tmp_path_factory.mktemp("percpu")
    old = (xen_tree / FILE).read_text()
    assert HEAD in old
    rows = (text.splitlines(keepends=True) for text in (old, old.replace(HEAD, NEW)))
    (folder / "plain.patch").write_text(
        "".join(difflib.unified_diff(*rows, f"a/{FILE}", f"b/{FILE}"))
    )
    words = ["percpu", folder / "plain.patch", "--variable", "asked", "--start", START]
    words += ["--xen", xen_tree, "--out", folder / "fix.patch"]
    assert cli.main([str(word) for word in words]) == 0
    return folder / "fix.patch"


def patched(fix: Path, tree: Path, name: str, *more: str) -> int:
    """Run ``xsplice patch --verify``; return its status."""
    words = ["patch", fix.with_name(f"{name}.patch"), "--xen", tree, "--out", fix.parent]
    return cli.main([*(str(word) for word in words), "--verify", *more])


def test_without_a_real_xen_a_word_is_not_enough(
    fix: Path, xen_tree: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert patched(fix, xen_tree, "plain") == 4
    assert patched(fix, xen_tree, "fix") == UNPROVED
    assert (
        "ACCEPT=HOOK:load takes it on your word, and a real Xen has to run it"
        in capfd.readouterr().out
    )
    assert patched(fix, xen_tree, "fix", "--accept", "HOOK:load") == UNPROVED
    assert "; a real Xen has to run it (ON=model,qemu)" in capfd.readouterr().out


@pytest.mark.qemu
@pytest.mark.skipif(os.environ.get("XSPLICE_QEMU") != "1", reason="XSPLICE_QEMU=1 is not set")
def test_a_word_and_a_real_xen_are(
    fix: Path, xen_tree: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert patched(fix, xen_tree, "fix", "--on", "model,qemu") == UNPROVED
    assert patched(fix, xen_tree, "fix", "--on", "model,qemu", "--accept", "HOOK:load") == 0
    said = capfd.readouterr().out
    assert "on a person's word: HOOK:load: what the load hook does" in said
    assert "the time since boot; a real Xen ran it" in said
