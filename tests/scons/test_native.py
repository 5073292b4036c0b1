# SPDX-License-Identifier: Apache-2.0
"""Projects that SCons builds: no object is left out because SCons did not see what it reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.scons, pytest.mark.toolchain]

SCONSTRUCT = """\
import os
import xsplice

env = Environment(tools=["default", xsplice.generate], ENV=os.environ.copy(), %s)
objects = [env.Object(name) for name in ("one.c", "two.c")]
image = env.Command("xen-syms", objects, "ld -o $TARGET --build-id=sha1 $SOURCES")
env.Xsplice("fix", patch="fix.patch", image=image, release="4.17.5")
"""
ONE = "#include %s\nint one(int a) { return twice(a); }\nvoid _start(void) { for (;;) one(1); }\n"
TWO = "#include %s\nint two(int a) { return twice(a) + 1; }\n"
HEADER = "static inline int twice(int a) { return a * 2 + 7; }\n"
FLAGS = '"-O2", "-ffunction-sections", "-fcf-protection=none"'


@pytest.mark.parametrize(
    ("settings", "include", "environ"),
    [
        (f'CCFLAGS=[{FLAGS}], CPPPATH=["include"]', '"twice.h"', {}),
        (f'CCFLAGS=[{FLAGS}, "-Iinclude"]', '"twice.h"', {}),
        (f'CCFLAGS=[{FLAGS}, "-include", "include/twice.h"]', "<stddef.h>", {}),
        (f"CCFLAGS=[{FLAGS}]", '"twice.h"', {"C_INCLUDE_PATH": "include"}),
        (
            f"""CCFLAGS=[{FLAGS}, "-DHEADER='<twice.h>'"], CPPPATH=["include"]""",
            "HEADER",
            {},
        ),
    ],
    ids=["CPPPATH", "flag", "forced", "environment", "macro"],
)
def test_every_object_that_reads_a_patched_header_is_compiled(
    settings: str, include: str, environ: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "SConstruct").write_text(SCONSTRUCT % settings)
    (tmp_path / "one.c").write_text(ONE % include)
    (tmp_path / "two.c").write_text(TWO % include)
    (tmp_path / "include").mkdir()
    (tmp_path / "include/twice.h").write_text(HEADER)
    (tmp_path / "fix.patch").write_text(
        "--- a/include/twice.h\n+++ b/include/twice.h\n@@ -1 +1 @@\n"
        f"-{HEADER}+{HEADER.replace('* 2', '* 3')}"
    )
    done = subprocess.run(
        [sys.executable, "-m", "SCons", "-Q", "xsplice"],
        cwd=tmp_path,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "build/fix/fix.payload.json").read_text())
    assert {"one", "two"} <= {function["name"] for function in record["functions"]}
