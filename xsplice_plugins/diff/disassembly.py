# SPDX-License-Identifier: Apache-2.0
"""Instructions as text, with names where the object has relocations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.diff.parts import EXTERNAL, Edge, Kind
from xsplice_plugins.elf.types import EM_X86_64

if TYPE_CHECKING:
    from xsplice_plugins.diff.normalise import Parts
    from xsplice_plugins.diff.streams import Step

_TEXT_MAX = 60  #: characters of a string literal that are shown


def format_step(parts: Parts, step: Step) -> str:
    """Return one instruction as text.

    Args:
        parts: The object it lies in.
        step: The instruction.

    Returns:
        Assembler text in AT&T syntax (x86) or the architecture's own, and behind ``#`` what its
        relocations refer to.
    """
    part = parts.all[step.piece]
    data = parts.content(part)[step.offset : step.offset + step.size_bytes]
    if parts.file.machine == EM_X86_64:
        text = _x86(data, part.offset + step.offset)
    else:
        text = _arm64(data, part.offset + step.offset)
    names = [describe(parts, edge) for edge in step.edges]
    if step.jump is not None:
        names = [describe(parts, Edge(0, 0, step.jump[0], step.jump[1], ""))]
    return f"{text}  # {', '.join(names)}" if names else text


def describe(parts: Parts, edge: Edge) -> str:
    """Return what a relocation refers to, for people."""
    if edge.part == EXTERNAL:
        name = edge.name
    else:
        part = parts.all[edge.part]
        if part.kind is Kind.STRING:
            text = parts.content(part)[edge.at :].rstrip(b"\0").decode("utf-8", "backslashreplace")
            shown = text[:_TEXT_MAX].replace("\n", "\\n")
            return f'"{shown}{"..." if len(text) > _TEXT_MAX else ""}"'
        name = part.name or part.section_name
    return f"{name}{edge.at:+#x}" if edge.at else name


def _x86(data: bytes, at: int) -> str:
    import iced_x86  # noqa: PLC0415  (only for what is shown)

    instruction = iced_x86.Decoder(64, data, ip=at).decode()
    formatter = iced_x86.Formatter(iced_x86.FormatterSyntax.GAS)
    return str(formatter.format(instruction))


def _arm64(data: bytes, at: int) -> str:
    import capstone  # noqa: PLC0415  (slow to import; only for what is shown)

    engine = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)
    for instruction in engine.disasm(data, at):
        return f"{instruction.mnemonic} {instruction.op_str}".rstrip()
    return f".word {int.from_bytes(data, 'little'):#010x}"
