# SPDX-License-Identifier: Apache-2.0
"""Resolving a payload's symbols, and the table of names it adds to the hypervisor.

Source: ``livepatch_elf_resolve_symbols`` of xen/common/livepatch_elf.c, ``build_symbol_table`` of
xen/common/livepatch.c.
"""

from xsplice_plugins.hypervisor.facts.arches import ARM32, X86_64, Arch
from xsplice_plugins.hypervisor.facts.releases import Release
from xsplice_plugins.hypervisor.facts.verdicts import EEXIST, EINVAL, ENOENT, EOPNOTSUPP, XenRefusal
from xsplice_plugins.hypervisor.load.container import SHF_MERGE, PayloadElf, PayloadSymbol
from xsplice_plugins.hypervisor.load.layout import is_ignored
from xsplice_plugins.hypervisor.state.payload import LoadedPayload, PayloadName
from xsplice_plugins.hypervisor.state.xen import Xen

STEP_RESOLVE = "symbols"
STEP_TABLE = "symbol-table"
_SHN_LORESERVE = 0xFF00
_SHN_ABS = 0xFFF1
_SHN_COMMON = 0xFFF2
_KSYM_NAME_LEN = 127


def find_symbol(name: str, xen: Xen, user: LoadedPayload | None = None) -> int | None:
    """Look a name up as Xen does: its own table, then new names of loaded payloads.

    Args:
        name: an exact name, ``file.c#local`` for a local of the hypervisor.
        xen: its payloads count, applied or not, in upload order.
        user: told which payload it now depends on without Xen knowing.

    Returns:
        The virtual address, None where nothing has the name.
    """
    addr = xen.image.lookup(name)
    if addr is not None:
        return addr
    for payload in xen.payloads:
        for symbol in payload.symbols:
            if symbol.is_new and symbol.name == name:
                if user is not None:
                    user.providers.add(payload)
                return symbol.addr_virt
    return None


def resolve_symbols(elf: PayloadElf, payload: LoadedPayload, xen: Xen) -> None:
    """Turn every symbol's value into an address, in table order.

    Raises:
        XenRefusal: a common symbol (-EINVAL), an unknown name (-ENOENT), a special section index.
    """
    mask = elf.arch.mask
    for index, symbol in enumerate(elf.symbols[1:], 1):
        subject = f"symbol {index} ({symbol.name or 'no name'})"
        if symbol.shndx == _SHN_COMMON:
            raise XenRefusal(EINVAL, STEP_RESOLVE, f"{subject} is common; compile with -fno-common")
        if symbol.shndx == 0:
            addr = find_symbol(symbol.name, xen, payload)
            if addr is None:
                raise XenRefusal(ENOENT, STEP_RESOLVE, f"{subject} is in no table")
            symbol.value = addr
        elif symbol.shndx == _SHN_ABS:
            continue
        elif symbol.shndx >= _SHN_LORESERVE:
            raise XenRefusal(EOPNOTSUPP, STEP_RESOLVE, f"{subject}: index {symbol.shndx:#x}")
        elif symbol.shndx >= len(elf.sections):
            raise XenRefusal(EINVAL, STEP_RESOLVE, f"{subject} is in no section")
        else:
            section = elf.sections[symbol.shndx]
            if is_ignored(section, xen.release):
                symbol.is_ignored = True
            else:
                assert section.addr_load is not None, "every section that counts was placed"
                symbol.value = (symbol.value + section.addr_load) & mask


def _is_mapping_symbol(name: str, arch: Arch) -> bool:
    if arch == X86_64:
        return False
    kinds = {"$d", "$a"} if arch == ARM32 else {"$d", "$x"}
    return name[:2] in kinds and name[2:3] in {"", "."}


def _is_kept(symbol: PayloadSymbol, elf: PayloadElf, release: Release) -> bool:
    if not symbol.shndx or symbol.shndx >= len(elf.sections):
        return False
    section = elf.sections[symbol.shndx]
    if not section.is_alloc or not symbol.name:
        return False
    if section.flags & SHF_MERGE and symbol.name.startswith(".L"):
        return False
    return not (release.has_hooks_basic and _is_mapping_symbol(symbol.name, elf.arch))


def add_symbols(elf: PayloadElf, payload: LoadedPayload, xen: Xen) -> None:
    """Keep the payload's names and refuse names that exist already.

    Raises:
        XenRefusal: -EEXIST, a new name is in the hypervisor or in another loaded payload.
    """
    overrides = {function.new_virt for function in payload.functions}
    names = []
    for symbol in elf.symbols[1:]:
        if not _is_kept(symbol, elf, xen.release):
            continue
        is_new = symbol.value not in overrides
        if (
            is_new
            and not xen.release.takes_known_names
            and (symbol.name in xen.image.symbols or find_symbol(symbol.name, xen) is not None)
        ):
            raise XenRefusal(EEXIST, STEP_TABLE, f"symbol {symbol.name} exists already")
        names.append(
            PayloadName(
                name=symbol.name[: _KSYM_NAME_LEN - 1],
                addr_virt=symbol.value,
                size_bytes=symbol.size_bytes,
                is_new=is_new,
            )
        )
    payload.symbols = tuple(names)


def name_in_payload(payload: LoadedPayload, addr_virt: int) -> str | None:
    """Describe an address in a payload's text as a trace prints it."""
    if not payload.holds_text(addr_virt):
        return None
    below = [symbol for symbol in payload.symbols if symbol.addr_virt <= addr_virt]
    if not below:
        return None
    best = max(below, key=lambda symbol: symbol.addr_virt)
    offset = addr_virt - best.addr_virt
    return f"{best.name}+{offset:#x}/{best.size_bytes:#x} [{payload.name}]"
