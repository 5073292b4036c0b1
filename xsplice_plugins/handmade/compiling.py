# SPDX-License-Identifier: Apache-2.0
"""Compile hand-written files with the flags that the tree's own objects were compiled with."""

from __future__ import annotations

import os
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from xsplice_plugins.artefacts import CompileJob
from xsplice_plugins.capture.compiling import compile_object
from xsplice_plugins.errors import CaptureError, ConfigError
from xsplice_plugins.kbuild.commands import edited, option_word, words
from xsplice_plugins.kbuild.records import parse_record, record_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xsplice_plugins.kbuild.records import Record
    from xsplice_plugins.kbuild.tree import XenTree

#: Ordinary objects of every configuration; the first one with a recorded command is the model.
_MODELS = (("common", "version.o"), ("common", "kernel.o"), ("common", "domctl.o"))
_OWN_HEADERS = Path(__file__).parent / "include"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceObject:
    """A hand-written file, compiled."""

    object_path: str  #: ``hotfix.o``: how messages and records call it
    source_path: str  #: ``hotfix.c``
    data: bytes


def version_number(release: str) -> int:
    """Return a release as ``XSPLICE_XEN_VERSION`` spells it: 41705 for 4.17.5."""
    major, minor, point = (*(int(part) for part in release.split(".")), 0)[:3]
    return major * 10000 + minor * 100 + point


def compile_sources(
    tree: XenTree, sources: Sequence[Path], *, release: str
) -> tuple[SourceObject, ...]:
    """Compile hand-written C files for a built tree, which is only read.

    Args:
        tree: The tree.
        sources: The files; their names must differ.
        release: The hypervisor's release, for ``XSPLICE_XEN_VERSION``.

    Raises:
        CaptureError: The tree has no recorded commands, or a file does not compile.
        ConfigError: A file is missing, no C file, or two have the same name.
    """
    check_sources(sources)
    model = _model(tree)
    result = []
    with tempfile.TemporaryDirectory(prefix="xsplice-") as folder:
        for source in sorted(sources, key=lambda path: path.name):
            job = _job(tree, model, source, release)
            out = Path(folder) / job.object_path
            compile_object(job, tree.root, out)
            result.append(
                SourceObject(
                    object_path=job.object_path,
                    source_path=job.source_path,
                    data=out.read_bytes(),
                )
            )
    return tuple(result)


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
    for folder, name in _MODELS:
        record = parse_record(record_text(str(tree.build_root), folder, name), folder, name)
        if record is not None and record.source.endswith(".c"):
            return record
    raise CaptureError(
        f"{tree.build_root}: Xen {tree.release} recorded no compile command of "
        f"{'/'.join(_MODELS[0])}; apply the series in xen-patches/xen-build and build again"
    )


def recorded_job(tree: XenTree, record: Record, *, appended: str = "") -> CompileJob:
    """Return how a recorded object is compiled, with options added.

    Raises:
        CaptureError: The command names no output.
    """
    output = option_word(record.command, "-o")
    if output is None:
        raise CaptureError(
            f"{record.target}: its recorded command names no output; build the tree again"
        )
    return CompileJob(
        object_path=record.target,
        source_path=record.source,
        cwd=os.path.normpath(str(Path(tree.build_dir) / record.folder)),
        command=edited(record.command, {}, appended),
        output=output,
    )


def _job(tree: XenTree, model: Record, source: Path, release: str) -> CompileJob:
    job = recorded_job(tree, model)
    place = source.resolve()
    changes = {
        index: str(place)
        for index, word in enumerate(words(job.command))
        if word.text == model.source
    }
    if len(changes) != 1:
        raise CaptureError(
            f"{model.target}: its recorded command names {model.source} {len(changes)} times, so "
            "it is no model for other files; build the tree again"
        )
    options = [
        f"-I{_OWN_HEADERS}",
        f"-DXSPLICE_XEN_VERSION={version_number(release)}",
        "-ffunction-sections",
        "-fdata-sections",
        "-g",  # for the types of replacements; no part of the payload
        f"-ffile-prefix-map={place.parent}/=",
    ]
    return CompileJob(
        object_path=f"{source.stem}.o",
        source_path=source.name,
        cwd=job.cwd,
        command=edited(job.command, changes, shlex.join(options)),
        output=job.output,
    )
