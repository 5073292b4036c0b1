# SPDX-License-Identifier: Apache-2.0
"""Projects that SCons builds: folders that commands walk, and what scripts read themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit.native import FIX, IN_SRC, LINK_WHOLE, SCRIPT, WHOLE, Project, whole
from xsplice.shell import commands
from xsplice.walking import folders_of, walked

FACTOR = {"src/h.h": ("FACTOR 3", "FACTOR 9")}


@pytest.fixture
def top(tmp_path: Path) -> Path:
    for path in ("src/h.h", "data/x.in", "src/gen/a.in"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("line", "folder"),
    [
        ("grep -rh X src", "src"),
        ("grep -rhE X ./src/", "./src/"),
        ("grep --recursive X", "TOP"),
        ("cd src && grep -R X .", "."),
        ("grep -r X $D", "$D"),
        ("cp -r src out", "src"),
        ("cp -a -t out src", "src"),
        ("tar -cf x.tar src", "src"),
        ("tar cf x.tar -C src .", "src"),
        ("tar cf x.tar --directory=src .", "src"),
        ("find src -name '*.h'", "src"),
        ("find src -type f -exec cat {} +", "src"),
        ("find", "TOP"),
        ("ls s*c", "s*c"),
        ("(cd data && true); ls", "TOP"),
        ("diff -r data src", "src"),
        ("rsync -a src/ out", "src/"),
        ("zip -r x.zip src", "src"),
        ("git archive HEAD", "TOP"),
        ("git ls-files src", "src"),
        ("git grep X", "TOP"),
        ("./gen --root=src", "src"),
        ("python3 gen.py src", "src"),
    ],
)
def test_a_command_that_walks_a_folder_of_the_patch_is_found(
    line: str, folder: str, top: Path
) -> None:
    assert walking(line, top) == folder.replace("TOP", str(top))


@pytest.mark.parametrize(
    "line",
    [
        "mkdir -p src/gen",
        "install -d src",
        "install -m644 data/x.in src",
        "ls -d src",
        "ls none",
        f"echo {'x' * 300} data/{'y' * 5000}",
        "m4 -I src data/x.in",
        "rm -rf src",
        "test -d src",
        "echo src",
        "grep src data/x.in",
        "grep -r X data",
        "grep -r --include='*.in' X src",
        "cd data && grep -r X .",
        "cd data && ls",
        "cp data/x.in src",
        "cp -r data src",
        "tar xf x.tar -C src",
        "tar cf x.tar data",
        "find src -name '*.in'",
        "find src -type d",
        "find data",
        "diff -r data src/gen",
        "rsync -a data/ src",
        "git describe --dirty",
        "git -C src rev-parse HEAD",
        "git diff --quiet",
        "git ls-files data",
        "./gen src/gen",
        "cat data/* > src/x",
    ],
)
def test_a_command_that_reads_nothing_of_the_folder_is_not(line: str, top: Path) -> None:
    assert not walking(line, top)


def walking(line: str, top: Path) -> str:
    made = commands(line)
    found = (
        walked(command, [top / "src/h.h"], folders_of(made[:number], line, top))
        for number, command in enumerate(made)
    )
    return next(filter(None, found), "")


GEN = 'env.Command("gen.inc", %s)\nenv.Depends(image, "gen.inc")\n'


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ('[], "grep -rh FACTOR src > $TARGET"', "may read all of src"),
        ('[], "grep -rh FACTOR data > $TARGET"', ""),
        ('[], Copy("$TARGET", "src")', "Copy may read all of src"),
        ('[], Copy("$TARGET", "data")', ""),
        ('[], Copy("$TARGET", "src/h.h")', "Copy names h.h"),
        ('[], Copy("$TARGET", "data/h.h")', ""),
        ('"gen.sh", "sh $SOURCE > $TARGET"', "gen.sh may read all of a folder (`grep -rh"),
        ('"data/gen.sh", "sh $SOURCE > $TARGET"', ""),
    ],
)
@pytest.mark.scons
@pytest.mark.toolchain
def test_what_walks_a_folder_of_the_patch_is_not_proved(
    made: str, said: str, tmp_path: Path
) -> None:
    files = {
        "gen.sh": "#!/bin/sh\n# don't\ngrep -rh FACTOR src\n",
        "data/gen.sh": "#!/bin/sh\nmkdir -p src\ngrep -rh FACTOR data\n",
        "data/h.h": "#define FACTOR 7\n",
    }
    project = whole(tmp_path, IN_SRC, GEN % made, **files)
    project.patch(FACTOR)
    run = project.run("xsplice-verify", status=5 if said else 0)
    assert said in run.text
    assert ("gen.inc is not compiled for the fix" in run.text) == bool(said)


MAKE = """
import sys
from pathlib import Path
HDR, OTHER = Path("src/h.h"), ["src/other.h"]
class Reader:
    def read(self):
        return open("src/h.h").read()
