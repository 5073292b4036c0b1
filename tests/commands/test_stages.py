# SPDX-License-Identifier: Apache-2.0
"""One stage by hand: ``xsplice diff``, ``link``, ``sign`` pass the gates that SCons passes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.commands.conftest import Built
from tests.kit.build import ROOT, scons
from xsplice_plugins import cli

CORE = ROOT / "xen-patches" / "regression" / "core"

pytestmark = [pytest.mark.toolchain, pytest.mark.scons]


def xsplice(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """Run one subcommand; return its status and what it said."""
    status = cli.main([*map(str, words)])
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    return status, said.out + said.err


@pytest.fixture
def objects(built: Built, tmp_path: Path) -> tuple[Path, Path]:
    """Return both objects of the demo's fix, without types and the record of their capture."""
    found = built.folder / "objects" / "common"
    places = tmp_path / "version.o", tmp_path / "version.o.xsplice.new"
    shutil.copy(found / "version.o.xsplice.baseline", places[0])
    shutil.copy(found / "version.o.xsplice.new", places[1])
    for place in places:
        subprocess.run(["strip", "-g", place], check=True)
    return places


def linked(
    built: Built, objects: tuple[Path, Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> Path:
    """Diff and link two bare objects."""
    delta, unsigned = folder / "version.o.xsplice.diff", folder / "fix.livepatch.unsigned"
    status, said = xsplice(capsys, "diff", *objects, "--out", delta, "--release", "4.17.0")
    assert (status, "not checked: " in said) == (0, True), said
    words = "link", delta, "--name", "fix", "--xen-syms", built.image, "--out", unsigned
    assert xsplice(capsys, *words)[0] == 0
    return unsigned


def test_layouts_that_nobody_compared_are_no_later_stages_to_lose(
    built: Built,
    objects: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    unsigned, signed = linked(built, objects, tmp_path, capsys), tmp_path / "fix.livepatch"
    record = json.loads((tmp_path / "fix.payload.json").read_text())
    unchecked = {f["obligation"]: f["text"] for f in record["findings"]
                 if f["severity"] == "unchecked"}  # fmt: skip
    assert "layouts of structures were not compared" in unchecked["layout"]
    keys = "--key", built.key, "--cert", built.certificate
    assert xsplice(capsys, "sign", unsigned, *keys, "--out", signed)[0] == 0
    words = "verify", signed, "--xen-syms", built.image, "--cert", built.certificate
    status, said = xsplice(capsys, *words)
    assert (status, said.split(":")[0]) == (5, "UNPROVED")
    first = [line for line in said.splitlines() if line.startswith("  not checked: ")]
    assert said.splitlines()[1] == first[0]
    for text in (
        "not compared with the objects of a rebuild",
        "objects of the tree were not compared with the image",
        "layouts of structures were not compared",
    ):
        assert any(text in line for line in first)


def test_what_the_capture_refused_stays_refused(
    tmp_path: Path, built: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    run = scons("xsplice", tmp_path, PATCH=CORE / "refused-layout" / "fix.patch")
    assert run.status == 4
    found = sorted((tmp_path / "fix" / "objects").rglob("*.xsplice.pair.json"))
    rows = {path: json.loads(path.read_text()) for path in found}
    refused = [path for path, row in rows.items() if row["refused"] and row["is_changed"]]
    assert refused
    delta = tmp_path / "x.diff"
    status, said = xsplice(capsys, "diff", refused[0], "--out", delta)
    assert (status, "[LAYOUT]" in said) == (4, True), said
    words = "link", delta, "--name", "fix", "--xen-syms", built.image, "--out", tmp_path / "x"
    status, said = xsplice(capsys, *words)
    assert (status, "[LAYOUT]" in said) == (4, True), said
    assert not (tmp_path / "x").exists()


def test_captured_objects_are_known_by_their_names(
    built: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    found = built.folder / "objects" / "common"
    pair = found / "version.o.xsplice.baseline", found / "version.o.xsplice.new"
    status, said = xsplice(capsys, "diff", *pair)
    assert (status, "not checked" in said, "xen_extra_version" in said) == (0, False, True), said
    status, said = xsplice(capsys, "diff", found / "version.o.xsplice.pair.json", "--json")
    assert (status, json.loads(said)["findings"]) == (0, [])


def test_an_image_of_another_release_is_refused(
    built: Built,
    objects: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    delta = tmp_path / "version.o.xsplice.diff"
    assert xsplice(capsys, "diff", *objects, "--out", delta)[0] == 0
    words = "link", delta, "--name", "fix", "--xen-syms", built.image, "--out", tmp_path / "fix"
    status, said = xsplice(capsys, *words, "--release", "4.20.3")
    assert (status, "4.20.3" in said) == (2, True), said
    assert not (tmp_path / "fix").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("diff", "/nowhere.o", "/nowhere.o"),
        ("diff", "/nowhere.o"),
        ("link", "/nowhere.diff", "--name", "x", "--xen-syms", "/nowhere", "--out", "/nowhere"),
        ("sign", "/nowhere", "--out", "/nowhere"),
        ("inspect", "/nowhere"),
        ("explain", "NOTHING"),
        ("patch", "/nowhere.patch", "--xen", "/nowhere", "--build", "build/nowhere"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_unreadable_input_ends_with_two(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert xsplice(capsys, *words)[0] == 2


def test_a_record_of_other_objects_is_not_believed(
    built: Built,
    objects: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = built.folder / "objects" / "common"
    record = json.loads((found / "version.o.xsplice.pair.json").read_text())
    record |= {"baseline": objects[0].name, "new": objects[1].name}
    forged = tmp_path / "version.o.xsplice.pair.json"
    forged.write_text(json.dumps(record))
    status, said = xsplice(capsys, "diff", forged)
    assert (status, "speaks of other objects" in said) == (2, True), said


def test_equal_objects_are_no_functional_change(
    objects: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert xsplice(capsys, "diff", objects[0], objects[0])[0] == 3


def test_a_damaged_object_is_not_linked(
    built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (made,) = built.folder.glob("objects/*/*.diff")
    delta, new = tmp_path / made.name, tmp_path / made.name.replace(".diff", ".new")
    delta.write_bytes(made.read_bytes())
    whole = made.with_name(new.name).read_bytes()
    words = ["link", delta, "--name", "x", "--xen-syms", built.image, "--out", tmp_path / "x"]
    for data, status in ((whole[:-1], 2), (b"", 2), (whole, 0)):
        new.write_bytes(data)
        ended, said = xsplice(capsys, *words)
        is_named = "is not the one its delta speaks of; give the one" in said
        assert (ended, is_named) == (status, bool(status)), said
        assert (tmp_path / "x").exists() is not bool(status)


@pytest.mark.parametrize("which", [0, 1])
def test_what_is_read_is_not_written_over(
    which: int, objects: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    before = objects[which].read_bytes()
    status, said = xsplice(capsys, "diff", *objects, "--out", objects[which])
    assert (status, "would be written over" in said) == (2, True), said
    assert objects[which].read_bytes() == before


def test_what_is_written_beside_is_not_written_over_what_is_read(
    objects: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A page, a record beside a payload, and the same file under another name."""
    link, linked = tmp_path / "link", tmp_path / "linked"
    link.symlink_to(objects[0])
    os.link(objects[0], linked)
    payload, record = tmp_path / "fix.livepatch", tmp_path / "fix.payload.json"
    record.write_text("[]")
    before = objects[0].read_bytes()
    for words in (
        ("diff", *objects, "--html", objects[0]),
        ("diff", *objects, "--out", link),
        ("diff", *objects, "--out", linked),
        (
            "link",
            record,
            "--name",
            "x",
            "--xen-syms",
            objects[0],
            "--out",
            payload,
        ),
        ("verify", payload, "--xen-syms", objects[0], "--out", record),
    ):
        status, said = xsplice(capsys, *words)
        assert (status, "would be written over" in said) == (2, True), said
    assert (objects[0].read_bytes(), record.read_text()) == (before, "[]")
    made = tmp_path / "delta"
    assert xsplice(capsys, "diff", *objects, "--out", made, "--html", tmp_path / "page")[0] == 0


def test_what_is_no_regular_file_is_not_written_over(
    objects: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is done first: neither is there a file beside it."""
    payload = tmp_path / "fix.livepatch.unsigned"
    payload.write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "good.signature.json").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for words, place in (
        (("diff", *objects, "--out", "/dev/null"), "/dev/null"),
        (("diff", *objects, "--html", tmp_path / "pipe"), tmp_path / "pipe"),
        (("sign", payload, "--out", "/dev/null"), "/dev/null"),
        (("sign", payload, "--out", tmp_path / "good"), tmp_path / "good.signature.json"),
    ):
        status, said = xsplice(capsys, *words)
        assert (status, f"{place}: is " in said, "not replaced" in said) == (2, True, True), said
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/dev/null.signature.json").exists()
    assert xsplice(capsys, "diff", *objects, "--out", tmp_path / "delta")[0] == 0


def test_a_folder_is_no_file(
    objects: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (
        ("diff", ".", "."),
        ("diff", *objects, "--out", "/"),
        ("sign", ".", "--out", "x"),
    ):
        status, said = xsplice(capsys, *words)
        assert (status, "names no file" in said) == (2, True), said
