# SPDX-License-Identifier: Apache-2.0
"""Stages of a function that is left and entered again."""

from __future__ import annotations

import pytest

from xsplice_plugins.csource.stages import reordered_stages

MACRO = """#define STAGE(x) d->at = AT_ ## x; fallthrough; case AT_ ## x
int end(struct d *d)
{
    switch ( d->at )
    {
    case AT_none:
        lock(d);
    @
    STAGE(done):
        break;
    }
    return 0;
}
"""
ONE, TWO = (f"STAGE({x}): rc = put_{x}(d); if ( rc ) return rc;" for x in ("one", "two"))
CASES = MACRO.replace("STAGE(done):", "").replace("lock(d)", "d->at = ONE; d->at = TWO; lock(d)")
CASE_ONE, CASE_TWO = ("case ONE: put_one(d);", "case TWO: put_two(d);")


@pytest.mark.parametrize(
    ("text", "one", "two"),
    [(MACRO, ONE, TWO), (CASES, CASE_ONE, CASE_TWO)],
)
def test_stages_that_change_places(text: str, one: str, two: str) -> None:
    old, new = text.replace("@", f"{one} {two}"), text.replace("@", f"{two} {one}")
    ((path, said),) = reordered_stages((("a.c", old, new),))
    assert path == "a.c"
    assert said.startswith("the stages `")
    assert "of `end` have another order" in said


@pytest.mark.parametrize(
    ("text", "old", "new"),
    [
        (MACRO, ONE, f"{ONE} {TWO}"),
        (MACRO, f"{ONE} {TWO}", f"{TWO}"),
        (MACRO, f"{ONE} {TWO}", f"{ONE} lock(d); {TWO}"),
        # Nothing leads from one to the other, or no state is stored.
        (CASES, f"break; {CASE_ONE} break; {CASE_TWO} break;",
         f"break; {CASE_TWO} break; {CASE_ONE} break;"),
        (CASES, "case 1: put(d); case 2: end(d);", "case 2: end(d); case 1: put(d);"),
    ],
)  # fmt: skip
def test_stages_in_their_order(text: str, old: str, new: str) -> None:
    sides = (text.replace("@", part) for part in (old, new))
    assert reordered_stages((("a.c", *sides),)) == ()
