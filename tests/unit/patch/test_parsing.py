# SPDX-License-Identifier: Apache-2.0
"""Headers of unified diffs as different programs write them."""

from __future__ import annotations

import pytest

from xsplice_plugins.patch.parsing import parse


@pytest.mark.parametrize(
    "stamp", ["1970-01-01 00:00:00.000000000 +0000", "1969-12-31 19:00:00 -0500"]
)
def test_epoch_stamps_of_diff_n_mean_that_a_file_is_not_there(stamp: str) -> None:
    text = f"--- a/new.c\t{stamp}\n+++ b/new.c\t2026-01-02 03:04:05 +0000\n@@ -0,0 +1 @@\n+int x;\n"
    (change,) = parse(text, "fix.patch")
    assert change.path_old is None
    assert change.path_new == "b/new.c"
    text = f"--- a/old.c\t2026-01-02 03:04:05 +0000\n+++ b/old.c\t{stamp}\n@@ -1 +0,0 @@\n-int x;\n"
    (change,) = parse(text, "fix.patch")
    assert change.path_old == "a/old.c"
    assert change.path_new is None
