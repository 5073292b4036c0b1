# SPDX-License-Identifier: Apache-2.0
"""What the check is given and what it found, as frozen values."""

from __future__ import annotations

from msgspec import Struct


class NewObject(Struct, frozen=True, kw_only=True):
    """One object of the patched sources, with what it is held against."""

    path: str  #: relative to the build root, e.g. ``common/version.o``
    new: bytes
    baseline: bytes | None = None  #: ``None`` for a new source file
    #: As new, but compiled with the old line numbers for what the patch leaves alone.
    neutral: bytes | None = None
    #: The tree's own, where the baseline holds the patches of payloads beneath.
    plain: bytes | None = None
    #: As new, with the lines that a payload beneath was compiled with for what later patches leave
    #: alone; and as the baseline, with those or with the tree's.
    stills: tuple[bytes, ...] = ()
    baseline_stills: tuple[bytes, ...] = ()
    #: Compiled otherwise than the image: each function in a section of its own.
    is_apart: bool = False


class Beneath(Struct, frozen=True, kw_only=True):
    """A payload that is applied before the one that is checked."""

    name: str  #: how messages call it
    data: bytes  #: signed or not
    is_handmade: bool = False  #: no rebuild says what its functions should be


class Mismatch(Struct, frozen=True, kw_only=True):
    """One place where two things that should be equal differ."""

    name: str  #: function, datum or section, decorated
    offset: int  #: bytes from the start of the named thing
    want: str  #: hex of the bytes that should be there; "" where a reference differs
    have: str  #: hex of the bytes that are there
    text: str  #: in words

    def __str__(self) -> str:
        bytes_seen = f" (want {self.want}, have {self.have})" if self.want else ""
        return f"{self.name}+{self.offset:#x}: {self.text}{bytes_seen}"


class ObjectMatch(Struct, frozen=True, kw_only=True):
    """How one object compares with an image. Names are decorated."""

    object_path: str
    matched: tuple[str, ...]  #: functions and data found, equal to the last bit
    differs: tuple[Mismatch, ...]  #: found, and not equal
    absent: tuple[str, ...]  #: sections or names that could not be found in the image
    ambiguous: tuple[str, ...]  #: found in several places that are equally good
    is_optional: bool = False  #: member of an archive: the linker may leave it out

    @property
    def is_linked(self) -> bool:
        """Tell whether the image holds anything of it; of an archive, not every member."""
        return bool(self.matched or self.differs)

    @property
    def held(self) -> bool:
        """Tell whether nothing of the object differs from the image or is missing in it."""
        is_left_out = self.is_optional and not self.matched
        return not self.differs and (is_left_out or not self.absent)


class ImageMatch(Struct, frozen=True, kw_only=True):
    """How a tree's objects compare with an image."""

    objects: tuple[ObjectMatch, ...]
    overlaps: tuple[str, ...]  #: two sections that claim the same bytes of the image
    strangers: tuple[str, ...] = ()  #: functions, data and code of the image that no object has
    #: Each of these and of the overlaps, with the objects that it may belong to.
    owners: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def held(self) -> bool:
        """Tell whether every object is what the image holds, and the image is nothing more."""
        return (
            not self.overlaps
            and not self.strangers
            and all(row.held for row in self.objects)
            and any(row.matched for row in self.objects)
        )


class CheckReport(Struct, frozen=True, kw_only=True):
    """Whether a payload turns the image into what a full rebuild would run."""

    held: bool
    replaced: int  #: functions that the payload brings, each equal to the new object's
    unchanged: int  #: functions of the new objects that the image already holds
    differences: tuple[tuple[str, str], ...]  #: subject, what differs
    unchecked: tuple[str, ...]  #: what could not be compared
    #: As the differences: where image and payloads beneath are not what the baselines say.
    beneath: tuple[tuple[str, str], ...] = ()
    #: Functions that payloads beneath replace, and their hooks, if no baseline has them:
    #: payload, name.
    unseen: tuple[tuple[str, str], ...] = ()
    placed: int = 0  #: functions and data of the objects before the patch, found in the image
    #: Of these objects, what the image has otherwise: subject, what differs.
    stale: tuple[tuple[str, str], ...] = ()
    ambiguous: tuple[str, ...] = ()  #: of these objects, what the image has at several places
    boot_only: tuple[str, ...] = ()  #: what differs and was freed after boot
