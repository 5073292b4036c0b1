# SPDX-License-Identifier: Apache-2.0
"""What the hypervisor keeps about one loaded payload.

Source: ``struct payload`` of xen/include/xen/livepatch_payload.h.
"""

import enum
from dataclasses import dataclass, field

from msgspec import Struct

from xsplice_plugins.hypervisor.facts.verdicts import EINVAL, XenRefusal
from xsplice_plugins.hypervisor.image.memory import MemorySegment


class State(enum.IntEnum):
    """A payload's state; there is no other."""

    CHECKED = 1
    APPLIED = 2


HOOK_KINDS = ("preapply", "apply", "postapply", "prerevert", "revert", "postrevert")
#: The kinds whose result Xen looks at.
ANSWERING_KINDS = frozenset({"preapply", "apply", "prerevert", "revert"})
#: Length of a name with its NUL. Source: XEN_LIVEPATCH_NAME_SIZE of xen/include/public/sysctl.h.
NAME_BYTES_MAX = 128
VETO_HOOKS = ("preapply", "postapply", "prerevert", "postrevert")


def name_bytes(name: str) -> bytes:
    """Give a payload's name as Xen keeps it: bytes, here without the final NUL.

    Raises:
        XenRefusal: the text is nothing that bytes can spell.
    """
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise XenRefusal(EINVAL, "name", f"{name!a} cannot be written as bytes") from error


class ExpectedBytes(Struct, frozen=True, kw_only=True):
    """Bytes that must be at the old function when the payload is applied."""

    is_enabled: bool
    length_bytes: int
    reserved: int
    data: bytes


@dataclass(slots=True, kw_only=True, eq=False)
class Function:
    """One function record and its patching state."""

    record_virt: int  #: where the record itself lies in the payload
    name_virt: int  #: pointer to the name, 0 for none
    name: str  #: the name read through that pointer, empty where it cannot be read
    new_virt: int  #: the replacement; 0 means NOPs
    old_virt: int  #: the function that is replaced
    new_size_bytes: int
    old_size_bytes: int
    expectation: ExpectedBytes | None
    patch_offset: int = 0  #: bytes skipped at ``old_virt`` (ENDBR64) when it was patched
    saved: bytes = b""  #: the bytes that were overwritten
    is_applied: bool = False  #: the flag hooks can see
    is_claimed: bool = False  #: the file said so, nothing was patched


class PayloadName(Struct, frozen=True, kw_only=True):
    """A symbol that a loaded payload keeps."""

    name: str
    addr_virt: int
    size_bytes: int
    is_new: bool  #: it adds a name to the hypervisor, and does not override a function


class Touched(Struct, frozen=True, kw_only=True):
    """Variables, each as [start, end) of addresses."""

    used: tuple[tuple[int, int], ...] = ()  #: code other than hooks refers to them
    changed: tuple[tuple[int, int], ...] = ()  #: of those, the ones that it may change


@dataclass(slots=True, kw_only=True, eq=False)
class LoadedPayload:
    """A payload from upload to unload."""

    name: str
    segments: tuple[MemorySegment, ...] = ()
    #: (segment, start, end) offsets of what no section fills; Xen does not clear it
    gaps: tuple[tuple[MemorySegment, int, int], ...] = ()
    section_ends: tuple[int, ...] = ()  #: first address behind each section
    base_virt: int = 0
    pages: int = 0
    text_virt: int = 0  #: where the parts lie, as ``rw_virt`` and ``ro_virt``; sizes unrounded
    text_size_bytes: int = 0
    rw_virt: int = 0
    rw_size_bytes: int = 0
    ro_virt: int = 0
    ro_size_bytes: int = 0
    is_safe_to_reapply: bool = False
    is_funcs_writable: bool = False
    funcs_virt: int = 0
    functions: list[Function] = field(default_factory=list)
    load_hooks: tuple[int, ...] = ()
    unload_hooks: tuple[int, ...] = ()
    #: kind to function pointer, for the hooks of which there is one each
    hooks: dict[str, int] = field(default_factory=dict)
    build_id: bytes = b""
    depends: bytes = b""
    xen_depends: bytes = b""
    metadata: bytes = b""
    symbols: tuple[PayloadName, ...] = ()
    #: the payloads whose new symbols this one refers to
    providers: set["LoadedPayload"] = field(default_factory=set)
    #: faulting instruction to continuation, sorted by address
    ex_table: dict[int, int] = field(default_factory=dict)
    bug_frames: dict[int, int] = field(default_factory=dict)
    state: State = State.CHECKED
    rc: int = 0  #: result of the last operation, -11 while one is outstanding
    why: str = ""  #: what led to an ``rc`` below zero, where more than one thing happened
    is_reverted: bool = False
    was_applied: bool = False  #: its functions have run, for all that anybody knows
    touched: Touched | None = None  #: what they do with its variables, once somebody asked
    #: it was taken from the stack, which leaves its list pointers poisoned
    is_unlinked: bool = False
    #: (step, what was checked) for each gate the upload passed
    log: list[tuple[str, str]] = field(default_factory=list)

    def holds_text(self, addr_virt: int) -> bool:
        """Whether an address is in this payload's code."""
        return self.text_virt <= addr_virt < self.text_virt + self.text_size_bytes

    def has_veto_hooks(self) -> bool:
        """Whether any of the four hooks is present that REPLACE cannot run."""
        return any(kind in self.hooks for kind in VETO_HOOKS)
