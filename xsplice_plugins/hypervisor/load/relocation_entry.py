# SPDX-License-Identifier: Apache-2.0
"""One relocation as the architectures see it: a value, and the bounds check they share.

Source: specification section 5.
"""

from dataclasses import dataclass

from xsplice_plugins.hypervisor.facts.verdicts import EINVAL, Refusal

STEP = "relocations"


@dataclass(frozen=True, slots=True, kw_only=True)
class Relocation:
    """One entry, ready for an architecture.

    Attributes:
        subject: section and offset, for messages.
        kind: the type's number.
        offset_bytes: from the start of the target section.
        symbol_virt: S, the symbol's address.
        addend: A, or None where it is in the field itself (REL).
        target_virt: load address of the target section.
        target_bytes: size of the target section.
    """

    subject: str
    kind: int
    offset_bytes: int
    symbol_virt: int
    addend: int | None
    target_virt: int
    target_bytes: int

    @property
    def place_virt(self) -> int:
        """P, the address of the field."""
        return self.target_virt + self.offset_bytes

    def check_bounds(self, width_bytes: int) -> None:
        """Refuse a field that is not wholly inside the target section.

        Raises:
            Refusal: -EINVAL.
        """
        size = self.target_bytes
        if self.offset_bytes >= size or self.offset_bytes + width_bytes > size:
            raise Refusal(EINVAL, STEP, f"{self.subject}: past the end of its section")
