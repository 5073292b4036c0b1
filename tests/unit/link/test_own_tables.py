# SPDX-License-Identifier: Apache-2.0
"""Calls through the payload's own constant tables lead to functions that are known."""

from __future__ import annotations

import pytest

from tests.kit.link_inputs import HIDDEN, Compiler, closure_delta, link
from xsplice_plugins.elf.reader import read_elf

pytestmark = pytest.mark.toolchain

HEAD = f"""{HIDDEN}
#define NOINLINE __attribute__((noipa))
extern int keeps(const char *), reads(const char *);
extern const char *last; extern void *place; extern int number; extern int (*held)(const char *);
"""
THUNKS = "".join(
    f'asm (".globl __x86_indirect_thunk_{name}; __x86_indirect_thunk_{name}: jmp *%{name}");\n'
    for name in ("rax", "rcx", "rdx", "rbx", "rsi", "rdi", "rbp", "r8", "r9", "r10", "r11", "r12")
)
IMAGE = f"""{HEAD}{THUNKS}
const char *last; void *place; int number; int (*held)(const char *);
int NOINLINE reads(const char *s) {{ int n = 0; while ( *s++ ) n++; return n; }}
int NOINLINE keeps(const char *s) {{ last = s; return reads(s); }}
int entry(int x) {{ return x * 3 + number; }}
"""
FUNCTIONS = """
static int NOINLINE one(const char *s) { return s[0] + number; }
static int NOINLINE two(const char *s) { return s[1] + 7; }
"""
KEEPING = FUNCTIONS.replace("{ return s[1]", "{ last = s; return s[1]")
CONSTANT = "static int (*const table[])(const char *) = { one, two };\n"
TABLE = FUNCTIONS + CONSTANT
HARMLESS = {
    "tail": TABLE + 'int entry(int x) { return table[x & 1]("hello"); }',
    "call": TABLE + 'int entry(int x) { return table[x & 1]("hello") * 3; }',
    "loop": (
        TABLE + "int entry(int x) { int n = 0;"
        ' for ( int i = 0; i < x; i++ ) n += table[i & 1]("hello"); return n; }'
    ),
    "two places": (
        TABLE + "int entry(int x) {"
        ' return x ? 5 + table[x & 1]("hello") : 7 * table[number & 1]("other"); }'
    ),
    "structures": (
        FUNCTIONS + "static const struct { int key; int (*run)(const char *); } table[] ="
        ' { { 1, one }, { 2, two } };\nint entry(int x) { return table[x & 1].run("hello") + 1; }'
    ),
    "another function of Xen": (
        FUNCTIONS + "static int (*const table[])(const char *) = { one, reads };\n"
        'int entry(int x) { return table[x & 1]("hello") + 1; }'
    ),
}
HELD = {
    "address of the table": (
        TABLE + 'int entry(int x) { place = (void *)&table; return table[x & 1]("hello") + 1; }',
        "new `table` is stored in `place`",
    ),
    "address of an element": (
        TABLE + 'int entry(int x) { place = (void *)&table[x]; return table[x & 1]("hello"); }',
        "new `table` is stored in `place`",
    ),
    "an entry": (
        TABLE + 'int entry(int x) { held = table[x & 1]; return held("hello") + 1; }',
        "new `two` is stored in `held`",
    ),
    "not constant": (
        FUNCTIONS
        + CONSTANT.replace("const table", "table")
        + "int entry(int x) { table[number & 1] = held; "
        'return table[x & 1]("hello") + 1; }',
        "the text 'hello' is passed to a function pointer in `entry`",
    ),
    "a function of the table keeps": (
        KEEPING + CONSTANT + 'int entry(int x) { return table[x & 1]("hello"); }',
        "the text 'hello' is stored in `last` in `two`",
    ),
    "it keeps the table": (
        KEEPING + CONSTANT + "int entry(int x) { return table[x & 1]((const char *)table) + 1; }",
        "new `table` is stored in `last` in `two`",
    ),
    "a function of Xen keeps": (
        FUNCTIONS + "static int (*const table[])(const char *) = { one, keeps };\n"
        'int entry(int x) { return table[x & 1]("hello") + 1; }',
        "the text 'hello' is passed to `keeps`",
    ),
    "a replaced function keeps": (
        (
            "static int NOINLINE one(const char *s) { return s[0] + number; }\n"
            "extern int reads(const char *);\n"
            "static int (*const table[])(const char *) = { one, reads };\n"
            'int entry(int x) { return table[x & 1]("hello") + 1; }\n'
            "@int reads(const char *s) { last = s; return 1; }"
        ),
        "the text 'hello' is stored in `last` in `reads`",
    ),
    "another function on one way": (
        TABLE + "int entry(int x) { int (*f)(const char *) = table[x & 1];"
        ' if ( number ) f = held; return f("hello") + 1; }',
        "the text 'hello' is passed to a function pointer in `entry`",
    ),
    "another table on one way": (
        TABLE + "int entry(int x) { int (*const *t)(const char *) = number ? table : place;"
        ' return t[x]("hello") + 1; }',
        "the text 'hello' is passed to a function pointer in `entry`",
    ),
    "a function that the caller gives": (
        TABLE + "static int NOINLINE run(int (*f)(const char *), int x)"
        ' { return f("hello") + x; }\nint entry(int x) { return run(table[x & 1], 3) + x; }',
        "the text 'hello' is passed to a function pointer in `run`",
    ),
}


@pytest.fixture(scope="module")
def image(compiler: Compiler) -> bytes:
    return compiler.image(version_c=IMAGE)


def unchecked(compiler: Compiler, image: bytes, text: str, *flags: str) -> tuple[str, ...]:
    text, _, replaced = text.partition("@")
    new = compiler.object("version.c", f"{HEAD}{text}", *flags)
    there = {symbol.name for symbol in read_elf(new, "version.o").symbols}
    own = [name for name in ("one", "two", "table", "run") if name in there]
    rows = [(closure_delta(new, "version.o", ("entry",), new=tuple(own)), new)]
    if replaced:
        other = compiler.object("kernel.c", f"{HEAD}{replaced}", *flags)
        rows.append((closure_delta(other, "kernel.o", ("reads",)), other))
    return link(image, *rows).record.unchecked


@pytest.mark.parametrize("flag", ["plain", "thunk-extern"])
@pytest.mark.parametrize("text", HARMLESS.values(), ids=HARMLESS)
def test_own_functions_of_a_constant_table_are_followed(
    compiler: Compiler, image: bytes, text: str, flag: str
) -> None:
    flags = [f"-mindirect-branch={flag}"] if flag != "plain" else []
    assert unchecked(compiler, image, text, *flags) == ()


@pytest.mark.parametrize("flag", ["plain", "thunk-extern"])
@pytest.mark.parametrize(("text", "found"), HELD.values(), ids=HELD)
def test_what_leaves_by_such_a_call_is_named(
    compiler: Compiler, image: bytes, text: str, found: str, flag: str
) -> None:
    flags = [f"-mindirect-branch={flag}"] if flag != "plain" else []
    rows = unchecked(compiler, image, text, *flags)
    assert any(found in row for row in rows), rows
