# SPDX-License-Identifier: Apache-2.0
"""What travels between the stages survives the way through a file, and damage is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from xsplice_plugins import artefacts
from xsplice_plugins.artefacts import (
    Checks,
    Delta,
    ObjectPair,
    PatchFile,
    PatchSet,
    TouchedFile,
    TouchKind,
)
from xsplice_plugins.errors import ConfigError, XspliceError

PATCH_SET = PatchSet(
    name="fix",
    strip=1,
    patches=(PatchFile(name="fix.patch", text="--- a/x.c\n+++ b/x.c\n"),),
    touched=(TouchedFile(path="x.c", kind=TouchKind.C),),
)


def test_artefact_comes_back_equal(tmp_path: Path) -> None:
    artefacts.save(tmp_path / "a.json", PATCH_SET)
    assert artefacts.load(tmp_path / "a.json", PatchSet) == PATCH_SET


def test_saved_text_is_sorted_json_and_always_the_same(tmp_path: Path) -> None:
    data = artefacts.to_json(PATCH_SET)
    assert data == artefacts.to_json(PATCH_SET)
    loaded = json.loads(data)
    assert list(loaded) == sorted(loaded)


@pytest.mark.parametrize(
    ("text", "words"),
    [(b"", "PatchSet"), (b"{}", "PatchSet"), (b'{"name": 1', "PatchSet"), (b"[]", "PatchSet")],
)
def test_damaged_artefact_is_refused_by_name(tmp_path: Path, text: bytes, words: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text)
    with pytest.raises(XspliceError, match=words) as caught:
        artefacts.load(path, PatchSet)
    assert "a.json" in str(caught.value)


def test_artefact_of_another_kind_is_refused(tmp_path: Path) -> None:
    artefacts.save(tmp_path / "a.json", PATCH_SET)
    with pytest.raises(XspliceError, match="ObjectPair"):
        artefacts.load(tmp_path / "a.json", ObjectPair)


def test_an_artefact_of_another_schema_is_refused_by_name() -> None:
    """A field that this version does not know would be lost without a word."""
    delta = Delta(object_path="a.o", source_path="a.c", profile="xen", machine=62, digest_new="")
    for artefact, kind in ((delta, Delta), ((delta, delta), tuple[Delta, ...])):
        text = artefacts.to_json(artefact)
        assert artefacts.from_json(text, kind, "a.json") == artefact
        old = text.replace(b'"schema": 2', b'"schema": 1')
        assert old != text
        with pytest.raises(XspliceError, match=r"a\.json: .*\(schema 1 instead of 2\); remove it"):
            artefacts.from_json(old, kind, "a.json")
    checks = artefacts.to_json(Checks(name="fix", digest="", findings=()))
    newer = checks.replace(b'"schema": 1', b'"schema": 2')
    with pytest.raises(XspliceError, match="schema 2 instead of 1"):
        artefacts.from_json(newer, Checks, "a.json")


@dataclass(frozen=True, kw_only=True)
class Table:
    """A file that people write: its reader says itself what it takes."""

    schema: int


def test_a_class_that_names_no_schema_takes_any() -> None:
    for text, schema in ((b'{"schema": 1}', 1), (b'{"schema": 7}', 7)):
        assert artefacts.from_json(text, Table, "table.json") == Table(schema=schema)
    with pytest.raises(XspliceError, match="schema"):
        artefacts.from_json(b"{}", Table, "table.json")


def test_threads_may_read_a_class_for_the_first_time_at_once() -> None:
    """SCons reads records in several threads; without a lock the process dies."""
    program = (
        "import sys, threading\n"
        "from dataclasses import make_dataclass\n"
        "from xsplice_plugins import artefacts\n"
        "sys.setswitchinterval(1e-6)\n"
        "for _ in range(30):\n"
        "    rows = [make_dataclass(f'Row{i}', [('x', tuple[int, ...])]) for i in range(9)]\n"
        "    kind = make_dataclass('All', [(f'a{i}', tuple[r, ...]) for i, r in enumerate(rows)])\n"
        "    text = artefacts.to_json({f'a{i}': [{'x': [1]}] for i in range(9)})\n"
        "    gate = threading.Barrier(4)\n"
        "    def read():\n"
        "        gate.wait()\n"
        "        artefacts.from_json(text, kind, 'text')\n"
        "    threads = [threading.Thread(target=read) for _ in range(4)]\n"
        "    for thread in threads: thread.start()\n"
        "    for thread in threads: thread.join()\n"
        "print('done')\n"
    )
    root = Path(artefacts.__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_missing_artefact_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(XspliceError, match=r"gone\.json"):
        artefacts.load(tmp_path / "gone.json", PatchSet)


def test_name_of_a_patch_file_does_not_change_the_digest() -> None:
    renamed = PatchSet(
        name="other",
        strip=1,
        patches=(PatchFile(name="b.patch", text=PATCH_SET.patches[0].text),),
        touched=(),
    )
    assert renamed.digest == PATCH_SET.digest
    edited = PatchSet(
        name="fix", strip=1, patches=(PatchFile(name="fix.patch", text="x"),), touched=()
    )
    assert edited.digest != PATCH_SET.digest


def test_file_that_cannot_be_written_whole_keeps_the_old_content(tmp_path: Path) -> None:
    """A file size limit stands in for a full disk: the write fails half-way."""
    path = tmp_path / "payload"
    path.write_bytes(b"old")
    program = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from xsplice_plugins import artefacts\n"
        "from xsplice_plugins.errors import XspliceError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))\n"
        "try:\n"
        "    artefacts.write_file(Path(sys.argv[1]), bytes(100000))\n"
        "except XspliceError as error:\n"
        "    print(error)\n"
    )
    root = Path(artefacts.__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "cannot be written" in done.stdout
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["payload"]


def test_only_regular_files_are_replaced(tmp_path: Path) -> None:
    """``--out /dev/null`` of root would take the device away."""
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_bytes(b"old")
    link.symlink_to(file)
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, words in (
        ("link", "a symbolic link"),
        ("dangling", "a symbolic link"),
        ("folder", "a folder"),
        ("pipe", "no regular file"),
        ("/dev/null", "no regular file"),
    ):
        path = tmp_path / name
        before = path.lstat()
        with pytest.raises(ConfigError, match=f"{path}: is {words} and is not replaced"):
            artefacts.write_file(path, b"new")
        assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert file.read_bytes() == b"old"
    for path in (file, tmp_path / "none"):
        artefacts.write_file(path, b"new")
        assert path.read_bytes() == b"new"


@pytest.mark.parametrize(
    "text", [b'{"name": "\xff"}', b'{"name": "a\xc3("}', b'{"n": ' + b"[" * 100_000]
)
def test_bytes_that_are_no_json_text_are_refused_by_name(text: bytes) -> None:
    with pytest.raises(XspliceError, match=r"a\.json: not a PatchSet of this version") as caught:
        artefacts.from_json(text, PatchSet, "a.json")
    assert caught.value.exit_status == 2
    odd = artefacts.to_json(PATCH_SET).replace(b'"fix"', '"исправ"'.encode())
    assert artefacts.from_json(odd, PatchSet, "a.json").name == "исправ"


def test_only_regular_files_up_to_a_limit_are_read(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    assert artefacts.read_file(file, limit_bytes=5) == b"12345"
    with pytest.raises(ConfigError, match="5 bytes, more than the 4"):
        artefacts.read_file(file, limit_bytes=4)
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(ConfigError, match=r"not a regular file|Is a directory"):
            artefacts.read_file(path)
    with pytest.raises(XspliceError, match=r"none: cannot be read .*; build it first") as caught:
        artefacts.read_file(tmp_path / "none", error=XspliceError, advice="build it first")
    assert isinstance(caught.value.__cause__, FileNotFoundError)


@pytest.mark.parametrize(
    ("lines", "is_open"),
    [
        ("+#include <a.h>", True),
        ("+ # include <a.h>", True),
        ("-#if 0\n #include <a.h>\n-#endif", True),
        ("+/* x */ #include <a.h>", True),
        ("+%:include <a.h>", True),
        ("+??=include <a.h>", True),
        ("-/*\n #include <a.h>\n-*/", True),
        ("+/* a comment\n+ * of two lines */", True),
        ("+/* one */ int a; /* two */", False),
        ("+    x = y * z / w;", False),
        ('+    printk("%#x\\n", a); /* so */', False),
        (" #include <a.h>\n+int a;", False),
        ("--- a/xen/a.c\n+++ b/xen/a.c", False),
    ],
)
def test_a_patch_may_lead_the_preprocessor_elsewhere(lines: str, is_open: bool) -> None:
    file = PatchFile(name="fix", text=f"--- a/xen/a.c\n+++ b/xen/a.c\n@@ -1 +1 @@\n{lines}\n")
    fix = PatchSet(name="fix", strip=1, patches=(file,), touched=())
    assert fix.may_read_anew == is_open
