# SPDX-License-Identifier: Apache-2.0
"""A project that only makes live patches: its variables, its build folder, its fix."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from SCons.Script import ARGUMENTS, Help, SConsignFile, SetOption, Variables

from xsplice_plugins import pipeline
from xsplice_plugins.cache import locked
from xsplice_plugins.errors import ConfigError
from xsplice_plugins.settings import SETTINGS_FILE, is_on

from . import settings
from .source import xsplice_source
from .xen_tree import xen_fix

if TYPE_CHECKING:
    from SCons.Environment import Environment

    from .builders import XspliceNodes


#: What ends with the process: the lock on the build folder.
_HELD = ExitStack()


def _say_busy(folder: Path) -> None:
    sys.stderr.write(f"xsplice: another run is at work in {folder}; this one waits for it\n")


def xsplice_project(env: Environment) -> None:
    """Read the command line's variables and open the build folder: ``env.XspliceProject()``.

    Nothing is written before the build folder is known to lie outside of ``XEN``. Two runs in one
    build folder work one after the other.
    """
    variables = Variables(SETTINGS_FILE, ARGUMENTS)
    settings.add_variables(variables)
    variables.Update(env)
    Help(variables.GenerateHelpText(env), append=True)
    with settings.stopping():
        if unknown := sorted(variables.UnknownVariables()):
            raise ConfigError(
                f"unknown variables: {', '.join(unknown)}; `scons -h` lists the known ones"
            )
        build = str(env["BUILD"]) or "build"
        settings.absolute(env, build, "BUILD")
        env["XSPLICE_BUILD"] = build if Path(build).is_absolute() else f"#{build}"
        folder = Path(env.Dir(env["XSPLICE_BUILD"]).get_abspath())
        if env["XEN"]:
            tree = settings.tree_at(env, env["XEN"])
            pipeline.check_outside(folder, tree)
        pipeline.require_room(folder)
        _HELD.enter_context(locked(folder, waiting=lambda: _say_busy(folder)))
    SConsignFile(f"{folder}/.sconsign")
    settings.heed_full_disk(folder)
    SetOption("num_jobs", os.cpu_count() or 1)
    SetOption("max_drift", 60)


def xsplice_fix(env: Environment) -> XspliceNodes:
    """Wire what the variables ask for: ``env.XspliceFix()``."""
    if env["HOTFIX"]:
        with settings.stopping():
            if env["PATCH"] or is_on(env["LINE_NEUTRAL"]):
                raise ConfigError(
                    "HOTFIX with PATCH or LINE_NEUTRAL: a run makes one payload, of a patch or of "
                    "hand-written files; give one of them"
                )
        with settings.stopping():
            files = settings.files(env, env["HOTFIX"], "HOTFIX")
        return xsplice_source(env, str(env["NAME"] or files[0].stem), [str(p) for p in files])
    return xen_fix(env)
