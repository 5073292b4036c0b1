# SPDX-License-Identifier: Apache-2.0
"""What an object's sections mean, as data: a new section class is a row, not code.

Sources: xen/arch/x86/include/asm/{bug,alternative,asm_defns}.h, xen/arch/arm/include/asm/bug.h,
xen/arch/x86/xen.lds.S of Xen 4.14 to 4.21; include/linux/{bug,jump_label,static_call_types}.h and
arch/{x86,arm64}/include/asm/{alternative,extable}.h of Linux 6.6.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING

from xsplice_plugins.elf.types import EM_AARCH64, EM_X86_64
from xsplice_plugins.errors import DiffError

if TYPE_CHECKING:
    from xsplice_plugins.elf.types import Section


class SectionClass(StrEnum):
    """What a section is to live patching."""

    TEXT = "code"
    INIT = "init"  #: freed after boot
    PERCPU = "per-CPU data"
    WRITABLE = "data"
    RO_AFTER_INIT = "data that is read-only after boot"
    READ_ONLY = "read-only data"
    STRINGS = "strings"
    CONSTANTS = "constants"
    TABLE = "table"  #: entries belong to the functions they point into
    SNIPPETS = "code snippets"  #: parts belong to the table entries that point at them
    HOOK = "hook"  #: authors' hooks and payload metadata, kept whole
    REGISTRY = "registry"  #: walked once at boot: a new entry is never seen
    IGNORED = "ignored"
    UNKNOWN = "unknown"


class LineField(StrEnum):
    """Where a table's entry keeps a source line number."""

    NONE = "none"
    X86_BUG = "upper bits of the addends of the first two words"
    HALFWORD_12 = "half-word at byte 12"
    HALFWORD_8 = "half-word at byte 8"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow:
    """One kind of special section.

    ``pattern`` is matched against the whole name. ``code_field`` is the offset of the field that
    points at the owning code; ``snippet_field`` of one that points at out-of-line code, whose
    length is the byte at ``snippet_length_field`` or, without one, reaches to the next snippet.
    Pointers at ``unused_fields`` lead nowhere: nothing reads them.
    """

    pattern: str
    entry_size_bytes: int
    code_field: int = 0
    snippet_field: int | None = None
    snippet_length_field: int | None = None
    line: LineField = LineField.NONE
    unused_fields: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRow:
    """Names of sections of one class."""

    pattern: str
    kind: SectionClass


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Everything the differ knows of one target beside ELF itself."""

    name: str
    tables: tuple[tuple[int, TableRow], ...]  #: machine, row
    classes: tuple[ClassRow, ...]
    once_flags: frozenset[str]  #: "print once" statics: a fresh copy does no harm
    file_name_data: frozenset[str]  #: variables that stand in for ``__FILE__``
    patching_path: frozenset[str]  #: functions that run while code is being replaced
    jump_size_bytes: tuple[tuple[int, int], ...]  #: machine, length of the trampoline
    endbr_size_bytes: int = 4  #: skipped when a function starts with it

    def jump_bytes(self, machine: int) -> int:
        """Return the length of the jump that replaces a function's first bytes."""
        return dict(self.jump_size_bytes).get(machine, 0)

    def table_row(self, section_name: str, machine: int) -> TableRow | None:
        """Return the row that describes a section, if one does."""
        return _table_row(self, section_name, machine)


@lru_cache(maxsize=4096)
def _table_row_by_name(profile: str, name: str, machine: int) -> TableRow | None:
    for row_machine, row in _PROFILES[profile].tables:
        if row_machine == machine and re.fullmatch(row.pattern, name):
            return row
    return None


def _table_row(profile: Profile, name: str, machine: int) -> TableRow | None:
    return _table_row_by_name(profile.name, name, machine)


@lru_cache(maxsize=16384)
def _class_by_name(profile: str, name: str) -> SectionClass | None:
    for row in _PROFILES[profile].classes:
        if re.fullmatch(row.pattern, name):
            return row.kind
    return None


def class_of(profile: Profile, section: Section, machine: int) -> SectionClass:
    """Return what a section is to live patching.

    Args:
        profile: The target's table.
        section: The section.
        machine: ``e_machine`` of its object.

    Returns:
        Its class; UNKNOWN if no row and no ELF flag tells.
    """
    if not section.is_alloc:
        return SectionClass.IGNORED
    if profile.table_row(section.name, machine) is not None:
        return SectionClass.TABLE
    if section.is_strings:
        return SectionClass.STRINGS
    kind = _class_by_name(profile.name, section.name)
    if kind is None:
        return SectionClass.TEXT if section.is_exec else SectionClass.UNKNOWN
    if kind is SectionClass.READ_ONLY and section.flags & 0x10 and section.entry_size_bytes:
        return SectionClass.CONSTANTS
    return kind


