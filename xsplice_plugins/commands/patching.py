# SPDX-License-Identifier: Apache-2.0
"""The subcommand that goes the whole way: ``xsplice patch FIX... --xen TREE``.

It runs SCons on a project of its own, so nodes, signatures and speed are those of
``scons xsplice``; no SConstruct and no repository is needed.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from xsplice_plugins import artefacts, pipeline, settings
from xsplice_plugins.cache import cache_folder, locked
from xsplice_plugins.commands.words import Row, show, tree_path
from xsplice_plugins.errors import (
    ConfigError,
    MachineError,
    NoFunctionalChangeError,
    RefusedError,
    VerifyError,
    XspliceError,
)
from xsplice_plugins.kbuild.tree import locate_tree
from xsplice_plugins.patch import clean_name, derived_name
from xsplice_plugins.settings import SETTINGS, add_options

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator

_ENDS = tuple(end for end in pipeline.MADE if end != ".livepatch.unsigned")
_PR_SET_PDEATHSIG = 1  #: of prctl(2)
_PROOF = {".checks.json", ".verify.json", ".verify.failed.json"}
#: Statuses of a run that made a payload, and of one that says why there shall be none. Any other
#: run says nothing about what an earlier one made, unless it failed at the fix itself.
_MADE = {0, VerifyError.exit_status}
_UNMADE = {NoFunctionalChangeError.exit_status, RefusedError.exit_status}


def _add_patch(parser: ArgumentParser) -> None:
    parser.add_argument("fix", type=Path, nargs="+", help="diffs, a quilt series, or C files")
    parser.add_argument("--out", type=Path, help="folder for what was made; default: this one")
    parser.add_argument("--verify", action="store_true", help="prove it as well")
    parser.add_argument("--jobs", "-j", type=int, help="how many compiles at a time")
    add_options(parser, "patch", required=["XEN"])
    parser.set_defaults(BUILD="")  # one in the cache


def _patch(arguments: Namespace) -> int:
    xen = tree_path(arguments.XEN)
    if not arguments.verify and (arguments.ON or arguments.RELEASES or arguments.EXPECT):
        raise ConfigError("--on, --releases and --expect are about the proof; add --verify")
    with _open_out(arguments.out, xen) as out:
        return _run(arguments, xen, out)


def _run(arguments: Namespace, xen: Path, out: Path) -> int:
    folder = Path(arguments.BUILD).absolute() if arguments.BUILD else _folder_of(xen)
    kind = "HOTFIX" if arguments.fix[0].suffix == ".c" else "PATCH"
    arguments.NAME = clean_name(arguments.NAME) if arguments.NAME else derived_name(arguments.fix)
    _check_outputs(out, arguments)
    words = [*_settings(arguments), f"BUILD={folder}", f"XEN={xen}"]
    words.append(f"{kind}={_listed(arguments.fix)}")
    target = "xsplice-verify" if arguments.verify else "xsplice"
    jobs = [f"-j{arguments.jobs}"] if arguments.jobs else []
    pipeline.check_outside(folder, locate_tree(xen))
    # Another run's files of the same name must not be taken for this one's.
    with locked(folder, name=".patch.lock"):
        stands = folder / arguments.NAME / pipeline.STANDS
        artefacts.write_file(stands, b"")
        command = [sys.executable, "-m", "SCons", "-Q", "-f", str(_sconstruct()), *jobs, target]
        try:
            status = _scons([*command, *words], is_quiet=arguments.json)
            is_decided = status in _MADE | _UNMADE or not stands.exists()
        finally:
            stands.unlink(missing_ok=True)
        made = _collected(folder, out, arguments, status) if is_decided else []
    if arguments.json:
        show(artefacts.to_json({"status": status, "files": [str(path) for path in made]}))
    return status


def _scons(command: list[str], *, is_quiet: bool) -> int:
    """Run SCons and return its status.

    A signal to end is passed on, so that SCons ends first; then the status is a shell's for that
    signal. Whatever else ends this process, SCons is told to end.
    """
    environ = os.environ | {
        "PYTHONDONTWRITEBYTECODE": "1",
        "XSPLICE_CACHE": str(cache_folder(os.environ)),  # absolute: SCons runs elsewhere
    }
    got: list[int] = []
    with subprocess.Popen(
        command,
        stdout=sys.stderr if is_quiet else None,
        cwd=_sconstruct().parent,
        env=environ,
        preexec_fn=_end_with_parent,  # noqa: PLW1509  no thread runs here
    ) as process:

        def passed_on(number: int, _frame: object) -> None:
            got.append(number)
            process.send_signal(number)

        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        before = [signal.signal(number, passed_on) for number in numbers]
        try:
            status = process.wait()
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)
    if got and status:
        return 128 + got[0]
    return 128 - status if status < 0 else status  # as a shell says it


def _end_with_parent() -> None:
    """Ask Linux for SIGTERM when the parent is gone; of a process that is about to be SCons."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _check_outputs(out: Path, arguments: Namespace) -> None:
    """Refuse to write over a file that the run reads, or over what is no regular file."""
    names = ("DEPENDS", "SUPERSEDES", "KEY", "CERT", "EXPECT")
    given = [
        (f"--{name.lower()}", Path(path))
        for name in names
        for path in settings.split_files(getattr(arguments, name) or "", Path)
    ]
    given += [("FIX", path) for path in arguments.fix]
    made = [out / f"{arguments.NAME}{end}" for end in _ENDS]
    pipeline.refuse_overwriting(made, given)
    for path in made:
        artefacts.check_replaceable(path)


