# SPDX-License-Identifier: Apache-2.0
"""Fixtures that several test folders share."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from xsplice_plugins.testing import (  # noqa: E402, F401  # fixtures, where xsplice is not installed
    fake_distribution,
    scons_project,
    xsplice_manager,
)

#: Who runs tests in the background has SIGINT ignored, and so have all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def xen_tree() -> Path:
    """Return the root of a built Xen 4.17 tree; skip where none was given."""
    named = os.environ.get("XSPLICE_XEN_TREE")
    if not named:
        pytest.skip("XSPLICE_XEN_TREE is not set; run `make test-xen`")
    tree = Path(named)
    assert (tree / "xen" / "xen-syms").is_file(), f"{tree} is not a built Xen tree"
    return tree
