# SPDX-License-Identifier: Apache-2.0
"""Hold the types of replacements against those of the functions that they replace.

The types are read from DWARF. A tree built without debug information has none; then the original's
source is compiled again, with its recorded command and ``-g``, and thrown away.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xsplice_plugins.capture.compiling import compile_object
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.types import STT_FUNC
from xsplice_plugins.errors import CaptureError, LinkError
from xsplice_plugins.handmade.compiling import recorded_job
from xsplice_plugins.kbuild.records import read_record, scan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from xsplice_plugins.artefacts import ChangedFunction, Delta
    from xsplice_plugins.capture.reads import Reads
    from xsplice_plugins.kbuild.tree import XenTree

_DEPTH_MAX = 32  #: pointers to pointers, arrays of functions ...
QUALIFIERS = {
    "DW_TAG_const_type": "const",
    "DW_TAG_volatile_type": "volatile",
    "DW_TAG_restrict_type": "restrict",
    "DW_TAG_atomic_type": "_Atomic",
}
_TAGGED = {
    "DW_TAG_structure_type": "struct",
    "DW_TAG_union_type": "union",
    "DW_TAG_enumeration_type": "enum",
}

Die = Any  #: pyelftools carries no types


def check_types(
    tree: XenTree, deltas: Sequence[Delta], objects: Sequence[bytes], *, reads: Reads | None = None
) -> tuple[str, ...]:
    """Check that each replacement has its original's type; objects are compiled with ``-g``.

    ``reads`` gets the files that are read for that.

    Returns:
        A note for each replacement whose original's type cannot be read.

    Raises:
        LinkError: A type differs; the message has both.
    """
    notes = []
    cache: dict[str, bytes | str] = {}
    for delta, data in zip(deltas, objects, strict=True):
        for changed in delta.changed:
            if changed.place is not None and changed.place.offset:
                continue  # it takes over in the middle: there is no call to agree with
            old = _original_type(tree, changed, cache, reads)
            new = function_type(data, changed.symbol)
            if old.startswith("?") or not new:
                reason = old.removeprefix("?") or "no debug information"
                notes.append(
                    f"the type of `{changed.symbol}` was not compared with that of "
                    f"`{changed.name}`: {reason}"
                )
            elif old != new:
                raise LinkError(
                    f"{changed.reason.removeprefix('declared in ')}: `{changed.name}` is "
                    f"`{old}`, its replacement `{changed.symbol}` is `{new}`; give it the same type"
                )
    return tuple(notes)


def _original_type(
    tree: XenTree,
    changed: ChangedFunction,
    cache: dict[str, bytes | str],
    reads: Reads | None,
) -> str:
    """Return the type of a replaced function; "?" and a reason where it cannot be told."""
    if not changed.size_before_bytes:
        return "?an earlier payload brings it"
    plain = changed.name.rpartition("#")[2]
    path = object_of(tree, changed.name)
    if not path:
        return "?no object of the tree with a recorded command defines it"
    if path not in cache:
        cache[path] = with_debug_information(tree, path, reads)
    found = cache[path]
    if isinstance(found, str):
        return f"?{found}"
    return function_type(found, plain) or f"?{path} has no debug information about it"


def object_of(tree: XenTree, name: str, *, is_function: bool = True) -> str:
    """Return the object that defines a function, relative to the build folder; "" if none does.

    Args:
        tree: The built tree.
        name: Decorated name.
        is_function: Whether only functions count, local ones too; else all that is not local.
    """
    file, _, plain = name.rpartition("#")
    if file:
        path = str(Path(file).with_suffix(".o"))
        return path if (tree.build_root / path).is_file() else ""
    word = plain.encode("utf-8", "surrogateescape") + b"\0"  # may end another name, in one place
    for folder, base in scan(str(tree.build_root)).records:
        path = f"{folder}/{base}" if folder else base
        place = tree.build_root / path
        if not base.endswith(".o") or base in {"built_in.o", "prelink.o"} or not place.is_file():
            continue
        data = place.read_bytes()
        if (
            data[:4] == b"\x7fELF"
            and word in data
            and _defines(data, path, plain, is_function=is_function)
        ):
            return path
    return ""


def _defines(data: bytes, path: str, name: str, *, is_function: bool) -> bool:
    return any(
        symbol.name == name
        and symbol.shndx
        and (symbol.type == STT_FUNC if is_function else not symbol.is_local)
        for symbol in read_elf(data, path).symbols
    )


def with_debug_information(tree: XenTree, path: str, reads: Reads | None) -> bytes | str:
    """Return an object of the tree with debug information, or a text: why there is none.

    Args:
        tree: The built tree.
        path: The object, relative to the build folder.
        reads: Gets the files that are read, with digests.
    """
    data = (tree.build_root / path).read_bytes()
    if b".debug_info\0" in data:
        return data
    base = path.rpartition("/")[2]
    record = read_record(str(tree.build_root), path)
    if record is None or not record.source.endswith(".c"):
        return f"the tree has no debug information and no recorded command of {path}"
    with tempfile.TemporaryDirectory(prefix="xsplice-") as work:
        out = Path(work) / base
        try:
            job = recorded_job(tree, record, appended="-g")
            compile_object(job, tree.root, out, reads=reads)
        except CaptureError as error:
            return f"{path} does not compile again ({str(error).partition(chr(10))[0]})"
        return out.read_bytes()


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
    if tag in _TAGGED:
        return f"{_TAGGED[tag]} {text_of(target, 'DW_AT_name') or '{}'}"
    if tag == "DW_TAG_array_type":
        return f"{spell(target, depth + 1)} []"
    if tag == "DW_TAG_subroutine_type":
        return _spell_function(target, depth)
    return text_of(target, "DW_AT_name") or tag
