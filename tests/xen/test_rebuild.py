# SPDX-License-Identifier: Apache-2.0
"""A full rebuild of a real Xen tree as the judge of a payload, and what it must not let pass.

``rebuild_table.py`` holds every accepted hot-patch that way.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.kit.build import ROOT, scons
from xsplice_plugins.artefacts import (
    PayloadRecord,
    Severity,
    Sources,
    VerifyRequest,
    load,
)
from xsplice_plugins.errors import CaptureError
from xsplice_plugins.kbuild.facts import facts_of_tree
from xsplice_plugins.kbuild.tree import locate_tree
from xsplice_plugins.patch import read_patch_set
from xsplice_plugins.plugins.spec import Config
from xsplice_plugins.rebuild import verify_by_rebuild

pytestmark = pytest.mark.xen

FOLDER = ROOT / "xen-patches" / "regression" / "4.17"
#: Touches what the accepted patch below does not.
LEFT_OUT = """--- a/xen/common/version.c
+++ b/xen/common/version.c
@@ -60 +60 @@
-    return XEN_EXTRAVERSION;
+    return XEN_EXTRAVERSION "-more";
"""
SCRIPT = """--- a/xen/arch/x86/xen.lds.S
+++ b/xen/arch/x86/xen.lds.S
@@ -0,0 +1 @@
+ASSERT(1, "always")
"""
Judge = Callable[[str], list[tuple[Severity, str]]]


@pytest.fixture(scope="module")
def judge(xen_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Judge:
    """Return a run of the verifier on the payload of a header fix, with more patched than that."""
    folder = tmp_path_factory.mktemp("judge")
    fix = FOLDER / "header-inline" / "fix.patch"
    scons("xsplice", folder, XEN=xen_tree, PATCH=fix, NAME="fix", SIGNER="none").assert_success()
    facts = facts_of_tree(locate_tree(xen_tree), cache=folder / "facts")
    payload = folder / "fix/fix.livepatch"
    record = load(folder / "fix/fix.payload.json", PayloadRecord)
    config = Config(release="4.17.5", facts=facts)

    def run(more: str) -> list[tuple[Severity, str]]:
        beside = folder / "more.patch"
        beside.write_text(more)
        files = [fix, beside] if more else [fix]
        request = VerifyRequest(
            payload_path=payload,
            image_path=xen_tree / "xen/xen-syms",
            release="4.17.5",
            sources=Sources(
                tree=xen_tree / "xen", patch_set=read_patch_set(files, source_root=xen_tree)
            ),
        )
        asked = replace(record, patches=())
        found = verify_by_rebuild(payload.read_bytes(), asked, request, config)
        return [(row.severity, row.text) for row in found]

    return run


def test_an_accepted_hot_patch_is_held_and_the_tree_stays_as_it_is(
    judge: Judge, xen_tree: Path
) -> None:
    before = {path: path.lstat().st_mtime_ns for path in (xen_tree / "xen").rglob("*")}
    ((severity, text),) = judge("")
    assert severity is Severity.HELD, text
    assert "4 of 383 objects made again, 3 differ; the patched image is the link" in text
    assert "3 replaced and 143 untouched functions" in text
    assert {path: path.lstat().st_mtime_ns for path in (xen_tree / "xen").rglob("*")} == before


def test_a_function_that_was_left_out_is_named(judge: Judge) -> None:
    ((severity, text),) = judge(LEFT_OUT)
    assert severity is Severity.ERROR
    assert text.startswith("xen_extra_version in common/version.o differs in a full rebuild")
    assert "it is not replaced" in text


def test_another_linker_script_is_named(judge: Judge) -> None:
    ((severity, text),) = judge(SCRIPT)
    assert severity is Severity.ERROR
    assert text == "arch/x86/xen.lds: the linker script differs in a full rebuild"


def test_a_tree_that_does_not_build_is_refused(judge: Judge) -> None:
    with pytest.raises(CaptureError, match=r"does not build(.|\n)*common/version.c:60:"):
        judge(LEFT_OUT.replace('"-more"', '"-more" +'))
