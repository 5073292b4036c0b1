# SPDX-License-Identifier: Apache-2.0
"""Reading diffs and series, finding their folder, and what they touch."""

from __future__ import annotations

import shutil
import subprocess
from difflib import unified_diff
from typing import TYPE_CHECKING

import pytest

from xsplice_plugins.artefacts import TouchKind
from xsplice_plugins.errors import PatchError
from xsplice_plugins.patch import patched_files, read_patch_set
from xsplice_plugins.patch.classify import classify

if TYPE_CHECKING:
    from pathlib import Path

VERSION_C = """#include <xen/version.h>

const char *xen_extra_version(void)
{
    return XEN_EXTRAVERSION;
}
"""
CPU_FEATURES = "xen/include/public/arch-x86/cpufeatureset.h"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a tiny tree in Xen's shape."""
    root = tmp_path / "tree"
    for path, text in {
        "xen/common/version.c": VERSION_C,
        "xen/include/xen/version.h": "extern int a; /* one */\n",
        "xen/include/public/version.h": "#define A 1\n",
        "xen/arch/x86/entry.S": "ret\n",
        "xen/common/Makefile": "obj-y += version.o\n",
        "xen/common/Kconfig": "config A\n",
        "xen/include/xlat.lst": "? a\n",
        "xen/arch/x86/x86_64/asm-offsets.c": "int a;\n",
        CPU_FEATURES: "int a;\n",
        "xen/test/livepatch/a.c": "int a;\n",
        "docs/a.txt": "a\n",
        "Config.mk": "A=1\n",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def diff(old: str, new: str, path: str, *, before: str = "a/", after: str = "b/") -> str:
    """Return a unified diff between two texts."""
    lines = unified_diff(
        old.splitlines(keepends=True), new.splitlines(keepends=True), before + path, after + path
    )
    return "".join(lines)


def write(folder: Path, text: str, name: str = "fix.patch") -> Path:
    """Write a patch file."""
    path = folder / name
    path.write_text(text)
    return path


CHANGED_C = VERSION_C.replace("XEN_EXTRAVERSION", '"hello"')


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (diff(VERSION_C, CHANGED_C, "xen/common/version.c"), "p1"),
        (diff(VERSION_C, CHANGED_C, "xen/common/version.c", before="", after=""), "p0"),
        (diff(VERSION_C, CHANGED_C, "common/version.c"), "p1 below xen"),
        (diff(VERSION_C, CHANGED_C, "common/version.c", before="", after=""), "p0 below xen"),
        (diff(VERSION_C, CHANGED_C, "xen/common/version.c", before="x/old/", after="x/new/"), "p2"),
    ],
    ids=["p1", "p0", "p1 below xen", "p0 below xen", "p2"],
)
def test_the_authors_folder_is_found_and_does_not_count(
    tree: Path, tmp_path: Path, text: str, label: str
) -> None:
    patch_set = read_patch_set([write(tmp_path, text)], source_root=tree)
    assert [file.path for file in patch_set.touched] == ["xen/common/version.c"]
    assert patched_files(patch_set, tree) == {"xen/common/version.c": CHANGED_C.encode()}
    usual = diff(VERSION_C, CHANGED_C, "xen/common/version.c")
    same = read_patch_set([write(tmp_path, usual, "other.patch")], source_root=tree)
    assert same.digest == patch_set.digest


def test_prose_and_index_lines_do_not_change_the_digest(tree: Path, tmp_path: Path) -> None:
    text = diff(VERSION_C, CHANGED_C, "xen/common/version.c")
    mail = "From: a\nSubject: b\n\nwords\n---\n 1 file changed\n\n" + text + "-- \n2.39.5\n\n"
    sets = [read_patch_set([write(tmp_path, each)], source_root=tree) for each in (text, mail)]
    assert sets[0].digest == sets[1].digest


