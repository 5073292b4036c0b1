# SPDX-License-Identifier: Apache-2.0
"""Instructions as text, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from xsplice_plugins.elf.types import EM_X86_64, STT_FUNC, STT_SECTION

if TYPE_CHECKING:
    from xsplice_plugins.elf.reader import ElfFile
    from xsplice_plugins.elf.types import Reloc


class Line(NamedTuple):
    """One instruction of a listing."""

    offset: int  #: bytes from the start of the function
    text: str
    note: str  #: what its relocations name, or ""


def instruction_text(machine: int, data: bytes, offset: int) -> str:
    """Return one instruction as assembler text.

    Args:
        machine: ``e_machine``.
        data: The instruction's bytes.
        offset: Where it stands, for the targets of jumps.

    Returns:
        AT&T syntax for x86, the architecture's own for arm64.
    """
    for _, text in _decode(machine, data, offset):
        return text
    return f".byte {data.hex(' ')}"


def listing(file: ElfFile, name: str) -> tuple[Line, ...]:
    """Return the instructions of a function.

    Args:
        file: The object.
        name: The function's plain symbol name.

    Returns:
        Its instructions; empty if the object has no such function.
    """
    symbol = next((s for s in file.symbols if s.name == name and s.type == STT_FUNC), None)
    if symbol is None or not 0 < symbol.shndx < len(file.sections):
        return ()
    section = file.sections[symbol.shndx]
    end = symbol.value + symbol.size_bytes
    relocs = sorted(r for r in file.relocs(section) if symbol.value <= r.offset < end)
    rows = list(_decode(file.machine, section.data[symbol.value : end], symbol.value))
    result = []
    first = 0
    for i, (at, text) in enumerate(rows):
        following = rows[i + 1][0] if i + 1 < len(rows) else end
        last = first
        while last < len(relocs) and relocs[last].offset < following:
            last += 1
        note = ", ".join(_reloc_name(file, reloc) for reloc in relocs[first:last])
        result.append(Line(at - symbol.value, text, note))
        first = last
    return tuple(result)


def _reloc_name(file: ElfFile, reloc: Reloc) -> str:
    symbol = file.symbols[reloc.symbol]
    name = symbol.name
    if symbol.type == STT_SECTION and 0 < symbol.shndx < len(file.sections):
        name = file.sections[symbol.shndx].name
    return f"{name}{reloc.addend:+#x}" if reloc.addend else name


def _decode(machine: int, data: bytes, offset: int) -> list[tuple[int, str]]:
    if machine == EM_X86_64:
        import iced_x86  # noqa: PLC0415  (only for what is shown)

        formatter = iced_x86.Formatter(iced_x86.FormatterSyntax.GAS)
        decoder = iced_x86.Decoder(64, data, ip=offset)
        return [(i.ip, str(formatter.format(i))) for i in decoder]
    import capstone  # noqa: PLC0415  (slow to import; only for what is shown)

    engine = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)
    engine.skipdata = True
    return [(i.address, f"{i.mnemonic} {i.op_str}".rstrip()) for i in engine.disasm(data, offset)]
