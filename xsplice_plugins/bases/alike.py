# SPDX-License-Identifier: Apache-2.0
"""What a build says of itself, as the shipped image says it: else `version.o` would differ."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from msgspec.structs import replace

from xsplice_plugins.bases.shipped import image_of
from xsplice_plugins.elf.banner import told_by_image

if TYPE_CHECKING:
    from pathlib import Path

    from xsplice_plugins.bases.recipes import Recipe

#: Variables of Xen's build, and the function that answers with each (xen/build.mk, version.c).
_TOLD = {
    "XEN_BUILD_DATE": "xen_compile_date",
    "XEN_BUILD_HOST": "xen_compile_host",
    "XEN_BUILD_TIME": "xen_compile_time",
    "XEN_DOMAIN": "xen_compile_domain",
    "XEN_EXTRAVERSION": "xen_extra_version",
    "XEN_WHOAMI": "xen_compile_by",
}
_CHANGESET = "xen_changeset"  #: the function that answers with what tools/scmversion said
_PLAIN = re.compile(r"[\w .,:+@()\[\]~-]*")  #: what neither make nor its sed reads otherwise


def built_alike(recipe: Recipe, image: Path | None) -> Recipe:
    """Let make write into the build what the shipped image says of its own: who, where and when.

    Args:
        recipe: A vendor's own recipe, which brings an environment, stays as it is.
        image: The shipped ``xen-syms``, if there is one.

    Raises:
        ConfigError: It is no image.
    """
    if image is None or recipe.environment:
        return recipe
    told = told_by_image(image_of(image), _TOLD.values())
    environment = tuple(
        (name, told[function])
        for name, function in _TOLD.items()
        if function in told and _PLAIN.fullmatch(told[function])
    )
    return replace(recipe, environment=environment)


def keep_changeset(tree: Path, image: Path | None) -> None:
    """Let the build answer with the shipped image's changeset, where the sources do not say one.

    Args:
        tree: The unpacked sources. Xen's `tools/scmversion` reads `.scmversion` there first.
        image: The shipped ``xen-syms``, if there is one.

    Raises:
        ConfigError: It is no image.
    """
    path = tree / ".scmversion"
    told = {} if image is None or path.exists() else told_by_image(image_of(image), [_CHANGESET])
    text = told.get(_CHANGESET, "")
    if text and _PLAIN.fullmatch(text):
        path.write_text(f"{text}\n", encoding="ascii")
