# SPDX-License-Identifier: Apache-2.0
"""Remarks on what a payload reaches: when its functions run, and what keeps the old value.

A payload can load, apply and revert as it should and yet not do what its author expects; each
remark shows the chain of calls or the instruction that it is about, and changes no verdict. A new
variable that nobody sets on this host is not checked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from xsplice_plugins.artefacts import Duty, Finding, PayloadRecord, ReplacedFunction, Severity
from xsplice_plugins.elf.reader import ElfFile, read_elf
from xsplice_plugins.errors import XspliceError
from xsplice_plugins.hypervisor import BootedImage
from xsplice_plugins.hypervisor.run.vectors import vector_instructions
from xsplice_plugins.verify.callgraph import CallGraph, chain_text, read_calls
from xsplice_plugins.verify.recomputed import kept_and_compared
from xsplice_plugins.verify.staying import functions_of, staying

CHECK = "effect"
#: Where a CPU that comes up begins, or one that wakes from sleep.
#: Source: xen/arch/x86/smpboot.c, xen/arch/x86/cpu/common.c, xen/arch/x86/acpi/power.c.
_CPU_ROOTS = frozenset(
    {"start_secondary", "recheck_cpu_features", "enter_state", "enter_state_helper"}
)
#: Tables of functions that are called for a CPU: its vendor's, and notifiers of hotplug.
_CPU_TABLES = ("cpu_dev", "cpu_nfb")
#: What the processor enters whatever it is doing, so also while others wait for a live patch.
#: Source: xen/arch/x86/traps.c, xen/arch/x86/cpu/mcheck/mce.c.
_NMI_ROOTS = frozenset({"do_nmi", "do_machine_check"})
#: Where a host that dies goes on.
_CRASH_ROOTS = frozenset({"kexec_crash", "machine_kexec", "nmi_shootdown_cpus"})
#: A host that comes here does not return from the interrupt.
_DEAD_ENDS = frozenset(
    {"panic", "fatal_trap", "show_execution_state", "machine_restart", "machine_halt"}
)
_ANYWHERE = "anywhere"
_RETURN_THUNK = "__x86_return_thunk"
_CALLERS_MAX = 3  #: that a remark names
_HELPERS_DEEP = 2  #: calls between a helper and who uses its numbers
_KEPT_MIN = 2  #: variables that a function sets once, and compares
_FRAME_BYTES = 16  #: of a bug frame on Arm
_Store = tuple[int, int, int]  #: offset in the object, size in bytes, value


def effect_findings(data: bytes, record: PayloadRecord, image: BootedImage) -> tuple[Finding, ...]:
    """Give the remarks on one payload.

    Args:
        data: The payload, signed or not.
        record: What it holds.
        image: What it is for.

    Returns:
        Warnings, and what is not checked: a payload that cannot be read, a WARN that stops hosts.
    """
    graph = read_calls(image)
    texts: list[tuple[str, str]] = []
    for function in record.functions:
        name = function.name
        texts += [(name, text) for text in _when(name, graph)]
        texts += [(name, text) for text in _at_boot(function, graph, image)]
        if "inlined into" in function.reason:
            texts.append((name, f"{_short(name)} itself may be unchanged: {function.reason}"))
    severity = Severity.WARNING
    open_texts: list[str] = []
    inside: list[Finding] = []
    try:
        elf = read_elf(data, record.name)
        inside += staying(elf, record, graph, image)
        inside += (
            Finding(
                check=CHECK,
                severity=Severity.UNCHECKED,
                subject=record.name,
                text=text,
                obligation=Duty.DATA,
            )
            for text in (*_unset(record, graph), *_recomputed(record, graph, image))
        )
        texts += _vectors(elf, record, image)
        if image.arch.refuses_warnings:
            open_texts += _warnings(data, record)
        texts += _kept_values(elf, record, image)
    except XspliceError as error:
        texts, severity = [(record.name, f"not looked at: {error}")], Severity.UNCHECKED
    remarks = [
        Finding(check=CHECK, severity=severity, subject=name, text=text) for name, text in texts
    ]
    doubts = [
        Finding(check=CHECK, severity=Severity.UNCHECKED, subject=record.name, text=text)
        for text in open_texts
    ]
    return (*remarks, *inside, *doubts)


def _warnings(data: bytes, record: PayloadRecord) -> Iterator[str]:
    """Say that a WARN comes along where the hypervisor knows none but its own."""
    section = read_elf(data, record.name).section_by_name.get(".bug_frames.1")
    count = len(section.data) // _FRAME_BYTES if section is not None else 0
    if count:
        yield (
            f"{count} WARN come with it, and whether one is met nobody knows: on this machine a "
            "WARN in a payload stops the host, for Xen takes only file names of its own image; "
            "take it out of the patched function, or print a message there"
        )


def _short(name: str) -> str:
    return f"`{name.rpartition('#')[2]}`"


def _when(name: str, graph: CallGraph) -> Iterator[str]:
    """Say when a function runs, where that is not at any time."""
    chains = _origins(name, graph)
    kinds: dict[str, tuple[str, ...]] = {}
    for origin, chain in chains.items():
        kinds.setdefault(_kind(origin, chain, graph), chain)
    if _ANYWHERE not in kinds and "cpu" in kinds:
        when = "comes or goes" if kinds["cpu"][0].endswith("_nfb") else "comes up"
        yield (
            f"{_short(name)} runs only when a CPU {when} ({chain_text(kinds['cpu'])}): CPUs that "
            "run stay as they are, unless a hook does the same on each of them"
            + ("; what it stored at boot is the old code's" if "boot" in kinds else "")
        )
    elif _ANYWHERE not in kinds and "boot" in kinds:
        yield (
            f"{_short(name)} runs only while the host boots ({chain_text(kinds['boot'])}): nothing "
            "changes before the next boot"
        )
    for roots, words in (
        (_NMI_ROOTS, "is reached from an NMI or a machine check, which other CPUs may take while"),
        (_CRASH_ROOTS, "is part of the way into a crash kernel, which may begin while"),
    ):
        chain = graph.path_to(name, roots.__contains__, is_wall=_DEAD_ENDS.__contains__)
        if chain:
            yield f"{_short(name)} {words} its first bytes are written ({chain_text(chain)})"


def _at_boot(function: ReplacedFunction, graph: CallGraph, image: BootedImage) -> Iterator[str]:
    """Say which boot code called a function that runs afterwards as well.

    Boot code is what is freed, and what only such code or a CPU that comes up leads to.
    """
    if _ANYWHERE not in _kinds(function.name, graph) or not _may_store(function, image):
        return
    if callers := _boot_callers(function.name, graph):
        shown = ", ".join(f"{_short(name)}" for name in callers[:_CALLERS_MAX])
        more = f" and {len(callers) - _CALLERS_MAX} more" if len(callers) > _CALLERS_MAX else ""
        yield (
            f"{_short(function.name)} was called at boot by {shown}{more}: what it stored then is "
            "the old code's"
        )


def _boot_callers(name: str, graph: CallGraph) -> list[str]:
    return sorted(
        caller
        for caller in graph.callers.get(name, frozenset())
        if caller in graph.boot_only or _kinds(caller, graph) in ({"boot"}, {"boot", "cpu"})
    )


def _recomputed(record: PayloadRecord, graph: CallGraph, image: BootedImage) -> Iterator[str]:
    """Find functions that compare what they computed at boot with what they compute later.

    One variable alone is no sign of that: the identity of an object is kept and compared as well.
    """
    for function in record.functions if image.arch.are_stores_read else ():
        for name in (function.name, *_using(function.name, graph)):
            if not _boot_callers(name, graph):
                continue
            kept = kept_and_compared(_parts(name, image))
            if not kept.is_once or len(kept.variables) < _KEPT_MIN:
                continue
            known = (image.name_of(addr) or f"{addr:#x}" for addr in kept.variables)
            names = sorted({_short(row.partition("+")[0]) for row in known})
            more = f" and {len(names) - _CALLERS_MAX} more" if len(names) > _CALLERS_MAX else ""
            through = (
                "" if name == function.name else f", by what {_short(function.name)} tells it,"
            )
            yield (
                f"{_short(name)} keeps what it computed at boot{through} in "
                f"{', '.join(names[:_CALLERS_MAX])}{more}, and compares with that whenever it runs "
                "again: if the new code computes another value, it meets the old one's; set these "
                "in a load hook, or leave what is computed as it was"
            )


def _using(name: str, graph: CallGraph) -> list[str]:
    """Return the callers of a helper, and theirs; of what many call nobody's numbers are made."""
    found: dict[str, None] = {}
    todo = [name]
    for _ in range(_HELPERS_DEEP):
        rows = [graph.callers.get(at, frozenset()) for at in todo]
        todo = [c for callers in rows if len(callers) <= _CALLERS_MAX for c in sorted(callers)]
        found |= dict.fromkeys(todo)
    return [caller for caller in found if caller != name]


