# SPDX-License-Identifier: Apache-2.0
"""Functions that are called through pointers, on hypervisors that track such calls.

With CONFIG_XEN_IBT, and a processor that has CET-IBT, whatever an indirect call leads to must begin
with ENDBR64, else the host dies (#CP). The compiler puts it where the source says ``cf_check``.

Source: xen/arch/x86/setup.c (`opt_xen_ibt` exists with CONFIG_XEN_IBT only, as a static);
xen/include/xen/compiler.h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.types import SHN_UNDEF, STT_FUNC
from xsplice_plugins.errors import RefusedError
from xsplice_plugins.target.abi import FUNCS_SECTION, HOOK_PREFIX
from xsplice_plugins.target.machine import DIRECT
from xsplice_plugins.target.references import References

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xsplice_plugins.elf.reader import ElfFile
    from xsplice_plugins.elf.types import Reloc, Section
    from xsplice_plugins.link.image import XenImage
    from xsplice_plugins.target.abi import Abi

_TRACKING = "opt_xen_ibt"


def check_landing(name: str, data: bytes, image: XenImage, abi: Abi) -> None:
    """See to it that what is called through pointers may be.

    Args:
        name: How messages call the payload.
        data: The written payload.
        image: The hypervisor; one without CONFIG_XEN_IBT asks for nothing.
        abi: The format and machine that it is for.

    Raises:
        RefusedError: A hook, or a function of the payload whose address its code or data uses,
            lacks the landing pad.
    """
    for section, function in unmarked(data, image, abi):
        hook = section.removeprefix(HOOK_PREFIX)
        what = f"the {hook} hook" if hook != section else f"called through a pointer ({section})"
        raise RefusedError(
            f"{name}: `{function}` is {what} and does not begin with ENDBR64, so that a host with "
            "CET-IBT would stop there; mark it cf_check"
        )


def unmarked(data: bytes, image: XenImage, abi: Abi) -> list[tuple[str, str]]:
    """Return functions of a payload that lack the landing pad, with the section that uses them."""
    is_tracking = any(known.rpartition("#")[2] == _TRACKING for known in image.symbols)
    if not abi.machine.endbr or not is_tracking:
        return []
    elf = read_elf(data, "payload")
    references = References(elf, abi.profile)
    starts = {
        (symbol.shndx, symbol.value): symbol
        for symbol in elf.symbols
        if symbol.type == STT_FUNC and symbol.shndx != SHN_UNDEF
    }
    result = set()
    for section, reloc in _addresses(elf, references, abi):
        index, offset, _symbol = references.target_of(section, reloc)
        function = starts.get((index or 0, offset))
        is_hook = section.name.startswith(HOOK_PREFIX)
        if index is None or (function is None and not is_hook):
            continue
        if not elf.sections[index].data.startswith(abi.machine.endbr, offset):
            shown = f"{elf.sections[index].name}+{offset:#x}" if function is None else function.name
            result.add((section.name, shown))
    return sorted(result)


def _addresses(elf: ElfFile, references: References, abi: Abi) -> Iterator[tuple[Section, Reloc]]:
    """Yield the relocations that make an address: all but those of direct calls and jumps."""
    machine = abi.machine
    for section in elf.sections:
        if not section.is_alloc or section.name == FUNCS_SECTION:
            continue
        relocs = elf.relocs(section)
        if not section.is_exec:
            yield from ((section, row) for row in relocs if row.type == machine.absolute_type)
            continue
        fields = {
            row.field
            for row in references.instructions(section.index, 0, section.size_bytes)
            if row.flow in DIRECT
        }
        yield from ((section, row) for row in relocs if row.offset not in fields)
