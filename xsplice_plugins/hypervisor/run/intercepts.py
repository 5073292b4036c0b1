# SPDX-License-Identifier: Apache-2.0
"""Functions of the hypervisor that the model performs itself while code is executed.

Their real code needs a booted host (a console, locks, page tables). A payload that replaces one of
them is respected: the replacement runs. Source: specification sections 8.6 and 13.
"""

import re
from collections.abc import Callable
from typing import Protocol

from xsplice_plugins.hypervisor.act import actions
from xsplice_plugins.hypervisor.facts.verdicts import Hazard
from xsplice_plugins.hypervisor.image.image import Image
from xsplice_plugins.hypervisor.image.memory import Memory, Segment
from xsplice_plugins.hypervisor.run.hooks import HookHost, decode_argument, encode_argument
from xsplice_plugins.hypervisor.state.payload import Payload

_STEP = "intercept"
_CONVERSION = re.compile(
    rb"%([-+ #0]*)(\d*)(?:\.(\d+))?(hh|h|ll|l|z|t|)([diuxXcspP%])(p?[A-Za-z]?)"
)


class CallFrame(Protocol):
    """What an intercepted function sees of its caller."""

    @property
    def subject(self) -> Payload | None:
        """The payload whose hook runs."""

    @property
    def argument_segment(self) -> Segment | None:
        """Where that hook's ``struct payload`` lies."""

    def argument(self, index: int) -> int:
        """Give an integer argument by the SysV convention."""


#: Gives the function's result, None where it has none: then its caller finds anything there.
Handler = Callable[[HookHost, CallFrame], int | None]


def _format(memory: Memory, frame: CallFrame, first: int) -> str:
    """Render a printk format far enough for a log line."""
    template = memory.read_c_string(frame.argument(first), step=_STEP)
    index = first

    def render(match: re.Match[bytes]) -> bytes:
        nonlocal index
        kind = match[5]
        if kind == b"%":
            return b"%" + match[6]
        index += 1
        value = frame.argument(index)
        tail = match[6] if kind != b"p" else b""
        if kind == b"s":
            return (memory.read_c_string(value, step=_STEP) if value else b"<NULL>") + tail
        if kind in b"di":
            bits = 64 if match[4] in {b"l", b"ll", b"z", b"t"} else 32
            value &= (1 << bits) - 1
            return b"%d" % (value - (1 << bits) if value >> (bits - 1) else value) + tail
        if kind == b"u":
            return b"%d" % value + tail
        if kind == b"c":
            return bytes([value & 255]) + tail
        return b"%x" % value + tail

    return _CONVERSION.sub(render, template).decode("latin-1")


def _printk(hv: HookHost, frame: CallFrame) -> None:
    text = _format(hv.memory, frame, 0)
    # A level prefix such as <7> is for the console's filter.
    hv.console.append(re.sub(r"^<[0-9GWEID]>", "", text).rstrip("\n"))


def _panic(hv: HookHost, frame: CallFrame) -> None:
    raise Hazard("panic", f"panic: {_format(hv.memory, frame, 0).strip()}")


def _subject(frame: CallFrame) -> tuple[Payload, Segment]:
    payload, segment = frame.subject, frame.argument_segment
    if payload is None or segment is None or frame.argument(0) != segment.addr_virt:
        raise Hazard("hook", "a hook works on a payload that is not its own")
    return payload, segment


def _revert_payload(hv: HookHost, frame: CallFrame) -> int:
    """Revert on behalf of a hook, which passes its own ``struct payload``."""
    payload, segment = _subject(frame)
    decode_argument(segment.data, payload, memory=hv.memory, release=hv.release)
    result = actions.revert_default(payload, hv)  # type: ignore[arg-type]  # the hypervisor itself
    segment.data[:] = encode_argument(payload, hv.image.arch, hv.release)
    return result


def _revert_payload_tail(hv: HookHost, frame: CallFrame) -> None:
    payload, segment = _subject(frame)
    decode_argument(segment.data, payload, memory=hv.memory, release=hv.release)
    actions.finish_revert(payload, hv)  # type: ignore[arg-type]  # the hypervisor itself
    segment.data[:] = encode_argument(payload, hv.image.arch, hv.release)


_BY_NAME: dict[str, Handler] = {
    "panic": _panic,
    "printk": _printk,
    "revert_payload": _revert_payload,
    "revert_payload_tail": _revert_payload_tail,
}


def handlers(image: Image) -> dict[int, Handler]:
    """Give address to handler for the functions an image has."""
    return {
        image.symbols[name].addr_virt: handler
        for name, handler in sorted(_BY_NAME.items())
        if name in image.symbols
    }
