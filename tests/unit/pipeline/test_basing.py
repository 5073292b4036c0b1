# SPDX-License-Identifier: Apache-2.0
"""What is said of a base: counts where it is held, names where it is not, and what was not seen."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.unit.check.building import FACTS, OTHER, World, compiled, linked, world
from xsplice_plugins import pipeline
from xsplice_plugins.artefacts import BaseMatch, Checks, Finding, Severity
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.pipeline import BaseObjects
from xsplice_plugins.pipeline.basing import base_findings, match_base

pytestmark = pytest.mark.toolchain


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world(tmp_path_factory.mktemp("world"))


def told(known: World, folder: Path, **objects: bytes) -> list[tuple[Severity, str]]:
    """Match objects, by their names without ``.o``, with the image."""
    for name, data in objects.items():
        (folder / f"{name}.o").write_bytes(data)
    files = tuple((f"{name}.o", folder / f"{name}.o") for name in objects)
    return [(f.severity, f.text) for f in matched(known, BaseObjects(files=files)).findings]


def matched(known: World, objects: BaseObjects) -> BaseMatch:
    base = pipeline.Base(image=None, release="4.17.5", facts=FACTS)
    return match_base(pipeline.open_run({}, base, environ={}), known.image_data, objects)


def test_a_base_that_is_held_is_told_with_counts(known: World, tmp_path: Path) -> None:
    spare = compiled(tmp_path, "lib.c", "int nobody(int x) { return x - 1; }\n")
    [(severity, text)] = told(known, tmp_path, unit=known.unit, other=known.other)
    assert severity is Severity.HELD
    assert "functions and data of 2 objects lie in the image as the tree's objects" in text
    files = tuple((f"{n}.o", tmp_path / f"{n}.o") for n in ("unit", "other", "lib"))
    (tmp_path / "lib.o").write_bytes(spare)
    found = matched(known, BaseObjects(files=files, optional=frozenset({"lib.o"})))
    [finding] = found.findings
    assert finding.text.endswith("; of the archives 1 objects were not taken")
    assert finding.evidence is not None
    assert (finding.evidence["objects"], finding.evidence["differ"]) == (2, 0)


def test_equal_code_of_other_sources_is_told_of_a_matched_base(tmp_path: Path) -> None:
    """The shipped one calls what the tree's writes out: a fix of that helper reaches it."""
    helper = "static inline int twice(int a) { return a * 2; }\n"
    shipped, own = (
        compiled(tmp_path, "user.c", f"{helper}int user(int x) {{ return {code}; }}\n", "-g")
        for code in ("twice(x)", "x * 2")
    )
    slim = compiled(tmp_path, "user.c", "int user(int x) { return x * 2; }\n", "-g1")
    data = linked(tmp_path, shipped)
    for content, is_matched, inlined in (
        (slim, True, ()),
        (own, True, ("inlining of twice (user.o)",)),
        (own, False, ()),
        (shipped, True, ()),
    ):
        (tmp_path / "user.o").write_bytes(content)
        objects = BaseObjects(files=(("user.o", tmp_path / "user.o"),), is_matched=is_matched)
        base = pipeline.Base(image=None, release="4.17.5", facts=FACTS)
        found = match_base(pipeline.open_run({}, base, environ={}), data, objects)
        assert (found.differs, found.strangers, found.inlined) == ((), (), inlined)
        texts = [row.text for row in found.findings if row.severity is Severity.WARNING]
        assert any("of other sources" in text for text in texts) is bool(inlined)
        assert all(any(row in text for text in texts) for row in inlined)


def test_what_differs_is_refused_by_name_and_count(known: World, tmp_path: Path) -> None:
    data = bytearray(known.unit)
    elf = read_elf(known.unit, "unit.o")
    sections = [s for s in elf.sections if s.name.startswith((".text.", ".data.")) and s.size_bytes]
    assert len(sections) > 8
    for section in sections:
        data[section.offset_file] ^= 1
    found = told(known, tmp_path, unit=bytes(data), other=known.other)
    assert [severity for severity, _ in found] == [Severity.ERROR, Severity.INFO]
    assert f"{len(sections)} functions and data of 1 objects are not what the image" in found[0][1]
    assert found[0][1].count("(unit.o)") == 8
    assert f"and {len(sections) - 8} more; run make in the tree" in found[0][1]


def test_what_is_missing_on_either_side_is_refused(known: World, tmp_path: Path) -> None:
    stale = compiled(tmp_path, "other.c", OTHER.replace("more(", "less("))
    found = told(known, tmp_path, unit=known.unit, other=stale)
    assert any(s is Severity.ERROR and "less (other.o: not found)" in text for s, text in found)
    found = told(known, tmp_path, unit=known.unit)
    errors = [text for severity, text in found if severity is Severity.ERROR]
    assert len(errors) == 1
    assert "of the image are in no object of the tree: " in errors[0]
    assert "elsewhere" in errors[0]


def test_what_is_only_guessed_to_be_linked_refuses_nothing(known: World, tmp_path: Path) -> None:
    told(known, tmp_path, unit=known.unit)
    files = (("unit.o", tmp_path / "unit.o"),)
    found = matched(known, BaseObjects(files=files, is_told=False)).findings
    assert [finding.severity for finding in found] == [Severity.UNCHECKED, Severity.INFO]


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x7fELF\x02\x01\x01" + bytes(80)])
def test_an_object_that_cannot_be_read_leaves_it_unchecked(
    content: bytes, known: World, tmp_path: Path
) -> None:
    [(severity, text)] = told(known, tmp_path, unit=known.unit, other=content)
    assert severity is Severity.UNCHECKED
    assert "other.o" in text


def test_objects_that_are_gone_or_unknown_leave_it_unchecked(known: World, tmp_path: Path) -> None:
    files = tuple((f"{n}.o", tmp_path / f"{n}.o") for n in range(10))
    [finding] = matched(known, BaseObjects(files=files)).findings
    assert finding.severity is Severity.UNCHECKED
    assert "10 objects of the tree are gone: 0.o, 1.o" in finding.text
    assert "and 2 more" in finding.text
    [finding] = matched(known, BaseObjects(files=())).findings
    assert (finding.severity, "nothing tells" in finding.text) == (Severity.UNCHECKED, True)


def test_only_the_match_with_this_very_image_counts(known: World, tmp_path: Path) -> None:
    told(known, tmp_path, unit=known.unit, other=known.other)
    files = tuple((f"{name}.o", tmp_path / f"{name}.o") for name in ("unit", "other"))
    base = matched(known, BaseObjects(files=files))
    checks = Checks(name="fix", digest="", findings=(), base=base)
    image = known.image_data

    def said(checks: Checks | None, image: bytes) -> Finding:
        [finding] = base_findings(checks, "fix", image)
        return finding

    assert said(checks, image).severity is Severity.HELD
    for finding, words in (
        (said(checks, image + b"\0"), "compared with another image"),
        (said(replace(checks, base=None), image), "were not compared"),
        (said(None, image), "were not compared"),
    ):
        assert (finding.severity, words in finding.text) == (Severity.UNCHECKED, True)
