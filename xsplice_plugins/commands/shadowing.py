# SPDX-License-Identifier: Apache-2.0
"""The subcommands that write a fix again: ``shadow``, ``percpu`` and ``values``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from xsplice_plugins import artefacts, pipeline
from xsplice_plugins.commands.words import Row, show, tree_path
from xsplice_plugins.kbuild.tree import locate_tree
from xsplice_plugins.patch import read_patch_set
from xsplice_plugins.settings import add_options

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable

    from xsplice_plugins.artefacts import PatchSet
    from xsplice_plugins.kbuild.tree import XenTree
    from xsplice_plugins.shadow import Rewritten

    Rewrite = Callable[[XenTree, PatchSet], Rewritten]


def _add_shadow(parser: ArgumentParser) -> None:
    parser.add_argument("fix", type=Path, nargs="+", help="diffs, or a quilt series")
    parser.add_argument(
        "--member",
        action="append",
        default=[],
        metavar="STRUCTURE.MEMBER",
        help="a member that the fix adds; may be given again",
    )
    parser.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="STRUCTURE.MEMBER",
        help="a member that the fix takes away, to be left where it is; may be given again",
    )
    parser.add_argument("--out", type=Path, required=True, help="the patch to write")
    add_options(parser, "shadow", required=["XEN"])


def _add_variables(parser: ArgumentParser, command: str, what: str) -> None:
    parser.add_argument("fix", type=Path, nargs="+", help="diffs, or a quilt series")
    parser.add_argument(
        "--variable",
        action="append",
        required=True,
        metavar="NAME",
        help=f"{what}; may be given again",
    )
    parser.add_argument("--out", type=Path, required=True, help="the patch to write")
    add_options(parser, command, required=["XEN"])


def _add_values(parser: ArgumentParser) -> None:
    _add_variables(parser, "values", "a variable whose first value the fix changes")


def _add_percpu(parser: ArgumentParser) -> None:
    _add_variables(parser, "percpu", "a per-CPU variable that the fix adds")
    parser.add_argument(
        "--start",
        default="",
        metavar="EXPRESSION",
        help="what each CPU that runs has in it from the apply on, in C, with `cpu` for its number",
    )


def _shadow(arguments: Namespace) -> int:
    from xsplice_plugins.shadow import shadow_fix  # noqa: PLC0415  only where asked

    def rewrite(tree: XenTree, fix: PatchSet) -> Rewritten:
        return shadow_fix(tree, fix, arguments.member, arguments.keep)

    return _written(arguments, rewrite)


def _values(arguments: Namespace) -> int:
    from xsplice_plugins.shadow import value_fix  # noqa: PLC0415  only where asked

    def rewrite(tree: XenTree, fix: PatchSet) -> Rewritten:
        return value_fix(tree, fix, arguments.variable)

    return _written(arguments, rewrite)


def _percpu(arguments: Namespace) -> int:
    from xsplice_plugins.shadow import percpu_fix  # noqa: PLC0415  only where asked

    def rewrite(tree: XenTree, fix: PatchSet) -> Rewritten:
        return percpu_fix(tree, fix, arguments.variable, arguments.start)

    return _written(arguments, rewrite)


def _written(arguments: Namespace, rewrite: Rewrite) -> int:
    """Write the fix again, and say what was done."""
    tree = locate_tree(tree_path(arguments.XEN))
    fix = read_patch_set(
        arguments.fix, source_root=tree.source_root, hypervisor_dir=tree.hypervisor_source.name
    )
    pipeline.check_outside(arguments.out.absolute(), tree, "--out")
    done = rewrite(tree, fix)
    artefacts.write_file(arguments.out, done.text.encode("latin-1"))
    if arguments.json:
        show(artefacts.to_json({"notes": done.notes, "patch": str(arguments.out)}))
    else:
        show("".join(f"{note}\n" for note in done.notes) + f"written to {arguments.out}\n")
    return 0


COMMANDS: tuple[Row, ...] = (
    ("shadow", "keep what a fix adds to a structure beside each object", _add_shadow, _shadow),
    ("percpu", "make arrays of per-CPU variables that a fix adds", _add_percpu, _percpu),
    ("values", "let hooks set what a fix changes of first values", _add_values, _values),
)
