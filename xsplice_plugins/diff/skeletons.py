# SPDX-License-Identifier: Apache-2.0
"""C text that would make a refused change possible, where it can be generated."""

from __future__ import annotations


def data_hook(name: str, is_local: bool) -> str:
    """Return a load hook that writes a new value to a variable in memory.

    Args:
        name: The variable's plain name.
        is_local: Whether it is static, so that the hook must stand in its source file.
    """
    place = "the source file that defines it" if is_local else "any patched source file"
    function = "".join(c if c.isalnum() else "_" for c in name)
    return (
        f"/* Add to {place}, beside a patch that leaves the initialiser alone. */\n"
        "#include <xen/livepatch_payload.h>\n"
        "\n"
        f"static void xsplice_set_{function}(void)\n"
        "{\n"
        "    /* Runs once, when the live patch is loaded. */\n"
        f"    {name} = /* the new value */;\n"
        "}\n"
        f"LIVEPATCH_LOAD_HOOK(xsplice_set_{function});\n"
    )
