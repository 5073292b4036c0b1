# SPDX-License-Identifier: Apache-2.0
"""Compare one object's two sides, after checking that today's compiler is the tree's."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from xsplice_plugins.artefacts import ObjectPair, write_file
from xsplice_plugins.elf.reader import ElfFile, read_elf
from xsplice_plugins.elf.types import SHF_ALLOC, SHT_RELA
from xsplice_plugins.errors import CaptureError

if TYPE_CHECKING:
    from pathlib import Path

    from xsplice_plugins.artefacts import CompileJob, MovedLines
    from xsplice_plugins.capture.layouts import LayoutCheck

_STT_SECTION = 3
_NAMED_MAX = 6  #: sections that a message names


def pair_objects(
    job: CompileJob,
    baseline_object: Path,
    new_object: Path,
    tree_object: Path | None,
    dest_prefix: Path,
    *,
    layouts: LayoutCheck,
    moved: tuple[MovedLines, ...] = (),
    words: frozenset[str] | None = None,
) -> ObjectPair:
    """Compare two objects; keep both where their content differs.

    Args:
        job: What was compiled.
        baseline_object: Compiled from the pristine sources.
        new_object: Compiled from the patched sources.
        tree_object: The tree's own object for the drift check; ``None`` to leave it out.
        dest_prefix: ``.baseline`` and ``.new`` are added to it.
        layouts: What came of comparing both sides' layouts.
        moved: Lines that the patch moved and left as they are.
        words: Words of the pieces of the sources that the patch changed; ``None`` if not known.

    Returns:
        The pair's record.

    Raises:
        CaptureError: The baseline is not the tree's object, or a file cannot be read.
        ElfError: An object cannot be read.
    """
    baseline, new = _bytes(baseline_object), _bytes(new_object)
    if tree_object is not None:
        check_drift(job, baseline, _bytes(tree_object))
    is_changed = not same_content(job, baseline, new)
    names = ("", "")
    if is_changed:
        places = tuple(
            dest_prefix.with_name(dest_prefix.name + end) for end in (".baseline", ".new")
        )
        for place, data in zip(places, (baseline, new), strict=True):
            write_file(place, data)
        names = (places[0].name, places[1].name)
    return ObjectPair(
        object_path=job.object_path,
        source_path=job.source_path,
        is_changed=is_changed,
        is_init=job.is_init,
        baseline=names[0],
        new=names[1],
        digest_baseline=hashlib.sha256(baseline).hexdigest(),
        digest_new=hashlib.sha256(new).hexdigest(),
        compiler=compiler_of(baseline, job.object_path),
        note="" if is_changed else "compiled, content equal",
        layouts=layouts.how,
        refused=layouts.refused,
        moved=moved if is_changed else (),
        edited=_symbols_among(words, (baseline, new)) if is_changed else None,
    )


def _symbols_among(
    words: frozenset[str] | None, sides: tuple[bytes, bytes]
) -> tuple[str, ...] | None:
    """Return the symbols whose names, without what a compiler appends, are among some words."""
    if words is None:
        return None
    names = {symbol.name for data in sides for symbol in read_elf(data, "").symbols}
    return tuple(sorted(name for name in names if name.partition(".")[0] in words))


def check_drift(job: CompileJob, baseline: bytes, tree_object: bytes) -> None:
    """Check that the sources, settings and compiler of today give the tree's object.

    Raises:
        CaptureError: They do not; the message names the object, the sections that differ, and
            both compilers.
    """
    if baseline == tree_object:
        return
    parts = differing(job.object_path, tree_object, baseline)
    if not parts:
        return
    then, now = (compiler_of(data, job.object_path) for data in (tree_object, baseline))
    shown = ", ".join(parts[:_NAMED_MAX]) + (" ..." if len(parts) > _NAMED_MAX else "")
    why = (
        f"the tree was built with `{then}`, today's compiler is `{now}`"
        if then != now
        else f"the compiler is the same (`{now}`), so a source, header or setting has changed "
        "since the tree was built"
    )
    raise CaptureError(
        f"{job.object_path}: compiled again without the patch it is not the tree's object "
        f"(different: {shown}); {why}; use the compiler and the sources of the running hypervisor"
    )


def compiler_of(data: bytes, name: str) -> str:
    """Return what the compiler wrote about itself into an object."""
    for section in read_elf(data, name).sections:
        if section.name == ".comment":
            texts = {text.decode("utf-8", "replace") for text in section.data.split(b"\0") if text}
            return "; ".join(sorted(texts))
    return "unknown"


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CaptureError(f"{path}: cannot be read ({error.strerror}); build it again") from error


def same_content(job: CompileJob, before: bytes, after: bytes) -> bool:
    """Tell whether two objects' content is equal; debug sections do not count."""
    return before == after or not differing(job.object_path, before, after)


def differing(name: str, before: bytes, after: bytes) -> tuple[str, ...]:
    """Name the parts in which two objects' content differs; debug sections do not count.

    Args:
        name: How messages shall call the object.
        before: The whole file on one side.
        after: And on the other.

    Raises:
        ElfFormatError: One of them is no object.
    """
    old, new = (_content(read_elf(data, name)) for data in (before, after))
    return tuple(name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name))


def _content(elf: ElfFile) -> dict[str, object]:
    """Return what of an object can reach the image: by section name, and the symbols."""
    symbols = elf.symbols
    names = [section.name for section in elf.sections]

    def place(shndx: int) -> str | int:
        return names[shndx] if shndx < len(names) else shndx

    identities = [
        (symbol.name, place(symbol.shndx), symbol.value, symbol.size_bytes)
        + (symbol.bind, symbol.type, symbol.visibility)
        for symbol in symbols
    ]
    content: dict[str, list[object]] = {}
    for section in elf.sections:
        if section.flags & SHF_ALLOC:
            content.setdefault(section.name, []).append(
                (section.type, section.flags, section.size_bytes, section.align_bytes, section.data)
            )
        elif section.type == SHT_RELA and elf.sections[section.info].flags & SHF_ALLOC:
            content.setdefault(section.name, []).append(
                [
                    (reloc.offset, reloc.type, identities[reloc.symbol], reloc.addend)
                    for reloc in elf.relocs(elf.sections[section.info])
                ]
            )
    content["the symbol table"] = [
        identity
        for identity, symbol in zip(identities, symbols, strict=True)
        if symbol.type != _STT_SECTION
    ]
    return dict(content)


def check_same_compiler(target: str, old: bytes, new: bytes) -> None:
    """Refuse two versions of an object that name different compilers.

    Raises:
        CaptureError: They do.
    """
    then, now = (compiler_of(data, target) for data in (old, new))
    if then != now:
        raise CaptureError(
            f"{target}: the tree was built with `{then}`, today's compiler is `{now}`; use the "
            "compiler of the running hypervisor"
        )
