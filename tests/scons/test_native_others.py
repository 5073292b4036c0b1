# SPDX-License-Identifier: Apache-2.0
"""Projects that SCons builds: what else the image is made of is asked what it reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit.native import FILES, FIX, IN_SRC, LINK_WHOLE, ONE, SCRIPT, WHOLE, Project, whole

pytestmark = [pytest.mark.scons, pytest.mark.toolchain]

FACTOR = {"src/h.h": ("FACTOR 3", "FACTOR 9")}
GENERATED = (
    'env.Command("src/gen.h", [], """echo \'#include "h.h"\' > $TARGET""")\n'
    'env.Command("src/version.h", [], """echo "#define DAY \\\\"$$(date +%Y)\\\\"" > $TARGET""")\n'
)
TWO = '#include "gen.h"\nint two(int a) { return (a ^ 0x54321) + a * FACTOR * 7; }\n'
ASSEMBLER = '#include "gen.h"\n.text\n.globl two\n.type two,@function\ntwo: mov $FACTOR,%eax\nret\n'
ASSEMBLER += "nop;nop;nop;nop\n.size two,.-two\n"


def objects(*names: str, kind: str = "Object") -> str:
    return f"objects = [env.{kind}(name) for name in {('src/one.c', *names)}]\n"


@pytest.mark.parametrize(
    ("made", "files", "status"),
    [
        (objects("src/two.c"), {"src/two.c": TWO}, 0),
        (objects("src/two.cc"), {"src/two.cc": TWO.replace("int two", 'extern "C" int two')}, 0),
        (objects("src/two.c", kind="SharedObject"), {"src/two.c": TWO}, 0),
        ('env["OBJSUFFIX"] = ".obj"\n' + objects("src/two.c"), {"src/two.c": TWO}, 0),
        ('env["OBJSUFFIX"] = ".bin"\n' + objects("src/two.c"), {"src/two.c": TWO}, 0),
        (objects("src/two.S"), {"src/two.S": ASSEMBLER}, 4),
    ],
    ids=["c", "c++", "shared", "obj", "any suffix", "assembler"],
)
def test_the_first_run_compiles_what_reads_a_header_through_a_generated_one(
    made: str, files: dict[str, str], status: int, tmp_path: Path
) -> None:
    """In a clean folder SCons sees nothing of it; the second run must say the same."""
    project = whole(tmp_path, GENERATED + made, **files)
    project.patch(FACTOR)
    for _ in range(2):
        run = project.run("xsplice-verify", status=status)
        assert ("[ASSEMBLER]" in run.text) == (status == 4)
    if not status:
        assert "PROVED" in run.out
        assert project.functions() == {"one", "two"}


def test_assembler_that_includes_the_next_file_of_a_name_is_compiled(tmp_path: Path) -> None:
    files = {
        "inc1/c.h": "#include_next <c.h>\n",
        "inc2/c.h": "#define FACTOR 3\n",
        "src/one.c": FILES["src/one.c"].replace('"h.h"', '"../inc2/c.h"'),
        "src/two.S": ASSEMBLER.replace('"gen.h"', "<c.h>"),
    }
    made = 'env.Append(CPPPATH=["inc1", "inc2"])\n' + objects("src/two.S")
    project = whole(tmp_path, made, **files)
    project.patch({"inc2/c.h": ("FACTOR 3", "FACTOR 9")})
    assert "[ASSEMBLER]" in project.run(status=4).text


OFFSETS = 'env.Command("src/gen.h", "src/offs.in", "%s")\n'
OFFSETS_IN = '#include "%s"\nvoid f(void) { asm("\\n#D #define FACTOR %%c0" :: "i"(%s)); }\n'
WITH_COMPILER = (
    "$CC $CCFLAGS -xc -Isrc -S -o src/offs.s $SOURCE && sed -n 's/^#D //p' src/offs.s > $TARGET"
)


