# SPDX-License-Identifier: Apache-2.0
"""Which symbol of the image an author means."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xsplice_plugins.errors import LinkError

if TYPE_CHECKING:
    from xsplice_plugins.link.names import Names

_CANDIDATES_MAX = 12  #: that one message lists
_CLONE = re.compile(r"\.(?:constprop|isra|part|cold)(?:\.|$)")


def resolve(names: Names, name: str, subject: str) -> str:
    """Return the decorated name of the symbol that an author means.

    Args:
        names: What the running hypervisor can resolve.
        name: ``function``, ``file.c#local`` with as much of the path as needed, or the name of a
            static that only one file has.
        subject: Where it was written, for messages.

    Raises:
        LinkError: Unknown (near misses are suggested), or several could be meant (they are listed).
    """
    beneath = names.beneath
    if name in names.image.symbols or (beneath is not None and name in beneath.symbols):
        return name
    plain = name.rpartition("#")[2]
    is_scoped = "#" in name
    found = sorted(
        known
        for known in names.image.symbols
        if known.endswith(f"#{plain}") and (not is_scoped or known.endswith(f"/{name}"))
    )
    if len(found) == 1:
        return found[0]
    if found:
        more = f" and {len(found) - _CANDIDATES_MAX} more" if len(found) > _CANDIDATES_MAX else ""
        raise LinkError(
            f"{subject}: `{name}` may be any of {', '.join(found[:_CANDIDATES_MAX])}{more}; "
            "write the one you mean"
        )
    raise LinkError(f"{subject}: {names.unknown(name)}")


def refuse_clone(name: str, subject: str) -> None:
    """Refuse to replace what the compiler made of a function.

    Raises:
        LinkError: It has a calling convention of its own, or is only a part of a function.
    """
    if _CLONE.search(name):
        raise LinkError(
            f"{subject}: `{name}` is the compiler's own copy or part of a function, whose "
            "arguments are not those of the source; replace its callers"
        )
