# SPDX-License-Identifier: Apache-2.0
"""Turn a compiled hand-written file into the delta that the linker takes.

The whole object is taken: every section that is loaded is one extent. Each declared replacement is
a changed function, each NOP-out a range of NOPs; the linker does the rest as for any fix.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from msgspec import Struct

from xsplice_plugins.artefacts import (
    Cause,
    ChangedFunction,
    Delta,
    Duty,
    Extent,
    NewItem,
    NoppedRange,
    OldPlace,
    Severity,
    findings_about,
)
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.types import SHT_NOBITS, STT_FUNC, STT_OBJECT
from xsplice_plugins.errors import LinkError
from xsplice_plugins.handmade.declarations import DeclarationKind, Declared, read_declarations
from xsplice_plugins.handmade.instructions import (
    body_size_bytes,
    check_jump,
    check_nops,
    read_code,
)
from xsplice_plugins.link.image import is_clone
from xsplice_plugins.link.places import find_old_range
from xsplice_plugins.target.abi import HOOK_PREFIX, MODINFO_SECTION

if TYPE_CHECKING:
    from xsplice_plugins.elf.reader import ElfFile
    from xsplice_plugins.elf.types import Section, Symbol
    from xsplice_plugins.handmade.compiling import SourceObject
    from xsplice_plugins.link.image import ImageSymbol
    from xsplice_plugins.link.names import Names

#: Loaded sections of an object that Xen's own link throws away too (xen/arch/x86/xen.lds.S).
_LEFT_OUT = (".xsplice.", ".note.", ".eh_frame", ".discard", ".comment")
#: What no differ looked at, for there is one side only.
_NOT_COMPARED = {
    Duty.LAYOUT: "hand-written: compiled with the tree's own headers, which are not patched",
    Duty.DATA: "hand-written: tables and variables that it brings are meant to be new",
}
_CANDIDATES_MAX = 12  #: that one message lists
_REPLACING = {DeclarationKind.REPLACE, DeclarationKind.REPLACE_AT, DeclarationKind.REPLACE_ADDRESS}
_ADDRESSING = {DeclarationKind.REPLACE_ADDRESS, DeclarationKind.NOP_ADDRESS}
_NOPPING = {DeclarationKind.NOP, DeclarationKind.NOP_ADDRESS, DeclarationKind.NOP_BODY}
_EXPECTING = {DeclarationKind.EXPECT, DeclarationKind.EXPECT_IMAGE}


class Target(Struct, frozen=True, kw_only=True):
    """The place in the image that a declaration means."""

    declaration: Declared
    place: OldPlace
    name: str  #: decorated name of the function
    offset: int  #: bytes from its start
    symbol: ImageSymbol | None  #: ``None`` where an earlier payload brings the function


def make_delta(source: SourceObject, names: Names, profile: str) -> Delta:
    """Make one object's delta; ``profile`` is for the record only.

    Raises:
        LinkError: A declaration cannot be followed; the message names it and the reason.
        ElfError: The object cannot be read.
    """
    elf = read_elf(source.data, source.object_path)
    declarations = read_declarations(elf)
    _refuse_clones(elf, declarations, source.source_path)
    targets = [
        _find_target(names, declaration)
        for declaration in declarations
        if declaration.kind in _REPLACING | _NOPPING
    ]
    expected = _expectations(declarations, targets, names)
    replacing = [target for target in targets if target.declaration.kind in _REPLACING]
    nopping = [target for target in targets if target.declaration.kind in _NOPPING]
    changed = tuple(_changed(elf, target, names, expected) for target in replacing)
    taken = [section for section in elf.sections[1:] if _is_taken(section)]
    return Delta(
        object_path=source.object_path,
        source_path=source.source_path,
        profile=profile,
        machine=elf.machine,
        digest_new=hashlib.sha256(source.data).hexdigest(),
        changed=changed,
        new=_new_items(elf, taken, {item.symbol for item in changed}),
        extents=tuple(
            Extent(
                section=section.index, offset=0, size_bytes=section.size_bytes, owner=section.name
            )
            for section in taken
        ),
        nopped=tuple(_nopped(target, names, expected) for target in nopping),
        findings=tuple(
            finding
            for duty, text in _NOT_COMPARED.items()
            for finding in findings_about(
                duty, "differ", Severity.EXEMPT, source.object_path, (text,)
            )
        ),
    )


def _find_target(names: Names, declaration: Declared) -> Target:
    subject, offset = declaration.subject, declaration.where
    if declaration.kind in _ADDRESSING:
        place = OldPlace(addr_virt=offset)
    else:
        place = OldPlace(symbol=resolve(names, declaration.name, subject), offset=offset)
    name = find_old_range(names, place.symbol, place, subject).name.partition("+")[0]
    if is_clone(name):
        raise LinkError(
            f"{subject}: `{name}` is the compiler's own copy or part of a function, whose "
            "arguments are not those of the source; replace its callers"
        )
    symbol = names.image.symbols.get(name)
    if symbol is not None and not place.symbol:
        offset -= symbol.addr_virt
    return Target(declaration=declaration, place=place, name=name, offset=offset, symbol=symbol)


def _refuse_clones(elf: ElfFile, declarations: tuple[Declared, ...], source_path: str) -> None:
    """Refuse what refers to copies of functions: nobody can tell how to call them."""
    for symbol in elf.symbols:
        if symbol.shndx or not is_clone(symbol.name):
            continue
        rows = (row for row in declarations if row.object and row.object.name == symbol.name)
        subject = next((row.subject for row in rows), source_path)
        raise LinkError(
            f"{subject}: `{symbol.name}` is the compiler's own copy or part of a function, whose "
            "arguments are not those of the source; write the function into the file, and use that"
        )


def _expectations(
    declarations: tuple[Declared, ...], targets: list[Target], names: Names
) -> dict[tuple[str, int], str]:
    """Return the bytes that authors ask for, by function and offset."""
    places = {(target.name, target.offset) for target in targets}
    result: dict[tuple[str, int], str] = {}
    for declaration in declarations:
        if declaration.kind not in _EXPECTING:
            continue
        subject = declaration.subject
        key = (resolve(names, declaration.name, subject), declaration.where)
        if key not in places:
            raise LinkError(
                f"{subject}: bytes are expected at `{declaration.name}`, which this file neither "
                "replaces nor turns into NOPs; declare that too"
            )
        if key in result:
            raise LinkError(
                f"{subject}: `{declaration.name}` has an expectation already; remove one"
            )
        result[key] = declaration.expect.hex()
        if declaration.kind is DeclarationKind.EXPECT_IMAGE:
            result[key] = _of_image(declaration, key[0], names).hex()
    return result


def _of_image(declaration: Declared, name: str, names: Names) -> bytes:
    """Return the image's first bytes of a function, if boot leaves them alone."""
    size, symbol = declaration.size_bytes, names.image.symbols.get(name)
    if symbol is None or not 0 < size <= min(names.abi.facts.expect_length_max, symbol.size_bytes):
        raise LinkError(
            f"{declaration.subject}: {size} bytes of `{name}` cannot be expected; "
            f"1 to {min(names.abi.facts.expect_length_max, symbol.size_bytes if symbol else 0)} can"
        )
    start, end = symbol.addr_virt, symbol.addr_virt + size
    for rewrite in names.image.rewrites:
        first, last = rewrite.addr_virt, rewrite.addr_virt + rewrite.size_bytes
        if first < end and start < last and not rewrite.is_endbr:
            raise LinkError(
                f"{declaration.subject}: {rewrite.reason} at +{first - start:#x} of `{name}` may "
                "be rewritten at boot; expect fewer bytes"
            )
    return names.image.read(start, size)


