# SPDX-License-Identifier: Apache-2.0
"""Every face passes the same gates and ends with the same status: scons, xsplice and make.

The tree is a tiny one of the right shape; `make xsplice` inside a real Xen tree is tried in
tests/xen/test_xen_build_series.py.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faces.kit import (
    ALONE,
    BOOT,
    FACES,
    FLAGS,
    GOOD,
    HEADER,
    LAYOUT,
    MOVED,
    NOTHING,
    STARTS,
    USER,
    Face,
    run,
    with_make,
    with_scons,
    with_xsplice,
    written,
)
from tests.kit.tiny_make import add_makefile
from tests.kit.tiny_tree import TinyTree
from tests.xen.mutations import sections_of

pytestmark = [pytest.mark.scons, pytest.mark.toolchain]


def test_a_fix_is_done(face: Face, tree: TinyTree, tmp_path: Path) -> None:
    ended = face("xsplice", tmp_path, XEN=tree.root, PATCH=written(tree, tmp_path, *GOOD))
    assert ended.status == 0, ended.text
    assert "fix: replaces" in ended.out
    assert list(tmp_path.rglob("fix.livepatch"))


def test_no_functional_change(face: Face, tree: TinyTree, tmp_path: Path) -> None:
    ended = face("xsplice", tmp_path, XEN=tree.root, PATCH=written(tree, tmp_path, *NOTHING))
    assert (ended.status, "no functional change" in ended.text) == (3, True), ended.text
    assert not list(tmp_path.rglob("*.livepatch*"))


@pytest.mark.parametrize("edit", [STARTS, ALONE], ids=["init object", "linked on its own"])
def test_boot_code_alone_waits_for_the_next_boot(
    face: Face, edit: tuple[str, str, str], tree: TinyTree, tmp_path: Path
) -> None:
    ended = face("xsplice-verify", tmp_path, XEN=tree.root, PATCH=written(tree, tmp_path, *edit))
    assert (ended.status, "boot only" in ended.text) == (3, True), ended.text
    assert "takes effect at the next boot" in ended.text
    assert not list(tmp_path.rglob("*.livepatch*"))


def test_code_that_runs_is_not_replaced_without_the_boot_code_it_may_need(
    face: Face, tree: TinyTree, tmp_path: Path
) -> None:
    file = tmp_path / "fix.patch"
    file.write_text(tree.patch(GOOD, STARTS).patches[0].text)
    ended = face("xsplice", tmp_path, XEN=tree.root, PATCH=file)
    assert (ended.status, "[INIT_CODE]" in ended.text) == (4, True), ended.text


def test_boot_code_is_left_out_on_a_persons_word(
    face: Face, tree: TinyTree, tmp_path: Path
) -> None:
    """It is said and recorded; without the word, the same build folder refuses again."""
    file = tmp_path / "fix.patch"
    file.write_text(tree.patch(GOOD, STARTS).patches[0].text)
    word = "INIT_CODE:setup"
    ended = face("xsplice", tmp_path, XEN=tree.root, PATCH=file, ACCEPT=word)
    assert (ended.status, f"on your word: {word}: " in ended.text) == (0, True), ended.text
    record = next(tmp_path.rglob("fix.payload.json"))
    rows = json.loads(record.read_text())["findings"]
    assert [row["question"] for row in rows if row["severity"] == "accepted"] == [word]
    again = face("xsplice", tmp_path, XEN=tree.root, PATCH=file)
    assert (again.status, "[INIT_CODE]" in again.text) == (4, True), again.text
    wrong = face("xsplice", tmp_path, XEN=tree.root, PATCH=file, ACCEPT=f"{word} LAYOUT:pair.x")
    assert (wrong.status, "does not ask for it" in wrong.text) == (4, True), wrong.text


def test_a_line_number_in_code_is_shown_by_a_third_compile(
    face: Face, tree: TinyTree, tmp_path: Path
) -> None:
    """Where no number could be a line there is none; `xsplice diff` repeats the answer."""
    ended = face("xsplice", tmp_path, XEN=tree.root, PATCH=written(tree, tmp_path, *MOVED))
    assert (ended.status, "1 functions differ in line numbers only" in ended.text) == (3, True)
    (shifted,) = tmp_path.rglob("*.xsplice.shifted")
    made = shifted.with_suffix(".diff")
    out = tmp_path / "again"
    record = shifted.with_suffix(".pair.json")
    run([sys.executable, "-m", "xsplice_plugins", "diff", record, "--out", out])
    assert out.read_bytes() == made.read_bytes()
    assert b"1009 further down" in made.read_bytes()
    shifted.unlink()
    run([sys.executable, "-m", "xsplice_plugins", "diff", record, "--out", out])
    assert b'"line_only": []' in out.read_bytes(), "nothing shows it any more"
    face("xsplice", tmp_path, XEN=tree.root, PATCH=written(tree, tmp_path, *GOOD))
    assert not list(tmp_path.rglob("*.shifted"))


@pytest.mark.parametrize(
    ("edit", "code"), [(LAYOUT, "LAYOUT"), (BOOT, "ASSEMBLER")], ids=["layout", "assembler"]
)
def test_what_cannot_be_patched_is_refused(
    face: Face, edit: tuple[str, str, str], code: str, tree: TinyTree, tmp_path: Path
) -> None:
    ended = face("xsplice-verify", tmp_path, XEN=tree.root, PATCH=written(tree, tmp_path, *edit))
    assert (ended.status, f"[{code}]" in ended.text) == (4, True), ended.text
    assert not list(tmp_path.rglob("*.livepatch*"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ON": "qmeu"}, "qmeu"),
        ({"SIGNER": "nobody"}, "nobody"),
        ({"DIFFER": "nobody"}, "nobody"),
        ({"LINKER": "nobody"}, "nobody"),
        ({"OPTIONS": "pin=1"}, "no plugin of this run reads pin"),
        ({"OPTIONS": "pin"}, "key=value"),
        ({"CERT": "/nowhere.pem"}, "/nowhere.pem"),
        ({"DEPENDS": "/nowhere"}, "/nowhere"),
        ({"RELEASES": "9.9"}, "9.9"),
        ({"SINGER": "cms"}, "singer"),
    ],
)
def test_wrong_use(
    face: Face, settings: dict[str, str], message: str, tree: TinyTree, tmp_path: Path
) -> None:
    patch = written(tree, tmp_path, *GOOD)
    ended = face("xsplice-verify", tmp_path, XEN=tree.root, PATCH=patch, **settings)
    assert (ended.status, message in ended.text.replace("SINGER", "singer")) == (2, True)
    assert not list(tmp_path.rglob("*.livepatch*"))


@pytest.mark.parametrize("inside", ["", "xen", "xen/build", "new"])
def test_a_build_folder_inside_the_tree_is_refused_and_nothing_is_written(
    face: Face, inside: str, tree: TinyTree, tmp_path: Path
) -> None:
    patch = written(tree, tmp_path, *GOOD)
    before = sorted(tree.root.rglob("*"))
    build = tree.root / inside
    ended = face("xsplice", tmp_path, XEN=tree.root, PATCH=patch, BUILD=build)
    assert (ended.status, "only read" in ended.text) == (2, True), ended.text
    assert sorted(tree.root.rglob("*")) == before


def test_a_release_that_contradicts_is_refused(face: Face, tree: TinyTree, tmp_path: Path) -> None:
    patch = written(tree, tmp_path, *GOOD)
    ended = face("xsplice", tmp_path, XEN=tree.root, PATCH=patch, RELEASE="4.20.3")
    assert (ended.status, "4.20.3" in ended.text) == (2, True), ended.text


def test_what_is_not_proved(face: Face, tree: TinyTree, tmp_path: Path) -> None:
    """The fix does not do what is expected of it."""
    patch, expected = written(tree, tmp_path, *GOOD), tmp_path / "expected.json"
    expected.write_text(
        '{"effect": [{"probe": "xen_minor_version", "args": [], "type": "int", '
        '"before": 17, "during": 18, "after": 17}]}'
    )
    ended = face("xsplice-verify", tmp_path, XEN=tree.root, PATCH=patch, EXPECT=expected)
    assert (ended.status, "expected 18" in ended.text) == (5, True), ended.text
    assert not list(tmp_path.rglob("fix.verify.json"))
    assert list(tmp_path.rglob("fix.verify.failed.json"))
    assert (tmp_path / "fix/fix.livepatch").is_file()
    assert not (tmp_path / "out/fix.livepatch").exists(), "nobody shall ship it"
    ended = face("xsplice-verify", tmp_path, XEN=tree.root, PATCH=patch, EXPECT=expected)
    assert (ended.status, "expected 18" in ended.text) == (5, True), "said once more"


def test_a_verdict_is_said_again_by_a_run_that_has_nothing_to_do(
    face: Face, tree: TinyTree, tmp_path: Path
) -> None:
    settings = {"XEN": tree.root, "PATCH": written(tree, tmp_path, *GOOD)}
    place = tmp_path / "fix/fix.verify.json"
    for _ in range(2):
        ended = face("xsplice-verify", tmp_path, **settings)
        assert (ended.status, f"PROVED: fix on Xen 4.17.5: {place}" in ended.out) == (0, True)
    assert "VERIFY" not in ended.out
    ended = face("xsplice", tmp_path, **settings)
    assert (ended.status, "PROVED" in ended.text) == (0, False), "nobody has asked"


def test_bytes_that_a_payload_should_expect_and_does_not_are_put_back(
    face: Face, tree: TinyTree, tmp_path: Path
) -> None:
    """Somebody takes them out of the payload, and mends the digest in its record."""
    patch = written(tree, tmp_path, *GOOD)
    settings = {"XEN": tree.root, "PATCH": patch, "SIGNER": "none"}
    ended = face("xsplice-verify", tmp_path, **settings)
    assert ended.status == 0, ended.text
    [payload] = tmp_path.rglob("fix.livepatch.unsigned")
    good = payload.read_bytes()
    data = bytearray(good)
    [funcs] = [row for row in sections_of(bytes(data)) if row.name == ".livepatch.funcs"]
    assert any(data[funcs.offset + 72 : funcs.offset + 104])
    data[funcs.offset + 72 : funcs.offset + 104] = bytes(32)
    payload.write_bytes(data)
    beside = payload.with_name("fix.payload.json")
    record = json.loads(beside.read_text()) | {"digest": hashlib.sha256(data).hexdigest()}
    beside.write_text(json.dumps(record))
    ended = face("xsplice-verify", tmp_path, **settings)
    assert ended.status == 0, ended.text
    assert payload.read_bytes() == good
    assert "PROVED" in ended.text


def test_a_full_rebuild_is_asked_by_name(face: Face, tree: TinyTree, tmp_path: Path) -> None:
    """Without a Makefile that works the whole tree cannot be made, and nothing is shipped."""
    patch = written(tree, tmp_path, *GOOD)
    settings = {"XEN": tree.root, "PATCH": patch, "SIGNER": "none", "ON": "model,rebuild"}
    ended = face("xsplice-verify", tmp_path, **settings)
    assert (ended.status, "does not build" in ended.text) == (2, True), ended.text
    assert not list(tmp_path.rglob("*.livepatch*"))
    kept = (tree.root / "xen/Makefile").read_text()
    add_makefile(tree)
    try:
        ended = face("xsplice-verify", tmp_path, **settings)
    finally:
        (tree.root / "xen/Makefile").write_text(kept)
        (tree.root / "xen/common/extra.mk").unlink()
    assert ended.status == 0, ended.text
    assert "1 of 6 objects made again" in ended.text


def test_what_the_machine_lacks(face: Face, tree: TinyTree, tmp_path: Path) -> None:
    patch = written(tree, tmp_path, *GOOD)
    for build in ("/proc/x", "/dev/null/x"):
        ended = face("xsplice", tmp_path, XEN=tree.root, PATCH=patch, BUILD=build)
        assert (ended.status, build in ended.text) == (6, True), ended.text


def test_one_payload_whatever_the_face(tree: TinyTree, tmp_path: Path) -> None:
    patch = written(tree, tmp_path, *GOOD)
    made = []
    for name, function in FACES.items():
        folder = tmp_path / name
        folder.mkdir()
        ended = function("xsplice", folder, XEN=tree.root, PATCH=patch, SIGNER="none")
        assert ended.status == 0, ended.text
        made.append(min(folder.rglob("fix.livepatch")).read_bytes())
    assert made[0] == made[1] == made[2]


def test_patch_leaves_its_files_where_they_are_wanted(tree: TinyTree, tmp_path: Path) -> None:
    patch = written(tree, tmp_path, *GOOD)
    out = tmp_path / "out"
    ended = with_xsplice("xsplice-verify", tmp_path, XEN=tree.root, PATCH=patch)
    assert ended.status == 0, ended.text
    names = {path.name for path in out.iterdir()}
    ends = ("livepatch", "patch.json", "payload.json", "signature.json")
    assert names == {f"fix.{end}" for end in (*ends, "checks.json", "verify.json")}
    ended = with_xsplice("xsplice", tmp_path, XEN=tree.root, PATCH=patch)
    assert ended.status == 0, ended.text
    assert not (out / "fix.verify.json").exists(), "a report of an earlier run lies there"


def test_a_refusal_leaves_nothing_of_an_earlier_run(
    face: Face, tree: TinyTree, tmp_path: Path
) -> None:
    """Neither a payload nor a verdict of another patch of the same name."""
    for edit in (LAYOUT, BOOT):
        patch = written(tree, tmp_path, *GOOD)
        ended = face("xsplice-verify", tmp_path, XEN=tree.root, PATCH=patch)
        assert ended.status == 0, ended.text
        written(tree, tmp_path, *edit)
        ended = face("xsplice-verify", tmp_path, XEN=tree.root, PATCH=patch)
        assert ended.status == 4, ended.text
        left = {path.name for path in tmp_path.rglob("fix.*") if path.suffix != ".patch"}
        assert not {name for name in left if name.endswith((".livepatch", "verify.json"))}


def test_the_folder_of_a_fix_is_never_the_tree(face: Face, tree: TinyTree, tmp_path: Path) -> None:
    """`BUILD=/src XEN=/src/xen PATCH=xen.patch` names the tree as the fix's own folder."""
    patch = written(tree, tmp_path, *GOOD)
    before = sorted(tree.root.rglob("*"))
    settings = {"XEN": tree.root, "PATCH": patch, "BUILD": tree.root.parent}
    ended = face("xsplice", tmp_path, NAME=tree.root.name, **settings)
    assert (ended.status, "only read" in ended.text) == (2, True), ended.text
    ended = face("xsplice", tmp_path, NAME="../tree/xen/evil", **settings)
    assert sorted(tree.root.rglob("*")) == before


