# SPDX-License-Identifier: Apache-2.0
"""Pick a machine by the number that ELF files carry. A new machine is a file and a word here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.errors import ConfigError
from xsplice_plugins.target.arm64 import ARM64
from xsplice_plugins.target.x86_64 import X86_64

if TYPE_CHECKING:
    from xsplice_plugins.target.machine import TargetMachine

MACHINES = {machine.number: machine for machine in (X86_64, ARM64)}


def machine_of(number: int) -> TargetMachine:
    """Return the machine of an ``e_machine``.

    Raises:
        ConfigError: Payloads are not made for it.
    """
    known = MACHINES.get(number)
    if known is None:
        names = " and ".join(machine.name for machine in MACHINES.values())
        raise ConfigError(
            f"machine {number} ({_elf_name(number)}): payloads are made for {names} only; give "
            "objects of one of these"
        )
    return known


def _elf_name(number: int) -> str:
    from elftools.elf.enums import ENUM_E_MACHINE  # noqa: PLC0415  (slow; only for a refusal)

    names = {known: name for name, known in ENUM_E_MACHINE.items()}
    return str(names.get(number, "which ELF has no name for"))


def relocation_name(number: int, kind: int) -> str:
    """Return how ELF's supplement for a machine calls a type of relocation, for messages."""
    from elftools.elf import enums  # noqa: PLC0415  (slow; only for a refusal)

    tables = {X86_64.number: enums.ENUM_RELOC_TYPE_x64, ARM64.number: enums.ENUM_RELOC_TYPE_AARCH64}
    names = {known: name for name, known in tables.get(number, {}).items()}
    return str(names.get(kind, f"relocation type {kind}"))
