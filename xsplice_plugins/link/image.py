# SPDX-License-Identifier: Apache-2.0
"""What the linker must know of the running hypervisor, read from ``xen-syms`` in one pass."""

from __future__ import annotations

import difflib
import hashlib
import re
import struct
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from xsplice_plugins.elf.types import (
    SHN_LORESERVE,
    SHN_UNDEF,
    SHT_NOBITS,
    STT_FILE,
    STT_FUNC,
    STT_NOTYPE,
)
from xsplice_plugins.errors import LinkError
from xsplice_plugins.target.abi import BUILD_ID_SECTION
from xsplice_plugins.target.references import entry_distance, within

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xsplice_plugins.elf.reader import ElfFile
    from xsplice_plugins.elf.types import Section, Symbol
    from xsplice_plugins.target.machine import Instruction
    from xsplice_plugins.target.sections import Profile, SpecialSection

_CLONE = re.compile(r"\.(?:constprop|isra|part|cold)(?:\.|$)")
_SEALED = "a sealed ENDBR64"
_POINTER = struct.Struct("<Q")
_NOTE = struct.Struct("<III")
_NOTE_OWNER = b"GNU\0"
_NT_GNU_BUILD_ID = 3
BUILD_ID_SIZE_BYTES = 20  #: as SHA-1 has it; tools and the hypervisor's messages expect that
#: Marker symbols that the hypervisor keeps though they are absolute (xen/tools/symbols.c).
_MARKERS = frozenset(
    {"_stext", "_etext", "_sinittext", "_einittext", "_sextratext", "_eextratext", "__gp"}
)


class ImageSymbol(NamedTuple):
    """A name of the hypervisor's symbol table."""

    name: str  #: decorated
    addr_virt: int
    size_bytes: int
    is_function: bool
    #: A function or datum whose memory is freed after boot. Labels such as `_sinittext` and
    #: `trampoline_start` are not counted: running code compares with them and computes offsets.
    is_init: bool
    is_unique: bool  #: no other symbol of this name lies at another address


class Rewrite(NamedTuple):
    """A range of text that boot may rewrite, and why."""

    addr_virt: int
    size_bytes: int
    reason: str

    @property
    def is_endbr(self) -> bool:
        """Tell whether boot seals a landing pad there, if there is one."""
        return self.reason == _SEALED


