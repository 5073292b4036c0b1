# SPDX-License-Identifier: Apache-2.0
"""What the headers of each release define, for where the tree itself cannot be asked.

The tree knows better: point releases, distributions and configurations move some of these numbers
(Debian's 4.17.5 has the CPU features of 4.17.6). So `Facts` from a tree come first, and ``origin``
says when they did not.

Sources, read at every RELEASE tag from 4.7.0 to 4.22.0: xen/include/public/sysctl.h and
xen/include/xen/{livepatch,symbols}.h; each machine's file names its own headers.
"""

from __future__ import annotations

from msgspec.structs import replace

from xsplice_plugins.artefacts import AlternativeFields, Facts
from xsplice_plugins.errors import ConfigError
from xsplice_plugins.releases import LAST_POINT, is_known, parse_release, spelled
from xsplice_plugins.target.machines import machine_of

NEWEST = f"4.{max(LAST_POINT)}"  #: the last release that is listed
_SYSCTL_VERSIONS = {
    7: 0xD, 8: 0xE, 9: 0xF, 10: 0x10, 11: 0x11, 12: 0x12, 13: 0x12, 14: 0x13,
    15: 0x13, 16: 0x14, 17: 0x15, 18: 0x15, 19: 0x15, 20: 0x15, 21: 0x16, 22: 0x16,
}  # fmt: skip
RECORD_SIZES_BYTES = {1: 64, 2: 104}  #: sizeof(struct livepatch_func) by payload version
#: ``struct alt_instr`` where nothing pads the instructions.
_ALTERNATIVE = AlternativeFields(
    size_bytes=12, site=0, replacement=4, feature=8, site_length=10, replacement_length=11
)
_OPAQUE_SIZE_BYTES = 31  #: LIVEPATCH_OPAQUE_SIZE, and the data of an expectation


def facts_of(facts: Facts | None, release: str, machine: int) -> Facts:
    """Return the facts that were asked of the tree, or those that are known of its release.

    Raises:
        ConfigError: The facts are not of ``machine`` (``e_machine``), or none are known.
    """
    if facts is None:
        known = known_facts(release or NEWEST, machine)
        nameless = f"{known.origin}, and nothing names the release"
        return known if release else replace(known, origin=nameless)
    if facts.machine != machine:
        raise ConfigError(
            f"machine {machine}: the facts are of a tree for machine {facts.machine}; "
            "give objects and tree of one build"
        )
    return facts


def known_facts(release: str, machine: int) -> Facts:
    """Return what the headers of a release (``4.17.5``; ``4.17`` is its ``.0``) define.

    Of a newer one than the last that is listed, that one's facts are returned.

    Raises:
        ConfigError: Not a release with live patching on this machine, or no such machine.
    """
    version = parse_release(release)
    target = machine_of(machine)
    if version[:2] < target.first_release:
        first = "{}.{}".format(*target.first_release)
        raise ConfigError(
            f"Xen {release}: it has no live patching on {target.name}; use {first} or later"
        )
    minor = min(version[1], max(LAST_POINT))
    origin = f"the list of Xen {spelled(version)}: the tree was not asked"
    if not is_known(version):
        origin = f"the list of Xen 4.{minor}, for {release} is not known: the tree was not asked"
    record_version = 2 if version >= (4, 14, 0) else 1
    common = Facts(
        origin=origin,
        release=release,
        machine=machine,
        record_version=record_version,
        record_size_bytes=RECORD_SIZES_BYTES[record_version],
        expect_length_max=_OPAQUE_SIZE_BYTES if record_version > 1 else 0,
        saved_length_max=_OPAQUE_SIZE_BYTES,
        name_size_bytes=128,
        symbol_length_max=127,
        file_size_max=2 << 20,
        sysctl_version=_SYSCTL_VERSIONS[minor],
        jump_size_bytes=target.jump_size_bytes,
        alternative=_ALTERNATIVE,
        feature_words=0,
        bug_frame_size_bytes=16,
        bug_message_frame_size_bytes=16,
        bug_displacement_bits=0,
        bug_instruction="",
        ex_entry_size_bytes=0,
        alt_call_entry_size_bytes=0,
    )
    return target.adapt(common, version)
