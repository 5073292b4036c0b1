# SPDX-License-Identifier: Apache-2.0
"""One relocation as the architectures see it: a value, and the bounds check they share.

Source: arch/*/livepatch.c, ``arch_livepatch_perform_rel`` and ``_rela``.
"""

from msgspec import Struct

from xsplice_plugins.hypervisor.facts.verdicts import EINVAL, XenRefusal

STEP = "relocations"


class Relocation(Struct, frozen=True, kw_only=True):
    """One entry, ready for an architecture."""

    subject: str  #: section and offset, for messages
    kind: int  #: the type's number
    offset_bytes: int  #: from the start of the target section
    symbol_virt: int  #: S, the symbol's address
    addend: int | None  #: A, or None where it is in the field itself (REL)
    target_virt: int  #: load address of the target section
    target_bytes: int  #: size of the target section

    @property
    def place_virt(self) -> int:
        """P, the address of the field."""
        return self.target_virt + self.offset_bytes

    def check_bounds(self, width_bytes: int) -> None:
        """Refuse a field that is not wholly inside the target section.

        Raises:
            XenRefusal: -EINVAL.
        """
        size = self.target_bytes
        if self.offset_bytes >= size or self.offset_bytes + width_bytes > size:
            raise XenRefusal(EINVAL, STEP, f"{self.subject}: past the end of its section")
