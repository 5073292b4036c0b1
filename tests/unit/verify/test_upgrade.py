# SPDX-License-Identifier: Apache-2.0
"""An upgrade by ``replace``, played in a model of three pages."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from tests.kit.payloads import (
    ALLOC,
    UND,
    WRITE,
    XEN_ID,
    Draft,
    Rel,
    Sec,
    Sym,
    add_code,
    add_hook,
    expectation,
    minimal,
)
from tests.kit.tiny_xen import tiny_xen
from xsplice_plugins import artefacts, hypervisor
from xsplice_plugins.artefacts import (
    SUPERSEDED,
    Finding,
    NewItem,
    PatchDigest,
    PatchFile,
    PatchSet,
    PayloadRecord,
    ReplacedFunction,
    Severity,
    record_path,
)
from xsplice_plugins.hypervisor import OFF, Probe
from xsplice_plugins.testing.samples import sample_payload
from xsplice_plugins.verify.upgrade import play_upgrade, upgrade_steps

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NEW_ID = b"\xb2" * 20
LACKS = ", and its sources lack that fix; begin PATCH= with its patches, or unload it first"
LACKS_BY_HAND = LACKS.replace("begin PATCH= with its patches", "write by hand what does both")
OLD_PATCH = PatchDigest(name="a", sha256="1", files=("a.c",))
OTHER_PATCH = PatchDigest(name="b", sha256="2", files=("b.c",))
OLD_BY_HAND = PatchDigest(name="old.c", sha256="4", files=())
LOAD, UNLOAD = ".livepatch.hooks.load", ".livepatch.hooks.unload"
BY_HAND = PatchDigest(name="by-hand.c", sha256="3", files=())


def new_item(name: str, kind: str) -> NewItem:
    return NewItem(name=name, reason="", kind=kind, symbol=name, section=".data")


def record_with(
    name: str, *, replaced: tuple[str, ...] = (), new: tuple[NewItem, ...] = (), **more: object
) -> PayloadRecord:
    functions = tuple(
        ReplacedFunction(
            name=function,
            addr_old_virt=1,
            size_old_bytes=9,
            size_new_bytes=9,
            section_new=".text",
            expect="",
            expect_note="",
            reason="",
            object_path="a.o",
        )
        for function in replaced
    )
    return replace(sample_payload()[1], name=name, functions=functions, new=new, **more)  # type: ignore[arg-type]


def written(folder: Path, draft: Draft, record: PayloadRecord | None, name: str = "old") -> Path:
    """Write the old payload, with its record if there is one."""
    path = folder / f"{name}.livepatch"
    path.write_bytes(draft.build())
    if record is not None:
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        artefacts.save(record_path(path), replace(record, digest=digest, size_bytes=len(data)))
    return path


def held_against(path: Path) -> Finding:
    """Return what the maker of a payload says of one whose sources it looked at."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Finding(
        check="stack", severity=Severity.INFO, subject="new", text="", evidence={SUPERSEDED: digest}
    )


def played(
    new: Draft,
    older: Sequence[Path],
    record: PayloadRecord | None = None,
    *probes: Probe,
    is_compared: bool = True,
) -> list[Finding]:
    record = record or record_with("new")
    if is_compared:
        record = replace(record, findings=tuple(map(held_against, older)))
    found = play_upgrade(
        new.build(),
        record,
        older,
        tiny_xen(),
        hypervisor.release("4.17.5"),
        probes=probes,
        signatures=OFF,
    )
    assert {finding.check for finding in found} == {"upgrade"}
    return list(found)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return written(tmp_path, minimal(), record_with("old"))


def test_the_new_payload_takes_the_place_of_the_old_one(old: Path) -> None:
    (finding,) = played(minimal(build_id=NEW_ID), [old])
    assert finding.severity is Severity.HELD
    assert finding.text == "uploaded beside old, put in its place by replace; old unloaded"


