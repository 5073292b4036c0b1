# SPDX-License-Identifier: Apache-2.0
"""C text that would make a refused change possible, where it can be generated."""

from __future__ import annotations


def data_hook(name: str, is_local: bool) -> str:
    """Return a load hook that writes a new value to a variable in memory.

    Where the variable ``is_local``, the hook must stand in its source file.
    """
    place = "the source file that defines it" if is_local else "any patched source file"
    function = _identifier(name)
    return (
        f"/* Add to {place}, beside a patch that leaves the initialiser alone. */\n"
        "#include <xen/livepatch_payload.h>\n"
        "\n"
        "/* From Xen 4.17 on: `static void cf_check`. */\n"
        f"static void xsplice_set_{function}(void)\n"
        "{\n"
        "    /* Runs once, when the live patch is loaded. */\n"
        f"    {name} = /* the new value */;\n"
        "}\n"
        f"LIVEPATCH_LOAD_HOOK(xsplice_set_{function});\n"
    )


_HEAD = """\
/* Leave `STRUCTURE` as it is; keep what is new in a shadow of each instance. */
struct xsplice_TAG_shadow {
"""
_LINUX_SHADOW = """\
};

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
_XEN_SHADOW = """\
    struct list_head entry;
    const STRUCTURE *of;
};

static LIST_HEAD(xsplice_TAG_shadows);
static DEFINE_SPINLOCK(xsplice_TAG_lock);

/* The shadow of an instance, zeroed when it is new; NULL if there is no memory. */
static struct xsplice_TAG_shadow *xsplice_TAG_shadow(const STRUCTURE *of)
{
    struct xsplice_TAG_shadow *s, *fresh = xzalloc(struct xsplice_TAG_shadow);

    spin_lock(&xsplice_TAG_lock);
    list_for_each_entry ( s, &xsplice_TAG_shadows, entry )
        if ( s->of == of )
            goto out;
    s = fresh;
    fresh = NULL;
    if ( s )
    {
        s->of = of;
        list_add(&s->entry, &xsplice_TAG_shadows);
    }
 out:
    spin_unlock(&xsplice_TAG_lock);
    xfree(fresh);
    return s;
}

/* Call it where a `STRUCTURE` is freed, or another one may inherit the shadow. */
static void xsplice_TAG_drop(const STRUCTURE *of)
{
    struct xsplice_TAG_shadow *s, *next;

    spin_lock(&xsplice_TAG_lock);
    list_for_each_entry_safe ( s, next, &xsplice_TAG_shadows, entry )
        if ( s->of == of )
        {
            list_del(&s->entry);
            xfree(s);
        }
    spin_unlock(&xsplice_TAG_lock);
}
"""
_XEN_INCLUDES = "#include <xen/list.h>\n#include <xen/spinlock.h>\n#include <xen/xmalloc.h>\n\n"
_LINUX_INCLUDES = "#include <linux/livepatch.h>\n\n"


def shadow_variable(structure: str, fields: tuple[tuple[str, str], ...], profile: str) -> str:
    """Return code that keeps new fields beside a structure, found by the structure's address.

    ``structure`` is how C calls it (``struct domain``); ``fields`` are (name, type), the type ""
    where it is not known. Linux has functions of its own for this.
    """
    tag = _identifier(structure.rsplit(maxsplit=1)[-1])
    members = "".join(f"    {_member(kind, name)};\n" for name, kind in fields)
    is_linux = profile == "linux"
    includes, body = (_LINUX_INCLUDES, _LINUX_SHADOW) if is_linux else (_XEN_INCLUDES, _XEN_SHADOW)
    text = f"{includes}{_HEAD}{members}{body}".replace("XSPLICE_TAG", f"XSPLICE_{tag.upper()}")
    return text.replace("xsplice_TAG_", f"xsplice_{tag}_").replace("STRUCTURE", structure)


def _identifier(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)


def _member(kind: str, name: str) -> str:
    if not kind:
        return f"/* the type of {name} */ unsigned long {name}"
    return f"{kind}{name}" if kind.endswith("*") else f"{kind} {name}"
