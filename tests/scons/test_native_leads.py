# SPDX-License-Identifier: Apache-2.0
"""Projects that SCons builds: files that a command leads to, though no word of it names them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.kit.native import IN_SRC, whole
from xsplice.asking import Step
from xsplice.modules import modules, named, there
from xsplice.others import Others, _in_line

FACTOR = {"src/h.h": ("FACTOR 3", "FACTOR 9")}
PATHS = 'HEADER = "src/h.h"\n'
TREE = {
    "src/h.h": "",
    "tools/__init__.py": "",
    "tools/paths.py": PATHS,
    "tools/other.py": "",
    "tools/lib/__init__.py": "from lib.inner import text\n",
    "tools/lib/inner.py": PATHS,
    "tools/free/__init__.py": "",
    "tools/Paths.pm": 'package Paths; our $H = "src/h.h"; 1;\n',
    "tools/Other.pm": "package Other; 1;\n",
    "tools/list.txt": "src/h.h\n",
    "tools/none.txt": "src/other.h\n",
    "tools/print.awk": "{ print }\n",
}


@pytest.fixture
def top(tmp_path: Path) -> Path:
    for path, text in TREE.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def asked(line: str, top: Path) -> str:
    """Return why a line may read src/h.h; "" if nothing says so."""
    header: Any = SimpleNamespace(path="src/h.h", is_added=False)
    none: Any = None
    others = Others(
        roots=(),
        objects=frozenset(),
        compiled=frozenset(),
        root=top,
        top=top,
        copy=top,
        twins={},
        patch_set=none,
    )
    step = Step(subject="gen.c", line=line)
    return cast("str", _in_line(step, {top / "src/h.h": header}, others))


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("gen.py", "import os, re, sys, paths\n", "paths.py names h.h"),
        ("gen.py", "import os, re, sys, other\n", ""),
        ("gen.py", "import os as paths\n", ""),
        ("gen.py", "from tools import (\n    other,\n    paths,\n)\n", "paths.py names h.h"),
        ("gen.py", "from tools import other\n", ""),
        ("gen.py", "from .paths import HEADER\n", "paths.py names h.h"),
        ("gen.py", "from . import paths\n", "paths.py names h.h"),
        ("gen.py", "from .other import HEADER\n", ""),
        ("gen.py", "import lib\n", "inner.py names h.h"),
        ("gen.py", "import lib.inner as x\n", "inner.py names h.h"),
        ("gen.py", "import free\n", ""),
        ("free/gen.py", "from .. import paths\n", "paths.py names h.h"),
        ("free/gen.py", "from ..other import paths\n", ""),
        ("gen.py", "__import__('paths')\n", "paths.py names h.h"),
        ("gen.py", "print('paths')\n", ""),
        ("gen.py", "print 'old'\nimport os, paths\n", "paths.py names h.h"),
        ("gen.pl", "use strict;\nuse Paths;\n", "Paths.pm names h.h"),
        ("gen.pl", "use strict;\nuse Other;\n", ""),
    ],
)
def test_a_module_that_a_script_loads_is_searched(
    path: str, text: str, said: str, top: Path
) -> None:
    (top / "tools" / path).write_text(text)
    program = "perl" if path.endswith(".pl") else "python3"
    assert asked(f"{program} tools/{path} > gen.c", top) == said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("python3 -m tools.paths > gen.c", "paths.py names h.h"),
        ("python3 -mtools.paths > gen.c", "paths.py names h.h"),
        ("python3 -m tools.other > gen.c", ""),
        ("PYTHONPATH=tools python3 -c 'import paths; paths.x()'", "paths.py names h.h"),
        ("PYTHONPATH=tools python3 -c 'import other; other.x()'", ""),
        ("perl -Itools -MPaths -e 'print $Paths::H'", "Paths.pm names h.h"),
        ("python3 tools/other.py --config=tools/list.txt --out=gen.c", "list.txt names h.h"),
        ("python3 tools/other.py --config=tools/none.txt --out=gen.c", ""),
        ("python3 tools/other.py @tools/list.txt > gen.c", "list.txt names h.h"),
        ("python3 tools/other.py @tools/none.txt > gen.c", ""),
        ("python3 tools/other.py < tools/list.txt > gen.c", "list.txt names h.h"),
        ("cat tools/list.txt | xargs cat > gen.c", "list.txt names h.h"),
        ("cat tools/none.txt | xargs cat > gen.c", ""),
        ("cat $(cat tools/list.txt) | awk -f tools/print.awk > gen.c", "list.txt names h.h"),
        ("cat `cat tools/list.txt` > gen.c", "list.txt names h.h"),
        ("cat $(cat tools/none.txt) | awk -f tools/print.awk > gen.c", ""),
        ("while read f; do cat $f; done < tools/list.txt > gen.c", "list.txt names h.h"),
        ("while read f; do cat $f; done < tools/none.txt > gen.c", ""),
        ("while read f; do cat < $f; done < tools/list.txt > gen.c", "list.txt names h.h"),
        ("while read f; do echo $f; done < tools/list.txt > gen.c", ""),
        ("awk '{ print $1 }' tools/list.txt > gen.c", ""),
        ("H=src/h.h; cat $H > gen.c", "its line names h.h"),
        ("H=src/other.h; cat $H > gen.c", ""),
    ],
)
def test_a_file_that_a_line_leads_to_is_searched(line: str, said: str, top: Path) -> None:
    assert asked(line, top) == said


def test_what_words_and_texts_name(top: Path) -> None:
    assert named(["--x=a/b.txt", "@c", "-Id"]) >= {"a/b.txt", "c", "d"}
    assert "a" not in named(["b=c"])
    assert modules("import a.b\n") >= {"a.py", "a/b.py", "a/b/__init__.py"}
    assert not modules("x = 1\n")
    assert there([top / "tools"], {"lib/inner.py", "none.py", "./paths.py", "lib"}) == {
        top / "tools/lib/inner.py",
        top / "tools/paths.py",
    }


@pytest.mark.parametrize(("name", "status"), [("list.txt", 5), ("none.txt", 0)])
@pytest.mark.scons
@pytest.mark.toolchain
def test_what_a_list_names_is_not_proved(name: str, status: int, tmp_path: Path) -> None:
    made = f'env.Command("gen.inc", [], "cat $$(cat tools/{name}) > $TARGET")\n'
    files = {path: TREE[path] for path in ("tools/list.txt", "tools/none.txt")}
    tail = 'env.Depends(image, "gen.inc")\n'
    project = whole(tmp_path, made + IN_SRC, tail, **files, **{"src/other.h": ""})
    project.patch(FACTOR)
    run = project.run("xsplice-verify", status=status)
    assert ("list.txt names h.h" in run.text) == (status == 5)


AFTER = 'for one in objects:\n    env.AddPostAction(one, "%s")\n'
CHAIN = 'env["CCCOM"] = [env["CCCOM"], "objcopy --strip-debug $TARGET"]\n'


@pytest.mark.parametrize(
    "made",
    [
        IN_SRC + AFTER % "objcopy --rename-section .comment=.note.comment $TARGET",
        IN_SRC + AFTER % "objdump -d $TARGET > ${TARGET}.dis",
        CHAIN + IN_SRC,
        'env.Append(CCFLAGS=["-g"])\n' + CHAIN + IN_SRC,
    ],
)
@pytest.mark.scons
@pytest.mark.toolchain
def test_what_is_done_to_an_object_is_done_to_the_fixes_as_well(made: str, tmp_path: Path) -> None:
    project = whole(tmp_path, made)
    project.patch(FACTOR)
    project.run("xsplice-verify")
    assert project.functions() == {"one"}
    listing = tmp_path / "src/one.o.dis"
    if listing.exists():
        assert "src/one.o:     file format" in listing.read_text()


@pytest.mark.scons
@pytest.mark.toolchain
def test_what_is_done_to_an_object_and_writes_elsewhere_is_refused(tmp_path: Path) -> None:
    project = whole(tmp_path, IN_SRC + AFTER % "nm $TARGET > ${TARGET.base}.names")
    project.patch(FACTOR)
    said = project.run("xsplice-verify", status=2).text
    assert "src/one.o: what follows its compiler may write another file (`nm" in said
