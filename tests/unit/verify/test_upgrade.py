# SPDX-License-Identifier: Apache-2.0
"""An upgrade by ``replace``, played in a model of three pages."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.kit.payloads import (
    ALLOC,
    UND,
    WRITE,
    Draft,
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
    Finding,
    NewItem,
    PatchDigest,
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


def written(folder: Path, draft: Draft, record: PayloadRecord | None) -> Path:
    """Write the old payload, with its record if there is one."""
    path = folder / "old.livepatch"
    path.write_bytes(draft.build())
    if record is not None:
        artefacts.save(record_path(path), record)
    return path


def played(
    new: Draft, older: Sequence[Path], record: PayloadRecord | None = None, *probes: Probe
) -> list[Finding]:
    found = play_upgrade(
        new.build(),
        record or record_with("new"),
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
        replaced=("xen_extra_version", "answer"),
        new=(new_item("a.c#reads.0", "bss"), new_item("total", "data"), new_item("text", "string")),
    )
    path = written(tmp_path, minimal(), before)
    after = record_with(
        "new",
        replaced=("xen_extra_version",),
        new=(new_item("a.c#reads.7", "bss"), new_item("text", "string")),
    )
    _, *losses = played(minimal(build_id=NEW_ID), [path], after)
    assert [(finding.severity, finding.text) for finding in losses] == [
        (Severity.WARNING, "new starts its own `a.c#reads`; the value in old is lost"),
        (Severity.WARNING, "new has no variable `total`; the value in old is lost"),
        (
            Severity.UNCHECKED,
            (
                "`answer` is replaced by old only; the hypervisor's runs again, and its sources "
                "lack that fix; begin PATCH= with its patches, or unload it first"
            ),
        ),
    ]
    after = replace(after, hooks=(".livepatch.hooks.load",))
    texts = [finding.text for finding in played(minimal(build_id=NEW_ID), [path], after)]
    assert texts[1].endswith("is lost unless its hook carries it over")


@pytest.mark.parametrize(
    ("held", "severity"),
    [
        ((PatchDigest(name="b", sha256="2", files=("b.c",)),), Severity.UNCHECKED),
        ((PatchDigest(name="a", sha256="1", files=("a.c",)),), Severity.WARNING),
        ((PatchDigest(name="by-hand.c", sha256="3", files=()),), Severity.WARNING),
    ],
)
def test_a_function_that_is_given_back_must_be_meant(
    held: tuple[PatchDigest, ...], severity: Severity, tmp_path: Path
) -> None:
    """The sources held the old one's patches, or a person wrote the new one."""
    patches = (PatchDigest(name="a", sha256="1", files=("a.c",)),)
    before = replace(record_with("old", replaced=("answer",)), patches=patches)
    after = replace(record_with("new", replaced=("xen_extra_version",)), patches=held)
    path = written(tmp_path, minimal(), before)
    _, loss = played(minimal(build_id=NEW_ID), [path], after)
    assert loss.severity is severity
    assert loss.text.startswith("`answer` is replaced by old only")


def test_without_a_record_what_is_lost_stays_unchecked(tmp_path: Path) -> None:
    path = written(tmp_path, minimal(), None)
    _, finding = played(minimal(build_id=NEW_ID), [path])
    assert finding.severity is Severity.UNCHECKED
    assert "old.livepatch has no record" in finding.text