def test_the_job_list_of_an_upgrade() -> None:
    steps, down = upgrade_steps("new", ["a", "b"])
    words = [f"{step.verb} {step.name}" for step in (*steps, *down)]
    assert words == [
        *("upload a", "apply a", "upload b", "apply b", "upload new", "replace new"),
        *("unload b", "unload a", "revert new", "unload new"),
    ]


def test_the_name_of_the_old_one_may_be_that_of_the_new_one(old: Path) -> None:
    (finding,) = played(minimal(build_id=NEW_ID), [old], record_with("old"))
    assert finding.severity is Severity.HELD


def test_a_name_that_both_bring_is_refused_at_the_upload(tmp_path: Path) -> None:
    drafts = [minimal(build_id=build_id) for build_id in (b"\xa1" * 20, NEW_ID)]
    for draft in drafts:
        draft.sections.append(Sec(".data", bytes(8), flags=ALLOC | WRITE))
        draft.symbols.append(Sym("both", ".data", size=8))
    finding = played(drafts[1], [written(tmp_path, drafts[0], record_with("old"))])[0]
    assert (finding.severity, finding.errno, finding.step) == (Severity.ERROR, 17, "upload")
    assert "symbol both exists already" in finding.text


def test_an_expectation_that_fails_leaves_the_host_unpatched(old: Path) -> None:
    draft = minimal(build_id=NEW_ID)
    draft.record(expect=expectation(b"\x55"))
    finding = played(draft, [old])[0]
    assert (finding.severity, finding.errno, finding.step) == (Severity.ERROR, 22, "replace")
    assert "expected 55, memory has" in finding.text
    assert finding.text.endswith("old reverted, new not applied: the host is unpatched")


def test_a_reference_to_the_old_one_is_a_hazard(old: Path) -> None:
    draft = minimal(build_id=NEW_ID)
    draft.symbols.append(Sym("words_a1", UND))
    record = record_with("new", references=("words_a1", "xen_extra_version"))
    finding = played(draft, [old], record)[0]
    assert finding.severity is Severity.HAZARD
    assert finding.text == "it refers to `words_a1` of old, which is unloaded"


def test_hooks_before_and_after_forbid_a_replace(old: Path) -> None:
    draft = minimal(build_id=NEW_ID)
    add_code(draft, "ask_first", bytes.fromhex("31c0c3"))
    add_hook(draft, "preapply", "ask_first")
    finding = played(draft, [old])[0]
    assert (finding.severity, finding.step) == (Severity.ERROR, "replace")
    assert "has pre/post hooks" in finding.text


@pytest.mark.parametrize(("wanted", "severity"), [("patched", "held"), ("other", "error")])
def test_probes_are_asked_once_the_old_one_is_gone(wanted: str, severity: str, old: Path) -> None:
    probe = Probe(function="xen_extra_version", kind="string", during=wanted)
    finding = played(minimal(build_id=NEW_ID), [old], None, probe)[0]
    assert str(finding.severity) == severity


def test_what_ends_with_the_old_one_is_said(tmp_path: Path) -> None:
    before = record_with(
        "old",
        patches=(OLD_PATCH,),
        replaced=("guarded", "answer"),
        new=(new_item("a.c#reads.0", "bss"), new_item("total", "data"), new_item("text", "string")),
    )
    path = written(tmp_path, minimal(), before)
    after = record_with(
        "new",
        replaced=("guarded",),
        new=(new_item("a.c#reads.7", "bss"), new_item("text", "string")),
    )
    _, *losses = played(minimal(build_id=NEW_ID), [path], after)
    assert [(finding.severity, finding.text) for finding in losses] == [
        (Severity.WARNING, "new starts its own `a.c#reads`; the value in old is lost"),
        (Severity.WARNING, "new has no variable `total`; the value in old is lost"),
        (Severity.UNCHECKED, f"what old changed in `guarded` is given up{LACKS}"),
        (
            Severity.UNCHECKED,
            f"`answer` is replaced by old only; the hypervisor's runs again{LACKS}",
        ),
    ]
    after = replace(after, hooks=(".livepatch.hooks.load",))
    texts = [finding.text for finding in played(minimal(build_id=NEW_ID), [path], after)]
    assert texts[1].endswith("is lost unless its hook carries it over")


