# SPDX-License-Identifier: Apache-2.0
"""Small projects that SCons builds, in a folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from difflib import unified_diff
from typing import TYPE_CHECKING

from tests.kit.build import Run

if TYPE_CHECKING:
    from pathlib import Path

HEAD = """\
import os
import xsplice

env = Environment(
    tools=["default", xsplice.generate],
    ENV={name: os.environ[name] for name in ("PATH", "C_INCLUDE_PATH") if name in os.environ},
    CCFLAGS=["-O2", "-ffunction-sections", "-fcf-protection=none"],
)
"""
LINK = 'image = env.Command("xen-syms", objects, "ld -o $TARGET --build-id=sha1 $SOURCES")\n'
FIX = 'env.Xsplice("fix", patch="#fix.patch", image=image, release="4.17.5"%s)\n'
FILES = {
    "src/one.c": '#include "h.h"\nint one(int a) { return (a ^ 0x12345) + a * FACTOR; }\n'
    "void _start(void) { for (;;) one(1); }\n",
    "src/two.c": '#include "h.h"\nint two(int a) { return (a ^ 0x54321) + a * 7; }\n',
    "src/h.h": "#define FACTOR 3\n#define OTHER 4\n",
}
ONE = {"src/one.c": ("a * FACTOR", "a * FACTOR + 5")}
BOTH = {**ONE, "src/two.c": ("a * 7", "a * 9")}
IN_SRC = 'objects = [env.Object(name) for name in ("src/one.c", "src/two.c")]\n'
FLAT = HEAD + IN_SRC + LINK + FIX % ""


class Project:
    """A small project in a folder."""

    def __init__(self, folder: Path, sconstruct: str, **files: str) -> None:
        self.folder = folder
        for path, text in {**FILES, "SConstruct": sconstruct, **files}.items():
            self.write(path, text)

    def write(self, path: str, text: str) -> None:
        """Write a file of the project."""
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(text)

    def patch(
        self, edits: dict[str, tuple[str, str]], strip: str = "", name: str = "fix.patch"
    ) -> None:
        """Write a patch; ``strip`` is the folder that it applies to."""
        text = ""
        for path, (old, new) in edits.items():
            before = (self.folder / path).read_text()
            assert old in before
            lines = [part.splitlines(keepends=True) for part in (before, before.replace(old, new))]
            names = [f"{side}/{path.removeprefix(strip)}" for side in "ab"]
            text += "".join(unified_diff(*lines, *names))
        self.write(name, text)

    def run(self, *words: str, status: int = 0, **environ: str) -> Run:
        """Run SCons; it must end with ``status``."""
        done = subprocess.run(
            [sys.executable, "-m", "SCons", "-Q", *(words or ("xsplice",))],
            cwd=self.folder,
            env=os.environ | environ,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return Run(status=done.returncode, out=done.stdout, err=done.stderr)

    def functions(self, name: str = "fix") -> set[str]:
        """Return what a payload replaces."""
        record = json.loads((self.folder / f"build/{name}/{name}.payload.json").read_text())
        return {function["name"] for function in record["functions"]}

    @property
    def payload(self) -> bytes:
        """Return the payload's bytes before it was signed."""
        return (self.folder / "build/fix/fix.livepatch.unsigned").read_bytes()


#: What the loader wants of an image's linker script.
SCRIPT = """\
SECTIONS {
    . = 0xffff82d040200000;
    .text : { *(.text .text.*) }
    .note.gnu.build-id : {
        __note_gnu_build_id_start = .; *(.note.gnu.build-id) __note_gnu_build_id_end = .;
    }
}
"""
#: A project whose fix can be proved.
WHOLE = HEAD.replace('"-O2"', '"-O2", "-ffreestanding", "-fpic", "-fvisibility=hidden"')
LINK_WHOLE = LINK.replace("ld -o", "ld -T link.lds -o") + 'env.Depends(image, "link.lds")\n'


def whole(folder: Path, made: str, tail: str = "", **files: str) -> Project:
    """Return a project whose fix can be proved: what makes ``objects``, then what comes last."""
    text = WHOLE + made + LINK_WHOLE + FIX % "" + tail
    return Project(folder, text, **{"link.lds": SCRIPT, **files})
