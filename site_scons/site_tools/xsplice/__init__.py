# SPDX-License-Identifier: Apache-2.0
"""The SCons tool: ``env = Environment(tools=["default", "xsplice"])``.

This package is the only code that imports SCons. It turns the library's stages into nodes; the
work itself is done in ``xsplice_plugins``. Users of the wheel pass the tool as a function:
``import xsplice; Environment(tools=["default", xsplice.generate])``.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from .builders import XspliceNodes, add_builders
from .emitters import record_objects
from .native import xsplice
from .project import xsplice_fix, xsplice_project
from .reading import watch
from .settings import add_variables
from .source import xsplice_source
from .xen_tree import xen_fix

if TYPE_CHECKING:
    from SCons.Environment import Environment

watch()  # now: what scripts read before is not seen

__all__ = ["XspliceNodes", "add_variables", "exists", "generate"]


def generate(env: Environment, plugins: tuple[Any, ...] = (), **_kw: object) -> None:
    """Add the builders and the methods: ``env.Xsplice``, ``env.XspliceXen`` and so on.

    Loading the tool twice changes nothing. What a build needs and the machine lacks is said at
    first use, not here.

    Args:
        env: The environment to extend.
        plugins: Plugins of this project: entry-point names, dotted modules, modules, instances.
    """
    if "XSPLICE_PLUGINS" not in env:
        env["XSPLICE_PLUGINS"] = tuple(plugins)
    add_builders(env)
    record_objects(env)
    env.AddMethod(xsplice, "Xsplice")
    env.AddMethod(xen_fix, "XspliceXen")
    env.AddMethod(xsplice_source, "XspliceSource")
    env.AddMethod(xsplice_project, "XspliceProject")
    env.AddMethod(xsplice_fix, "XspliceFix")


def exists(env: Environment) -> bool:
    """Tell whether the programs that every build needs are there."""
    return all(env.WhereIs(program) or shutil.which(program) for program in ("gcc", "objcopy"))
