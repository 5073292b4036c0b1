# SPDX-License-Identifier: Apache-2.0
"""Instructions as text, with names where the object has relocations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.diff.parts import EXTERNAL, Edge, Kind
from xsplice_plugins.elf.listing import instruction_text

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
    text = instruction_text(parts.file.machine, data, part.offset + step.offset)
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