def _parts(name: str, image: BootedImage) -> list[tuple[bytes, int]]:
    """Return the bytes of a function, and of its cold part, with their addresses."""
    symbols = (image.symbols.get(key) for key in (name, f"{name}.cold"))
    return [
        (_code_at(image, row.addr_virt, row.size_bytes), row.addr_virt)
        for row in symbols
        if row is not None
    ]


def _unset(record: PayloadRecord, graph: CallGraph) -> Iterator[str]:
    """Find new variables that functions read which run later, and nobody sets on this host.

    What sets them runs only while the host boots, when a CPU comes up, or is left out of the
    payload with the boot code it is part of.
    """
    for variable in record.variables:
        setters = (*variable.writers, *variable.boot)
        kinds = {name: _kinds(name, graph) for name in (*variable.writers, *variable.readers)}
        early = {"boot"} if not variable.writers else {"boot", "cpu"}
        readers = [name for name in variable.readers if not kinds[name] <= early]
        if not (setters and readers) or any(_ANYWHERE in kinds[n] for n in variable.writers):
            continue
        is_cpu = any("cpu" in kinds[name] for name in variable.writers)
        when = "runs only " + ("when a CPU comes up or goes" if is_cpu else "while the host boots")
        if not variable.writers:
            when = "is boot code that is left out"
        writers = " and ".join(_short(name) for name in setters[:_CALLERS_MAX])
        more = " and others" if len(setters) > _CALLERS_MAX else ""
        yield (
            f"{_short(variable.name)} is new, and only {writers}{more} sets it, which {when}: "
            f"{_short(readers[0])} reads what it is at first; set it in a load hook"
        )


