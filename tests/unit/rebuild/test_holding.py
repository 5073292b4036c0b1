# SPDX-License-Identifier: Apache-2.0
"""A full rebuild of a tiny tree as the judge of its payload, with what it must not let pass."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.kit.build import scons
from tests.kit.tiny_make import add_makefile
from tests.kit.tiny_tree import TinyTree
from xsplice_plugins.artefacts import (
    Finding,
    PayloadRecord,
    Severity,
    Sources,
    VerifyRequest,
    load,
)
from xsplice_plugins.errors import CaptureError, ConfigError, MachineError
from xsplice_plugins.kbuild.indexing import read_index
from xsplice_plugins.kbuild.tree import locate_tree
from xsplice_plugins.plugins.spec import Config
from xsplice_plugins.rebuild import trees, verify_by_rebuild

pytestmark = [pytest.mark.toolchain, pytest.mark.scons]

HEADER = """static inline int twice(int a) { return a * 2; }
static inline int line(void) { return __LINE__; }
#define FILE_NAME (line() ? __FILE__ + line() : __FILE__)
"""
USER = """#include <xen/lib.h>
unsigned int xen_major_version(void) { return 4; }
unsigned int xen_minor_version(void) { return 17; }
int first(int a) { return a * 3 + 1000; }
int where(void) { return __LINE__; }
int user(int a) { return twice(a) + 1000; }
"""
BOOT = """#include <common/made.h>
__attribute__((weak)) int brought(int);
int livepatch(void) { return WORDS; }
int asks(int a) { return brought ? brought(a) : 0; }
"""
FLAGS = "-fcf-protection=none -fno-asynchronous-unwind-tables -fno-pie -I."
#: What no record tells: a header that is made of another file.
MADE = "common/made.h: docs.txt\n\techo '#define WORDS 1'`wc -w < docs.txt` > $@\n"

FIRST = "xen/common/user.c", "a * 3", "a * 5"
USERS = "xen/common/user.c", "twice(a) + 1000", "twice(a) + 2000"
MOVED = "xen/common/user.c", "unsigned int xen_major", "int more;\nunsigned int xen_major"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A tree with a built payload."""

    tree: TinyTree
    folder: Path
    data: bytes
    record: PayloadRecord

    def judged(self, *edits: tuple[str, str, str]) -> tuple[Finding, ...]:
        """Hold the payload against a rebuild with some edits, whatever it was made of."""
        patch_set = self.tree.patch(*edits)
        request = VerifyRequest(
            payload_path=self.folder / "judged/fix.livepatch",
            image_path=self.tree.root / "xen/xen-syms",
            release="4.17.5",
            sources=Sources(tree=self.tree.root / "xen", patch_set=patch_set),
        )
        request.payload_path.parent.mkdir(exist_ok=True)
        record = replace(self.record, patches=())
        config = Config(release="4.17.5")
        found = verify_by_rebuild(self.data, record, request, config)
        assert list(request.payload_path.parent.iterdir()) == [], "the copy stays"
        assert all(finding.check == "whole" for finding in found)
        return found

    def wrong(self, *edits: tuple[str, str, str]) -> list[str]:
        """Return the texts of the errors that `judged` finds."""
        return [row.text for row in self.judged(*edits) if row.severity is Severity.ERROR]


def make_tree(folder: Path) -> TinyTree:
    """Return a built tree that its own Makefile can make again."""
    tiny = TinyTree(folder / "tree", flags=FLAGS)
    for path, text in {
        "xen/include/xen/lib.h": HEADER, "xen/common/user.c": USER, "xen/docs.txt": "a b\n",
        "xen/common/made.h": "#define WORDS 12\n", "xen/common/livepatch.c": BOOT,
    }.items():  # fmt: skip
        (tiny.root / path).write_text(text)
    add_makefile(tiny)
    (tiny.root / "xen/common/extra.mk").write_text(MADE)
    tiny.build()
    os.utime(tiny.root / "xen/common/made.h")
    tiny.build()
    return tiny


