# SPDX-License-Identifier: Apache-2.0
"""The match of all objects with the image, as one node that all fixes of a base share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from xsplice_plugins import artefacts, pipeline
from xsplice_plugins.errors import XspliceError

from .emitters import is_noted
from .settings import translated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from SCons.Environment import Environment

Nodes = list[Any]
OBJECTS = (".o", ".obj", ".os")
_ARCHIVES = (".a", ".lib")


class Linked(Struct, frozen=True, kw_only=True):
    """What an image is said to be linked from."""

    run: pipeline.Run
    objects: Callable[[], pipeline.BaseObjects]  #: asked when the node is needed, not before


def match_base(target: Nodes, source: Nodes, env: Environment) -> None:
    """Match all objects with the image. Source: the image; the objects are found by `scan`."""
    linked = target[0].attributes.xsplice
    with translated(target):
        image = Path(source[0].get_abspath()).read_bytes()
        found = pipeline.match_base(linked.run, image, linked.objects())
        artefacts.save(Path(target[0].get_abspath()), found)


def scan(node: Any, env: Environment, path: object) -> Nodes:
    """Return the objects as files on whose content the match depends."""
    linked = getattr(node.attributes, "xsplice", None)
    if linked is None:
        return []
    try:
        files = linked.objects().files
    except XspliceError:
        return []  # the action says so
    return [env.fs.File(str(file)) for _, file in files if file.is_file()]


def objects_of_image(image: Any) -> pipeline.BaseObjects:
    """Return what SCons links into an image: objects, those of archives as optional.

    There are none if SCons does not link the image itself.
    """
    found = dict(_linked(image))
    files = sorted((str(node), Path(node.get_abspath())) for node in found)
    optional = frozenset(str(node) for node, is_optional in found.items() if is_optional)
    return pipeline.BaseObjects(files=tuple(files), optional=optional)


def is_object(node: Any) -> bool:
    """Tell whether a node is an object: by its name, or because SCons' Object builders make it."""
    return str(node).endswith(OBJECTS) or is_noted(node)


def compiled_for(image: Any, noted: list[Any]) -> list[Any]:
    """Return the nodes of SCons' Object builders that an image is linked from.

    Args:
        image: The image.
        noted: All such nodes that an environment made; they are returned if SCons does not link
            the image itself, else they give the order.
    """
    pending, seen, found = [image], {image}, set()
    while pending:
        node = pending.pop()
        if is_noted(node):
            found.add(node)
            continue
        below = list(node.sources or [])
        if is_object(node):  # a step behind the compiler, such as objcopy
            below = [source for source in below if is_object(source)]
        below += [x for x in node.depends or [] if is_object(x) or str(x).endswith(_ARCHIVES)]
        pending += [source for source in below if source not in seen]
        seen.update(below)
    rest = sorted(found.difference(noted), key=str)
    return [node for node in noted if node in found] + rest if found else noted


def _linked(image: Any) -> Iterator[tuple[Any, bool]]:
    """Walk from an image to the objects that it is made of; not to what those are made of."""
    pending, seen = [(image, False)], {image}
    while pending:
        node, is_optional = pending.pop()
        if is_object(node):
            yield node, is_optional
            continue
        is_optional = is_optional or str(node).endswith(_ARCHIVES)
        for source in node.sources:
            if source not in seen:
                seen.add(source)
                pending.append((source, is_optional))