@pytest.mark.parametrize(
    ("command", "include", "status"),
    [
        (WITH_COMPILER, "h.h", 4),
        ("cd src && $CC -E -P -xc -I. offs.in | sed /f/d > gen.h", "h.h", 4),
        ("cpp -P -Isrc $SOURCE | sed /f/d > $TARGET", "h.h", 4),
        ("CPATH=src $CC -E -P -xc $SOURCE 2>/dev/null | sed /f/d > $TARGET", "h.h", 4),
        ("$CC -E -P -xc -Isrc - < $SOURCE | sed /f/d > $TARGET", "h.h", 4),
        ("cat $SOURCE | $CC -E -P -xc -Isrc - | sed /f/d > $TARGET", "h.h", 5),
        ("sh make.sh > $TARGET", "h.h", 5),
        ("$CC -E -dD -xc - < src/h.h | sed s/FACTOR/G/ > $TARGET", "other.h", 4),
        ("$CC -E -P -xc - < src/other.h > $TARGET", "h.h", 0),
        (WITH_COMPILER.replace("-Isrc", "-Isrc -DX=FACTOR"), "h.h", 4),
        (WITH_COMPILER, "other.h", 0),
        ("cpp -P -Isrc $SOURCE | sed /f/d > $TARGET", "other.h", 0),
    ],
)
def test_what_is_generated_with_a_compiler_is_asked_what_it_reads(
    command: str, include: str, status: int, tmp_path: Path
) -> None:
    name = {"h.h": "FACTOR"}.get(include, "1")
    files = {
        "src/offs.in": OFFSETS_IN % (include, name),
        "src/other.h": "",
        "make.sh": "echo '#define G 3'; gcc -E -P -xc -Isrc src/offs.in > /dev/null\n",
        "src/two.c": '#include "gen.h"\n#include "h.h"\n' + FILES["src/two.c"],
    }
    project = whole(tmp_path, OFFSETS % command + IN_SRC, **files)
    project.patch(FACTOR)
    run = project.run("xsplice-verify", status=status)
    assert ("so says its compiler" in run.text) == (status == 4), run.text
    assert ("src/gen.h is not compiled for the fix" in run.text) == (status == 5), run.text


PREPROCESS = "$CC -E -P -xc -Isrc -o $TARGET $SOURCE"
USING = "\n. = ASSERT(FACTOR, one);\n"


@pytest.mark.parametrize(
    ("include", "command", "status"),
    [
        ('"other.h"', PREPROCESS, 0),
        ('"h.h"', PREPROCESS, 0),
        ('"h.h"', "cd . && cpp -Isrc -w $SOURCE | sed /^#/d > $TARGET", 0),
        ('"h.h"' + USING, PREPROCESS, 4),
        ('"h.h"' + USING, "cpp -P -Isrc $SOURCE > $TARGET", 4),
        ('"h.h"', PREPROCESS.replace("-Isrc", "-I%s"), 4),
    ],
    ids=["other", "unused", "cpp", "used", "cpp used", "absolute"],
)
@pytest.mark.parametrize("path", ["", 'env.Append(CPPPATH=["src"])\n'])
def test_a_preprocessed_linker_script_counts_where_it_comes_out_otherwise(
    include: str, command: str, status: int, path: str, tmp_path: Path
) -> None:
    """An absolute folder leads to the header before the patch, so nobody can tell."""
    command = command % (tmp_path / "src") if "%s" in command else command
    made = f'env.Command("link.lds", "xen.lds.S", "{command}")\n{path}'
    files = {"xen.lds.S": f"#include {include}\n" + SCRIPT, "src/other.h": ""}
    text = WHOLE + made + IN_SRC + LINK_WHOLE + FIX % ""
    project = Project(tmp_path, text, **files)
    project.patch(FACTOR)
    run = project.run("xsplice-verify", status=status)
    assert ("link.lds is made of it as well" in run.text) == (status == 4)
    assert ("PROVED: fix" in run.out) == (not status)


ADDED = "--- /dev/null\n+++ b/one/c.h\n@@ -0,0 +1,1 @@\n+#define FACTOR %d\n"


