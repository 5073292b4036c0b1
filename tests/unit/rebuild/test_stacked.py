# SPDX-License-Identifier: Apache-2.0
"""A full rebuild as the judge of a payload on top of another one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.kit.build import Run, scons
from tests.kit.tiny_tree import TinyTree
from tests.unit.pipeline.test_stacked_sources import series
from tests.unit.rebuild.test_holding import FIRST, MOVED, USERS, make_tree
from xsplice_plugins.artefacts import (
    Duty,
    Finding,
    PatchSet,
    PayloadRecord,
    Severity,
    Sources,
    VerifyRequest,
    load,
)
from xsplice_plugins.plugins.spec import Config
from xsplice_plugins.rebuild import verify_by_rebuild

pytestmark = [pytest.mark.toolchain, pytest.mark.scons]

#: What the payload beneath changes in an object that the fix does not reach.
FAR = "xen/common/livepatch.c", "return WORDS;", "return WORDS + 4711;"


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A payload of three patches on one of the first two, with moved lines between."""

    tree: TinyTree
    folder: Path
    patches: PatchSet
    lower: Path
    upper: Path

    def judged(
        self, patches: PatchSet | None = None, *, lower: Path | None = None, depth: int = 2
    ) -> tuple[Finding, ...]:
        """Hold the upper payload against a rebuild."""
        tree = self.tree.root / "xen"
        request = VerifyRequest(
            payload_path=self.folder / "judged.livepatch",
            image_path=tree / "xen-syms",
            release="4.17.5",
            beneath=(lower or self.lower,),
            sources=Sources(
                tree=tree, patch_set=patches or self.patches, beneath=((depth, False),)
            ),
        )
        record = replace(load(self.upper.with_suffix(".payload.json"), PayloadRecord), patches=())
        found = verify_by_rebuild(
            self.upper.read_bytes(), record, request, Config(release="4.17.5")
        )
        assert not (self.folder / "whole").exists()
        return found

    def tampered(self, old: int, new: int) -> Path:
        """Return the lower payload with another number in it, and no record beside it."""
        data, place = self.lower.read_bytes(), self.folder / "other.livepatch"
        was, now = (number.to_bytes(4, "little") for number in (old, new))
        assert data.count(was) in {1, 2}
        place.write_bytes(data.replace(was, now))
        return place


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    folder = tmp_path_factory.mktemp("stacked")
    tree = make_tree(folder)
    patches = series(tree, folder, FIRST, FAR, MOVED, USERS)
    files = [str(folder / f"{number}.patch") for number in range(4)]
    build, given = folder / "b", {"XEN": tree.root, "SIGNER": "none"}
    lower, upper = build / "low/low.livepatch", build / "up/up.livepatch"
    scons("xsplice", build, PATCH=" ".join(files[:2]), NAME="low", **given).assert_success()
    more = {"DEPENDS": lower, "NAME": "up"}
    scons("xsplice", build, PATCH=" ".join(files), **more, **given).assert_success()
    return Stack(tree=tree, folder=folder, patches=patches, lower=lower, upper=upper)


def test_a_right_payload_on_another_one_is_held(stack: Stack) -> None:
    (figures,) = stack.judged()
    assert figures.severity is Severity.HELD, figures
    assert "2 differ" in figures.text
    assert "1 replaced and " in figures.text
    assert figures.text.endswith(", on top of low.livepatch")


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        (4711 + 12, 4724, "livepatch in common/livepatch.o"),
        (1000, 1001, "first in common/user.o"),
    ],
)
def test_a_payload_beneath_that_is_not_its_patches_is_found(
    old: int, new: int, name: str, stack: Stack
) -> None:
    found = stack.judged(lower=stack.tampered(old, new))
    said = [row for row in found if row.severity is Severity.ERROR]
    assert {row.obligation for row in said} == {Duty.STACK, Duty.COMPLETE}
    texts = [row.text for row in said if row.obligation == Duty.STACK]
    assert [text.partition(":")[0] for text in texts] == [
        f"{name} differs in a full rebuild before the fix"
    ]
    assert all("other.livepatch" in text for text in texts)


def test_what_the_payload_on_top_leaves_out_is_named(stack: Stack, tmp_path: Path) -> None:
    other = USERS[0], "int where(void) { return", "int where(void) { return 1 +"
    patches = series(stack.tree, tmp_path, FIRST, FAR, MOVED, USERS, other)
    (wrong,) = (row for row in stack.judged(patches) if row.severity is Severity.ERROR)
    assert wrong.text.startswith("where in common/user.o differs in a full rebuild: it is not")


def test_without_the_patches_beneath_nothing_is_compared(stack: Stack) -> None:
    (finding,) = stack.judged(replace(stack.patches, patches=stack.patches.patches[:1]), depth=1)
    assert finding.severity is Severity.UNCHECKED
    assert "the patches lack those of low.livepatch" in finding.text


def test_a_stack_that_only_make_can_build_is_compared_with_its_own_lines(
    stack: Stack, tmp_path: Path
) -> None:
    """The second fix moves lines; what the first changed elsewhere is held as well."""
    made = "xen/Makefile", "xen: xen-syms", "more := 1\nxen: xen-syms"
    where = "xen/common/user.c", "int where(void) { return", "int where(void) { return 4711 +"
    series(stack.tree, tmp_path, made, FIRST, FAR, where, MOVED, USERS)
    files = [str(tmp_path / f"{number}.patch") for number in range(6)]
    given = {"XEN": stack.tree.root, "SIGNER": "none"}

    def proved(name: str, count: int, **more: object) -> Run:
        patches = " ".join(files[:count])
        return scons("xsplice-verify", tmp_path / "b", PATCH=patches, NAME=name, **more, **given)

    lower = tmp_path / "b/low/low.livepatch"
    assert "  MAKE " in proved("low", 4).assert_success().out
    said = proved("up", 6, DEPENDS=lower).assert_success().text
    assert "untouched functions of 2 objects are what a rebuild has, on top of low" in said
    data = lower.read_bytes()
    number = (4711 + 12).to_bytes(4, "little")
    assert data.count(number) == 1
    lower.write_bytes(data.replace(number, (4724).to_bytes(4, "little")))
    beside = lower.with_suffix(".payload.json")
    digest = hashlib.sha256(lower.read_bytes()).hexdigest()
    beside.write_text(json.dumps(json.loads(beside.read_text()) | {"digest": digest}))
    ended = proved("up", 6, DEPENDS=lower)
    assert ended.status == 5, ended.text
    assert "livepatch: not what a rebuild has" in ended.text
