# SPDX-License-Identifier: Apache-2.0
"""Synthetic payloads: every byte is built here, every field can be changed.

A draft is a mutable description of an ELF file; ``build`` turns it into bytes without checking
anything, because most tests want it wrong in exactly one place.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from xsplice_plugins.hypervisor.facts.arches import ARM32, ARM64, X86_64, Arch

XEN_ID = bytes(range(20))
OTHER_XEN_ID = bytes(range(100, 120))
PAYLOAD_ID = b"\xa1" * 20
ALLOC, WRITE, EXEC, MERGE = 2, 1, 4, 0x10
PROGBITS, SYMTAB, STRTAB, RELA, NOTE, NOBITS, REL = 1, 2, 3, 4, 7, 8, 9
UND, ABS, COMMON = 0, 0xFFF1, 0xFFF2
ENDBR64 = bytes.fromhex("f30f1efa")
#: Absolute-address relocation and a sensible branch or relative one, by architecture.
ABS_TYPE = {"x86_64": 1, "arm64": 257, "arm32": 2}


@dataclass
class Rel:
    """A relocation; the symbol is a name of the draft, or a number."""

    offset: int
    kind: int
    symbol: str | int
    addend: int = 0


@dataclass
class Sec:
    """A section; None means that ``build`` computes the field."""

    name: str
    data: bytes = b""
    flags: int = ALLOC
    kind: int = PROGBITS
    align: int = 1
    entsize: int = 0
    addr: int = 0
    size: int | None = None
    offset: int | None = None
    link: int | str = 0
    info: int | str = 0
    relocs: list[Rel] = field(default_factory=list)


@dataclass
class Sym:
    """A symbol; the section is a name of the draft, or a number such as ``UND``."""

    name: str
    section: str | int
    value: int = 0
    size: int = 0
    info: int = 0x10
    other: int = 0


@dataclass
class Draft:
    """A relocatable file to be."""

    arch: Arch = X86_64
    sections: list[Sec] = field(default_factory=list)
    symbols: list[Sym] = field(default_factory=list)
    header: dict[str, int | bytes] = field(default_factory=dict)
    reloc_kind: int = RELA

    def sec(self, name: str) -> Sec:
        """Give a section by name."""
        return next(section for section in self.sections if section.name == name)

    def drop(self, *names: str) -> None:
        """Remove sections."""
        self.sections = [section for section in self.sections if section.name not in names]

    def symbol(self, name: str) -> Sym:
        """Give a symbol by name."""
        return next(symbol for symbol in self.symbols if symbol.name == name)

    def record(self, **fields: int | bytes) -> None:
        """Change fields of the first function record."""
        self.sec(".livepatch.funcs").data = _patched_record(
            self.sec(".livepatch.funcs").data, self.arch, fields
        )

    def build(self) -> bytes:
        """Write the file."""
        return _build(self)


def _record_layout(arch: Arch) -> tuple[str, dict[str, tuple[int, int]]]:
    p = arch.pointer_bytes
    base = 3 * p
    return "little", {
        "name": (0, p),
        "new_addr": (p, p),
        "old_addr": (2 * p, p),
        "new_size": (base, 4),
        "old_size": (base + 4, 4),
        "version": (base + 8, 1),
        "opaque": (base + 9, 31),
        "applied": (base + 40, 1),
        "patch_offset": (base + 41, 1),
        "expect": (base + 48, 32),
    }


def _patched_record(data: bytes, arch: Arch, fields: dict[str, int | bytes]) -> bytes:
    out = bytearray(data)
    _, layout = _record_layout(arch)
    for name, value in fields.items():
        offset, size = layout[name]
        raw = value if isinstance(value, bytes) else value.to_bytes(size, "little")
        out[offset : offset + size] = raw.ljust(size, b"\0")
    return bytes(out)


def expectation(data: bytes, *, enabled: int = 1, length: int | None = None, rsv: int = 0) -> bytes:
    """Encode an expectation."""
    count = len(data) if length is None else length
    return bytes([enabled | count << 1 | rsv << 6]) + data.ljust(31, b"\0")


def record(arch: Arch, version: int, **fields: int | bytes) -> bytes:
    """Encode a function record of a payload version."""
    size = {(1, True): 64, (1, False): 52, (2, True): 104, (2, False): 92}[version, arch.is_64bit]
    return _patched_record(bytes(size), arch, {"version": version, **fields})


def note(desc: bytes, *, kind: int = 3, name: bytes = b"GNU\0", descsz: int | None = None) -> bytes:
    """Encode a note."""
    count = len(desc) if descsz is None else descsz
    padded = name.ljust(-(-len(name) // 4) * 4, b"\0")
    return struct.pack("<III", len(name), count, kind) + padded + desc


def _strings(names: list[str]) -> tuple[bytes, dict[str, int]]:
    out = bytearray(b"\0")
    places: dict[str, int] = {"": 0}
    for name in names:
        if name not in places:
            places[name] = len(out)
            out += name.encode("latin-1") + b"\0"
    return bytes(out), places


def _with_tables(draft: Draft) -> list[Sec]:
    """Add relocation sections, the symbol table and the string tables."""
    sections = [*draft.sections]
    for section in draft.sections:
        if section.relocs:
            prefix = ".rela" if draft.reloc_kind == RELA else ".rel"
            sections.append(
                Sec(
                    prefix + section.name,
                    flags=0,
                    kind=draft.reloc_kind,
                    align=8,
                    link=".symtab",
                    info=section.name,
                    data=_relocations(draft, section.relocs),
                    entsize=_reloc_bytes(draft),
                )
            )
    text, places = _strings([symbol.name for symbol in draft.symbols])
    if not any(section.kind == SYMTAB for section in sections):
        sections.append(Sec(".symtab", flags=0, kind=SYMTAB, align=8, link=".strtab"))
    sections.append(Sec(".strtab", flags=0, kind=STRTAB, data=text))
    names, _ = _strings([section.name for section in sections] + [".shstrtab"])
    sections.append(Sec(".shstrtab", flags=0, kind=STRTAB, data=names))
    indices = {section.name: index for index, section in reversed(list(enumerate(sections, 1)))}
    for section in sections:
        if section.kind == SYMTAB and not section.data:
            section.data = _symbols(draft, indices, places)
            section.entsize = 24 if draft.arch.is_64bit else 16
    return sections


def _reloc_bytes(draft: Draft) -> int:
    sizes = {(True, RELA): 24, (True, REL): 16, (False, RELA): 12, (False, REL): 8}
    return sizes[draft.arch.is_64bit, draft.reloc_kind]


def _relocations(draft: Draft, relocs: list[Rel]) -> bytes:
    numbers = {symbol.name: index for index, symbol in reversed(list(enumerate(draft.symbols, 1)))}
    out = b""
    for rel in relocs:
        number = rel.symbol if isinstance(rel.symbol, int) else numbers[rel.symbol]
        if draft.arch.is_64bit:
            out += struct.pack("<QQ", rel.offset, number << 32 | rel.kind)
            out += struct.pack("<q", rel.addend) if draft.reloc_kind == RELA else b""
        else:
            out += struct.pack("<II", rel.offset, number << 8 | rel.kind)
            out += struct.pack("<i", rel.addend) if draft.reloc_kind == RELA else b""
    return out


def _symbols(draft: Draft, indices: dict[str, int], places: dict[str, int]) -> bytes:
    out = bytes(24 if draft.arch.is_64bit else 16)
    for symbol in draft.symbols:
        section = symbol.section
        index = section if isinstance(section, int) else indices[section]
        name = places[symbol.name]
        if draft.arch.is_64bit:
            out += struct.pack(
                "<IBBHQQ", name, symbol.info, symbol.other, index, symbol.value, symbol.size
            )
        else:
            out += struct.pack(
                "<IIIBBH", name, symbol.value, symbol.size, symbol.info, symbol.other, index
            )
    return out


def _build(draft: Draft) -> bytes:
    sections = _with_tables(draft)
    arch = draft.arch
    indices = {section.name: index for index, section in reversed(list(enumerate(sections, 1)))}
    ehdr_bytes, shdr_bytes = (64, 64) if arch.is_64bit else (52, 40)
    _, names = _strings([section.name for section in sections])
    body = bytearray(ehdr_bytes)
    headers = bytearray(shdr_bytes)
    for section in sections:
        align = section.align if 0 < section.align <= 16 else 1
        body += bytes(-len(body) % align)
        offset = len(body) if section.offset is None else section.offset
        size = len(section.data) if section.size is None else section.size
        if section.kind != NOBITS:
            body += section.data
        fields = (
            names[section.name],
            section.kind,
            section.flags,
            section.addr,
            offset,
            size,
            indices[section.link] if isinstance(section.link, str) else section.link,
            indices[section.info] if isinstance(section.info, str) else section.info,
            section.align,
            section.entsize,
        )
        headers += struct.pack("<IIQQQQIIQQ" if arch.is_64bit else "<IIIIIIIIII", *fields)
    body += bytes(-len(body) % 8)
    values: dict[str, int | bytes] = {
        "ident": b"\x7fELF" + bytes([2 if arch.is_64bit else 1, 1, 1]) + bytes(9),
        "type": 1,
        "machine": arch.machine,
        "version": 1,
        "entry": 0,
        "phoff": 0,
        "shoff": len(body),
        "flags": 0x05000000 if arch == ARM32 else 0,
        "ehsize": ehdr_bytes,
        "phentsize": 0,
        "phnum": 0,
        "shentsize": shdr_bytes,
        "shnum": len(sections) + 1,
        "shstrndx": len(sections),
        **draft.header,
    }
    layout = "<16sHHIQQQIHHHHHH" if arch.is_64bit else "<16sHHIIIIIHHHHHH"
    body[:ehdr_bytes] = struct.pack(layout, *values.values())
    return bytes(body + headers)


def _new_code(arch: Arch) -> tuple[bytes, list[Rel]]:
    """Give a replacement that returns a pointer to the payload's string."""
    if arch == X86_64:
        return bytes.fromhex("488d0500000000c3"), [Rel(3, 2, "words", -4)]
    if arch == ARM64:
        code = struct.pack("<III", 0x90000000, 0x91000000, 0xD65F03C0)
        return code, [Rel(0, 275, "words"), Rel(4, 277, "words")]
    return struct.pack("<III", 0xE3000000, 0xE3400000, 0xE12FFF1E), [
        Rel(0, 43, "words"),
        Rel(4, 44, "words"),
    ]