@pytest.mark.parametrize(
    ("path", "new", "kind"),
    [
        ("xen/common/version.c", CHANGED_C, TouchKind.C),
        ("xen/common/version.c", "/* new words */\n" + VERSION_C, TouchKind.COMMENTS),
        ("xen/include/xen/version.h", "extern  int a; // two\n", TouchKind.COMMENTS),
        ("xen/include/xen/version.h", "extern long a;\n", TouchKind.PRIVATE_HEADER),
        ("xen/include/public/version.h", "#define A 2\n", TouchKind.PUBLIC_HEADER),
        ("xen/arch/x86/entry.S", "nop\n", TouchKind.ASSEMBLER),
        ("xen/common/Makefile", "obj-y += a.o\n", TouchKind.BUILD),
        ("xen/common/Makefile", "# words\n\nobj-y += version.o\n", TouchKind.COMMENTS),
        ("xen/common/Makefile", "\t# words\nobj-y += version.o\n", TouchKind.BUILD),
        ("xen/common/Makefile", "# words \\\nobj-y += version.o\n", TouchKind.BUILD),
        ("xen/common/Kconfig", "config B\n", TouchKind.BUILD),
        ("xen/common/Kconfig", "\nconfig A\n", TouchKind.COMMENTS),
        ("xen/common/Kconfig", "config A\n# words\n", TouchKind.BUILD),
        ("xen/common/Makefile", "obj-y += version.o\n\t\n", TouchKind.BUILD),
        ("Config.mk", "A=2\n", TouchKind.BUILD),
        ("xen/include/xlat.lst", "! a\n", TouchKind.GENERATED_INPUT),
        ("xen/arch/x86/x86_64/asm-offsets.c", "int b;\n", TouchKind.GENERATED_INPUT),
        ("xen/arch/x86/x86_64/asm-offsets.c", "int a; /* b */\n", TouchKind.COMMENTS),
        (CPU_FEATURES, "/*A*/ int a;\n", TouchKind.GENERATED_INPUT),
        ("xen/test/livepatch/a.c", "int b;\n", TouchKind.OUTSIDE),
        ("docs/a.txt", "b\n", TouchKind.OUTSIDE),
    ],
)
def test_what_is_touched_is_classified(
    tree: Path, tmp_path: Path, path: str, new: str, kind: TouchKind
) -> None:
    text = diff((tree / path).read_text(), new, path)
    (touched,) = read_patch_set([write(tmp_path, text)], source_root=tree).touched
    assert (touched.path, touched.kind) == (path, kind)


def test_white_space_inside_a_string_is_no_comment(tree: Path, tmp_path: Path) -> None:
    (tree / "xen/common/a.c").write_text('const char *a = "x y";\n')
    text = diff('const char *a = "x y";\n', 'const char *a = "x  y";\n', "xen/common/a.c")
    (touched,) = read_patch_set([write(tmp_path, text)], source_root=tree).touched
    assert touched.kind is TouchKind.C


@pytest.mark.parametrize("name", ["a.S", "a.h", "a.c"])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("mov 1, a # one\nmov 2, b\n", "mov 1, a # one mov 2, b\n"),  # what gas takes no more
        ("mov 1, a @ one\nmov 2, b\n", "mov 1, a @ one mov 2, b\n"),
        ("ret # don't /* one\nnop /* two */\n", "ret # don't /* one\n/* two */\n"),
        ('.ascii "a\n  b"\n', '.ascii "a\n b"\n'),  # gas goes on in a text
        ("cmp $' , b\n", "cmp $'  , b\n"),
        (".macro m\nn\n.endm\n", ".macro m n\n.endm\n"),
        ("a # one\n", "a # two\n"),
        ("int a;\n#define B\n", "int a; #define B\n"),
        ("#define B\nint a;\n", "#define B int a;\n"),
        ("%:define B\nint a;\n", "%:define B int a;\n"),
        ("#include <a//b.h>\n", "#include <a//c.h>\n"),
        ("// one \\ \nint a;\n", "// one\nint a;\n"),  # gcc takes that for one line
        ('char *a = R"(\n//1\n)";\n', 'char *a = R"(\n//2\n)";\n'),
        ('char *a = "x\ty";\n', 'char *a = "x y";\n'),
        ('char *a = "x\fy";\n', 'char *a = "x y";\n'),
        ("a /* one\n two */ b\n", "a /* one */\n/* two */ b\n"),
    ],
)
def test_what_lines_mean_is_no_comment(name: str, old: str, new: str) -> None:
    assert kind_of(f"xen/common/{name}", old, new) is not TouchKind.COMMENTS


