# SPDX-License-Identifier: Apache-2.0
"""A real Xen of every release at hand takes a payload, whether or not Debian has its tool.

With ``XSPLICE_QEMU=1``; `tests.xen.trees` says which trees are at hand.
"""

from __future__ import annotations

import json
import os
import sys
from difflib import unified_diff
from pathlib import Path

import pytest

from tests.faces.kit import run
from tests.xen.trees import located, trees

pytestmark = [
    pytest.mark.xen,
    pytest.mark.qemu,
    pytest.mark.skipif(not os.environ.get("XSPLICE_QEMU"), reason="XSPLICE_QEMU is not set"),
]
SOURCE = "xen/common/version.c"
FUNCTION = "xen_extra_version(void)"


def fix_of(tree: Path) -> str:
    """Return a diff that gives one function another answer, in any release."""
    old = (tree / SOURCE).read_text()
    at = old.index("return", old.index(FUNCTION))
    new = old[:at] + 'if ( system_state > 99 )\n        return "never";\n    ' + old[at:]
    new = new.replace("#include", "#include <xen/kernel.h>\n#include", 1)
    lines = (text.splitlines(keepends=True) for text in (old, new))
    return "".join(unified_diff(*lines, f"a/{SOURCE}", f"b/{SOURCE}"))


@pytest.mark.parametrize("name", trees())
def test_a_real_xen_of_the_release_takes_a_payload(name: str, tmp_path: Path) -> None:
    tree = trees()[name]
    patch = tmp_path / "fix.patch"
    patch.write_text(fix_of(tree))
    words = ("--xen", tree, "--build", tmp_path / "build", "--out", tmp_path / "out")
    command = [sys.executable, "-m", "xsplice_plugins", "patch", patch, *words]
    ended = run([*command, "--verify", "--on", "model,qemu"])
    assert ended.status == 0, ended.text
    report = json.loads((tmp_path / "out" / "fix.verify.json").read_text())
    said = [row["text"] for row in report["findings"] if row["check"] == "qemu"]
    assert said, report
    assert said[0].startswith("real Xen uploaded, applied, reverted and unloaded it, twice")
    assert report["release"] == located(tree).release
