# SPDX-License-Identifier: Apache-2.0
"""Which arm64 instructions may become NOPs; capstone is the second opinion."""

from __future__ import annotations

import capstone
import pytest

from xsplice_plugins.target.arm64 import decode

#: word: text, whether the next instruction runs after it, what it does to the stack pointer
WORDS = {
    0xD65F03C0: ("ret", False, 0),
    0x14000001: ("b #4", False, 0),
    0xD61F0200: ("br x16", False, 0),
    0xD4200000: ("brk #0", False, 0),
    0xD63F0200: ("blr x16", True, 0),
    0x94000001: ("bl #4", True, 0),
    0x54000040: ("b.eq #8", True, 0),
    0xB4000040: ("cbz x0, #8", True, 0),
    0xA9BF7BFD: ("stp x29, x30, [sp, #-0x10]!", True, None),
    0x910043FF: ("add sp, sp, #0x10", True, None),
    0xD10043FF: ("sub sp, sp, #0x10", True, None),
    0xF100001F: ("cmp x0, #0", True, 0),
    0xD2800020: ("mov x0, #1", True, 0),
    0xF9400001: ("ldr x1, [x0]", True, 0),
    0xD503201F: ("nop", True, 0),
}


@pytest.mark.parametrize("word", WORDS, ids=[text for text, _, _ in WORDS.values()])
def test_word_is_understood_as_capstone_does(word: int) -> None:
    text, falls_through, stack_bytes = WORDS[word]
    data = word.to_bytes(4, "little")
    (row,) = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM).disasm(data, 0)
    assert f"{row.mnemonic} {row.op_str}".strip() == text
    (own,) = decode(data, 0, {})
    assert (own.start, own.end) == (0, 4)
    assert (own.falls_through, own.stack_bytes) == (falls_through, stack_bytes)
