# SPDX-License-Identifier: Apache-2.0
"""A base that is not what it was any more is told, with what helps."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.unit.bases.test_keeping import edit
from xsplice_plugins import pipeline
from xsplice_plugins.bases import store
from xsplice_plugins.bases.adding import Order, add_base
from xsplice_plugins.bases.checking import check_base
from xsplice_plugins.cli import main
from xsplice_plugins.errors import CaptureError, RefusedError
from xsplice_plugins.kbuild.tree import locate_tree

pytestmark = pytest.mark.toolchain


def test_commands_on_record_that_changed_or_are_gone_are_told(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = add_base(Order(name="fleet", source=own))
    command = store.tree_of("base:fleet") / "xen/common/.user.o.cmd"
    good, stamp = command.read_bytes(), command.stat()
    for wrong in (good.replace(b"-O2", b"-O1"), None):
        if wrong is None:
            command.unlink()
        else:
            assert wrong != good
            command.write_bytes(wrong)
            os.utime(command, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        assert main(["base", "check", "fleet"]) == 4
        assert "the commands on record (.cmd files)" in capsys.readouterr().err
    command.write_bytes(good)
    assert check_base("fleet") == record


def test_a_header_that_is_gone_is_told(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = add_base(Order(name="fleet", source=own))
    header = store.tree_of("base:fleet") / "xen/include/xen/lib.h"
    text = header.read_bytes()
    assert main(["base", "check", "fleet"]) == 0
    header.unlink()
    assert main(["base", "check", "fleet"]) == 4
    assert "xen/include/xen/lib.h: gone" in capsys.readouterr().err
    header.write_bytes(text)
    assert check_base("fleet") == record


def test_a_compiler_that_is_another_program_now_is_told(own: Path, tmp_path: Path) -> None:
    compiler = tmp_path / "vendor-gcc"
    compiler.write_text('#!/bin/sh\nexec gcc "$@"\n')
    compiler.chmod(0o755)
    record = add_base(Order(name="fleet", source=own, compiler=str(compiler)))
    assert check_base("fleet") == record
    compiler.write_text('#!/bin/sh\nexec gcc -O1 "$@"\n')
    with pytest.raises(RefusedError, match=r"the programs of the compiler changed"):
        check_base("fleet")
    assert not record.programs.strip("0123456789abcdef")


def test_a_compiler_that_cannot_write_says_nothing_of_the_base(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The base would be removed for a full disk."""
    compiler, full = tmp_path / "vendor-gcc", tmp_path / "full"
    said = "Cannot create temporary file in /tmp/: No space left on device"
    compiler.write_text(
        f'#!/bin/sh\nif test -e {full}; then echo "{said}" >&2; exit 1; fi\nexec gcc "$@"\n'
    )
    compiler.chmod(0o755)
    record = add_base(Order(name="fleet", source=own, compiler=str(compiler)))
    full.touch()
    assert main(["base", "check", "fleet"]) == 6
    words = capsys.readouterr().err
    assert "cannot be checked, for its compiler does not work here now" in words
    assert said in words
    assert "not any more what was added" not in words
    full.unlink()
    assert check_base("fleet") == record


def test_a_record_of_an_earlier_version_says_nothing_of_commands(own: Path) -> None:
    add_base(Order(name="fleet", source=own))
    path = store.folder_of("fleet") / "base.json"
    rows = path.read_text().splitlines(keepends=True)
    kept = [row for row in rows if '"programs"' not in row and '"commands"' not in row]
    assert len(kept) == len(rows) - 2
    path.write_text("".join(kept))
    assert check_base("fleet") == store.load_base("fleet")


def test_sources_of_a_base_that_changed_advise_to_add_it_again(own: Path) -> None:
    add_base(Order(name="fleet", source=own))
    tree = locate_tree(store.tree_of("base:fleet"))
    assert pipeline.check_inputs(tree) == ()
    edit(tree.root, "a * 2", "a * 3", "xen/include/xen/lib.h")
    with pytest.raises(CaptureError, match=r"changed since .*; remove base fleet and add it again"):
        pipeline.check_inputs(tree)
    [finding] = pipeline.check_inputs(replace(tree, base=None))
    assert "; run make in the tree and boot what it makes" in finding.text


@pytest.mark.parametrize("wrong", ["image", "settings"])
def test_a_damaged_tree_of_a_base_advises_to_add_it_again(
    own: Path, tmp_path: Path, wrong: str
) -> None:
    add_base(Order(name="fleet", source=own))
    tree = store.tree_of("base:fleet")
    assert locate_tree(tree).base is not None
    if wrong == "image":
        (tree / "xen/xen-syms").write_text("no image")
    else:
        (tree / "xen/.config").write_text("CONFIG_X86=y\n")
    with pytest.raises(CaptureError, match=r"; remove base fleet and add it again$"):
        locate_tree(tree)
    copied = shutil.copytree(tree, tmp_path / "copied", symlinks=True)
    with pytest.raises(CaptureError, match=r"build"):
        locate_tree(copied)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            "twice(a) + 1",
            "; build the base of the vendor's own sources, patches, settings and comp",
        ),
        ("twice(a)", "; remove base fleet and add it again"),
    ],
)
def test_objects_that_differ_advise_what_helps(own: Path, other: str, words: str) -> None:
    """Make in the tree of a base would give the same once more."""
    edit(own, "twice(a)", other)
    add_base(Order(name="fleet", source=own))
    tree = locate_tree(store.tree_of("base:fleet"))
    if "1" not in other:
        (tree.build_root / "common/user.o").write_bytes(
            (tree.build_root / "common/livepatch.o").read_bytes()
        )
    run = pipeline.open_run({}, pipeline.base_of_tree(tree.root), environ={})
    image = tree.xen_syms.read_bytes()
    found = pipeline.match_base(run, image, pipeline.objects_of_tree(tree)).findings[0]
    assert words in found.text
    assert "run make" not in found.text
    outside = pipeline.objects_of_tree(replace(tree, base=None))
    found = pipeline.match_base(run, image, outside).findings[0]
    assert "; run make in the tree and boot what it makes" in found.text
