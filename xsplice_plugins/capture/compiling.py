# SPDX-License-Identifier: Apache-2.0
"""Run a recorded compile command in a private copy, its outputs elsewhere."""

from __future__ import annotations

import contextlib
import logging
import re
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from xsplice_plugins.capture.copying import check_reads, full_disk_named, origin_of
from xsplice_plugins.capture.reads import NOT_TOLD, Reads, files_read
from xsplice_plugins.errors import CaptureError, RefusedError
from xsplice_plugins.kbuild.commands import compiling, edited, redirected, run, words

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xsplice_plugins.artefacts import CompileJob

log = logging.getLogger(__name__)

#: What gcc and clang say where a header and the build's own ``asm-offsets.h`` disagree.
_GENERATED = re.compile(
    r"[\"'](?P<name>\w+)[\"'] (?:macro )?redefined(?s:.*?)asm-offsets\.h:\d+:(?:\d+:)? note: "
    r"(?:this is the location of the )?previous definition"
)

_DEPENDENCY_ALONE = {"-MD", "-MMD", "-MP", "-MG"}
_DEPENDENCY_VALUE = {"-MF", "-MT", "-MQ"}
_DEPENDENCY_JOINED = ("-Wp,-MD,", "-Wp,-MMD,", "-MF", "-MT", "-MQ")


