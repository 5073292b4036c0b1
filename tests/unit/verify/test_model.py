# SPDX-License-Identifier: Apache-2.0
"""The built-in verifier says which release it judged, and with which facts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.kit.payloads import minimal
from tests.kit.tiny_xen import tiny_xen
from xsplice_plugins import hypervisor
from xsplice_plugins.artefacts import (
    ASKED,
    AlternativeFields,
    Facts,
    Finding,
    Severity,
    VerifyRequest,
)
from xsplice_plugins.plugins.spec import Config
from xsplice_plugins.testing.samples import sample_payload
from xsplice_plugins.verify.model import release_of, verify_in_model

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

FACTS = Facts(
    origin=ASKED,
    release="4.22.0",
    machine=62,
    record_version=2,
    record_size_bytes=104,
    expect_length_max=31,
    saved_length_max=31,
    name_size_bytes=128,
    symbol_length_max=128,
    file_size_max=2 << 20,
    sysctl_version=0x16,
    jump_size_bytes=5,
    alternative=AlternativeFields(
        size_bytes=14, site=0, replacement=4, feature=8, site_length=10, replacement_length=11
    ),
    feature_words=25,
    bug_frame_size_bytes=8,
    bug_message_frame_size_bytes=16,
    bug_displacement_bits=24,
    bug_instruction="d6",
    ex_entry_size_bytes=8,
    alt_call_entry_size_bytes=4,
)


def judged(release: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Finding, ...]:
    monkeypatch.setattr(hypervisor, "boot", lambda _data, **_options: tiny_xen())
    image = tmp_path / "xen-syms"
    image.write_bytes(b"")
    request = VerifyRequest(payload_path=tmp_path / "p", image_path=image, release=release)
    return verify_in_model(minimal().build(), sample_payload()[1], request, Config())


def test_a_release_that_was_read_needs_no_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding, effect = judged("4.22.0", tmp_path, monkeypatch)
    assert [finding.severity, effect.severity] == [Severity.HELD] * 2
    assert (effect.check, effect.text) == ("effect", "0 replaced functions looked at, 0 remarks")
    assert finding.text == "loads, applies and reverts on Xen 4.22.0"


def test_a_newer_release_is_judged_as_the_last_one_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding, note, _ = judged("4.23.0", tmp_path, monkeypatch)
    assert finding.text == "loads, applies and reverts on Xen 4.23.0"
    assert note.severity is Severity.INFO
    assert note.text == "Xen 4.23.0 is newer than the last one read, judged as 4.22"


def test_facts_of_the_build_reach_the_model() -> None:
    asked = release_of("4.17.5", Config(facts=FACTS))
    assert (asked.feature_words, asked.bug_instruction) == (25, b"\xd6")
    assert release_of("4.17.5", Config()) == hypervisor.release("4.17.5")
