# SPDX-License-Identifier: Apache-2.0
"""A tiny hypervisor image and hand-made deltas over objects that gcc compiles from strings.

The deltas are made the simplest way that is right: whole sections. The true differ is tested
elsewhere; here only the linker's contract counts.
"""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xsplice_plugins.artefacts import (
    Cause,
    ChangedFunction,
    Delta,
    Extent,
    NewItem,
    Reference,
)
from xsplice_plugins.elf.reader import ElfFile, read_elf
from xsplice_plugins.elf.types import STT_FUNC, STT_OBJECT
from xsplice_plugins.link.payload import LinkRequest, link_payload

if TYPE_CHECKING:
    from pathlib import Path

    from xsplice_plugins.artefacts import Payload

FLAGS = [
    "-O2",
    "-c",
    "-fpic",
    "-fvisibility=hidden",
    "-ffreestanding",
    "-fno-common",
    "-mno-red-zone",
    "-mno-sse",
    "-ffunction-sections",
    "-fdata-sections",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-fcf-protection=none",
    "-Wa,-mx86-used-note=no",
]

LINKER_SCRIPT = """
SECTIONS {
    . = 0xffff82d040200000;
    .text : { _stext = .; *(.text .text.*) *(.fixup) _etext = .; }
    .rodata : { *(.rodata .rodata.*) *(.ex_table) *(.bug_frames.*) }
    .note.gnu.build-id : { *(.note.gnu.build-id) }
    . = ALIGN(4096);
    .init.text : { __init_begin = .; *(.init.text) *(.altinstr_replacement) }
    .init.data : {
        *(.init.data .init.rodata)
        __alt_instructions = .; *(.altinstructions) __alt_instructions_end = .;
        . = ALIGN(8);
        __initdata_cf_clobber_start = .; *(.clobber) __initdata_cf_clobber_end = .;
        __init_end = .;
    }
    .data : { *(.data .data.*) }
    .bss : { *(.bss .bss.*) }
    /DISCARD/ : { *(.comment) *(.note.GNU-stack) *(.note.gnu.property) }
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiler:
    """Compile C in one folder; the same text and name are compiled once."""

    folder: Path

    def object(self, name: str, text: str, *extra: str) -> bytes:
        """Compile a C text to an object whose STT_FILE is ``name``."""
        digest = hashlib.sha256("\0".join((name, text, *extra)).encode()).hexdigest()[:16]
        place = self.folder / digest
        out = place / (name + ".o")
        if not out.exists():
            place.mkdir(exist_ok=True)
            (place / name).write_text(text, encoding="utf-8")
            subprocess.run(["gcc", *FLAGS, *extra, name, "-o", out.name], cwd=place, check=True)
        return out.read_bytes()

    def image(self, **texts: str) -> bytes:
        """Link C texts (``version_c="..."`` is ``version.c``) to an image with a build-id."""
        place = self.folder / ("image-" + hashlib.sha256(repr(texts).encode()).hexdigest()[:16])
        if not place.exists():
            place.mkdir()
            names = []
            for key, text in texts.items():
                name = key.replace("_c", ".c")
                (place / (name + ".o")).write_bytes(self.object(name, text))
                names.append(name + ".o")
            (place / "xen.lds").write_text(LINKER_SCRIPT, encoding="utf-8")
            command = ["ld", "-T", "xen.lds", "--build-id=sha1", "-o", "xen-syms", *names]
            subprocess.run(command, cwd=place, check=True)
        return (place / "xen-syms").read_bytes()


def delta(
    data: bytes,
    path: str,
    *,
    changed: tuple[str, ...] = (),
    new: tuple[str, ...] = (),
    take: tuple[str, ...] = (),
    refer: dict[str, str] | None = None,
) -> Delta:
    """Make a delta by hand.

    Args:
        data: The new object.
        path: Its path, ``version.o``.
        changed: Plain names of functions that are replaced, with their sections.
        new: Plain names of functions and data that are new, with their sections.
        take: Names of further sections to take whole.
        refer: Map names of sections that the image has to its symbols.
    """
    elf = read_elf(data, path)
    by_name = {s.name: s for s in elf.symbols if s.type in (STT_FUNC, STT_OBJECT)}
    extents = [_whole(elf, by_name[n].shndx, by_name[n].decorated) for n in (*changed, *new)]
    for name in take:
        extents.append(_whole(elf, elf.section_by_name[name].index, name))
    references = tuple(
        Reference(
            section=elf.section_by_name[section].index,
            offset=0,
            size_bytes=elf.section_by_name[section].size_bytes,
            target=target,
        )
        for section, target in (refer or {}).items()
    )
    return Delta(
        object_path=path,
        source_path=path.replace(".o", ".c"),
        profile="xen-4.17",
        machine=elf.machine,
        digest_new=hashlib.sha256(data).hexdigest(),
        changed=tuple(_changed(elf, name, by_name[name].decorated) for name in changed),
        new=tuple(
            NewItem(
                name=by_name[n].decorated,
                reason="test",
                kind="function" if by_name[n].type == STT_FUNC else "data",
                symbol=n,
                section=elf.sections[by_name[n].shndx].name,
            )
            for n in new
        ),
        extents=tuple(dict.fromkeys(extents)),
        references=references,
    )


def _whole(elf: ElfFile, index: int, owner: str) -> Extent:
    return Extent(section=index, offset=0, size_bytes=elf.sections[index].size_bytes, owner=owner)


def _changed(elf: ElfFile, name: str, decorated: str) -> ChangedFunction:
    symbol = next(s for s in elf.symbols if s.name == name and s.type == STT_FUNC)
    return ChangedFunction(
        name=decorated,
        reason="test",
        cause=Cause.SOURCE,
        symbol=name,
        symbol_baseline=name,
        section=elf.sections[symbol.shndx].name,
        size_before_bytes=symbol.size_bytes,
        size_after_bytes=symbol.size_bytes,
    )


def link(
    image: bytes,
    *parts: tuple[Delta, bytes],
    name: str = "fix",
    release: str = "4.17.5",
    beneath: bytes | None = None,
) -> Payload:
    """Link parts (delta, object) against an image."""
    return link_payload(
        LinkRequest(
            name=name,
            deltas=tuple(part[0] for part in parts),
            objects=tuple(part[1] for part in parts),
            image=image,
            release=release,
            beneath=beneath,
            beneath_name="earlier.livepatch" if beneath is not None else "",
        )
    )
