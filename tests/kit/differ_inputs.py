# SPDX-License-Identifier: Apache-2.0
"""Pairs of objects compiled from C strings, and the differ's answer about them."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from xsplice_plugins.artefacts import SHIFT_LINES, MovedLines
from xsplice_plugins.csource.neutral import moved_lines
from xsplice_plugins.csource.neutral import shifted as shifted_text
from xsplice_plugins.diff.differ import diff_objects
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.plugins.spec import Config
from xsplice_plugins.target.known import known_facts
from xsplice_plugins.target.references import References
from xsplice_plugins.target.sections import profile_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from xsplice_plugins.artefacts import Delta, Extent, Facts, Reference

#: As Xen 4.17 is compiled, without what needs its headers.
FLAGS = (
    *("-O2", "-c", "-std=gnu99", "-fpic", "-fvisibility=hidden", "-ffreestanding", "-fno-common"),
    *("-mno-red-zone", "-mno-sse", "-ffunction-sections", "-fdata-sections", "-fno-jump-tables"),
    *("-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fomit-frame-pointer"),
    *("-fcf-protection=branch", "-mmanual-endbr"),
)

#: What every compiler understands of them.
_PORTABLE = (
    *("-O2", "-c", "-std=gnu99", "-ffreestanding", "-fno-common", "-ffunction-sections"),
    *("-fdata-sections", "-fno-stack-protector", "-fno-asynchronous-unwind-tables"),
    "-fomit-frame-pointer",
)
_CODE_X86 = ("-fpic", "-fvisibility=hidden", "-mno-red-zone", "-mno-sse")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiler:
    """A compiler as Xen calls it for one machine."""

    name: str
    command: str
    package: str  #: Debian's
    flags: tuple[str, ...]


COMPILERS = (
    Compiler(name="gcc-x86_64", command="gcc", package="gcc", flags=(*_PORTABLE, *_CODE_X86)),
    Compiler(name="clang-x86_64", command="clang", package="clang", flags=(*_PORTABLE, *_CODE_X86)),
    Compiler(
        name="gcc-aarch64",
        command="aarch64-linux-gnu-gcc",
        package="gcc-aarch64-linux-gnu",
        flags=(*_PORTABLE, "-fno-pie", "-mgeneral-regs-only", "-mno-outline-atomics"),
    ),
)


def every_compiler() -> pytest.MarkDecorator:
    """Return the mark that runs a test with each compiler, skipped in words where one lacks."""
    rows = []
    for compiler in COMPILERS:
        missing = pytest.mark.skipif(
            shutil.which(compiler.command) is None,
            reason=f"{compiler.command} is not installed; apt-get install {compiler.package}",
        )
        rows.append(pytest.param(compiler, id=compiler.name, marks=missing))
    return pytest.mark.parametrize("compiler", rows)


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
#ifdef __aarch64__
#define BUG() asm volatile ("1: brk 1\n" \
    ".pushsection .rodata.str, \"aMS\", %%progbits, 1\n3: .asciz \"" __FILE__ "\"\n" \
    ".popsection\n.pushsection .bug_frames.2, \"a\", %%progbits\n.p2align 2\n" \
    "2: .word 1b - 2b, 3b - 2b, 0\n.hword " STR(__LINE__) ", 0\n.popsection" ::)
#define ALTERNATIVE(o, n, f) asm volatile ("771: " o "\n772:\n" \
    ".pushsection .altinstr_replacement, \"ax\"\n773: " n "\n774:\n.popsection\n" \
    ".pushsection .altinstructions, \"a\"\n.word 771b - .\n.word 773b - .\n" \
    ".hword " #f "\n.byte 772b - 771b\n.byte 774b - 773b\n.popsection" ::)
#else
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
#endif
"""


def compile_c(folder: Path, text: str, *flags: str, name: str = "file.c") -> bytes:
    """Compile C text the way Xen does; ``__FILE__`` and the file symbol are ``name``."""
    (folder / name).write_text(f"{PROLOGUE}\n#line 1\n{text}")
    out = folder / "out.o"
    command = ["gcc", *FLAGS, *flags, "-o", str(out), name]
    subprocess.run(command, cwd=folder, check=True)
    return out.read_bytes()


