# SPDX-License-Identifier: Apache-2.0
"""The SCons tool: ``env = Environment(tools=["default", "xsplice"])``.

This package is the only code that imports SCons. It turns the library's stages into nodes; the
work itself is done in ``xsplice_plugins``. Users of the wheel pass the tool as a function:
``import xsplice; Environment(tools=["default", xsplice.generate])``.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from SCons.Variables import PathVariable

from .builders import XspliceNodes, add_builders
from .emitters import record_objects
from .native import xsplice
from .source import xsplice_source
from .xen_tree import xen_fix

if TYPE_CHECKING:
    from SCons.Environment import Environment
    from SCons.Variables import Variables

__all__ = ["XspliceNodes", "add_variables", "exists", "generate"]


def generate(env: Environment, plugins: tuple[Any, ...] = (), **_kw: object) -> None:
    """Add the builders and the methods ``env.Xsplice``, ``XspliceXen``, ``XspliceSource``.

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
    env["XSPLICE_ADD_VARIABLES"] = add_variables
    env.AddMethod(xsplice, "Xsplice")
    env.AddMethod(xen_fix, "XspliceXen")
    env.AddMethod(xsplice_source, "XspliceSource")


def exists(env: Environment) -> bool:
    """Tell whether the programs that every build needs are there."""
    return all(env.WhereIs(program) or shutil.which(program) for program in ("gcc", "objcopy"))


def add_variables(variables: Variables) -> None:
    """Add what a user may set on the command line: ``scons xsplice XEN=... PATCH=...``.

    Args:
        variables: The project's ``Variables``; its help text then shows them too.
    """
    accept = PathVariable.PathAccept
    variables.AddVariables(
        ("XEN", "a built Xen tree (its top, its xen/ folder, or an O= build folder)", ""),
        ("PATCH", "the fix: unified diffs or a quilt series, separated by spaces or commas", ""),
        ("HOTFIX", "hand-written C files instead of a patch, separated by spaces or commas", ""),
        ("NAME", "name of the fix; default: the first patch's file name", ""),
        ("SIGNER", "the signing plugin", "cms"),
        ("KEY", "PEM file of the private key; default: a development key under build/", "", accept),
        ("CERT", "PEM file of the certificate", "", accept),
        ("DEPENDS", "an earlier payload that this one stacks on", "", accept),
        ("RELEASE", "the hypervisor's release; default: what the tree says", ""),
        ("RELEASES", "further releases to judge the payload against, separated by commas", ""),
        ("DIFFER", "the diffing plugin", "semantic"),
        ("LINKER", "the linking plugin", "livepatch"),
        (
            "ON",
            "verifiers, separated by commas: model, qemu, a vendor's; model is always one",
            "model",
        ),
        ("EXPECT", "expected.json of a regression hot-patch to check against", "", accept),
        ("OPTIONS", "settings of vendors' plugins: key=value, separated by spaces", ""),
        ("LINE_NEUTRAL", "1: keep the line numbers of what the patch does not change", "0"),
        ("VERBOSE", "1: print the command line that repeats each step by hand", "0"),
    )
