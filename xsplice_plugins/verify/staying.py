# SPDX-License-Identifier: Apache-2.0
"""Code of a payload that something may still be inside of when it is reverted and unloaded.

Payloads are reverted when every CPU that is online stands at the edge of the hypervisor. What does
not stand there keeps its stack, and returns into memory that is gone: a CPU that is parked, a vCPU
that waits in a queue, and on Arm every vCPU that does not run. Sources: ``livepatch_do_action`` of
xen/common/livepatch.c; xen/common/wait.c; ``play_dead`` of xen/arch/x86/domain.c;
``context_switch`` of xen/arch/arm/domain.c, which keeps a stack for each vCPU.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xsplice_plugins.artefacts import Duty, Finding, Severity
from xsplice_plugins.elf.types import STT_FUNC
from xsplice_plugins.verify.callgraph import chain_text

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from xsplice_plugins.artefacts import PayloadRecord
    from xsplice_plugins.elf.reader import ElfFile
    from xsplice_plugins.elf.types import Section, Symbol
    from xsplice_plugins.hypervisor import BootedImage
    from xsplice_plugins.verify.callgraph import CallGraph

#: What puts a vCPU to sleep with its stack: in a queue; on Arm at each switch.
_WAITING = frozenset({"prepare_to_wait", "__prepare_to_wait", "wait"})
_SWITCHING = frozenset({"context_switch", "__context_switch", "do_softirq", "schedule"})
#: Types of relocations of calls, which return; a jump leaves nothing behind.
_CALL26, _PLT32, _PC32 = 283, 4, 2
_CALL = 0xE8  #: opcode of a call, in front of its field
#: Where a CPU that goes away ends; some come back out when it is woken.
#: Source: ``dead_idle`` of xen/arch/x86/domain.c; xen/arch/arm/{smpboot,psci}.c.
_PARKING = re.compile(r"play_dead|\w+_dead_idle|stop_cpu|call_psci_cpu_off")


def staying(
    elf: ElfFile, record: PayloadRecord, graph: CallGraph, image: BootedImage
) -> Iterator[Finding]:
    """Say in which functions of a payload somebody may be when it goes.

    Args:
        elf: The payload.
        record: What it holds.
        graph: Who calls whom in the image.
        image: What it is for.

    Returns:
        What is not checked (*loader*), and remarks where only some kinds of domains wait.
    """
    roots = _WAITING | (_SWITCHING if image.arch.keeps_stacks else frozenset())
    functions = dict(functions_of(elf))
    calls = {name: set(_calls(elf, *place)) for name, place in functions.items()}
    ways = _ways(roots, calls, graph)
    for name in sorted(functions.keys() | {row.name for row in record.functions}):
        shown = f"`{_plain(name)}`"
        if _PARKING.fullmatch(_plain(name)):
            yield _open(
                record,
                name,
                f"{shown} is where a CPU stays while it is offline: also when the payload is "
                "unloaded, and one that is there already keeps the old code",
            )
        chain = min((ways[at] for at in calls.get(name, ()) if at in ways), key=len, default=())
        if not chain and _plain(name) not in roots:
            continue
        chain = (name, *chain)
        if len(chain) == 1 or image.arch.keeps_stacks or _plain(chain[1]) in roots:
            is_switch = _plain(chain[-1]) in _SWITCHING
            who = "a vCPU that does not run" if is_switch else "a vCPU that waits"
            yield _open(
                record,
                name,
                f"{who} may be inside {shown} ({chain_text(chain)}): it returns there after the "
                "payload was unloaded, for a revert looks at CPUs only",
            )
        else:
            text = (
                f"a vCPU may wait in a queue inside {shown} ({chain_text(chain)}): do not revert "
                "while a domain waits for its monitor or pager; Xen looks for that at apply only"
            )
            yield Finding(check="effect", severity=Severity.WARNING, subject=name, text=text)


def _open(record: PayloadRecord, name: str, text: str) -> Finding:
    return Finding(
        check="effect",
        severity=Severity.UNCHECKED,
        subject=f"{record.name}: {name}",
        text=text,
        obligation=Duty.LOADER,
    )


def functions_of(elf: ElfFile) -> Iterator[tuple[str, tuple[Section, Symbol]]]:
    """Give the functions that a payload brings, by decorated name."""
    for symbol in elf.symbols:
        section = elf.sections[symbol.shndx] if 0 < symbol.shndx < len(elf.sections) else None
        if section is not None and symbol.type == STT_FUNC and section.is_exec:
            yield symbol.decorated, (section, symbol)


def _calls(elf: ElfFile, section: Section, symbol: Symbol) -> Iterator[str]:
    """Give what a function calls and returns from."""
    inside = range(symbol.value, symbol.value + symbol.size_bytes)
    for reloc in elf.relocs(section):
        is_call = reloc.type == _CALL26 or (
            reloc.type in {_PLT32, _PC32}
            and reloc.offset > 0
            and section.data[reloc.offset - 1] == _CALL
        )
        if reloc.offset in inside and is_call:
            yield elf.symbols[reloc.symbol].decorated


def _ways(
    roots: Collection[str], calls: Mapping[str, Collection[str]], graph: CallGraph
) -> Mapping[str, tuple[str, ...]]:
    """Give the shortest chain of calls from each function to what puts to sleep.

    What the payload brings calls as it does there, all else as in the image.
    """
    callers = {name: set(found) - calls.keys() for name, found in graph.callers.items()}
    for name, called in calls.items():
        for at in called:
            callers.setdefault(at, set()).add(name)
    ways: dict[str, tuple[str, ...]] = {
        name: (name,) for name in sorted(callers) if _plain(name) in roots
    }
    queue = list(ways)
    for at in queue:
        for caller in sorted(callers.get(at, set()) - ways.keys() - graph.boot_only):
            ways[caller] = (caller, *ways[at])
            queue.append(caller)
    return ways


def _plain(name: str) -> str:
    return name.rpartition("#")[2]
