# SPDX-License-Identifier: Apache-2.0
"""What no object's record names is known by the list of a base's files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.unit.bases.test_keeping import edit, steps_of
from xsplice_plugins import pipeline
from xsplice_plugins.artefacts import BASE_FILE, save
from xsplice_plugins.bases import store
from xsplice_plugins.bases.adding import Order, add_base
from xsplice_plugins.bases.checking import check_base
from xsplice_plugins.cli import main
from xsplice_plugins.errors import CaptureError, RefusedError
from xsplice_plugins.kbuild.listing import LIST_FILE
from xsplice_plugins.kbuild.tree import locate_tree
from xsplice_plugins.pipeline import inputs

pytestmark = pytest.mark.toolchain

NOT_READ = (
    *("Config.mk", "xen/Rules.mk", "xen/tools/gen.py", "xen/arch/x86/xen.lds.S", "xen/Kconfig"),
    "xen/include/config/auto.conf.cmd",
)


@pytest.fixture
def tree(own: Path) -> Path:
    """Return the tree of a base with files that no object reads."""
    for name in NOT_READ:
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).write_text(f"# {name}\n")
    (own / "xen/link").symlink_to("Rules.mk")
    add_base(Order(name="fleet", source=own))
    return store.tree_of("base:fleet")


def altered(path: Path) -> Callable[[], None]:
    """Change a file, its size and time of last write as they were; return what puts it back."""
    good, stamp = path.read_bytes(), path.stat()
    path.write_bytes(good[:-1] + b"!")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))

    def back() -> None:
        path.write_bytes(good)

    return back


@pytest.mark.parametrize("name", NOT_READ)
def test_a_file_that_no_object_read_and_that_changed_is_named(tree: Path, name: str) -> None:
    """Make reads it, and what the fix is compiled with is made of it."""
    record = check_base("fleet")
    assert pipeline.check_inputs(locate_tree(tree)) == ()
    back = altered(tree / name)
    with pytest.raises(RefusedError, match=rf"not any more what was added \({name} changed\)"):
        check_base("fleet")
    with pytest.raises(CaptureError, match=rf"^{name}: changed since the base was added.*remove b"):
        pipeline.check_inputs(locate_tree(tree))
    back()
    assert check_base("fleet") == record
    assert pipeline.check_inputs(locate_tree(tree)) == ()


def test_what_is_gone_new_or_leads_elsewhere_is_named(tree: Path) -> None:
    (tree / "xen/Rules.mk").rename(tree / "xen/Rules.old")
    (tree / "xen/link").unlink()
    (tree / "xen/link").symlink_to("Rules.old")
    (tree / "xen/tools/gen.py").chmod(0o755)
    (tree / "xen/tools/__pycache__").mkdir()
    (tree / "xen/tools/__pycache__/gen.pyc").write_text("of Python's own")
    with pytest.raises(RefusedError) as no:
        check_base("fleet")
    named = "xen/Rules.mk (gone), xen/link, xen/tools/gen.py, xen/Rules.old (new) changed"
    assert named in str(no.value)
    with pytest.raises(CaptureError, match=r"xen/Rules.mk, xen/link, xen/tools/gen.py: changed"):
        pipeline.check_inputs(locate_tree(tree))


def test_many_files_are_counted(tree: Path) -> None:
    for number in range(20):
        (tree / f"new-{number:02}").touch()
    with pytest.raises(RefusedError, match=r"new-07 \(new\), 12 more files changed"):
        check_base("fleet")


def test_files_are_read_again_only_where_one_was_written(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []

    def differing(root: Path, listed: dict[str, str]) -> dict[str, str]:
        looked.append(root)
        return {}

    monkeypatch.setattr(inputs, "differing", differing)
    located = locate_tree(tree)
    pipeline.check_inputs(located)
    assert looked == []  # `base add` has looked
    (tree / "xen/Rules.mk").touch()
    for _ in range(2):
        pipeline.check_inputs(located)
    assert looked == [tree]


def test_a_copy_of_a_base_is_looked_at_for_itself(tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tree.parent, copy, symlinks=True)
    located = locate_tree(copy / "tree")
    pipeline.check_inputs(located)
    altered(copy / "tree/xen/Rules.mk")
    with pytest.raises(CaptureError, match=r"xen/Rules\.mk: changed since the base was added"):
        pipeline.check_inputs(located)
    assert pipeline.check_inputs(locate_tree(tree)) == ()


@pytest.mark.parametrize("how", ["changed", "gone"])
def test_a_list_that_is_not_what_was_written_is_told(tree: Path, how: str) -> None:
    path = tree.parent / LIST_FILE
    if how == "gone":
        path.unlink()
    else:
        edit(tree.parent, "xen/Rules.mk", "xen/Rules.no", LIST_FILE)
    with pytest.raises(RefusedError, match=LIST_FILE):
        check_base("fleet")
    with pytest.raises(CaptureError, match=LIST_FILE):
        pipeline.check_inputs(locate_tree(tree))


def test_a_base_of_an_earlier_version_has_no_list_and_works(
    tree: Path, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["base", "check", "fleet"]) == 0
    assert "no list of them" not in capsys.readouterr().out
    record = store.load_base("fleet")
    (tree.parent / LIST_FILE).unlink()
    save(tree.parent / BASE_FILE, replace(record, files=""))
    (tree / "xen/Rules.mk").write_text("# other\n")
    assert pipeline.check_inputs(locate_tree(tree)) == ()
    assert main(["base", "check", "fleet"]) == 0
    assert "no list of them, for an earlier version added it" in capsys.readouterr().out
    assert steps_of(Order(name="fleet", source=own))[1] == []


def test_any_file_of_a_base_that_changed_stops_a_run(tree: Path) -> None:
    """Also one that the fix's objects do not read, or that nobody has looked at since a copy."""
    altered(tree / "xen/common/user.c")
    with pytest.raises(CaptureError, match=r"xen/common/user\.c: changed since the tree was built"):
        pipeline.check_inputs(locate_tree(tree))
    with pytest.raises(RefusedError, match=r"xen/common/user\.c"):
        check_base("fleet")
    with pytest.raises(CaptureError, match=r"xen/common/user\.c: changed since the base was added"):
        pipeline.check_inputs(locate_tree(tree), None, ())
