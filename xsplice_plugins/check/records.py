# SPDX-License-Identifier: Apache-2.0
"""The function records of a payload, ``.livepatch.funcs``.

Source: ``struct livepatch_func`` of xen/include/public/sysctl.h.
"""

from __future__ import annotations

from typing import NamedTuple

from xsplice_plugins.artefacts import Facts
from xsplice_plugins.check.memory import Image, Loaded
from xsplice_plugins.errors import ElfFormatError

FUNCS = ".livepatch.funcs"
_EXPECT = 72  #: a byte of bits, then the bytes expected at the old address; version 2


class Record(NamedTuple):
    """One function record."""

    name: str
    new: int | None  #: address of the replacement; ``None`` if it has none
    old: int | None  #: address in the image; ``None`` where the name does not tell
    new_size: int
    old_size: int
    expect: bytes  #: what must lie at the old address; b"" if nothing is asked


def _text(payload: Loaded, addr: int | None) -> str:
    found = bytearray()
    while addr is not None and (byte := payload.read(addr + len(found), 1)) and byte != b"\0":
        found += byte
    return found.decode("utf-8", "replace")


def read_records(payload: Loaded, image: Image, facts: Facts) -> list[Record]:
    """Read a payload's function records.

    Args:
        payload: The payload in memory.
        image: What looks a name up where a record has no old address.
        facts: What the build's headers define.

    Raises:
        ElfFormatError: The section is no whole number of records.
    """
    result = []
    for area in payload.section(FUNCS):
        if (area.end - area.start) % facts.record_size_bytes:
            raise ElfFormatError(
                f"{payload.elf.name}({FUNCS}): not the records of Xen {facts.release}; build the "
                "payload for this release"
            )
        for at in range(area.start, area.end, facts.record_size_bytes):
            raw = payload.read(at, facts.record_size_bytes) or b""
            named, new, old = (payload.filled.get(at + offset) for offset in (0, 8, 16))
            name = _text(payload, named.value if named else None)
            literal = int.from_bytes(raw[16:24], "little")
            home = image.only(name)
            told = literal or (home.value if home else None)
            old_addr = old.value if old is not None else told
            bits = raw[_EXPECT] if len(raw) > _EXPECT else 0
            result.append(
                Record(
                    name=name,
                    new=new.value if new else None,
                    old=old_addr,
                    new_size=int.from_bytes(raw[24:28], "little"),
                    old_size=int.from_bytes(raw[28:32], "little"),
                    expect=raw[_EXPECT + 1 :][: bits >> 1 & 31] if bits & 1 else b"",
                )
            )
    return result
