# SPDX-License-Identifier: Apache-2.0
"""Bad input: one clear message, non-zero exit, nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kit.build import ROOT, Run, scons

CORE = ROOT / "xen-patches" / "regression" / "core"
GOOD = CORE / "extra-version" / "fix.patch"

pytestmark = [pytest.mark.scons, pytest.mark.toolchain]


def assert_refused(run: Run, *words: str, status: int = 2) -> None:
    """Fail unless the run ended with this status and a message with all words."""
    assert run.status == status, run.text
    for word in words:
        assert word in run.text, run.text


def payloads(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if ".livepatch" in path.name]


def version_patch(folder: Path, line: str) -> Path:
    """Return a patch that adds a line in front of the core's ``xen_extra_version``."""
    text = (ROOT / "tests/projects/core/common/version.c").read_text().splitlines()
    number = next(i for i, each in enumerate(text, 1) if "xen_extra_version" in each)
    path = folder / "fix.patch"
    path.write_text(
        "--- a/common/version.c\n+++ b/common/version.c\n"
        f"@@ -{number - 1},0 +{number} @@\n+{line}\n"
    )
    return path


def test_patch_for_xen_without_a_tree_asks_for_it(tmp_path: Path) -> None:
    patch = tmp_path / "xsa.patch"
    patch.write_text("--- a/xen/common/domctl.c\n+++ b/xen/common/domctl.c\n@@ -1 +1 @@\n-a\n+b\n")
    run = scons("xsplice", tmp_path / "build", PATCH=patch)
    assert_refused(run, "XEN is not set")
    assert payloads(tmp_path) == []


def test_folder_that_is_no_xen_tree_is_named(tmp_path: Path) -> None:
    run = scons("xsplice", tmp_path / "build", XEN=tmp_path, PATCH=GOOD)
    assert_refused(run, str(tmp_path), "Xen")


def test_missing_tree_is_named(tmp_path: Path) -> None:
    run = scons("xsplice", tmp_path / "build", XEN=tmp_path / "nowhere", PATCH=GOOD)
    assert_refused(run, "nowhere")


def test_missing_patch_is_named(tmp_path: Path) -> None:
    run = scons("xsplice", tmp_path / "build", PATCH=tmp_path / "no.patch")
    assert_refused(run, "no.patch", "no such file")


def test_patch_that_does_not_apply_names_file_and_hunk(tmp_path: Path) -> None:
    patch = tmp_path / "fix.patch"
    patch.write_text(
        "--- a/common/version.c\n+++ b/common/version.c\n@@ -1,1 +1,1 @@\n-not there\n+nor this\n"
    )
    run = scons("xsplice", tmp_path / "build", PATCH=patch)
    assert_refused(run, "common/version.c", "hunk 1")
    assert payloads(tmp_path) == []


def test_empty_patch_is_refused(tmp_path: Path) -> None:
    patch = tmp_path / "fix.patch"
    patch.write_text("")
    assert_refused(scons("xsplice", tmp_path / "build", PATCH=patch), "fix.patch", "empty")


def test_comment_only_patch_has_its_own_exit_status(tmp_path: Path) -> None:
    patch = version_patch(tmp_path, "/* a remark */")
    run = scons("xsplice", tmp_path / "build", PATCH=patch)
    assert_refused(run, "no functional change", status=3)
    assert payloads(tmp_path) == []


def test_compile_error_shows_the_compilers_own_lines(tmp_path: Path) -> None:
    patch = version_patch(tmp_path, "int broken( { return 1; }")
    run = scons("xsplice", tmp_path / "build", PATCH=patch)
    assert_refused(run, "common/version.c", "error: expected")
    assert payloads(tmp_path) == []


def test_unknown_signer_is_refused_before_anything_is_compiled(tmp_path: Path) -> None:
    run = scons("xsplice", tmp_path, SIGNER="acme")
    assert_refused(run, "acme", "not installed", "cms", "none")
    assert "CC " not in run.out


def test_two_signers_of_one_name_are_refused(tmp_path: Path) -> None:
    body = (
        "from xsplice_plugins import hookimpl\n"
        "class Signer:\n"
        "    @hookimpl\n"
        "    def xsplice_sign_payload(self, data, record, config):\n"
        "        return None\n"
        "acme = Signer()\n"
    )
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(body)
    plugins = f"acme={tmp_path}/one.py,acme={tmp_path}/two.py"
    run = scons("xsplice", tmp_path, SIGNER="acme", environ={"XSPLICE_PLUGINS": plugins})
    assert_refused(run, "acme")
    assert payloads(tmp_path) == []


def test_key_that_does_not_fit_the_certificate_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x"),
                *("-keyout", str(tmp_path / f"{name}.key"), "-out", str(tmp_path / f"{name}.pem")),
            ],
            check=True,
            capture_output=True,
        )
    run = scons("xsplice", tmp_path / "b", KEY=tmp_path / "a.key", CERT=tmp_path / "b.pem")
    assert_refused(run, "a.key", "b.pem")
    assert not (tmp_path / "b/extra-version/extra-version.livepatch").exists()


def test_unknown_variable_is_refused(tmp_path: Path) -> None:
    run = scons("xsplice", tmp_path, XENN="/src/xen")
    assert_refused(run, "XENN")


def test_unknown_place_to_verify_is_refused(tmp_path: Path) -> None:
    assert_refused(scons("xsplice-verify", tmp_path, ON="moon"), "moon", "qemu")


def test_paths_with_blanks_work(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    patch = folder / "my fix.patch"
    patch.write_text(GOOD.read_text())
    scons("xsplice-verify", folder / "the build", PATCH=patch).assert_success()
    assert (folder / "the build" / "my-fix" / "my-fix.livepatch").exists()


def test_interrupt_leaves_no_payload_and_the_next_run_succeeds(tmp_path: Path) -> None:
    """Ctrl-C while the compiler runs: a shell stands in for a slow compiler."""
    slow = tmp_path / "bin" / "gcc"
    slow.parent.mkdir()
    slow.write_text(
        '#!/bin/sh\ncase "$*" in *version.c*) sleep 60;; esac\nexec /usr/bin/gcc "$@"\n'
    )
    slow.chmod(0o755)
    command = [sys.executable, "-m", "SCons", "-Q", "xsplice", f"BUILD={tmp_path}/build"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"PATH": f"{slow.parent}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 20
    while not list((tmp_path / "build" / "core").rglob("*.named.o")):
        assert time.monotonic() < deadline, "the build did not start"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert process.returncode != 0, out
    assert "Traceback" not in out
    assert payloads(tmp_path) == []
    scons("xsplice", tmp_path / "build").assert_success()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_full_disk_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=900k", "none", str(disk)], check=False
    )
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        run = scons("xsplice", disk, SIGNER="none")
        assert_refused(run, str(disk), "KiB are free", status=6)
        assert payloads(disk) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)