def _settings(arguments: Namespace) -> list[str]:
    """Return the options as SCons takes them; paths are made absolute."""
    words = []
    for row in SETTINGS:
        value = getattr(arguments, row.name, "")
        if row.name in {"XEN", "BUILD"} or not value:
            continue
        if row.takes is settings.Takes.FILE:
            value = Path(value).absolute()
        elif row.takes is settings.Takes.FILES:
            value = _listed([Path(word) for word in settings.split_files(value, Path)])
        elif row.takes in {settings.Takes.PAIRS, settings.Takes.WORDS}:
            value = " ".join(value)
        words.append(f"{row.name}={value}")
    return words


def _listed(files: list[Path]) -> str:
    """Return paths as one setting; SCons splits several at blanks and commas."""
    paths = [str(path.absolute()) for path in files]
    if len(paths) > 1 and any(mark in path for path in paths for mark in ", \t"):
        raise ConfigError(
            f"{' '.join(paths)}: several files cannot have blanks or commas in their paths; "
            "rename them"
        )
    return " ".join(paths)


def _sconstruct() -> Path:
    """Return the project that ships with the SCons tool.

    Raises:
        ConfigError: The tool is not installed.
    """
    found = importlib.util.find_spec("xsplice")
    if found is None or found.origin is None:
        raise ConfigError("the SCons tool of xsplice is not installed; install the package again")
    return Path(found.origin).parent / "SConstruct"


def _folder_of(xen: Path) -> Path:
    """Return the build folder of a tree, where a second fix finds what the first has made."""
    name = hashlib.sha256(os.fsencode(str(xen.resolve()))).hexdigest()[:16]
    return cache_folder(os.environ) / "patch" / name


@contextlib.contextmanager
def _open_out(named: Path | None, xen: Path) -> Iterator[Path]:
    """Give the folder for what is made; by default never one inside the tree.

    A folder that was made for it and stays empty is taken away.

    Raises:
        ConfigError: It is no folder, or none was named inside the tree.
        MachineError: It cannot be written.
    """
    out = (named or Path()).absolute()
    if named is None:
        pipeline.check_outside(out, locate_tree(xen), "--out")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is no folder; give one for what is made")
    fresh = [place for place in (out, *out.parents) if not place.exists()]
    try:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MachineError(f"--out {out}: cannot be made ({error.strerror})") from error
        if not os.access(out, os.W_OK | os.X_OK):
            raise MachineError(f"--out {out}: cannot be written; choose another folder")
        yield out
    finally:
        with contextlib.suppress(OSError):  # what holds something stays
            for place in fresh:
                place.rmdir()


def _collected(folder: Path, out: Path, arguments: Namespace, status: int) -> list[Path]:
    """Copy what was made to where the user wants it; nothing of an earlier run stays there.

    A payload that was judged and not proved is not handed out; it stays in the build folder.

    Raises:
        MachineError: One cannot be written; then no copy stays, old or new.
    """
    made: list[Path] = []
    name = arguments.NAME
    copies: dict[Path, Path] = {}
    for end in _ENDS:
        there, here = folder / name / f"{name}{end}", out / f"{name}{end}"
        is_here = here.exists() and there.exists() and here.samefile(there)
        is_handed_out = not status or end != ".livepatch" or is_here
        is_asked_for = arguments.verify or end not in _PROOF
        if status in _MADE and there.is_file() and is_asked_for and is_handed_out:
            made.append(here)
            if not is_here:
                copies[here] = there
        else:
            here.unlink(missing_ok=True)
    try:  # the payload comes last: who finds it finds its verdict
        for here in sorted(copies, key=lambda path: path.suffix == ".livepatch"):
            artefacts.write_file(here, artefacts.read_file(copies[here]))
    except XspliceError:
        for here in copies:
            here.unlink(missing_ok=True)
        raise
    if status == VerifyError.exit_status and out / f"{name}.livepatch" not in made:
        sys.stderr.write(
            f"xsplice patch: {name}.livepatch is not proved, so it is not put into {out}; it stays "
            f"in {folder / name}\n"
        )
    return made


COMMANDS: tuple[Row, ...] = (
    ("patch", "make a signed payload of a fix, and prove it", _add_patch, _patch),
)