@pytest.mark.parametrize(("value", "status"), [(9, 4), (3, 0)])
def test_a_header_that_is_new_and_found_before_another_is_read(
    value: int, status: int, tmp_path: Path
) -> None:
    command = PREPROCESS.replace("-Isrc", "-Ione -Itwo")
    made = f'env.Command("link.lds", "xen.lds.S", "{command}")\nenv.Append(CPPPATH=["one"])\n'
    files = {"xen.lds.S": "#include <c.h>" + USING + SCRIPT, "two/c.h": "#define FACTOR 3\n"}
    text = WHOLE + made + IN_SRC + LINK_WHOLE + FIX % ""
    project = Project(tmp_path, text, **files, **{"one/d.h": ""})
    project.patch({"src/one.c": ("a * FACTOR", "a * FACTOR + 5\n#include <c.h>\n")})
    project.write("fix.patch", ADDED % value + (tmp_path / "fix.patch").read_text())
    run = project.run("xsplice-verify", status=status)
    assert ("link.lds is made of it as well" in run.text) == (status == 4)


FUNCTION = """
def make(target, source, env):
    %s
    open(str(target[0]), "w").write("#define G 3" + chr(10))
env.Command("src/gen.h", [], make)
"""
LIST = 'open("src/gen.h", "w").write("#define G %d\\n" % len(open("src/h" + ".h").read()))\n'
SCRIPTED = 'env.Command("src/gen.h", "gen.py", "python3 $SOURCE")\n'


@pytest.mark.parametrize(
    ("made", "script", "said"),
    [
        (SCRIPTED, LIST, "gen.py names files with .h"),
        (SCRIPTED, LIST.replace('h" + ".h', "h.h"), "gen.py names h.h"),
        (SCRIPTED, "import helper\n", "helper.py names h.h"),
        (SCRIPTED, 'open("src/gen.h", "w").write(\'#include "h.h"\\n\')\n', ""),
        (SCRIPTED, 'open("src/gen.h", "w").write("#define G 3\\n")\n', ""),
        (FUNCTION % 'open("src/h.h").read()', "", "the Python function make names h.h"),
        (FUNCTION % "pass", "", ""),
        ('env.Command("src/gen.h", [], "cat src/*.h | wc -l > $TARGET")\n', "", "its command"),
        ('env.Command("src/gen.h", [], "make -s gen > $TARGET")\n', "", "what `make` reads"),
        ('env.Textfile("src/gen.h", ["#define G 3"])\n', "", ""),
    ],
)
def test_a_script_that_may_read_a_header_is_not_proved(
    made: str, script: str, said: str, tmp_path: Path
) -> None:
    helper = LIST.replace('h" + ".h', "h.h")
    files = {
        "gen.py": script,
        "helper.py": helper,
        "Makefile": "gen:\n\techo '#define G 3'\n",
        "src/two.c": '#include "gen.h"\n' + FILES["src/two.c"],
    }
    text = 'env.Tool("textfile")\n' + made
    if "src/*.h" in made:
        text = made.replace("gen.h", "gen.inc")
        files["src/two.c"] = (
            files["src/two.c"]
            .replace("gen.h", "gen.inc")
            .replace('#include "gen.inc"\n', '#if 0\n#include "gen.inc"\n#endif\n')
        )
    project = whole(tmp_path, text + IN_SRC, **files)
    project.patch(FACTOR)
    run = project.run("xsplice-verify", status=5 if said else 0)
    assert said in run.text
    assert ("src/gen." in run.text and "is not compiled for the fix" in run.text) == bool(said)


