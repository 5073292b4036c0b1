# SPDX-License-Identifier: Apache-2.0
"""Projects that SCons builds: the fix is made of all that the patch changes, as it is today."""

from __future__ import annotations

import os
import subprocess
from difflib import unified_diff
from pathlib import Path

import pytest

from tests.kit.native import BOTH, FILES, FIX, FLAT, HEAD, IN_SRC, LINK, ONE, Project

pytestmark = [pytest.mark.scons, pytest.mark.toolchain]

VARIANT = HEAD + 'image = SConscript("src/SConscript", variant_dir="out"%s, exports="env")\n'
SCRIPT = 'Import("env")\nobjects = [env.Object(name) for name in ("one.c", "two.c")]\n' + LINK


@pytest.mark.parametrize(
    ("sconstruct", "script", "strip"),
    [
        (VARIANT % "" + FIX % ', source_root=Dir("src")', SCRIPT + 'Return("image")\n', "src/"),
        (VARIANT % "" + FIX % "", SCRIPT + 'Return("image")\n', ""),
        (VARIANT % ", duplicate=0" + FIX % "", SCRIPT + 'Return("image")\n', ""),
        (VARIANT % "", SCRIPT + FIX % "" + 'Return("image")\n', "src/"),
        (HEAD + 'SConscript("src/SConscript", exports="env")\n', SCRIPT + FIX % "", "src/"),
    ],
    ids=["duplicates", "from the top", "no duplicates", "called inside", "subfolder"],
)
def test_a_patch_reaches_the_sources_that_scons_compiles(
    sconstruct: str, script: str, strip: str, tmp_path: Path
) -> None:
    project = Project(tmp_path, sconstruct, **{"src/SConscript": script})
    project.patch({**BOTH, "src/h.h": ("FACTOR 3", "FACTOR 8")}, strip)
    project.run()
    assert project.functions() >= {"one", "two"}
    copy = tmp_path / "build/fix/copy"
    assert "FACTOR 8" in (copy / "src/h.h").read_text()
    if 'variant_dir="out",' in sconstruct and "duplicate" not in sconstruct:
        assert "FACTOR 8" in (copy / "out/h.h").read_text()
        assert "FACTOR 3" in (tmp_path / "build/fix/plain/out/h.h").read_text()


GENERATED = (
    'env.Command("src/made.h", "src/limits.in", "cp $SOURCE $TARGET")\n'
    'env.Command("notes.o", ["src/notes.txt"], "touch $TARGET")\n'
)


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("src/limits.in", 4, "src/made.h is made of it as well"),
        ("link.lds", 4, "xen-syms is made of it as well"),
        ("SConstruct", 4, "how the project is built"),
        ("src/table.inc", 5, "no object of the image reads it"),
        ("README.md", 5, ""),
        ("src/notes.txt", 5, "no object of the image reads it"),
    ],
)
def test_what_else_a_patch_changes_is_refused_or_not_checked(
    path: str, status: int, said: str, tmp_path: Path
) -> None:
    text = HEAD + GENERATED + IN_SRC + LINK + 'env.Depends(image, "link.lds")\n' + FIX % ""
    others = dict.fromkeys(
        ("src/limits.in", "link.lds", "src/table.inc", "src/notes.txt"), "// 1\n"
    )
    project = Project(tmp_path, text, **others, **{"README.md": "// 1\n"})
    project.write("src/one.c", '#include "made.h"\n' + FILES["src/one.c"])
    edit = ("-O2", "-O1") if path == "SConstruct" else ("1", "2")
    project.patch({**ONE, path: edit})
    run = project.run("xsplice-verify", status=status)  # 5: this image has no build-id to find
    assert said in run.text
    assert ("no object of the image reads it" in run.text) == ("no object" in said)


