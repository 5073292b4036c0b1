# SPDX-License-Identifier: Apache-2.0
"""Own addresses inside structures on the stack, which others reach through a pointer."""

from __future__ import annotations

import pytest

from tests.kit.link_inputs import HIDDEN, Compiler, closure_delta, link
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.types import STT_FUNC

pytestmark = pytest.mark.toolchain

HEAD = f"""{HIDDEN}
struct desc {{ long count; void (*run)(void *); long more[2]; }};
struct big {{ long count[24]; void (*run)(void *); }};
extern int number; extern void *slots[40]; extern volatile long size;
extern void look(const struct desc *), take(const struct desc *);
#define NOINLINE __attribute__((noinline))
"""
IMAGE = f"""{HEAD}
int number; void *slots[40]; volatile long size;
void NOINLINE look(const struct desc *d) {{ number += d->count; slots[3] = (void *)d->more[1]; }}
void NOINLINE take(const struct desc *d) {{ number++; slots[1] = (void *)d->run; }}
int entry(int x) {{ return x * 3 + number; }}
"""
#: A helper, what hands the address out, and code of the same shape that does not.
PAIRS = {
    "an own helper": (
        "static void NOINLINE help(const struct desc *d) { %s number++; }",
        "struct desc d = { size, tick }; help(&d);",
        "slots[2] = (void *)d->run;",
        "slots[2] = (void *)d->count;",
    ),
    "a helper that calls it": (
        "static void NOINLINE help(const struct desc *d) { %s number++; }",
        "struct desc d = { size, tick }; help(&d);",
        "d->run(0); slots[2] = (void *)d->run;",
        "d->run(0);",
    ),
    "a helper that gives the pointer back": (
        "static const struct desc *NOINLINE help(const struct desc *d) { number++; return d; }",
        "struct desc d = { size, tick }; const struct desc *p = help(&d); %s",
        "slots[2] = (void *)p->run;",
        "number += size;",
    ),
    "a function of the image": (
        "",
        "struct desc d = { size, tick }; %s",
        "take(&d);",
        "look(&d);",
    ),
    "a pointer that nobody sees through": (
        "",
        """struct desc d = { size, tick }; const struct desc *p = &d;
        asm volatile("" : "+r"(p) : : "memory"); %s""",
        "slots[2] = (void *)p->run;",
        "slots[2] = (void *)p->count;",
    ),
    "a pointer in memory": (
        "",
        "struct desc d = { size, tick }; const struct desc *volatile p = &d; %s",
        "slots[2] = (void *)p->run;",
        "slots[2] = (void *)p->count;",
    ),
    "one of several": (
        "static void NOINLINE help(const struct desc *d) { %s number++; }",
        "struct desc d[3] = { { size, tick } }; help(&d[size & 1]);",
        "slots[2] = (void *)d->run;",
        "d->run(0);",
    ),
    "a copy by one instruction": (
        "",
        """struct big d = { { size }, tick }; void *from = &d, *to = %s; long n = 25;
        asm volatile("rep movsq" : "+S"(from), "+D"(to), "+c"(n) : : "memory");""",
        "slots",
        "&(struct big){ { 1 } }",
    ),
}


@pytest.fixture(scope="module")
def image(compiler: Compiler) -> bytes:
    return compiler.image(version_c=IMAGE)


def _unchecked(compiler: Compiler, image: bytes, helper: str, does: str, part: str) -> object:
    tick = "static void NOINLINE tick(void *p) { number++; }"
    text = f"{HEAD}{tick}{helper}int entry(int x) {{ {does} return x; }}"
    new = compiler.object("version.c", text.replace("%s", part), "-mno-sse")
    own = tuple(
        s.name
        for s in read_elf(new, "version.o").symbols
        if s.type == STT_FUNC and s.shndx and s.name != "entry"
    )
    delta = closure_delta(new, "version.o", ("entry",), new=own)
    return link(image, (delta, new)).record.unchecked


@pytest.mark.parametrize(("helper", "does", "wrong", "_right"), PAIRS.values(), ids=PAIRS)
def test_what_is_kept_of_a_structure_on_the_stack_is_named(
    compiler: Compiler, image: bytes, helper: str, does: str, wrong: str, _right: str
) -> None:
    assert "address of new `tick`" in str(_unchecked(compiler, image, helper, does, wrong))


@pytest.mark.parametrize(("helper", "does", "_wrong", "right"), PAIRS.values(), ids=PAIRS)
def test_a_structure_on_the_stack_of_which_nothing_is_kept_is_not_spoken_of(
    compiler: Compiler, image: bytes, helper: str, does: str, _wrong: str, right: str
) -> None:
    assert _unchecked(compiler, image, helper, does, right) == ()
