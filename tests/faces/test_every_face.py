# SPDX-License-Identifier: Apache-2.0
"""Every face passes the same gates and ends with the same status: scons, xsplice and make.

The tree is a tiny one of the right shape; `make xsplice` inside a real Xen tree is tried in
tests/xen/test_xen_build_series.py.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kit.build import ROOT, Run, scons
from tests.kit.tiny_make import add_makefile
from tests.kit.tiny_tree import TinyTree

pytestmark = [pytest.mark.scons, pytest.mark.toolchain]

HEADER = """
struct pair { int first; int second; };
static inline int twice(int a) { return a * 2; }
#define FILE_NAME __FILE__
"""
USER = """
#include <xen/lib.h>
struct pair pair;
unsigned int xen_major_version(void) { return 4; }
unsigned int xen_minor_version(void) { return 17; }
int first(struct pair *p) { return p->first * 3; }
int user(struct pair *p) { return twice(p->second) + first(p); }
int where(void) { return __LINE__; }
"""
FLAGS = "-fcf-protection=none -fno-asynchronous-unwind-tables "
Face = Callable[..., Run]


def run(command: list[object], **environ: str) -> Run:
    """Run a face's program in this checkout."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
        | {"PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C"}
        | environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    return Run(status=done.returncode, out=done.stdout, err=done.stderr)


def with_scons(goal: str, folder: Path, **settings: object) -> Run:
    """Call ``scons xsplice``."""
    return scons(goal, settings.pop("BUILD", folder), **settings)  # type: ignore[arg-type]  # a path


def with_xsplice(goal: str, folder: Path, **settings: object) -> Run:
    """Call ``xsplice patch``."""
    fix = settings.pop("PATCH")
    words: list[object] = [sys.executable, "-m", "xsplice_plugins", "patch", fix]
    words += ["--build", settings.pop("BUILD", folder), "--out", folder / "out"]
    words += ["--verify"] if goal == "xsplice-verify" else []
    for name, value in settings.items():
        option = "--option" if name == "OPTIONS" else f"--{name.lower().replace('_', '-')}"
        words += [option] if value == "1" else [option, value]
    return run(words)


def with_make(goal: str, folder: Path, **settings: object) -> Run:
    """Call ``make xsplice``; its own status is 2, and it prints the one of what it called."""
    build = settings.pop("BUILD", folder)
    given = [f"{name}={value}" for name, value in settings.items()]
    ended = run(["make", goal, f"BUILD={build}", *given])
    if not ended.status:
        return ended
    assert ended.status == 2, ended.text
    shown = re.search(rf"make: \*\*\* \[Makefile:\d+: {goal}\] Error (\d+)", ended.err)
    assert shown is not None, ended.text
    return Run(status=int(shown[1]), out=ended.out, err=ended.err)


FACES = {"scons": with_scons, "xsplice": with_xsplice, "make": with_make}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> TinyTree:
    """Return a built tree with a structure that exists and functions that read it."""
    tiny = TinyTree(tmp_path_factory.mktemp("faces") / "tree", flags=FLAGS)
    (tiny.root / "xen/include/xen/lib.h").write_text(HEADER)
    (tiny.root / "xen/common/user.c").write_text(USER)
    tiny.build()
    return tiny


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> Face:
    """Return one face after the other."""
    return FACES[str(request.param)]


def written(tree: TinyTree, folder: Path, path: str, old: str, new: str) -> Path:
    """Write the patch that replaces one text."""
    patch_set = tree.patch((path, old, new))
    file = folder / "fix.patch"
    file.write_text(patch_set.patches[0].text)
    return file


GOOD = "xen/common/user.c", "p->first * 3", "p->first * 5"
LAYOUT = "xen/include/xen/lib.h", "int first;", "int first; int between;"
BOOT = "xen/common/entry.S", "    ret", "    nop\n    ret"
MOVED = "xen/common/user.c", "struct pair pair;", "struct more;\n\nstruct pair pair;"
STARTS = "xen/common/setup.c", "setup text", "other text"
ALONE = "xen/common/boot.c", "return 0", "return 1"
NOTHING = "xen/common/user.c", "* 3", "* /* thrice */ 3"


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


