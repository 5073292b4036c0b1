# SPDX-License-Identifier: Apache-2.0
"""What real trees answer is what the lists say, the writer's and the model's."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.xen.trees import trees
from xsplice_plugins.elf.banner import release_of_image
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.types import EM_X86_64
from xsplice_plugins.hypervisor.facts.arches import ARCHES
from xsplice_plugins.hypervisor.facts.releases import release
from xsplice_plugins.kbuild.facts import ask_tree, facts_of_tree
from xsplice_plugins.kbuild.tree import locate_tree
from xsplice_plugins.releases import LAST_POINT, parse_release
from xsplice_plugins.target.known import known_facts

pytestmark = [pytest.mark.xen, pytest.mark.toolchain]


every_tree = pytest.mark.parametrize("path", trees().values(), ids=trees())


@every_tree
def test_what_is_asked_is_what_is_tabled(path: Path, tmp_path: Path) -> None:
    tree = locate_tree(path)
    asked = ask_tree(tree, cache=tmp_path)
    tabled = known_facts(tree.release, tree.machine)
    assert asked.is_asked
    assert not tabled.is_asked
    if (path / "debian").is_dir():  # its backports are those of later point releases
        _, minor, point = parse_release(tree.release)
        later = (f"4.{minor}.{n}" for n in range(point, LAST_POINT[minor] + 1))
        words = {known_facts(name, tree.machine).feature_words for name in later}
        assert asked.feature_words in words
        tabled = replace(tabled, feature_words=asked.feature_words)
    assert replace(asked, origin="") == replace(tabled, origin="")
    assert facts_of_tree(tree, cache=tmp_path) == asked


@every_tree
def test_what_is_asked_is_what_the_model_has(path: Path) -> None:
    tree = locate_tree(path)
    asked, model = ask_tree(tree, cache=None), release(tree.release)
    arch = next(arch for arch in ARCHES if arch.machine == tree.machine)
    assert asked.record_version == model.payload_version
    assert asked.record_size_bytes == model.record_bytes(arch)
    assert asked.jump_size_bytes == arch.insn_size_bytes
    assert bool(asked.ex_entry_size_bytes) == arch.has_ex_table
    assert bool(asked.alt_call_entry_size_bytes) == (
        arch.has_alternative_calls and model.has_alt_call_sites
    )
    if tree.machine == EM_X86_64:
        assert asked.alternative.size_bytes == model.alt_entry_bytes


@every_tree
def test_the_image_says_the_release_of_its_sources(path: Path) -> None:
    tree = locate_tree(path)
    image = read_elf(tree.xen_syms.read_bytes(), "xen-syms")
    assert release_of_image(image) == tree.release
    assert image.machine == tree.machine
