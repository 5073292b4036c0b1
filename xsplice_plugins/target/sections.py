# SPDX-License-Identifier: Apache-2.0
"""What sections mean, as data: one row a special section, read by differ and linker alike.

A row with sizes comes from a build's own headers (`Facts`); a size of 0 says that the build has
no such table. To add a section, add a row; the differ then gives its entries to the functions they
belong to, and the linker takes them into payloads.

Sources: xen/arch/x86/xen.lds.S, xen/arch/arm/xen.lds.S, xen/include/xen/bug.h,
xen/arch/*/include/asm/{bug,alternative,alternative-call,asm_defns}.h, xen/common/livepatch.c
(`prepare_payload`: which tables the loader looks at) of Xen 4.7 to 4.22;
include/linux/{bug,jump_label,static_call_types}.h and arch/{x86,arm64}/include/asm/
{alternative,extable}.h of Linux 6.6.
"""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from xsplice_plugins.elf.types import SHF_MERGE
from xsplice_plugins.errors import DiffError
from xsplice_plugins.releases import parse_release
from xsplice_plugins.target.arm64 import ARM64
from xsplice_plugins.target.machines import machine_of
from xsplice_plugins.target.x86_64 import X86_64

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from re import Pattern

    from xsplice_plugins.artefacts import Facts
    from xsplice_plugins.elf.types import Section
    from xsplice_plugins.target.machine import TargetMachine


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
    SANITIZER = "a sanitizer's data"  #: says where a check stands: new with its function
    IGNORED = "ignored"
    UNKNOWN = "unknown"


class SpecialSection(Struct, frozen=True, kw_only=True):
    """One kind of special section: a table whose entries belong to code.

    All fields are offsets in bytes from an entry's start. Pointers are 32-bit distances, from the
    field itself unless ``counts_from_entry``.
    """

    pattern: str  #: of the whole name
    entry_size_bytes: int  #: 0: this build has no such table
    owner_field: int = 0  #: points at the code that the entry belongs to
    snippet_field: int | None = None  #: points at out-of-line code
    snippet_length_field: int | None = None  #: a byte; without one: up to the next snippet
    snippets: str = ""  #: section of the snippets, which the loader asks for beside the table
    feature_field: int | None = None  #: two bytes: number of a CPU feature, top bit inverts
    line_field: int | None = None  #: a half-word with a source line
    displacement_bits: int = 0  #: of the first two pointers; above them the line; 0: no line there
    counts_from_entry: bool = False
    unused_fields: tuple[int, ...] = ()  #: pointers that nothing reads
    trap: bytes = b""  #: the instruction at the owner's place, where decoders may not know it
    is_resumed: bool = False  #: the code goes on behind that instruction
    bounds: tuple[str, str] = ("", "")  #: the image's symbols around its own table
    rewritten: str = ""  #: what boot may do to the owner's place; "": nothing
    rewritten_lengths: tuple[int, ...] = ()  #: bytes whose sum says how much
    rewritten_size_bytes: int = 0  #: how much, where no byte says so
    refused: str = ""  #: why no payload can bring it


def measured(row: SpecialSection, size_bytes: int, offsets: Collection[int]) -> SpecialSection:
    """Return a row with the size of records that a table shows: their fields repeat with it.

    Records of Linux have other sizes by release and settings, and no object says which.

    Args:
        row: What is known of the table.
        size_bytes: Of the table.
        offsets: Where in it relocations are, in bytes from its start.

    Raises:
        DiffError: No size fits, or nothing is known of records of that size.
    """

    def fits(size: int) -> bool:
        fields = {
            frozenset(offset - at for offset in offsets if at <= offset < at + size)
            for at in range(0, size_bytes, size)
        }
        return size_bytes % size == 0 and len(fields) <= 1

    first = row.entry_size_bytes
    if fits(first):
        return row
    size = next(filter(fits, range(_RECORD_BYTES_MIN, _RECORD_BYTES_MAX + 1)), 0)
    length = row.snippet_length_field and _LENGTHS_AT.get(size)
    if not size or (row.snippet_length_field and not length):
        raise DiffError(
            f"{row.pattern}: {size_bytes} bytes of records of an unknown size ({size or 'none'} "
            f"fits, {first} is known); this build of Linux is not known"
        )
    # Where the line stands in it nobody knows: another one is another record then.
    return replace(row, entry_size_bytes=size, snippet_length_field=length, line_field=None)


