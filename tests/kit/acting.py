# SPDX-License-Identifier: Apache-2.0
"""Verbs for tests of actions: load, ask, do, and look at the state."""

from __future__ import annotations

import struct

from tests.kit.payloads import (
    ALLOC,
    EXEC,
    UND,
    WRITE,
    Draft,
    Rel,
    Sec,
    Sym,
    add_code,
    add_hook,
)
from tests.kit.tiny_xen import tiny_xen
from xsplice_plugins.hypervisor import Host, Hypervisor, release
from xsplice_plugins.hypervisor.facts.cpu import ALWAYS


def state(hv: Hypervisor, name: str) -> tuple[str, int]:
    """Give state and rc."""
    status = hv.get(name.encode() + b"\0")[1]
    assert status is not None
    return status.state.name, status.rc


def load(hv: Hypervisor, name: str, draft: Draft) -> None:
    answer = hv.upload(name.encode() + b"\0", draft.build())
    assert answer.code == 0, answer


def ask(hv: Hypervisor, name: str, command: int, **options: int) -> int:
    """Ask for an action, leave its work pending."""
    return hv.action(name.encode() + b"\0", command, **options).code


def do(hv: Hypervisor, name: str, command: int, **options: int) -> int:
    """Ask for an action and let the CPUs do it."""
    code = ask(hv, name, command, **options)
    hv.run_pending()
    return code


def fresh(*drafts: tuple[str, Draft], name: str = "4.17.5", host: Host | None = None) -> Hypervisor:
    hv = Hypervisor(tiny_xen(), release(name), host=host)
    for payload, draft in drafts:
        load(hv, payload, draft)
    return hv


def with_data(draft: Draft) -> Draft:
    draft.sections.append(Sec(".data", b"12345678", flags=ALLOC | WRITE))
    return draft


def returning(value: int) -> bytes:
    """Machine code: mov eax, value; ret."""
    return b"\xb8" + (value & 0xFFFFFFFF).to_bytes(4, "little") + b"\xc3"


def with_hook(draft: Draft, kind: str, code: bytes) -> Draft:
    tag = draft.sec(".note.gnu.build-id").data[16:17].hex()
    add_code(draft, f"{kind}_{tag}", code)
    add_hook(draft, kind, f"{kind}_{tag}")
    return draft


def writable_funcs(draft: Draft) -> Draft:
    draft.sec(".livepatch.funcs").flags = ALLOC | WRITE
    return draft


def counting_hook(draft: Draft, kind: str) -> Draft:
    """Add a hook that increments Xen's counter."""
    draft.symbols.append(Sym("counter", UND))
    code = b"\xff\x05\0\0\0\0\x31\xc0\xc3"
    tag = draft.sec(".note.gnu.build-id").data[16:17].hex()
    add_code(draft, f"{kind}_{tag}", code, [Rel(2, 2, "counter", -4)])
    add_hook(draft, kind, f"{kind}_{tag}")
    return draft


def counter(hv: Hypervisor) -> int:
    addr = hv.image.lookup("counter")
    assert addr is not None
    return int.from_bytes(hv.memory.read(addr, 4), "little")


def with_alternative_call(draft: Draft, pointer: str) -> Draft:
    """Add a call through one of Xen's pointers, which alternatives make a direct call."""
    draft.symbols.append(Sym(pointer, UND))
    add_code(draft, "caller", b"\xff\x15\0\0\0\0" + b"\xc3", [Rel(2, 2, pointer, -4)])
    draft.sections += [
        Sec(".altinstr_replacement", b"\xe8\xfb\xff\xff\xff", flags=ALLOC | EXEC),
        Sec(
            ".altinstructions",
            struct.pack("<iiHBBBB", 0, 0, ALWAYS, 6, 5, 0, 0),
            relocs=[Rel(0, 2, "caller"), Rel(4, 2, "replacement")],
        ),
    ]
    draft.symbols.append(Sym("replacement", ".altinstr_replacement", info=0))
    return draft