@dataclass(frozen=True, kw_only=True)
class XenImage:
    """Facts about one ``xen-syms``. Build it with `read_image`."""

    elf: ElfFile = field(repr=False)
    build_id: bytes
    symbols: dict[str, ImageSymbol] = field(repr=False)
    profile: Profile = field(repr=False)

    @property
    def name(self) -> str:
        """Return how messages call the image."""
        return self.elf.name

    @cached_property
    def _ranges(self) -> tuple[tuple[int, ...], tuple[Section, ...]]:
        loaded = sorted(
            (s for s in self.elf.sections if s.is_alloc and s.type != SHT_NOBITS and s.size_bytes),
            key=lambda s: s.addr_virt,
        )
        return tuple(s.addr_virt for s in loaded), tuple(loaded)

    @cached_property
    def addr_end_virt(self) -> int:
        """Return the first address behind the image."""
        return max(s.addr_virt + s.size_bytes for s in self.elf.sections if s.is_alloc)

    def section_at(self, addr_virt: int) -> Section | None:
        """Return the section with content that covers an address."""
        starts, sections = self._ranges
        i = bisect_right(starts, addr_virt) - 1
        if i < 0 or addr_virt >= starts[i] + sections[i].size_bytes:
            return None
        return sections[i]

    def read(self, addr_virt: int, size_bytes: int) -> bytes:
        """Return bytes as the image's file holds them; fewer if its section ends before."""
        section = self.section_at(addr_virt)
        if section is None:
            return b""
        offset = addr_virt - section.addr_virt
        return section.data[offset : offset + size_bytes]

    @cached_property
    def rewrites(self) -> tuple[Rewrite, ...]:
        """Return the ranges of text that boot may change, sorted by address.

        Source: xen/arch/x86/alternative.c: replaced alternatives and padding, alternative calls
        (part of ``.altinstructions`` until 4.20, of ``.alt_call_sites`` since), and ENDBR64 of
        functions named by ``__initdata_cf_clobber_start`` to ``_end``.
        """
        result = []
        for row in self.profile.tables:
            for entry, site in self._entries(row) if row.rewritten else ():
                size = sum(entry[at] for at in row.rewritten_lengths) or row.rewritten_size_bytes
                result.append(Rewrite(site, size, row.rewritten))
        for start_name, end_name in (
            ("__initdata_cf_clobber_start", "__initdata_cf_clobber_end"),
            ("__initconst_cf_clobber_start", "__initconst_cf_clobber_end"),
        ):
            _start, content = self._between(start_name, end_name)
            result += [
                Rewrite(addr, len(self.profile.machine.endbr), _SEALED)
                for (addr,) in _POINTER.iter_unpack(content[: len(content) & ~7])
                if addr
            ]
        return tuple(sorted(result))

    def _entries(self, row: SpecialSection) -> Iterator[tuple[bytes, int]]:
        """Yield bytes and owner's address of each entry of a table of the image."""
        size = row.entry_size_bytes
        start, content = self._between(*row.bounds)
        if content and (not size or len(content) % size):
            raise LinkError(
                f"{self.name}: {row.bounds[0]} to {row.bounds[1]} has {len(content)} bytes, no "
                f"multiple of the {size} that the release has; is the release right?"
            )
        for at in range(0, len(content), size or 1):
            entry = content[at : at + size]
            word = int.from_bytes(entry[row.owner_field :][:4], "little", signed=True)
            base = start + at + (0 if row.counts_from_entry else row.owner_field)
            yield entry, base + entry_distance(row, word)

    @property
    def traps(self) -> dict[int, int]:
        """Return where instructions lie that a decoder may not know: address -> length."""
        return self._traps[0]

    @property
    def resumed(self) -> frozenset[int]:
        """Return the addresses of traps behind which code goes on."""
        tables = [row for row in self.profile.tables if row.is_resumed]
        return frozenset(site for row in tables for _entry, site in self._entries(row))

    @cached_property
    def _traps(self) -> tuple[dict[int, int], list[int]]:
        """Return `traps`, and their addresses in order."""
        found = {
            site: len(row.trap)
            for row in self.profile.tables
            if row.trap
            for _entry, site in self._entries(row)
            if self.read(site, len(row.trap)) == row.trap
        }
        return found, sorted(found)

    def instructions(self, addr_virt: int, size_bytes: int) -> tuple[Instruction, ...]:
        """Return the instructions of a range; their places are addresses."""
        marks = within(*self._traps, addr_virt, addr_virt + size_bytes)
        code = self.read(addr_virt, size_bytes)
        return self.profile.machine.decode(code, addr_virt, marks)

    def _between(self, start_name: str, end_name: str) -> tuple[int, bytes]:
        start, end = self.symbols.get(start_name), self.symbols.get(end_name)
        if start is None or end is None or start.addr_virt >= end.addr_virt:
            return 0, b""
        size = end.addr_virt - start.addr_virt
        content = self.read(start.addr_virt, size)
        if len(content) != size:
            raise LinkError(f"{self.name}: {start_name} to {end_name} is no part of one section")
        return start.addr_virt, content

    def near(self, name: str) -> str:
        """Return names that a person may have meant, for a message; "" if there are none.

        Copies of functions are not named: nobody can call them as the sources do.
        """
        plain = name.rpartition("#")[2]
        known = sorted(n for n in self.symbols if not is_clone(n))
        twins = [n for n in known if n.rpartition("#")[2] == plain and n != name]
        found = twins[:3] or difflib.get_close_matches(name, known, n=3, cutoff=0.75)
        return ", ".join(found)

    def clones(self, name: str) -> str:
        """Return the copies that the compiler left in a function's place, for a message."""
        plain = name.rpartition("#")[2]
        known = {n: n.rpartition("#")[2] for n in self.symbols}
        if plain in known.values():
            return ""
        rows = sorted(n for n, other in known.items() if other.startswith(f"{plain}."))
        return ", ".join([n for n in rows if is_clone(n) and not n.endswith(".cold")][:3])