def test_a_file_that_only_the_flags_name_counts_as_read(tmp_path: Path) -> None:
    text = FLAT.replace('"-O2"', '"-O2", "-include", "src/table.inc"')
    project = Project(tmp_path, text, **{"src/table.inc": "#define TABLE 1\n"})
    project.write("src/one.c", FILES["src/one.c"].replace("FACTOR", "TABLE"))
    project.patch({"src/table.inc": ("TABLE 1", "TABLE 2")})
    run = project.run("xsplice-verify", status=5)
    assert "complete   held" in run.text
    assert "no object of the image reads it" not in run.text
    assert "one" in project.functions()


def test_a_build_folder_that_outlives_changes_gives_what_a_fresh_one_does(tmp_path: Path) -> None:
    sconstruct = HEAD + 'mine = env.Clone(CPPPATH=["new", "include"])\n'
    sconstruct += IN_SRC.replace("env.", "mine.") + LINK + FIX % ", objects=objects"
    header = "#define FACTOR 3\n"
    files = {
        "src/one.c": FILES["src/one.c"].replace("h.h", "g.h"),
        "include/g.h": header + "#define ADDED 1\n",
        "bin/gcc": '#!/bin/sh\nexec /usr/bin/gcc "$@"\n',
    }
    project = Project(tmp_path, sconstruct, **files)
    (tmp_path / "bin/gcc").chmod(0o755)
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    project.patch({"src/one.c": ("a * FACTOR", "a * FACTOR + ADDED")})
    project.run(PATH=path)
    again = project.run(PATH=path)
    assert "CC" not in again.out, "nothing has changed"
    changes = {
        "include/g.h": header + "#define ADDED 21\n",  # in the environment of the objects
        "new/g.h": header + "#define ADDED 31\n",  # stands before the other
        "bin/gcc": '#!/bin/sh\nexec /usr/bin/gcc "$@" -O1 -fno-ipa-icf\n',
    }
    seen = {project.payload}
    for changed, text in changes.items():
        project.write(changed, text)
        if changed == "bin/gcc":
            project.patch({"src/one.c": ("a * FACTOR", "a % (FACTOR + ADDED)")})
        project.run(PATH=path)
        outlived = project.payload
        subprocess.run(["rm", "-r", tmp_path / "build"], check=True)
        project.run(PATH=path)
        assert project.payload == outlived, changed
        seen.add(outlived)
    assert len(seen) == 4


def test_a_header_that_scons_does_not_see_change_is_noticed(tmp_path: Path) -> None:
    """SCons keeps its old object; the payload must not be compiled with what that never had."""
    project = Project(tmp_path, FLAT.replace('"-O2"', '"-O2", "-Iinclude"'))
    project.write("src/one.c", FILES["src/one.c"].replace("h.h", "g.h"))
    project.write("include/g.h", "#define FACTOR 3\n")
    project.patch(ONE)
    project.run()
    project.write("include/g.h", "#define FACTOR 11\n")
    project.patch({"src/one.c": ("a * FACTOR", "a * FACTOR + 6")})
    assert "it is not the tree's object" in project.run(status=2).text


def test_a_path_to_the_unpatched_file_is_refused(tmp_path: Path) -> None:
    way = tmp_path / "way"
    text = FLAT.replace('"-O2"', f'"-O2", "-I{way}/src"').replace("src/one.c", "other/one.c")
    project = Project(tmp_path / "project", text)
    way.symlink_to(tmp_path / "project")
    project.write("other/one.c", FILES["src/one.c"])
    project.patch({"src/h.h": ("FACTOR 3", "FACTOR 8")})
    assert "leads out of the private copy" in project.run(status=2).text
    project.write("SConstruct", text.replace(str(way), str(tmp_path / "project")))
    project.run()
    assert project.functions() == {"one"}


def test_generated_headers_are_there_before_anything_is_compiled(tmp_path: Path) -> None:
    make = 'env.Command("src/made.h", [], "sleep 0.3; echo \'#define MADE 4\' > $TARGET")\n'
    project = Project(tmp_path, HEAD + make + IN_SRC + LINK + FIX % "")
    project.write("src/one.c", '#include "made.h"\n' + FILES["src/one.c"])
    project.patch({"src/one.c": ("a * FACTOR", "a * FACTOR + MADE")})
    project.run("-j4", "xsplice")
    assert project.functions() == {"one"}