def compile_object(
    job: CompileJob,
    copy_root: Path,
    out: Path,
    *,
    env: Mapping[str, str] | None = None,
    reads: Reads | None = None,
) -> str:
    """Compile one object in a private copy and put it elsewhere.

    Args:
        job: The recorded command and the renaming steps after it.
        copy_root: The copy (or the tree itself, which is only read).
        out: The object to write; it appears whole or not at all.
        env: The compiler's environment; this process's own if ``None``.
        reads: Gets the files that were read beyond the job's inputs; ``None`` if nobody asks.

    Returns:
        What the compiler wrote about the files that it read, as a rule for make; "" if it was
        not asked.

    Raises:
        CaptureError: It does not compile; the message has the compiler's own lines.
        RefusedError: A value changed that ``asm-offsets.h`` has for assembler.
        MachineError: The compiler is not there, or a disk is full.
    """
    with full_disk_named(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        made = work / "compiled"
        command = _redirected(job, copy_root, made, is_asked=reads is not None)
        _run(job, command, copy_root, env)
        if not made.is_file():
            raise CaptureError(
                f"{job.object_path}: its command wrote no object at {job.output}; "
                "build the tree again"
            )
        depends = work / "depends"
        text = depends.read_text("utf-8", "surrogateescape") if depends.is_file() else ""
        check_reads(copy_root, job.cwd, text, job.source_path)
        if reads is not None:
            found = files_read(text, copy_root, job.cwd, set(job.inputs)) if text else NOT_TOLD
            reads.update(found)
        made = _renamed(job, made, copy_root, env)
        with full_disk_named(out):
            made.replace(out)
        return text
    finally:
        shutil.rmtree(work, ignore_errors=True)


def preprocess(
    job: CompileJob,
    copy_root: Path,
    *,
    env: Mapping[str, str] | None = None,
    options: str = "",
    reads: Reads | None = None,
    contents: Path | None = None,
) -> str:
    """Preprocess an object's source with its recorded command.

    Args:
        job: The recorded command.
        copy_root: The copy (or the tree itself, which is only read).
        env: The compiler's environment; this process's own if ``None``.
        options: Added at the end, as shell words.
        reads: Gets the files that were read beyond the job's inputs; ``None`` if nobody asks.
        contents: Root of the copy whose patched files count there; default: ``copy_root``.

    Returns:
        The text with line markers, in Latin-1 (every byte is one character).

    Raises:
        CaptureError: The preprocessor fails; the message has its own lines.
        RefusedError: A value changed that ``asm-offsets.h`` has for assembler.
    """
    origin = origin_of(copy_root).folder
    job = replace(job, command=compiling(job.command, job.output))
    changes = _moved(job.command, origin, copy_root)
    changes |= _without_outputs(job.command)
    appended = f"-E{_prefix_map(job.command, origin, copy_root)} {options}".rstrip()
    if reads is None:
        data = _run(job, edited(job.command, changes, appended), copy_root, env)
    else:
        with tempfile.TemporaryDirectory(prefix="xsplice-") as work:
            depends = Path(work) / "depends"
            appended += f" -MD -MF {shlex.quote(str(depends))}"
            data = _run(job, edited(job.command, changes, appended), copy_root, env)
            told = depends.read_text("utf-8", "surrogateescape") if depends.is_file() else ""
        known = set(job.inputs)
        found = files_read(told, copy_root, job.cwd, known, contents=contents) if told else NOT_TOLD
        reads.update(found)
    text = data.decode("latin-1")
    check_reads(copy_root, job.cwd, _dotted_markers(text), job.source_path)
    return text


def is_true(
    job: CompileJob, copy_root: Path, condition: str, *, env: Mapping[str, str] | None = None
) -> bool:
    """Ask the compiler whether a constant expression is true at the end of an object's source.

    Args:
        job: The recorded command.
        copy_root: The copy.
        condition: Such as ``sizeof(struct vcpu) == 8``.
        env: The compiler's environment; this process's own if ``None``.

    Returns:
        False also where it is not constant, or means nothing there.

    Raises:
        CaptureError: Preprocessing fails.
    """
    job = replace(job, command=compiling(job.command, job.output))
    text = preprocess(job, copy_root, env=env)
    with tempfile.TemporaryDirectory(prefix="xsplice-") as work:
        asked = Path(work) / "asked.i"
        asked.write_text(f'{text}\n_Static_assert({condition}, "");\n', "latin-1")
        changes = _moved(job.command, origin_of(copy_root).folder, copy_root)
        changes |= _without_outputs(job.command)
        for index, word in enumerate(words(job.command)):
            if index not in changes and job.source_path.endswith(word.text.removeprefix("./")):
                changes[index] = str(asked)
        line = edited(job.command, changes, "-fsyntax-only -w")
        try:
            run(line, copy_root / job.cwd, env=env, subject=job.source_path)
        except CaptureError:
            return False
    return str(asked) in line


def complaints(job: CompileJob, copy_root: Path, *, env: Mapping[str, str] | None = None) -> str:
    """Return all errors and warnings of an object's source; nothing is made.

    Args:
        job: The recorded command.
        copy_root: The copy.
        env: The compiler's environment; this process's own if ``None``.

    Raises:
        MachineError: The compiler is not there.
    """
    job = replace(job, command=compiling(job.command, job.output))
    with tempfile.TemporaryDirectory(prefix="xsplice-") as work:
        told = Path(work) / "told"
        changes = _moved(job.command, origin_of(copy_root).folder, copy_root)
        changes |= _without_outputs(job.command)
        line = edited(job.command, changes, f"-fsyntax-only 2>{shlex.quote(str(told))}")
        with contextlib.suppress(CaptureError):  # it has errors, which are told
            run(line, copy_root / job.cwd, env=env, subject=job.source_path)
        return told.read_text("utf-8", "surrogateescape")


def _without_outputs(command: str) -> dict[int, str]:
    """Return which words of a command to leave out, that it compiles to nowhere."""
    changes = {}
    skip = False
    for index, word in enumerate(words(command)):
        if skip or word.text == "-o" or word.text in _DEPENDENCY_VALUE:
            changes[index] = ""
            skip = not skip
        elif (
            word.text in _DEPENDENCY_ALONE
            or word.text in {"-c", "-S", "-P", "-E"}
            or word.text.startswith(_DEPENDENCY_JOINED)
        ):
            changes[index] = ""
    return changes


def _run(job: CompileJob, command: str, copy_root: Path, env: Mapping[str, str] | None) -> bytes:
    """Run a job's command; tell a stale generated header from a mistake of the patch."""
    try:
        return run(command, copy_root / job.cwd, env=env, subject=job.source_path)
    except CaptureError as error:
        found = _GENERATED.search(str(error))
        if found is None:
            raise
        raise RefusedError(
            f"asm-offsets.h: `{found['name']}` gets another value, and the build writes it into "
            f"this file, which {job.source_path} and assembler source read; assembler code cannot "
            "be replaced and keeps the old value [GENERATED]; leave that part of the patch out, or "
            "give C code a constant of its own"
        ) from error


def _dotted_markers(text: str) -> str:
    """Return the line markers with a ``..`` in their path; a regex over a megabyte is slow."""
    lines = set()
    at = text.find("/../")
    while at >= 0:
        start, end = text.rfind("\n", 0, at) + 1, text.find("\n", at)
        end = len(text) if end < 0 else end
        if text[start] == "#":
            lines.add(text[start:end])
        at = text.find("/../", end)
    return "\n".join(sorted(lines))


def _redirected(job: CompileJob, copy_root: Path, made: Path, *, is_asked: bool) -> str:
    """Return the command with every output in ``made``'s folder.

    A list of what it read is one of them, ``depends``, if the command writes one or it ``is_asked``
    for.
    """
    origin = origin_of(copy_root).folder
    changes = _moved(job.command, origin, copy_root)
    changes |= redirected(job.command, job.output, made)
    appended = _prefix_map(job.command, origin, copy_root).strip()
    told = shlex.quote(str(made.with_name("depends")))
    if is_asked and not any(word.text.startswith("-MF") for word in words(job.command)):
        appended = f"{appended} -MD -MF {told}".lstrip()
    return edited(job.command, changes, appended, job.output)


def _moved(command: str, origin: str, copy_root: Path) -> dict[int, str]:
    """Lead absolute paths of the tree into the copy (an ``O=`` build records such paths)."""
    if origin == str(copy_root) or origin not in command:
        return {}
    copy = str(copy_root)
    return {
        index: word.text.replace(origin + "/", copy + "/")
        for index, word in enumerate(words(command))
        if origin + "/" in word.text
    }


def _prefix_map(command: str, origin: str, copy_root: Path) -> str:
    """Hide the copy's place from ``__FILE__`` and from debug information.

    Without debug information and absolute paths nothing names the place, and older compilers that
    lack the option are not bothered with it.
    """
    if origin == str(copy_root):
        return ""
    has_debug = any(word.text.startswith("-g") and word.text != "-g0" for word in words(command))
    if not has_debug and origin + "/" not in command:
        return ""
    return " " + shlex.quote(f"-ffile-prefix-map={copy_root}={origin}")


def _renamed(job: CompileJob, made: Path, copy_root: Path, env: Mapping[str, str] | None) -> Path:
    """Do what the tree does after compiling: rename the file symbol, and init sections."""
    steps: list[str] = []
    if job.file_symbol is not None and job.file_symbol[0] != job.file_symbol[1]:
        steps += ["--redefine-sym", "=".join(job.file_symbol)]
    for rename in job.renames:
        steps += ["--rename-section", rename]
    if not steps:
        return made
    result = made.with_name("renamed")
    line = " ".join([job.objcopy, *map(shlex.quote, [*steps, str(made), str(result)])])
    run(line, copy_root / job.cwd, env=env, subject=job.object_path)
    return result
