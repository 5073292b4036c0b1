# SPDX-License-Identifier: Apache-2.0
"""The hypervisor with payloads applied: what a payload on top of others stands on.

A name leads where the hypervisor would lead it: to the image, else to the payload that brought it.
A replaced function keeps its address, for a jump lies there; what runs is the topmost payload's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property

from xsplice_plugins.artefacts import Facts
from xsplice_plugins.check.memory import (
    LAYER,
    PAYLOAD_BASE,
    Area,
    Image,
    Loaded,
    Spot,
    load_payload,
)
from xsplice_plugins.check.records import Record, read_records
from xsplice_plugins.check.results import Beneath
from xsplice_plugins.elf.types import SHF_MERGE, SHF_WRITE, Symbol


@dataclass(frozen=True, kw_only=True, eq=False)
class Layers:
    """Several payloads, taken as one."""

    layers: tuple[Loaded, ...] = ()  #: bottom first

    def covers(self, addr: int) -> bool:
        """Tell whether an address is one of a payload's."""
        return any(layer.covers(addr) for layer in self.layers)

    def at(self, addr: int) -> Loaded:
        """Return the payload that holds an address; one of them must."""
        return next(layer for layer in self.layers if layer.covers(addr))

    def exported(self, name: str) -> int | None:
        """Return where the topmost function or datum of a name lies that others may name."""
        found = (layer.exported(name) for layer in reversed(self.layers))
        return next((addr for addr in found if addr is not None), None)

    @cached_property
    def areas(self) -> list[Area]:
        """Return the sections of all."""
        return [area for layer in self.layers for area in layer.areas]

    def section(self, name: str) -> list[Area]:
        """Return the areas of the sections of one name."""
        return [area for area in self.areas if area.name == name]

    @cached_property
    def tables(self) -> dict[str, list[Spot]]:
        """Map the names of their tables to their entries."""
        names = sorted({name for layer in self.layers for name in layer.tables})
        return {name: [s for layer in self.layers for s in layer.spots(name)] for name in names}


@dataclass(frozen=True, kw_only=True, eq=False)
class Running(Image):
    """An image with payloads applied. Build it with `apply_payloads`."""

    beneath: Layers = field(default_factory=Layers, repr=False)
    names: dict[str, list[Symbol]] = field(default_factory=dict, repr=False)
    #: By address of the function: the record that counts. Those of hand-written payloads are not
    #: here, for no rebuild says what they should be.
    replaced: dict[int, Record] = field(default_factory=dict, repr=False)
    by_hand: dict[int, str] = field(default_factory=dict, repr=False)  #: address: payload's name

    @property
    def homes(self) -> dict[str, list[Symbol]]:
        """Map each name that the hypervisor can look up to the symbols that bear it."""
        return self.names

    def at(self, addr: int) -> Image | Loaded:
        """Return what holds an address: the image, or a payload beneath."""
        return self.beneath.at(addr) if self.beneath.covers(addr) else self

    def body(self, entry: int) -> int:
        """Return where the code lies that runs when a function of this address is called."""
        record = self.replaced.get(entry)
        return entry if record is None else record.new or 0

    def title(self, record: Record) -> tuple[str, str]:
        """Return which payload beneath a record belongs to, and what it replaces."""
        return (self.at(record.new).words if record.new else "a payload beneath"), record.name

    def is_jump(self, entry: int) -> bool:
        """Tell whether a payload beneath has put a jump at an address."""
        return entry in self.replaced or entry in self.by_hand

    def is_variable(self, addr: int) -> bool:
        """Tell whether an address lies where the hypervisor writes."""
        there = self.at(addr)
        if isinstance(there, Loaded):
            return bool(there.area(addr).flags & SHF_WRITE)
        return super().is_variable(addr)


def apply_payloads(image: Image, payloads: Iterable[Beneath], facts: Facts) -> Running:
    """Put payloads on an image, one on top of the other.

    Args:
        image: The hypervisor.
        payloads: Bottom first.
        facts: What the build's headers define.

    Raises:
        ElfFormatError: One is no payload of this build.
        RelocationError: A relocation is of an unknown type.
    """
    running = Running(
        elf=image.elf,
        areas=image.areas,
        starts=image.starts,
        sizes=image.sizes,
        names=dict(image.homes),
    )
    for number, row in enumerate(payloads, 1):
        base = PAYLOAD_BASE + number * LAYER
        loaded = load_payload(row.data, row.name, running, base)
        records = read_records(loaded, running, facts)
        replaced, by_hand = dict(running.replaced), dict(running.by_hand)
        for record in records:
            if record.old is None:
                continue
            if row.is_handmade:
                by_hand[record.old] = row.name
            else:
                replaced[record.old] = record
                by_hand.pop(record.old, None)
        running = replace(
            running,
            beneath=Layers(layers=(*running.beneath.layers, loaded)),
            names=_brought(loaded, {record.new for record in records}) | running.names,
            replaced=replaced,
            by_hand=by_hand,
        )
    return running


def _brought(loaded: Loaded, hidden: set[int | None]) -> dict[str, list[Symbol]]:
    """Return the names that a payload adds: all but those of its replacements.

    Source: `build_symbol_table` and `is_payload_symbol` of xen/common/livepatch.c.
    """
    found: dict[str, list[Symbol]] = {}
    for symbol in loaded.elf.symbols[1:]:
        value = loaded.address_of(symbol)
        if value is None or value in hidden or not symbol.name:
            continue
        is_merged = loaded.elf.sections[symbol.shndx].flags & SHF_MERGE
        if not (is_merged and symbol.name.startswith(".L")):
            found.setdefault(symbol.name, []).append(symbol._replace(value=value))
    return found
