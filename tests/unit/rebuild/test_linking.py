# SPDX-License-Identifier: Apache-2.0
"""What was compared while make was at work counts only if make left it so."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.kit.tiny_tree import TinyTree
from xsplice_plugins.check.results import ImageMatch
from xsplice_plugins.check.tables import Layout, layouts
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.errors import ElfFormatError
from xsplice_plugins.kbuild.indexing import read_index
from xsplice_plugins.kbuild.tree import XenTree, locate_tree
from xsplice_plugins.rebuild import linking
from xsplice_plugins.rebuild.linking import Link, match_link
from xsplice_plugins.rebuild.trees import Build, read_build
from xsplice_plugins.target.known import known_facts

pytestmark = pytest.mark.toolchain

SIZES = layouts(known_facts("4.17.5", 62))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> XenTree:
    flags = "-fcf-protection=none -fno-asynchronous-unwind-tables -fno-pie"
    return locate_tree(TinyTree(tmp_path_factory.mktemp("linking") / "tree", flags=flags).root)


@pytest.fixture
def matched(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return the images that are compared, in order."""
    images: list[bytes] = []

    def noted(build: Build, sizes: Mapping[str, tuple[Layout, ...]]) -> ImageMatch:
        images.append(build.image)
        return match_link(build, sizes)

    monkeypatch.setattr(linking, "match_link", noted)
    return images


def damaged(build: Build) -> Build:
    """Return a build with other code in an object."""
    name = "common/user.o"
    data = build.objects[name]
    code = read_elf(data, name).section_by_name[".text.user"].data
    return dataclasses.replace(
        build, objects=build.objects | {name: data.replace(code, b"\x90" * len(code))}
    )


def linked_again(tree: XenTree, matched: list[bytes], count: int) -> None:
    """Let the image look as if make had just linked it, and wait until it is compared."""
    place = Path(tree.build_root) / "xen-syms"
    now = time.time_ns()
    os.utime(place, ns=(now, now))
    place.with_name("xen-syms.map").write_text("")
    os.utime(place.with_name("xen-syms.map"), ns=(now + 1, now + 1))
    deadline = time.monotonic() + 20
    while len(matched) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_image_is_compared_once_while_make_is_at_work(
    tree: XenTree, matched: list[bytes]
) -> None:
    build = read_build(read_index(tree))
    links = Link(build, tree.root, SIZES)
    linked_again(tree, matched, 1)
    found = links.answer(build)
    assert (found.held, len(found.objects)) == (True, 6)
    assert len(matched) == 1


def test_what_make_changed_afterwards_is_compared_again(
    tree: XenTree, matched: list[bytes]
) -> None:
    build = read_build(read_index(tree))
    links = Link(build, tree.root, SIZES)
    linked_again(tree, matched, 1)
    found = links.answer(damaged(build))
    (wrong,) = [row for row in found.objects if row.differs]
    assert (wrong.object_path, wrong.differs[0].name) == ("common/user.o", "user")
    assert len(matched) == 2


def test_without_a_sign_of_the_link_it_is_compared_after_make(
    tree: XenTree, matched: list[bytes]
) -> None:
    build = read_build(read_index(tree))
    (Path(tree.build_root) / "xen-syms.map").unlink(missing_ok=True)
    links = Link(build, tree.root, SIZES)
    links.stop()
    assert links.answer(build).held
    assert len(matched) == 1


def test_an_error_of_the_comparison_is_raised_where_it_is_asked_for(tree: XenTree) -> None:
    build = read_build(read_index(tree))
    links = Link(build, tree.root, SIZES)
    with pytest.raises(ElfFormatError, match="xen-syms"):
        links.answer(dataclasses.replace(build, image=b"no image"))
