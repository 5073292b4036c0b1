# SPDX-License-Identifier: Apache-2.0
"""What the build system left beside each object, and what else may lie in its folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from xsplice_plugins.errors import CaptureError
from xsplice_plugins.kbuild.commands import edited, other_source, redirected
from xsplice_plugins.kbuild.records import (
    folder_of,
    parse_record,
    read_record,
    read_text,
    record_text,
    scan,
)

RECORD = "cmd_common/a.o := gcc -c common/a.c -o common/a.o\n\nsource_common/a.o := common/a.c\n"


def written(root: Path, text: bytes) -> str:
    """Write the record of ``common/a.o`` and return the build folder."""
    (root / "common").mkdir(exist_ok=True)
    (root / "common/.a.o.cmd").write_bytes(text)
    return str(root)


@pytest.mark.parametrize(
    ("name", "folder"),
    [("domain.o", "common/compat"), ("compat/domain.o", "common"), ("common/compat/domain.o", "")],
)
def test_a_records_name_tells_where_make_ran(name: str, folder: str) -> None:
    record = parse_record(f"cmd_{name} := gcc -c domain.c\n", "common/compat", "domain.o")
    assert record is not None
    assert (record.target, record.folder) == ("common/compat/domain.o", folder)


def test_the_inputs_of_a_record_that_names_a_folder_below_are_read(tmp_path: Path) -> None:
    """Up to 4.16, `obj-y += compat/domain.o`: make ran in `common`, the inputs are in a file."""
    (tmp_path / "common/compat").mkdir(parents=True)
    for name, text in {
        ".built_in.o.cmd": "cmd_built_in.o := ld -r -o built_in.o a.o compat/domain.o\n",
        "compat/.domain.o.cmd": "cmd_compat/domain.o := gcc -o compat/domain.o compat/domain.c\n",
        "compat/.domain.o.d": "compat/domain.o: compat/domain.c \\\n compat/../d.h\n\nd.h:\n",
    }.items():
        (tmp_path / "common" / name).write_text(text)
    record = read_record(str(tmp_path), "common/compat/domain.o")
    assert record is not None
    assert (record.folder, record.source) == ("common", "compat/domain.c")
    assert record.inputs == ("compat/domain.c", "compat/../d.h")
    text = record_text(str(tmp_path), "common/compat", "domain.o")
    assert folder_of(text, "common/compat", "domain.o") == "common"
    assert folder_of("cmd_other.o := ld\n", "common/compat", "domain.o") == ""


def test_a_record_is_read_by_its_targets_name(tmp_path: Path) -> None:
    root = written(tmp_path, RECORD.encode())
    record = read_record(root, "common/a.o")
    assert record is not None
    assert (record.target, record.source, record.output) == (
        "common/a.o",
        "common/a.c",
        "common/a.o",
    )
    assert read_record(root, "common/b.o") is None
    assert read_record(written(tmp_path, b"deps_common/a.o := common/a.c\n"), "common/a.o") is None


def test_a_command_without_output_says_so(tmp_path: Path) -> None:
    record = read_record(written(tmp_path, b"cmd_common/a.o := gcc -c a.c\n"), "common/a.o")
    assert record is not None
    with pytest.raises(CaptureError, match=r"common/a\.o: its recorded command names no output"):
        _ = record.output


def test_a_nul_byte_in_a_record_is_damage(tmp_path: Path) -> None:
    root = written(tmp_path, RECORD.encode().replace(b" -c", b"\0-c"))
    with pytest.raises(CaptureError, match=r"\.a\.o\.cmd: damaged \(a NUL byte"):
        read_record(root, "common/a.o")


def test_a_second_tree_within_is_no_part_of_it(tmp_path: Path) -> None:
    """`make xsplice` keeps one, with objects and records of its own."""
    written(tmp_path, RECORD.encode())
    for name in (".xsplice/tree", ".git"):
        (tmp_path / name).mkdir(parents=True)
        written(tmp_path / name, RECORD.encode())
    found = scan(str(tmp_path))
    assert found.records == (("common", "a.o"),)
    assert found.files == {"common/.a.o.cmd"}


def test_pipes_and_sockets_are_no_files_of_a_build(tmp_path: Path) -> None:
    root = written(tmp_path, RECORD.encode())
    os.mkfifo(tmp_path / "common/.b.o.cmd")
    os.mkfifo(tmp_path / "common/jobs")
    listing = scan(root)
    assert listing.files == {"common/.a.o.cmd"}
    assert listing.records == (("common", "a.o"),)


@pytest.mark.parametrize("is_linked", [False, True])
def test_a_pipe_in_the_place_of_a_text_is_refused_and_not_waited_for(
    is_linked: bool, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    path = tmp_path / "pipe"
    if is_linked:
        path = tmp_path / "link"
        path.symlink_to("pipe")
    with pytest.raises(CaptureError, match="not a regular file"):
        read_text(str(path))


def test_a_missing_text_is_empty_and_a_folder_is_refused(tmp_path: Path) -> None:
    assert read_text(str(tmp_path / "none")) == ""
    with pytest.raises(CaptureError, match="cannot be read"):
        read_text(str(tmp_path))


@pytest.mark.parametrize("name", ["жук", os.fsdecode(b"\xff\xe9"), "a b"])
def test_names_outside_latin_1_and_outside_utf_8_are_names(name: str, tmp_path: Path) -> None:
    (tmp_path / "common").mkdir()
    text = f"cmd_common/{name}.o := gcc -c 'common/{name}.c' -o 'common/{name}.o'\n"
    (tmp_path / f"common/.{name}.o.cmd").write_bytes(os.fsencode(text))
    assert scan(str(tmp_path)).records == (("common", f"{name}.o"),)
    if " " not in name:
        record = read_record(str(tmp_path), f"common/{name}.o")
        assert record is not None
        assert record.output == f"common/{name}.o"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("gcc -c a.c -o a.o", "gcc -c a.c -o /w/a.o"),
        ("gcc -c a.c -oa.o", "gcc -c a.c -o/w/a.o"),
        ("gcc -MMD -MF .a.d -c a.c -o a.o", "gcc -MMD -MF /w/depends -c a.c -o /w/a.o"),
        ("gcc -MF.a.d -c a.c -o a.o", "gcc -MF/w/depends -c a.c -o /w/a.o"),
        ("gcc -Wp,-MD,.a.d -c a.c -o a.o", "gcc -MD -c a.c -o /w/a.o"),
    ],
)
def test_every_output_is_redirected(given: str, expected: str) -> None:
    assert edited(given, redirected(given, "a.o", Path("/w/a.o"))) == expected


def test_a_command_that_writes_elsewhere_is_not_redirected() -> None:
    with pytest.raises(CaptureError, match=r"has no `-o a\.o`"):
        redirected("gcc -c a.c -o b.o", "a.o", Path("/w/a.o"))


def test_another_source_takes_the_place_of_the_recorded_one() -> None:
    given = "gcc -c a.c -o a.o"
    assert edited(given, other_source(given, "a.c", Path("/p/x y.c"))) == (
        "gcc -c '/p/x y.c' -o a.o"
    )
    with pytest.raises(CaptureError, match="names it 2 times"):
        other_source("gcc a.c -c a.c -o a.o", "a.c", Path("/p/x.c"))
    with pytest.raises(CaptureError, match="names it 0 times"):
        other_source(given, "b.c", Path("/p/x.c"))