def test_what_a_payload_brought_is_not_the_hypervisors(tmp_path: Path) -> None:
    before = record_with("old", replaced=("guarded", "brought"))
    functions = (before.functions[0], replace(before.functions[1], addr_old_virt=0))
    path = written(tmp_path, minimal(), replace(before, functions=functions))
    _, *losses = played(minimal(build_id=NEW_ID), [path], record_with("new"))
    assert [loss.text.removesuffix(LACKS_BY_HAND) for loss in losses] == [
        "`guarded` is replaced by old only; the hypervisor's runs again",
        "`brought` is replaced by old only; it ends with that",
    ]


@pytest.mark.parametrize(
    ("old_patch", "held", "severity"),
    [
        (OLD_PATCH, (OTHER_PATCH,), Severity.UNCHECKED),
        (OLD_PATCH, (), Severity.UNCHECKED),
        (OLD_BY_HAND, (OTHER_PATCH,), Severity.UNCHECKED),
        (OLD_PATCH, (OLD_PATCH,), Severity.WARNING),
        (OLD_PATCH, (OLD_PATCH, OTHER_PATCH), Severity.WARNING),
        (OLD_PATCH, (BY_HAND,), Severity.WARNING),
    ],
)
def test_what_is_given_up_must_be_meant(
    old_patch: PatchDigest, held: tuple[PatchDigest, ...], severity: Severity, tmp_path: Path
) -> None:
    """The sources held the old one's patches, or a person wrote the new one."""
    before = record_with(
        "old", replaced=("guarded", "answer"), patches=(old_patch,), hooks=(LOAD, UNLOAD)
    )
    after = record_with("new", replaced=("guarded",), patches=held, hooks=(LOAD,))
    path = written(tmp_path, minimal(), before)
    _, *losses = played(minimal(build_id=NEW_ID), [path], after)
    assert {loss.severity for loss in losses} == {severity}
    hint = LACKS if old_patch == OLD_PATCH else LACKS_BY_HAND
    if severity is Severity.UNCHECKED:
        assert all(loss.text.endswith(hint) for loss in losses)
    texts = [loss.text.removesuffix(hint) for loss in losses]
    gone = "`answer` is replaced by old only; the hypervisor's runs again"
    if old_patch in held:  # what both do is compiled from the old one's sources too
        assert texts == [gone, "the hooks of old (unload) run no more; what they left in Xen stays"]
    else:
        common = "what old changed in `guarded` is given up"
        assert texts == [
            common,
            gone,
            "the hooks of old (load, unload) run no more; what they left in Xen stays",
        ]


@pytest.mark.parametrize(
    ("lines", "severity"),
    [
        (("f+1", "f+2", "f+2", "f-3", "g+1"), None),
        (("f+1", "f+2", "f+2", "f-3", "g+1", "h+9"), None),
        (("f+1", "f+2", "f+4", "f-3", "g+1"), Severity.UNCHECKED),  # a line is another
        (("f+1", "f+2", "f+2", "f+4", "g+1"), Severity.UNCHECKED),  # what the old one took away
        (("f+1", "f+4", "f-3", "g+1"), Severity.UNCHECKED),
        (("f+1", "f+2", "f+2", "f-3", "h+1"), Severity.UNCHECKED),  # one function lacks all of it
        (("f+1", "f+2", "f+2", "f-3", "g+1", "f+5"), Severity.UNCHECKED),  # a patch took that out
        ((), Severity.UNCHECKED),
    ],
)
def test_a_cumulative_patch_that_was_written_anew_holds_the_lines_of_the_old_one(
    lines: tuple[str, ...], severity: Severity | None, tmp_path: Path
) -> None:
    fix, later = replace(OLD_PATCH, lines=("+5", "-3")), replace(OTHER_PATCH, lines=("-5",))
    net = ("f+1", "f+2", "f+2", "f-3", "g+1")
    before = record_with("old", replaced=("guarded",), patches=(fix, later), net=net)
    squashed = replace(OLD_PATCH, sha256="c" * 64)
    after = record_with("new", replaced=("guarded",), patches=(squashed,), net=lines)
    _, *losses = played(minimal(build_id=NEW_ID), [written(tmp_path, minimal(), before)], after)
    assert [loss.severity for loss in losses] == ([severity] if severity else [])
    assert all("what old changed in `guarded`" in loss.text for loss in losses)