@pytest.mark.parametrize("name", ["a.S", "a.h", "a.c"])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("mov 1, a # one\nmov 2, b\n", "  mov  1, a # one\n\n/* x\n */\nmov 2, b // y\n"),
        ("mov 1, a # one /* two\n */\nmov 2, b\n", "mov 1, a # one\nmov 2, b\n"),
        ("#define A 1; \\\n  2\n", "#define A 1; 2 /* three\n */\n"),
        ("ret # don't\nnop\n", "ret # don't\nnop /* isn't */\n"),
        ("nop // one \\\n two\n", "nop\n"),
        ('.ascii "a  //" # "b"\n', '  .ascii "a  //" # "b" // "c\n'),
        ("nop\r\nret\r\n", "nop\n\nret\n"),
        ("#include <a/b.h>\n", "#include <a/b.h> /* c */ // d\n"),
    ],
)
def test_what_the_preprocessor_takes_away_is_a_comment(name: str, old: str, new: str) -> None:
    assert kind_of(f"xen/common/{name}", old, new) is TouchKind.COMMENTS


def kind_of(path: str, old: str, new: str) -> TouchKind:
    """Return what a change of one file is taken for."""
    touched = classify(path, old.encode(), new.encode())
    assert touched is not None
    return touched.kind


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ("# one\nconfig A\n", "# two\n# three\n\nconfig A\n", TouchKind.COMMENTS),
        ("\thelp\n\t  a\n\t  select B\n", "\thelp\n\t  a\n# b\n\t  select B\n", TouchKind.BUILD),
        ("# one\nconfig A\n", "config A\n", TouchKind.BUILD),
    ],
)
def test_a_comment_ends_the_help_of_kconfig(old: str, new: str, kind: TouchKind) -> None:
    """What stands behind it is text no more."""
    assert kind_of("xen/common/Kconfig", old, new) is kind


def test_a_series_is_applied_in_its_order(tree: Path, tmp_path: Path) -> None:
    folder = tmp_path / "queue" / "patches"
    folder.mkdir(parents=True)
    second = CHANGED_C.replace("hello", "hello again")
    write(folder, diff(CHANGED_C, second, "xen/common/version.c"), "a.patch")
    write(folder, diff(VERSION_C, CHANGED_C, "common/version.c"), "b.patch")
    (folder / "series").write_text("# first\nb.patch -p1\n\na.patch # then\n")
    for given in (folder / "series", folder, folder.parent):
        patch_set = read_patch_set([given], source_root=tree)
        assert [patch.name for patch in patch_set.patches] == ["b.patch", "a.patch"]
        assert patched_files(patch_set, tree)["xen/common/version.c"] == second.encode()
        assert patch_set.name == "queue"


def test_a_series_with_an_unknown_option_is_refused(tree: Path, tmp_path: Path) -> None:
    write(tmp_path, diff(VERSION_C, CHANGED_C, "xen/common/version.c"))
    (tmp_path / "series").write_text("fix.patch -R\n")
    with pytest.raises(PatchError, match=r"fix.patch: the option -R is not supported"):
        read_patch_set([tmp_path / "series"], source_root=tree)