def _rows(kind: SectionClass, *patterns: str) -> tuple[ClassRow, ...]:
    return tuple(ClassRow(pattern=pattern, kind=kind) for pattern in patterns)


_TOOLCHAIN = _rows(
    SectionClass.IGNORED, r"\.discard(\..*)?", r"\.note\.gnu\.property", r"\.note\.GNU-stack",
    r"\.eh_frame", r"\.llvm_addrsig", r"\.sframe", r"\.ARM\.attributes",
)  # fmt: skip
_DATA = (
    _rows(
        SectionClass.READ_ONLY,
        r"\.rodata(\..*)?", r"\.data\.rel\.ro(\..*)?",
    )
    + _rows(SectionClass.WRITABLE, r"\.data(\..*)?", r"\.bss(\..*)?", r"COMMON")
    + _rows(SectionClass.TEXT, r"\.text(\..*)?", r"\.entry\.text(\..*)?", r"\.noinstr\.text")
)  # fmt: skip
_XEN = (
    _TOOLCHAIN
    + _rows(SectionClass.HOOK, r"\.livepatch\.hooks\..*", r"\.modinfo")
    + _rows(SectionClass.SNIPPETS, r"\.fixup", r"\.altinstr_replacement")
    + _rows(
        SectionClass.INIT,
        r"\.init\..*", r"\.initcall.*", r"\.exit\..*", r"\.exitcall.*", r"\.text\.startup(\..*)?",
        r"\.init_array(\..*)?", r"\.ctors(\..*)?", r"\.trampoline.*", r"\.boot\..*",
        r"\.data\.init(\..*)?", r"\.text\.init(\..*)?",
    )
    + _rows(SectionClass.PERCPU, r"\.(bss|data)\.percpu(\..*)?")
    + _rows(
        SectionClass.REGISTRY,
        r"\.data\.schedulers", r"\.data\.param(hypfs)?", r"\.data\.vpci\..*", r"\.rodata\.vpci\..*",
        r"\.(dev|adev|arch|teemediator)\.info", r"\.rodata\.cpuidle.*",
    )
    + _rows(SectionClass.RO_AFTER_INIT, r"\.data\.ro_after_init(\..*)?")
    + _DATA
)  # fmt: skip
_LINUX = (
    _TOOLCHAIN
    + _rows(SectionClass.IGNORED, r"\.orc_(unwind|unwind_ip|header|lookup)", r"\.modinfo")
    + _rows(SectionClass.SNIPPETS, r"\.fixup", r"\.altinstr_replacement")
    + _rows(SectionClass.INIT, r"\.(init|exit|meminit|cpuinit)\..*", r"\.(con_)?initcall.*")
    + _rows(SectionClass.PERCPU, r"\.data\.\.percpu.*")
    + _rows(SectionClass.REGISTRY, r"__(param|ksymtab.*|tracepoints.*|verbose)", r"_ftrace_events")
    + _rows(SectionClass.RO_AFTER_INIT, r"\.data\.\.ro_after_init(\..*)?")
    + _DATA
)  # fmt: skip

