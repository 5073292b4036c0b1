# SPDX-License-Identifier: Apache-2.0
"""The wheel alone is enough: ``import xsplice`` gives the SCons tool, without this checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.kit.build import ROOT

pytestmark = [pytest.mark.scons, pytest.mark.toolchain]

SCONSTRUCT = """\
import xsplice

env = Environment(tools=["default", xsplice.generate])
image = env.Command("xen-syms", env.Object("version.c"), "ld -o $TARGET --build-id=sha1 $SOURCES")
env.Xsplice("fix", patch="fix.patch", image=image, release="4.17.5")
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the wheel's content, built offline from a copy of the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(source)], check=True)
    for name in ("xsplice_plugins", "site_scons", "pyproject.toml", "README.md"):
        subprocess.run(["cp", "-a", str(ROOT / name), str(source)], check=True)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", str(folder), str(source)], check=True, capture_output=True)
    (wheel,) = folder.glob("xsplice-*.whl")
    site = folder / "site"
    zipfile.ZipFile(wheel).extractall(site)
    return site


def test_wheel_holds_the_data_files(site: Path) -> None:
    for name in ("xsplice_plugins/realxen/agent.c", "xsplice_plugins/py.typed"):
        assert (site / name).is_file(), name


def test_client_project_builds_with_the_wheel_alone(site: Path, tmp_path: Path) -> None:
    old = 'const char *extra(void) { return ".0"; }\n'
    (tmp_path / "SConstruct").write_text(SCONSTRUCT)
    (tmp_path / "version.c").write_text(old + "void _start(void) { for (;;) extra(); }\n")
    (tmp_path / "fix.patch").write_text(
        f"--- a/version.c\n+++ b/version.c\n@@ -1 +1 @@\n-{old}+{old.replace('.0', '.1')}"
    )
    done = subprocess.run(
        [sys.executable, "-m", "SCons", "-Q", "xsplice"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "build" / "fix" / "fix.livepatch").exists()
    program = "import xsplice, xsplice_plugins; print(xsplice.__file__, xsplice_plugins.__file__)"
    shown = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.count(str(site)) == 2