@pytest.mark.parametrize("line", ["", "nosign", "+", "f+"])
def test_an_odd_line_of_a_record_is_another_line(line: str, tmp_path: Path) -> None:
    fix = replace(OLD_PATCH, lines=(line,))
    before = record_with("old", replaced=("guarded",), patches=(fix,), net=(line, "f-1"))
    after = record_with("new", replaced=("guarded",), patches=(OTHER_PATCH,), net=("f+1", ""))
    _, *losses = played(minimal(build_id=NEW_ID), [written(tmp_path, minimal(), before)], after)
    assert [loss.severity for loss in losses] == [Severity.UNCHECKED]


def test_patches_are_held_in_their_order_and_as_often(tmp_path: Path) -> None:
    fix, undo = OLD_PATCH, replace(OLD_PATCH, sha256="d" * 64)
    before = record_with("old", replaced=("guarded",), patches=(fix, undo, fix), net=("f+1",))
    path = written(tmp_path, minimal(), before)
    for held, is_held in (
        ((fix, undo, fix), True),
        ((fix, OTHER_PATCH, undo, fix), True),
        ((fix, undo, OTHER_PATCH), False),
        ((undo, fix), False),
    ):
        after = record_with("new", replaced=("guarded",), patches=held)
        _, *losses = played(minimal(build_id=NEW_ID), [path], after)
        assert [loss.severity for loss in losses] == ([] if is_held else [Severity.UNCHECKED])


def test_what_replaced_something_of_a_payload_beneath_is_there_if_the_new_one_brings_it(
    tmp_path: Path,
) -> None:
    before = record_with("old", replaced=("guarded",), patches=(OLD_PATCH,))
    beneath = replace(before.functions[0], addr_old_virt=0)
    before = replace(before, functions=(beneath,))
    path = written(tmp_path, minimal(), before)
    item = NewItem(name="guarded", reason="", kind="function", symbol="guarded", section=".text")
    for new, count in ((), 1), ((item,), 0):
        after = record_with("new", new=new, patches=(OLD_PATCH,))
        _, *losses = played(minimal(build_id=NEW_ID), [path], after)
        assert len(losses) == count


def test_a_patchs_lines_are_what_it_adds_and_takes_away() -> None:
    def lines(text: str) -> tuple[str, ...]:
        rows = PatchFile(name="a", text=text, files=("a.c",))
        return PatchSet(name="a", strip=1, patches=(rows,), touched=()).digests[0].lines

    added = lines("--- a/a.c\n+++ b/a.c\n@@ -1 +1,3 @@\n-  gone();\n+  new();\n+}\n+  more( x );\n")
    assert [line[0] for line in added] == ["+", "+", "-"]
    assert added == lines("+++ b/a.c\n@@ -9 +9,2 @@\n+new();\n-gone ();\n+\tmore(x);\n")
    assert added != lines("+++ b/other.c\n@@ -9 +9,2 @@\n+new();\n-gone();\n+\tmore(x);\n")
    (taken,) = lines("+++ b/a.c\n@@ -1 +0,0 @@\n-  gone();\n")
    (given,) = lines("+++ b/a.c\n@@ -1 +0,0 @@\n+  gone();\n")
    assert taken in added
    assert given not in added


