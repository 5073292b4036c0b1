# SPDX-License-Identifier: Apache-2.0
"""A hypervisor of two source files, linked for real, with a fix and its payload."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from xsplice_plugins.check.complete import check_payload
from xsplice_plugins.check.memory import Image, read_image
from xsplice_plugins.check.results import CheckReport, NewObject
from xsplice_plugins.check.tables import layouts
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.target.known import known_facts

FACTS = known_facts("4.17.5", 62)
SIZES = layouts(FACTS)
FLAGS = (
    "-O2", "-fno-pic", "-fno-pie", "-ffunction-sections", "-fdata-sections", "-fno-ipa-icf",
    "-fno-asynchronous-unwind-tables", "-fcf-protection=none", "-mcmodel=kernel", "-mno-red-zone",
    "-fno-stack-protector",
)  # fmt: skip

MACROS = r"""
#define LOCAL static __attribute__((noipa))
#define BUG(line) asm volatile("1: ud2\n.pushsection .bug_frames.2,\"a\",@progbits\n" \
  "2: .long 1b - 2b + (%c0 << 24), 0\n.popsection" :: "i"(line))
#define ALTERNATIVE(new) asm volatile("1: nop\nnop\nnop\n2:\n" \
  ".pushsection .altinstructions,\"a\",@progbits\n.long 1b - ., 3f - .\n.word 5\n" \
  ".byte 3, 4f - 3f, 0, 0\n.popsection\n" \
  ".pushsection .altinstr_replacement,\"ax\",@progbits\n3: " new "\n4:\n.popsection")
#define GUARDED(x) asm volatile("1: movl (%0), %%eax\n2:\n" \
  ".pushsection .fixup,\"ax\",@progbits\n3: xorl %%eax, %%eax\njmp 2b\n.popsection\n" \
  ".pushsection .ex_table,\"a\",@progbits\n.long 1b - ., 3b - .\n.popsection" \
  :: "r"(x) : "eax", "memory")
"""

UNIT = r"""
int elsewhere(int);
extern int shared;
static int counter = 5;
static int spare_counter = 5;
static const int table[4] = {1, 2, 3, 4};
int limit = 3;
const char *text(void) { return "the old text"; }
LOCAL int helper(int x) { counter += x; spare_counter -= x; return counter; }
int work(int x) { return helper(x) + limit; }
int look(int i) { return table[i & 3]; }
int traps(int x) { if (x) BUG(7); ALTERNATIVE("stac"); GUARDED(&shared); return shared; }
int count(void) { static int calls; return ++calls + elsewhere(calls); }
__attribute__((section(".init.text"))) int start(void) { return 1; }
int tally(void) { static int calls; return --calls + elsewhere(calls); }
"""
OTHER = """
int shared = 1;
int elsewhere(int x) { return x + shared; }
int more(int x) { return x * 5; }
"""
#: How a payload names what the image has.
KNOWN = r"""
extern int counter asm("unit.c_counter"), spare_counter asm("unit.c_spare_counter");
extern int calls_0 asm("unit.c_calls.0"), calls_1 asm("unit.c_calls.1");
extern int limit, shared;
extern const int table[4] asm("unit.c_table");
extern int helper(int) asm("unit.c_helper");
int elsewhere(int);
"""
HELPER = (
    '__attribute__((noipa)) int fixed(int x) asm("unit.c_helper");\n'
    "__attribute__((noipa)) int fixed(int x) {body}\n"
)
FIXED_TEXT = 'const char *text(void) { return "the new text"; }\n'
FIXED_WORK = "int work(int x) { return helper(x) - limit; }\n"
TEXT = ("the old text", "the new text")
WORK = ("helper(x) + limit", "helper(x) - limit")

SCRIPT = """
SECTIONS {
  . = 0xffffffff80200000;
  .text : { *(.text .text.*) *(.init.text) *(.fixup) *(.altinstr_replacement) }
  .rodata : {
    __start___ex_table = .; *(.ex_table) __stop___ex_table = .;
    __start_bug_frames = .; *(.bug_frames.2) __stop_bug_frames_0 = __start_bug_frames;
    __stop_bug_frames_1 = __start_bug_frames; __stop_bug_frames_2 = .;
    *(.rodata .rodata.*) *(.data.rel.ro .data.rel.ro.*)
    . = ALIGN(8); __alt_instructions = .; *(.altinstructions) __alt_instructions_end = .;
  }
  .data : { *(.data .data.*) }
  .bss : { *(.bss .bss.*) }
  /DISCARD/ : { *(.comment) *(.note*) }
}
"""

RECORDS = r"""
struct livepatch_func {
  const char *name; void *new_addr, *old_addr; unsigned new_size, old_size;
  unsigned char version, opaque[31], more[8], expect[32];
};
"""


def run(*words: object, cwd: Path) -> None:
    """Run a program; what it says is shown if it fails."""
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def compiled(folder: Path, name: str, source: str, *flags: str) -> bytes:
    """Compile a C source; its STT_FILE symbol is the name."""
    (folder / name).write_text(MACROS + source)
    run("gcc", *FLAGS, *flags, "-c", name, "-o", "out.o", cwd=folder)
    return (folder / "out.o").read_bytes()


def linked(folder: Path, *objects: bytes) -> bytes:
    """Link objects as Xen is linked."""
    names = [f"part{number}.o" for number in range(len(objects))]
    for name, data in zip(names, objects, strict=True):
        (folder / name).write_bytes(data)
    (folder / "image.lds").write_text(SCRIPT)
    run("ld", "-T", "image.lds", "-o", "image", *names, cwd=folder)
    return (folder / "image").read_bytes()


@dataclass(frozen=True, kw_only=True)
class World:
    """The tiny hypervisor as it runs."""

    folder: Path
    unit: bytes
    other: bytes
    image_data: bytes
    image: Image


def world(folder: Path, source: str = UNIT) -> World:
    """Build the tiny hypervisor."""
    unit, other = compiled(folder, "unit.c", source), compiled(folder, "other.c", OTHER)
    data = linked(folder, unit, other)
    image = read_image(data, "image", SIZES)
    return World(folder=folder, unit=unit, other=other, image_data=data, image=image)


def size_of(data: bytes, name: str) -> int:
    """Return a symbol's size."""
    return next(s.size_bytes for s in read_elf(data, "object").symbols if s.name == name)


