# SPDX-License-Identifier: Apache-2.0
"""A tiny built tree in Xen's shape: real objects, real records, made in the test."""

from __future__ import annotations

import os
import subprocess
from difflib import unified_diff
from pathlib import Path
from typing import TYPE_CHECKING

from xsplice_plugins.patch import read_patch_set

if TYPE_CHECKING:
    from xsplice_plugins.artefacts import PatchSet

SOURCES = {
    "xen/Makefile": (
        "export XEN_VERSION = 4\nexport XEN_SUBVERSION = 17\nexport XEN_EXTRAVERSION ?= .5\n"
    ),
    "xen/.config": "CONFIG_X86=y\nCONFIG_LIVEPATCH=y\n",
    "xen/common/livepatch.c": "int livepatch(void)\n{\n    return 0;\n}\n",
    "xen/common/version.c": (
        "#include <xen/lib.h>\nconst char *xen_extra_version(void)\n{\n    return FILE_NAME;\n}\n"
    ),
    "xen/common/setup.c": (
        '#include <xen/lib.h>\nconst char *__attribute__((section(".init.text"))) setup(void)\n'
        '{\n    return "setup text";\n}\n'
    ),
    "xen/common/user.c": "#include <xen/lib.h>\nint user(int a)\n{\n    return twice(a);\n}\n",
    "xen/common/entry.S": ".globl entry\nentry:\n    ret\n",
    "xen/common/boot.c": "int boot(void)\n{\n    return 0;\n}\n",
    "xen/common/unused.c": "int unused(void)\n{\n    return 0;\n}\n",
    "xen/include/xen/lib.h": (
        "#ifndef LIB_H\n#define LIB_H\n#define FILE_NAME __FILE__\n"
        "static inline int twice(int a)\n{\n    return a * 2;\n}\n#endif\n"
    ),
    "docs/words.txt": "words\n",
    # What Xen's own script offers to those who ask for the build-id.
    "xen/tiny.lds": (
        "SECTIONS { .note.gnu.build-id : { __note_gnu_build_id_start = .; "
        "*(.note.gnu.build-id) __note_gnu_build_id_end = .; } } INSERT AFTER .text;\n"
    ),
}


class TinyTree:
    """A built tree and short ways to patch it."""

    def __init__(
        self,
        root: Path,
        cc: str = "gcc",
        flags: str = "",
        *,
        is_split: bool = True,
        names_links: bool = False,
        out: str = "",
    ) -> None:
        """Write the sources and build them.

        Until Xen 4.16 functions share a section; some releases name a source by its link. ``out``
        is the folder below ``xen`` that make got as ``O=``.
        """
        self.names_links, self.out = names_links, out
        self.split = "-ffunction-sections -fdata-sections" if is_split else ""
        self.root, self.cc, self.flags = root, cc, flags
        for path, text in SOURCES.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
        (root / "xen/arch/x86").mkdir(parents=True)
        (root / "xen/arch/x86/linked.c").symlink_to("../../common/unused.c")
        self.build()

    def build(self) -> None:
        """Compile everything as Xen 4.17 does, with a record beside each target."""
        folder = self.root / "xen" / self.out
        if self.out:
            for name in ("common", "arch/x86"):
                (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / ".config").write_text(SOURCES["xen/.config"])
            (folder / "Makefile").write_text(f"include {self.root}/xen/Makefile\n")
            (self.root / "xen/.config").unlink(missing_ok=True)
        for source in ("livepatch", "version", "setup", "user", "boot"):
            self.compile(f"common/{source}.c", f"common/{source}.o")
        self.compile("arch/x86/linked.c", "arch/x86/linked.o")
        self.compile("common/entry.S", "common/entry.o")
        rename = "objcopy --rename-section .rodata.setup.str1.1=.init.rodata.setup.str1.1 "
        rename += "--rename-section .rodata.str1.1=.init.rodata.str1.1"
        self._record("common/setup.init.o", f"{rename} common/setup.o common/setup.init.o")
        objects = "common/livepatch.o common/version.o common/setup.init.o common/user.o"
        objects += " common/entry.o arch/x86/linked.o"
        self._record("common/built_in.o", f"ld -r -o common/built_in.o {objects}")
        self._record("prelink.o", "ld -r -o prelink.o common/built_in.o")
        script = os.path.relpath(self.root / "xen/tiny.lds", folder)
        self._run(f"ld --build-id=sha1 -T {script} -e livepatch -o xen-syms prelink.o", folder)
        self._run("strip -o xen xen-syms", folder)

    def compile(self, source: str, target: str) -> None:
        """Compile one file, with a record beside the object; both paths are below ``xen``."""
        folder, sources = self.root / "xen" / self.out, self.root / "xen"
        up = f"{os.path.relpath(sources, folder)}/" if self.out else ""
        name = Path(target).name
        temporary = target.replace(name, f".{name}.tmp")
        depends = target.replace(name, f".{name}.d")
        is_c = source.endswith(".c")
        output = temporary if is_c else target
        command = (
            f"{self.cc} -MMD -MP -MF {depends} -O2 {self.flags} {self.split} "
            f"-I./{up}include '-D__OBJECT_LABEL__={target}' -c {up}{source} -o {output} "
            f"-MQ {target}"
        )
        self._run(command, folder)
        rule = (folder / depends).read_text().replace("\\\n", " ").split("\n", 1)[0]
        inputs = rule.split(":", 1)[1].split()
        if is_c:
            shown = str((sources / source).resolve().relative_to(sources.resolve()))
            shown = source if self.names_links else shown
            rename = f"--redefine-sym {Path(source).name}={shown}"
            self._run(f"objcopy {rename} {temporary} {target} && rm -f {temporary}", folder)
        (folder / depends).unlink()
        lines = "".join(f"  {word} \\\n" for word in inputs)
        escaped = command.replace("$", "$$")
        self._cmd(target).write_text(
            f"cmd_{target} := {escaped}\n\nsource_{target} := {up}{source}\n\n"
            f"deps_{target} := \\\n    $(wildcard include/config/debug.h) \\\n{lines}\n"
            f"{target}: $(deps_{target})\n\n$(deps_{target}):\n"
        )

    def _record(self, target: str, command: str) -> None:
        self._run(command, self.root / "xen" / self.out)
        self._cmd(target).write_text(f"cmd_{target} := {command}\n")

    def _cmd(self, target: str) -> Path:
        path = self.root / "xen" / self.out / target
        return path.with_name(f".{path.name}.cmd")

    @staticmethod
    def _run(command: str, cwd: Path) -> None:
        subprocess.run(command, shell=True, cwd=cwd, check=True)  # noqa: S602  # as make does

    def patch(self, *edits: tuple[str, str, str]) -> PatchSet:
        """Return a patch set that replaces text: (path, old, new)."""
        texts: dict[str, str] = {}
        for path, old, new in edits:
            text = texts.setdefault(path, (self.root / path).read_text())
            assert old in text
            texts[path] = text.replace(old, new, 1)
        parts = []
        for path, text in texts.items():
            lines = unified_diff(
                (self.root / path).read_text().splitlines(keepends=True),
                text.splitlines(keepends=True),
                f"a/{path}",
                f"b/{path}",
            )
            parts.append("".join(lines))
        return self.patch_text("".join(parts))

    def patch_text(self, text: str) -> PatchSet:
        """Return the patch set of a diff's text."""
        file = self.root.parent / "fix.patch"
        file.write_text(text)
        return read_patch_set([file], source_root=self.root)