def test_git_can_add_delete_and_rename(tree: Path, tmp_path: Path) -> None:
    """The oracle is git itself: its diff, applied by us, gives its own working tree."""
    git = shutil.which("git")
    assert git is not None

    def run(*words: str) -> str:
        options = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "core.autocrlf=false"]
        done = subprocess.run(
            [git, *options, *words], cwd=tree, check=True, capture_output=True, text=True
        )
        return done.stdout

    run("init", "-q")
    run("add", "-A")
    run("commit", "-qm", "a")
    (tree / "xen/common/new.c").write_text("int new;\n")
    (tree / "xen/common/empty.c").write_text("")
    (tree / "xen/common/Kconfig").unlink()
    (tree / "xen/common/version.c").rename(tree / "xen/common/release.c")
    (tree / "xen/common/Makefile").write_text("obj-y += release.o")
    run("add", "-A")
    text = run("diff", "--cached", "-M")
    run("reset", "-q", "--hard")
    patch_set = read_patch_set([write(tmp_path, text)], source_root=tree)
    files = patched_files(patch_set, tree)
    assert files == {
        "xen/common/Kconfig": None,
        "xen/common/Makefile": b"obj-y += release.o",
        "xen/common/empty.c": b"",
        "xen/common/new.c": b"int new;\n",
        "xen/common/release.c": VERSION_C.encode(),
        "xen/common/version.c": None,
    }
    flags = {file.path: (file.is_added, file.is_removed) for file in patch_set.touched}
    assert flags["xen/common/new.c"] == (True, False)
    assert flags["xen/common/Kconfig"] == (False, True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the patch is empty"),
        ("just words\n", "not a patch"),
        ("diff --git a/x b/x\nindex 1..2\nGIT binary patch\nliteral 1\n", "binary change"),
        ("Binary files a/x and b/x differ\n", "binary change"),
        ("--- a/x\n+++ b/x\n", "without a hunk"),
        ("--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n a\n", "hunk 1 ends early"),
        ("@@ -1 +1 @@\n-a\n+b\n", "hunk without a file header"),
        ("--- a/../../x\n+++ b/../../x\n@@ -0,0 +1 @@\n+b\n", "leads out of the tree"),
        ("--- a/x\n+++ /etc/x\n@@ -1 +1 @@\n-a\n+b\n", "leads out of the tree|no such file"),
        ("--- a/xen/none.c\n+++ b/xen/none.c\n@@ -1 +1 @@\n-a\n+b\n", "no such file"),
        (
            "--- /dev/null\n+++ b/xen/common/version.c\n@@ -0,0 +1 @@\n+b\n",
            "the tree has it already",
        ),
        ('--- "a/x\\303"\n+++ "b/x\\303"\n@@ -1 +1 @@\n-a\n+b\n', "quoted file name"),
    ],
)
def test_what_is_no_good_patch_is_refused(
    tree: Path, tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(PatchError, match=message):
        read_patch_set([write(tmp_path, text)], source_root=tree)


def test_a_link_does_not_lead_out_of_the_tree(tree: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.c"
    outside.write_text("int a;\n")
    (tree / "xen/common/outside.c").symlink_to(outside)
    text = diff("int a;\n", "int b;\n", "xen/common/outside.c")
    with pytest.raises(PatchError, match="leads out of the tree"):
        read_patch_set([write(tmp_path, text)], source_root=tree)


def test_a_patch_that_is_undone_by_the_next_touches_nothing(tree: Path, tmp_path: Path) -> None:
    there = write(tmp_path, diff(VERSION_C, CHANGED_C, "xen/common/version.c"), "a.patch")
    back = write(tmp_path, diff(CHANGED_C, VERSION_C, "xen/common/version.c"), "b.patch")
    assert read_patch_set([there, back], source_root=tree).touched == ()
    # If the first one is applied already, the second one changes something.
    (touched,) = read_patch_set([there, back], source_root=tree, is_stacked=True).touched
    assert (touched.path, touched.kind) == ("xen/common/version.c", TouchKind.C)


def test_a_change_of_modes_alone_touches_nothing(tree: Path, tmp_path: Path) -> None:
    name = "xen/common/version.c"
    text = f"diff --git a/{name} b/{name}\nold mode 100644\nnew mode 100755\n"
    patch_set = read_patch_set([write(tmp_path, text)], source_root=tree)
    assert patch_set.touched == ()
    assert patched_files(patch_set, tree) == {name: VERSION_C.encode()}