def payload(
    known: World,
    new: bytes,
    source: str,
    replaced: tuple[str, ...],
    more: str = "",
    *,
    old: bytes | None = None,
    flags: tuple[str, ...] = (),
) -> bytes:
    """Compile a payload: code as the fix has it, and records for the replaced functions.

    Args:
        known: What it is for.
        new: The object compiled from the patched source, which tells the sizes.
        source: The payload's C source; what the image has is declared with its decorated name.
        replaced: Names of the functions that get records.
        more: What a test wants besides.
        old: The object that tells the old sizes, if not the tiny hypervisor's.
        flags: More options of the compiler.
    """
    old = known.unit if old is None else old
    rows = "".join(
        f'{{"{name}", (void *){name}, 0, {size_of(new, name)}, {size_of(old, name)}, 2}},'
        for name in replaced
    )
    place = '__attribute__((section(".livepatch.funcs"), used, aligned(8)))'
    records = f"struct livepatch_func records[] {place} = {{{rows}}};"
    text = f"{RECORDS}{source}\n{records if rows else ''}{more}"
    # The assembler takes what follows `#` for a comment.
    return compiled(known.folder, "payload.c", text, *flags).replace(b"unit.c_", b"unit.c#")


def checked(known: World, new: bytes, data: bytes, neutral: bytes | None = None) -> CheckReport:
    """Run the check on a fix of the one source file."""
    fix = NewObject(path="unit.o", new=new, baseline=known.unit, neutral=neutral)
    return check_payload(known.image, data, [fix], FACTS)


def changed(known: World, tmp_path: Path, *edits: tuple[str, str]) -> bytes:
    """Return the unit with some edits, compiled."""
    source = UNIT
    for old, new in edits:
        assert old in source
        source = source.replace(old, new)
    return compiled(tmp_path, "unit.c", source)


def texts(found: CheckReport) -> str:
    """Return what a check found, a line each."""
    return "\n".join(": ".join(row) for row in found.differences)


def payload_of_helper(known: World, new: bytes, code: str) -> bytes:
    """Return a payload that replaces ``helper``, which the image knows under its local name."""
    sizes = f"{size_of(new, 'helper')}, {size_of(known.unit, 'helper')}"
    place = '__attribute__((section(".livepatch.funcs"), used, aligned(8)))'
    record = f'{{"unit.c_helper", (void *)fixed, 0, {sizes}, 2}}'
    more = f"struct livepatch_func own[] {place} = {{{record}}};"
    data = KNOWN.replace("extern int helper(int)", "extern int unused(int)")
    return payload(known, new, data + code, (), more)
