# SPDX-License-Identifier: Apache-2.0
"""Each hook, called through the pipeline as SCons and the command line do."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from msgspec import structs

from xsplice_plugins import hookimpl, pipeline
from xsplice_plugins.artefacts import (
    Cause,
    ChangedFunction,
    Delta,
    Duty,
    Finding,
    ObjectPair,
    Payload,
    PayloadRecord,
    Refusal,
    Severity,
    SignatureCheck,
    SignatureRecord,
    SignatureState,
    SignedPayload,
    State,
    Verdict,
)
from xsplice_plugins.errors import PluginError, RefusedError, SignError
from xsplice_plugins.pipeline import Run
from xsplice_plugins.plugins import manager
from xsplice_plugins.plugins.spec import Config
from xsplice_plugins.testing import ManagerFactory, sample_objects, sample_payload

IMAGE = sample_objects()[1]  #: any ELF file that tells no release


def delta_of(pair: ObjectPair) -> Delta:
    """Return a delta that replaces one function."""
    changed = ChangedFunction(
        name="answer",
        reason="it answers differently",
        cause=Cause.CONSTANT,
        symbol="answer",
        symbol_baseline="answer",
        section=".text.answer",
        size_before_bytes=6,
        size_after_bytes=6,
    )
    return Delta(
        object_path=pair.object_path,
        source_path=pair.source_path,
        profile="xen",
        machine=62,
        digest_new=pair.digest_new,
        changed=(changed,),
        data="by hand",
    )


def finding(severity: Severity, text: str = "policy") -> Finding:
    return Finding(check="acme.policy", severity=severity, subject="answer", text=text)


class Differ:
    """A differ that finds one changed function."""

    xsplice_name = "acme"

    @hookimpl
    def xsplice_diff_objects(self, pair: ObjectPair) -> Delta | None:
        """Know C files only."""
        return delta_of(pair) if pair.source_path.endswith(".c") else None


class DeltaCheck:
    """A check that says one thing."""

    def __init__(self, severity: Severity) -> None:
        self.severity = severity

    @hookimpl
    def xsplice_check_delta(self, delta: Delta) -> tuple[Finding, ...]:
        """Say it of every delta with a change."""
        return (finding(self.severity),) if delta.changed else ()


class Linker:
    """A linker that always makes the sample payload."""

    xsplice_name = "acme"

    def __init__(self) -> None:
        self.seen: tuple[Delta, ...] = ()

    @hookimpl
    def xsplice_link_payload(self, name: str, deltas: tuple[Delta, ...]) -> Payload:
        """Remember what came."""
        self.seen = deltas
        data, record = sample_payload(name=name)
        return Payload(data=data, record=record)


class Signer:
    """A signer whose output and check are given."""

    xsplice_name = "acme"

    def __init__(self, tail: bytes, state: SignatureState, *, spoils: bool = False) -> None:
        self.tail, self.state, self.spoils = tail, state, spoils

    @hookimpl
    def xsplice_sign_payload(self, data: bytes, record: PayloadRecord) -> SignedPayload:
        """Append the tail."""
        signed = (data[1:] if self.spoils else data) + self.tail
        return SignedPayload(
            data=signed,
            record=SignatureRecord(
                signer="acme",
                scheme="tail",
                is_deterministic=True,
                is_development_key=False,
                subject="",
                certificate_sha256="",
                digest_payload=record.digest,
                digest_signed=hashlib.sha256(signed).hexdigest(),
            ),
        )

    @hookimpl
    def xsplice_check_signature(self, data: bytes) -> SignatureCheck:
        """Give the answer."""
        return SignatureCheck(state=self.state, reason="so it is", payload_size_bytes=len(data))


class Verifier:
    """A verifier that says one thing."""

    def __init__(self, name: str) -> None:
        self.xsplice_name = name

    @hookimpl
    def xsplice_verify_payload(self, record: PayloadRecord) -> tuple[Finding, ...]:
        """Say who spoke."""
        return (finding(Severity.INFO, f"{self.xsplice_name} saw {record.name}"),)


def test_xsplice_startup_is_heard_once_by_every_plugin(xsplice_manager: ManagerFactory) -> None:
    heard: list[tuple[str, Config]] = []

    class Ears:
        def __init__(self, name: str) -> None:
            self.xsplice_name = name

        @hookimpl
        def xsplice_startup(self, config: Config) -> None:
            heard.append((self.xsplice_name, config))

    config = Config(signer="none")
    pm = xsplice_manager(Ears("one"), Ears("two"))
    manager.startup(pm, config)
    pm.register(Ears("late"), "late")
    assert sorted(name for name, _ in heard) == ["late", "one", "two"]
    assert all(given is config for _, given in heard)


def test_xsplice_diff_objects_is_asked_of_the_differ_chosen_by_name(
    xsplice_manager: ManagerFactory,
) -> None:
    pair, baseline, new = sample_objects()
    pm, config = xsplice_manager(Differ()), Config(differ="acme")
    delta, findings = pipeline.diff_pair(Run(config=config, plugins=pm), pair, baseline, new)
    assert (delta, findings) == (structs.replace(delta_of(pair), layouts=pair.layouts), ())
    other = structs.replace(pair, source_path="entry.S")
    with pytest.raises(PluginError, match="the differ acme does not know such objects"):
        pipeline.diff_pair(Run(config=config, plugins=pm), other, baseline, new)


def test_whatever_differ_is_chosen_the_captures_findings_stay(
    xsplice_manager: ManagerFactory,
) -> None:
    """A refusal of the capture, and layouts that nobody compared, are lost by no plugin."""
    pair, baseline, new = sample_objects()
    refusal = Refusal(name="struct s", reason="it changes", code="LAYOUT", hint="do not")
    run = Run(config=Config(differ="acme"), plugins=xsplice_manager(Differ()))
    bare = structs.replace(pair, layouts="", refused=(refusal,))
    delta, _ = pipeline.diff_pair(run, bare, baseline, new)
    assert delta.refused == (refusal,)
    assert "layouts of structures were not compared" in delta.unchecked[0]
    assert pipeline.diff_pair(run, pair, baseline, new)[0].unchecked == ()


def test_a_delta_without_a_machine_is_refused(xsplice_manager: ManagerFactory) -> None:
    """The check takes it for an object of which there is nothing to compare."""
    pair, baseline, new = sample_objects()

    class Careless(Differ):
        @hookimpl
        def xsplice_diff_objects(self, pair: ObjectPair) -> Delta | None:
            """Leave it out."""
            return structs.replace(delta_of(pair), machine=0)

    run = Run(config=Config(differ="acme"), plugins=xsplice_manager(Careless()))
    with pytest.raises(PluginError, match="does not say for which machine"):
        pipeline.diff_pair(run, pair, baseline, new)


def test_a_differ_that_says_nothing_of_data_leaves_it_unchecked(
    xsplice_manager: ManagerFactory,
) -> None:
    pair, baseline, new = sample_objects()

    class Silent(Differ):
        @hookimpl
        def xsplice_diff_objects(self, pair: ObjectPair) -> Delta | None:
            """Leave it out."""
            return structs.replace(delta_of(pair), data="")

    run = Run(config=Config(differ="acme", linker="acme"), plugins=xsplice_manager(Silent()))
    delta, _ = pipeline.diff_pair(run, pair, baseline, new)
    (found,) = delta.findings
    assert (found.obligation, found.severity) == (Duty.DATA, Severity.UNCHECKED)
    assert "did not look at tables and variables" in found.text


def test_xsplice_check_delta_collects_findings_and_an_error_stops(
    xsplice_manager: ManagerFactory,
) -> None:
    pair, baseline, new = sample_objects()
    config = Config(differ="acme")
    pm = xsplice_manager(Differ(), DeltaCheck(Severity.WARNING))
    delta, findings = pipeline.diff_pair(Run(config=config, plugins=pm), pair, baseline, new)
    assert findings == (finding(Severity.WARNING),)
    assert set(findings) <= set(delta.findings), "no later stage loses them"
    pm = xsplice_manager(Differ(), DeltaCheck(Severity.ERROR))
    with pytest.raises(RefusedError, match=r"answer: policy \(check acme\.policy\)"):
        pipeline.diff_pair(Run(config=config, plugins=pm), pair, baseline, new)


def test_xsplice_link_payload_gets_deltas_sorted_and_without_empty_ones(
    xsplice_manager: ManagerFactory,
) -> None:
    pair, _, new = sample_objects()
    first = delta_of(structs.replace(pair, object_path="a.o"))
    last = delta_of(structs.replace(pair, object_path="z.o"))
    empty = structs.replace(last, object_path="b.o", changed=())
    linker = Linker()
    pm = xsplice_manager(linker)
    payload = pipeline.link_payload(
        Run(config=Config(linker="acme", release="4.17.5"), plugins=pm),
        "fix",
        [last, empty, first],
        [new] * 3,
        IMAGE,
    )
    assert linker.seen == (first, last)
    assert payload.record.name == "fix"
    held = {f.obligation: f.text for f in payload.record.findings if f.severity is Severity.HELD}
    assert held == {Duty.DATA: "tables and variables of 2 objects compared by hand"}
    missing = [f.text.partition(":")[0] for f in payload.record.findings
               if (f.obligation, f.severity) == (Duty.LAYOUT, Severity.UNCHECKED)]  # fmt: skip
    assert missing == ["z.o", "b.o", "a.o"], "no delta says how layouts were compared"


def test_xsplice_sign_payload_may_only_append(xsplice_manager: ManagerFactory) -> None:
    data, record = sample_payload()
    payload, config = Payload(data=data, record=record), Config(signer="acme")
    good = xsplice_manager(Signer(b"tail", SignatureState.GOOD))
    assert pipeline.sign_payload(Run(config=config, plugins=good), payload).data == data + b"tail"
    spoilt = xsplice_manager(Signer(b"tail", SignatureState.GOOD, spoils=True))
    with pytest.raises(SignError, match="changed the payload itself"):
        pipeline.sign_payload(Run(config=config, plugins=spoilt), payload)


def test_xsplice_check_signature_decides_whether_the_written_file_stays(
    xsplice_manager: ManagerFactory, tmp_path: Path
) -> None:
    data, record = sample_payload()
    config, path = Config(signer="acme"), tmp_path / "fix.livepatch"
    for state, stays in ((SignatureState.GOOD, True), (SignatureState.BAD, False)):
        pm = xsplice_manager(Signer(b"tail", state))
        run = Run(config=config, plugins=pm)
        signed = pipeline.sign_payload(run, Payload(data=data, record=record))
        if stays:
            pipeline.write_signed(run, signed, path)
        else:
            with pytest.raises(SignError, match="so it is"):
                pipeline.write_signed(run, signed, path)
        assert path.exists() is stays


def test_xsplice_verify_payload_collects_from_those_named_in_order_of_registration(
    xsplice_manager: ManagerFactory, tmp_path: Path
) -> None:
    data, record = sample_payload(name="fix")
    signer = Signer(b"tail", SignatureState.GOOD)
    pm = xsplice_manager(signer, Verifier("one"), Verifier("unasked"), Verifier("two"))
    # The built-in verifier needs a real image; what it says is tested with it.
    pm.unregister(name="model")
    image = tmp_path / "xen-syms"
    image.write_bytes(IMAGE)
    config = Config(signer="acme", verifiers=("two", "one"), release=record.release, image=image)
    report = pipeline.verify_payload(
        Run(config=config, plugins=pm), data, record, tmp_path / "fix.livepatch", checks=None
    )
    stack = [row.state for row in report.obligations if row.name is Duty.STACK]
    assert stack == [State.NONE]
    ours = [f.text for f in report.findings if f.check == "acme.policy"]
    assert report.verdict is Verdict.UNPROVED, "the model was not asked"
    assert ours == ["one saw fix", "two saw fix"]
    again = structs.replace(config, supersedes=(tmp_path / "old.livepatch",))
    report = pipeline.verify_payload(
        Run(config=again, plugins=pm), data, record, tmp_path / "fix.livepatch", checks=None
    )
    (stack_row,) = [row for row in report.obligations if row.name is Duty.STACK]
    assert (stack_row.state, stack_row.text) == (
        State.UNCHECKED,
        "the upgrade by replace was not played [stack]",
    )