def _changed(
    elf: ElfFile, target: Target, names: Names, expected: dict[tuple[str, int], str]
) -> ChangedFunction:
    declaration, function = target.declaration, _function(elf, target.declaration)
    if target.offset and target.symbol is not None:
        check_jump(
            read_code(names.image, target.symbol),
            target.offset,
            names.image.profile.jump_size_bytes,
            declaration.subject,
        )
    return ChangedFunction(
        name=target.name,
        reason=f"declared in {declaration.subject}",
        cause=Cause.SOURCE,
        symbol=function.name,
        symbol_baseline=target.name.rpartition("#")[2],
        section=elf.sections[function.shndx].name,
        size_before_bytes=target.symbol.size_bytes if target.symbol else 0,
        size_after_bytes=function.size_bytes,
        place=None if declaration.kind is DeclarationKind.REPLACE else target.place,
        expect=expected.get((target.name, target.offset)),
    )


def _function(elf: ElfFile, declaration: Declared) -> Symbol:
    function = declaration.object
    if function is None or function.type != STT_FUNC or not function.size_bytes:
        raise LinkError(
            f"{declaration.subject}: the replacement is no function of {elf.name}; write one here"
        )
    return function


def _nopped(target: Target, names: Names, expected: dict[tuple[str, int], str]) -> NoppedRange:
    declaration = target.declaration
    if target.symbol is None:
        raise LinkError(
            f"{declaration.subject}: `{target.name}` is code of an earlier payload; "
            "NOPs are checked against the image only, replace the function"
        )
    code = read_code(names.image, target.symbol)
    size = declaration.size_bytes
    if declaration.kind is DeclarationKind.NOP_BODY:
        size = body_size_bytes(code, declaration.subject)
    check_nops(code, target.offset, size, declaration.subject)
    return NoppedRange(
        name=target.name,
        place=target.place,
        size_bytes=size,
        reason=f"declared in {declaration.subject}",
        expect=expected.get((target.name, target.offset)),
    )


