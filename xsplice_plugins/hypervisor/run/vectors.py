# SPDX-License-Identifier: Apache-2.0
"""Instructions that use floating-point and vector registers, which hold what a guest left there.

Xen is compiled without them. On x86 it keeps them switched off besides (CR0.TS), so that such an
instruction ends in #NM. Source: xen/arch/x86/i387.c, xen/arch/x86/arch.mk, xen/arch/arm/arch.mk.
"""

from collections.abc import Iterator
from functools import cache

from xsplice_plugins.hypervisor.facts.arches import X86_64, Arch

#: Those of x86 that name no such register: x87, and what saves, loads or clears all.
_PREFIXES = ("F", "XSAVE", "XRSTOR")
_NAMED = frozenset(
    {"EMMS", "LDMXCSR", "STMXCSR", "VLDMXCSR", "VSTMXCSR", "VZEROALL", "VZEROUPPER", "WAIT"}
)
_REGISTERS = (*(f"{kind}MM{n}" for kind in "XYZ" for n in range(32)), *(f"MM{n}" for n in range(8)))
_ARM_BITS = 0x0C000000


@cache
def _numbers() -> tuple[frozenset[int], frozenset[int]]:
    """Give the decoder's numbers of mnemonics and of registers."""
    import iced_x86 as iced  # noqa: PLC0415  # needed where code is read

    names = (n for n in dir(iced.Mnemonic) if n in _NAMED or n.startswith(_PREFIXES))
    more = [f"{kind}{n}" for kind in ("ST", "K") for n in range(8)]
    return (
        frozenset(getattr(iced.Mnemonic, name) for name in names),
        frozenset(getattr(iced.Register, name) for name in (*_REGISTERS, *more)),
    )


def vector_instructions(code: bytes, addr_virt: int, arch: Arch) -> Iterator[str]:
    """Give the text of each such instruction.

    Args:
        code: whole instructions.
        addr_virt: where they lie.
        arch: x86_64 or arm64; of others nothing is given.
    """
    if arch != X86_64:
        for offset in range(0, len(code) - 3 if arch.is_64bit else 0, 4):
            word = int.from_bytes(code[offset : offset + 4], "little")
            if word & _ARM_BITS == _ARM_BITS:
                yield f"{word:#010x}"
        return
    import iced_x86 as iced  # noqa: PLC0415  # needed where code is read

    mnemonics, registers = _numbers()
    for insn in iced.Decoder(64, code, ip=addr_virt):
        used = (
            insn.op_register(index)
            for index in range(insn.op_count)
            if insn.op_kind(index) == iced.OpKind.REGISTER
        )
        if insn.mnemonic in mnemonics or any(register in registers for register in used):
            yield str(insn)
