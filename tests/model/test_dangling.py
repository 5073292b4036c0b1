# SPDX-License-Identifier: Apache-2.0
"""Memory that still points into a payload once it was unloaded."""

from __future__ import annotations

from tests.kit.acting import with_hook
from tests.kit.payloads import UND, Draft, Rel, Sym, add_code, add_hook, minimal
from tests.kit.tiny_xen import tiny_xen
from xsplice_plugins.hypervisor import release
from xsplice_plugins.hypervisor.proof.proof import ProofReport, prove

_STORE = b"\x48\x8d\x05\0\0\0\0\x48\x89\x05\0\0\0\0\xc3"  # lea new(%rip),%rax; mov %rax,counter
_CLEAR = b"\x48\xc7\x05\0\0\0\0\0\0\0\0\xc3"  # movq $0,counter(%rip)


def _storing() -> Draft:
    """A payload whose load hook leaves the address of its function in Xen's counter."""
    draft = minimal()
    draft.symbols.append(Sym("counter", UND))
    relocs = [Rel(3, 2, "new_function", -4), Rel(10, 2, "counter", -4)]
    add_code(draft, "leave", _STORE, relocs)
    add_hook(draft, "load", "leave")
    return draft


def _proof(draft: Draft) -> ProofReport:
    return prove([("p", draft.build())], tiny_xen(), release("4.17.5"))


def test_a_pointer_into_an_unloaded_payload_is_a_hazard_that_names_both() -> None:
    report = _proof(_storing())
    assert (report.verdict, report.step) == ("hazard", "unload")
    assert report.reason.startswith("counter+0x0/0x8 still points to ")
    assert "of p, which was unloaded" in report.reason


def test_the_same_is_proved_where_a_hook_takes_it_back() -> None:
    draft = _storing()
    add_code(draft, "take_back", _CLEAR, [Rel(3, 2, "counter", -8)])
    add_hook(draft, "unload", "take_back")
    assert _proof(draft).verdict == "proved"


def test_a_payload_that_hands_out_nothing_is_proved() -> None:
    assert _proof(with_hook(minimal(), "load", b"\xc3")).verdict == "proved"