def test_an_upgrade_whose_sources_hold_the_old_ones_loses_nothing(tmp_path: Path) -> None:
    before = record_with("old", replaced=("guarded",), patches=(OLD_PATCH,), hooks=(LOAD,))
    after = replace(before, name="new", patches=(OLD_PATCH, OTHER_PATCH))
    path = written(tmp_path, minimal(), before)
    (finding,) = played(minimal(build_id=NEW_ID), [path], after)
    assert finding.severity is Severity.HELD


def test_sources_that_hold_the_old_ones_must_have_been_held_against_them(tmp_path: Path) -> None:
    """What the old one stored may be read otherwise; a maker that did not look says nothing."""
    before = record_with("old", replaced=("guarded",), patches=(OLD_PATCH,))
    path = written(tmp_path, minimal(), before)
    after = replace(before, name="new", patches=(OLD_PATCH, OTHER_PATCH))
    other = replace(held_against(path), evidence={SUPERSEDED: "f" * 64})
    for findings in ((), (other,), (replace(other, evidence=None),)):
        record = replace(after, findings=findings)
        _, *losses = played(minimal(build_id=NEW_ID), [path], record, is_compared=False)
        assert [loss.severity for loss in losses] == [Severity.UNCHECKED]
        assert losses[0].text.startswith("what objects hold that old made was not compared")


def test_each_payload_of_a_chain_that_is_superseded_counts(tmp_path: Path) -> None:
    """Sources that hold the lowest one's patches alone give up what the others changed."""
    paths = []
    for name, build_id, depends, patches in (
        ("low", b"\xa1" * 20, XEN_ID, (OLD_PATCH,)),
        ("high", b"\xc3" * 20, b"\xa1" * 20, (OLD_PATCH, OTHER_PATCH)),
    ):
        draft = minimal(build_id=build_id, depends=depends)
        record = record_with(name, replaced=("guarded",), patches=patches)
        paths.append(written(tmp_path, draft, record, name))
    for patches, lost in (((OLD_PATCH,), 1), ((OLD_PATCH, OTHER_PATCH), 0)):
        after = record_with("new", replaced=("guarded",), patches=patches)
        first, *losses = played(minimal(build_id=NEW_ID), paths, after)
        assert first.severity is Severity.HELD, first.text
        assert [loss.severity for loss in losses] == [Severity.UNCHECKED] * lost
        assert all("what high changed in `guarded`" in loss.text for loss in losses)


def test_a_record_of_another_file_is_not_believed(old: Path) -> None:
    old.write_bytes(minimal(text=b"another").build())
    _, finding = played(minimal(build_id=NEW_ID), [old])
    assert finding.severity is Severity.UNCHECKED
    assert finding.text.startswith("old.payload.json is the record of another file")


def test_without_a_record_what_is_lost_stays_unchecked(tmp_path: Path) -> None:
    path = written(tmp_path, minimal(), None)
    _, finding = played(minimal(build_id=NEW_ID), [path])
    assert finding.severity is Severity.UNCHECKED
    assert "old.livepatch has no record" in finding.text


@pytest.mark.parametrize("is_undone", [False, True])
def test_what_hooks_left_in_xen_stays_and_is_said(tmp_path: Path, *, is_undone: bool) -> None:
    before = minimal()
    before.symbols.append(Sym("counter", UND))
    for kind, byte in (("load", 5), ("unload", 0))[: 1 + is_undone]:
        code = bytes.fromhex("c705") + bytes(4) + bytes([byte, 0, 0, 0]) + b"\x31\xc0\xc3"
        add_code(before, kind, code, [Rel(2, 2, "counter", -8)])
        add_hook(before, kind, kind)
    path = written(tmp_path, before, record_with("old", hooks=(LOAD,)))
    texts = [finding.text for finding in played(minimal(build_id=NEW_ID), [path])]
    assert ("counter keeps what hooks wrote after the unload" in texts) != is_undone
    assert any("(load) run no more; what they left in Xen stays" in text for text in texts)
