# SPDX-License-Identifier: Apache-2.0
"""The subcommand that goes the whole way: ``xsplice patch FIX... --xen TREE``.

It runs SCons on a project of its own, so nodes, signatures and speed are those of
``scons xsplice``; no SConstruct and no repository is needed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from xsplice_plugins import artefacts, settings
from xsplice_plugins.commands.words import Row, facts_cache, show
from xsplice_plugins.errors import ConfigError, VerifyError
from xsplice_plugins.patch import clean_name, derived_name
from xsplice_plugins.settings import SETTINGS, add_options

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

_ENDS = (
    ".livepatch",
    ".patch.json",
    ".payload.json",
    ".signature.json",
    ".verify.json",
    ".verify.failed.json",
)
#: Statuses of a run that made a payload.
_MADE = {0, VerifyError.exit_status}


def _add_patch(parser: ArgumentParser) -> None:
    parser.add_argument("fix", type=Path, nargs="+", help="diffs, a quilt series, or C files")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for what was made")
    parser.add_argument("--verify", action="store_true", help="prove it as well")
    parser.add_argument("--build", type=Path, help="folder for all that is built; default: a cache")
    parser.add_argument("--jobs", "-j", type=int, help="how many compiles at a time")
    add_options(parser, "patch", required=["XEN"])


def _patch(arguments: Namespace) -> int:
    xen = Path(arguments.XEN).absolute()
    folder = arguments.build or _folder_of(xen)
    kind = "HOTFIX" if arguments.fix[0].suffix == ".c" else "PATCH"
    arguments.NAME = clean_name(arguments.NAME) if arguments.NAME else derived_name(arguments.fix)
    words = [*_settings(arguments), f"BUILD={folder.absolute()}", f"XEN={xen}"]
    words.append(f"{kind}={_listed(arguments.fix)}")
    target = "xsplice-verify" if arguments.verify else "xsplice"
    jobs = [f"-j{arguments.jobs}"] if arguments.jobs else []
    done = subprocess.run(
        [sys.executable, "-m", "SCons", "-Q", "-f", str(_sconstruct()), *jobs, target, *words],
        stdout=sys.stderr if arguments.json else None,
        cwd=_sconstruct().parent,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )
    made = _collected(folder, arguments) if done.returncode in _MADE else []
    if arguments.json:
        show(artefacts.to_json({"status": done.returncode, "files": [str(path) for path in made]}))
    return done.returncode


def _settings(arguments: Namespace) -> list[str]:
    """Return the options as SCons takes them; paths are made absolute."""
    words = []
    for row in SETTINGS:
        value = getattr(arguments, row.name, "")
        if row.name == "XEN" or not value:
            continue
        if row.takes is settings.Takes.FILE:
            value = Path(value).absolute()
        elif row.takes is settings.Takes.PAIRS:
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
    return facts_cache().with_name("patch") / name


def _collected(folder: Path, arguments: Namespace) -> list[Path]:
    """Copy what was made to where the user wants it; no report of an earlier run stays there."""
    made = []
    name = arguments.NAME
    arguments.out.mkdir(parents=True, exist_ok=True)
    for end in _ENDS:
        there, here = folder / name / f"{name}{end}", arguments.out / f"{name}{end}"
        if there.is_file() and (arguments.verify or ".verify" not in end):
            shutil.copyfile(there, here)
            made.append(here)
        else:
            here.unlink(missing_ok=True)
    return made


COMMANDS: tuple[Row, ...] = (
    ("patch", "make a signed payload of a fix, and prove it", _add_patch, _patch),
)
