# SPDX-License-Identifier: Apache-2.0
"""From SCons' variables to a run of the library, and from its errors to SCons' own."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import SCons.Errors
import SCons.SConsign
from SCons.Script import ARGUMENTS

from xsplice_plugins import artefacts, pipeline, settings
from xsplice_plugins.bases.store import PREFIX, used
from xsplice_plugins.errors import FULL, ConfigError, MachineError, XspliceError
from xsplice_plugins.kbuild.tree import XenTree, locate_tree

from . import copies

if TYPE_CHECKING:
    from collections.abc import Iterator

    from SCons.Environment import Environment
    from SCons.Variables import Variables


class StageError(SCons.Errors.BuildError):  # type: ignore[misc]  # SCons has no types
    """A stage's error as SCons reports it, with an exit status of its own.

    SCons sets ``exitstatus`` of every failed action to 2 (SCons.Errors.convert_to_BuildError).
    """

    @property
    def exitstatus(self) -> int:
        """Return the status that the library documents for this error."""
        return int(self.status)

    @exitstatus.setter
    def exitstatus(self, value: int) -> None:
        """Keep the status as it is."""


@contextmanager
def translated(target: list[Any]) -> Iterator[None]:
    """Turn an error of the library into SCons' own, so that one clear message is printed."""
    try:
        yield
    except XspliceError as error:
        raise StageError(node=target[0], errstr=str(error), status=error.exit_status) from error
    except OSError as error:
        if error.errno not in FULL:
            raise
        text = f"{error.filename or target[0]}: cannot be written ({error.strerror}); make room"
        raise StageError(node=target[0], errstr=text, status=MachineError.exit_status) from error


def heed_full_disk(folder: Path) -> None:
    """End SCons with a message and the documented status where its own record finds no room.

    Args:
        folder: Where the record lies.
    """
    write = SCons.SConsign.write

    def written() -> None:
        try:
            write()
        except OSError as error:
            if error.errno not in FULL:
                raise
            for base in SCons.SConsign.DB_sync_list:
                base._needs_sync = False  # noqa: SLF001  it would try again while Python ends
            with stopping():
                raise MachineError(
                    f"{folder}/.sconsign: cannot be written ({error.strerror}); make room and "
                    "run again"
                ) from error

    SCons.SConsign.write = written


#: What ends with the process: the hold on the bases that it uses.
_USED = ExitStack()


@cache
def located(xen: str | Path) -> XenTree:
    """Return a built tree, which a run of SCons reads once; a base is held to the run's end."""
    return locate_tree(_USED.enter_context(used(xen, waiting=_say_gone)))


def _say_gone(who: str) -> None:
    sys.stderr.write(f"xsplice: the base is being removed by {who}; this run waits for it\n")


def tree_at(env: Environment, xen: object) -> XenTree:
    """Return the built tree that a value of ``XEN`` stands for: a path, or ``base:NAME``.

    Raises:
        ConfigError: There is none.
        CaptureError: It is not built, or not for live patching.
    """
    is_named = isinstance(xen, str) and xen.startswith(PREFIX)
    return located(str(xen) if is_named else absolute(env, xen, "XEN"))


@contextmanager
def stopping() -> Iterator[None]:
    """End SCons with an error's message and status while SConscripts are read."""
    try:
        yield
    except XspliceError as error:
        sys.stderr.write(f"\nxsplice: {error}\n")
        raise SystemExit(error.exit_status) from error


def add_variables(variables: Variables) -> None:
    """Add what a user may set on the command line: ``scons xsplice XEN=... PATCH=...``.

    Args:
        variables: The project's ``Variables``; its help text then shows them too.
    """
    for setting in settings.SETTINGS:
        if setting.is_variable:
            variables.Add(setting.name, f"{setting.help} ({setting.takes})", setting.default)


def absolute(env: Environment, named: object, name: str) -> Path:
    """Return the absolute path that a variable or an argument names.

    Args:
        env: The environment; relative paths are taken from the SConscript's folder.
        named: A text or a node.
        name: How messages call the variable.

    Raises:
        ConfigError: A ``$``, which SCons would read as a variable's name, or no text in UTF-8,
            which it could not keep in its record.
    """
    if isinstance(named, str) and artefacts.plain(named) != named:
        raise ConfigError(f"{name}={artefacts.plain(named)}: not a name in UTF-8; rename it")
    if isinstance(named, str) and "$" in named:
        raise ConfigError(f"{name}={named}: SCons reads $ as a variable; rename that folder")
    return Path(env.Entry(named).srcnode().get_abspath())


def build_folder(env: Environment) -> Path:
    """Return the absolute folder for all that is built.

    Raises:
        ConfigError: Its name cannot be used.
        MachineError: It cannot be used, or its disk is full.
    """
    named = env.get("XSPLICE_BUILD", "#build")
    absolute(env, named, "BUILD")
    folder = Path(env.Dir(named).get_abspath())
    pipeline.require_room(folder)
    return folder


def files(env: Environment, value: object, name: str) -> list[Path]:
    """Return the existing files or folders that a variable or an argument names.

    One file whose name holds blanks is understood: if the whole text names it, it is one path.

    Args:
        env: The environment; relative paths are taken from the SConscript's folder.
        value: A text, a node, or a list of them.
        name: How messages call the variable.

    Raises:
        ConfigError: A file does not exist.
    """
    whole = isinstance(value, str) and absolute(env, value, name).exists()
    found = []
    for word in [value] if whole else settings.split_words(value):
        path = absolute(env, str(word), name)
        if not path.exists():
            raise ConfigError(f"{name}={word}: no such file; give the path of an existing file")
        found.append(path)
    return found


def made_here(env: Environment) -> list[Path]:
    """Return the payloads beneath a fix, or before it, that this very run makes."""
    words = [word for name in ("DEPENDS", "SUPERSEDES") for word in _listed(env, name)]
    paths = [absolute(env, word, "DEPENDS") for word in words]
    return [path for path in paths if copies.is_claimed(path.parent)]


def _listed(env: Environment, name: str) -> list[str]:
    return [str(word) for word in settings.split_words(env.get(name) or "")]


def open_run(env: Environment, base: pipeline.Base, accept: object = None) -> pipeline.Run:
    """Return the run of one fix (see `pipeline.open_run`).

    Args:
        env: The environment; the settings are its variables. A word that a report asks for is
            taken from the command line too, whether the project reads variables there or not.
        base: The hypervisor.
        accept: The words for this fix alone; ``None``: those of the environment.
    """
    given = {row.name: env.get(row.name, "") for row in settings.SETTINGS if row.is_variable}
    given["ACCEPT"] = (given["ACCEPT"] or ARGUMENTS.get("ACCEPT", "")) if accept is None else accept
    return pipeline.open_run(
        given,
        base,
        environ=os.environ,
        plugins=env["XSPLICE_PLUGINS"],
        build_dir=build_folder(env),
        resolve=lambda text: absolute(env, text, "file"),
    )
