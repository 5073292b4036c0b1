# SPDX-License-Identifier: Apache-2.0
"""``xsplice verify`` with right and wrong arguments."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from tests.commands.conftest import Built
from tests.xen.mutations import sections_of
from xsplice_plugins import cli

pytestmark = [pytest.mark.toolchain, pytest.mark.scons]


def verify(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """Run the subcommand; return its status and what it said."""
    try:
        status = cli.main(["verify", *map(str, words)])
    except SystemExit as ended:  # argparse
        status = int(str(ended.code))
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    return status, said.out + said.err


@pytest.fixture
def copied(built: Built, tmp_path: Path) -> Path:
    """Return a copy of the signed payload with its record beside it."""
    for end in ("livepatch", "payload.json", "checks.json"):
        name = f"extra-version.{end}"
        shutil.copy(built.folder / name, tmp_path / name)
    return tmp_path / built.payload.name


def unseen(text: str) -> dict[str, str]:
    """Return what a record says of layouts that nobody compared."""
    return {
        "check": "differ",
        "severity": "unchecked",
        "subject": "version.o",
        "text": text,
        "obligation": "layout",
    }


def test_signed_payload_with_its_certificate_is_proved(
    built: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said = verify(
        capsys, built.payload, "--xen-syms", built.image, "--cert", built.certificate
    )
    assert status == 0, said
    assert said.startswith("PROVED: extra-version on Xen 4.17.0\n")


def test_unsigned_payload_is_proved_where_none_is_wanted(
    built: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    words = built.unsigned, "--xen-syms", built.image
    status, said = verify(capsys, *words, "--signer", "none")
    assert (status, said.split(":")[0]) == (0, "PROVED")
    status, said = verify(capsys, *words)
    assert (status, said.split(":")[0]) == (5, "UNPROVED")


@pytest.mark.parametrize("signer", [(), ("--signer", "none")])
def test_a_signature_that_nobody_checks_proves_nothing(
    signer: tuple[str, ...], built: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said = verify(capsys, built.payload, "--xen-syms", built.image, *signer)
    assert status == 5
    lines = said.splitlines()
    assert lines[0].startswith("UNPROVED: ")
    assert lines[1].startswith("  not checked: signature: ")


@pytest.mark.parametrize("where", ["payload", "signature", "cut"])
@pytest.mark.parametrize("has_certificate", [True, False])
def test_damage_is_never_proved(
    where: str,
    has_certificate: bool,
    copied: Path,
    built: Built,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = bytearray(copied.read_bytes())
    if where == "cut":
        data = data[:-7]
    else:
        data[0x200 if where == "payload" else len(data) - 200] ^= 0x55
    copied.write_bytes(data)
    given = ["--cert", built.certificate] if has_certificate else []
    status, said = verify(capsys, copied, "--xen-syms", built.image, *given)
    assert (status, said.startswith("PROVED")) == (5, False), said


def test_a_payload_without_record_is_not_proved(
    copied: Path, built: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    """Taking the record away must not take a finding away."""
    copied.with_name("extra-version.payload.json").unlink()
    status, said = verify(capsys, copied, "--xen-syms", built.image, "--cert", built.certificate)
    assert status == 5
    assert "not checked: base: no record lies beside the payload" in said


def test_a_payload_that_nobody_held_against_a_rebuild_is_not_proved(
    copied: Path, built: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    """Loading and reverting well says nothing about what the new code does."""
    words = copied, "--xen-syms", built.image, "--cert", built.certificate
    assert verify(capsys, *words)[0] == 0
    checks = copied.with_name("extra-version.checks.json")
    content = json.loads(checks.read_text())
    checks.write_text(json.dumps(content | {"digest": "0" * 64}))
    status, said = verify(capsys, *words)
    assert (status, "is another file" in said.splitlines()[1]) == (5, True), said
    checks.unlink()
    status, said = verify(capsys, *words)
    assert (status, said.split(":")[0]) == (5, "UNPROVED")
    assert "not compared with the objects of a rebuild" in said.splitlines()[1]


def test_a_full_rebuild_needs_tree_and_patch(
    built: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    words = built.unsigned, "--xen-syms", built.image, "--signer", "none", "--on", "rebuild"
    status, said = verify(capsys, *words)
    assert (status, said.split(":")[0]) == (5, "UNPROVED")
    assert "`scons xsplice-verify` or `xsplice patch --verify`" in said


def test_the_record_of_another_payload_is_refused(
    copied: Path, built: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    record = copied.with_name("extra-version.payload.json")
    content = json.loads(record.read_text())
    content["digest"] = "0" * 64
    record.write_text(json.dumps(content))
    status, said = verify(capsys, copied, "--xen-syms", built.image, "--cert", built.certificate)
    assert (status, said.split(":")[0]) == (5, "REFUSED")
    assert "speaks of another file" in said


@pytest.mark.parametrize("change", ["expectation", "size", "function"])
def test_a_record_that_lists_what_the_payload_has_not_is_refused(
    change: str, built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The digests fit: without the bytes expected, a payload applies to any other code."""
    file = tmp_path / "fix.livepatch"
    data = bytearray(built.unsigned.read_bytes())
    record, checks = (
        json.loads((built.folder / f"extra-version.{end}.json").read_text())
        for end in ("payload", "checks")
    )
    words = file, "--xen-syms", built.image, "--signer", "none"

    def judged() -> tuple[int, str]:
        file.write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        for end, content in (("payload", record), ("checks", checks)):
            (tmp_path / f"fix.{end}.json").write_text(json.dumps(content | {"digest": digest}))
        return verify(capsys, *words)

    status, said = judged()
    assert (status, said.split(":")[0]) == (0, "PROVED"), said
    if change == "expectation":
        [funcs] = [s for s in sections_of(bytes(data)) if s.name == ".livepatch.funcs"]
        assert any(data[funcs.offset + 72 :][:32])
        data[funcs.offset + 72 : funcs.offset + 104] = bytes(32)
    elif change == "size":
        record["functions"][0]["size_old_bytes"] += 1
    else:
        record["functions"].append(record["functions"][0] | {"name": "another"})
    status, said = judged()
    assert (status, said.split(":")[0]) == (5, "REFUSED"), said
    assert "and the payload has no such record" in said
    (base,) = [line for line in said.splitlines() if line.startswith("  base ")]
    assert base.split()[1] == "failed"