class ClassRow(Struct, frozen=True, kw_only=True):
    """Names of sections of one class."""

    pattern: str
    kind: SectionClass


class Profile(Struct, frozen=True, kw_only=True):
    """Everything differ and linker know of one target's sections beside ELF itself."""

    name: str
    machine: TargetMachine
    tables: tuple[SpecialSection, ...]
    classes: tuple[ClassRow, ...]
    once_flags: frozenset[str]  #: "print once" statics: a fresh copy does no harm
    counters: Pattern[str]  #: instrumentation's counters: a fresh set does no harm
    patching_path: frozenset[str]  #: functions that run while code is being replaced
    jump_size_bytes: int  #: of the jump that replaces a function's first bytes

    def table(self, name: str) -> SpecialSection | None:
        """Return the row that describes a section of that name, if one does."""
        patterns = tuple(row.pattern for row in self.tables)
        place = _first_match(patterns, name)
        return None if place is None else self.tables[place]

    @property
    def snippet_sections(self) -> frozenset[str]:
        """Return the sections that the loader asks for beside tables."""
        return frozenset(row.snippets for row in self.tables if row.snippets)

    def class_of_name(self, name: str) -> SectionClass | None:
        """Return the class of a section of that name, as far as names tell."""
        row = self.table(name)
        if row is not None:
            return SectionClass.TABLE if row.entry_size_bytes else SectionClass.UNKNOWN
        place = _first_match(tuple(row.pattern for row in self.classes), name)
        return None if place is None else self.classes[place].kind


@lru_cache(maxsize=16384)
def _first_match(patterns: tuple[str, ...], name: str) -> int | None:
    return next((i for i, text in enumerate(patterns) if re.fullmatch(text, name)), None)


