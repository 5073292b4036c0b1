# SPDX-License-Identifier: Apache-2.0
"""What the hypervisor keeps about one loaded payload.

Source: specification sections 2.2, 2.3, 8; ``struct payload`` of xen/livepatch_payload.h.
"""

import enum
from dataclasses import dataclass, field

from xsplice_plugins.hypervisor.image.memory import Segment


class State(enum.IntEnum):
    """A payload's state; there is no other."""

    CHECKED = 1
    APPLIED = 2


HOOK_KINDS = ("preapply", "apply", "postapply", "prerevert", "revert", "postrevert")
VETO_HOOKS = ("preapply", "postapply", "prerevert", "postrevert")


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """Bytes that must be at the old function when the payload is applied."""

    is_enabled: bool
    length_bytes: int
    reserved: int
    data: bytes


@dataclass(slots=True, kw_only=True, eq=False)
class Function:
    """One function record and its patching state.

    Attributes:
        record_virt: where the record itself lies in the payload.
        name_virt: pointer to the name, 0 for none.
        name: the name read through that pointer, empty where it cannot be read.
        new_virt: the replacement; 0 means NOPs.
        old_virt: the function that is replaced.
        patch_offset: bytes skipped at ``old_virt`` (ENDBR64) when it was patched.
        saved: the bytes that were overwritten.
        is_applied: the flag hooks can see.
        is_claimed: the file said so, nothing was patched.
    """

    record_virt: int
    name_virt: int
    name: str
    new_virt: int
    old_virt: int
    new_size_bytes: int
    old_size_bytes: int
    expectation: Expectation | None
    patch_offset: int = 0
    saved: bytes = b""
    is_applied: bool = False
    is_claimed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadName:
    """A symbol that a loaded payload keeps.

    Attributes:
        is_new: it adds a name to the hypervisor, and does not override a function.
    """

    name: str
    addr_virt: int
    size_bytes: int
    is_new: bool


@dataclass(slots=True, kw_only=True, eq=False)
class Payload:
    """A payload from upload to unload.

    Attributes:
        text_virt: and the other ``*_virt``: where the three parts lie; sizes are unrounded.
        gaps: (segment, start, end) offsets of what no section fills; Xen does not clear it.
        section_ends: first address behind each section.
        hooks: kind to function pointer, for the hooks of which there is one each.
        ex_table: faulting instruction to continuation, sorted by address.
        providers: the payloads whose new symbols this one refers to.
        is_unlinked: it was taken from the stack, which leaves its list pointers poisoned.
        rc: result of the last operation, -11 while one is outstanding.
        log: (step, what was checked) for each gate the upload passed.
    """

    name: str
    segments: tuple[Segment, ...] = ()
    gaps: tuple[tuple[Segment, int, int], ...] = ()
    section_ends: tuple[int, ...] = ()
    base_virt: int = 0
    pages: int = 0
    text_virt: int = 0
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
    hooks: dict[str, int] = field(default_factory=dict)
    build_id: bytes = b""
    depends: bytes = b""
    xen_depends: bytes = b""
    metadata: bytes = b""
    symbols: tuple[PayloadName, ...] = ()
    providers: set["Payload"] = field(default_factory=set)
    ex_table: dict[int, int] = field(default_factory=dict)
    bug_frames: dict[int, int] = field(default_factory=dict)
    state: State = State.CHECKED
    rc: int = 0
    is_reverted: bool = False
    is_unlinked: bool = False
    log: list[tuple[str, str]] = field(default_factory=list)

    def holds_text(self, addr_virt: int) -> bool:
        """Whether an address is in this payload's code."""
        return self.text_virt <= addr_virt < self.text_virt + self.text_size_bytes

    def has_veto_hooks(self) -> bool:
        """Whether any of the four hooks is present that REPLACE cannot run."""
        return any(kind in self.hooks for kind in VETO_HOOKS)
