# SPDX-License-Identifier: Apache-2.0
"""``xsplice shadow`` on a real tree, and its objects on a real Xen, made before and after."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

import pytest

from xsplice_plugins import cli
from xsplice_plugins.realxen import Machine, Step

pytestmark = pytest.mark.xen

FILE = "xen/common/rangeset.c"
#: A fix that counts what is asked of each set, and says so: behind what, and what.
EDITS = (
    ("struct rangeset {", "", "\n    unsigned long asked;"),
    ("rangeset_new(", "r->nr_ranges = -1;", "\n    r->asked = 0;"),
    (
        "rangeset_add_range(",
        "ASSERT(s <= e);",
        '\n    printk("%s asked %lu\\n", r->name, ++r->asked);',
    ),
)
#: Adds what is there already to a set of dom0, and to two that come and go.
PROBE = """
#include <xen/iocap.h>
#include <xen/rangeset.h>
#include <xen/sched.h>
#include <xsplice.h>
static int cf_check asks(struct payload *p)
{
    struct rangeset *old = hardware_domain->iomem_caps, *first, *second;
    int i;

    first = rangeset_new(NULL, "first", 0);
    for ( i = 0; i < 3; i++ )
        if ( rangeset_add_range(old, 5, 5) || rangeset_add_range(first, 7, 7) )
            return -EINVAL;
    rangeset_destroy(first);
    second = rangeset_new(NULL, "second", 0);
    printk("same place: %d\\n", first == second);
    if ( rangeset_add_range(second, 7, 7) )
        return -EINVAL;
    rangeset_destroy(second);
    return 0;
}
XSPLICE_PREAPPLY_HOOK(asks);
static unsigned int minor(void) { return 66; }
XSPLICE_REPLACE("xen_minor_version", minor);
"""


@pytest.fixture(scope="module")
def fix(xen_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the fix, written again."""
    folder = tmp_path_factory.mktemp("shadow")
    old = (xen_tree / FILE).read_text()
    new = old
    for head, behind, more in EDITS:
        place = new.index(head)
        at = new.index(behind, place) + len(behind or head)
        new = new[:at] + more + new[at:]
    rows = (text.splitlines(keepends=True) for text in (old, new))
    (folder / "plain.patch").write_text(
        "".join(difflib.unified_diff(*rows, f"a/{FILE}", f"b/{FILE}"))
    )
    words = ["shadow", folder / "plain.patch", "--member", "rangeset.asked", "--xen", xen_tree]
    assert cli.main([str(word) for word in [*words, "--out", folder / "fix.patch"]]) == 0
    return folder / "fix.patch"


def patched(fix: Path, tree: Path, name: str) -> int:
    """Run ``xsplice patch --verify``; return its status."""
    words = [
        "patch",
        fix.with_name(f"{name}.patch"),
        "--xen",
        tree,
        "--out",
        fix.parent,
        "--verify",
    ]
    return cli.main([str(word) for word in words])


def test_what_was_refused_is_proved(fix: Path, xen_tree: Path) -> None:
    assert patched(fix, xen_tree, "plain") == 4
    assert patched(fix, xen_tree, "fix") == 0


@pytest.mark.qemu
@pytest.mark.skipif(os.environ.get("XSPLICE_QEMU") != "1", reason="XSPLICE_QEMU=1 is not set")
def test_objects_made_before_and_after_have_their_own(fix: Path, xen_tree: Path) -> None:
    assert patched(fix, xen_tree, "fix") == 0
    probe = fix.with_name("probe.livepatch")
    probe.with_suffix(".c").write_text(PROBE)
    words = ["build", probe.with_suffix(".c"), "--xen", xen_tree, "--name", "probe", "--out", probe]
    words += ["--depends", fix.with_name("fix.livepatch")]
    assert cli.main([str(word) for word in [*words, "--signer", "none"]]) == 0
    names = ["fix", "probe"]
    steps = [Step(verb="upload", name="fix", payload="fix"), Step(verb="apply", name="fix")]
    steps += [Step(verb="upload", name="probe", payload="probe"), Step(verb="apply", name="probe")]
    steps += [Step(verb=verb, name=name) for name in names[::-1] for verb in ("revert", "unload")]
    payloads = {name: fix.with_name(f"{name}.livepatch").read_bytes() for name in names}
    run = Machine.prepare(xen_tree / "xen" / "xen").run(steps, payloads)
    assert [step.error for step in run.steps] == [0] * len(steps), run.console[-2000:]
    told = re.findall(r"([\w ]+) asked (\d+)", run.console)
    counts = [(name.strip(), int(count)) for name, count in told]
    old = [count for name, count in counts if name not in {"first", "second"}]
    assert old == [1, 2, 3]
    assert [row for row in counts if row[0] == "first"] == [("first", n) for n in (1, 2, 3)]
    assert [row for row in counts if row[0] == "second"] == [("second", 1)]
    assert "same place: 1" in run.console
