# SPDX-License-Identifier: Apache-2.0
"""Capture on the real 4.17 tree: what is planned, and that objects come out as the tree's."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from difflib import unified_diff
from typing import TYPE_CHECKING

import pytest

from xsplice_plugins import capture
from xsplice_plugins.artefacts import Reach, Route
from xsplice_plugins.errors import CaptureError
from xsplice_plugins.kbuild.tree import locate_tree
from xsplice_plugins.patch import read_patch_set

if TYPE_CHECKING:
    from pathlib import Path

    from xsplice_plugins.artefacts import CapturePlan, CompileJob, ObjectPair, PatchSet

pytestmark = pytest.mark.xen


class Fix:
    """One patch of the real tree: its plan and its copies."""

    def __init__(self, root: Path, work: Path, *edits: tuple[str, str, str]) -> None:
        """Make the diff of some replacements: (path below xen/, old, new)."""
        self.tree = locate_tree(root)
        self.work = work
        parts = []
        for path, old, new in edits:
            text = (root / "xen" / path).read_text()
            assert old in text, f"{path} is not the expected release"
            lines = unified_diff(
                text.splitlines(keepends=True),
                text.replace(old, new, 1).splitlines(keepends=True),
                f"a/xen/{path}",
                f"b/xen/{path}",
            )
            parts.append("".join(lines))
        file = work / "fix.patch"
        file.write_text("".join(parts))
        self.patch_set: PatchSet = read_patch_set([file], source_root=self.tree.source_root)
        self.plan: CapturePlan = capture.plan(self.tree, self.patch_set)

    def pairs(self, jobs: tuple[CompileJob, ...] | None = None) -> dict[str, ObjectPair]:
        """Compile what is planned; the drift check is on."""
        pristine, patched = self.work / "pristine", self.work / "patched"
        capture.copy_tree(self.tree, pristine)
        capture.copy_tree(self.tree, patched, self.patch_set)

        def one(job: CompileJob) -> ObjectPair:
            prefix = self.work / "objects" / f"{job.object_path}.xsplice"
            prefix.parent.mkdir(parents=True, exist_ok=True)
            tree_object = self.tree.root / job.tree_object
            if job.reach is Reach.DIRECT:
                return capture.compile_pair(
                    job, pristine=pristine, patched=patched, tree_object=tree_object,
                    dest_prefix=prefix,
                    layouts=capture.compare_layouts(job, pristine=pristine, patched=patched),
                )  # fmt: skip
            return capture.capture_reached(
                job, pristine=pristine, patched=patched, tree_object=tree_object, store=None,
                dest_prefix=prefix,
            )  # fmt: skip

        with ThreadPoolExecutor(2) as pool:
            return {pair.object_path: pair for pair in pool.map(one, jobs or self.plan.jobs)}


def test_objects_come_out_byte_for_byte(xen_tree: Path, tmp_path: Path) -> None:
    """One of each kind: plain, built several times, through a link, and init-only."""
    fix = Fix(
        xen_tree,
        tmp_path,
        ("common/version.c", "return XEN_EXTRAVERSION;", 'return "Hello World";'),
        ("arch/x86/mm/guest_walk.c", "gw->va = va;", "gw->va = va + 1;"),
        ("common/efi/runtime.c", "return", "return 1 +"),
        ("arch/x86/dom0_build.c", "return -EINVAL", "return -ENOENT"),
    )
    assert fix.plan.route is Route.RECORDED
    paths = {job.object_path: job.source_path for job in fix.plan.jobs}
    assert paths == {
        "arch/x86/dom0_build.init.o": "arch/x86/dom0_build.c",
        "arch/x86/efi/compat.o": "common/efi/compat.c",
        "arch/x86/efi/runtime.o": "common/efi/runtime.c",
        "arch/x86/mm/guest_walk_2.o": "arch/x86/mm/guest_walk_2.c",
        "arch/x86/mm/guest_walk_3.o": "arch/x86/mm/guest_walk_3.c",
        "arch/x86/mm/guest_walk_4.o": "arch/x86/mm/guest_walk_4.c",
        "common/version.o": "common/version.c",
    }
    jobs = tuple(job for job in fix.plan.jobs if "efi" not in job.object_path)
    for path, pair in fix.pairs(jobs).items():
        assert pair.is_changed
        baseline = (tmp_path / "objects" / path).with_name(pair.baseline)
        assert baseline.read_bytes() == (xen_tree / "xen" / path).read_bytes()


@pytest.mark.slow
def test_a_header_fix_compiles_the_few_objects_that_use_it(xen_tree: Path, tmp_path: Path) -> None:
    fix = Fix(
        xen_tree,
        tmp_path,
        (
            "arch/x86/include/asm/paging.h",
            "    return !(gfn_x(gfn) >>",
            "    if ( gfn_x(gfn) == 77 )\n        return false;\n    return !(gfn_x(gfn) >>",
        ),
    )
    assert len(fix.plan.jobs) > 170
    pairs = fix.pairs()
    changed = [path for path, pair in pairs.items() if pair.is_changed]
    assert changed == [
        "arch/x86/hvm/vmx/vvmx.o",
        "arch/x86/mm/guest_walk_4.o",
        "arch/x86/mm/shadow/guest_2.o",
        "arch/x86/mm/shadow/guest_3.o",
        "arch/x86/mm/shadow/guest_4.o",
    ]
    # The rule that spares a compile is right: compile some of the spared ones all the same.
    spared = [job for job in fix.plan.jobs if not pairs[job.object_path].is_changed][::40]
    for job in spared:
        out = tmp_path / "spared.o"
        capture.compile_object(job, tmp_path / "patched", out)
        assert out.read_bytes() == (xen_tree / job.tree_object).read_bytes()


def test_a_structure_in_a_header_is_refused_by_field(xen_tree: Path, tmp_path: Path) -> None:
    fix = Fix(
        xen_tree,
        tmp_path,
        ("include/xen/sched.h", "struct domain\n{", "struct domain\n{\n    int live_patch;"),
    )
    few = tuple(
        job for job in fix.plan.jobs if job.object_path in {"common/domain.o", "asm-offsets.s"}
    )
    assert len(few) == 2
    refused = [(row.name, row.code) for pair in fix.pairs(few).values() for row in pair.refused]
    assert sorted(refused) == [
        ("asm-offsets.s", "GENERATED"),
        ("struct domain: field live_patch", "LAYOUT"),
    ]


def test_offsets_for_assembler_are_generated_again(xen_tree: Path, tmp_path: Path) -> None:
    """The command is not recorded; what is put together gives the tree's own file."""
    fix = Fix(
        xen_tree,
        tmp_path,
        ("include/xen/sched.h", "struct domain\n{", "struct domain\n{\n    int live_patch;"),
    )
    (job,) = (job for job in fix.plan.jobs if job.object_path == "asm-offsets.s")
    capture.compile_object(job, xen_tree, tmp_path / "asm-offsets.s")
    kept = [
        line
        for path in (tmp_path / "asm-offsets.s", xen_tree / "xen/asm-offsets.s")
        for line in [[x for x in path.read_text().splitlines() if x.startswith("#define")
                      or "==>" in x or ".ascii" in x]]
    ]  # fmt: skip
    assert kept[0] == kept[1]
    assert kept[0]