def make_case(folder: Path, tree: TinyTree, *edits: tuple[str, str, str]) -> Case:
    """Build the payload of some edits as a user does."""
    tree.patch(*edits)
    fix = tree.root.parent / "fix.patch"
    build = folder / "build"
    scons("xsplice", build, XEN=tree.root, PATCH=fix, SIGNER="none").assert_success()
    return Case(
        tree=tree,
        folder=folder,
        data=(build / "fix/fix.livepatch").read_bytes(),
        record=load(build / "fix/fix.payload.json", PayloadRecord),
    )


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Return the payload of one changed function; tests only read the tree."""
    folder = tmp_path_factory.mktemp("rebuild")
    return make_case(folder, make_tree(folder), FIRST)


@pytest.fixture
def own(case: Case, tmp_path: Path) -> Case:
    """Return the same with a tree that the test may change."""
    shutil.copytree(case.tree.root, tmp_path / "tree", symlinks=True)
    tree = object.__new__(TinyTree)
    tree.root, tree.cc, tree.flags = tmp_path / "tree", case.tree.cc, case.tree.flags
    return dataclasses.replace(case, tree=tree, folder=tmp_path)


def test_a_right_payload_is_held_and_the_tree_stays_as_it_is(case: Case) -> None:
    root = case.tree.root
    before = {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in root.rglob("*")}
    (figures,) = case.judged(FIRST)
    assert figures.severity is Severity.HELD
    assert "1 of 6 objects made again, 1 differ; the patched image is the link" in figures.text
    assert "1 replaced and 4 untouched functions" in figures.text
    after = {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in root.rglob("*")}
    assert after == before


def test_a_function_that_was_left_out_is_named(case: Case) -> None:
    (wrong,) = case.wrong(FIRST, USERS)
    assert wrong.startswith("user in common/user.o differs in a full rebuild: it is not replaced")


def test_a_function_that_is_replaced_for_nothing_is_named(case: Case) -> None:
    """The payload's object comes out as the tree's own."""
    assert any(text.startswith("first in common/user.o differs") for text in case.wrong(USERS))
    edit = ("xen/common/version.c", "FILE_NAME", '"hello"')
    assert any(text.startswith("first in common/user.o differs") for text in case.wrong(edit))


def test_an_object_that_no_record_reaches_is_made_again_and_named(case: Case) -> None:
    """A header made of another file: only make knows that rule."""
    (wrong,) = case.wrong(FIRST, ("xen/docs.txt", "a b", "a b c"))
    assert wrong.startswith("livepatch in common/livepatch.o differs in a full rebuild")


def test_lines_that_only_move_are_no_difference(case: Case, tmp_path: Path) -> None:
    edits = FIRST, MOVED
    moved = make_case(tmp_path, case.tree, *edits)
    assert {function.name for function in moved.record.functions} == {"first"}
    (figures,) = moved.judged(*edits)
    assert figures.severity is Severity.HELD, figures
    (wrong,) = moved.wrong(*edits, ("xen/common/user.c", "__LINE__", "__LINE__ + 1"))
    assert wrong.startswith("where in common/user.o differs in a full rebuild")


def test_lines_that_move_in_a_header_are_no_difference(case: Case) -> None:
    header = "xen/include/xen/lib.h"
    moved = header, "static", "/* one\n more */\n\nstruct more;\nstatic"
    (figures,) = case.judged(FIRST, moved)
    assert figures.severity is Severity.HELD
    assert "3 of 6 objects made again, 1 differ" in figures.text
    wrong = case.wrong(FIRST, moved, (header, "__LINE__", "__LINE__ + 1"))
    assert [text.partition(" ")[0] for text in wrong] == ["xen_extra_version"]


def test_a_weak_name_that_only_the_rebuild_has_is_named(case: Case) -> None:
    brought = "int first(int a)", "int brought(int a) { return a; }\nint first(int a)"
    wrong = case.wrong(FIRST, ("xen/common/user.c", *brought))
    assert any("brought: only a full rebuild has it" in text for text in wrong), wrong
    assert any("common/livepatch.o" in text for text in wrong)


def test_an_object_that_is_not_linked_any_more_is_not_proved(case: Case) -> None:
    found = case.judged(FIRST, ("xen/common/.built_in.o.cmd", " common/setup.init.o", ""))
    assert [row.severity for row in found] == [Severity.HELD, Severity.UNCHECKED]
    assert found[1].text.startswith("common/setup.init.o: a full rebuild does not link it")


def test_a_source_that_changed_since_the_build_is_found(own: Case) -> None:
    """The image has another version than a rebuild would make: the payload must not hide it."""
    source = own.tree.root / "xen/common/setup.c"
    source.write_text(source.read_text().replace("setup text", "other text"))
    found = own.judged(FIRST)
    assert [row.severity for row in found if "setup" in row.text] == [Severity.INFO]
    source = own.tree.root / "xen/common/version.c"
    source.write_text(source.read_text().replace("FILE_NAME", '"hello"'))
    assert any("xen_extra_version in common/version.o" in text for text in own.wrong(FIRST))


def test_a_tree_that_does_not_build_is_refused_with_the_compilers_words(case: Case) -> None:
    with pytest.raises(CaptureError, match=r"does not build(.|\n)*a \* 5 \+(.|\n)*Error 1") as said:
        case.judged(("xen/common/user.c", "a * 3 +", "a * 5 + +;"))
    assert said.value.exit_status == 2
    assert not (case.folder / "judged/whole").exists()


@pytest.mark.parametrize(("program", "message"), [("make", "make: is not"), ("gcc", "is missing")])
def test_what_the_machine_lacks_is_named(
    program: str, message: str, case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in os.environ["PATH"].split(":"):
        for path in Path(folder).glob("*"):
            if path.name != program and not (tmp_path / path.name).is_symlink():
                (tmp_path / path.name).symlink_to(path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError, match=message) as said:
        case.judged(FIRST)
    assert said.value.exit_status == 6


def request(case: Case, **changes: object) -> tuple[PayloadRecord, VerifyRequest]:
    """Return record and request of a right run, with some fields changed."""
    tree = case.tree.root / "xen"
    sources = Sources(tree=tree, patch_set=case.tree.patch(FIRST))
    fields: dict[str, object] = {
        "payload_path": case.folder / "fix.livepatch",
        "image_path": tree / "xen-syms",
        "release": "4.17.5",
        "sources": sources,
    }
    return case.record, VerifyRequest(**(fields | changes))  # type: ignore[arg-type]  # by name


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sources": None}, "`scons xsplice-verify` or `xsplice patch --verify`"),
        ({"beneath": (Path("v1.livepatch"),)}, "nothing tells which patches are those"),
    ],
)
def test_what_cannot_be_rebuilt_is_unchecked_and_says_what_to_give(
    changes: dict[str, object], words: str, case: Case
) -> None:
    record, asked = request(case, **changes)
    (finding,) = verify_by_rebuild(case.data, record, asked, Config())
    assert finding.severity is Severity.UNCHECKED
    assert words in finding.text


def test_hand_written_files_have_no_patched_tree(case: Case) -> None:
    record, asked = request(case, sources=None)
    by_hand = replace(record, patches=(replace(record.patches[0], files=()),))
    (finding,) = verify_by_rebuild(case.data, by_hand, asked, Config())
    assert finding.severity is Severity.EXEMPT
    assert "hand-written: there is no patched tree to make" in finding.text


def test_another_image_and_other_patches_are_refused(case: Case) -> None:
    record, asked = request(case, image_path=case.tree.root / "xen/prelink.o")
    with pytest.raises(ConfigError, match="not the image of the tree"):
        verify_by_rebuild(case.data, record, asked, Config())
    record, asked = request(case)
    assert record.patches
    other = replace(record, patches=(replace(record.patches[0], sha256="0"),))
    (finding,) = verify_by_rebuild(case.data, other, asked, Config())
    assert (finding.severity, "other patches" in finding.text) == (Severity.ERROR, True)


def test_linker_scripts_count_and_the_record_of_settings_does_not(own: Case) -> None:
    before = trees.read_build(read_index(locate_tree(own.tree.root)))
    after = dataclasses.replace(
        before,
        scripts={"arch/x86/xen.lds": b"other"},
        objects=before.objects | {"common/config_data.o": b"\x7fELF"},
    )
    found = trees.changes(before, after)
    assert found.scripts == ("arch/x86/xen.lds",)
    assert (found.differing, found.exempt) == ((), ("common/config_data.o",))


@pytest.fixture(name="verified")
def _verified(case: Case, tmp_path: Path) -> Callable[..., str]:
    """Return a run of the whole chain with ``ON=model,rebuild``."""
    case.tree.patch(FIRST)
    fix = case.tree.root.parent / "fix.patch"

    def run(**settings: object) -> str:
        given = {"XEN": case.tree.root, "PATCH": fix, "SIGNER": "none", "ON": "model,rebuild"}
        return scons("xsplice-verify", tmp_path, **given | settings).assert_success().text

    return run


def test_scons_asks_it_by_name_and_again_when_the_tree_changed(
    own: Case, verified: Callable[..., str]
) -> None:
    assert "1 of 6 objects made again" in verified(XEN=own.tree.root)
    assert "VERIFY" not in verified(XEN=own.tree.root)
    (own.tree.root / "xen/common/unrelated.txt").write_text("new")
    assert "VERIFY" in verified(XEN=own.tree.root)
    assert "made again" not in verified(XEN=own.tree.root, ON="model")


def test_what_the_capture_does_not_reach_is_caught_by_a_full_rebuild(
    own: Case, tmp_path: Path
) -> None:
    """Everything else calls such a payload proved: nothing on record leads to the object."""
    own.tree.patch(FIRST, ("xen/docs.txt", "a b", "a b c"))
    settings = {"XEN": own.tree.root, "PATCH": tmp_path / "fix.patch", "SIGNER": "none"}
    scons("xsplice-verify", tmp_path / "b", **settings).assert_success()
    ended = scons("xsplice-verify", tmp_path / "b", ON="model,rebuild", **settings)
    assert (ended.status, "livepatch in common/livepatch.o differs" in ended.text) == (5, True)
    assert (tmp_path / "b/fix/fix.verify.failed.json").exists()
