# SPDX-License-Identifier: Apache-2.0
"""Releases of Xen as data: one field per behaviour change, point-release backports included.

Read from the sources of every RELEASE tag; see docs/loader.md, "releases". Which releases exist
stands in ``xsplice_plugins/releases.py``. One that is newer than the last branch listed there
behaves as that one, and its ``note`` says so.
"""

from msgspec import Struct

from xsplice_plugins.errors import ConfigError
from xsplice_plugins.hypervisor.facts.arches import ARM32, X86_64, Arch
from xsplice_plugins.releases import (
    Version,
    is_known,
    known_releases,
    parse_loader,
    parse_release,
    spelled,
)

#: 32-bit words of CPU features, by the first release that has them; a branch starts at its ``.0``.
#: Source: NCAPINTS in asm/cpufeature(s).h with FEATURESET_NR_ENTRIES of xen/tools/gen-cpuid.py.
_FEATURE_WORDS: tuple[tuple[Version, int], ...] = (
    ((4, 7, 0), 10), ((4, 7, 5), 11), ((4, 8, 0), 10), ((4, 8, 4), 11), ((4, 13, 0), 13),
    ((4, 14, 5), 16), ((4, 14, 6), 20), ((4, 15, 0), 13), ((4, 15, 3), 16), ((4, 15, 5), 20),
    ((4, 16, 0), 14), ((4, 16, 1), 16), ((4, 16, 4), 18), ((4, 16, 5), 20), ((4, 17, 0), 16),
    ((4, 17, 1), 18), ((4, 17, 2), 20), ((4, 17, 6), 21), ((4, 18, 0), 20), ((4, 18, 6), 21),
    ((4, 19, 0), 20), ((4, 19, 3), 21), ((4, 20, 0), 20), ((4, 20, 1), 21), ((4, 21, 1), 22),
)  # fmt: skip
#: Sizes of function record (with its version) and alternative that the model can decode.
_RECORDS = {(1, 64), (1, 52), (2, 104), (2, 92)}
_ALTERNATIVES_BYTES = {12, 14}


class BuildFacts(Struct, frozen=True, kw_only=True):
    """What the headers of one build define; a release's name alone does not always tell."""

    feature_words: int  #: NCAPINTS; 0 where alternatives do not index a bitmap (Arm)
    record_version: int  #: LIVEPATCH_PAYLOAD_VERSION
    record_bytes: int  #: sizeof(struct livepatch_func)
    alternative_bytes: int  #: sizeof(struct alt_instr)
    bug_instruction: bytes  #: what BUG() puts into the code; empty where it has none of its own


class Release(Struct, frozen=True, kw_only=True):
    """What one release of Xen does with a live patch."""

    name: str  #: ``4.17.5``, as it was asked for
    version: Version  #: the release that was read and whose behaviour this is
    payload_version: int  #: the byte in each function record, 1 or 2
    #: load/unload hooks, NOP records, distance check, .bss limit, re-apply rule
    has_hooks_basic: bool
    is_reapply_without_rw_ok: bool  #: a payload without writable sections may be applied again
    checks_alignment: bool  #: section alignment is looked at
    is_empty_ex_table_ok: bool  #: an empty ``.ex_table`` is accepted
    checks_symbol_zero: bool  #: a relocation against symbol 0 is refused instead of a crash
    has_v2_sections: bool  #: xen_depends, six more hooks, modinfo, expectations, NODEPS, flags
    skips_empty_sections: bool  #: ALLOC sections of size zero get no address
    flags_ignored_symbols: bool  #: relocations against symbols of ignored sections are refused
    endbr: int  #: 0 unaware, 1 knows ENDBR64, 2 knows ENDBR64 and its poison
    checks_waitqueues: bool  #: an active waitqueue forbids the patch (x86)
    is_idle_only: bool  #: work is picked up by the idle loop only
    checks_alternative_bounds: bool  #: alternatives must lie inside the payload
    returns_alternative_errors: bool  #: bad alternatives give an errno; before, the host crashed
    checks_build_id_first: bool  #: Xen's build-id is compared before anything is loaded
    passes_note_errno: bool  #: note errors keep their own errno
    faults_on_readonly_funcs: bool  #: applying a payload with read-only function records crashes
    keeps_fstate: bool  #: state lives outside the function records
    registers_region_at_load: bool  #: faults in a loaded, unapplied payload find their tables
    has_alt_call_sites: bool  #: ``.alt_call_sites`` is known
    has_altcall_idiom: bool  #: alternative calls are encoded as alternatives
    has_list_capacities: bool  #: LIST takes buffer sizes and may answer -ENOBUFS
    has_op_flags: bool  #: the operation's first pad word is a flags word (FORCE)
    alt_entry_bytes: int  #: size of an alternative's record on x86
    feature_words: int  #: 32-bit words of CPU features that an alternative can name
    bug_instruction: bytes  #: what a bug frame's trap looks like on x86
    remaps_text: bool  #: text is made writable by mapping, not by clearing CR0.WP (x86)
    remaps_rodata: bool  #: so is read-only data
    loader: str = ""  #: of a vendor; "" for upstream's
    takes_known_names: bool = False  #: a new name may be there already

    @property
    def note(self) -> str:
        """Say that another release's behaviour was taken; empty for a release that was read."""
        if self.name == spelled(self.version):
            return ""
        judged = ".".join(map(str, self.version[:2]))
        return f"Xen {self.name} is newer than the last one read, judged as {judged}"

    def supports(self, arch: Arch) -> bool:
        """Whether live patching exists on an architecture in this release."""
        return arch == X86_64 or self.has_hooks_basic

    def has_alternatives(self, arch: Arch) -> bool:
        """Whether payloads may carry ``.altinstructions`` (arm32 from 4.9)."""
        return arch != ARM32 or self.version >= (4, 9, 0)

    def bug_frame_kinds(self, arch: Arch) -> int:
        """Number of ``.bug_frames.N`` sections that are looked at."""
        return 3 if arch != X86_64 and self.version < (4, 15, 0) else 4

    def record_bytes(self, arch: Arch) -> int:
        """Size of one function record."""
        if self.payload_version == 1:
            return 64 if arch.is_64bit else 52
        return 104 if arch.is_64bit else 92


