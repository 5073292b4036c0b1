# SPDX-License-Identifier: Apache-2.0
"""Probes: questions to the running image, asked before, during and after a hot patch.

A probe calls a function of the image in the emulator. Asking changes nothing: what the call wrote
is put back.
"""

from msgspec import Struct

from xsplice_plugins.hypervisor.core import Hypervisor
from xsplice_plugins.hypervisor.facts.arches import PAGE_SIZE
from xsplice_plugins.hypervisor.facts.verdicts import Hazard, Unknown
from xsplice_plugins.hypervisor.image.memory import RW, MemorySegment
from xsplice_plugins.hypervisor.run import execute, rehearsal

#: Where arguments that are strings are put in the heap.
_SCRATCH_OFFSET = 0x400000
_STRING_BYTES_MAX = 512
KINDS = ("int", "long", "string", "bytes")

Value = int | str | None


class Probe(Struct, frozen=True, kw_only=True):
    """One question and the answers that are expected."""

    function: str  #: its name, ``file.c#name`` for a local
    #: up to six; an integer as it is, a string as the address of the symbol it names (``name`` or
    #: ``name+0x8``), ``text:...`` as a pointer to those characters
    arguments: tuple[int | str, ...] = ()
    #: ``int`` (low 32 bits, signed), ``long``, ``string`` (at the returned pointer) or ``bytes``
    #: (``size_bytes`` at the returned pointer, in hexadecimal)
    kind: str = "int"
    before: Value = None  #: expected with nothing applied; None where any answer is fine
    during: Value = None  #: expected with everything applied
    after: Value = None  #: expected when everything was reverted
    size_bytes: int = 8  #: for ``bytes``


class ProbeResult(Struct, frozen=True, kw_only=True):
    """What a probe answered at one time."""

    function: str
    moment: str  #: ``before``, ``during`` or ``after``
    expected: Value  #: None where any answer is fine
    found: Value  #: the answer, None where the call crashed
    problem: str = ""  #: empty, or why there is no answer

    @property
    def is_good(self) -> bool:
        """Whether the answer is the expected one."""
        return not self.problem and self.expected in {None, self.found}


def _call(probe: Probe, hv: Hypervisor, *, is_as_filed: bool) -> Value:
    if probe.kind not in KINDS:
        raise Hazard("probe", f"kind {probe.kind} is unknown; use {', '.join(KINDS)}")
    addr = hv.image.lookup(probe.function)
    if addr is None:
        raise Hazard("probe", f"the image has no function {probe.function}")
    scratch = MemorySegment(
        addr_virt=hv.image.arch.heap_virt + _SCRATCH_OFFSET,
        data=bytearray(PAGE_SIZE),
        perm=RW,
        name="probe arguments",
        owner="(probe)",
    )
    arguments = []
    used = 0
    for argument in probe.arguments:
        if isinstance(argument, int):
            arguments.append(argument)
            continue
        prefix, _, text = argument.partition(":")
        if prefix != "text":
            arguments.append(_address_of(argument, hv))
            continue
        raw = text.encode("latin-1", "replace")[:_STRING_BYTES_MAX] + b"\0"
        scratch.data[used : used + len(raw)] = raw
        arguments.append(scratch.addr_virt + used)
        used += len(raw)
    hv.memory.map(scratch)
    try:

        def decode(result: int) -> Value:
            return _decode(probe, result, hv, is_as_filed=is_as_filed)

        result = rehearsal.run_tried(
            hv,
            None,
            run=lambda how, sight: execute.call_function(
                hv, addr, tuple(arguments), step="probe", is_pure=True, how=how, sight=sight
            ),
            value=decode,
            step="probe",
            is_pure=True,
            is_as_filed=is_as_filed,
        )
        return decode(result)
    finally:
        hv.memory.unmap(scratch)


def _address_of(name: str, hv: Hypervisor) -> int:
    """Give the address of ``name`` or ``name+0x8``."""
    symbol, plus, offset = name.rpartition("+0x")
    addr = hv.image.lookup(symbol if plus else name)
    try:
        beyond = int(offset, 16) if plus else 0
    except ValueError:
        addr = None
    if addr is None:
        raise Hazard("probe", f"argument {name} names no symbol of the image")
    return addr + beyond


def _decode(probe: Probe, result: int, hv: Hypervisor, *, is_as_filed: bool) -> Value:
    if probe.kind == "int":
        low = result & 0xFFFFFFFF
        return low - (1 << 32) if low >> 31 else low
    if probe.kind == "long":
        return result - (1 << 64) if result >> 63 else result
    watch = execute.engine_of(hv).watch
    place = next((a for a in range(result, result + probe.size_bytes) if watch.is_unknown(a)), None)
    if place is not None and not is_as_filed:
        raise Unknown("probe", f"depends on {watch.datum(place)}, which only a running host knows")
    watch.require(result, step="probe")
    if probe.kind == "string":
        return hv.memory.read_c_string(result, step="probe").decode("latin-1")
    return hv.memory.read(result, probe.size_bytes, step="probe").hex()


def ask(probe: Probe, hv: Hypervisor, moment: str, *, is_as_filed: bool = False) -> ProbeResult:
    """Ask one probe.

    Args:
        probe: the question; a kind that is unknown is a problem, not a guess.
        hv: the hypervisor as it is now.
        moment: ``before``, ``during`` or ``after``; decides the expected answer.
        is_as_filed: take what boot may have written to be as in the file.

    Returns:
        The answer; a crash of the called function is a ``problem`` of the result.

    Raises:
        Unknown: only a running host can answer.
    """
    found, problem = None, ""
    try:
        found = _call(probe, hv, is_as_filed=is_as_filed)
    except Unknown:
        raise
    except Hazard as hazard:
        problem = hazard.reason
    return ProbeResult(
        function=probe.function,
        moment=moment,
        expected=getattr(probe, moment),
        found=found,
        problem=problem,
    )
