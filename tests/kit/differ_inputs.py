# SPDX-License-Identifier: Apache-2.0
"""Pairs of objects that gcc compiles from C strings, and the differ's answer about them."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from xsplice_plugins.diff.differ import diff_objects

if TYPE_CHECKING:
    from pathlib import Path

    from xsplice_plugins.artefacts import Delta

#: As Xen 4.17 is compiled, without what needs its headers.
FLAGS = (
    *("-O2", "-c", "-std=gnu99", "-fpic", "-fvisibility=hidden", "-ffreestanding", "-fno-common"),
    *("-mno-red-zone", "-mno-sse", "-ffunction-sections", "-fdata-sections", "-fno-jump-tables"),
    *("-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fomit-frame-pointer"),
    *("-fcf-protection=branch", "-mmanual-endbr"),
)

#: What fixtures share: barriers against the optimiser, Xen's section attributes and BUG().
PROLOGUE = r"""
#define noinline __attribute__((noinline))
#define __init __attribute__((section(".init.text")))
#define __initdata __attribute__((section(".init.data")))
#define PERCPU __attribute__((section(".bss.percpu")))
#define used __attribute__((used))
extern int get(int), put(int, int);
extern void note(const char *, ...);
#define STR_(x) #x
#define STR(x) STR_(x)
#define BUG() asm volatile ("1: ud2\n" \
    ".pushsection .bug_frames.2, \"a\"\n.p2align 2\n" \
    "2: .long (1b - 2b) + ((" STR(__LINE__) " >> 7) << 24)\n" \
    ".long (%c0 - 2b) + ((" STR(__LINE__) " & 127) << 24)\n.popsection" :: "i" (__FILE__))
#define ALTERNATIVE(o, n, f) asm volatile ("771: " o "\n772:\n" \
    ".pushsection .altinstr_replacement, \"ax\"\n773: " n "\n774:\n.popsection\n" \
    ".pushsection .altinstructions, \"a\"\n.long 771b - .\n.long 773b - .\n" \
    ".word " #f "\n.byte 772b - 771b\n.byte 774b - 773b\n.byte 0, 0\n.popsection")
#define FAULTS(insn, code) asm volatile ("1: " insn "\n2:\n" \
    ".pushsection .fixup, \"ax\"\n3: mov $" #code ", %%eax\njmp 2b\n.popsection\n" \
    ".pushsection .ex_table, \"a\"\n.long 1b - .\n.long 3b - .\n.popsection" ::: "eax")
"""


def compile_c(folder: Path, text: str, *flags: str, name: str = "file.c") -> bytes:
    """Compile C text the way Xen does; ``__FILE__`` and the file symbol are ``name``."""
    (folder / name).write_text(f"{PROLOGUE}\n#line 1\n{text}")
    out = folder / "out.o"
    command = ["gcc", *FLAGS, *flags, "-o", str(out), name]
    subprocess.run(command, cwd=folder, check=True)
    return out.read_bytes()


def assemble(folder: Path, text: str) -> bytes:
    """Assemble text."""
    (folder / "file.s").write_text(text)
    subprocess.run(["as", "-o", folder / "out.o", folder / "file.s"], check=True)
    return (folder / "out.o").read_bytes()


def diff(
    baseline: bytes, new: bytes, *, source_path: str = "file.c", is_init: bool = False
) -> Delta:
    """Compare two objects with the profile of Xen 4.17."""
    return diff_objects(
        baseline,
        new,
        object_path="file.o",
        source_path=source_path,
        profile="xen-4.17",
        is_init=is_init,
    )


def diff_c(folder: Path, before: str, after: str, *flags: str) -> Delta:
    """Compile two versions of a C file and compare the objects."""
    return diff(compile_c(folder, before, *flags), compile_c(folder, after, *flags))


def summary(delta: Delta) -> tuple[list[str], list[str], list[str], list[tuple[str, str]]]:
    """Return the names that are changed, new, line-only, and (code, name) of the refused."""
    return (
        [c.name for c in delta.changed],
        [n.name for n in delta.new],
        [r.name for r in delta.line_only],
        [(r.code, r.name) for r in delta.refused],
    )