#: Vendors' loaders: in what they differ from upstream's of the same release. XenServer and XCP-ng
#: build cumulative payloads for `replace`, so never more than one is in force, and their series of
#: patches to Xen takes out the refusal of a name that is there already.
_LOADERS: dict[str, dict[str, bool]] = {"xenserver": {"takes_known_names": True}}


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


def _check_facts(facts: BuildFacts) -> None:
    record = (facts.record_version, facts.record_bytes)
    if record not in _RECORDS or facts.alternative_bytes not in _ALTERNATIVES_BYTES:
        raise ConfigError(
            f"function records of version {record[0]} with {record[1]} bytes, alternatives with "
            f"{facts.alternative_bytes}: the model does not know them; judge on a real Xen"
        )


def release(name: str, facts: BuildFacts | None = None, loader: str = "") -> Release:
    """Give what one release does.

    Args:
        name: ``4.17.5`` or ``4.17`` (its ``.0``).
        facts: of the build that runs, where its headers were asked; else the release's own.
        loader: a vendor's, by its name in `xsplice_plugins.releases`; "" for upstream's.

    Returns:
        The release's behaviour; the last known one's for a newer branch (see ``note``).

    Raises:
        ConfigError: the name is not a release with live patching, the build has structures that the
            model does not know, or there is no such loader.
    """
    loader = parse_loader(loader)
    asked = parse_release(name)
    v = asked if is_known(asked) else known_releases()[-1]
    if facts is not None:
        _check_facts(facts)
    words = max(row for row in _FEATURE_WORDS if row[0] <= v)[1]
    bug = b"\xd6" if v >= (4, 22, 0) else b"\x0f\x0b"  # UDB, UD2: asm/bug.h
    aware = _since(v, mainline=(4, 17, 0), backports=((4, 14, 5), (4, 15, 3), (4, 16, 1)))
    endbr = (2 if v >= (4, 17, 0) else 1) if aware else 0
    keeps_fstate = _since(v, mainline=(4, 19, 0), backports=((4, 17, 3), (4, 18, 1)))
    build_id_first = _since(v, mainline=(4, 20, 0), backports=((4, 18, 4), (4, 19, 1)))
    remaps_text = _since(v, mainline=(4, 18, 0), backports=((4, 16, 4), (4, 17, 1)))
    return Release(
        name=spelled(asked),
        version=v,
        payload_version=facts.record_version if facts else (2 if v >= (4, 14, 0) else 1),
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
        faults_on_readonly_funcs=remaps_text and not keeps_fstate,
        keeps_fstate=keeps_fstate,
        registers_region_at_load=_since(v, mainline=(4, 19, 0), backports=((4, 17, 4), (4, 18, 1))),
        has_alt_call_sites=v >= (4, 21, 0),
        has_altcall_idiom=(4, 13, 0) <= v < (4, 21, 0),
        has_list_capacities=v >= (4, 21, 0),
        has_op_flags=v >= (4, 19, 0),
        alt_entry_bytes=facts.alternative_bytes if facts else (14 if v >= (4, 11, 0) else 12),
        feature_words=(facts.feature_words if facts else 0) or words,
        bug_instruction=(facts.bug_instruction if facts else b"") or bug,
        remaps_rodata=_since(v, mainline=(4, 19, 0), backports=((4, 17, 4), (4, 18, 2))),
        remaps_text=remaps_text,
        loader=loader,
        **(_LOADERS[loader] if loader else {}),
    )
