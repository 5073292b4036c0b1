# SPDX-License-Identifier: Apache-2.0
"""From hand-written C files to the deltas that the linker takes, and on to a signed payload."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from xsplice_plugins.artefacts import Delta, Duty, Severity, findings_about
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.errors import LinkError
from xsplice_plugins.handmade.compiling import (
    OWN_FOLDER,
    OWN_HEADERS,
    SourceObject,
    compile_sources,
    rename_symbols,
)
from xsplice_plugins.handmade.declarations import DeclarationKind, read_declarations
from xsplice_plugins.handmade.delta import make_delta, resolve
from xsplice_plugins.handmade.externs import Externs
from xsplice_plugins.handmade.knowledge import Knowledge
from xsplice_plugins.handmade.originals import Originals, check_types
from xsplice_plugins.handmade.shapes import DebugSide
from xsplice_plugins.handmade.structures import Structures
from xsplice_plugins.link.names import Names, read_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xsplice_plugins.artefacts import ChangedFunction, NoppedRange
    from xsplice_plugins.capture.reads import Reads
    from xsplice_plugins.kbuild.tree import XenTree
    from xsplice_plugins.plugins.spec import Config


class Handmade(Struct, frozen=True, kw_only=True):
    """Compiled and understood: what the link stage takes."""

    deltas: tuple[Delta, ...]
    objects: tuple[bytes, ...]
    notes: tuple[str, ...]  #: things a person should know
    reads: Reads  #: all files that were read, with digests of what they held


def prepare(tree: XenTree, sources: Sequence[Path], config: Config) -> Handmade:
    """Compile hand-written files for a built tree, which is only read; follow what they declare.

    Raises:
        ConfigError: A file is missing.
        CaptureError: A file does not compile.
        LinkError: A declaration cannot be followed.
        RefusedError: What a file declares of Xen is not what Xen has.
    """
    reads: Reads = {}
    compiled = compile_sources(tree, sources, release=config.release, reads=reads)
    try:
        names = read_names(tree.xen_syms.read_bytes(), config)
    except OSError as error:
        raise LinkError(
            f"{error.filename}: cannot be read ({error.strerror}); give an existing file"
        ) from error
    wanted = tuple(_wanted(source, names) for source in compiled)
    renamed = tuple(map(_renamed, compiled, wanted))
    deltas = tuple(make_delta(source, names, config.profile) for source in renamed)
    if not any(delta.is_active for delta in deltas):
        raise LinkError(
            f"{', '.join(delta.source_path for delta in deltas)}: nothing is declared; "
            'include <xsplice.h> and write XSPLICE_REPLACE("function", replacement)'
        )
    originals = Originals(tree, reads)
    notes = check_types(originals, deltas, tuple(source.data for source in renamed))
    externs, structures = Externs(originals, names, compiled), Structures(originals)
    knowledge = Knowledge(originals, reads)
    folders = {path.name: path.resolve().parent for path in sources}
    for number, source in enumerate(compiled):
        name = source.source_path
        foreign = _foreign(tree, folders[name])
        side = DebugSide(source.data, is_hand_written=True, foreign=foreign)
        findings, told = externs.check(source, side, wanted[number])
        notes += told
        replaced = [row.name for row in deltas[number].changed]
        used = [row for row in wanted[number].values() if "#" in row]
        doubts = structures.check(side, (*replaced, *used))
        doubts += tuple(knowledge.doubts(replaced, used))
        findings += findings_about(
            Duty.LAYOUT, "differ", Severity.UNCHECKED, source.object_path, doubts
        )
        judged = replace(deltas[number], findings=deltas[number].findings + findings)
        deltas = (*deltas[:number], judged, *deltas[number + 1 :])
    return Handmade(
        deltas=deltas,
        objects=tuple(source.data for source in renamed),
        notes=notes + _place_notes(deltas, names),
        reads=reads,
    )


def _foreign(tree: XenTree, folder: Path) -> tuple[str, ...]:
    """Return how absolute paths of headers begin that are not the author's of a file."""
    begins = []
    for place in (tree.root, tree.root.resolve(), OWN_HEADERS):
        begins.append(f"{place}/")
        if place.is_relative_to(folder):
            begins.append(f"{OWN_FOLDER}/{place.relative_to(folder)}/".replace("/./", "/"))
        elif folder.is_relative_to(place):
            begins.append(f"{OWN_FOLDER}/")
    return tuple(begins)


def _place_notes(deltas: Sequence[Delta], names: Names) -> tuple[str, ...]:
    """Say what to know about addresses, and about expected bytes that the image lacks."""
    notes = []
    records: list[ChangedFunction | NoppedRange] = []
    for delta in deltas:
        records += [*delta.changed, *delta.nopped]
    for record in records:
        place = record.place
        if place is not None and not place.symbol:
            notes.append(
                f"{place.addr_virt:#x} is `{record.name}` in this xen only: xen.efi has the same "
                "build-id and other addresses"
            )
        symbol = names.image.symbols.get(record.name)
        if not record.expect or symbol is None or names.beneath:
            continue
        start = symbol.addr_virt + (place.offset if place is not None and place.symbol else 0)
        if names.image.read(start, len(record.expect) // 2).hex() != record.expect:
            notes.append(
                f"the bytes expected at `{record.name}` are not those of the image: apply will be "
                "refused unless something has changed them"
            )
    return tuple(notes)


def _wanted(source: SourceObject, names: Names) -> dict[str, str]:
    """Return the decorated names of statics of Xen that symbols of a file stand for."""
    declarations = read_declarations(read_elf(source.data, source.object_path))
    wanted = {}
    for declaration in declarations:
        if declaration.kind is DeclarationKind.SYMBOL:
            if declaration.object is None or declaration.object.shndx:
                raise LinkError(
                    f"{declaration.subject}: XSPLICE_SYMBOL names nothing that is only declared; "
                    "declare it `extern` and do not define it"
                )
            wanted[declaration.object.name] = resolve(names, declaration.name, declaration.subject)
    return wanted


def _renamed(source: SourceObject, wanted: dict[str, str]) -> SourceObject:
    """Give the symbols that stand for statics of Xen the names of those."""
    return replace(source, data=rename_symbols(source.data, wanted)) if wanted else source
