# SPDX-License-Identifier: Apache-2.0
"""Functions of the hypervisor that the model performs itself while code is executed.

Their real code needs a booted host (a console, locks, page tables). A payload that replaces one of
them is respected: the replacement runs. Source: xen/include/xen/livepatch_payload.h names what
hooks may call.
"""

import re

from xsplice_plugins.hypervisor.act import actions
from xsplice_plugins.hypervisor.facts.verdicts import Hazard
from xsplice_plugins.hypervisor.image.image import BootedImage
from xsplice_plugins.hypervisor.image.memory import MemorySegment
from xsplice_plugins.hypervisor.run.helpers import HELPERS, Call, Handler
from xsplice_plugins.hypervisor.run.waiting import WAITING
from xsplice_plugins.hypervisor.state.hook_argument import decode_argument, encode_argument
from xsplice_plugins.hypervisor.state.payload import LoadedPayload
from xsplice_plugins.hypervisor.state.xen import Xen

_STEP = "intercept"
_CONVERSION = re.compile(
    rb"%([-+ #0]*)(\d*)(?:\.(\d+))?(hh|h|ll|l|z|t|)([diuxXcspP%])(p?[A-Za-z]?)"
)


def _format(call: Call, first: int) -> str:
    """Render a printk format far enough for a log line."""
    template = call.watch.text_at(call.argument(first), step=_STEP)
    index = first

    def render(match: re.Match[bytes]) -> bytes:
        nonlocal index
        kind = match[5]
        if kind == b"%":
            return b"%" + match[6]
        index += 1
        value = call.argument(index)
        tail = match[6] if kind != b"p" else b""
        if kind == b"s":
            return (call.watch.text_at(value, step=_STEP) if value else b"<NULL>") + tail
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


def _printk(xen: Xen, call: Call) -> None:
    text = _format(call, 0)
    # A level prefix such as <7> is for the console's filter.
    xen.console.append(re.sub(r"^<[0-9GWEID]>", "", text).rstrip("\n"))


def _panic(_xen: Xen, call: Call) -> None:
    raise Hazard("panic", f"panic: {_format(call, 0).strip()}")


def _subject(call: Call) -> tuple[LoadedPayload, MemorySegment]:
    payload, segment = call.subject, call.segment
    if payload is None or segment is None or call.argument(0) != segment.addr_virt:
        raise Hazard("hook", "a hook works on a payload that is not its own")
    return payload, segment


def _revert_payload(xen: Xen, call: Call) -> int:
    """Revert on behalf of a hook, which passes its own ``struct payload``."""
    payload, segment = _subject(call)
    decode_argument(segment.data, payload, xen)
    result = actions.revert_default(payload, xen)
    segment.data[:] = encode_argument(payload, xen)
    return result


def _revert_payload_tail(xen: Xen, call: Call) -> None:
    payload, segment = _subject(call)
    decode_argument(segment.data, payload, xen)
    actions.finish_revert(payload, xen)
    segment.data[:] = encode_argument(payload, xen)


_BY_NAME: dict[str, Handler] = {
    **HELPERS,
    **WAITING,
    "panic": _panic,
    "printk": _printk,
    "revert_payload": _revert_payload,
    "revert_payload_tail": _revert_payload_tail,
}


def handlers(image: BootedImage) -> dict[int, Handler]:
    """Give address to handler for the functions an image has."""
    return {
        image.symbols[name].addr_virt: handler
        for name, handler in sorted(_BY_NAME.items())
        if name in image.symbols
    }
