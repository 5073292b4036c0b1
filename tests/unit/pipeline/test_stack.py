# SPDX-License-Identifier: Apache-2.0
"""Whether a fix holds the patches of the payloads beneath it, told from their records."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from xsplice_plugins import artefacts
from xsplice_plugins.artefacts import (
    PatchFile,
    PatchSet,
    PayloadRecord,
    ReplacedFunction,
    record_path,
)
from xsplice_plugins.elf.types import EM_X86_64
from xsplice_plugins.elf.writer import write_object
from xsplice_plugins.errors import ConfigError, ElfFormatError, RefusedError
from xsplice_plugins.pipeline import Stack, check_payloads, read_stack
from xsplice_plugins.pipeline.stack import BY_HAND, NOTHING, PATCHES, check_replaced
from xsplice_plugins.plugins.spec import Config
from xsplice_plugins.testing.samples import sample_payload

if TYPE_CHECKING:
    from pathlib import Path


def patch(name: str, *files: str, text: str = "") -> PatchFile:
    return PatchFile(name=f"{name}.patch", text=text or f"text of {name}", files=files)


A, B, C = patch("A", "common/a.c"), patch("B", "common/a.c"), patch("C", "common/c.c")
HAND = PatchFile(name="hand.c", text="by hand")


def fix(*patches: PatchFile) -> PatchSet:
    return PatchSet(name="fix", strip=1, patches=patches, touched=())


def function(name: str) -> ReplacedFunction:
    return ReplacedFunction(
        name=name,
        addr_old_virt=1,
        size_old_bytes=9,
        size_new_bytes=9,
        section_new=".text",
        expect="",
        expect_note="",
        reason="",
        object_path="common/a.o",
    )


def record_with(*patches: PatchFile, replaced: tuple[str, ...] = ()) -> PayloadRecord:
    return replace(
        sample_payload()[1],
        patches=fix(*patches).digests,
        functions=tuple(function(name) for name in replaced),
    )


def below(
    folder: Path,
    name: str,
    *patches: PatchFile,
    replaced: tuple[str, ...] = (),
    on: Path | None = None,
) -> Path:
    """Write a payload of some patches with its record, signed; it stacks on another or on Xen."""
    path = folder / f"{name}.livepatch"
    path.write_bytes(sample_payload()[0] + b"a signature")
    record = replace(record_with(*patches, replaced=replaced), name=name, build_id=name)
    if on is not None:
        record = replace(record, depends=artefacts.load(record_path(on), PayloadRecord).build_id)
    artefacts.save(record_path(path), record)
    return path


def config(*beneath: Path) -> Config:
    return Config(release="4.17.5", depends=beneath)


def names(stack: Stack) -> list[str]:
    return [patch.name for patch in stack.lower.patches] if stack.lower else []


def test_the_front_of_the_fix_is_what_the_payloads_beneath_brought(tmp_path: Path) -> None:
    one = below(tmp_path, "one", A)
    two = below(tmp_path, "two", A, B, on=one)
    stack = read_stack(config(one), fix(A, B), {"common/a.c"})
    assert names(stack) == ["A.patch"]
    assert [patch.name for patch in stack.patches] == ["A.patch", "B.patch"]
    assert names(read_stack(config(one, two), fix(A, B, C), {"common/a.c"})) == [
        "A.patch",
        "B.patch",
    ]
    assert read_stack(config(), fix(A, B)) == Stack(patches=fix(A, B).digests)


def test_a_patch_is_known_by_its_text_and_not_by_its_name(tmp_path: Path) -> None:
    one = below(tmp_path, "one", A)
    renamed = replace(A, name="other.patch")
    assert names(read_stack(config(one), fix(renamed, B), {"common/a.c"})) == ["other.patch"]
    with pytest.raises(RefusedError):
        read_stack(config(one), fix(replace(A, text="another text"), B), {"common/a.c"})


def test_a_fix_without_the_patch_beneath_is_refused(tmp_path: Path) -> None:
    one = below(tmp_path, "one", A)
    with pytest.raises(RefusedError) as refused:
        read_stack(config(one), fix(B), {"common/a.c"})
    assert "it would undo one.livepatch (both are made of `common/a.c`)" in str(refused.value)
    assert 'PATCH="A.patch B.patch"' in str(refused.value)
    assert "order" not in str(refused.value)


def test_patches_in_another_order_than_the_payloads_beneath_are_named_so(tmp_path: Path) -> None:
    more = patch("D", "common/a.c")
    one = below(tmp_path, "one", A)
    two = below(tmp_path, "two", A, B, on=one)
    for given, wrong in (((B, A, more), "one"), ((A, more, B), "two")):
        with pytest.raises(RefusedError) as refused:
            read_stack(config(one, two), fix(*given), {"common/a.c"})
        text = str(refused.value)
        assert f"in another order than the payloads beneath: those of {wrong}.livepatch" in text
        assert 'PATCH="A.patch B.patch D.patch"' in text
        assert "undo" not in text


def test_the_middle_of_a_chain_must_not_be_left_out(tmp_path: Path) -> None:
    one = below(tmp_path, "one", A)
    two = below(tmp_path, "two", A, B, on=one)
    with pytest.raises(RefusedError, match="undo two"):
        read_stack(config(one, two), fix(A, patch("D", "common/a.c")), {"common/a.c"})


def test_the_chain_is_given_whole_and_bottom_first(tmp_path: Path) -> None:
    """Without the payload in between, its patches would seem to be the fix's own, or no fix."""
    one = below(tmp_path, "one", A)
    two = below(tmp_path, "two", A, B, on=one)
    three = below(tmp_path, "three", A, B, C, on=two)
    read_stack(config(one, two, three), fix(A, B, C, HAND), {"common/a.c"})
    for chain, text in (
        ((two,), "two.livepatch: it stacks on one, not on the hypervisor"),
        ((one, three), "three.livepatch: it stacks on two, not on one"),
        ((two, one), "two.livepatch: it stacks on one, not on the hypervisor"),
    ):
        for gap in (config(*chain), Config(supersedes=chain)):
            with pytest.raises(ConfigError) as refused:
                check_payloads(gap)
            assert str(refused.value) == f"{text}; give the whole chain, bottom first"


