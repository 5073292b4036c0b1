# SPDX-License-Identifier: Apache-2.0
"""How C spells the types that debug information tells of."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_DEPTH_MAX = 32  #: pointers to pointers, arrays of functions ...
QUALIFIERS = {
    "DW_TAG_const_type": "const",
    "DW_TAG_volatile_type": "volatile",
    "DW_TAG_restrict_type": "restrict",
    "DW_TAG_atomic_type": "_Atomic",
}
TAGGED = {
    "DW_TAG_structure_type": "struct",
    "DW_TAG_union_type": "union",
    "DW_TAG_enumeration_type": "enum",
}

Die = Any  #: pyelftools carries no types


def function_type(data: bytes, name: str) -> str:
    """Return a function's type as C spells it, without names; "" if DWARF does not tell."""
    from elftools.elf.elffile import ELFFile  # noqa: PLC0415  (0.16 s)

    file = ELFFile(io.BytesIO(data))
    if not file.has_dwarf_info():
        return ""
    for unit in file.get_dwarf_info().iter_CUs():
        for die in unit.get_top_DIE().iter_children():
            if die.tag == "DW_TAG_subprogram" and text_of(die, "DW_AT_name") == name:
                return _spell_function(die, 0)
    return ""


def text_of(die: Die, attribute: str) -> str:
    """Return an attribute's text; "" if the entry lacks it."""
    value = die.attributes.get(attribute)
    return value.value.decode("utf-8", "surrogateescape") if value is not None else ""


def _spell_function(die: Die, depth: int) -> str:
    return f"{spell(die, depth + 1)} ({', '.join(_parameters(die, depth + 1)) or 'void'})"


def _parameters(die: Die, depth: int) -> Iterator[str]:
    for child in die.iter_children():
        if child.tag == "DW_TAG_formal_parameter":
            yield _unqualified(spell(child, depth))
        elif child.tag == "DW_TAG_unspecified_parameters":
            yield "..."


def _unqualified(text: str) -> str:
    """Drop the outermost qualifiers of a parameter, which are the callee's own business."""
    words = text.split(" ")
    if text.endswith("*"):
        return text
    while len(words) > 1 and words[0] in QUALIFIERS.values():
        words.pop(0)
    while len(words) > 1 and words[-1] in QUALIFIERS.values():
        words.pop()
    return " ".join(words)


def spell(die: Die, depth: int) -> str:
    """Spell the type that an entry refers to; typedefs stand for what they mean."""
    if "DW_AT_type" not in die.attributes or depth > _DEPTH_MAX:
        return "void" if depth <= _DEPTH_MAX else "..."
    target = die.get_DIE_from_attribute("DW_AT_type")
    tag = target.tag
    if tag == "DW_TAG_pointer_type":
        inner = spell(target, depth + 1)
        return f"{inner} *" if not inner.endswith(")") else f"({inner}) *"
    if tag in QUALIFIERS:
        inner, word = spell(target, depth + 1), QUALIFIERS[tag]
        return f"{inner} {word}" if inner.endswith("*") else f"{word} {inner}"
    if tag == "DW_TAG_typedef":
        inner = spell(target, depth + 1)
        return text_of(target, "DW_AT_name") if inner.endswith("{}") else inner
    if tag in TAGGED:
        return f"{TAGGED[tag]} {text_of(target, 'DW_AT_name') or '{}'}"
    if tag == "DW_TAG_array_type":
        return f"{spell(target, depth + 1)} []"
    if tag == "DW_TAG_subroutine_type":
        return _spell_function(target, depth)
    return text_of(target, "DW_AT_name") or tag
