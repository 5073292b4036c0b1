# SPDX-License-Identifier: Apache-2.0
"""arm64 relocations that the hypervisor's loader performs.

Source: xen/arch/arm/arm64/livepatch.c. Numbers: "ELF for the Arm 64-bit
Architecture", relocation codes.
"""

from typing import NamedTuple

from xsplice_plugins.hypervisor.facts.arches import MASK64
from xsplice_plugins.hypervisor.facts.verdicts import EOPNOTSUPP, EOVERFLOW, XenRefusal
from xsplice_plugins.hypervisor.image.memory import Memory
from xsplice_plugins.hypervisor.load.relocation_entry import STEP, Relocation

_BREAK_FAULT = 0xD4200040
#: Field of an instruction: (bits, lowest bit). ADR is split and handled apart.
_FIELDS = {"IMM26": (26, 0), "IMM19": (19, 5), "IMM14": (14, 5), "IMM12": (12, 10)}


class _Recipe(NamedTuple):
    """How one type is performed."""

    operation: str  #: ``ABS`` S+A, ``PREL`` S+A-P, ``PAGE`` the distance of their pages
    form: str  #: ``data``, MOVW with ``N`` or ``K``, or the place of the immediate
    lsb: int  #: lowest bit of X that is used
    length_bits: int  #: of the data, or of the immediate in ``IMM``s and ``ADR``
    checks_overflow: bool = True  #: whether X must fit


RECIPES = {
    # 0, 256 R_AARCH64_NONE: refused, unlike on x86
    257: _Recipe("ABS", "data", 0, 64, checks_overflow=False),
    258: _Recipe("ABS", "data", 0, 32),
    259: _Recipe("ABS", "data", 0, 16),
    260: _Recipe("PREL", "data", 0, 64, checks_overflow=False),
    261: _Recipe("PREL", "data", 0, 32),
    262: _Recipe("PREL", "data", 0, 16),
    263: _Recipe("ABS", "K", 0, 16),
    264: _Recipe("ABS", "K", 0, 16, checks_overflow=False),
    265: _Recipe("ABS", "K", 16, 16),
    266: _Recipe("ABS", "K", 16, 16, checks_overflow=False),
    267: _Recipe("ABS", "K", 32, 16),
    268: _Recipe("ABS", "K", 32, 16, checks_overflow=False),
    269: _Recipe("ABS", "K", 48, 16, checks_overflow=False),
    270: _Recipe("ABS", "N", 0, 16),
    271: _Recipe("ABS", "N", 16, 16),
    272: _Recipe("ABS", "N", 32, 16),
    # 273 R_AARCH64_LD_PREL_LO19: refused
    274: _Recipe("PREL", "ADR", 0, 21),
    275: _Recipe("PAGE", "ADR", 12, 21),
    276: _Recipe("PAGE", "ADR", 12, 21, checks_overflow=False),
    277: _Recipe("ABS", "IMM12", 0, 12, checks_overflow=False),
    278: _Recipe("ABS", "IMM12", 0, 12, checks_overflow=False),
    # TSTBR14 is tested as if it had 19 bits: targets up to 1 MiB away are cut off silently.
    279: _Recipe("PREL", "IMM14", 2, 19),
    280: _Recipe("PREL", "IMM19", 2, 19),
    282: _Recipe("PREL", "IMM26", 2, 26),
    283: _Recipe("PREL", "IMM26", 2, 26),
    284: _Recipe("ABS", "IMM12", 1, 11, checks_overflow=False),
    285: _Recipe("ABS", "IMM12", 2, 10, checks_overflow=False),
    286: _Recipe("ABS", "IMM12", 3, 9, checks_overflow=False),
    287: _Recipe("PREL", "N", 0, 16),
    288: _Recipe("PREL", "K", 0, 16, checks_overflow=False),
    289: _Recipe("PREL", "N", 16, 16),
    290: _Recipe("PREL", "K", 16, 16, checks_overflow=False),
    291: _Recipe("PREL", "N", 32, 16),
    292: _Recipe("PREL", "K", 32, 16, checks_overflow=False),
    293: _Recipe("PREL", "N", 48, 16, checks_overflow=False),
    299: _Recipe("ABS", "IMM12", 4, 8, checks_overflow=False),
    # 300 and up R_AARCH64_MOVW_GOTOFF_*, GOT*, TLS*: no GOT and no TLS in a payload
}


def _signed(value: int) -> int:
    value &= MASK64
    return value - (1 << 64) if value >> 63 else value


def _encode_movw(insn: int, x: int, recipe: _Recipe) -> tuple[int, bool]:
    imm = x >> recipe.lsb
    if recipe.form == "N":
        insn &= ~(3 << 29)
        if x >= 0:
            insn |= 2 << 29
        else:
            imm = ~imm
    insn = (insn & ~(0xFFFF << 5)) | (imm & 0xFFFF) << 5
    return insn, imm & MASK64 > 0xFFFF


def _encode_imm(insn: int, x: int, recipe: _Recipe) -> tuple[int, bool]:
    shifted = x >> recipe.lsb
    mask = ((1 << (recipe.lsb + recipe.length_bits)) - 1) >> recipe.lsb
    if insn != _BREAK_FAULT:
        if recipe.form == "ADR":
            value = shifted & mask
            insn &= ~(3 << 29 | 0x7FFFF << 5)
            insn |= (value & 3) << 29 | (value >> 2 & 0x7FFFF) << 5
        else:
            bits, low = _FIELDS[recipe.form]
            field = (1 << bits) - 1
            insn = (insn & ~(field << low)) | (shifted & mask & field) << low
    rest = (shifted & ~(mask >> 1)) >> (recipe.length_bits - 1)
    return insn, rest not in {0, -1}


def relocate(entry: Relocation, memory: Memory) -> None:
    """Perform one RELA entry.

    Raises:
        XenRefusal: -EINVAL for bounds, -EOPNOTSUPP, or -EOVERFLOW after the field was written.
    """
    entry.check_bounds(4)
    recipe = RECIPES.get(entry.kind)
    if recipe is None:
        raise XenRefusal(EOPNOTSUPP, STEP, f"{entry.subject}: type {entry.kind} is not supported")
    place = entry.place_virt
    value = entry.symbol_virt + (entry.addend or 0)
    if recipe.operation == "PREL":
        value -= place
    elif recipe.operation == "PAGE":
        value = (value & ~0xFFF) - (place & ~0xFFF)
    x = _signed(value)
    if recipe.form == "data":
        bits = recipe.length_bits
        if bits == 64:
            entry.check_bounds(8)
        raw = (x & ((1 << bits) - 1)).to_bytes(bits // 8, "little")
        memory.write(place, raw, step=STEP)
        is_over = not -(1 << (bits - 1)) <= x < 1 << bits
    else:
        insn = int.from_bytes(memory.read(place, 4, step=STEP), "little")
        encode = _encode_movw if recipe.form in {"N", "K"} else _encode_imm
        insn, is_over = encode(insn, x, recipe)
        memory.write(place, (insn & 0xFFFFFFFF).to_bytes(4, "little"), step=STEP)
    if is_over and recipe.checks_overflow:
        raise XenRefusal(EOVERFLOW, STEP, f"{entry.subject}: type {entry.kind} does not reach")
