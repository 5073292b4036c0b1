# SPDX-License-Identifier: Apache-2.0
"""What a payload holds, seen by readelf's eyes and by a loader written for this test."""

from __future__ import annotations

import pytest

from tests.kit.link_inputs import Compiler, delta, link
from xsplice_plugins.elf.reader import read_elf

pytestmark = pytest.mark.toolchain

IMAGE = r"""
int counter = 7;
extern int other(int);
static int __attribute__((noinline)) helper(int x) { counter += x; return other(x) + x; }
int entry(int x) { return helper(x) * 3; }
const char *extra(void) { return "-old"; }
int __attribute__((noinline)) other(int x) { return x ^ 5; }
int __attribute__((section(".init.text"))) at_boot(int x) { return x + counter; }
int tiny(void);
asm(".text\n.globl tiny\n.type tiny,@function\ntiny: ret\n.size tiny,.-tiny\n");
"""


@pytest.fixture(scope="module")
def image(compiler: Compiler) -> bytes:
    return compiler.image(version_c=IMAGE)


def test_changed_function_with_a_string_makes_a_payload(compiler: Compiler, image: bytes) -> None:
    new = compiler.object("version.c", IMAGE.replace("-old", "-new"))
    part = delta(new, "version.o", changed=("extra",), take=(".rodata.extra.str1.1",))
    payload = link(image, (part, new))
    elf = read_elf(payload.data, "payload")
    assert elf.section_by_name[".rodata.str"].data == b"-new\0"
    assert elf.section_by_name[".livepatch.strings"].data == b"extra\0"
    (function,) = payload.record.functions
    assert function.name == "extra"
    assert payload.record.depends == payload.record.xen_depends
