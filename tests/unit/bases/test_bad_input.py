# SPDX-License-Identifier: Apache-2.0
"""Sources, images and compilers that are not what they are called are refused with words."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.kit.tiny_make import add_makefile
from tests.kit.tiny_tree import TinyTree
from xsplice_plugins.artefacts import Likeness
from xsplice_plugins.bases import store
from xsplice_plugins.bases.adding import Order, add_base
from xsplice_plugins.errors import ConfigError, MachineError

pytestmark = pytest.mark.toolchain

VERSION = """
unsigned int xen_major_version(void) { return 4; }
unsigned int xen_minor_version(void) { return 17; }
const char *xen_extra_version(void) { return ".5-fleet"; }
"""


def test_sources_of_another_version_are_refused_before_the_build(tmp_path: Path) -> None:
    tree = TinyTree(tmp_path / "tree", flags="-fpic")
    (tree.root / "xen/common/version.c").write_text(VERSION)
    tree.build()
    add_makefile(tree)
    image = (tree.root / "xen/xen-syms").rename(tmp_path / "xen-syms")
    (tree.root / "xen/xen").unlink()
    makefile = tree.root / "xen/Makefile"
    good = makefile.read_text()
    for old, new, said in (("= .5", "= .4", "4.17.4"), ("= 17", "= 18", "4.18.5")):
        assert old in good
        makefile.write_text(good.replace(old, new))
        with pytest.raises(ConfigError, match=rf"is Xen 4\.17\.5, and the sources are of {said}"):
            add_base(Order(name="fleet", source=tree.root, image=image))
        assert not list(store.bases_folder().rglob("configure.done"))
    makefile.write_text(good)
    record = add_base(Order(name="fleet", source=tree.root, image=image))
    assert record.likeness is Likeness.IDENTICAL


def test_a_compiler_that_is_not_there_or_is_none(own: Path, tmp_path: Path) -> None:
    """It is asked before anything is built."""
    with pytest.raises(MachineError, match="no-such-cc: cannot be started"):
        add_base(Order(name="fleet", source=own, compiler="no-such-cc"))
    with pytest.raises(ConfigError, match="false: does not compile an empty file"):
        add_base(Order(name="fleet", source=own, compiler="false"))
    assert not list(store.bases_folder().rglob("prelink.o"))
    assert add_base(Order(name="fleet", source=own, compiler="gcc")).likeness is Likeness.IDENTICAL


@pytest.mark.parametrize("kind", ["parent", "absolute", "through a link"])
def test_nothing_of_a_tarball_is_written_outside(own: Path, tmp_path: Path, kind: str) -> None:
    outside, tarball = tmp_path / "outside", tmp_path / "xen.tar"
    outside.mkdir()
    with tarfile.open(tarball, "w") as archive:
        archive.add(own, "xen-1")
        name = f"xen-1/{'../' * 12}{outside}/new" if kind == "parent" else str(outside / "new")
        if kind == "through a link":
            link = tarfile.TarInfo("xen-1/out")
            link.type, link.linkname = tarfile.SYMTYPE, str(outside)
            archive.addfile(link)
            name = "xen-1/out/new"
        row = tarfile.TarInfo(name)
        row.size = 3
        archive.addfile(row, io.BytesIO(b"new"))
    order = Order(name="fleet", source=tarball)
    if kind == "absolute":  # tar takes the slash away, so it lies beside the sources
        assert add_base(order).likeness is Likeness.IDENTICAL
    else:
        with pytest.raises(ConfigError, match=r"tar: ended with status 2|leads out of it"):
            add_base(order)
        assert store.known_bases() == ()
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("name", ["xen.tar.gz", "xen.tar.xz", "xen-1.src.rpm"])
def test_an_archive_that_is_none_is_refused_with_its_tools_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).write_text("no archive\n")
    if name.endswith(".src.rpm") and shutil.which("rpmbuild") is None:
        tool = tmp_path / "rpmbuild"
        tool.write_text("#!/bin/sh\necho error: not an rpm package >&2\nexit 1\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ConfigError, match=rf"{name}: cannot be .*(tar|rpmbuild): ended with"):
        add_base(Order(name="fleet", source=tmp_path / name))
    assert store.known_bases() == ()


def test_a_program_that_a_kind_of_sources_takes_is_named_by_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, package in (("xen_1.dsc", "dpkg-dev"), ("xen-1.src.rpm", "rpm")):
        (tmp_path / name).write_text("a name\n")
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(MachineError, match=package):
            add_base(Order(name="fleet", source=tmp_path / name))


@pytest.mark.parametrize(
    ("ending", "program", "package"),
    [
        ("gz", "gzip", "gzip"),
        ("bz2", "bzip2", "bzip2"),
        ("xz", "xz", "xz-utils"),
        ("zst", "zstd", "zstd"),
        ("lz4", "lz4", "lz4"),
    ],
)
@pytest.mark.parametrize("is_named", [True, False])
def test_a_tarball_asks_for_the_program_that_unpacks_it(
    own: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ending: str,
    program: str,
    package: str,
    is_named: bool,
) -> None:
    """What it holds decides, not its name; nothing else is asked for."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"there is no {program}")
    tarball = tmp_path / (f"xen.tar.{ending}" if is_named else "xen.tar")
    with subprocess.Popen(
        ["tar", "-cf", "-", "-C", own.parent, own.name], stdout=subprocess.PIPE
    ) as tar:
        packed = subprocess.run([found, "-c"], stdin=tar.stdout, capture_output=True, check=True)
    tarball.write_bytes(packed.stdout)
    tools = tmp_path / "tools"
    tools.mkdir()
    for folder in os.environ["PATH"].split(":"):
        for path in Path(folder).glob("*"):
            others = {"gzip", "bzip2", "xz", "zstd", "lz4"} - {program}
            if path.name not in others and not (tools / path.name).is_symlink():
                (tools / path.name).symlink_to(path)
    monkeypatch.setenv("PATH", str(tools))
    assert add_base(Order(name="fleet", source=tarball)).likeness is Likeness.IDENTICAL
    (tools / program).unlink()
    with pytest.raises(MachineError, match=rf"missing: {package}; install .*apt-get .* {package}$"):
        add_base(Order(name="other", source=tarball))
    assert store.known_bases() == ("fleet",)