def is_clone(name: str) -> bool:
    """Tell whether a name is of the compiler's own copy or part of a function.

    Its arguments are not those of the source.
    """
    return _CLONE.search(name.rpartition("#")[2]) is not None


def read_image(elf: ElfFile, profile: Profile) -> XenImage:
    """Read the facts about an image.

    Raises:
        LinkError: No symbol table or no build-id.
    """
    name = elf.name
    note = elf.section_by_name.get(BUILD_ID_SECTION)
    if note is None or not note.data:
        raise LinkError(f"{name}: it has no build-id; build it with `ld --build-id=sha1`")
    symbols = _symbols(elf)
    if not symbols:
        raise LinkError(f"{name}: it has no symbols; give xen-syms, not the stripped xen")
    return XenImage(
        elf=elf,
        build_id=read_note(note.data, f"{name}({BUILD_ID_SECTION})"),
        symbols=symbols,
        profile=profile,
    )


def _symbols(elf: ElfFile) -> dict[str, ImageSymbol]:
    """Build the hypervisor's own table of names.

    Source: xen/tools/symbols.c; the tests hold the names against ``xen-syms.map``.
    """
    init_sections = {s.index for s in elf.sections if s.name.startswith(".init")}
    result: dict[str, ImageSymbol] = {}
    for symbol in elf.symbols:
        if not _is_in_table(symbol):
            continue
        name = symbol.decorated
        size, is_unique = symbol.size_bytes, True
        known = result.get(name)
        if known is not None:
            is_unique = known.is_unique and known.addr_virt == symbol.value
            size = max(size, known.size_bytes)
        result[name] = ImageSymbol(
            name,
            symbol.value,
            size,
            symbol.type == STT_FUNC,
            symbol.shndx in init_sections and symbol.type != STT_NOTYPE,
            is_unique,
        )
    return result


def _is_in_table(symbol: Symbol) -> bool:
    if symbol.type == STT_FILE or not symbol.name or symbol.shndx == SHN_UNDEF:
        return False
    if symbol.shndx >= SHN_LORESERVE and symbol.name not in _MARKERS:
        return False
    return not symbol.name.startswith("$") and "_compiled." not in symbol.decorated


def write_note(build_id: bytes) -> bytes:
    """Return a GNU build-id note (System V gABI chapter 5, "Note Section")."""
    head = _NOTE.pack(len(_NOTE_OWNER), len(build_id), _NT_GNU_BUILD_ID)
    return head + _NOTE_OWNER + build_id + bytes(-len(build_id) % 4)


def read_note(data: bytes, name: str) -> bytes:
    """Return the build-id that a note's section holds; messages call it ``name``.

    Raises:
        LinkError: Not a GNU build-id note, or an empty one.
    """
    if len(data) >= _NOTE.size:
        name_size, size, kind = _NOTE.unpack_from(data)
        start = _NOTE.size + (name_size + 3 & ~3)
        owner = data[_NOTE.size : _NOTE.size + name_size]
        build_id = data[start : start + size]
        if kind == _NT_GNU_BUILD_ID and owner == _NOTE_OWNER and size and len(build_id) == size:
            return build_id
    raise LinkError(f"{name}: not a GNU build-id note; build the file again with --build-id=sha1")


def derive_build_id(data: bytes) -> bytes:
    """Return the identity of a payload: a hash of its bytes with the id's place zeroed."""
    return hashlib.sha256(data).digest()[:BUILD_ID_SIZE_BYTES]
