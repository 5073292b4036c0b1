# SPDX-License-Identifier: Apache-2.0
"""From a built tree and a patch to object pairs, on a tiny tree with real objects."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.kit.tiny_tree import SOURCES, TinyTree
from xsplice_plugins import capture
from xsplice_plugins.artefacts import CompileJob, Reach
from xsplice_plugins.capture.compiling import preprocess
from xsplice_plugins.capture.making import _pairs
from xsplice_plugins.errors import CaptureError, MachineError, RefusedError
from xsplice_plugins.kbuild.indexing import read_index
from xsplice_plugins.kbuild.tree import locate_tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from xsplice_plugins.artefacts import ObjectPair, PatchSet

pytestmark = pytest.mark.toolchain


def captured(
    tree: TinyTree, patch_set: PatchSet, work: Path, **options: str
) -> dict[str, ObjectPair]:
    """Run a whole capture and return the pairs by object."""
    found = locate_tree(tree.root)
    pristine, patched = work / "pristine", work / "patched copy"
    capture.copy_tree(found, pristine)
    capture.copy_tree(found, patched, patch_set)
    pairs = {}
    for job in capture.plan(found, patch_set).jobs:
        prefix = work / "objects" / f"{job.object_path}.xsplice"
        prefix.parent.mkdir(parents=True, exist_ok=True)
        tree_object = found.root / job.tree_object
        if job.reach is Reach.DIRECT and job.tree_object:
            pairs[job.object_path] = capture.compile_pair(
                job, pristine=pristine, patched=patched, tree_object=tree_object,
                dest_prefix=prefix,
                layouts=capture.compare_layouts(job, pristine=pristine, patched=patched),
            )  # fmt: skip
        else:
            pairs[job.object_path] = capture.capture_reached(
                job, pristine=pristine, patched=patched, tree_object=tree_object,
                store=work / "store", dest_prefix=prefix,
            )  # fmt: skip
    return pairs


def test_a_one_file_fix_compiles_one_object(
    built: TinyTree, tmp_path: Path, untouched: Callable[[], None]
) -> None:
    fix = built.patch(("xen/common/version.c", "FILE_NAME", '"hello"'))
    pairs = captured(built, fix, tmp_path)
    assert list(pairs) == ["common/version.o"]
    pair = pairs["common/version.o"]
    assert pair.is_changed
    folder = tmp_path / "objects" / "common"
    baseline = (folder / pair.baseline).read_bytes()
    assert baseline == (built.root / "xen/common/version.o").read_bytes()
    assert b"hello" in (folder / pair.new).read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == sorted([pair.baseline, pair.new])
    untouched()


def test_the_new_object_names_its_file_as_the_tree_does(built: TinyTree, tmp_path: Path) -> None:
    """The oracle is nm: the file symbol is the path below xen/."""
    fix = built.patch(("xen/common/version.c", "FILE_NAME", 'FILE_NAME "!"'))
    pair = captured(built, fix, tmp_path)["common/version.o"]
    new = tmp_path / "objects" / "common" / pair.new
    assert b"common/version.c!" in new.read_bytes()
    assert str(tmp_path).encode() not in new.read_bytes()
    names = subprocess.run(["nm", "-a", new], capture_output=True, text=True, check=True).stdout
    assert " a common/version.c" in names


def test_debug_information_does_not_name_the_copy(tmp_path: Path) -> None:
    tree = TinyTree(tmp_path / "tree", flags="-g")
    fix = tree.patch(("xen/common/version.c", "FILE_NAME", '"hello"'))
    pair = captured(tree, fix, tmp_path / "work")["common/version.o"]
    folder = tmp_path / "work" / "objects" / "common"
    assert b"patched copy" not in (folder / pair.new).read_bytes()
    tree_object = tree.root / "xen/common/version.o"
    assert (folder / pair.baseline).read_bytes() == tree_object.read_bytes()


def test_a_line_moved_by_a_comment_gives_equal_content_with_debug_information(
    tmp_path: Path,
) -> None:
    tree = TinyTree(tmp_path / "tree", flags="-g")
    fix = tree.patch(
        ("xen/common/version.c", "#include", "int other(void);\n#include"),
    )
    pair = captured(tree, fix, tmp_path / "work")["common/version.o"]
    assert not pair.is_changed
    assert pair.digest_baseline != pair.digest_new
    assert not list((tmp_path / "work/objects/common").glob("*.new"))


def test_an_init_object_is_renamed_as_in_the_tree(built: TinyTree, tmp_path: Path) -> None:
    fix = built.patch(("xen/common/setup.c", "setup text", "other text"))
    pair = captured(built, fix, tmp_path)["common/setup.init.o"]
    assert pair.is_init
    folder = tmp_path / "objects" / "common"
    tree_object = built.root / "xen/common/setup.init.o"
    assert (folder / pair.baseline).read_bytes() == tree_object.read_bytes()


def test_a_header_reaches_only_its_users(built: TinyTree, tmp_path: Path) -> None:
    fix = built.patch(("xen/include/xen/lib.h", "a * 2", "a * 3"))
    pairs = captured(built, fix, tmp_path)
    notes = {name: (pair.is_changed, pair.note) for name, pair in pairs.items()}
    assert notes == {
        "common/setup.init.o": (False, "does not use twice, not compiled"),
        "common/user.o": (True, ""),
        "common/version.o": (False, "does not use twice, not compiled"),
    }


def test_a_changed_define_takes_two_passes_and_finds_the_same(
    built: TinyTree, tmp_path: Path
) -> None:
    fix = built.patch(("xen/include/xen/lib.h", "#define FILE_NAME __FILE__",
                       '#define FILE_NAME "a"'))  # fmt: skip
    for _ in range(2):  # the second time with the stored texts
        pairs = captured(built, fix, tmp_path)
        assert {name: pair.is_changed for name, pair in pairs.items()} == {
            "common/setup.init.o": False,
            "common/user.o": False,
            "common/version.o": True,
        }
    assert len(list((tmp_path / "store").iterdir())) == 3
    capture.forget_texts(tmp_path / "store", files_max=1)
    assert len(list((tmp_path / "store").iterdir())) == 1


def test_a_link_in_the_tree_leads_to_the_patched_file(built: TinyTree, tmp_path: Path) -> None:
    fix = built.patch(("xen/common/unused.c", "return 0", "return 1"))
    pairs = captured(built, fix, tmp_path)
    assert {name: pair.is_changed for name, pair in pairs.items()} == {"arch/x86/linked.o": True}
    assert pairs["arch/x86/linked.o"].source_path == "common/unused.c"


def test_a_compile_error_shows_the_compilers_lines(
    built: TinyTree, tmp_path: Path, untouched: Callable[[], None]
) -> None:
    fix = built.patch(("xen/common/version.c", "return FILE_NAME", "return no_such_name"))
    with pytest.raises(CaptureError, match=r"common/version.c: does not compile") as caught:
        captured(built, fix, tmp_path)
    assert "common/version.c:4:12: error:" in str(caught.value)
    assert not [path for path in (tmp_path / "objects").rglob("*") if path.is_file()]
    untouched()


@pytest.mark.parametrize(
    ("header", "error"),
    [("asm-offsets.h", RefusedError), ("other.h", CaptureError)],
)
def test_a_value_that_the_build_wrote_for_assembler_is_refused(
    header: str, error: type[Exception], tmp_path: Path
) -> None:
    (tmp_path / header).write_text("#define TRAP_NMI 1 /* TRAP_NMI */\n")
    (tmp_path / "a.c").write_text(f'#include "{header}"\n#define TRAP_NMI 2\nint a = TRAP_NMI;\n')
    job = CompileJob(
        object_path="a.o", source_path="a.c", cwd=".", output="a.o", reach=Reach.HEADER,
        command="gcc -Werror -c a.c -o a.o", inputs=("a.c",),
    )  # fmt: skip
    for work in (
        lambda: capture.compile_object(job, tmp_path, tmp_path / "out.o"),
        lambda: preprocess(job, tmp_path),
    ):
        with pytest.raises(error, match=r"\bTRAP_NMI\b") as caught:
            work()
        assert ("[GENERATED]" in str(caught.value)) == (error is RefusedError)


def test_drift_names_the_object_and_both_compilers(own_tree: TinyTree, tmp_path: Path) -> None:
    fix = own_tree.patch(("xen/common/version.c", "FILE_NAME", '"hello"'))
    place = own_tree.root / "xen/common/version.o"
    (tmp_path / "comment").write_bytes(b"\0GCC: (Old) 1.2.3\0")
    subprocess.run(
        ["objcopy", "--update-section", f".comment={tmp_path / 'comment'}", place], check=True
    )
    # Another compiler that wrote the same code is no drift.
    assert captured(own_tree, fix, tmp_path / "one")["common/version.o"].is_changed
    (tmp_path / "text").write_bytes(b"\x90\xc3")
    section = ".text.xen_extra_version"
    subprocess.run(
        ["objcopy", "--update-section", f"{section}={tmp_path / 'text'}", place], check=True
    )
    os.utime(own_tree.root / "xen/prelink.o", (1, 1))
    with pytest.raises(CaptureError, match=r"common/version.o: .* not the tree's object") as caught:
        captured(own_tree, fix, tmp_path / "two")
    assert "GCC: (Old) 1.2.3" in str(caught.value)
    assert section in str(caught.value)


def test_a_source_edited_after_the_build_is_drift(own_tree: TinyTree, tmp_path: Path) -> None:
    source = own_tree.root / "xen/common/version.c"
    source.write_text(source.read_text().replace("FILE_NAME", '"edited"'))
    fix = own_tree.patch(("xen/common/version.c", "edited", "hello"))
    with pytest.raises(CaptureError, match="a source, header or setting has changed"):
        captured(own_tree, fix, tmp_path / "work")


@pytest.mark.parametrize("program", ["env A=1 gcc", "ccache gcc"])
def test_a_compiler_of_several_words_works(tmp_path: Path, program: str) -> None:
    if shutil.which(program.split(" ", 1)[0]) is None:
        pytest.skip(f"{program} is not installed")
    tree = TinyTree(tmp_path / "tree", cc=program)
    fix = tree.patch(("xen/common/version.c", "FILE_NAME", '"hello"'))
    assert captured(tree, fix, tmp_path / "work")["common/version.o"].is_changed


@pytest.mark.parametrize("names_links", [False, True])
def test_a_source_behind_a_link_has_the_name_that_its_tree_gives_it(
    tmp_path: Path, names_links: bool
) -> None:
    tree = TinyTree(tmp_path / "tree", names_links=names_links)
    pairs = captured(tree, tree.patch(("xen/common/unused.c", "0", "1")), tmp_path / "work")
    pair = pairs["arch/x86/linked.o"]
    name = "arch/x86/linked.c" if names_links else "common/unused.c"
    assert (pair.is_changed, pair.source_path) == (True, name)


def test_what_the_link_made_and_removed_again_is_not_compiled(
    own_tree: TinyTree, tmp_path: Path
) -> None:
    boot = own_tree.root / "xen/common/boot.c"
    boot.write_text(f"#include <xen/lib.h>\n{boot.read_text()}")
    own_tree.build()
    fix = own_tree.patch(("xen/include/xen/lib.h", "a * 2", "a * 3"))
    assert "common/boot.o" in captured(own_tree, fix, tmp_path / "there")
    for path in (boot, boot.with_suffix(".o")):  # as .xen-syms.1.S of arm64
        path.unlink()
    pairs = captured(own_tree, fix, tmp_path / "gone")
    assert "common/boot.o" not in pairs
    assert pairs["common/user.o"].is_changed


def test_code_that_is_linked_on_its_own_waits_for_the_next_boot(
    built: TinyTree, tmp_path: Path
) -> None:
    pairs = captured(built, built.patch(("xen/common/boot.c", "0", "1")), tmp_path)
    (row,) = pairs["common/boot.o"].boot
    assert (row.name, row.code, row.is_own) == ("common/boot.c", "INIT_CODE", True)
    assert not pairs["common/boot.o"].refused


def test_a_new_header_stays_on_the_recorded_route(built: TinyTree, tmp_path: Path) -> None:
    added = '--- /dev/null\n+++ b/xen/include/xen/new.h\n@@ -0,0 +1 @@\n+#define FILE_NAME "new"\n'
    use = built.patch(("xen/common/version.c", "<xen/lib.h>\nconst", "<xen/new.h>\nconst"))
    fix = built.patch_text(added + use.patches[0].text)
    assert list(captured(built, fix, tmp_path)) == ["common/version.o"]
    hidden = added.replace("xen/include/xen/new.h", "xen/arch/xen/lib.h")
    (built.root / "xen/arch/xen").mkdir(exist_ok=True)
    plan = capture.plan(locate_tree(built.root), built.patch_text(hidden))
    assert plan.reason == "xen/arch/xen/lib.h is new and could hide include/xen/lib.h"
    (built.root / "xen/arch/xen").rmdir()


def test_copies_are_replaced_whole_and_leave_nothing_behind(
    built: TinyTree, tmp_path: Path, untouched: Callable[[], None]
) -> None:
    tree = locate_tree(built.root)
    fix = built.patch(("xen/common/version.c", "FILE_NAME", '"hello"'))
    for _ in range(2):
        capture.copy_tree(tree, tmp_path / "copy", fix)
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    patched = tmp_path / "copy/xen/common/version.c"
    assert not patched.is_symlink()
    assert '"hello"' in patched.read_text()
    untouched()


def test_an_interrupt_leaves_no_half_copy(
    built: TinyTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("xsplice_plugins.capture.copying._put", interrupted)
    fix = built.patch(("xen/common/version.c", "FILE_NAME", '"hello"'))
    with pytest.raises(KeyboardInterrupt):
        capture.copy_tree(locate_tree(built.root), tmp_path / "copy", fix)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_named(
    built: TinyTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("xsplice_plugins.capture.copying._put", full)
    fix = built.patch(("xen/common/version.c", "FILE_NAME", '"hello"'))
    with pytest.raises(MachineError, match=r"copy: cannot be written \(No space left .* make room"):
        capture.copy_tree(locate_tree(built.root), tmp_path / "copy", fix)
    assert not list(tmp_path.iterdir())


def test_an_include_that_leads_out_of_the_copy_is_refused(built: TinyTree, tmp_path: Path) -> None:
    """The patch brings a `..` that no record knows, from a folder that is linked as a whole."""
    other = built.root / "xen/drivers/sub"
    other.mkdir(parents=True)
    (other / "up.h").write_text('#include "../../include/xen/lib.h"\n')
    try:
        fix = built.patch(
            ("xen/include/xen/lib.h", "a * 2", "a * 3"),
            ("xen/common/version.c", "#include <xen/lib.h>", '#include "drivers/sub/up.h"'),
        )
        tree = locate_tree(built.root)
        capture.copy_tree(tree, tmp_path / "copy", fix)
        jobs = {job.object_path: job for job in capture.plan(tree, fix).jobs}
        job: CompileJob = jobs["common/version.o"]
        with pytest.raises(CaptureError, match=r"leads out of the private copy|does not compile"):
            capture.compile_object(job, tmp_path / "copy", tmp_path / "a.o")
    finally:
        shutil.rmtree(built.root / "xen/drivers")


def test_input_digests_name_what_changed(built: TinyTree) -> None:
    fix = built.patch(("xen/common/version.c", "FILE_NAME", '"hello"'))
    tree = locate_tree(built.root)
    (job,) = capture.plan(tree, fix).jobs
    digests = capture.InputDigests(tree, fix)
    before, after = (digests.texts(job, is_patched=side) for side in (False, True))
    assert [text.split()[0] for text in before] == ["command", "compiler", "other"]
    assert [text.split()[:2] for text in after][-1] == ["patched", "xen/common/version.c"]
    assert before[:2] == after[:2]


def test_a_read_only_tree_is_enough(own_tree: TinyTree, tmp_path: Path) -> None:
    fix = own_tree.patch(("xen/common/version.c", "FILE_NAME", '"hello"'))
    folders = [own_tree.root, *(p for p in own_tree.root.rglob("*") if p.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        tree = locate_tree(own_tree.root)
        capture.copy_tree(tree, tmp_path / "work/copy", fix)
        (job,) = capture.plan(tree, fix).jobs
        capture.compile_object(job, tmp_path / "work/copy", tmp_path / "work/a.o")
        assert (tmp_path / "work/a.o").is_file()
        shutil.rmtree(tmp_path / "work/copy")
    finally:
        for folder in folders:
            folder.chmod(0o755)


def test_a_tree_that_does_not_tell_what_is_linked_is_refused(
    own_tree: TinyTree, tmp_path: Path
) -> None:
    for path in (own_tree.root / "xen").rglob("*.o"):
        if path.name in {"prelink.o", "built_in.o"}:
            path.unlink()
            path.with_name(f".{path.name}.cmd").unlink()
    index = read_index(locate_tree(own_tree.root))
    with pytest.raises(CaptureError, match="nothing tells which objects the image is linked from"):
        _pairs(index, index, tmp_path, None)


def test_pipes_in_the_tree_are_never_read(own_tree: TinyTree, tmp_path: Path) -> None:
    for path in ("pipe", "xen/pipe.h", "xen/common/.version.o.d", "xen/common/.pipe.o.cmd"):
        os.mkfifo(own_tree.root / path)
    fix = own_tree.patch(("xen/common/version.c", "FILE_NAME", '"hello"'))
    assert list(captured(own_tree, fix, tmp_path)) == ["common/version.o"]
    (own_tree.root / "xen/Makefile").write_text(f"{SOURCES['xen/Makefile']}all: ;\n")
    capture.make_copy(read_index(locate_tree(own_tree.root)), fix, tmp_path / "copy")
    assert (tmp_path / "copy/xen/common/version.c").read_text().count('"hello"') == 1
    assert not (tmp_path / "copy/pipe").exists()


@pytest.mark.parametrize("name", ["жук", "é"])
def test_a_header_may_have_any_name(name: str, own_tree: TinyTree, tmp_path: Path) -> None:
    header = f"xen/include/xen/{name}.h"
    (own_tree.root / header).write_text("#define ADD 1\n")
    user = own_tree.root / "xen/common/user.c"
    user.write_text(f"#include <xen/{name}.h>\n" + user.read_text().replace("(a)", "(a) + ADD"))
    own_tree.build()
    pairs = captured(own_tree, own_tree.patch((header, "ADD 1", "ADD 2")), tmp_path)
    assert pairs["common/user.o"].is_changed


def _with_assembler(tree: TinyTree) -> str:
    """Let assembler and C code read one header; return its path."""
    header = "xen/include/xen/both.h"
    (tree.root / header).write_text("#define RETURN ret\n#define ADD 1\n")
    for path in ("xen/common/entry.S", "xen/common/user.c"):
        file = tree.root / path
        text = file.read_text().replace("    ret\n", "    RETURN\n").replace("(a)", "(a) + ADD")
        file.write_text(f"#include <xen/both.h>\n{text}")
    tree.build()
    return header


def test_an_assembler_object_that_a_header_changes_is_named_with_it(
    own_tree: TinyTree, tmp_path: Path
) -> None:
    header = _with_assembler(own_tree)
    pairs = captured(own_tree, own_tree.patch((header, "RETURN ret", "RETURN nop; ret")), tmp_path)
    (refusal,) = pairs["common/entry.o"].refused
    assert (refusal.name, refusal.code) == ("common/entry.S", "ASSEMBLER")
    assert refusal.reason.endswith(f"no payload replaces, and {header} changes it")
    assert "new names for C code beside the old ones" in refusal.hint
    assert "make" not in refusal.hint


def test_a_header_may_change_for_c_code_alone(own_tree: TinyTree, tmp_path: Path) -> None:
    header = _with_assembler(own_tree)
    pairs = captured(own_tree, own_tree.patch((header, "ADD 1", "ADD 2")), tmp_path)
    assert not pairs["common/entry.o"].refused
    assert pairs["common/user.o"].is_changed
    # Assembler code that only reads otherwise is what it was.
    pairs = captured(
        own_tree, own_tree.patch((header, "RETURN ret", "RETURN  .byte 0xc3")), tmp_path
    )
    assert not pairs["common/entry.o"].refused
    # Beside assembler source only that is refused; the header is judged when it is left out.
    both = own_tree.patch((header, "ADD 1", "ADD 2"), ("xen/common/entry.S", ":", ":\n    nop"))
    plan = capture.plan(locate_tree(own_tree.root), both)
    assert [(row.name, row.code) for row in plan.refused] == [("xen/common/entry.S", "ASSEMBLER")]
    assert "but not the headers that C code reads as well" in plan.refused[0].hint
