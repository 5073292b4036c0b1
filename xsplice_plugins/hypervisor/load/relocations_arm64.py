# SPDX-License-Identifier: Apache-2.0
"""arm64 relocations that the hypervisor's loader performs.

Source: specification section 5.3; xen/arch/arm/arm64/livepatch.c. Numbers: "ELF for the Arm 64-bit
Architecture", relocation codes.
"""

from dataclasses import dataclass

from xsplice_plugins.hypervisor.facts.arches import MASK64
from xsplice_plugins.hypervisor.facts.verdicts import EOPNOTSUPP, EOVERFLOW, Refusal
from xsplice_plugins.hypervisor.image.memory import Memory
from xsplice_plugins.hypervisor.load.relocation_entry import STEP, Relocation

_BREAK_FAULT = 0xD4200040
#: Field of an instruction: (bits, lowest bit). ADR is split and handled apart.
_FIELDS = {"IMM26": (26, 0), "IMM19": (19, 5), "IMM14": (14, 5), "IMM12": (12, 10)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recipe:
    """How one type is performed.

    Attributes:
        operation: ``ABS`` S+A, ``PREL`` S+A-P, ``PAGE`` the distance of their pages.
        encoding: ``data``, ``movw`` or ``imm``.
        lsb: lowest bit of X that is used.
        length_bits: of the immediate, or of the data.
        field: ``N``/``K`` for movw, the place of the immediate otherwise.
        checks_overflow: whether X must fit.
    """

    operation: str
    encoding: str
    lsb: int = 0
    length_bits: int = 0
    field: str = ""
    checks_overflow: bool = True


def _data(operation: str, bits: int) -> _Recipe:
    return _Recipe(
        operation=operation, encoding="data", length_bits=bits, checks_overflow=bits != 64
    )


def _movw(operation: str, lsb: int, form: str, *, checks: bool) -> _Recipe:
    return _Recipe(
        operation=operation, encoding="movw", lsb=lsb, field=form, checks_overflow=checks
    )


def _imm(operation: str, lsb: int, bits: int, field: str, *, checks: bool) -> _Recipe:
    return _Recipe(
        operation=operation,
        encoding="imm",
        lsb=lsb,
        length_bits=bits,
        field=field,
        checks_overflow=checks,
    )


RECIPES = {
    # 0, 256 R_AARCH64_NONE: refused, unlike on x86
    257: _data("ABS", 64),
    258: _data("ABS", 32),
    259: _data("ABS", 16),
    260: _data("PREL", 64),
    261: _data("PREL", 32),
    262: _data("PREL", 16),
    263: _movw("ABS", 0, "K", checks=True),
    264: _movw("ABS", 0, "K", checks=False),
    265: _movw("ABS", 16, "K", checks=True),
    266: _movw("ABS", 16, "K", checks=False),
    267: _movw("ABS", 32, "K", checks=True),
    268: _movw("ABS", 32, "K", checks=False),
    269: _movw("ABS", 48, "K", checks=False),
    270: _movw("ABS", 0, "N", checks=True),
    271: _movw("ABS", 16, "N", checks=True),
    272: _movw("ABS", 32, "N", checks=True),
    # 273 R_AARCH64_LD_PREL_LO19: refused
    274: _imm("PREL", 0, 21, "ADR", checks=True),
    275: _imm("PAGE", 12, 21, "ADR", checks=True),
    276: _imm("PAGE", 12, 21, "ADR", checks=False),
    277: _imm("ABS", 0, 12, "IMM12", checks=False),
    278: _imm("ABS", 0, 12, "IMM12", checks=False),
    # TSTBR14 is tested as if it had 19 bits: targets up to 1 MiB away are cut off silently.
    279: _imm("PREL", 2, 19, "IMM14", checks=True),
    280: _imm("PREL", 2, 19, "IMM19", checks=True),
    282: _imm("PREL", 2, 26, "IMM26", checks=True),
    283: _imm("PREL", 2, 26, "IMM26", checks=True),
    284: _imm("ABS", 1, 11, "IMM12", checks=False),
    285: _imm("ABS", 2, 10, "IMM12", checks=False),
    286: _imm("ABS", 3, 9, "IMM12", checks=False),
    287: _movw("PREL", 0, "N", checks=True),
    288: _movw("PREL", 0, "K", checks=False),
    289: _movw("PREL", 16, "N", checks=True),
    290: _movw("PREL", 16, "K", checks=False),
    291: _movw("PREL", 32, "N", checks=True),
    292: _movw("PREL", 32, "K", checks=False),
    293: _movw("PREL", 48, "N", checks=False),
    299: _imm("ABS", 4, 8, "IMM12", checks=False),
    # 300 and up R_AARCH64_MOVW_GOTOFF_*, GOT*, TLS*: no GOT and no TLS in a payload
}


def _signed(value: int) -> int:
    value &= MASK64
    return value - (1 << 64) if value >> 63 else value


def _encode_movw(insn: int, x: int, recipe: _Recipe) -> tuple[int, bool]:
    imm = x >> recipe.lsb
    if recipe.field == "N":
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
        if recipe.field == "ADR":
            value = shifted & mask
            insn &= ~(3 << 29 | 0x7FFFF << 5)
            insn |= (value & 3) << 29 | (value >> 2 & 0x7FFFF) << 5
        else:
            bits, low = _FIELDS[recipe.field]
            field = (1 << bits) - 1
            insn = (insn & ~(field << low)) | (shifted & mask & field) << low
    rest = (shifted & ~(mask >> 1)) >> (recipe.length_bits - 1)
    return insn, rest not in {0, -1}


def relocate(entry: Relocation, memory: Memory) -> None:
    """Perform one RELA entry.

    Raises:
        Refusal: -EINVAL for bounds, -EOPNOTSUPP, or -EOVERFLOW after the field was written.
    """
    entry.check_bounds(4)
    recipe = RECIPES.get(entry.kind)
    if recipe is None:
        raise Refusal(EOPNOTSUPP, STEP, f"{entry.subject}: type {entry.kind} is not supported")
    place = entry.place_virt
    value = entry.symbol_virt + (entry.addend or 0)
    if recipe.operation == "PREL":
        value -= place
    elif recipe.operation == "PAGE":
        value = (value & ~0xFFF) - (place & ~0xFFF)
    x = _signed(value)
    if recipe.encoding == "data":
        bits = recipe.length_bits
        if bits == 64:
            entry.check_bounds(8)
        raw = (x & ((1 << bits) - 1)).to_bytes(bits // 8, "little")
        memory.write(place, raw, step=STEP)
        is_over = not -(1 << (bits - 1)) <= x < 1 << bits
    else:
        insn = int.from_bytes(memory.read(place, 4, step=STEP), "little")
        encode = _encode_movw if recipe.encoding == "movw" else _encode_imm
        insn, is_over = encode(insn, x, recipe)
        memory.write(place, (insn & 0xFFFFFFFF).to_bytes(4, "little"), step=STEP)
    if is_over and recipe.checks_overflow:
        raise Refusal(EOVERFLOW, STEP, f"{entry.subject}: type {entry.kind} does not reach")
