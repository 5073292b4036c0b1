# SPDX-License-Identifier: Apache-2.0
"""What a release of Xen wants a payload to look like, as data.

Source: livepatch specification sections 1.3 (record versions), 1.4 (writable records), 2.3
(hooks), 5 (relocation types) and 17 (writer checklist). The reference hypervisor core has a table
of its own on purpose: writer and judge must not share a mistake.
"""

from __future__ import annotations

from dataclasses import dataclass

from xsplice_plugins.elf.types import EM_AARCH64, EM_X86_64
from xsplice_plugins.errors import LinkError

Version = tuple[int, int, int]

FUNCS_SECTION = ".livepatch.funcs"
STRINGS_SECTION = ".livepatch.strings"
DEPENDS_SECTION = ".livepatch.depends"
XEN_DEPENDS_SECTION = ".livepatch.xen_depends"
BUILD_ID_SECTION = ".note.gnu.build-id"
MODINFO_SECTION = ".modinfo"
ALT_SECTION = ".altinstructions"
ALT_REPLACEMENT_SECTION = ".altinstr_replacement"
HOOK_PREFIX = ".livepatch.hooks."

SIZE_MAX = 2 << 20  #: LIVEPATCH_MAX_SIZE: of the file, and of each NOBITS section
SECTIONS_MAX = 1023
NAME_LENGTH_MAX = 127  #: KSYM_NAME_LEN
PAGE_SIZE_BYTES = 4096
POINTER_SIZE_BYTES = 8
EXPECT_LENGTH_MAX = 31
NOP_LENGTH_MAX = 31  #: LIVEPATCH_OPAQUE_SIZE: the bytes saved for a revert

ARRAY_HOOKS = ("load", "unload")
SINGLE_HOOKS = ("preapply", "apply", "postapply", "prerevert", "revert", "postrevert")

