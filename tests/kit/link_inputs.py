# SPDX-License-Identifier: Apache-2.0
"""A tiny hypervisor image and hand-made deltas over objects that gcc compiles from strings.

The deltas are made the simplest way that is right: whole sections. The true differ is tested
elsewhere; here only the linker's contract counts.
"""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from xsplice_plugins.artefacts import (
    Cause,
    ChangedFunction,
    Delta,
    Extent,
    Facts,
    NewItem,
    Reference,
)
from xsplice_plugins.elf.reader import ElfFile, read_elf
from xsplice_plugins.elf.types import SHF_MERGE, STT_FUNC, STT_NOTYPE, STT_OBJECT
from xsplice_plugins.link.payload import link_payload
from xsplice_plugins.plugins.spec import Config
from xsplice_plugins.target.known import known_facts
from xsplice_plugins.target.references import References
from xsplice_plugins.target.sections import profile_of

if TYPE_CHECKING:
    from xsplice_plugins.artefacts import Payload
    from xsplice_plugins.elf.types import Reloc, Section

FLAGS = (
    *("-O2", "-c", "-fpic", "-fvisibility=hidden", "-ffreestanding", "-fno-common"),
    *("-mno-red-zone", "-mno-sse", "-ffunction-sections", "-fdata-sections"),
    *("-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fcf-protection=none"),
    "-Wa,-mx86-used-note=no",
)

#: As Xen has it: without this, gcc reaches extern data through a GOT.
HIDDEN = "#pragma GCC visibility push(hidden)\n"

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
        __alt_call_sites_start = .; *(.alt_call_sites) __alt_call_sites_end = .;
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
            (place / name).write_text(HIDDEN + text, encoding="utf-8")
            subprocess.run(["gcc", *FLAGS, *extra, name, "-o", out.name], cwd=place, check=True)
        return out.read_bytes()

    def image(self, **texts: str) -> bytes:
        """Link C texts (``version_c="..."`` is ``version.c``) to an image with a build-id."""
        return self.image_of(
            *(self.object(key.replace("_c", ".c"), text) for key, text in texts.items())
        )

    def image_of(self, *objects: bytes) -> bytes:
        """Link objects to an image with a build-id."""
        digest = hashlib.sha256(b"".join(objects)).hexdigest()[:16]
        place = self.folder / f"image-{digest}"
        if not place.exists():
            place.mkdir()
            names = [f"{number}.o" for number in range(len(objects))]
            for name, data in zip(names, objects, strict=True):
                (place / name).write_bytes(data)
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
    extents += [_whole(elf, elf.section_by_name[name].index, name) for name in take]
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
        profile="xen",
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
    facts: Facts | None = None,
    beneath: bytes | tuple[bytes, ...] = (),
    superseded: tuple[bytes, ...] = (),
) -> Payload:
    """Link parts (delta, object) against an image, beside payloads that are loaded."""
    deltas, objects = tuple(part[0] for part in parts), tuple(part[1] for part in parts)
    config = Config(release=release, facts=facts)
    with tempfile.TemporaryDirectory() as folder:

        def written(word: str, payloads: tuple[bytes, ...]) -> tuple[Path, ...]:
            paths = [Path(folder) / f"{word}{n or ''}.livepatch" for n in range(len(payloads))]
            for path, data in zip(paths, payloads, strict=True):
                path.write_bytes(data)
            return tuple(paths)

        stack = (beneath,) if isinstance(beneath, bytes) else beneath
        config = replace(
            config, depends=written("earlier", stack), supersedes=written("old", superseded)
        )
        return link_payload(name, deltas, objects, image, config)


def closure_delta(
    data: bytes,
    path: str,
    changed: tuple[str, ...],
    *,
    new: tuple[str, ...] = (),
    release: str = "4.17.5",
) -> Delta:
    """Make a delta of a real object: entries of tables and strings are taken one by one.

    Everything that the taken functions refer to and that is no string is a reference to the
    image's symbol of the same name.
    """
    elf = read_elf(data, path)
    profile = profile_of("xen", known_facts(release, elf.machine))
    places = References(elf, profile)
    base = delta(data, path, changed=changed, new=new)
    taken = {e.section for e in base.extents}
    extents = list(base.extents)
    for section in elf.sections:
        if section.name.startswith(".livepatch.hooks."):
            extents.append(_whole(elf, section.index, section.name))
        row = profile.table(section.name)
        size = row.entry_size_bytes if row is not None else 0
        for start in range(0, section.size_bytes, size) if size else ():
            inside = [r for r in elf.relocs(section) if start <= r.offset < start + size]
            if any(places.target_of(section, r).section_index in taken for r in inside):
                extents.append(
                    Extent(section=section.index, offset=start, size_bytes=size, owner="table")
                )
    references: dict[Reference, None] = {}
    done = 0
    while done < len(extents):
        extent = extents[done]
        done += 1
        section = elf.sections[extent.section]
        for reloc in elf.relocs(section):
            if extent.offset <= reloc.offset < extent.offset + extent.size_bytes:
                found = _follow(places, section, reloc, taken)
                if isinstance(found, Extent) and found not in extents:
                    extents.append(found)
                elif isinstance(found, Reference):
                    references[found] = None
    return replace(base, extents=tuple(extents), references=tuple(references))


def _follow(
    places: References, section: Section, reloc: Reloc, taken: set[int]
) -> Extent | Reference | None:
    elf, target = places.file, places.target_of(section, reloc)
    index = target.section_index
    if index is None or index in taken:
        return None
    there = elf.sections[index]
    if there.is_strings:
        start = there.data.rfind(b"\0", 0, target.offset) + 1 if target.offset else 0
        end = there.data.index(b"\0", target.offset) + 1
        return Extent(section=index, offset=start, size_bytes=end - start, owner="string")
    if there.flags & SHF_MERGE:
        start = target.offset - target.offset % there.entry_size_bytes
        return Extent(
            section=index, offset=start, size_bytes=there.entry_size_bytes, owner="constant"
        )
    if there.name == ".altinstr_replacement":
        size = section.data[reloc.offset - 4 + 11]
        return Extent(section=index, offset=target.offset, size_bytes=size, owner="alt")
    if there.name == ".fixup":
        return _whole(elf, index, "fixup")
    symbol = max(
        (s for s in elf.symbols if s.shndx == index and s.name and s.value <= target.offset),
        key=lambda s: (s.value, s.type != STT_NOTYPE, not s.is_local, s.size_bytes),
    )
    size = symbol.size_bytes or there.size_bytes - symbol.value
    return Reference(section=index, offset=symbol.value, size_bytes=size, target=symbol.decorated)