@pytest.mark.parametrize("field", ["build_id", "depends", "xen_depends"])
def test_a_record_of_another_identity_is_refused(
    field: str, copied: Path, built: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file itself is whole: only what the record says of it is not true."""
    words = copied, "--xen-syms", built.image, "--cert", built.certificate
    record = copied.with_name("extra-version.payload.json")
    content = json.loads(record.read_text())
    for value, status in ((content[field], 0), ("ab" * 20, 5), ("", 5), (content[field][:-2], 5)):
        record.write_text(json.dumps(content | {field: value}))
        ended, said = verify(capsys, *words)
        assert ended == status, said
        assert ("the record beside it says that it" in said) is bool(status), said


def test_a_record_of_another_schema_is_refused(
    copied: Path, built: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    """What earlier versions wrote says nothing of obligations."""
    record = copied.with_name("extra-version.payload.json")
    content = json.loads(record.read_text())
    del content["findings"]
    record.write_text(json.dumps(content | {"schema": 1, "unchecked": ["layouts"]}))
    status, said = verify(capsys, copied, "--xen-syms", built.image, "--cert", built.certificate)
    assert (status, "schema 1 instead of 2" in said, "PROVED" in said) == (2, True, False), said


def test_what_was_not_checked_is_lost_by_no_record(
    copied: Path, built: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    record = copied.with_name("extra-version.payload.json")
    content = json.loads(record.read_text())
    content["findings"].append(unseen("version.o: layouts of structures were not compared"))
    record.write_text(json.dumps(content))
    status, said = verify(capsys, copied, "--xen-syms", built.image, "--cert", built.certificate)
    assert (status, said.split(":")[0]) == (5, "UNPROVED")
    assert "layouts of structures were not compared" in said.splitlines()[1]


def test_a_record_that_establishes_nothing_proves_nothing(
    copied: Path, built: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    """Taking findings away, good or bad, takes the proof away."""
    record = copied.with_name("extra-version.payload.json")
    content = json.loads(record.read_text())
    words = copied, "--xen-syms", built.image, "--cert", built.certificate
    for kept, missing in (
        ((), ("layout", "data")),
        (("layout",), ("data",)),
        (("data",), ("layout",)),
    ):
        findings = [row for row in content["findings"] if row["obligation"] in kept]
        record.write_text(json.dumps(content | {"findings": findings}))
        status, said = verify(capsys, *words)
        assert (status, said.split(":")[0]) == (5, "UNPROVED"), said
        lines = said.splitlines()[1 : 1 + len(missing)]
        for name, line in zip(missing, lines, strict=True):
            assert line.startswith(f"  not checked: {name}: nothing was said of it by the check")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--on", "qmeu"), "qmeu"),
        (("--release", "4.20.3"), "4.20.3"),
        (("--releases", "banana"), "banana"),
        (("--signer", "nobody"), "nobody"),
        (("--option", "pin=1"), "pin"),
        (("--option", "novalue"), "key=value"),
        (("--cert", "/nowhere.pem"), "/nowhere.pem"),
        (("--expect", "/nowhere.json"), "/nowhere.json"),
        (("--linker", "livepatch"), "--linker"),
    ],
)
def test_wrong_use_ends_with_two_and_its_reason(
    words: tuple[str, ...], message: str, built: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said = verify(
        capsys, built.payload, "--xen-syms", built.image, "--cert", built.certificate, *words
    )
    assert (status, message in said) == (2, True), said


def test_unreadable_input_ends_with_two(
    built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "image"
    text.write_text("no ELF")
    for payload, image in (
        (built.payload, tmp_path / "none"),
        (built.payload, text),
        (built.payload, tmp_path),
        (tmp_path / "none", built.image),
    ):
        status, said = verify(capsys, payload, "--xen-syms", image)
        assert status == 2, said


def test_machines_get_the_whole_report(
    built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report.json"
    status, said = verify(
        capsys,
        *(built.payload, "--xen-syms", built.image, "--cert", built.certificate),
        *("--json", "--out", out),
    )
    assert status == 0
    report = json.loads(said)
    assert (report["verdict"], report["release"]) == ("proved", "4.17.0")
    assert report["schema"] == 2
    assert [row["name"] for row in report["obligations"]] == [
        *("base", "complete", "lines", "layout", "data", "stack", "loader", "effect", "signature")
    ]
    assert {row["state"] for row in report["obligations"]} == {"held", "does not apply"}
    assert all(row["text"] for row in report["obligations"])
    assert {finding["check"] for finding in report["findings"]} >= {"model", "signature"}
    assert json.loads(out.read_text()) == report


@pytest.mark.parametrize("which", ["payload", "beneath", "image"])
def test_what_is_no_regular_file_is_refused_without_reading_it(
    which: str, built: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    """``/dev/zero`` has no end: reading it whole would fill the memory."""
    payload, image = built.unsigned, built.image
    words = {
        "payload": ["/dev/zero", "--xen-syms", image],
        "beneath": ["/dev/zero", payload, "--xen-syms", image],
        "image": [payload, "--xen-syms", "/dev/zero"],
    }[which]
    status, said = verify(capsys, *words)
    assert status == 2
    assert "/dev/zero: not a regular file; check the path" in said


@pytest.mark.parametrize("name", ["исправление.livepatch", "fix\udcff.livepatch"])
def test_a_payloads_file_may_have_any_name(
    name: str, built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A hypervisor knows it by the name's bytes; no name is a reason for a traceback."""
    file = tmp_path / name
    shutil.copy(built.payload, file)
    words = file, "--xen-syms", built.image, "--cert", built.certificate
    status, said = verify(capsys, *words)
    assert (status, said.split(":")[0]) == (5, "UNPROVED"), "it has no record"
    status, said = verify(capsys, *words, "--json")
    assert json.loads(said)["verdict"] == "unproved"


def test_what_lies_beneath_is_judged_as_well(
    built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A damaged signature or an unchecked layout beneath is not hidden by what lies on top."""
    below = tmp_path / "below.livepatch"
    record = (built.folder / "extra-version.payload.json").read_text()
    words = built.payload, "--xen-syms", built.image, "--cert", built.certificate
    data = bytearray(built.payload.read_bytes())
    data[-200] ^= 0x55
    below.write_bytes(data)
    (tmp_path / "below.payload.json").write_text(record)
    status, said = verify(capsys, below, *words)
    assert (status, "signature" in said.splitlines()[1]) == (5, True), said
    below.write_bytes(built.payload.read_bytes())
    content = json.loads(record)
    content["findings"].append(unseen("nobody compared layouts"))
    (tmp_path / "below.payload.json").write_text(json.dumps(content))
    status, said = verify(capsys, below, *words)
    assert (status, "below.livepatch: nobody compared layouts" in said) == (5, True), said


def test_expectations_are_held_against_what_the_payload_holds(
    built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = tmp_path / "expected.json"
    words = built.payload, "--xen-syms", built.image, "--cert", built.certificate
    good = {"verdict": "accepted", "replaced": ["xen_extra_version"], "new": [], "effect": []}
    for change, status in (
        ({}, 0),
        ({"replaced": ["xen_minor_version"]}, 5),
        ({"new": ["helper"]}, 5),
        ({"verdict": "refused"}, 5),
        ({"hooks": [".livepatch.hooks.load"]}, 5),
    ):
        expected.write_text(json.dumps(good | change))
        assert verify(capsys, *words, "--expect", expected)[0] == status, change