def _may_store(function: ReplacedFunction, image: BootedImage) -> bool:
    """Tell whether old code stores beyond its stack, or calls what may; in doubt it does."""
    if not image.arch.are_stores_read:
        return True
    import iced_x86 as iced  # noqa: PLC0415  # costs what only verifying pays

    facts, code, start = (
        iced.InstructionInfoFactory(),
        _old_code(function, image),
        function.addr_old_virt,
    )
    leaving = {iced.FlowControl.CALL, iced.FlowControl.INDIRECT_CALL}
    reading = {iced.OpAccess.READ, iced.OpAccess.COND_READ, iced.OpAccess.NO_MEM_ACCESS}
    thunk = image.symbols.get(_RETURN_THUNK)
    within = {*range(start, start + len(code)), thunk.addr_virt if thunk is not None else start}
    return any(
        insn.flow_control in leaving
        or (
            insn.flow_control == iced.FlowControl.UNCONDITIONAL_BRANCH
            and insn.near_branch_target not in within
        )
        or any(
            memory.access not in reading and memory.base != iced.Register.RSP
            for memory in facts.info(insn).used_memory()
        )
        for insn in iced.Decoder(64, code, ip=start)
    )


def _origins(name: str, graph: CallGraph) -> Mapping[str, tuple[str, ...]]:
    """Give where the chains of calls to a function begin."""
    return graph.origins(name, _is_cpu_root)


def _is_cpu_root(name: str) -> bool:
    return name.rpartition("#")[2] in _CPU_ROOTS


def _kinds(name: str, graph: CallGraph) -> set[str]:
    """Say when a function runs."""
    return {_kind(at, chain, graph) for at, chain in _origins(name, graph).items()}


