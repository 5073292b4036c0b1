# SPDX-License-Identifier: Apache-2.0
"""The linker on a real Xen: unchanged objects must come out meaning what the image means.

Every function of an unchanged object is "replaced" by itself. Once loaded, each byte of the new
code must be that of the image, and each field that a relocation filled must lead to the same
place: to the same address, or to an equal string or constant in the payload.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pytest

from tests.kit.link_inputs import closure_delta, link
from tests.unit.link.loading import LoadedPayload, load
from xsplice_plugins.elf.reader import ElfFile, read_elf
from xsplice_plugins.elf.types import EM_X86_64, STT_FUNC
from xsplice_plugins.link.image import XenImage, read_image
from xsplice_plugins.target.known import known_facts
from xsplice_plugins.target.sections import profile_of

if TYPE_CHECKING:
    from pathlib import Path

    from xsplice_plugins.artefacts import Payload

pytestmark = pytest.mark.xen

ENDBR64 = bytes.fromhex("f30f1efa")


@cache
def image_of(tree: Path) -> tuple[bytes, XenImage]:
    data = (tree / "xen" / "xen-syms").read_bytes()
    return data, read_image(
        read_elf(data, "xen-syms"), profile_of("xen", known_facts("4.17.5", EM_X86_64))
    )


def replaceable(elf: ElfFile, image: XenImage) -> tuple[str, ...]:
    """Return the plain names of functions that a payload can replace."""
    result, places = [], set()
    for symbol in elf.symbols:
        found = image.symbols.get(symbol.decorated)
        if (
            symbol.type == STT_FUNC
            and symbol.shndx
            and elf.sections[symbol.shndx].name == f".text.{symbol.name}"
            and found is not None
            and not found.is_init
            and found.size_bytes >= (9 if image.read(found.addr_virt, 4) == ENDBR64 else 5)
            and found.addr_virt not in places
        ):
            result.append(symbol.name)
            places.add(found.addr_virt)
    return tuple(result)


def relink(tree: Path, name: str) -> Payload:
    """Make a payload that replaces every function of an unchanged object by itself."""
    data, image = image_of(tree)
    new = (tree / "xen" / name).read_bytes()
    names = replaceable(read_elf(new, name), image)
    return link(data, (closure_delta(new, name, names), new), name=name)


def same_meaning(image: XenImage, payload: Payload) -> int:
    """Assert that loaded code means what the image means; return the number of fields seen."""
    loaded = load(payload.data, {n: s.addr_virt for n, s in image.symbols.items()})
    elf = read_elf(payload.data, "payload")
    text = loaded.sections[".text"]
    fields = {r.offset for r in elf.relocs(elf.section_by_name[".text"])}
    names = {s.name: s for s in elf.symbols if s.shndx}
    count = 0
    for function in payload.record.functions:
        place, size = names[function.name].value, function.size_new_bytes
        assert size == function.size_old_bytes
        old = image.read(function.addr_old_virt, size)
        new = text.data[place : place + size]
        inside = sorted(f - place for f in fields if place <= f < place + size)
        covered = {i for f in inside for i in range(f, f + 4)}
        assert all(old[i] == new[i] for i in range(size) if i not in covered)
        for field in inside:
            count += 1
            was = function.addr_old_virt + displacement(old, field)
            now = text.addr_virt + place + displacement(new, field)
            assert was == now or same_content(image, loaded, was, now), (
                f"{function.name}+{field:#x}: {was:#x} {now:#x}"
            )
    return count


def displacement(code: bytes, at: int) -> int:
    return at + 4 + int.from_bytes(code[at : at + 4], "little", signed=True)


def same_content(image: XenImage, loaded: LoadedPayload, was: int, now: int) -> bool:
    """Tell whether two places hold equal strings, constants, or jumps of `.fixup` code."""
    for name, section in loaded.sections.items():
        offset = now - section.addr_virt
        # An immediate behind the displacement moves both places by as much.
        if -4 <= offset < len(section.data):
            size = 2 if name == ".rodata" else section.data.find(b"\0", max(offset, 0)) + 1 - offset
            start = max(0, -offset)
            there = image.read(was + start, size - start)
            return bool(there) and there == section.data[offset + start : offset + size]
    return False


def test_names_are_those_of_the_map_file(xen_tree: Path) -> None:
    _data, image = image_of(xen_tree)
    lines = (xen_tree / "xen" / "xen-syms.map").read_text().splitlines()
    wanted: dict[str, set[int]] = {}
    for line in lines:
        addr, _class, name = line.split(" ", 2)
        wanted.setdefault(name, set()).add(int(addr, 16))
    assert set(image.symbols) == set(wanted)
    for name, addrs in wanted.items():
        assert image.symbols[name].addr_virt in addrs
        assert image.symbols[name].is_unique == (len(addrs) == 1)


@pytest.mark.parametrize(
    "name",
    [
        "common/version.o",
        "common/domctl.o",
        "common/grant_table.o",
        "common/timer.o",
        "arch/x86/domctl.o",
        "arch/x86/hvm/hpet.o",
        "arch/x86/pv/emulate.o",
        "drivers/passthrough/pci.o",
        "xsm/xsm_core.o",
    ],
)
def test_unchanged_object_means_what_the_image_means(xen_tree: Path, name: str) -> None:
    _data, image = image_of(xen_tree)
    payload = relink(xen_tree, name)
    assert payload.record.functions
    assert same_meaning(image, payload) >= len(payload.record.functions) // 2
