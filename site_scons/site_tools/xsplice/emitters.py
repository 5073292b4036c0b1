# SPDX-License-Identifier: Apache-2.0
"""Remember every object that a native project builds, so that a fix can compile it again.

The emitter runs at read time, under ``-n`` and ``-c`` too: it only notes nodes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import SCons.Builder
import SCons.Tool

if TYPE_CHECKING:
    from SCons.Environment import Environment

Nodes = list[Any]


def note_object(target: Nodes, source: Nodes, env: Environment) -> tuple[Nodes, Nodes]:
    """Append an object node to the environment's list, unless a Configure check made it."""
    for node in target:
        if not node.is_conftest() and node not in env["XSPLICE_OBJECTS"]:
            env["XSPLICE_OBJECTS"].append(node)
            node.attributes.xsplice_object = True
    return target, source


def is_noted(node: Any) -> bool:
    """Tell whether an Object builder makes a node, of whichever environment with this tool."""
    return hasattr(node.attributes, "xsplice_object")


def record_objects(env: Environment) -> None:
    """Put the emitter behind each suffix's existing one on the Object builders.

    ``env.Clone()`` shares builders, so membership is tested before appending.
    """
    if "XSPLICE_OBJECTS" not in env:
        env["XSPLICE_OBJECTS"] = []
    for builder in SCons.Tool.createObjBuilders(env):
        for suffix, emitter in list(builder.emitter.items()):
            emitters = list(emitter) if isinstance(emitter, list) else [emitter]
            if note_object not in emitters:
                builder.emitter[suffix] = SCons.Builder.ListEmitter([*emitters, note_object])
