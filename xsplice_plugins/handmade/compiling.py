# SPDX-License-Identifier: Apache-2.0
"""Compile hand-written files with the flags that the tree's own objects were compiled with."""

from __future__ import annotations

import os
import re
import shlex
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from xsplice_plugins.artefacts import CompileJob
from xsplice_plugins.capture.compiling import compile_object
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.types import SHDR_SIZE_BYTES, SHT_SYMTAB, SYM_SIZE_BYTES
from xsplice_plugins.errors import CaptureError, ConfigError
from xsplice_plugins.kbuild.commands import edited, other_source
from xsplice_plugins.kbuild.records import read_record
from xsplice_plugins.releases import parse_release

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from xsplice_plugins.capture.reads import Reads
    from xsplice_plugins.kbuild.records import Record
    from xsplice_plugins.kbuild.tree import XenTree

#: Ordinary objects of every configuration; the first one with a recorded command is the model.
_MODELS = ("common/version.o", "common/kernel.o", "common/domctl.o")
_SECTIONS_AT = 40  #: e_shoff
_SH_OFFSET_AT, _SH_SIZE_AT = 24, 32
OWN_HEADERS = Path(__file__).parent / "include"
OWN_FOLDER = "/hand-written"  #: what debug information calls the folder where a file lies
#: What tells that a file may define types, or includes an own header that does.
_DEFINING = re.compile(
    rb"\b(?:struct|union|enum)(?:\s+__attribute__\s*\(\(.*?\)\)|\s+\w+)*\s*\{|\btypedef\b"
    rb'|^\s*#\s*include\s*"',
    re.MULTILINE,
)


class SourceObject(Struct, frozen=True, kw_only=True):
    """A hand-written file, compiled."""

    object_path: str  #: ``hotfix.o``: how messages and records call it
    source_path: str  #: ``hotfix.c``
    data: bytes


def compile_sources(
    tree: XenTree, sources: Sequence[Path], *, release: str, reads: Reads | None = None
) -> tuple[SourceObject, ...]:
    """Compile hand-written C files for a built tree, which is only read.

    ``reads`` gets all files that the compiler read.

    Raises:
        CaptureError: The tree has no recorded commands, or a file does not compile.
        ConfigError: A file is missing, no C file, or two have the same name.
    """
    result = []
    with tempfile.TemporaryDirectory(prefix="xsplice-") as folder:
        for job in source_jobs(tree, sources, release=release):
            out = Path(folder) / job.object_path
            compile_object(job, tree.root, out, reads=reads)
            row = SourceObject(
                object_path=job.object_path, source_path=job.source_path, data=out.read_bytes()
            )
            result.append(row)
    return tuple(result)


def source_jobs(tree: XenTree, sources: Sequence[Path], *, release: str) -> tuple[CompileJob, ...]:
    """Return how hand-written files are compiled, in the order of their names.

    Raises:
        CaptureError: The tree has no recorded commands.
        ConfigError: A file is missing, no C file, or two have the same name.
    """
    check_sources(sources)
    model = _model(tree)
    files = sorted(sources, key=lambda path: path.name)
    return tuple(_job(tree, model, source, release) for source in files)


def check_sources(sources: Sequence[Path]) -> None:
    """Refuse what cannot be compiled.

    Raises:
        ConfigError: A file is missing, no C file, or two have the same name.
    """
    seen: dict[str, Path] = {}
    for source in sources:
        if source.suffix != ".c" or not source.is_file():
            raise ConfigError(f"{source}: no C file; give the hand-written .c files")
        if source.name in seen:
            raise ConfigError(
                f"{source}: has the name of {seen[source.name]}, and messages could not tell them "
                "apart; rename one"
            )
        seen[source.name] = source


def _model(tree: XenTree) -> Record:
    for target in _MODELS:
        record = read_record(str(tree.build_root), target)
        if record is not None and record.source.endswith(".c"):
            return record
    raise CaptureError(
        f"{tree.build_root}: Xen {tree.release} recorded no compile command of "
        f"{_MODELS[0]}; apply the series in xen-patches/xen-build and build again"
    )


def recorded_job(tree: XenTree, record: Record, *, appended: str = "") -> CompileJob:
    """Return how a recorded object is compiled, with options added.

    Raises:
        CaptureError: The command names no output.
    """
    return CompileJob(
        object_path=record.target,
        source_path=record.source,
        cwd=os.path.normpath(str(Path(tree.build_dir) / record.folder)),
        command=edited(record.command, {}, appended),
        output=record.output,
    )


def _job(tree: XenTree, model: Record, source: Path, release: str) -> CompileJob:
    job = recorded_job(tree, model)
    place = source.resolve()
    major, minor, point = parse_release(release)
    options = [
        f"-I{OWN_HEADERS}",
        f"-DXSPLICE_XEN_VERSION={major * 10000 + minor * 100 + point}",  # 41705 for 4.17.5
        "-ffunction-sections",
        "-fdata-sections",
        "-g",  # for the types of what it declares; no part of the payload
        f"-fmacro-prefix-map={place.parent}/=",
        f"-fdebug-prefix-map={place.parent}/={OWN_FOLDER}/",
    ]
    if _DEFINING.search(source.read_bytes()):
        options.append(
            "-fno-eliminate-unused-debug-types"
        )  # nor those of which only the size counts
    changes = other_source(job.command, model.source, place)
    return replace(
        job,
        object_path=f"{source.stem}.o",
        source_path=source.name,
        command=edited(job.command, changes, shlex.join(options)),
    )


def rename_symbols(data: bytes, wanted: Mapping[str, str]) -> bytes:
    """Return an object with other names for undefined symbols.

    C cannot spell the names of Xen's statics.

    ``wanted`` has new names by old ones; the longer string table is put at the object's end.
    """
    elf = read_elf(data, "object")
    symtab = next(section for section in elf.sections if section.type == SHT_SYMTAB)
    strings = elf.sections[symtab.link]
    table = bytearray(strings.data)
    result = bytearray(data)
    for symbol in elf.symbols:
        if symbol.shndx == 0 and symbol.name in wanted:
            place = symtab.offset_file + symbol.number * SYM_SIZE_BYTES
            struct.pack_into("<I", result, place, len(table))
            table += wanted[symbol.name].encode("utf-8", "surrogateescape") + b"\0"
    header = int.from_bytes(data[_SECTIONS_AT : _SECTIONS_AT + 8], "little")
    header += strings.index * SHDR_SIZE_BYTES
    struct.pack_into("<Q", result, header + _SH_OFFSET_AT, len(result))
    struct.pack_into("<Q", result, header + _SH_SIZE_AT, len(table))
    return bytes(result + table)
