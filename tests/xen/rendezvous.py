# SPDX-License-Identifier: Apache-2.0
"""A payload that shows in what dom0 is told of Xen's version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins import cli

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = """#include <xsplice.h>
static unsigned int minor(void) { return 66; }
XSPLICE_REPLACE("xen_minor_version", minor);
"""


def payload_for(tree: Path, folder: Path) -> bytes:
    """Build a payload that makes any Xen's minor version 66."""
    source, path = folder / "p.c", folder / "p.livepatch"
    source.write_text(SOURCE)
    words = ["build", str(source), "--xen", str(tree), "--name", "p", "--signer", "none"]
    assert cli.main([*words, "--out", str(path)]) == 0
    return path.read_bytes()