def test_two_fixes_of_one_name_do_not_get_each_others_payload(
    tree: TinyTree, tmp_path: Path
) -> None:
    """They share a build folder, so they work one after the other."""
    edits = [GOOD, ("xen/common/user.c", "twice(p->second)", "twice(p->second + 1)")]
    started = []
    for number, edit in enumerate(edits * 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        patch = written(tree, folder, *edit)
        words = ["patch", patch, "--xen", tree.root, "--build", tmp_path / "build", "--out", folder]
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "xsplice_plugins", *map(str, words)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    for number, process in enumerate(started):
        said, _ = process.communicate()
        assert process.returncode == 0, said
        record = json.loads((tmp_path / str(number) / "fix.payload.json").read_text())
        assert {row["name"] for row in record["functions"]} == [{"first", "user"}, {"user"}][
            number % 2
        ]


@pytest.mark.parametrize("setting", ["DEPENDS", "SUPERSEDES"])
def test_a_payload_that_is_read_is_neither_written_over_nor_taken_away(
    face: Face, setting: str, tree: TinyTree, tmp_path: Path
) -> None:
    patch = written(tree, tmp_path, *GOOD)
    face("xsplice", tmp_path, XEN=tree.root, PATCH=patch).text  # noqa: B018  made below
    below = next(p for p in sorted(tmp_path.rglob("fix.livepatch")) if p.parent.name != "build")
    there = below.read_bytes()
    ended = face("xsplice", tmp_path, XEN=tree.root, PATCH=patch, **{setting: below})
    assert (ended.status, "would be written over it" in ended.text) == (2, True), ended.text
    assert below.read_bytes() == there


def test_wrong_use_takes_nothing_away(tree: TinyTree, tmp_path: Path) -> None:
    patch = written(tree, tmp_path, *GOOD)
    assert with_xsplice("xsplice", tmp_path, XEN=tree.root, PATCH=patch).status == 0
    before = sorted((tmp_path / "out").iterdir())
    ended = with_xsplice("xsplice", tmp_path, XEN=tree.root, PATCH=patch, SIGNER="nobody")
    assert ended.status == 2
    assert sorted((tmp_path / "out").iterdir()) == before


def test_a_switch_says_yes_or_no(face: Face, tree: TinyTree, tmp_path: Path) -> None:
    if face is with_xsplice:
        pytest.skip("there it is an option without a value")
    patch = written(tree, tmp_path, *GOOD)
    ended = face("xsplice", tmp_path, XEN=tree.root, PATCH=patch, LINE_NEUTRAL="perhaps")
    assert (ended.status, "neither yes nor no" in ended.text) == (2, True), ended.text
    assert face("xsplice", tmp_path, XEN=tree.root, PATCH=patch, LINE_NEUTRAL="no").status == 0


def test_a_name_that_no_payload_can_have(face: Face, tree: TinyTree, tmp_path: Path) -> None:
    patch = written(tree, tmp_path, *GOOD)
    ended = face("xsplice", tmp_path, XEN=tree.root, PATCH=patch, NAME="n" * 300)
    assert (ended.status, "300 characters" in ended.text) == (2, True), ended.text
    assert face("xsplice", tmp_path, XEN=tree.root, PATCH=patch, NAME="it's").status == 0


def test_patch_ends_what_it_started(tree: TinyTree, tmp_path: Path) -> None:
    patch = written(tree, tmp_path, *GOOD)
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import os, pathlib, time\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\n"
        "time.sleep(60)\n"
    )
    words = ["patch", patch, "--xen", tree.root, "--build", tmp_path / "b", "--out", tmp_path]
    with subprocess.Popen(
        [sys.executable, "-m", "xsplice_plugins", *map(str, words)],
        cwd=ROOT,
        env=os.environ | {"XSPLICE_PLUGINS": f"slow={slow}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        while not (tmp_path / "pid").exists():
            assert process.poll() is None
        process.terminate()
        assert process.wait(30) != 0
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_the_cache_folder_is_where_it_is_named(tree: TinyTree, tmp_path: Path) -> None:
    """A relative one counts from where the user stands, not from where SCons runs."""
    patch = written(tree, tmp_path, *GOOD)
    words = [sys.executable, "-m", "xsplice_plugins", "patch", patch, "--xen", tree.root]
    done = subprocess.run(
        [str(word) for word in words],
        cwd=tmp_path,
        env=os.environ | {"XSPLICE_CACHE": "here", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "here").iterdir()} >= {"patch"}


def test_a_cache_folder_that_cannot_be(
    face: Face, tree: TinyTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch = written(tree, tmp_path, *GOOD)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for place in (loop, tmp_path / ("a" * 300)):
        monkeypatch.setenv("XSPLICE_CACHE", str(place))
        ended = face("xsplice", tmp_path, XEN=tree.root, PATCH=patch)
        assert (ended.status, "set XSPLICE_CACHE" in ended.text) == (6, True), ended.text
