# SPDX-License-Identifier: Apache-2.0
"""Names that the hypervisor must resolve, and names that a payload may add."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain, count
from typing import TYPE_CHECKING

from xsplice_plugins.elf.reader import ElfFile, read_elf
from xsplice_plugins.elf.types import (
    ET_REL,
    SHF_MERGE,
    SHN_LORESERVE,
    SHN_UNDEF,
    STT_FUNC,
)
from xsplice_plugins.errors import LinkError, RefusedError, XspliceError
from xsplice_plugins.link.image import read_image, read_note
from xsplice_plugins.target.abi import (
    BUILD_ID_SECTION,
    DEPENDS_SECTION,
    FUNCS_SECTION,
    NAME_OFFSET,
    NEW_ADDR_OFFSET,
    XEN_DEPENDS_SECTION,
    abi_of,
)
from xsplice_plugins.target.known import facts_of
from xsplice_plugins.target.machine import DIRECT

if TYPE_CHECKING:
    from pathlib import Path

    from xsplice_plugins.elf.types import Section
    from xsplice_plugins.link.image import ImageSymbol, XenImage
    from xsplice_plugins.plugins.spec import Config
    from xsplice_plugins.target.abi import Abi

_IMMEDIATE_MAX = 4  #: bytes of an instruction behind its displacement


@dataclass(frozen=True, kw_only=True)
class Beneath:
    """A payload that is loaded before the new one. Build it with `read_beneath`."""

    name: str  #: how messages call it
    build_id: bytes
    depends: bytes
    xen_depends: bytes  #: b"" in format 1
    #: The new names it brings, which a later payload may refer to and must not bring again: size
    #: of each function in bytes, 0 for data.
    symbols: dict[str, int]
    replaced: frozenset[str]  #: names of the functions it replaces
    elf: ElfFile = field(repr=False)


def read_beneath(data: bytes, name: str, abi: Abi) -> Beneath:
    """Read a payload that is loaded before the new one; a signature behind it does not disturb.

    Raises:
        ElfFormatError: Not an ELF file.
        LinkError: Not a payload of this release's format.
    """
    elf = read_elf(data, name)
    if elf.type != ET_REL or elf.machine != abi.machine.number:
        raise LinkError(f"{name}: not a payload for {abi.machine.name}; give an earlier .livepatch")

    def note(section_name: str) -> bytes:
        section = elf.section_by_name.get(section_name)
        if section is None:
            raise LinkError(f"{name}: it has no {section_name}; give an earlier .livepatch")
        return read_note(section.data, f"{name}({section_name})")

    places, replaced = _overrides(elf, abi)
    symbols: dict[str, int] = {}
    for symbol in elf.symbols[1:]:
        if symbol.shndx == SHN_UNDEF or symbol.shndx >= SHN_LORESERVE or not symbol.name:
            continue
        section = elf.sections[symbol.shndx]
        is_hidden = section.flags & SHF_MERGE and symbol.name.startswith(".L")
        place = (symbol.shndx, symbol.value)
        if section.is_alloc and not is_hidden and place not in places:
            symbols[symbol.name] = symbol.size_bytes if symbol.type == STT_FUNC else 0
    return Beneath(
        name=name,
        build_id=note(BUILD_ID_SECTION),
        depends=note(DEPENDS_SECTION),
        xen_depends=note(XEN_DEPENDS_SECTION) if abi.is_v2 else b"",
        symbols=symbols,
        replaced=replaced,
        elf=elf,
    )


def _overrides(elf: ElfFile, abi: Abi) -> tuple[set[tuple[int, int]], frozenset[str]]:
    """Return the places of replacing functions, and the names of replaced ones."""
    funcs = elf.section_by_name.get(FUNCS_SECTION)
    places: set[tuple[int, int]] = set()
    replaced: set[str] = set()
    if funcs is None:
        return places, frozenset()
    if funcs.size_bytes % abi.facts.record_size_bytes:
        raise LinkError(
            f"{elf.name}: its function records are not those of Xen {abi.facts.release}; "
            "give a payload built for this release"
        )
    for reloc in elf.relocs(funcs):
        symbol = elf.symbols[reloc.symbol]
        place = (symbol.shndx, symbol.value + reloc.addend)
        at = reloc.offset % abi.facts.record_size_bytes
        if at == NEW_ADDR_OFFSET:
            places.add(place)
        elif at == NAME_OFFSET and 0 < symbol.shndx < len(elf.sections):
            replaced.add(_text(elf.sections[symbol.shndx], place[1]))
    return places, frozenset(replaced)


def _text(section: Section, offset: int) -> str:
    end = section.data.find(b"\0", offset)
    return section.data[offset : max(offset, end)].decode("utf-8", "surrogateescape")


@dataclass(frozen=True, kw_only=True)
class Names:
    """What the running hypervisor can resolve."""

    image: XenImage
    beneath: tuple[Beneath, ...] = ()  #: bottom first
    superseded: tuple[Beneath, ...] = ()  #: loaded, and gone once the payload is applied
    #: Names of the functions that the payload replaces, with their split-off parts.
    replaced: tuple[str, ...] = ()
    abi: Abi

    def require(self, name: str, subject: str, *, is_called_through: bool = False) -> str:
        """See to it that the hypervisor will resolve a name, to the one place that is meant.

        Where it ``is_called_through``, a call or jump reads its target from there.

        Returns:
            A note for people; "" in most cases.

        Raises:
            LinkError: Unknown, ambiguous, or too long.
            RefusedError: In memory that is freed after boot, or a static local of a payload
                beneath, which has no name there.
        """
        most = self.abi.facts.symbol_length_max
        if not 0 < len(name.encode("utf-8", "surrogateescape")) <= most:
            raise LinkError(
                f"{subject}: `{name}` is no name that the hypervisor can look up "
                f"(1 to {most} bytes); rename it"
            )
        found = self.image.symbols.get(name)
        if found is None:
            if self.bringer(name) is not None:
                return ""
            raise self.missing(subject, name)
        if not found.is_unique:
            raise LinkError(
                f"{subject}: {self.image.name} has several symbols `{name}`, and which one the "
                "hypervisor takes is not defined; build it with CONFIG_ENFORCE_UNIQUE_SYMBOLS"
            )
        if not found.is_init:
            return ""
        if is_called_through:
            # Seen with `vpmu_ops` on 4.17.5: a page fault in _apply_alternatives at upload.
            raise RefusedError(
                f"{subject}: an alternative call through `{name}`, whose memory is freed after "
                "boot, would crash the host when the payload is loaded; call the function directly"
            )
        if self._is_used_already(found):
            return f"`{name}` is freed after boot; the fix refers to it as the old code does"
        raise RefusedError(
            f"{subject}: it needs `{name}`, whose memory is freed after boot; "
            "change the fix so that it does without"
        )

    def require_opened(self, name: str, known: str, subject: str) -> None:
        """See to it that what became global is one thing: the hypervisor's local, and no other.

        Args:
            name: Its name from now on.
            known: The name that the hypervisor has for it, ``file.c#name``.
            subject: How messages call who refers to it.

        Raises:
            RefusedError: It has several of that local, or something else of the new name.
        """
        found = self.image.symbols.get(known)
        also = "" if found is None or found.is_unique else f"several `{known}`"
        also = also or (f"`{known}` and a `{name}`" if self.is_taken(name) else "")
        if also:
            raise RefusedError(
                f"{subject}: `{name}` was static, and the running hypervisor has {also}: which one "
                "is meant is not defined; give it another name in the fix"
            )

    def _is_used_already(self, symbol: ImageSymbol) -> bool:
        """Tell whether the functions that are replaced refer to a boot-time symbol themselves.

        Live code does so behind a test of `system_state`, as `alloc_xen_pagetable` calls
        `alloc_boot_pages`; a fix elsewhere in such a function must stay possible. The image's
        code is searched for a displacement that leads there: its own relocations are gone. Where
        all instructions are of one size, only direct branches are looked at.
        """
        first, last = symbol.addr_virt - _IMMEDIATE_MAX, symbol.addr_virt + symbol.size_bytes
        machine = self.abi.machine
        for old in filter(None, map(self.image.symbols.get, self.replaced)):
            code = self.image.read(old.addr_virt, old.size_bytes)
            if machine.instruction_size_bytes:
                found = machine.decode(code, old.addr_virt, {})
                if any(i.flow in DIRECT and i.target == symbol.addr_virt for i in found):
                    return True
                continue
            for i in range(len(code) - 3):
                distance = int.from_bytes(code[i : i + 4], "little", signed=True)
                if first <= old.addr_virt + i + 4 + distance <= last:
                    return True
        return False

    def bringer(self, name: str) -> Beneath | None:
        """Return the payload beneath that brings a name; ``None`` if none does."""
        return next((below for below in self.beneath if name in below.symbols), None)

    def unknown(self, name: str) -> str:
        """Return a sentence that says that nobody has a name, with near misses."""
        near, clones = self.image.near(name), self.image.clones(name)
        hint = f"near: {near}" if near else "give the payload that brings it as DEPENDS"
        if clones:
            hint = (
                f"the compiler left only {clones}, whose arguments are not those of the source; "
                "replace its callers, or write it into the fix"
            )
        if not self.beneath:
            return f"{self.image.name} has no symbol `{name}`; {hint}"
        if self._is_local_beneath(name):
            hint = (
                "static locals that a payload brings have no name there; make one payload that "
                "takes its place, with SUPERSEDES"
            )
        where = " nor ".join([self.image.name, *(below.name for below in self.beneath)])
        return f"`{name}` is in the symbol table of neither {where}; {hint}"

    def missing(self, subject: str, name: str) -> XspliceError:
        """Return the error for a name that nobody has: a refusal where no other name would do."""
        kind = RefusedError if self._is_local_beneath(name) else LinkError
        return kind(f"{subject}: {self.unknown(name)}")

    def require_known(self, name: str, subject: str) -> None:
        """See to it that what both sides of the sources have runs under its name.

        It does not where a payload beneath gave it another one: that payload goes on using what it
        had, under the old name.

        Raises:
            RefusedError: It does not, and payloads lie beneath.
        """
        if not self.beneath or self.is_taken(name) or self._is_local_beneath(name):
            return
        raise RefusedError(
            f"{subject}: the sources had `{name}` before this fix, and neither {self.image.name} "
            "nor a payload beneath has that name: one of their patches renamed it; make one "
            "payload that takes their place, with SUPERSEDES"
        )

    def _is_local_beneath(self, name: str) -> bool:
        return bool(self.beneath) and name[-1:].isdigit() and "." in name

    def is_taken(self, name: str) -> bool:
        """Tell whether a payload that adds this name would be refused (-EEXIST)."""
        return name in self.image.symbols or self.bringer(name) is not None

    def beside(self, name: str, mark: str) -> str:
        """Return a name that can be added while the superseded payloads are loaded.

        ``mark`` is the suffix that tells this payload's names from theirs.
        """
        ends = chain(("", f".{mark}"), (f".{mark}.{number}" for number in count(1)))
        taken = {known for old in self.superseded for known in old.symbols}
        return next(name + end for end in ends if name + end not in taken)


def read_names(image: bytes, config: Config) -> Names:
    """Read the image, and the payloads that ``config.depends`` and ``config.supersedes`` name.

    Raises:
        ConfigError: Nothing is known of the image's release or machine.
        ElfFormatError: The image or a payload is no ELF file.
        LinkError: One of them cannot be used, is for another build, or the chain has a gap.
    """
    elf = read_elf(image, "xen-syms")
    abi = abi_of(facts_of(config.facts, config.release, elf.machine))
    found = read_image(elf, abi.profile)
    return Names(
        image=found,
        beneath=_read_stack(config.depends, found, abi),
        superseded=_read_stack(config.supersedes, found, abi),
        abi=abi,
    )


def _read_stack(paths: tuple[Path, ...], image: XenImage, abi: Abi) -> tuple[Beneath, ...]:
    """Read payloads that stack on each other, the first one on the image."""
    result: list[Beneath] = []
    top = image.build_id
    for path in paths:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise LinkError(
                f"{path}: cannot be read ({error.strerror}); give an earlier payload"
            ) from error
        below = read_beneath(data, path.name, abi)
        if abi.is_v2 and below.xen_depends != image.build_id:
            raise LinkError(
                f"{below.name}: made for the hypervisor {below.xen_depends.hex()}, "
                f"not for {image.build_id.hex()}; give a payload of this build"
            )
        if below.depends != top:
            under = result[-1].name if result else "the hypervisor"
            raise LinkError(
                f"{below.name}: it stacks on {below.depends.hex()}, not on {under}; give the "
                "whole chain, bottom first"
            )
        result.append(below)
        top = below.build_id
    return tuple(result)


@dataclass(frozen=True, kw_only=True)
class OldFunction:
    """A function that is replaced, as the running hypervisor has it."""

    name: str
    addr_virt: int  #: 0 if an earlier payload brought it: its address is not known before load
    size_bytes: int
    note: str = ""


def find_old_function(names: Names, name: str, subject: str) -> OldFunction:
    """Find a function that shall be replaced.

    Raises:
        LinkError: Unknown, ambiguous, boot-time only, or not a function.
        RefusedError: A payload beneath renamed it.
    """
    names.require_known(name, subject)
    names.require(name, subject)
    found = names.image.symbols.get(name)
    if found is None:
        below = names.bringer(name)
        assert below is not None, "required names are somewhere"
        size = below.symbols[name]
        if not size:
            raise LinkError(
                f"{subject}: `{name}` of {below.name} is no function; replace its users"
            )
        note = f"not in the image: {below.name} brings it"
        return OldFunction(name=name, addr_virt=0, size_bytes=size, note=note)
    section = names.image.section_at(found.addr_virt)
    if section is None or not section.is_exec or not found.size_bytes:
        raise LinkError(
            f"{subject}: `{name}` is no function with a size in {names.image.name}; "
            "assembler code cannot be replaced"
        )
    return OldFunction(name=name, addr_virt=found.addr_virt, size_bytes=found.size_bytes)
