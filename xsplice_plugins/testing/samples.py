# SPDX-License-Identifier: Apache-2.0
"""Small well-formed inputs for tests of plugins, built in code."""

from __future__ import annotations

import hashlib

from xsplice_plugins.artefacts import ObjectPair, PayloadRecord
from xsplice_plugins.elf.types import (
    EM_X86_64,
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHT_PROGBITS,
    STB_GLOBAL,
    STT_FILE,
    STT_FUNC,
)
from xsplice_plugins.elf.writer import ABSOLUTE, OutSection, OutSymbol, write_object


def sample_payload(
    *, name: str = "sample", machine: int = EM_X86_64
) -> tuple[bytes, PayloadRecord]:
    """Return the bytes and the record of a payload that is good enough to be signed."""
    data = _object(b"\xb8\x01\x00\x00\x00\xc3", name, machine)
    record = PayloadRecord(
        name=name,
        release="4.17.5",
        machine=machine,
        build_id="00" * 20,
        depends="11" * 20,
        xen_depends="11" * 20,
        digest=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        functions=(),
        new=(),
        hooks=(),
        references=(),
    )
    return data, record


def sample_objects(
    *, answer_before: int = 1, answer_after: int = 2, machine_new: int = EM_X86_64
) -> tuple[ObjectPair, bytes, bytes]:
    """Return a pair of objects: ``int answer(void)`` returns one number, then another.

    Returns:
        The pair's record, the baseline object, the new object.
    """
    sides = [
        # mov $answer,%eax; ret
        _object(b"\xb8" + answer.to_bytes(4, "little") + b"\xc3", "answer", machine)
        for answer, machine in ((answer_before, EM_X86_64), (answer_after, machine_new))
    ]
    pair = ObjectPair(
        object_path="common/answer.o",
        source_path="common/answer.c",
        is_changed=sides[0] != sides[1],
        is_init=False,
        baseline="answer.o.xsplice.baseline",
        new="answer.o.xsplice.new",
        digest_baseline=hashlib.sha256(sides[0]).hexdigest(),
        digest_new=hashlib.sha256(sides[1]).hexdigest(),
        compiler="none",
        layouts="in the sources",
    )
    return pair, sides[0], sides[1]


def _object(code: bytes, name: str, machine: int) -> bytes:
    section = f".text.{name}"
    sections = (
        OutSection(
            name=section,
            type=SHT_PROGBITS,
            flags=SHF_ALLOC | SHF_EXECINSTR,
            align_bytes=16,
            data=code,
        ),
    )
    symbols = (
        OutSymbol(key="file", name=f"common/{name}.c", section=ABSOLUTE, type=STT_FILE),
        OutSymbol(
            key="function",
            name=name,
            section=section,
            size_bytes=len(code),
            bind=STB_GLOBAL,
            type=STT_FUNC,
        ),
    )
    return write_object(sections, symbols, machine=machine)