AS_TEXT = FIX.replace("image=image", "image=%r")


@pytest.mark.parametrize(
    ("image", "more"),
    [
        ("xen-syms", ""),
        ("#xen-syms", ', source_root="#"'),
        ("$NAME", ', source_root=".", objects=["src/one.o", "src/two.o"]'),
        ("xen-syms", ', objects="src/one.o"'),
    ],
)
def test_files_and_folders_may_be_texts(image: str, more: str, tmp_path: Path) -> None:
    sconstruct = HEAD + 'env["NAME"] = "xen-syms"\n' + IN_SRC + LINK + AS_TEXT % (image, more)
    project = Project(tmp_path, sconstruct)
    project.patch(ONE)
    project.run()
    assert project.functions() == {"one"}


@pytest.mark.parametrize(
    ("fix", "said"),
    [
        (FIX.replace("image=image", 'image=env.Alias("all", image)') % "", "image=all: no file"),
        (AS_TEXT % ([], ""), "image=nothing: no file"),
        (FIX % ', objects=[env.Value("one.o")]', "objects=one.o: no file"),
        (FIX % ', source_root="nowhere"', "source_root=nowhere: no such folder"),
        (FIX % ', source_root="SConstruct"', "source_root=SConstruct: no such folder"),
        (FIX % ', source_root=".."', "lies outside of the project"),
        (AS_TEXT % ("xen", ""), "Source `xen' not found"),
    ],
)
def test_what_is_no_file_or_folder_is_refused(fix: str, said: str, tmp_path: Path) -> None:
    project = Project(tmp_path, HEAD + IN_SRC + LINK + fix)
    project.patch(ONE)
    text = project.run(status=2).text
    assert said in text, text
    assert "Traceback" not in text


LATE = """env.Command("gen/late.h", [], "echo '#define LATE 7' > $TARGET")\n"""
CONFIGURE = """
conf = Configure(env, config_h="gen/late.h")
conf.Define("LATE", 7)
env = conf.Finish()
"""
WRITTEN = 'os.makedirs("gen", exist_ok=True)\nopen("gen/late.h", "w").write("#define LATE 7")\n'


@pytest.mark.parametrize(
    ("before", "after", "files"),
    [
        ("", LATE, {}),
        ("", LATE, {"old/late.h": "#define LATE 6\n"}),
        (CONFIGURE, "", {}),
        ("", WRITTEN, {}),
    ],
    ids=["command", "in front of another", "configure", "written by the script"],
)
def test_what_scripts_generate_later_is_found_as_if_there_was_no_fix(
    before: str, after: str, files: dict[str, str], tmp_path: Path
) -> None:
    two = '#include "late.h"\n' + FILES["src/two.c"].replace("a * 7", "a * LATE")
    text = HEAD + before + 'env.Append(CPPPATH=["gen", "old"])\n' + IN_SRC + LINK
    project = Project(tmp_path, text + FIX % "" + after, **{"src/two.c": two, **files})
    project.patch(BOTH | {"src/two.c": ("a * LATE", "a * 9 * LATE")})
    assert "-o src/two.o" in project.run("-j2", "xen-syms").text
    assert "-o src/two.o" not in project.run("xen-syms").text
    project.run()
    assert project.functions() == {"one", "two"}
    if after == LATE:
        project.write("SConstruct", text + FIX % "" + after.replace("7", "5"))
        assert "-o src/two.o" in project.run("xen-syms").text


def test_a_header_that_nobody_makes_is_the_compilers_error(tmp_path: Path) -> None:
    project = Project(tmp_path, FLAT, **{"src/two.c": '#include "late.h"\n'})
    project.patch(ONE)
    assert "late.h: No such file" in project.run("xen-syms", status=2).text


