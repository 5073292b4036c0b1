# SPDX-License-Identifier: Apache-2.0
"""What changed in meaning, and why."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from xsplice_plugins.artefacts.verify import Finding, unchecked_in


class Cause(StrEnum):
    """Why a function's meaning changed."""

    SOURCE = "source edit"
    INLINING = "inlining changed"
    CLONE = "callee cloned or renamed"
    CONSTANT = "constant"
    STRING = "string"
    DATA = "data reference"
    SPECIAL = "special-section entry"


class Difference(Struct, frozen=True, kw_only=True):
    """The first instruction (or byte) at which two versions part."""

    before: str  #: disassembly or text of the baseline side; "" if there is none
    after: str
    offset_before: int = 0  #: bytes from the start of the function
    offset_after: int = 0
    line_before: str = ""  #: ``file.c:123`` from DWARF, when present
    line_after: str = ""


class OldPlace(Struct, frozen=True, kw_only=True):
    """Where a hand-written record patches: at a symbol plus an offset, or at an address."""

    symbol: str = ""  #: name in the image; "" for an address
    offset: int = 0  #: bytes from the symbol
    addr_virt: int = 0  #: in the image, where no symbol is named


class NoppedRange(Struct, frozen=True, kw_only=True):
    """Instructions of the running image that the payload turns into NOPs."""

    name: str  #: decorated name of the function they are part of
    place: OldPlace
    size_bytes: int
    reason: str
    expect: str | None = None  #: as in `ChangedFunction`


class ChangedFunction(Struct, frozen=True, kw_only=True):
    """A function of the running image that the payload replaces."""

    name: str  #: decorated: ``common/version.c#helper`` or ``xen_extra_version``
    reason: str  #: one sentence a person understands
    cause: Cause
    symbol: str  #: plain name in the new object
    symbol_baseline: str  #: plain name in the baseline object (clones may be renamed)
    section: str  #: section of the new object that holds it
    size_before_bytes: int
    size_after_bytes: int
    difference: Difference | None = None
    pieces: tuple[str, ...] = ()  #: further symbols that belong to it: ``foo.cold``
    place: OldPlace | None = None  #: ``None``: the hypervisor looks ``name`` up
    expect: str | None = None  #: hex of the bytes expected; ``None``: the image's; "": none


class NewItem(Struct, frozen=True, kw_only=True):
    """A function or datum that the running image lacks and the payload brings."""

    name: str  #: decorated
    reason: str  #: path of inclusion: "included because `do_domctl` calls new `check_bits`"
    kind: str  #: "function", "data", "bss", "read-only data", "string", "hook", "table"
    symbol: str  #: plain name in the new object; "" for anonymous content
    section: str  #: section of the new object
    offset: int = 0  #: bytes from the start of the section
    size_bytes: int = 0
    is_again: bool = False  #: what runs has one of that name, with other content


class RemovedItem(Struct, frozen=True, kw_only=True):
    """A function or datum that only the baseline has; it stays in memory, unused."""

    name: str
    reason: str
    state_bytes: int = 0  #: size of a variable that code may have written; else 0


class LineOnly(Struct, frozen=True, kw_only=True):
    """A function whose only difference is line numbers; it is not replaced."""

    name: str
    reason: str
    shown_by: str = ""  #: by what the numbers are shown to be lines


class Refusal(Struct, frozen=True, kw_only=True):
    """A change that was understood and cannot be live patched."""

    name: str  #: function, datum, structure field or file
    reason: str
    code: str  #: stable upper-case word, documented by ``xsplice explain CODE``
    hint: str
    line: str = ""  #: ``file.c:123`` where known
    skeleton: str = ""  #: C text that would make it possible, when one can be generated


class BootOnly(Struct, frozen=True, kw_only=True):
    """A change of code or data that only boot uses: it waits for the next boot."""

    name: str  #: decorated, or the file of code that is linked on its own
    reason: str
    code: str  #: of the refusal, where the rest of the fix may rely on it
    is_own: bool  #: its own source was edited, or nobody knows; not only what it absorbs
    needs: tuple[str, ...] = ()  #: names of other objects that it came to use
    leaves_same: bool = False  #: shown to leave in memory what the new one would have left
    outlives: bool = False  #: boot hands on what runs or is used later
    #: Names of new things, or of other objects, that it calls, whose address it hands on, and of
    #: variables that it sets; a parameter of the command line sets none.
    calls: tuple[str, ...] = ()
    hands: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()


class Reference(Struct, frozen=True, kw_only=True):
    """Content of the new object that the payload does not take, because the image has it.

    A relocation whose target lies in this range is made against the image's symbol. Relocations
    against undefined symbols need no reference: their name is what the hypervisor resolves.
    """

    section: int  #: index in the new object
    offset: int  #: bytes from the start of that section
    size_bytes: int
    target: str  #: decorated name in the image's symbol table
    target_offset: int = 0  #: bytes to add to the target's address for the range's first byte


class Extent(Struct, frozen=True, kw_only=True):
    """A byte range of a section of the new object that the payload takes.

    Whole function and data sections are one extent; strings and table entries one extent each.
    """

    section: int  #: index in the new object
    offset: int
    size_bytes: int
    owner: str  #: decorated name of the function or datum it serves


class Delta(Struct, frozen=True, kw_only=True):
    """What changed in meaning in one object. Target: ``<object>.xsplice.diff``.

    ``extents`` and ``references`` are all that the link stage needs besides the new object: every
    byte it takes lies in an extent, every relocation inside an extent goes either into an extent
    or to a reference. The five lists are what people and ``--json`` readers see.
    """

    schema: int = 2
    object_path: str
    source_path: str
    profile: str
    machine: int
    digest_new: str  #: sha256 of the new object this delta speaks of
    changed: tuple[ChangedFunction, ...] = ()
    new: tuple[NewItem, ...] = ()
    removed: tuple[RemovedItem, ...] = ()
    line_only: tuple[LineOnly, ...] = ()
    refused: tuple[Refusal, ...] = ()
    moot: tuple[Refusal, ...] = ()  #: layouts that changed, and nothing is replaced by them
    boot: tuple[BootOnly, ...] = ()
    extents: tuple[Extent, ...] = ()
    references: tuple[Reference, ...] = ()
    nopped: tuple[NoppedRange, ...] = ()  #: hand-written payloads only
    is_apart: bool = False  #: see `ObjectPair.is_apart`
    layouts: str = ""  #: how layouts were compared, e.g. "in the sources"; "" if they were not
    data: str = ""  #: how tables and variables were looked at; "" if they were not
    notes: tuple[str, ...] = ()  #: things a person should know
    findings: tuple[Finding, ...] = ()  #: what no check could see, or does not apply

    @property
    def unchecked(self) -> tuple[str, ...]:
        """Return what no check could see; the verdict repeats it."""
        return unchecked_in(self.findings)

    @property
    def is_active(self) -> bool:
        """Tell whether there is something to replace or bring."""
        return bool(self.changed or self.new or self.nopped)

    @property
    def is_linked(self) -> bool:
        """Tell whether the linker needs it: for what it brings, or names as the image has it."""
        return self.is_active or bool(self.references)

    @property
    def is_empty(self) -> bool:
        """Tell whether there is nothing to replace, bring or refuse."""
        return not (self.is_active or self.refused)