@pytest.mark.parametrize(
    ("include", "opened", "status", "said"),
    [
        ("other.h", "src/other.h", 0, "PROVED"),
        ("other.h", "src/h.h", 5, "tool names h.h"),
        ("h.h", "src/other.h", 4, "tools/tool.o is made of it as well"),
    ],
)
def test_a_tool_of_the_project_is_asked_what_it_reads(
    include: str, opened: str, status: int, said: str, tmp_path: Path
) -> None:
    tool = f'#include "../src/{include}"\n#include <stdio.h>\n'
    tool += f'int main(void) {{ return puts("#define G 3") < 0 || !fopen("{opened}", "r"); }}\n'
    made = 'tool = env.Clone(CCFLAGS=["-g"]).Program("tools/tool", ["tools/tool.c"])\n'
    made += 'env.Command("src/gen.h", tool, "$SOURCE > $TARGET")\n'
    two = '#include "gen.h"\n' + FILES["src/two.c"]
    files = {"tools/tool.c": tool, "src/other.h": "", "src/two.c": two}
    project = whole(tmp_path, made + IN_SRC, **files)
    project.patch(FACTOR)
    assert said in project.run("xsplice-verify", status=status).text


@pytest.mark.parametrize(("reader", "status"), [("cat NOTES.md", 5), ("echo 3", 0)])
def test_prose_that_a_command_reads_is_not_proved(reader: str, status: int, tmp_path: Path) -> None:
    made = f'env.Command("src/gen.h", [], "echo // $$({reader}) > $TARGET")\n'
    files = {"NOTES.md": "one\n", "src/two.c": '#include "gen.h"\n' + FILES["src/two.c"]}
    project = whole(tmp_path, made + IN_SRC, **files)
    project.patch({**ONE, "NOTES.md": ("one", "two")})
    run = project.run("xsplice-verify", status=status)
    assert ("its command names NOTES.md" in run.text) == (status == 5)


@pytest.mark.parametrize(
    ("other", "replaced"),
    [
        ('env.Program("hosttool", ["tools/tool.c"])\n', {"one"}),
        ('env.Library("host", ["tools/tool.c"])\n', {"one"}),
        ('objects += env.Object("tools/tool.c")\n', {"one", "tool"}),
    ],
)
def test_objects_that_are_not_of_the_image_do_not_count(
    other: str, replaced: set[str], tmp_path: Path
) -> None:
    tool = '#include "../src/h.h"\nint tool(void) { return FACTOR; }\n'
    tool += "int main(void) { return 0; }\n"
    project = whole(tmp_path, IN_SRC + other, **{"tools/tool.c": tool})
    project.patch(FACTOR)
    project.run("xsplice-verify")
    assert project.functions() == replaced


def test_objects_of_a_clone_and_of_an_archive_are_of_the_image(tmp_path: Path) -> None:
    made = 'objects = [env.Clone().Object("src/one.c"), env.StaticLibrary("x", ["src/two.c"])]\n'
    link = LINK_WHOLE.replace("$SOURCES", "--whole-archive $SOURCES")
    text = WHOLE + made + link + FIX % ""
    project = Project(tmp_path, text, **{"link.lds": SCRIPT})
    project.patch({**FACTOR, "src/two.c": ("a * 7", "a * 9")})
    project.run("xsplice-verify")
    assert project.functions() == {"one", "two"}


def test_what_nothing_tells_of_an_image_says_what_to_do(tmp_path: Path) -> None:
    link = LINK_WHOLE.replace("objects, ", "[], ").replace("$SOURCES", "src/one.o src/two.o")
    text = WHOLE + IN_SRC + link + "env.Depends(image, objects)\n" + FIX % ""
    project = Project(tmp_path, text, **{"link.lds": SCRIPT})
    project.patch(ONE)
    assert "make them the sources of the image" in project.run("xsplice-verify", status=5).text


def test_two_fixes_share_the_match_of_the_image(tmp_path: Path) -> None:
    second = (FIX % "").replace("env.", "env.Clone(SIGNER='none').").replace('"fix"', '"second"')
    project = whole(tmp_path, IN_SRC, second)
    project.patch(ONE)
    run = project.run("xsplice-verify")
    assert "Two different environments" not in run.text
    assert run.out.count("  BASE ") == 1
    text = (tmp_path / "SConstruct").read_text()
    project.write("SConstruct", text.replace('"4.17.5")\nenv.Clone', '"4.18.5")\nenv.Clone'))
    run = project.run("xsplice-verify")
    assert run.out.count("  BASE ") == 2, "each release has a match of its own"
