# SPDX-License-Identifier: Apache-2.0
"""x86-64 relocations that the hypervisor's loader performs.

Source: arch_livepatch_perform_rela of xen/arch/x86/livepatch.c. Numbers:
x86-64 psABI, table 4.9.
"""

from xsplice_plugins.hypervisor.facts.arches import MASK64
from xsplice_plugins.hypervisor.facts.verdicts import EOPNOTSUPP, EOVERFLOW, XenRefusal
from xsplice_plugins.hypervisor.image.memory import Memory
from xsplice_plugins.hypervisor.load.relocation_entry import STEP, Relocation

#: Name and width of the field in bytes; the 32-bit ones are relative to P.
RECIPES = {
    0: ("R_X86_64_NONE", 0),
    1: ("R_X86_64_64", 8),
    2: ("R_X86_64_PC32", 4),
    # 3  R_X86_64_GOT32: there is no GOT in a payload
    4: ("R_X86_64_PLT32", 4),
    # 5  R_X86_64_COPY, 6 R_X86_64_GLOB_DAT, 7 R_X86_64_JUMP_SLOT, 8 R_X86_64_RELATIVE: dynamic
    # 9  R_X86_64_GOTPCREL: no GOT
    # 10 R_X86_64_32, 11 R_X86_64_32S: addresses do not fit 32 bits
    # 12 R_X86_64_16, 13 R_X86_64_PC16, 14 R_X86_64_8, 15 R_X86_64_PC8: "future work" since 2016
    # 16 to 23 R_X86_64_DTPMOD64 and the other thread-local ones: no TLS in a hypervisor
    # 24 R_X86_64_PC64: "future work" since 2016
    # 25 R_X86_64_GOTOFF64, 26 R_X86_64_GOTPC32: no GOT
    # 32 R_X86_64_SIZE32, 33 R_X86_64_SIZE64
    # 37 R_X86_64_IRELATIVE
    # 41 R_X86_64_GOTPCRELX, 42 R_X86_64_REX_GOTPCRELX: no GOT
}


def relocate(entry: Relocation, memory: Memory) -> None:
    """Perform one RELA entry.

    Raises:
        XenRefusal: -EOPNOTSUPP, -EINVAL for bounds, or -EOVERFLOW after the field was written.
    """
    recipe = RECIPES.get(entry.kind)
    if recipe is None:
        raise XenRefusal(EOPNOTSUPP, STEP, f"{entry.subject}: type {entry.kind} is not supported")
    name, width_bytes = recipe
    if not width_bytes:
        return
    entry.check_bounds(width_bytes)
    value = (entry.symbol_virt + (entry.addend or 0)) & MASK64
    if width_bytes == 8:
        memory.write(entry.place_virt, value.to_bytes(8, "little"), step=STEP)
        return
    value = (value - entry.place_virt) & MASK64
    low = value & 0xFFFFFFFF
    memory.write(entry.place_virt, low.to_bytes(4, "little"), step=STEP)
    extended = low | (0xFFFFFFFF00000000 if low & 0x80000000 else 0)
    if extended != value:
        raise XenRefusal(EOVERFLOW, STEP, f"{entry.subject}: {name} does not reach")