def test_a_payload_without_a_record_leaves_the_chain_to_the_link(tmp_path: Path) -> None:
    one = below(tmp_path, "one", A)
    two = below(tmp_path, "two", A, B, on=one)
    record_path(one).unlink()
    check_payloads(config(one, two))


def test_what_meets_nowhere_may_stack_without_the_patch(tmp_path: Path) -> None:
    one = below(tmp_path, "one", A)
    assert read_stack(config(one), fix(C), {"common/c.c", "include/c.h"}).lower is None
    # The fix's own object reads what the other patch changes.
    with pytest.raises(RefusedError, match=r"made of `common/a\.c`"):
        read_stack(config(one), fix(C), {"common/c.c", "common/a.c"})
    # What its objects read is not known, or no longer what was recorded.
    with pytest.raises(RefusedError, match="not recorded"):
        read_stack(config(one), fix(C))
    includes = patch("D", "common/c.c", text='+#include "a.h"\n')
    with pytest.raises(RefusedError, match="not recorded"):
        read_stack(config(one), fix(includes), {"common/c.c"})


def test_a_payload_between_that_meets_nothing_need_not_be_held(tmp_path: Path) -> None:
    one = below(tmp_path, "one", A)
    two = below(tmp_path, "two", C, on=one)
    assert names(read_stack(config(one, two), fix(A, B), {"common/a.c"})) == ["A.patch"]
    stack = read_stack(config(one, two), fix(A, C, B), {"common/a.c"})
    assert names(stack) == ["A.patch", "C.patch"]


def said(record: PayloadRecord) -> list[tuple[str, str]]:
    """Return what was established or not of the stack."""
    assert {(f.check, f.obligation) for f in record.findings} <= {("stack", "stack")}
    return [(f.severity.value, f.text) for f in record.findings]


def test_a_payload_without_a_record_must_be_named(tmp_path: Path) -> None:
    path = tmp_path / "A.livepatch"
    path.write_bytes(sample_payload()[0])
    stack = read_stack(config(path), fix(A, B), {"common/a.c"})
    assert names(stack) == ["A.patch"]
    assert stack.beneath == ((1, NOTHING),)  # the check holds it against that patch
    assert not check_replaced(config(path), record_with(), stack).unchecked
    with pytest.raises(RefusedError, match=r"A\.payload\.json"):
        read_stack(config(path), fix(B), {"common/a.c"})
    artefacts.save(record_path(path), record_with())  # made by `xsplice link`: of what?
    with pytest.raises(RefusedError, match=r"name its patch: PATCH=\"A\.patch B\.patch\""):
        read_stack(config(path), fix(B), {"common/a.c"})