_X86_TYPES = {
    0: "R_X86_64_NONE",
    1: "R_X86_64_64",
    2: "R_X86_64_PC32",
    4: "R_X86_64_PLT32",
}
#: Names for messages only: the hypervisor takes none of these.
_X86_REFUSED = {
    3: "R_X86_64_GOT32",
    9: "R_X86_64_GOTPCREL",
    10: "R_X86_64_32",
    11: "R_X86_64_32S",
    12: "R_X86_64_16",
    13: "R_X86_64_PC16",
    14: "R_X86_64_8",
    15: "R_X86_64_PC8",
    24: "R_X86_64_PC64",
    25: "R_X86_64_GOTOFF64",
    26: "R_X86_64_GOTPC32",
    41: "R_X86_64_GOTPCRELX",
    42: "R_X86_64_REX_GOTPCRELX",
}
_MOVW = (
    *("UABS_G0", "UABS_G0_NC", "UABS_G1", "UABS_G1_NC", "UABS_G2", "UABS_G2_NC", "UABS_G3"),
    *("SABS_G0", "SABS_G1", "SABS_G2"),
    *("PREL_G0", "PREL_G0_NC", "PREL_G1", "PREL_G1_NC", "PREL_G2", "PREL_G2_NC", "PREL_G3"),
)
#: 0 and 256 (NONE) are refused by the hypervisor and dropped by this linker.
_ARM64_TYPES = {
    0: "R_AARCH64_NONE",
    256: "R_AARCH64_NONE",
    257: "R_AARCH64_ABS64",
    258: "R_AARCH64_ABS32",
    259: "R_AARCH64_ABS16",
    260: "R_AARCH64_PREL64",
    261: "R_AARCH64_PREL32",
    262: "R_AARCH64_PREL16",
    274: "R_AARCH64_ADR_PREL_LO21",
    275: "R_AARCH64_ADR_PREL_PG_HI21",
    276: "R_AARCH64_ADR_PREL_PG_HI21_NC",
    277: "R_AARCH64_ADD_ABS_LO12_NC",
    278: "R_AARCH64_LDST8_ABS_LO12_NC",
    279: "R_AARCH64_TSTBR14",
    280: "R_AARCH64_CONDBR19",
    282: "R_AARCH64_JUMP26",
    283: "R_AARCH64_CALL26",
    284: "R_AARCH64_LDST16_ABS_LO12_NC",
    285: "R_AARCH64_LDST32_ABS_LO12_NC",
    286: "R_AARCH64_LDST64_ABS_LO12_NC",
    299: "R_AARCH64_LDST128_ABS_LO12_NC",
} | {
    number: f"R_AARCH64_MOVW_{name}"
    for number, name in zip(
        (*range(263, 273), *range(287, 294)),
        _MOVW,
        strict=True,
    )
}
_ARM64_REFUSED = {
    273: "R_AARCH64_LD_PREL_LO19",
    311: "R_AARCH64_ADR_GOT_PAGE",
    312: "R_AARCH64_LD64_GOT_LO12_NC",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the processor asks of a payload."""

    number: int  #: e_machine
    name: str
    relocation_types: dict[int, str]  #: what the hypervisor's loader applies
    relocation_names: dict[int, str]  #: further types, named in refusals
    none_types: frozenset[int]  #: types that change nothing and are not written
    absolute_type: int  #: 64-bit address
    jump_size_bytes: int
    jump_range_bytes: int
    code_filler: bytes  #: between functions
    has_ex_table: bool
    endbr: bytes  #: landing pad that the jump must leave in place; b"" if there is none


X86_64 = Machine(
    number=EM_X86_64,
    name="x86_64",
    relocation_types=_X86_TYPES,
    relocation_names=_X86_REFUSED,
    none_types=frozenset({0}),
    absolute_type=1,
    jump_size_bytes=5,
    jump_range_bytes=1 << 31,
    code_filler=b"\xcc",
    has_ex_table=True,
    endbr=bytes.fromhex("f30f1efa"),
)
ARM64 = Machine(
    number=EM_AARCH64,
    name="arm64",
    relocation_types=_ARM64_TYPES,
    relocation_names=_ARM64_REFUSED,
    none_types=frozenset({0, 256}),
    absolute_type=257,
    jump_size_bytes=4,
    jump_range_bytes=128 << 20,
    code_filler=b"\0",
    has_ex_table=False,
    endbr=b"",
)
_MACHINES = {machine.number: machine for machine in (X86_64, ARM64)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Abi:
    """The payload format of one release on one machine."""

    release: str
    machine: Machine
    record_version: int
    record_size_bytes: int
    has_xen_depends: bool
    has_modinfo: bool
    has_expectations: bool
    is_funcs_required: bool  #: a payload of hooks alone is refused
    is_funcs_writable: bool  #: ``.livepatch.funcs`` needs SHF_WRITE
    is_endbr_aware: bool
    has_nops: bool  #: a record without new code turns instructions into NOPs
    hooks: tuple[str, ...]  #: known hook names, without the prefix
    bug_frame_kinds: int
    bug_frame_size_bytes: int  #: of the shortest frame
    alt_entry_size_bytes: int
    has_alt_call_sites: bool


def abi_of(release: str, machine: int) -> Abi:
    """Return the payload format of a release.

    Args:
        release: ``4.17.5`` or ``4.17`` (its ``.0``).
        machine: ``e_machine`` of the objects.

    Raises:
        LinkError: The release or the machine is not one whose format is known.
    """
    version = _parse(release)
    known = _MACHINES.get(machine)
    if known is None:
        raise LinkError(
            f"machine {machine}: payloads are made for x86_64 and arm64 only; "
            "give objects of one of these"
        )
    if known is ARM64 and version < (4, 8, 0):
        raise LinkError(f"Xen {release}: it has no live patching on arm64; use 4.8 or later")
    is_v2 = version >= (4, 14, 0)
    hooks: tuple[str, ...] = ARRAY_HOOKS if version >= (4, 8, 0) else ()
    return Abi(
        release=release,
        machine=known,
        record_version=2 if is_v2 else 1,
        record_size_bytes=104 if is_v2 else 64,
        has_xen_depends=is_v2,
        has_modinfo=is_v2,
        has_expectations=is_v2,
        is_funcs_required=not is_v2,
        is_funcs_writable=_needs_writable_funcs(version),
        is_endbr_aware=known is X86_64 and _is_endbr_aware(version),
        has_nops=version >= (4, 8, 0),
        hooks=hooks + SINGLE_HOOKS if is_v2 else hooks,
        bug_frame_kinds=3 if known is ARM64 and version < (4, 15, 0) else 4,
        bug_frame_size_bytes=8 if known is X86_64 else 16,
        alt_entry_size_bytes=14 if known is X86_64 and version >= (4, 11, 0) else 12,
        has_alt_call_sites=known is X86_64 and version >= (4, 21, 0),
    )


def _parse(release: str) -> Version:
    parts = release.split(".")
    if len(parts) in {2, 3} and all(part.isascii() and part.isdigit() for part in parts):
        major, minor, point = (*(int(part) for part in parts), 0)[:3]
        if major == 4 and minor >= 7:  # live patching came with 4.7
            return major, minor, point
    raise LinkError(f"{release}: not a release of Xen with live patching; write it as 4.17.5")


def _is_endbr_aware(version: Version) -> bool:
    backports = ((4, 14, 5), (4, 15, 3), (4, 16, 1))
    return version >= (4, 17, 0) or any(
        version[:2] == first[:2] and version >= first for first in backports
    )


def _needs_writable_funcs(version: Version) -> bool:
    """Tell whether read-only records would crash the host, or forbid a second apply.

    8676092a0f made writes into read-only records fault and 82182ad7b4 moved the state out of
    them; what lies between needs SHF_WRITE. In 4.8 and 4.9 a payload may be applied again only
    if ``.livepatch.funcs`` is its one writable section.
    """
    return (
        (4, 8, 0) <= version < (4, 10, 0)
        or (4, 16, 4) <= version < (4, 17, 0)
        or (4, 17, 1) <= version <= (4, 17, 2)
        or version == (4, 18, 0)
    )