def test_a_dollar_in_a_path_names_no_other_folder(
    face: Face, tree: TinyTree, tmp_path: Path
) -> None:
    patch = written(tree, tmp_path, *GOOD)
    build = tmp_path / "b$v2"
    ended = face("xsplice", tmp_path, XEN=tree.root, PATCH=patch, BUILD=str(build).replace(
        "$", "$$" if face is with_make else "$"
    ))  # fmt: skip
    assert ended.status == 2, ended.text


def test_patch_and_hotfix_are_two_runs(tree: TinyTree, tmp_path: Path) -> None:
    patch, hotfix = written(tree, tmp_path, *GOOD), tmp_path / "h.c"
    hotfix.write_text("#include <xsplice.h>\n")
    ended = with_scons("xsplice", tmp_path, XEN=tree.root, PATCH=patch, HOTFIX=hotfix)
    assert (ended.status, "one payload" in ended.text) == (2, True), ended.text


def test_patch_says_where_it_cannot_write(tree: TinyTree, tmp_path: Path) -> None:
    patch, file = written(tree, tmp_path, *GOOD), tmp_path / "file"
    file.write_text("")
    words = [sys.executable, "-m", "xsplice_plugins", "patch", patch, "--xen", tree.root]
    words += ["--build", tmp_path / "b"]
    for out, status in (("/proc/x", 6), (file, 2)):
        assert run([*words, "--out", out]).status == status
    for odd in (["--verif"], ["--on", "model"]):
        assert run([*words, "--out", tmp_path, *odd]).status == 2
    assert not (tmp_path / "b").exists()
    inside = subprocess.run(
        [str(word) for word in words], cwd=tree.root, capture_output=True, text=True, check=False
    )
    assert (inside.returncode, "only read" in inside.stderr) == (2, True), inside.stderr


