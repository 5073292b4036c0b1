# SPDX-License-Identifier: Apache-2.0
"""The subcommand that writes a fix again: ``xsplice shadow FIX... --member STRUCT.MEMBER``."""

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


def _shadow(arguments: Namespace) -> int:
    from xsplice_plugins.shadow import shadow_fix  # noqa: PLC0415  only where asked

    tree = locate_tree(tree_path(arguments.XEN))
    fix = read_patch_set(
        arguments.fix, source_root=tree.source_root, hypervisor_dir=tree.hypervisor_source.name
    )
    pipeline.check_outside(arguments.out.absolute(), tree, "--out")
    done = shadow_fix(tree, fix, arguments.member, arguments.keep)
    artefacts.write_file(arguments.out, done.text.encode("latin-1"))
    if arguments.json:
        show(artefacts.to_json({"notes": done.notes, "patch": str(arguments.out)}))
    else:
        show("".join(f"{note}\n" for note in done.notes) + f"written to {arguments.out}\n")
    return 0


COMMANDS: tuple[Row, ...] = (
    ("shadow", "keep what a fix adds to a structure beside each object", _add_shadow, _shadow),
)