DSC = """Format: 3.0 (native)
Source: xen
Version: 1
Checksums-Sha256:
 {digest} {size} xen_1.tar.gz
Files:
 {md5} {size} xen_1.tar.gz
"""


@pytest.mark.skipif(shutil.which("dpkg-source") is None, reason="there is no dpkg-source")
@pytest.mark.parametrize("wrong", ["", "digest", "size", "gone"])
def test_a_dsc_is_held_against_its_digests(own: Path, tmp_path: Path, wrong: str) -> None:
    (own / "debian").mkdir()  # dpkg-source writes into it
    tarball = tmp_path / "xen_1.tar.gz"
    subprocess.run(["tar", "-czf", tarball, "-C", own.parent, own.name], check=True)
    data = tarball.read_bytes()
    digest = hashlib.sha256(data + b"x" * (wrong == "digest")).hexdigest()
    size = len(data) + (wrong == "size")
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    dsc = tmp_path / "xen_1.dsc"
    dsc.write_text(DSC.format(digest=digest, md5=md5, size=size))
    if wrong == "gone":
        tarball.unlink()
    order = Order(name="fleet", source=dsc)
    if wrong:
        words = {
            "digest": r"xen_1\.tar\.gz beside it has another sha256 than it says; fetch both",
            "gone": r"names xen_1\.tar\.gz, which does not lie beside it; fetch it too",
            "size": "cannot be unpacked as Debian source package; fetch .*dpkg-source: ended with",
        }
        with pytest.raises(ConfigError, match=words[wrong]):
            add_base(order)
        assert store.known_bases() == ()
    else:
        assert add_base(order).likeness is Likeness.IDENTICAL


def test_a_link_of_an_archive_is_no_way_to_the_users_own_tree(own: Path, tmp_path: Path) -> None:
    """It would be moved away, and built in."""
    users = tmp_path / "users"
    shutil.copytree(own, users / "mine", symlinks=True)
    before = {path: path.lstat() for path in users.rglob("*")}
    for target in (users, users / "mine"):
        archive = tmp_path / "evil.tar"
        with tarfile.open(archive, "w") as file:
            link = tarfile.TarInfo("src")
            link.type, link.linkname = tarfile.SYMTYPE, str(target)
            file.addfile(link)
        with pytest.raises(ConfigError, match="holds no hypervisor"):
            add_base(Order(name="fleet", source=archive))
    assert {path: path.lstat() for path in users.rglob("*")} == before


def test_a_patch_makes_no_link_out_of_the_tree(own: Path, tmp_path: Path) -> None:
    """The build would write through it."""
    users = tmp_path / "users"
    users.mkdir()
    patch = tmp_path / "link.patch"
    patch.write_text(
        "diff --git a/xen/out b/xen/out\nnew file mode 120000\n--- /dev/null\n+++ b/xen/out\n"
        f"@@ -0,0 +1 @@\n+{users}\n\\ No newline at end of file\n"
    )
    with pytest.raises(
        ConfigError, match=r"--pristine .*link\.patch: xen/out is a link that leads"
    ):
        add_base(Order(name="fleet", source=own, pristine=(patch,)))
    assert store.known_bases() == ()


def test_links_beside_the_sources_are_not_looked_through(own: Path, tmp_path: Path) -> None:
    archive = tmp_path / "xen.tar"
    with tarfile.open(archive, "w") as file:
        file.add(own, "xen-4.17.5")
        for name, target in (("latest", "xen-4.17.5"), *((f"l{n}", ".") for n in range(60))):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            file.addfile(link)
    assert add_base(Order(name="fleet", source=archive)).matched > 0
