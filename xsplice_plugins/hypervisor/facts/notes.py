# SPDX-License-Identifier: Apache-2.0
"""Build-id notes: who a payload is, and what it stacks on.

Source: ``xen_build_id_check`` of xen/common/version.c.
"""

import struct

from xsplice_plugins.hypervisor.facts.verdicts import EINVAL, ENODATA, XenRefusal

_NT_GNU_BUILD_ID = 3


def parse_build_id(note: bytes, *, step: str, passes_errno: bool) -> bytes:
    """Check one note as Xen does and give its descriptor.

    Args:
        note: the section's bytes; what follows the first note is ignored.
        step: named in the refusal.
        passes_errno: newer releases keep -ENODATA, older ones turn all into -EINVAL.

    Raises:
        XenRefusal: the note is not a GNU build-id.
    """
    no_data = ENODATA if passes_errno else EINVAL
    if len(note) <= 12:
        raise XenRefusal(EINVAL, step, f"a note of {len(note)} bytes")
    name_bytes, desc_bytes, kind = struct.unpack_from("<III", note)
    if kind != _NT_GNU_BUILD_ID:
        raise XenRefusal(no_data, step, f"note type {kind} is not a build-id")
    if name_bytes + desc_bytes >= 1 << 32:
        raise XenRefusal(EINVAL, step, "the note's sizes wrap")
    if name_bytes < 4 or name_bytes + desc_bytes > len(note) - 12:
        raise XenRefusal(EINVAL, step, "the note's sizes do not fit")
    # strncmp stops at the NUL, so a longer name that starts with GNU\0 is accepted.
    if note[12:16] != b"GNU\0":
        raise XenRefusal(no_data, step, "the note is not GNU's")
    if not desc_bytes:
        raise XenRefusal(EINVAL, step, "the build-id is empty")
    # The bounds above use the unpadded name, the address the padded one: the descriptor may end
    # up to three bytes behind the section.
    start = 12 + (name_bytes + 3 & ~3)
    return note[start : start + desc_bytes]
