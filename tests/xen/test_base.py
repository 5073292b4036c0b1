# SPDX-License-Identifier: Apache-2.0
"""Every built tree at hand is what its image holds; a byte more or less is named."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.xen.trees import trees
from xsplice_plugins import pipeline
from xsplice_plugins.artefacts import Finding, Severity
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.pipeline import BaseObjects

pytestmark = pytest.mark.xen

SECONDS_MAX = 10

every_tree = pytest.mark.parametrize("tree", trees().values(), ids=trees())


def findings_of(tree: Path, other: dict[str, Path]) -> tuple[Finding, ...]:
    """Match a tree with its image, some objects taken from elsewhere."""
    base = pipeline.base_of_tree(tree)
    assert base.tree is not None
    objects = pipeline.objects_of_tree(base.tree)
    assert set(other) <= dict(objects.files).keys()
    files = tuple((path, other.get(path, file)) for path, file in objects.files)
    objects = replace(objects, files=files)
    image = base.tree.xen_syms.read_bytes()
    return pipeline.match_base(pipeline.open_run({}, base, environ={}), image, objects).findings


@every_tree
def test_a_built_tree_is_what_its_image_holds(tree: Path) -> None:
    start = time.process_time()
    found = findings_of(tree, {})
    took = time.process_time() - start
    sys.stdout.write(f"{tree}: {found[-1].text}, {took:.1f} s\n")
    assert [finding.severity for finding in found] == [Severity.HELD], found[0].text
    counts = found[0].evidence
    assert counts is not None
    assert counts["matched"] > 3000
    assert (counts["differ"], counts["absent"]) == (0, 0)
    assert took < SECONDS_MAX


@every_tree
def test_a_byte_of_one_object_is_named(tree: Path, tmp_path: Path) -> None:
    """Also where functions share a section."""
    path = "common/timer.o"
    data = bytearray((tree / "xen" / path).read_bytes())
    elf = read_elf(bytes(data), path)
    symbol = next(symbol for symbol in elf.symbols if symbol.name == "init_timer")
    section = elf.sections[symbol.shndx]
    data[section.offset_file + symbol.value + 1] ^= 1
    (tmp_path / "timer.o").write_bytes(data)
    found = findings_of(tree, {path: tmp_path / "timer.o"})
    assert found[0].severity is Severity.ERROR
    assert "init_timer (common/timer.o)" in found[0].text


@every_tree
def test_entries_that_an_object_lost_are_named(tree: Path, tmp_path: Path) -> None:
    """Its code is equal: an object made again, or the image linked of other sources."""
    path, table = "common/timer.o", ".bug_frames.2"
    data = bytearray((tree / "xen" / path).read_bytes())
    row = read_elf(bytes(data), path).section_by_name[table]
    header = int.from_bytes(data[40:48], "little") + 64 * row.index
    data[header + 32 : header + 40] = bytes(8)  # its size
    (tmp_path / "timer.o").write_bytes(data)
    found = findings_of(tree, {path: tmp_path / "timer.o"})
    errors = [finding.text for finding in found if finding.severity is Severity.ERROR]
    assert len(errors) == 1, errors
    assert "of 1 objects are not what the image holds" in errors[0]
    assert f"({path})" in errors[0]


def test_an_object_of_the_image_that_is_not_given_is_named(xen_tree: Path) -> None:
    base = pipeline.base_of_tree(xen_tree)
    assert base.tree is not None
    objects = pipeline.objects_of_tree(base.tree)
    rows = tuple(row for row in objects.files if row[0] != "common/timer.o")
    run = pipeline.open_run({}, base, environ={})
    image = base.tree.xen_syms.read_bytes()
    found = pipeline.match_base(run, image, BaseObjects(files=rows, optional=objects.optional))
    errors = [f.text for f in found.findings if f.severity is Severity.ERROR]
    assert len(errors) == 1
    assert "of the image are in no object of the tree" in errors[0]
