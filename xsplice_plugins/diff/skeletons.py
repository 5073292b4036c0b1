# SPDX-License-Identifier: Apache-2.0
"""C text that would make a refused change possible, where it can be generated."""

from __future__ import annotations

from xsplice_plugins.target.shadow import shadow_header, shadow_store


def data_hook(name: str, is_local: bool) -> str:
    """Return hooks that write a new value to a variable in memory, and put the old one back.

    Where the variable ``is_local``, the hooks must stand in its source file.
    """
    place = "the source file that defines it" if is_local else "any patched source file"
    function = _identifier(name)
    return (
        f"/* Of a variable that no function hides: `xsplice values FIX --variable {name}` writes\n"
        f"   this. By hand: add to {place}, beside a patch that leaves the initialiser alone. */\n"
        "#include <xen/livepatch_payload.h>\n"
        "\n"
        f"static typeof({name}) xsplice_{function}_before;\n"
        "\n"
        "/* From Xen 4.17 on: `static void cf_check`. */\n"
        f"static void xsplice_set_{function}(void)\n"
        "{\n"
        "    /* Runs at each apply, while all other CPUs wait. */\n"
        f"    xsplice_{function}_before = {name};\n"
        f"    {name} = /* the new value */;\n"
        "}\n"
        f"LIVEPATCH_LOAD_HOOK(xsplice_set_{function});\n"
        "\n"
        f"static void xsplice_put_back_{function}(void)\n"
        "{\n"
        f"    {name} = xsplice_{function}_before;\n"
        "}\n"
        f"LIVEPATCH_UNLOAD_HOOK(xsplice_put_back_{function});\n"
    )


_LINUX_SHADOW = """\
#include <linux/livepatch.h>

/* Leave `STRUCTURE` as it is; keep what is new in a shadow of each instance. */
struct xsplice_TAG_shadow {
MEMBERS};

#define XSPLICE_TAG_SHADOW 1UL /* a number no other live patch uses */

static struct xsplice_TAG_shadow *xsplice_TAG_shadow(STRUCTURE *of)
{
    return klp_shadow_get_or_alloc(of, XSPLICE_TAG_SHADOW, sizeof(struct xsplice_TAG_shadow),
                                   GFP_ATOMIC, NULL, NULL);
}

/* Call it where a `STRUCTURE` is freed, or another one may inherit the shadow. */
static void xsplice_TAG_drop(STRUCTURE *of)
{
    klp_shadow_free(of, XSPLICE_TAG_SHADOW, NULL);
}
"""
_XEN_WAY = """\
/* Leave `STRUCTURE` as it is: `xsplice shadow FIX WORDS`
 * writes the fix again so. By hand: this behind the structure, xsplice_TAG_shadow(object)->member
 * where one is used, and xsplice_TAG_drop(object) where an object is freed. */
"""
_XEN_STORE = "\n/* And this at the end of one C file. */\n"


def shadow_variable(structure: str, fields: tuple[tuple[str, str], ...], profile: str) -> str:
    """Return code that keeps new fields beside a structure, found by the structure's address.

    ``structure`` is how C calls it (``struct domain``); ``fields`` are (name, type), the type ""
    where it is not known. Linux has functions of its own for this.
    """
    tag = _identifier(structure.rsplit(maxsplit=1)[-1])
    members = tuple(_member(kind, name) for name, kind in fields)
    if profile == "linux":
        rows = "".join(f"    {row};\n" for row in members)
        text = _LINUX_SHADOW.replace("MEMBERS", rows)
        text = text.replace("XSPLICE_TAG", f"XSPLICE_{tag.upper()}")
        return text.replace("xsplice_TAG_", f"xsplice_{tag}_").replace("STRUCTURE", structure)
    words = " ".join(f"--member {tag}.{name}" for name, _ in fields)
    way = _XEN_WAY.replace("STRUCTURE", structure).replace("TAG", tag).replace("WORDS", words)
    return way + shadow_header(structure, members) + _XEN_STORE + shadow_store(structure, ())


def _identifier(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)


def _member(kind: str, name: str) -> str:
    if not kind:
        return f"/* the type of {name} */ unsigned long {name}"
    return f"{kind}{name}" if kind.endswith("*") else f"{kind} {name}"