def _kind(origin: str, chain: Sequence[str], graph: CallGraph) -> str:
    """Say when a chain of calls begins."""
    plain = origin.rpartition("#")[2]
    if plain in _CPU_ROOTS or plain.endswith(_CPU_TABLES):
        return "cpu"
    is_taken = len(chain) > 1 and origin in graph.takers.get(chain[1], ())
    # An address that boot code hands on may be called at any time, also if it calls there itself.
    if origin in graph.boot_only and (not is_taken or "initcall" in plain):
        return "boot"
    return _ANYWHERE


def _vectors(elf: ElfFile, record: PayloadRecord, image: BootedImage) -> Iterator[tuple[str, str]]:
    """Find functions that come to use registers that hold what a guest left there."""
    replaced = {function.name: function for function in record.functions}
    for name, (section, symbol) in functions_of(elf):
        code = section.data[symbol.value : symbol.value + symbol.size_bytes]
        used = next(vector_instructions(code, symbol.value, image.arch), "")
        old = _old_code(replaced[name], image) if name in replaced else b""
        if used and not any(vector_instructions(old, 0, image.arch)):
            text = (
                f"{_short(name)} uses a register of floating-point or vectors ({used}), as it did "
                "not before: they are a guest's, and the processor may refuse them"
            )
            yield name, text


def _kept_values(
    elf: ElfFile, record: PayloadRecord, image: BootedImage
) -> Iterator[tuple[str, str]]:
    """Find constants that a function stores into objects and stores differently now."""
    if not image.arch.are_stores_read:
        return
    starts = {symbol.decorated: symbol for symbol in elf.symbols if symbol.shndx}
    for function in record.functions:
        symbol = starts.get(function.name)
        section = elf.section_by_name.get(function.section_new)
        if symbol is None or section is None or symbol.shndx != section.index:
            continue
        code = section.data[symbol.value : symbol.value + function.size_new_bytes]
        relocated = frozenset(r.offset - symbol.value for r in elf.relocs(section))
        before = Counter(_stores(_old_code(function, image), frozenset()))
        after = Counter(_stores(code, relocated))
        gone, come = before - after, after - before
        kept: dict[tuple[int, int], list[str]] = {}
        for offset, size, value in sorted(gone):
            for new in sorted(v for at, wide, v in come if (at, wide) == (offset, size))[:1]:
                kept.setdefault((value, new), []).append(f"{offset:#x}")
        for (value, new), offsets in kept.items():
            text = (
                f"{_short(function.name)} stores {new:#x} where it stored {value:#x} (into objects "
                f"at offset {', '.join(offsets)}): those that exist keep the old value"
            )
            yield function.name, text


def _old_code(function: ReplacedFunction, image: BootedImage) -> bytes:
    return _code_at(image, function.addr_old_virt, function.size_old_bytes)


def _code_at(image: BootedImage, addr_virt: int, size_bytes: int) -> bytes:
    for region in image.regions:
        start = addr_virt - region.addr_virt
        if 0 <= start < len(region.data):
            return region.data[start : start + size_bytes]
    return b""


def _stores(code: bytes, relocated: frozenset[int]) -> Iterator[_Store]:
    """Give the constants that code stores through pointers, not on its stack."""
    import iced_x86 as iced  # noqa: PLC0415  # costs what only verifying pays

    stack = {iced.Register.RSP, iced.Register.RIP, iced.Register.NONE}
    immediate = range(iced.OpKind.IMMEDIATE8, iced.OpKind.IMMEDIATE32TO64 + 1)
    for insn in iced.Decoder(64, code, ip=0):
        if (
            insn.mnemonic == iced.Mnemonic.MOV
            and insn.op0_kind == iced.OpKind.MEMORY
            and insn.op1_kind in immediate
            and insn.memory_base not in stack
            and relocated.isdisjoint(range(insn.ip, insn.next_ip))
        ):
            size = iced.MemorySizeExt.size(insn.memory_size)
            yield insn.memory_displacement, size, insn.immediate(1) & (1 << 8 * size) - 1
