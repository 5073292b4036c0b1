# SPDX-License-Identifier: Apache-2.0
"""The payload format: its sections, and what the loader of a release does with them.

What headers define comes from `Facts`; here stands the loader's *behaviour*, release by release.
The reference hypervisor core has a table of its own on purpose: writer and judge must not share a
mistake.

Sources: xen/common/livepatch.c and xen/common/livepatch_elf.c at every RELEASE tag,
xen/include/xen/livepatch_payload.h (hooks); docs/loader.md has the list.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from msgspec import Struct

from xsplice_plugins.releases import parse_release
from xsplice_plugins.target.sections import Profile, profile_of

if TYPE_CHECKING:
    from xsplice_plugins.artefacts import Facts
    from xsplice_plugins.releases import Version
    from xsplice_plugins.target.machine import TargetMachine

FUNCS_SECTION = ".livepatch.funcs"
STRINGS_SECTION = ".livepatch.strings"
DEPENDS_SECTION = ".livepatch.depends"
XEN_DEPENDS_SECTION = ".livepatch.xen_depends"
BUILD_ID_SECTION = ".note.gnu.build-id"
MODINFO_SECTION = ".modinfo"
HOOK_PREFIX = ".livepatch.hooks."

SECTIONS_MAX = 1023
POINTER_SIZE_BYTES = 8

#: Offsets in ``struct livepatch_func`` (xen/include/public/sysctl.h), the same in both versions.
NAME_OFFSET, NEW_ADDR_OFFSET, OLD_ADDR_OFFSET, NEW_SIZE_OFFSET, OLD_SIZE_OFFSET = 0, 8, 16, 24, 28
RECORD_SIZES = struct.Struct("<IIB")  #: new size, old size and version
EXPECT_OFFSET = 72  #: since version 2

ARRAY_HOOKS = ("load", "unload")
SINGLE_HOOKS = ("preapply", "apply", "postapply", "prerevert", "revert", "postrevert")


class Abi(Struct, frozen=True, kw_only=True):
    """The payload format of one build on one machine."""

    facts: Facts
    machine: TargetMachine
    profile: Profile  #: its special sections
    #: Since 4.14: records of version 2, ``.livepatch.xen_depends`` and ``.modinfo`` are asked for,
    #: all hooks are known, and a payload of hooks alone is taken.
    is_v2: bool
    is_funcs_writable: bool  #: ``.livepatch.funcs`` needs SHF_WRITE
    is_endbr_aware: bool
    has_nops: bool  #: a record without new code turns instructions into NOPs
    hooks: tuple[str, ...]  #: known hook names, without the prefix

    @property
    def has_expectations(self) -> bool:
        """Tell whether records can say which bytes must stand at the old address."""
        return self.facts.expect_length_max > 0


def abi_of(facts: Facts) -> Abi:
    """Return the payload format of a build; the release in its facts decides on behaviour.

    Raises:
        ConfigError: The release or the machine is not one whose format is known.
    """
    version = parse_release(facts.release)
    profile = profile_of("xen", facts)
    machine = profile.machine
    is_v2 = version >= (4, 14, 0)
    hooks: tuple[str, ...] = ARRAY_HOOKS if version >= (4, 8, 0) else ()
    return Abi(
        facts=facts,
        machine=machine,
        profile=profile,
        is_v2=is_v2,
        is_funcs_writable=_needs_writable_funcs(version),
        is_endbr_aware=bool(machine.endbr) and _is_endbr_aware(version),
        has_nops=version >= (4, 8, 0),
        hooks=hooks + SINGLE_HOOKS if is_v2 else hooks,
    )


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