def test_a_generated_header_is_followed_only_if_it_changes(xen_tree: Path, tmp_path: Path) -> None:
    public = "include/public/physdev.h"
    same = Fix(xen_tree, tmp_path, (public, "#define", "#define XSPLICE_TEST 1\n#define"))
    assert same.plan.route is Route.RECORDED
    new = "struct physdev_other { uint32_t a; };\nstruct physdev_eoi {"
    other = Fix(xen_tree, tmp_path, (public, "struct physdev_eoi {", new))
    assert other.plan.route is Route.MAKE
    assert other.plan.reason == (
        "include/compat/physdev.h is generated from xen/include/public/physdev.h and its "
        "content changes"
    )


def test_assembler_is_refused(xen_tree: Path, tmp_path: Path) -> None:
    fix = Fix(
        xen_tree,
        tmp_path,
        ("arch/x86/x86_64/entry.S", "        pushq %rcx\n", "        nop\n        pushq %rcx\n"),
    )
    assert [(refusal.name, refusal.code) for refusal in fix.plan.refused] == [
        ("xen/arch/x86/x86_64/entry.S", "ASSEMBLER"),
    ]


@pytest.mark.slow
def test_a_new_file_goes_through_make_and_only_the_change_comes_back(
    xen_tree: Path, tmp_path: Path
) -> None:
    fix = Fix(
        xen_tree,
        tmp_path,
        ("common/Makefile", "obj-y += version.o", "obj-y += version.o\nobj-y += xsplice_new.o"),
        (
            "common/version.c",
            "const char *xen_extra_version(void)",
            "const char *xsplice_new(void);\nconst char *xen_extra_version(void)",
        ),
    )
    added = (
        "--- /dev/null\n+++ b/xen/common/xsplice_new.c\n@@ -0,0 +1,5 @@\n"
        "+const char *xsplice_new(void);\n+const char *xsplice_new(void)\n+{\n"
        '+    return "new";\n+}\n'
    )
    text = fix.patch_set.patches[0].text + added
    file = tmp_path / "more.patch"
    file.write_text(text)
    patch_set = read_patch_set([file], source_root=fix.tree.source_root)
    plan = capture.plan(fix.tree, patch_set)
    assert plan.route is Route.MAKE
    pairs = capture.make_route(
        fix.tree, plan, patch_set, tmp_path / "make", tmp_path / "objects", jobs=2
    )
    assert [pair.object_path for pair in pairs] == ["common/xsplice_new.o"]
    new = tmp_path / "objects/common" / pairs[0].new
    names = subprocess.run(["nm", "-a", new], capture_output=True, text=True, check=True).stdout
    assert " a common/xsplice_new.c" in names
    assert not (tmp_path / "make").exists()
    broken = text.replace('return "new";', "return broken;")
    file.write_text(broken)
    patch_set = read_patch_set([file], source_root=fix.tree.source_root)
    with pytest.raises(CaptureError, match=r"does not build(.|\n)*xsplice_new.c:4:12: error:"):
        capture.make_route(
            fix.tree, plan, patch_set, tmp_path / "make", tmp_path / "objects", jobs=2
        )