_X86_BUG = (
    TableRow(pattern=r"\.bug_frames\.[012]", entry_size_bytes=8, line=LineField.X86_BUG),
    TableRow(pattern=r"\.bug_frames\.3", entry_size_bytes=16, line=LineField.X86_BUG),
)
_XEN_X86 = (
    *_X86_BUG,
    TableRow(
        pattern=r"\.altinstructions",
        entry_size_bytes=14,
        snippet_field=4,
        snippet_length_field=11,
    ),
    TableRow(pattern=r"\.ex_table(\.pre)?", entry_size_bytes=8, snippet_field=4),
    TableRow(pattern=r"\.alt_call_sites", entry_size_bytes=4),
)
_XEN_ARM64 = (
    TableRow(
        pattern=r"\.bug_frames\.[0-2]",
        entry_size_bytes=16,
        line=LineField.HALFWORD_12,
        unused_fields=(8,),  # a frame without message points at whatever string follows
    ),
    TableRow(pattern=r"\.bug_frames\.3", entry_size_bytes=16, line=LineField.HALFWORD_12),
    TableRow(
        pattern=r"\.altinstructions",
        entry_size_bytes=12,
        snippet_field=4,
        snippet_length_field=11,
    ),
)
_LINUX_X86 = (
    TableRow(pattern=r"__bug_table", entry_size_bytes=12, line=LineField.HALFWORD_8),
    TableRow(
        pattern=r"\.altinstructions",
        entry_size_bytes=14,
        snippet_field=4,
        snippet_length_field=13,
    ),
    TableRow(pattern=r"__ex_table", entry_size_bytes=12, snippet_field=4),
    TableRow(pattern=r"__jump_table", entry_size_bytes=16),
    TableRow(pattern=r"\.static_call_sites", entry_size_bytes=8),
    TableRow(
        pattern=r"\.(retpoline|return|call)_sites|\.ibt_endbr_seal|\.smp_locks|\.cfi_sites",
        entry_size_bytes=4,
    ),
    TableRow(pattern=r"\.parainstructions", entry_size_bytes=16),
    TableRow(pattern=r"__mcount_loc|__patchable_function_entries", entry_size_bytes=8),
)
_LINUX_ARM64 = (
    TableRow(pattern=r"__bug_table", entry_size_bytes=12, line=LineField.HALFWORD_8),
    TableRow(
        pattern=r"\.altinstructions",
        entry_size_bytes=12,
        snippet_field=4,
        snippet_length_field=11,
    ),
    TableRow(pattern=r"__ex_table", entry_size_bytes=12, snippet_field=4),
    TableRow(pattern=r"__jump_table", entry_size_bytes=16),
    TableRow(pattern=r"__mcount_loc|__patchable_function_entries", entry_size_bytes=8),
)

_ONCE_FLAGS = frozenset({"__warned", "warned", "__already_done", "__print_once", "printed"})

_FILE_NAME_DATA = frozenset({"_acpi_module_name"})  #: drivers/acpi: ``AE_INFO``

#: Runs between quiescing the CPUs and letting them go, or on the way there.
_XEN_PATCHING_PATH = frozenset(
    {
        "check_for_livepatch_work", "livepatch_do_action", "livepatch_spin", "reverse_depth",
        "apply_payload", "revert_payload", "apply_payload_tail", "revert_payload_tail",
        "arch_livepatch_quiesce", "arch_livepatch_revive", "arch_livepatch_safety_check",
        "arch_livepatch_apply", "arch_livepatch_revert", "arch_livepatch_post_action",
        "arch_livepatch_mask", "arch_livepatch_unmask", "common_livepatch_apply",
        "common_livepatch_revert", "livepatch_insn_len", "add_nops", "idle_loop",
        "reset_stack_and_jump", "modify_xen_mappings_lite",
    }
)  # fmt: skip

_JUMPS = ((EM_X86_64, 5), (EM_AARCH64, 4))


def _xen(release: str) -> Profile:
    return Profile(
        name=f"xen-{release}",
        tables=tuple((EM_X86_64, row) for row in _XEN_X86)
        + tuple((EM_AARCH64, row) for row in _XEN_ARM64),
        classes=_XEN,
        once_flags=_ONCE_FLAGS,
        file_name_data=_FILE_NAME_DATA,
        patching_path=_XEN_PATCHING_PATH,
        jump_size_bytes=_JUMPS,
    )


_PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        *(_xen(f"4.{minor}") for minor in range(14, 23)),
        Profile(
            name="linux",
            tables=tuple((EM_X86_64, row) for row in _LINUX_X86)
            + tuple((EM_AARCH64, row) for row in _LINUX_ARM64),
            classes=_LINUX,
            once_flags=_ONCE_FLAGS,
            file_name_data=_FILE_NAME_DATA,
            patching_path=frozenset({"klp_ftrace_handler", "ftrace_ops_list_func"}),
            jump_size_bytes=_JUMPS,
        ),
    )
}


def profile_names() -> tuple[str, ...]:
    """Return the names that `profile_of` knows."""
    return tuple(_PROFILES)


def profile_of(name: str) -> Profile:
    """Return a profile by its name.

    Raises:
        DiffError: No profile has that name.
    """
    if name not in _PROFILES:
        raise DiffError(
            f"profile {name}: it is not known; choose one of {', '.join(profile_names())}"
        )
    return _PROFILES[name]