def test_two_fixes_of_one_name_are_refused(tmp_path: Path) -> None:
    project = Project(tmp_path, FLAT + FIX % "")
    project.patch(ONE)
    assert "another fix of this project is built in" in project.run(status=2).text
    project.write("SConstruct", FLAT + (FIX % "").replace('"fix"', '"other"'))
    project.run()
    assert project.functions() == project.functions("other") == {"one"}


def test_a_fix_on_a_payload_of_the_same_run_asks_for_another_run(tmp_path: Path) -> None:
    upper = (
        'env.Clone(DEPENDS="build/fix/fix.livepatch").Xsplice("upper",'
        ' ["#fix.patch", "#upper.patch"], image=image, release="4.17.5")\n'
    )
    project = Project(tmp_path, FLAT + upper)
    project.patch(ONE)
    project.patch({"src/two.c": ("a * 7", "a * 9")}, name="upper.patch")
    assert "run again" in project.run("-k", "xsplice", status=2).text
    assert project.functions() == {"one"}
    project.run()
    assert project.functions("upper") == {"two"}
    project.patch({"src/one.c": ("a * FACTOR", "a * FACTOR + 9")})
    assert "run again" in project.run("-k", "xsplice", status=4).text
    assert not list((tmp_path / "build/upper").glob("*.livepatch"))
    project.run()
    assert project.functions("upper") == {"two"}


@pytest.mark.parametrize(
    "flags",
    ['"--include", "src/hidden.h"', '"@flags.rsp"', '"-Wp,-include,src/hidden.h"'],
)
def test_who_reads_a_header_is_what_the_compiler_says(flags: str, tmp_path: Path) -> None:
    """SCons' scanner does not see the second reader, whichever way it reads."""
    files = {
        "src/hidden.h": "#define HIDDEN 1\n",
        "flags.rsp": "-include src/hidden.h\n",
        "src/one.c": FILES["src/one.c"].replace('"h.h"', '"h.h"\n#include "hidden.h"'),
    }
    files["src/one.c"] = files["src/one.c"].replace("FACTOR", "HIDDEN")
    two = FILES["src/two.c"].replace("a * 7", "a * HIDDEN")
    text = FLAT.replace('"-O2"', f'"-O2", {flags}')
    project = Project(tmp_path, text, **files, **{"src/two.c": two})
    project.patch({"src/hidden.h": ("HIDDEN 1", "HIDDEN 2")})
    project.run()
    assert project.functions() >= {"one", "two"}


@pytest.mark.parametrize(
    ("other", "status"),
    [
        ('env.Clone().Object("src/two.c")', 4),
        ('env.Command("src/two.o", "src/two.c", "$CC $CCFLAGS -c -o $TARGET $SOURCE")', 4),
    ],
)
def test_an_object_that_may_read_a_header_is_named_or_refused(
    other: str, status: int, tmp_path: Path
) -> None:
    text = HEAD + f'objects = [env.Object("src/one.c"), {other}]\n' + LINK
    chosen = FIX % ", objects=objects[:1]"
    project = Project(tmp_path, text + chosen)
    project.patch({"src/h.h": ("FACTOR 3", "FACTOR 8")})
    assert "src/two.o" in project.run(status=status).text
    project.write("README.md", "one\n")
    for more in ({}, {"README.md": ("one", "two")}):  # no header: the other object is as it was
        project.patch({**ONE, **more})
        project.run()
        assert project.functions() >= {"one"}


def test_what_a_new_include_reads_is_looked_at_again(tmp_path: Path) -> None:
    project = Project(tmp_path, FLAT, **{"src/more.h": "#define MORE 11\n"})
    old = FILES["src/one.c"]
    new = old.replace('"h.h"\n', '"h.h"\n#include "more.h"\n').replace("FACTOR", "(FACTOR + MORE)")
    lines = [text.splitlines(keepends=True) for text in (old, new)]
    project.write("fix.patch", "".join(unified_diff(*lines, "a/src/one.c", "b/src/one.c")))
    project.run()
    before = project.payload
    project.write("src/more.h", "#define MORE 22\n")
    project.run()
    assert project.payload != before