def compile_with(compiler: Compiler, folder: Path, text: str, *flags: str) -> bytes:
    """Compile C text with one of `COMPILERS`."""
    (folder / "file.c").write_text(f"{PROLOGUE}\n#line 1\n{text}")
    command = [compiler.command, *compiler.flags, *flags, "-o", "out.o", "file.c"]
    subprocess.run(command, cwd=folder, check=True)
    return (folder / "out.o").read_bytes()


def assemble(folder: Path, text: str) -> bytes:
    """Assemble text."""
    (folder / "file.s").write_text(text)
    subprocess.run(["as", "-o", folder / "out.o", folder / "file.s"], check=True)
    return (folder / "out.o").read_bytes()


def references_of(data: bytes, *, release: str = "4.17.5") -> References:
    """Return the places of an object of Xen."""
    file = read_elf(data, "a.o")
    return References(file, profile_of("xen", known_facts(release, file.machine)))


def diff(
    baseline: bytes,
    new: bytes,
    *,
    source_path: str = "file.c",
    is_init: bool = False,
    profile: str = "xen",
    release: str = "4.17.5",
    facts: Facts | None = None,
    moved: Sequence[MovedLines] = (),
    shifted: Callable[[], bytes | None] | None = None,
    edited: Collection[str] | None = None,
    again: Collection[str] = (),
) -> Delta:
    """Compare two objects, as those of Xen 4.17.5 unless something else is said."""
    return diff_objects(
        baseline,
        new,
        object_path="file.o",
        source_path=source_path,
        config=Config(profile=profile, release=release, facts=facts),
        is_init=is_init,
        moved=moved,
        shifted=shifted,
        edited=edited,
        again=again,
    )


def diff_c(folder: Path, before: str, after: str, *flags: str) -> Delta:
    """Compile two versions of a C file and compare the objects."""
    return diff(compile_c(folder, before, *flags), compile_c(folder, after, *flags))


def diff_sources(folder: Path, before: str, after: str, *flags: str) -> tuple[Delta, int]:
    """Compare as the capture does, which has the sources: also say how often lines were shifted."""
    made: list[bytes] = []

    def once_more() -> bytes:
        made.append(compile_c(folder, shifted_text(after, SHIFT_LINES), *flags))
        return made[-1]

    runs = moved_lines(before, after)
    delta = diff(
        compile_c(folder, before, *flags),
        compile_c(folder, after, *flags),
        moved=[MovedLines(old=a, new=b, count=count) for a, b, count in runs],
        shifted=once_more,
    )
    return delta, len(made)


def summary(delta: Delta) -> tuple[list[str], list[str], list[str], list[tuple[str, str]]]:
    """Return the names that are changed, new, line-only, and (code, name) of the refused."""
    return (
        [c.name for c in delta.changed],
        [n.name for n in delta.new],
        [r.name for r in delta.line_only],
        [(r.code, r.name) for r in delta.refused],
    )


def assert_closed(delta: Delta, new: bytes) -> None:
    """Hold every relocation inside an extent to an extent or a reference."""
    references = references_of(new)
    file = references.file
    spans: dict[int, list[tuple[int, int]]] = {}
    rows: tuple[Extent | Reference, ...] = (*delta.extents, *delta.references)
    for row in rows:
        spans.setdefault(row.section, []).append((row.offset, row.offset + row.size_bytes))
    for places in spans.values():
        places.sort()
        for (_, end), (start, _) in pairwise(places):
            assert end <= start, "extents and references do not overlap"
    for extent in delta.extents:
        section = file.sections[extent.section]
        for reloc in file.relocs(section):
            if extent.offset <= reloc.offset < extent.offset + extent.size_bytes:
                target = references.target_of(section, reloc)
                if target.section_index is not None:
                    places = spans.get(target.section_index, [])
                    size = file.sections[target.section_index].size_bytes
                    # A jump table counts its targets from its own start, `&array[-1]` lies
                    # outside: both mean the only thing of their section.
                    assert places == [(0, size)] or any(
                        a <= target.offset <= b for a, b in places
                    ), (section.name, reloc)
