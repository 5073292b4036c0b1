# SPDX-License-Identifier: Apache-2.0
"""Which way a fix goes, and what is refused before anything is compiled."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.kit.tiny_tree import TinyTree
from xsplice_plugins import capture
from xsplice_plugins.artefacts import Route, TouchedFile, TouchKind
from xsplice_plugins.capture.planning import _not_replaceable
from xsplice_plugins.errors import NoFunctionalChangeError
from xsplice_plugins.kbuild.tree import locate_tree

if TYPE_CHECKING:
    from xsplice_plugins.artefacts import PatchSet

pytestmark = pytest.mark.toolchain


def plan_of(tree: TinyTree, fix: PatchSet) -> capture.CapturePlan:
    """Plan a fix."""
    return capture.plan(locate_tree(tree.root), fix)


def test_assembler_is_refused_by_name(built: TinyTree) -> None:
    (refusal,) = plan_of(built, built.patch(("xen/common/entry.S", "ret", "nop\n    ret"))).refused
    assert (refusal.name, refusal.code) == ("xen/common/entry.S", "ASSEMBLER")


@pytest.mark.parametrize(
    ("path", "code"),
    [("xen/arch/x86/xen.lds.S", "LINK"), ("xen/arch/x86/boot/head.S", "ASSEMBLER")],
)
def test_a_linker_script_is_refused_as_one(path: str, code: str) -> None:
    file = TouchedFile(path=path, kind=TouchKind.ASSEMBLER, is_added=False, is_removed=False)
    assert _not_replaceable(file).code == code


def test_what_is_refused_stays_refused_on_the_route_through_make(built: TinyTree) -> None:
    """Make builds assembler gladly, and its objects are not compared as C."""
    plan = plan_of(
        built,
        built.patch(
            ("xen/Makefile", "export", "A=\nexport"), ("xen/common/entry.S", "ret", "nop\n ret")
        ),
    )
    assert plan.route is Route.MAKE
    assert [refusal.code for refusal in plan.refused] == ["ASSEMBLER"]


def test_new_files_and_makefiles_go_through_make(built: TinyTree) -> None:
    added = "--- /dev/null\n+++ b/xen/common/new.c\n@@ -0,0 +1 @@\n+int a;\n"
    plan = plan_of(built, built.patch_text(added))
    assert plan.route is Route.MAKE
    assert plan.reason == "xen/common/new.c is new, so no command is recorded for it"
    plan = plan_of(built, built.patch(("xen/Makefile", "export", "A=\nexport")))
    assert not plan.refused
    assert (plan.route, plan.reason) == (Route.MAKE, "xen/Makefile is a Makefile or Kconfig")


@pytest.mark.parametrize(
    ("old", "new", "is_refused"),
    [
        ("= 17", "= 18", True),
        (".5", ".6", True),
        ("export XEN_SUBVERSION", "XEN_VENDORVERSION = -a\nexport XEN_SUBVERSION", True),
        ("= 17", "=\t17  # as it was", False),
        ("= 17", "= 17\nXEN_BUILD_HOST = here", False),
    ],
)
def test_another_version_is_refused_before_anything_is_made(
    old: str, new: str, is_refused: bool, built: TinyTree
) -> None:
    """It is in every object that reads compile.h; make would need minutes to say so."""
    plan = plan_of(built, built.patch(("xen/Makefile", old, new)))
    assert [refusal.code for refusal in plan.refused] == ["VERSION"] * is_refused


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("docs/words.txt", "words", "other words"),
        ("xen/common/version.c", "#include", "/* words */\n#include"),
    ],
    ids=["outside", "comment"],
)
def test_what_changes_no_object_has_its_own_error(
    built: TinyTree, path: str, old: str, new: str
) -> None:
    with pytest.raises(NoFunctionalChangeError) as caught:
        plan_of(built, built.patch((path, old, new)))
    assert caught.value.exit_status == 3


@pytest.fixture
def generating(own_tree: TinyTree) -> TinyTree:
    """Return a tree in which a script makes a header of another header's first comment."""
    folder = own_tree.root / "xen"
    (folder / "include/public").mkdir()
    (folder / "include/public/feature.h").write_text("/*A words*/\nint feature;\n")
    (folder / "gen.sh").write_text("sed -n 's,^/\\*\\(.\\).*,#define GEN \"\\1\",p' $1\n")
    command = "sh gen.sh include/public/feature.h > include/xen/gen.h"
    subprocess.run(["sh", "-c", command], cwd=folder, check=True)
    (folder / "include/xen/.gen.h.cmd").write_text(f"cmd_include/xen/gen.h := {command}\n")
    (folder / "common/user.c").write_text(
        "#include <xen/gen.h>\nconst char *user(void)\n{\n    return GEN;\n}\n"
    )
    own_tree.build()
    return own_tree


def test_a_comment_that_a_generator_reads_is_an_input(generating: TinyTree) -> None:
    edit = ("xen/include/public/feature.h", "/*A", "/*B")
    other = ("xen/common/version.c", "FILE_NAME", '"hello"')
    for edits in ((edit,), (edit, other)):
        plan = plan_of(generating, generating.patch(*edits))
        assert plan.route is Route.MAKE
        assert plan.reason == (
            "include/xen/gen.h is generated from xen/include/public/feature.h and its content "
            "changes"
        )


def test_a_comment_that_a_generator_passes_over_is_none(generating: TinyTree) -> None:
    header = "xen/include/public/feature.h"
    for edit in ((header, "A words", "A few"), (header, "int feature;", "int feature; /* 1 */")):
        with pytest.raises(NoFunctionalChangeError, match="comments or blank lines only"):
            plan_of(generating, generating.patch(edit))
        other = ("xen/common/version.c", "FILE_NAME", '"hello"')
        plan = plan_of(generating, generating.patch(edit, other))
        assert plan.route is Route.RECORDED
        assert [job.object_path for job in plan.jobs] == ["common/version.o"]