def _is_taken(section: Section) -> bool:
    return section.is_alloc and section.size_bytes > 0 and not section.name.startswith(_LEFT_OUT)


def _new_items(elf: ElfFile, taken: list[Section], replacing: set[str]) -> tuple[NewItem, ...]:
    """List what the payload brings besides replacements."""
    by_index = {section.index: section for section in taken}
    result = [
        NewItem(
            name=section.name,
            reason=f"part of {elf.name}",
            kind="hook",
            symbol="",
            section=section.name,
            size_bytes=section.size_bytes,
        )
        for section in taken
        if section.name.startswith(HOOK_PREFIX)
    ]
    for symbol in elf.symbols:
        section = by_index.get(symbol.shndx)
        if section is None or symbol.type not in (STT_FUNC, STT_OBJECT) or not symbol.name:
            continue
        if symbol.name in replacing or section.name.startswith((HOOK_PREFIX, MODINFO_SECTION)):
            continue  # a hook's slot is listed by its section, metadata is no code or data
        kind = "function" if symbol.type == STT_FUNC else "data"
        if section.type == SHT_NOBITS:
            kind = "bss"
        elif kind == "data" and not section.is_write:
            kind = "read-only data"
        result.append(
            NewItem(
                name=symbol.decorated,
                reason=f"part of {elf.name}",
                kind=kind,
                symbol=symbol.name,
                section=section.name,
                offset=symbol.value,
                size_bytes=symbol.size_bytes,
            )
        )
    return tuple(sorted(result, key=lambda item: (item.section, item.offset, item.name)))


def resolve(names: Names, name: str, subject: str) -> str:
    """Return the decorated name of the symbol that an author means.

    ``name`` is ``function``, ``file.c#local`` with as much of the path as needed, or the name of a
    static that only one file has.

    Raises:
        LinkError: Unknown (near misses are suggested), or several could be meant (they are listed).
        RefusedError: A static local of a payload beneath, which has no name there.
    """
    if names.is_taken(name):
        return name
    plain = name.rpartition("#")[2]
    is_scoped = "#" in name
    found = sorted(
        known
        for known in names.image.symbols
        if known.endswith(f"#{plain}") and (not is_scoped or known.endswith(f"/{name}"))
    )
    if len(found) == 1:
        return found[0]
    if found:
        more = f" and {len(found) - _CANDIDATES_MAX} more" if len(found) > _CANDIDATES_MAX else ""
        raise LinkError(
            f"{subject}: `{name}` may be any of {', '.join(found[:_CANDIDATES_MAX])}{more}; "
            "write the one you mean"
        )
    raise names.missing(subject, name)
