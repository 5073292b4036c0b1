# SPDX-License-Identifier: Apache-2.0
"""A hypervisor that runs, by name: what it was built of, and how that compares with it."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from msgspec import Struct

from xsplice_plugins.artefacts.files import SCHEMA

BASE_FILE = "base.json"  #: beside the tree's folder


class Likeness(StrEnum):
    """How the build of a base compares with what was shipped."""

    IDENTICAL = "identical"  #: the build's ``xen-syms`` is the shipped one, byte for byte
    MATCHED = "matched"  #: each function and datum was held against the shipped image
    OWN = "own"  #: nothing was shipped: the build is what boots


class Boots(StrEnum):
    """How what boots compares with the image that names its functions."""

    EQUAL = "equal"  #: each byte that is loaded
    NOTHING = "not there"  #: nothing that boots lies in the tree


def object_and_name(titles: Iterable[str]) -> frozenset[tuple[str, str]]:
    """Return path and name of titles such as ``user (common/user.o)``."""
    pairs = (title.rpartition(" (") for title in titles)
    return frozenset((path.removesuffix(")"), name) for name, _, path in pairs)


#: Types, variables and constants, each with what of it is otherwise, what that is by the headers,
#: and in the image.
Retyped = tuple[tuple[str, str, str, str], ...]


class BaseRecord(Struct, frozen=True, kw_only=True):
    """What a base is. Target: ``base.json``."""

    schema: int = SCHEMA
    name: str
    key: str  #: digest of all that was asked for
    release: str  #: e.g. ``4.17.5``
    machine: int  #: ``e_machine``
    build_id: str  #: hex; of the hypervisor that runs
    image: str  #: sha256 of its ``xen-syms``
    source: str  #: where the sources came from: a file's or folder's name, or Debian's version
    recipe: str  #: who says how it is built: ``debian`` or ``plain``
    compiler: str  #: as objects name it
    programs: str = ""  #: digest of the compiler's programs; "" of an earlier version
    commands: str = ""  #: digest of the tree's recorded commands (``.cmd``); "" as above
    files: str = ""  #: digest of the list of the tree's files (``files.json``); "" as above
    make: tuple[str, ...]  #: variables of make
    loader: str = ""  #: a vendor's loader; "" for upstream's
    environment: tuple[tuple[str, str], ...]  #: of make, beyond the usual
    likeness: Likeness
    boots: Boots | None = None  #: what boots, with the image; ``None`` of an earlier version
    #: whether the image's names say of which source file they are; ``None`` as above
    has_files: bool | None = None
    objects: int  #: linked into the image
    matched: int  #: functions and data that lie in the image as the objects have them
    differs: tuple[str, ...]  #: those that do not, each with its object
    absent: tuple[str, ...]  #: those that the image does not hold
    ambiguous: tuple[str, ...]  #: those that fit in several places
    strangers: tuple[str, ...]  #: what the image holds and no object has
    #: that the image has otherwise; ``None`` without debug information of both
    otherwise: Retyped | None = None