def test_what_each_payload_beneath_is_made_of_is_known(tmp_path: Path) -> None:
    """How many of the patches it holds says which lines it was compiled with."""
    one = below(tmp_path, "one", A)
    two = below(tmp_path, "two", A, B, on=one)
    hand = below(tmp_path, "hand", HAND, on=two)
    stack = read_stack(config(one, two, hand), fix(A, B, C), {"common/a.c"})
    assert stack.beneath == ((1, PATCHES), (2, PATCHES), (2, BY_HAND))
    assert read_stack(config(), fix(A), {"common/a.c"}).beneath == ()


def test_the_record_of_another_file_is_refused(tmp_path: Path) -> None:
    path = below(tmp_path, "one", A)
    path.write_bytes(write_object((), (), machine=EM_X86_64))
    with pytest.raises(ConfigError, match="record of another file"):
        read_stack(config(path), fix(A, B), {"common/a.c"})


@pytest.mark.parametrize("name", ["depends", "supersedes"])
def test_a_file_that_is_no_payload_is_said_before_anything_else(name: str, tmp_path: Path) -> None:
    path = tmp_path / "fix.livepatch"  # the fix's own name would count as its patch
    path.write_bytes(b"garbage")
    with pytest.raises(ElfFormatError, match="not an ELF file"):
        read_stack(Config(**{name: (path,)}), fix(A, B), {"common/a.c"})


def test_one_function_twice_is_refused_at_the_link_whichever_way_it_came(tmp_path: Path) -> None:
    one = below(tmp_path, "one", A, replaced=("entry", "common/a.c#helper"))
    made, clear = record_with(replaced=("entry",)), record_with(replaced=("leaf",))
    with pytest.raises(RefusedError, match=r"it and one\.livepatch replace `entry`"):
        check_replaced(config(one), made, Stack(patches=fix(B).digests))
    held = Stack(patches=fix(A, B).digests)
    record = check_replaced(config(one), made, held)
    assert (record.patches, record.unchecked) == (held.patches, ())
    assert said(record) == [("held", "its sources hold A.patch of one.livepatch")]
    record = check_replaced(config(one), clear, Stack(patches=fix(B).digests))
    assert said(record) == [("held", "it and one.livepatch replace no function in common")]
    assert said(check_replaced(config(), made, held)) == [], "the judge says that none is there"


def test_no_source_patch_can_hold_what_was_written_by_hand(tmp_path: Path) -> None:
    one = below(tmp_path, "one", HAND, replaced=("entry",))
    stack = read_stack(config(one), fix(B), {"common/a.c"})
    assert stack.lower is None
    with pytest.raises(RefusedError, match=r"lack hand\.c"):
        check_replaced(config(one), record_with(replaced=("entry",)), stack)


def test_what_is_written_by_hand_may_replace_again_and_that_is_noted(tmp_path: Path) -> None:
    for lower in (A, HAND):
        one = below(tmp_path, "one", lower, replaced=("entry",))
        own = Stack(patches=fix(replace(HAND, text="another")).digests)
        record = check_replaced(config(one), record_with(replaced=("entry",)), own)
        assert record.notes == (
            "one.livepatch replaces `entry` too: what it does there counts no more",
        )
        assert said(record) == [("exempt", f"hand-written: {record.notes[0]}")]


def test_of_a_payload_without_a_record_its_own_faults_are_not_known(tmp_path: Path) -> None:
    one = below(tmp_path, "A", A)
    record_path(one).unlink()
    held, warned = said(check_replaced(config(one), record_with(), Stack(patches=fix(A).digests)))
    assert held == ("held", "A.livepatch has no record, and the patch named for it is held")
    assert warned[0] == "warning"
    assert warned[1].startswith("A.livepatch has no record: whether it leaves something behind")


def test_objects_of_unknown_sources_leave_it_unchecked(tmp_path: Path) -> None:
    one = below(tmp_path, "one", A)
    record = check_replaced(config(one), record_with(), Stack())
    (text,) = record.unchecked
    assert text.endswith("its patches were not looked for, the objects' own are not known")
    assert not check_replaced(config(), record_with(), Stack()).unchecked


def test_digests_are_those_of_the_texts() -> None:
    (digest,) = fix(A).digests
    assert digest.sha256 == hashlib.sha256(A.text.encode()).hexdigest()
    assert digest.files == ("common/a.c",)