def class_of(profile: Profile, section: Section, name: str) -> SectionClass:
    """Return what a section is to live patching; UNKNOWN if no row and no ELF flag tells.

    ``name`` is the section's without the symbol that it was made for (`ElfFile.base_name`).
    """
    if not section.is_alloc:
        return SectionClass.IGNORED
    kind = profile.class_of_name(name)
    if kind is SectionClass.TABLE:
        return kind
    if section.is_strings:
        return SectionClass.STRINGS
    if kind is None:
        return SectionClass.TEXT if section.is_exec else SectionClass.UNKNOWN
    is_merged = section.flags & SHF_MERGE and section.entry_size_bytes
    if kind is SectionClass.READ_ONLY and is_merged:
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
_XEN_CLASSES = (
    _TOOLCHAIN
    # What gcov writes about counters; the counters themselves are ordinary data.
    + _rows(SectionClass.IGNORED, r"\.(data|rodata)(\.[a-z]+)*\.(__gcov_\..*|\.LPBX\d+)")
    + _rows(SectionClass.SANITIZER, r"\.data(\.[a-z]+)*\.\.Lubsan_(data|type)\d+")
    + _rows(SectionClass.HOOK, r"\.livepatch\.hooks\..*", r"\.modinfo")
    + _rows(SectionClass.SNIPPETS, r"\.fixup", r"\.altinstr_replacement")
    + _rows(
        SectionClass.INIT,
        r"\.init(\..*)?", r"\.initcall.*", r"\.exit(\..*)?", r"\.exitcall.*",
        r"\.text\.startup(\..*)?", r"\.init_array(\..*)?", r"\.ctors(\..*)?",
        r"\.trampoline.*", r"\.boot\..*", r"\.data\.init(\..*)?", r"\.text\.init(\..*)?",
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
_LINUX_CLASSES = (
    _TOOLCHAIN
    + _rows(SectionClass.IGNORED, r"\.orc_(unwind|unwind_ip|header|lookup)", r"\.modinfo")
    + _rows(SectionClass.SNIPPETS, r"\.fixup", r"\.altinstr_replacement")
    + _rows(SectionClass.INIT, r"\.(init|exit|meminit|cpuinit)\..*", r"\.(con_)?initcall.*")
    + _rows(SectionClass.PERCPU, r"\.data\.\.percpu.*")
    + _rows(SectionClass.REGISTRY, r"__(param|ksymtab.*|tracepoints.*|verbose)", r"_ftrace_events")
    + _rows(SectionClass.RO_AFTER_INIT, r"\.data\.\.ro_after_init(\..*)?")
    + _DATA
)  # fmt: skip


#: Bug frames behind which code goes on: a function that is run, a warning.
#: Source: xen/include/xen/bug.h, before 4.18 that of each machine.
_RESUMED = (0, 1)


def _xen_tables(facts: Facts) -> Iterable[SpecialSection]:
    """Return Xen's special sections, in the order in which a payload holds them."""
    alt = facts.alternative
    yield SpecialSection(
        pattern=r"\.ex_table",
        entry_size_bytes=facts.ex_entry_size_bytes,
        snippet_field=4,
    )
    yield SpecialSection(
        pattern=r"\.ex_table\.pre",
        entry_size_bytes=facts.ex_entry_size_bytes,
        snippet_field=4,
        refused="the hypervisor looks for .ex_table only; patch no entry code",
    )
    last = bug_frame_kinds(facts) - 1
    for number in range(last + 1):
        has_message = number == last
        size = facts.bug_message_frame_size_bytes if has_message else facts.bug_frame_size_bytes
        is_packed = facts.bug_displacement_bits > 0
        yield SpecialSection(
            pattern=rf"\.bug_frames\.{number}",
            entry_size_bytes=size,
            displacement_bits=facts.bug_displacement_bits,
            line_field=None if is_packed else 12,
            counts_from_entry=True,
            # A frame of its own format points at whatever string follows where it has no message.
            unused_fields=() if is_packed or has_message else (8,),
            trap=bytes.fromhex(facts.bug_instruction),
            is_resumed=number in _RESUMED,
            bounds=(f"__start_bug_frames_{number}", f"__stop_bug_frames_{number}"),
        )
    yield SpecialSection(pattern=r"\.bug_frames\..*", entry_size_bytes=0)
    has_padding = alt.size_bytes > alt.replacement_length + 1
    yield SpecialSection(
        pattern=r"\.altinstructions",
        entry_size_bytes=alt.size_bytes,
        owner_field=alt.site,
        snippet_field=alt.replacement,
        snippet_length_field=alt.replacement_length,
        snippets=".altinstr_replacement",
        feature_field=alt.feature,
        bounds=("__alt_instructions", "__alt_instructions_end"),
        rewritten="an alternative",
        rewritten_lengths=(
            alt.site_length,
            *((alt.replacement_length + 1,) if has_padding else ()),
        ),
    )
    yield SpecialSection(
        pattern=r"\.alt_call_sites",
        entry_size_bytes=facts.alt_call_entry_size_bytes,
        bounds=("__alt_call_sites_start", "__alt_call_sites_end"),
        rewritten="an alternative call",
        rewritten_size_bytes=6,  # ALT_CALL_LEN
    )


def bug_frame_kinds(facts: Facts) -> int:
    """Return the number of ``.bug_frames.N``: BUGFRAME_NR, which was 3 on Arm before 4.15."""
    since = machine_of(facts.machine).four_bug_frames_since
    return 4 if parse_release(facts.release)[:2] >= since else 3


_RECORD_BYTES_MIN, _RECORD_BYTES_MAX = 4, 32
#: Of ``struct alt_instr`` by its size, as Linux had it: where the replacement's length stands.
_LENGTHS_AT = {12: 11, 13: 11, 14: 13}
_LINUX = (
    SpecialSection(pattern=r"__bug_table", entry_size_bytes=12, line_field=8),
    SpecialSection(pattern=r"__ex_table", entry_size_bytes=12, snippet_field=4),
    SpecialSection(pattern=r"__jump_table", entry_size_bytes=16),
    SpecialSection(pattern=r"__mcount_loc|__patchable_function_entries", entry_size_bytes=8),
)
_LINUX_OWN = {
    X86_64.number: (
        SpecialSection(
            pattern=r"\.altinstructions",
            entry_size_bytes=14,
            snippet_field=4,
            snippet_length_field=13,
        ),
        SpecialSection(pattern=r"\.static_call_sites", entry_size_bytes=8),
        SpecialSection(
            pattern=r"\.(retpoline|return|call)_sites|\.ibt_endbr_seal|\.smp_locks|\.cfi_sites",
            entry_size_bytes=4,
        ),
        SpecialSection(pattern=r"\.parainstructions", entry_size_bytes=16),
    ),
    ARM64.number: (
        SpecialSection(
            pattern=r"\.altinstructions",
            entry_size_bytes=12,
            snippet_field=4,
            snippet_length_field=11,
        ),
    ),
}

_ONCE_FLAGS = frozenset(
    {"__warned", "warned", "__already_done", "__print_once", "printed", "once_"}
)

_COUNTERS = re.compile(r"__gcov\d+\..*")


#: Runs between quiescing the CPUs and letting them go, or on the way there.
#: Functions that run while code is being replaced.
XEN_PATCHING_PATH = frozenset(
    {
        "check_for_livepatch_work", "livepatch_do_action", "livepatch_spin", "reverse_depth",
        "apply_payload", "revert_payload", "apply_payload_tail", "revert_payload_tail",
        "arch_livepatch_quiesce", "arch_livepatch_revive", "arch_livepatch_safety_check",
        "arch_livepatch_apply", "arch_livepatch_revert", "arch_livepatch_post_action",
        "arch_livepatch_mask", "arch_livepatch_unmask", "common_livepatch_apply",
        "common_livepatch_revert", "livepatch_insn_len", "add_nops", "idle_loop",
        "reset_stack_and_jump", "modify_xen_mappings_lite", "tighten_virtual_region_perms",
        "relax_virtual_region_perms",
    }
)  # fmt: skip
_LINUX_PATCHING_PATH = frozenset({"klp_ftrace_handler", "ftrace_ops_list_func"})

PROFILE_NAMES = ("xen", "linux")


@lru_cache(maxsize=16)
def profile_of(name: str, facts: Facts) -> Profile:
    """Return ``xen`` or ``linux`` for a build; of Linux' facts only the machine is taken.

    Raises:
        ConfigError: Payloads are not made for the machine.
        DiffError: No profile has that name.
    """
    if name not in PROFILE_NAMES:
        raise DiffError(
            f"profile {name}: it is not known; choose one of {', '.join(PROFILE_NAMES)}"
        )
    machine = machine_of(facts.machine)
    is_xen = name == "xen"
    linux = _LINUX + _LINUX_OWN.get(machine.number, ())
    return Profile(
        name=name,
        machine=machine,
        tables=tuple(_xen_tables(facts)) if is_xen else linux,
        classes=_XEN_CLASSES if is_xen else _LINUX_CLASSES,
        once_flags=_ONCE_FLAGS,
        counters=_COUNTERS,
        patching_path=XEN_PATCHING_PATH if is_xen else _LINUX_PATCHING_PATH,
        jump_size_bytes=facts.jump_size_bytes if is_xen else machine.jump_size_bytes,
    )
