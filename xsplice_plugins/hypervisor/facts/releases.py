# SPDX-License-Identifier: Apache-2.0
"""Releases of Xen as data: one field per behaviour change, point-release backports included.

Source: livepatch specification sections 1.3, 12 and 16.1, which were read from every RELEASE tag.
A release is named ``MAJOR.MINOR.POINT``; ``4.17`` means its ``.0``. Point releases later than the
last one known behave as the last known one.
"""

from dataclasses import dataclass

from xsplice_plugins.errors import ConfigError
from xsplice_plugins.hypervisor.facts.arches import ARM32, ARM64, X86_64, Arch

Version = tuple[int, int, int]

#: Last point release of each stable branch that the specification's survey saw.
LAST_POINT = {
    7: 6, 8: 5, 9: 4, 10: 4, 11: 4, 12: 4, 13: 5, 14: 6,
    15: 5, 16: 7, 17: 6, 18: 5, 19: 4, 20: 3, 21: 1, 22: 0,
}  # fmt: skip
NEVER: Version = (99, 0, 0)

INTERFACE_VERSIONS = {
    7: 0xD, 8: 0xE, 9: 0xF, 10: 0x10, 11: 0x11, 12: 0x12, 13: 0x12, 14: 0x13,
    15: 0x13, 16: 0x14, 17: 0x15, 18: 0x15, 19: 0x15, 20: 0x15, 21: 0x16, 22: 0x16,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What one release of Xen does with a live patch.

    Attributes:
        name: ``4.17.5``.
        version: the same as numbers.
        interface_version: of the sysctl; a tool built for another one gets -EACCES.
        payload_version: the byte in each function record, 1 or 2.
        record_generation: ``G1``, ``G2a``, ``G2b`` or ``G2c``: where state is kept in a record.
        has_hooks_basic: load/unload hooks, NOP records, distance check, .bss limit, re-apply rule.
        is_reapply_without_rw_ok: a payload without writable sections may be applied again.
        checks_alignment: section alignment is looked at.
        is_empty_ex_table_ok: an empty ``.ex_table`` is accepted.
        checks_symbol_zero: a relocation against symbol 0 is refused instead of a crash.
        has_v2_sections: xen_depends, six more hooks, modinfo, expectations, NODEPS, flags.
        skips_empty_sections: ALLOC sections of size zero get no address.
        flags_ignored_symbols: relocations against symbols of ignored sections are refused.
        endbr: 0 unaware, 1 knows ENDBR64, 2 knows ENDBR64 and its poison.
        checks_waitqueues: an active waitqueue forbids the patch (x86).
        is_idle_only: work is picked up by the idle loop only.
        checks_alternative_bounds: alternatives must lie inside the payload.
        returns_alternative_errors: bad alternatives give an errno; before, the host crashed.
        checks_build_id_first: Xen's build-id is compared before anything is loaded.
        passes_note_errno: note errors keep their own errno.
        faults_on_readonly_funcs: applying a payload with read-only function records crashes.
        keeps_fstate: state lives outside the function records.
        registers_region_at_load: faults in a loaded, unapplied payload find their tables.
        has_alt_call_sites: ``.alt_call_sites`` is known.
        has_altcall_idiom: alternative calls are encoded as alternatives.
        has_list_capacities: LIST takes buffer sizes and may answer -ENOBUFS.
        has_op_flags: the operation's first pad word is a flags word (FORCE).
        alt_entry_bytes: size of an alternative's record on x86.
        hook_layout: which layout of ``struct payload`` hooks are compiled against.
        remaps_text: text is made writable by mapping, not by clearing CR0.WP (x86).
        remaps_rodata: so is read-only data.
    """

    name: str
    version: Version
    interface_version: int
    payload_version: int
    record_generation: str
    has_hooks_basic: bool
    is_reapply_without_rw_ok: bool
    checks_alignment: bool
    is_empty_ex_table_ok: bool
    checks_symbol_zero: bool
    has_v2_sections: bool
    skips_empty_sections: bool
    flags_ignored_symbols: bool
    endbr: int
    checks_waitqueues: bool
    is_idle_only: bool
    checks_alternative_bounds: bool
    returns_alternative_errors: bool
    checks_build_id_first: bool
    passes_note_errno: bool
    faults_on_readonly_funcs: bool
    keeps_fstate: bool
    registers_region_at_load: bool
    has_alt_call_sites: bool
    has_altcall_idiom: bool
    has_list_capacities: bool
    has_op_flags: bool
    alt_entry_bytes: int
    hook_layout: str
    remaps_text: bool
    remaps_rodata: bool

    def supports(self, arch: Arch) -> bool:
        """Whether live patching exists on an architecture in this release."""
        return arch == X86_64 or self.has_hooks_basic

    def has_alternatives(self, arch: Arch) -> bool:
        """Whether payloads may carry ``.altinstructions`` (arm32 from 4.9)."""
        return arch != ARM32 or self.version >= (4, 9, 0)

    def bug_frame_kinds(self, arch: Arch) -> int:
        """Number of ``.bug_frames.N`` sections that are looked at."""
        return 3 if arch in {ARM64, ARM32} and self.version < (4, 15, 0) else 4

    def record_bytes(self, arch: Arch) -> int:
        """Size of one function record."""
        if self.payload_version == 1:
            return 64 if arch.is_64bit else 52
        return 104 if arch.is_64bit else 92


def _since(version: Version, *, mainline: Version, backports: tuple[Version, ...] = ()) -> bool:
    """Tell whether a change is in a release.

    Args:
        version: the release asked about.
        mainline: first release whose branch had the change from its ``.0``.
        backports: first point release that has it on each older branch.
    """
    if version >= mainline:
        return True
    return any(version[:2] == first[:2] and version >= first for first in backports)


def _record_generation(version: Version, *, endbr: int, keeps_fstate: bool) -> str:
    if version < (4, 14, 0):
        return "G1"
    if keeps_fstate:
        return "G2c"
    return "G2b" if endbr else "G2a"


def _hook_layout(version: Version, *, keeps_fstate: bool) -> str:
    if not keeps_fstate:
        return "4.14"
    # The member xen_dep left struct payload together with the later comparison of the build-id.
    return "master" if _build_id_first(version) else "4.17.3"


def _build_id_first(version: Version) -> bool:
    return _since(version, mainline=(4, 20, 0), backports=((4, 18, 4), (4, 19, 1)))


def _faults_on_readonly_funcs(version: Version) -> bool:
    return (
        (4, 16, 4) <= version < (4, 17, 0)
        or (4, 17, 1) <= version <= (4, 17, 2)
        or version == (4, 18, 0)
    )


def _parse(name: str) -> Version:
    parts = name.split(".")
    if len(parts) not in {2, 3} or not all(part.isascii() and part.isdigit() for part in parts):
        raise ConfigError(f"{name}: not a release of Xen; write it as 4.17.5")
    major, minor, point = (*(int(part) for part in parts), 0)[:3]
    if major != 4 or minor not in LAST_POINT:
        raise ConfigError(f"{name}: not a release the model knows; choose one from 4.7 to 4.22")
    return (major, minor, point)


def release(name: str) -> Release:
    """Describe a release of Xen.

    Args:
        name: ``4.17.5`` or ``4.17`` (its ``.0``).

    Returns:
        The release's behaviour.

    Raises:
        ConfigError: the name is not a release from 4.7 to 4.22.
    """
    v = _parse(name)
    aware = _since(v, mainline=(4, 17, 0), backports=((4, 14, 5), (4, 15, 3), (4, 16, 1)))
    endbr = (2 if v >= (4, 17, 0) else 1) if aware else 0
    keeps_fstate = _since(v, mainline=(4, 19, 0), backports=((4, 17, 3), (4, 18, 1)))
    build_id_first = _build_id_first(v)
    return Release(
        name=f"{v[0]}.{v[1]}.{v[2]}",
        version=v,
        interface_version=INTERFACE_VERSIONS[v[1]],
        payload_version=2 if v >= (4, 14, 0) else 1,
        record_generation=_record_generation(v, endbr=endbr, keeps_fstate=keeps_fstate),
        has_hooks_basic=v >= (4, 8, 0),
        is_reapply_without_rw_ok=v >= (4, 10, 0),
        checks_alignment=v >= (4, 10, 0),
        is_empty_ex_table_ok=v >= (4, 10, 0),
        checks_symbol_zero=_since(
            v, mainline=(4, 10, 0), backports=((4, 7, 4), (4, 8, 2), (4, 9, 1))
        ),
        has_v2_sections=v >= (4, 14, 0),
        skips_empty_sections=v >= (4, 8, 0) and not aware,
        flags_ignored_symbols=aware,
        endbr=endbr,
        checks_waitqueues=_since(v, mainline=(4, 13, 0), backports=((4, 11, 3), (4, 12, 2))),
        is_idle_only=_since(v, mainline=(4, 14, 0), backports=((4, 13, 1),)),
        checks_alternative_bounds=_since(v, mainline=(4, 18, 0), backports=((4, 17, 4),)),
        returns_alternative_errors=build_id_first,
        checks_build_id_first=build_id_first,
        passes_note_errno=build_id_first,
        faults_on_readonly_funcs=_faults_on_readonly_funcs(v),
        keeps_fstate=keeps_fstate,
        registers_region_at_load=_since(v, mainline=(4, 19, 0), backports=((4, 17, 4), (4, 18, 1))),
        has_alt_call_sites=v >= (4, 21, 0),
        has_altcall_idiom=(4, 13, 0) <= v < (4, 21, 0),
        has_list_capacities=v >= (4, 21, 0),
        has_op_flags=v >= (4, 19, 0),
        alt_entry_bytes=14 if v >= (4, 11, 0) else 12,
        hook_layout=_hook_layout(v, keeps_fstate=keeps_fstate),
        remaps_rodata=_since(v, mainline=(4, 19, 0), backports=((4, 17, 4), (4, 18, 2))),
        remaps_text=_since(v, mainline=(4, 18, 0), backports=((4, 16, 4), (4, 17, 1))),
    )


def known_releases() -> tuple[Release, ...]:
    """Every release from 4.7.0 to 4.22.0, point releases included, oldest first."""
    return tuple(
        release(f"4.{minor}.{point}")
        for minor, last in sorted(LAST_POINT.items())
        for point in range(last + 1)
    )