def minimal(
    arch: Arch = X86_64,
    *,
    version: int = 2,
    target: str = "xen_extra_version",
    build_id: bytes = PAYLOAD_ID,
    depends: bytes = XEN_ID,
    text: bytes = b"patched",
    by_name: bool = False,
) -> Draft:
    """Draft the smallest payload that is accepted (docs/loader.md#payload)."""
    code, relocs = _new_code(arch)
    p = arch.pointer_bytes
    kind = ABS_TYPE[arch.name]
    draft = Draft(arch=arch)
    draft.sections = [
        Sec(".text.new", code, flags=ALLOC | EXEC, align=16, relocs=relocs),
        Sec(
            ".livepatch.funcs",
            record(arch, version, new_size=len(code), old_size=13),
            align=8,
            relocs=[Rel(0, kind, "target_name"), Rel(p, kind, "new_function")],
        ),
        Sec(".rodata", target.encode() + b"\0" + text + b"\0"),
        Sec(".note.gnu.build-id", note(build_id), kind=NOTE, align=4),
        Sec(".livepatch.depends", note(depends)),
    ]
    if version == 2:
        draft.sections.append(Sec(".livepatch.xen_depends", note(XEN_ID)))
    # The names differ from payload to payload: a second one may not bring the same new names.
    tag = build_id[:1].hex()
    draft.symbols = [
        Sym("target_name", ".rodata", 0, info=0),
        Sym("words", ".rodata", len(target) + 1, info=0),
        Sym("new_function", ".text.new", 0, len(code), info=0x12),
    ]
    if not by_name:
        draft.symbols.append(Sym(target, UND))
        draft.sec(".livepatch.funcs").relocs.append(Rel(2 * p, kind, target))
    _rename(draft, {"target_name": f"target_name_{tag}", "words": f"words_{tag}"})
    return draft


