# SPDX-License-Identifier: Apache-2.0
"""An RPM source package is prepared in the work folder, whatever the user's rpm is told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from xsplice_plugins.artefacts import Likeness
from xsplice_plugins.bases import store
from xsplice_plugins.bases.adding import Order, add_base

pytestmark = pytest.mark.toolchain

#: As rpmbuild: the user's macros, then the words; unpacks below %_builddir what it clears first.
RPMBUILD = """#!{python}
import os, pathlib, shutil, subprocess, sys
macros = {{"_topdir": os.environ["HOME"] + "/rpmbuild"}}
places = [pathlib.Path(os.environ["HOME"]) / ".rpmmacros"]
if "XDG_CONFIG_HOME" in os.environ:
    places.append(pathlib.Path(os.environ["XDG_CONFIG_HOME"]) / "rpm/macros")
for place in places:
    if place.is_file():
        for line in place.read_text().splitlines():
            name, _, value = line[1:].partition(" ")
            macros[name] = value
words = sys.argv[1:]
for word, value in zip(words, words[1:]):
    if word == "--define":
        name, _, text = value.partition(" ")
        macros[name] = text
top = macros["_topdir"]
build = pathlib.Path(macros.get("_builddir", top + "/BUILD"))
sources = pathlib.Path(macros.get("_sourcedir", top + "/SOURCES"))
pathlib.Path({said!r}).write_text(repr([os.environ.get("GIT_DIR"), os.environ["HOME"]]))
shutil.rmtree(build / "xen-4.20.0", ignore_errors=True)
for folder in (build, sources):
    folder.mkdir(parents=True, exist_ok=True)
(sources / "p1.patch").write_text("the package's")
subprocess.run(["tar", "-xf", words[-1], "-C", build], check=True)
"""


@pytest.mark.parametrize("where", [".rpmmacros", "config/rpm/macros"])
def test_the_users_macros_of_rpm_lead_to_none_of_their_files(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    home, said = tmp_path / "home", tmp_path / "said"
    for place, text in (("src/p1.patch", "my own"), ("build/xen-4.20.0/work.c", "three days")):
        (home / place).parent.mkdir(parents=True)
        (home / place).write_text(text)
    (home / where).parent.mkdir(parents=True, exist_ok=True)
    (home / where).write_text(f"%_builddir {home}/build\n%_sourcedir {home}/src\n")
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "rpmbuild").write_text(RPMBUILD.format(python=sys.executable, said=str(said)))
    (tools / "rpmbuild").chmod(0o755)
    (tools / "cpio").symlink_to("/bin/true")
    for name, value in (
        ("HOME", str(home)),
        ("XDG_CONFIG_HOME", str(home / "config")),
        ("GIT_DIR", str(home / "git")),
        ("PATH", f"{tools}:{os.environ['PATH']}"),
    ):
        monkeypatch.setenv(name, value)
    package = tmp_path / "xen-4.20.0-1.src.rpm"
    subprocess.run(["tar", "-cf", package, "-C", own.parent, own.name], check=True)
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    assert add_base(Order(name="fleet", source=package)).likeness is Likeness.IDENTICAL
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before
    assert (home / "build/xen-4.20.0/work.c").read_text() == "three days"
    assert (home / "src/p1.patch").read_text() == "my own"
    assert said.read_text().startswith(f"[None, '{store.folder_of('fleet')}/")
    assert not (store.folder_of("fleet") / "tree.unpacked").exists()


SPEC = """%define debug_package %{nil}
Name: xen
Version: 4.20.0
Release: 1
Summary: a test
License: none
Source0: xen.tar
%description
%prep
%setup -q -n own
"""


@pytest.mark.skipif(shutil.which("rpmbuild") is None, reason="there is no rpmbuild")
def test_the_real_rpmbuild_prepares_in_the_work_folder(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, top = tmp_path / "home", tmp_path / "top"
    (home / "build/own").mkdir(parents=True)
    (home / "build/own/work.c").write_text("three days")
    (top / "SOURCES").mkdir(parents=True)
    subprocess.run(["tar", "-cf", top / "SOURCES/xen.tar", "-C", own.parent, own.name], check=True)
    (tmp_path / "xen.spec").write_text(SPEC)
    words = ["--define", f"_topdir {top}", "-bs", tmp_path / "xen.spec"]
    subprocess.run(["rpmbuild", "--nodeps", *words], check=True)
    (home / ".rpmmacros").write_text(f"%_builddir {home}/build\n")
    monkeypatch.setenv("HOME", str(home))
    [package] = (top / "SRPMS").glob("*.src.rpm")
    assert add_base(Order(name="fleet", source=package)).likeness is Likeness.IDENTICAL
    assert (home / "build/own/work.c").read_text() == "three days"