class Keeper:
    def __init__(self, path):
        self.path = path
    def make(self, target, source, env):
        open(str(target[0]), "w").write(open(self.path).read())
KEPT, FREE = [Keeper("src/h.h")], [Keeper("data/x")]
def closed(path):
    return lambda target, source, env: not open(str(target[0]), "w").write(open(path).read())
def make(target, source, env, **more):
    %s
    open(str(target[0]), "w").write("3")
env["FUNCTION"] = lambda target, source, env, for_signature: open("src/h.h").read()[8:9]
env["OWN"] = lambda target, source, env, for_signature: open("data/x").read()
env["BUILDERS"]["Gen"] = Builder(generator=lambda source, target, env, for_signature:
                                 "echo " + open("src/h.h").read()[8:9] + " > $TARGET")
%s
"""
LISTS = "import os\nfrom pathlib import Path\nprint(sorted(map(str, %s)))\n"
MADE = [
    ("open(HDR).read()", "[], make", "the Python function make names h.h"),
    ("OTHER", "[], make", ""),
    ("Reader().read()", "[], make", "the Python function read names h.h"),
    ("sys.path.append('.'); import helper", "[], make", "helper.py names h.h"),
    ("os.listdir('src')", "[], make", "lists folders (listdir)"),
    ("Path('data').iterdir()", "[], make", ""),
    ("", "[], closed('src/h.h')", "names h.h"),
    ("", "[], 'cat data/k > $TARGET'", "its command names a link to src/h.h"),
    ("", "['gen.sh'], 'sh $SOURCE > $TARGET'", "sh may read src/h.h"),
    ("", "[], 'cat data/x > $TARGET # %s'" % ("x" * 300), ""),
    ("", "[], closed('data/x')", ""),
    ("", "[], Keeper('src/h.h').make", "the Python function make names h.h"),
    ("", "[], Keeper('data/x').make", ""),
    ("KEPT[0].path", "[], make", "the Python function make names h.h"),
    ("FREE[0].path", "[], make", ""),
    ("open(env['HDR'])", "[], make, HDR='src/h.h'", "the Python function make names h.h"),
    ("open(env['HDR'])", "[], make, HDR='data/x'", ""),
    ("env.File('$HDR')", "[], make, HDR='$REAL', REAL=['src/h.h']", "make names h.h"),
    ("env.File('$OTHER')", "[], make, HDR='src/h.h', OTHER='data/x'", ""),
    ("", "[], 'echo $FUNCTION > $TARGET'", "it reads src/h.h itself"),
    ("", "[], 'echo $OWN > $TARGET'", ""),
    ("", "[], 'cp ../src/*.h . && cat h* > ../gen.inc', chdir='data'", "its command names"),
    ("", "[], 'grep -rh FACTOR ../src > ../gen.inc', chdir=Dir('data')", "may read all of ../src"),
    ("", "[], 'grep -rh FACTOR . > ../gen.inc; true', chdir='data'", ""),
]
SCRIPTS = [
    ("os.listdir('data')", ""),
    ("os.scandir(os.path.join(os.path.dirname(__file__), 'data'))", ""),
    ("(Path(__file__).parent / 'data').iterdir()", ""),
    ("os.listdir('src')", "lists folders (listdir)"),
    ("os.listdir('alias')", "lists folders (listdir)"),
    ("os.listdir(os.environ.get('X', 'src'))", "lists folders (listdir)"),
    ("(Path(__file__).parent / 'data').parent.iterdir()", "lists folders (iterdir)"),
    ("__import__('glob').glob('src/*')", "names *"),
    ("os.popen('grep -rh FACTOR src').read()", "lists folders (grep -r)"),
]


@pytest.mark.parametrize(("body", "words", "said"), MADE)
@pytest.mark.scons
@pytest.mark.toolchain
def test_what_a_function_of_the_project_reads(
    body: str, words: str, said: str, tmp_path: Path
) -> None:
    files = {"helper.py": 'HDR = "src/h.h"\n', "data/x": "3", "src/other.h": ""}
    files["gen.sh"] = "cat data/k\n"
    made = MAKE % (body or "pass", f'env.Command("gen.inc", {words})')
    link = 'env.Depends("link.lds", "gen.inc")\n'
    project = whole(tmp_path, IN_SRC + made + link, **files)
    (tmp_path / "data/k").symlink_to("../src/h.h")
    project.patch(FACTOR)
    assert said in project.run("xsplice-verify", status=5 if said else 0).text


@pytest.mark.parametrize(("expression", "said"), SCRIPTS)
@pytest.mark.scons
@pytest.mark.toolchain
def test_a_script_that_lists_a_folder_written_in_it(
    expression: str, said: str, tmp_path: Path
) -> None:
    made = GEN % '"gen.py", "python3 $SOURCE > $TARGET"'
    project = whole(tmp_path, IN_SRC, made, **{"gen.py": LISTS % expression, "data/x": "3"})
    (tmp_path / "alias").symlink_to("src")
    project.patch(FACTOR)
    assert said in project.run("xsplice-verify", status=5 if said else 0).text


@pytest.mark.parametrize(("action", "status"), [("cat src/h.h >> $TARGET", 5), ("true", 0)])
@pytest.mark.parametrize("target", ['"gen.inc"', "image"])
@pytest.mark.scons
@pytest.mark.toolchain
def test_what_is_added_before_or_after_a_step_counts(
    action: str, status: int, target: str, tmp_path: Path
) -> None:
    made = GEN % '[], "echo 3 > $TARGET"' + f'env.AddPostAction({target}, "{action}")\n'
    text = WHOLE + IN_SRC + LINK_WHOLE + made + FIX % ""
    project = Project(tmp_path, text, **{"link.lds": SCRIPT})
    project.patch(FACTOR)
    run = project.run("xsplice-verify", status=status)
    assert ("its command names h.h" in run.text) == (status == 5)


HELPER = "def text(path):\n    return open(path).read()\n"
READS = [
    ('open("src/h.h").read()', "it reads src/h.h"),
    ('open("src/" + "h" + chr(46) + "h").read()', "it reads src/h.h"),
    ('File("src/h.h").get_text_contents()', "it reads src/h.h"),
    ('__import__("helper").text("src/h.h")', "it reads src/h.h"),
    ('(os.symlink("src", "alias"), open("alias/h.h").read())', "it reads src/h.h"),
    ('open("src/other.h").read()', ""),
    ('open("src/new.h", "w").write("")', ""),
    ('[str(name) for name in Glob("src/*.h")] + os.listdir("src")', ""),
    ('File("src/h.h").exists()', ""),
    ('subprocess.check_output(["cat", "src/h.h"])', "its command names h.h"),
    ('subprocess.check_output("cd src; cat *.h", shell=True)', "its command names"),
    ('subprocess.check_output(["grep", "-r", "FACTOR", "."], cwd="src")', "may read all of ."),
    ('os.system("cat src/h.h > x")', "its command names h.h"),
    ('subprocess.check_output([env["CC"], "-E", "src/one.c"])', "its compiler reads src/h.h"),
    ('subprocess.check_output([env["CC"], "-dumpversion"])', ""),
    ('subprocess.check_output("echo | gcc -dM -E -", shell=True)', ""),
    ('subprocess.check_output(["cat", "h.h"], cwd="data")', ""),
    ('env.ParseConfig("echo -DX")', ""),
    (
        'subprocess.check_output("echo include | gcc -E -", shell=True)',
        "its compiler does not tell",
    ),
]


@pytest.mark.parametrize(("expression", "said"), READS)
@pytest.mark.scons
@pytest.mark.toolchain
def test_what_a_script_reads_while_scons_reads_it(
    expression: str, said: str, tmp_path: Path
) -> None:
    made = f"import subprocess\nVERSION = {expression}\n{IN_SRC}"
    files = {"src/other.h": "", "helper.py": HELPER, "data/h.h": ""}
    project = whole(tmp_path, made, **files)
    project.patch(FACTOR)
    run = project.run("xsplice-verify", status=5 if said else 0)
    assert said in run.text
    assert ("SConstruct:" in run.text or "helper.py:" in run.text) == bool(said), run.text


@pytest.mark.parametrize(
    ("early", "said"),
    [
        ('open("src/h.h").read()', "its text names h.h"),
        ('open(name).read() if (name := "src/h.h") else ""', "its text names h.h"),
        ('open("src/other.h").read()', ""),
        ('["src/h.h"]', ""),
        ('[open("data/" + name).read() for name in os.listdir("data")]', ""),
        ('[open("src/" + name, "rb").read() for name in os.listdir("src")]', "lists folders"),
        ('subprocess.check_output(["cat", "src/h.h"])', "its command names h.h"),
        ('subprocess.check_output("grep -r X src; true", shell=True)', "may read all of src"),
        ('subprocess.check_output("grep -r X data; true", shell=True)', ""),
    ],
)
@pytest.mark.scons
@pytest.mark.toolchain
def test_what_a_script_read_before_the_tool_was_loaded_is_told_by_its_text(
    early: str, said: str, tmp_path: Path
) -> None:
    project = whole(tmp_path, IN_SRC, **{"src/other.h": "", "data/x": ""})
    text = (tmp_path / "SConstruct").read_text()
    project.write("SConstruct", f"import os, subprocess\nVERSION = {early}\n{text}")
    project.patch(FACTOR)
    run = project.run("xsplice-verify", status=5 if said else 0)
    assert said in run.text
    assert ("SConstruct:2: it reads or runs something early" in run.text) == bool(said), run.text


@pytest.mark.scons
@pytest.mark.toolchain
def test_a_test_of_configure_that_reads_a_header_is_a_read(tmp_path: Path) -> None:
    test = (
        'conf = env.Clone(CPPPATH=["#"]).Configure()\nconf.CheckHeader("src/%s")\nconf.Finish()\n'
    )
    for name, status in {"other.h": 0, "h.h": 5}.items():
        project = whole(tmp_path / name, test % name + IN_SRC, **{"src/other.h": ""})
        project.patch(FACTOR)
        for _ in range(2):
            run = project.run("xsplice-verify", status=status)
            assert ("it reads src/h.h itself" in run.text) == (status == 5)


@pytest.mark.scons
@pytest.mark.toolchain
def test_what_a_function_in_a_command_line_reads_is_a_read(tmp_path: Path) -> None:
    """SCons calls it for the line of each object."""
    made = (
        "def factor(target, source, env, for_signature):\n    return open('src/%s').read()[8:9]\n"
    )
    made += "env['F'] = factor\nenv.Append(CCFLAGS=['-DX=$F'])\n"
    for name, status in {"other.h": 0, "h.h": 5}.items():
        project = whole(tmp_path / name, made % name + IN_SRC, **{"src/other.h": ""})
        project.patch(FACTOR)
        run = project.run("xsplice-verify", status=status)
        assert ("it reads src/h.h itself" in run.text) == (status == 5)