def test_a_build_folder_that_outlives_a_change_of_the_tree_gives_what_a_fresh_one_gives(
    face: Face, tmp_path: Path
) -> None:
    """The copy of a patched file follows the tree: else it would put the old text back."""
    tiny = TinyTree(tmp_path / "tree", flags=FLAGS)
    (tiny.root / "xen/include/xen/lib.h").write_text(HEADER)
    user = "int other(int a) { return a * 7; }\n" + 8 * "\n" + USER
    (tiny.root / "xen/common/user.c").write_text(user)
    tiny.build()
    patch = written(tiny, tmp_path, *GOOD)
    ended = face("xsplice", tmp_path / "old", XEN=tiny.root, PATCH=patch, SIGNER="none")
    assert ended.status == 0, ended.text
    (tiny.root / "xen/common/user.c").write_text(user.replace("* 7", "* 9"))
    tiny.build()
    made = []
    for name in ("old", "fresh"):
        ended = face("xsplice", tmp_path / name, XEN=tiny.root, PATCH=patch, SIGNER="none")
        assert ended.status == 0, ended.text
        found = [p for p in (tmp_path / name).rglob("fix.payload.json") if "out" not in p.parts]
        record = json.loads(found[0].read_text())
        made.append((record["digest"], sorted(f["name"] for f in record["functions"])))
    assert made[0] == made[1]
    assert made[0][1] == ["first", "user"]
