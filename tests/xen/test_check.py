# SPDX-License-Identifier: Apache-2.0
"""The independent check on a real Xen 4.17 tree, its image and every accepted hot-patch."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import pytest

from tests.xen.check_campaign import Judged
from tests.xen.differ_campaign import campaign
from tests.xen.differ_mutations import CLASSES
from tests.xen.differ_pairs import EditedTree
from tests.xen.right_payloads import (
    CASES,
    Built,
    addresses_of,
    build,
    image_of,
    is_caught,
    judge,
)
from tests.xen.wrong_payloads import led_to, wrong_payloads
from xsplice_plugins.check.base import match_objects
from xsplice_plugins.check.memory import Image, read_image
from xsplice_plugins.check.results import CheckReport, ImageMatch
from xsplice_plugins.check.tables import layouts
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.kbuild.indexing import read_index
from xsplice_plugins.kbuild.tree import locate_tree
from xsplice_plugins.target.known import known_facts

pytestmark = pytest.mark.xen

SIZES = layouts(known_facts("4.17.5", 62))
#: Of the library the linker takes only what is called.
ARCHIVE = "lib/"
WRONG = 50


@pytest.fixture(scope="module")
def image(xen_tree: Path) -> Image:
    return read_image((xen_tree / "xen/xen-syms").read_bytes(), "xen-syms", SIZES)


@pytest.fixture(scope="module")
def objects(xen_tree: Path) -> list[tuple[str, bytes]]:
    """Return every object that the image is linked from, each once."""
    members = read_index(locate_tree(xen_tree)).members
    return [(name, (xen_tree / "xen" / name).read_bytes()) for name in members]


@pytest.fixture(scope="module")
def built(xen_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    folder = tmp_path_factory.mktemp("built")
    return {case: build(case, xen_tree, folder / case) for case in CASES}


def test_the_whole_tree_is_what_the_image_holds(
    image: Image, objects: list[tuple[str, bytes]]
) -> None:
    start = time.process_time()
    found = match_objects(image, objects, SIZES, taken_if_called(objects))
    took = time.process_time() - start
    linked = [row for row in found.objects if row.is_linked]
    names = sum(len(row.matched) for row in linked)
    sys.stdout.write(f"{len(linked)} objects, {names} functions and data, {took:.1f} s\n")
    assert found.held, [(row.object_path, row.differs, row.absent) for row in found.objects]
    assert names > 6500
    assert len(linked) > 350
    assert all(row.object_path.startswith(ARCHIVE) for row in found.objects if not row.is_linked)
    assert sum(len(row.ambiguous) for row in found.objects) == 0
    assert found.strangers == ()
    assert took < 10


def matched_with(
    image: Image, objects: list[tuple[str, bytes]], path: str, data: bytes
) -> ImageMatch:
    rows = [(p, data if p == path else old) for p, old in objects]
    return match_objects(image, rows, SIZES, taken_if_called(objects))


def taken_if_called(objects: list[tuple[str, bytes]]) -> frozenset[str]:
    return frozenset(path for path, _ in objects if path.startswith(ARCHIVE))


@pytest.mark.parametrize(
    ("path", "section", "name"),
    [
        ("common/timer.o", ".text.set_timer", "set_timer"),
        ("common/timer.o", ".altinstructions", ".altinstructions"),
        (
            "common/rangeset.o",
            ".text.unlikely.rangeset_add_range",
            "common/rangeset.c#rangeset_add_range.cold",
        ),
        (
            "arch/x86/mm/hap/guest_walk_3.o",
            ".text.hap_gva_to_gfn_3_levels",
            "hap_gva_to_gfn_3_levels",
        ),
    ],
)
def test_a_flipped_byte_is_found_by_name(
    path: str, section: str, name: str, image: Image, objects: list[tuple[str, bytes]]
) -> None:
    data = bytearray(dict(objects)[path])
    row = read_elf(bytes(data), path).section_by_name[section]
    data[row.offset_file + (8 if row.name.startswith(".alt") else 0)] ^= 1
    found = matched_with(image, objects, path, bytes(data))
    assert not found.held
    told = {m.name for o in found.objects for m in o.differs} | {
        missing for o in found.objects for missing in o.absent
    }
    assert name in told


def test_another_trees_image_is_refused_with_counts(
    image: Image, objects: list[tuple[str, bytes]], built: dict[str, Built]
) -> None:
    """The objects of the fixes are those of another tree."""
    fixed = {row.path: row.new for case in built.values() for row in case.objects}
    rows = [(path, fixed.get(path, old)) for path, old in objects]
    found = match_objects(image, rows, SIZES, taken_if_called(objects))
    wrong = [row for row in found.objects if not row.held]
    sys.stdout.write(f"{len(wrong)} of {len(found.objects)} objects differ\n")
    assert not found.held
    assert {row.object_path for row in wrong} <= set(fixed)
    assert len(wrong) >= 10


@pytest.mark.parametrize("case", CASES)
def test_an_accepted_hot_patch_is_what_a_full_rebuild_would_run(
    case: str, xen_tree: Path, built: dict[str, Built]
) -> None:
    start = time.process_time()
    found = judge(image_of(xen_tree, built[case].facts), built[case], built[case].payload)
    took = time.process_time() - start
    sys.stdout.write(f"{case}: {found}, {took:.2f} s\n")
    assert isinstance(found, CheckReport)
    assert found.held, found.differences
    assert (found.stale, found.ambiguous, found.unchecked) == ((), (), ())
    assert took < 0.2 * len(built[case].objects) + 0.2


def test_the_payload_of_another_fix_does_not_pass(xen_tree: Path, built: dict[str, Built]) -> None:
    one, other = built["extra-version"], built["new-bug"]
    found = judge(image_of(xen_tree, one.facts), one, other.payload)
    assert isinstance(found, CheckReport)
    assert {"xen_extra_version", "handle_keypress"} <= {subject for subject, _ in found.differences}


def test_wrong_payloads_are_caught(xen_tree: Path, built: dict[str, Built]) -> None:
    """A sample of the campaign that ``wrong_campaign.py`` runs."""
    dice = random.Random(50)  # noqa: S311  # cases, not secrets
    image = image_of(xen_tree, built["cold-part"].facts)
    chosen = [
        (case, wrong)
        for case in CASES
        for wrong in wrong_payloads(built[case].payload, addresses_of(image), dice, 1)
    ]
    missed = [
        (case, wrong.kind, wrong.name)
        for case, wrong in dice.sample(chosen, WRONG)
        if not is_caught(judge(image, built[case], wrong.data))
    ]
    assert missed == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [("timer_slop", "freed after boot"), ("performance", "can be written")],
)
def test_a_text_must_lie_where_it_stays(
    text: str, reason: str, xen_tree: Path, tmp_path: Path
) -> None:
    """Memory that boot frees, or that Xen writes, may hold equal bytes today."""
    fix = tmp_path / "fix.patch"
    fix.write_text(
        "--- a/xen/common/version.c\n+++ b/xen/common/version.c\n@@ -60 +60 @@\n"
        f'-    return XEN_EXTRAVERSION;\n+    return "{text}";\n'
    )
    case = build("text", xen_tree, tmp_path / "build", fix)
    image = image_of(xen_tree, case.facts)
    assert not is_caught(judge(image, case, case.payload))
    wanted = image.is_freed if reason.startswith("freed") else image.is_variable
    place = next(
        section.addr_virt + at
        for section in image.elf.sections
        if section.is_alloc and (at := section.data.find(text.encode() + b"\0")) >= 0
        if wanted(section.addr_virt + at)
    )
    found = judge(image, case, led_to(case.payload, image, ".rodata.str", place))
    assert isinstance(found, CheckReport)
    assert any(reason in said for _, said in found.differences), found.differences


def test_differ_and_check_agree_on_edits(xen_tree: Path, tmp_path: Path) -> None:
    """A sample of the campaign that ``check_campaign.py`` runs."""
    names = tuple(mutation.name for mutation in CLASSES[1::3])
    edited = EditedTree(xen_tree, tmp_path)
    outcomes = campaign(edited, 1, names, Judged(xen_tree).judge)
    assert len(outcomes) > 12
    assert sum(outcome.verdict == "right" for outcome in outcomes) > 8
    assert not [o for o in outcomes if o.verdict in ("wrong", "blind", "over")]