def _rename(draft: Draft, names: dict[str, str]) -> None:
    for symbol in draft.symbols:
        symbol.name = names.get(symbol.name, symbol.name)
    for section in draft.sections:
        for rel in section.relocs:
            if isinstance(rel.symbol, str):
                rel.symbol = names.get(rel.symbol, rel.symbol)


def add_code(draft: Draft, name: str, code: bytes, relocs: list[Rel] | None = None) -> None:
    """Add a function of the payload's own."""
    draft.sections.insert(
        1, Sec(f".text.{name}", code, flags=ALLOC | EXEC, align=16, relocs=relocs or [])
    )
    draft.symbols.append(Sym(name, f".text.{name}", 0, len(code), info=0x12))


def add_hook(draft: Draft, kind: str, *functions: str, flags: int = ALLOC) -> None:
    """Add a hook section that points to functions of the payload."""
    p = draft.arch.pointer_bytes
    kind_number = ABS_TYPE[draft.arch.name]
    draft.sections.append(
        Sec(
            f".livepatch.hooks.{kind}",
            bytes(p * len(functions)),
            flags=flags,
            align=p,
            relocs=[Rel(p * i, kind_number, name) for i, name in enumerate(functions)],
        )
    )


def changed(change: Callable[[Draft], object], **options: object) -> bytes:
    """Build the minimal payload with one change."""
    draft = minimal(**options)  # type: ignore[arg-type]  # the options are minimal's
    change(draft)
    return draft.build()
