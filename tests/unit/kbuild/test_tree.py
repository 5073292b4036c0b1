# SPDX-License-Identifier: Apache-2.0
"""Finding a tree's parts, and refusing what cannot be used."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from xsplice_plugins.elf.types import EM_X86_64
from xsplice_plugins.errors import CaptureError, ConfigError
from xsplice_plugins.kbuild.indexing import read_index
from xsplice_plugins.kbuild.tree import locate_tree
from xsplice_plugins.pipeline import check_outside
from xsplice_plugins.settings import make_config

if TYPE_CHECKING:
    from tests.kit.tiny_tree import TinyTree

pytestmark = pytest.mark.toolchain


def test_the_top_folder_and_the_hypervisors_folder_are_the_same_tree(built: TinyTree) -> None:
    tree = locate_tree(built.root)
    assert locate_tree(built.root / "xen") == tree
    assert (tree.release, tree.arch, tree.build_dir) == ("4.17.5", "x86", "xen")
    assert tree.machine == EM_X86_64
    assert tree.xen_syms == built.root / "xen/xen-syms"
    assert len(tree.build_id) == 40
    assert not tree.is_out_of_source


@pytest.mark.parametrize("place", ["xen/build", "build"])
@pytest.mark.parametrize("form", ["link", "include"])
def test_the_folder_that_make_got_as_o_is_the_tree(
    own_tree: TinyTree, place: str, form: str
) -> None:
    """4.17 leaves a link to the sources in it, later releases a Makefile that includes theirs."""
    source, build = own_tree.root / "xen", own_tree.root / place
    build.mkdir()
    for name in (".config", "xen-syms", "prelink.o", "common", "xen"):
        if name == "common":
            shutil.copytree(source / name, build / name, ignore=shutil.ignore_patterns("*.c"))
        elif (source / name).is_file():
            (source / name).rename(build / name)
    if form == "link":
        (build / "source").symlink_to(os.path.relpath(source, build))
    else:
        (build / "Makefile").write_text(f"# made\ninclude {source}/Makefile\n")
    tree = locate_tree(build)
    assert (tree.is_out_of_source, tree.build_dir, tree.source_dir) == (True, place, "xen")
    assert (tree.hypervisor_source, tree.build_root) == (source, build)
    with pytest.raises(CaptureError, match=r"not built \(no .config\)"):
        locate_tree(own_tree.root)  # what lies beside the sources is no build


def test_what_is_no_tree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        locate_tree(tmp_path / "none")
    with pytest.raises(ConfigError, match="not a Xen tree"):
        locate_tree(tmp_path)


def test_a_tree_that_is_not_built_is_refused(own_tree: TinyTree) -> None:
    (own_tree.root / "xen/xen-syms").unlink()
    with pytest.raises(CaptureError, match=r"not built \(no xen-syms\); build it first: make"):
        locate_tree(own_tree.root)
    (own_tree.root / "xen/.config").unlink()
    with pytest.raises(CaptureError, match=r"not built \(no .config\)"):
        locate_tree(own_tree.root)


def test_a_tree_without_live_patching_is_refused(own_tree: TinyTree) -> None:
    (own_tree.root / "xen/.config").write_text("CONFIG_X86=y\n# CONFIG_LIVEPATCH is not set\n")
    with pytest.raises(CaptureError, match="without CONFIG_LIVEPATCH; switch it on"):
        locate_tree(own_tree.root)
    (own_tree.root / "xen/.config").write_text("CONFIG_X86=y\nCONFIG_COVERAGE=y\n")
    with pytest.raises(CaptureError, match=r"with CONFIG_COVERAGE.*one or the other"):
        locate_tree(own_tree.root)


def test_an_image_of_another_build_is_refused(own_tree: TinyTree) -> None:
    shipped = own_tree.root / "xen/xen"
    data = shipped.read_bytes()
    ours = bytes.fromhex(locate_tree(own_tree.root).build_id)
    assert data.count(ours) == 1
    shipped.write_bytes(data.replace(ours, ours[::-1]))
    with pytest.raises(CaptureError, match="is not that of xen beside it"):
        locate_tree(own_tree.root)
    shipped.write_bytes(data)
    locate_tree(own_tree.root)
    os.utime(own_tree.root / "xen/prelink.o", (2**32, 2**32))
    with pytest.raises(CaptureError, match="older than the objects"):
        locate_tree(own_tree.root)


def test_an_image_that_is_no_image_is_refused(own_tree: TinyTree) -> None:
    (own_tree.root / "xen/xen-syms").write_bytes(b"\x7fELF")
    with pytest.raises(CaptureError, match="not a readable ELF image"):
        locate_tree(own_tree.root)


@pytest.mark.parametrize("place", ["here", "elsewhere"])
def test_absolute_links_and_unrecorded_archives_still_tell_what_is_linked(
    place: str, own_tree: TinyTree
) -> None:
    """Xen 4.14: prelink.o is recorded with absolute paths, built_in.o not at all.

    Such a tree once seemed to link nothing, so every patch was "no functional change".
    """
    xen = own_tree.root / "xen"
    (xen / "common" / ".built_in.o.cmd").unlink()
    (xen / "common" / "compat").mkdir()  # `obj-y += compat/domain.o`
    shutil.copy(xen / "common" / "user.o", xen / "common" / "compat" / "domain.o")
    start = xen if place == "here" else Path("/elsewhere/xen")
    (xen / ".prelink.o.cmd").write_text(
        f"cmd_prelink.o := ld -r -o prelink.o {start}/common/built_in.o\n"
    )
    index = read_index(locate_tree(own_tree.root))
    linked = index.linked
    assert not index.is_told
    assert set(index.members.values()) == {True}  # a guess
    assert {"common/version.o", "common/setup.init.o", "common/entry.o"} <= linked
    assert "common/compat/domain.o" in linked
    assert "xen-syms" not in linked


def test_the_objects_that_compilers_made_are_told_from_what_gathers_them(
    own_tree: TinyTree,
) -> None:
    """And members of archives, of which the linker takes what is called, from the others."""
    xen = own_tree.root / "xen"
    index = read_index(locate_tree(own_tree.root))
    assert index.is_told
    assert index.members == {
        f"{name}.o": False
        for name in (
            "arch/x86/linked", "common/entry", "common/livepatch", "common/setup.init",
            "common/user", "common/version",
        )
    }  # fmt: skip
    (xen / ".prelink.o.cmd").write_text(
        "cmd_prelink.o := ld -r -o prelink.o common/built_in.o lib/lib.a\n"
    )
    assert not read_index(locate_tree(own_tree.root)).is_told
    (xen / "lib").mkdir()
    (xen / "lib/.lib.a.cmd").write_text("cmd_lib/lib.a := ar cr lib/lib.a lib/sort.o\n")
    index = read_index(locate_tree(own_tree.root))
    assert index.is_told
    assert [name for name, is_optional in index.members.items() if is_optional] == ["lib/sort.o"]


@pytest.mark.parametrize(
    ("minor", "extra", "release"),
    [
        ("17", ".5", "4.17.5"),
        ("23", "-unstable$(XEN_VENDORVERSION)", "4.23.0"),
        ("22", "", "4.22.0"),
    ],
)
def test_the_release_is_read_from_the_makefile(
    minor: str, extra: str, release: str, own_tree: TinyTree
) -> None:
    (own_tree.root / "xen/Makefile").write_text(
        f"export XEN_VERSION = 4\nexport XEN_SUBVERSION = {minor}\n"
        f"export XEN_EXTRAVERSION ?= {extra}\n-include xen-version\n"
    )
    assert locate_tree(own_tree.root).release == release
    (own_tree.root / "xen/xen-version").write_text("XEN_EXTRAVERSION = .9-mine\n")
    assert locate_tree(own_tree.root).release == f"4.{minor}.9"


@pytest.mark.parametrize(
    ("text", "lacks"),
    [
        ("", "XEN_VERSION and XEN_SUBVERSION"),
        ("export XEN_VERSION = 4\n", "XEN_SUBVERSION"),
        ("XEN_VERSION = $(shell cat ver)\nXEN_SUBVERSION = 20\n", "XEN_VERSION"),
        (
            "XEN_VERSION = 4\nXEN_SUBVERSION = 20\nXEN_EXTRAVERSION = $(shell cat ver)\n",
            "XEN_EXTRAVERSION",
        ),
    ],
)
def test_what_is_missing_for_the_release_is_named(
    text: str, lacks: str, own_tree: TinyTree
) -> None:
    (own_tree.root / "xen/Makefile").write_text(text)
    with pytest.raises(
        ConfigError, match=rf"\(no number as {lacks}\).*write .* into .*xen-version"
    ):
        locate_tree(own_tree.root)
    numbers = "XEN_VERSION = 4\nXEN_SUBVERSION = 20\nXEN_EXTRAVERSION = .1\n"
    (own_tree.root / "xen/xen-version").write_text(numbers)
    assert locate_tree(own_tree.root).release == "4.20.1"


def test_an_image_says_its_release_where_sources_do_not_and_never_another(
    own_tree: TinyTree,
) -> None:
    (own_tree.root / "xen/common/version.c").write_text(
        "unsigned int xen_major_version(void)\n{\n    return 4;\n}\n"
        "unsigned int xen_minor_version(void)\n{\n    return 17;\n}\n"
        'const char *xen_extra_version(void)\n{\n    return ".5-here";\n}\n'
    )
    own_tree.build()
    assert locate_tree(own_tree.root).release == "4.17.5"
    makefile = own_tree.root / "xen/Makefile"
    makefile.write_text(makefile.read_text().replace(".5", ".6"))
    with pytest.raises(CaptureError, match=r"xen-syms: says it is Xen 4\.17\.5, and .*4\.17\.6"):
        locate_tree(own_tree.root)
    for text in ("", "XEN_VERSION = $(shell cat ver)\nXEN_SUBVERSION = 20\n"):
        makefile.write_text(text)
        assert locate_tree(own_tree.root).release == "4.17.5", "what runs says it"
    with pytest.raises(ConfigError, match=r"RELEASE says Xen 4\.20\.0, and .* is Xen 4\.17\.5"):
        make_config({"RELEASE": "4.20.0"}, release=locate_tree(own_tree.root).release)


def test_a_link_to_the_hypervisors_folder_is_followed(built: TinyTree, tmp_path: Path) -> None:
    """Its tree, into which nothing may be written, lies where the link leads."""
    (tmp_path / "alias").mkdir()
    (tmp_path / "alias" / "xen").symlink_to(built.root / "xen")
    tree = locate_tree(tmp_path / "alias")
    assert tree.source_root == built.root
    with pytest.raises(ConfigError, match="only read"):
        check_outside(built.root / "docs" / "build", tree)
    check_outside(built.root.parent / "build", tree)
