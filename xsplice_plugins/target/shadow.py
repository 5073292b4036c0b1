# SPDX-License-Identifier: Apache-2.0
"""The C text of a shadow: what is new of a structure, beside each object, found by its address.

``shadow.h`` stands behind the structure, ``shadow.c`` at the end of one C file. They count on
little: a lock that is taken with interrupts off, so that a shadow may be asked for from anywhere;
chains whose links lead to memory of Xen only, so that nothing leads into the payload once it has
gone; a hook behind the revert that gives all memory back.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def shadow_header(structure: str, declarations: Iterable[str]) -> str:
    """Return what stands behind a structure's definition.

    Args:
        structure: How C calls it, such as ``struct domain``.
        declarations: Of the members that are kept beside it, without semicolons.
    """
    members = "".join(f"    {row};\n" for row in declarations)
    return _filled("shadow.h", structure).replace("MEMBERS", members)


def shadow_store(structure: str, inits: Iterable[tuple[str, str]]) -> str:
    """Return what stands at the end of one C file.

    Args:
        structure: How C calls it.
        inits: What makes a member ready: (function, member); the others are zero.
    """
    calls = "".join(f"    {call}(&s->{member});\n" for call, member in inits)
    return _filled("shadow.c", structure).replace("INITS", calls)


def _filled(name: str, structure: str) -> str:
    text = files("xsplice_plugins.target").joinpath(name).read_text("utf-8")
    text = text.partition("\n")[2]  # the licence is that of the file it comes to
    tag = structure.rpartition(" ")[2]
    return "\n" + text.replace("STRUCTURE", structure).replace("TAG", tag)
