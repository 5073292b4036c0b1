# SPDX-License-Identifier: Apache-2.0
"""Damaged inputs end in one of our own errors, never in a traceback."""

from __future__ import annotations

import contextlib
import hashlib
import random
import struct

import pytest
from msgspec import structs

from tests.kit.link_inputs import Compiler, closure_delta, link
from xsplice_plugins.artefacts import Delta, Reference
from xsplice_plugins.errors import XspliceError

pytestmark = pytest.mark.toolchain

IMAGE = """
int counter = 7;
int __attribute__((noinline)) other(int x) { return x ^ 5; }
int entry(int x) { return other(x) * 3; }
"""
FIX = r"""
extern int counter; int other(int);
static int fresh[3] = {1, 2, 3};
int *element(int x) { return &fresh[x]; }
static int hook(void) { return ++counter; }
static void *const __attribute__((used, section(".livepatch.hooks.load"))) slot = hook;
int entry(int x)
{
    asm volatile("6: nop; nop; nop\n"
        ".pushsection .altinstructions,\"a\"; .long 6b - ., 7f - .; .word 1\n"
        ".byte 3, 8f - 7f, 0, 0; .popsection\n"
        ".pushsection .altinstr_replacement,\"ax\"; 7: clac; 8: .popsection\n");
    return other(x) + (*"text" == x);
}
const char *text(void) { return "text"; }
"""
VALUES = (0, 1, 2, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, (1 << 63) - 1, (1 << 64) - 1)


def damage(data: bytes, rnd: random.Random) -> bytes:
    """Overwrite one field somewhere: in the header, the section headers or the content."""
    result = bytearray(data)
    headers = struct.unpack_from("<Q", data, 40)[0]
    place = rnd.choice(
        (rnd.randrange(64), rnd.randrange(headers, len(data) - 8), rnd.randrange(len(data) - 8))
    )
    size = rnd.choice((1, 2, 4, 8))
    value = rnd.choice(VALUES) & ((1 << 8 * size) - 1)
    result[place : place + size] = value.to_bytes(size, "little")
    return bytes(result)


def misstate(delta: Delta, rnd: random.Random) -> Delta:
    """Change one number of a delta."""
    if rnd.random() < 0.5:
        i = rnd.randrange(len(delta.extents))
        field = rnd.choice(("section", "offset", "size_bytes"))
        value = rnd.choice((-1, 0, 1, 2, 5, 9, 100, 1 << 40))
        changed = structs.replace(delta.extents[i], **{field: value})
        extents = (*delta.extents[:i], changed, *delta.extents[i + 1 :])
        return structs.replace(delta, extents=extents)
    reference = Reference(
        section=rnd.choice((-1, 0, 3, 5, 99)),
        offset=rnd.choice((-4, 0, 4)),
        size_bytes=rnd.choice((-1, 0, 4, 1 << 40)),
        target=rnd.choice(("counter", "nobody", "")),
        target_offset=rnd.choice((0, -4)),
    )
    return structs.replace(delta, references=(*delta.references, reference))


@pytest.mark.parametrize("what", ["object", "image", "beneath", "delta"])
def test_damage_raises_our_errors_only(compiler: Compiler, what: str) -> None:
    image = compiler.image(core_c=IMAGE)
    data = compiler.object("core.c", FIX)
    delta = closure_delta(data, "core.o", ("entry",), new=("hook", "element", "fresh", "text"))
    beneath = link(image, (delta, data)).data
    rnd = random.Random(what)  # noqa: S311  (repeatable damage, no secrets)
    refused = 0
    for _ in range(200):
        object_, image_ = data, image
        beneath_: bytes | tuple[bytes, ...] = ()
        delta_ = delta
        if what == "object":
            object_ = damage(data, rnd)
            delta_ = structs.replace(delta, digest_new=hashlib.sha256(object_).hexdigest())
        elif what == "image":
            image_ = damage(image, rnd)
        elif what == "beneath":
            beneath_ = damage(beneath, rnd)
        else:
            delta_ = misstate(delta, rnd)
        refused += 1
        with contextlib.suppress(XspliceError):
            link(image_, (delta_, object_), beneath=beneath_)
            refused -= 1
    assert refused
