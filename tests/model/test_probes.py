# SPDX-License-Identifier: Apache-2.0
"""Probes: what they ask, what they leave behind, and what they do when a function goes wild."""

from __future__ import annotations

import pytest

from tests.kit.payloads import minimal
from tests.kit.tiny_xen import allocated, tiny_xen
from xsplice_plugins.hypervisor import Hypervisor, Probe, prove, release
from xsplice_plugins.hypervisor.proof.probes import ask
from xsplice_plugins.hypervisor.run.execute import call_function

IMAGE = tiny_xen()
XEN = release("4.17.5")


@pytest.fixture
def hv() -> Hypervisor:
    """Boot the tiny hypervisor."""
    return Hypervisor(IMAGE, XEN)


@pytest.mark.parametrize(
    ("probe", "found"),
    [
        (Probe(function="answer"), 42),
        (Probe(function="answer", kind="long"), 42),
        (Probe(function="xen_extra_version", kind="string"), "original"),
        (Probe(function="xen_extra_version", kind="bytes", size_bytes=4), "6f726967"),
    ],
)
def test_answers(hv: Hypervisor, probe: Probe, found: int | str) -> None:
    assert ask(probe, hv, "before").found == found


@pytest.mark.parametrize(
    ("probe", "words"),
    [
        (Probe(function="no_such"), "no function no_such"),
        (Probe(function="answer", kind="float"), "kind float is unknown"),
        (Probe(function="answer", arguments=("no_such",)), "names no symbol"),
        (Probe(function="common/busy.c#busy", arguments=(1,)), "crash at common/busy.c#busy"),
        (Probe(function="words_of_xen"), "crash at"),
    ],
)
def test_problems_have_words(hv: Hypervisor, probe: Probe, words: str) -> None:
    result = ask(probe, hv, "before")
    assert not result.is_good
    assert words in result.problem


def test_asking_changes_nothing(hv: Hypervisor) -> None:
    before = hv.memory.digest()
    for argument in ("counter", "counter+0x4", "text:hello"):
        ask(Probe(function="answer", arguments=(argument, 7)), hv, "before")
    assert hv.memory.digest() == before
    assert not allocated(hv)


def test_names_with_offsets_are_an_extension_for_people(hv: Hypervisor) -> None:
    counter = IMAGE.lookup("counter")
    assert counter is not None
    hv.memory.write(counter, bytes(range(8)))
    hv.told.update(range(counter, counter + 8))
    for argument, found in (("counter", 0x03020100), ("counter+0x4", 0x07060504)):
        hv.memory.segments()[0].data[0x300:0x303] = b"\x8b\x07\xc3"  # mov eax, [rdi]; ret
        assert ask(Probe(function="answer", arguments=(argument,)), hv, "before").found == found
    for wrong in ("counter+0xzz", "nobody+0x1", "nobody"):
        answer = ask(Probe(function="answer", arguments=(wrong,)), hv, "before")
        assert answer.problem == f"argument {wrong} names no symbol of the image"
    assert IMAGE.lookup("counter+0x10") is None
    assert IMAGE.name_of(counter + 3) == "counter+0x3/0x8"


def test_a_function_that_does_not_return_is_a_hazard(hv: Hypervisor) -> None:
    text = hv.memory.segments()[0]
    text.data[0x300:0x302] = b"\xeb\xfe"
    result = ask(Probe(function="answer"), hv, "before")
    assert "no return" in result.problem


def test_execution_respects_page_permissions(hv: Hypervisor) -> None:
    text = hv.memory.segments()[0]
    # mov byte [rip-7-0x300], 0: a write into text.
    text.data[0x300:0x308] = b"\xc6\x05" + (-0x307).to_bytes(4, "little", signed=True) + b"\0\xc3"
    assert "crash" in ask(Probe(function="answer"), hv, "before").problem
    rodata = IMAGE.lookup("words_of_xen")
    assert rodata is not None
    assert call_function(hv, rodata - 0x1000 + 0x200, (), step="x") == 7


def test_a_proof_observes_the_change_and_its_end() -> None:
    probe = Probe(
        function="xen_extra_version",
        kind="string",
        before="original",
        during="patched",
        after="original",
    )
    report = prove([("p", minimal().build())], IMAGE, XEN, probes=[probe])
    assert report.verdict == "proved"
    assert [result.found for result in report.probes] == ["original", "patched", "original"]
    assert report.functions[0].bytes_after == report.functions[0].bytes_before
    assert report.functions[0].bytes_during.startswith("e9")


def test_a_wrong_answer_is_not_a_proof() -> None:
    probe = Probe(function="xen_extra_version", kind="string", during="something else")
    report = prove([("p", minimal().build())], IMAGE, XEN, probes=[probe])
    assert (report.verdict, report.step) == ("refused", "probe")
    assert "'patched' instead of 'something else'" in report.reason


def test_a_refused_payload_is_reported_with_its_errno_and_step() -> None:
    report = prove([("p", b"not an ELF file" * 10)], IMAGE, XEN)
    assert (report.verdict, report.errno, report.errno_name) == ("refused", 22, "EINVAL")
    assert report.step == "header"
    assert not report.functions


def test_a_replacement_that_runs_into_the_weeds_is_a_hazard() -> None:
    draft = minimal()
    draft.sec(".text.new").data = b"\x90" * 8
    draft.sec(".text.new").relocs = []
    probe = Probe(function="xen_extra_version", kind="string")
    report = prove([("p", draft.build())], IMAGE, XEN, probes=[probe])
    assert (report.verdict, report.step) == ("hazard", "probe")


def test_other_releases_answer_differently() -> None:
    draft = minimal()
    report = prove(
        [("p", draft.build())],
        IMAGE,
        XEN,
        compared=[release(name) for name in ("4.7.0", "4.13.5", "4.17.1", "4.20.0")],
    )
    found = {answer.release: (answer.verdict, answer.errno) for answer in report.differences}
    assert found == {"4.7.0": ("refused", 22), "4.13.5": ("refused", 22), "4.17.1": ("hazard", 0)}


def test_a_stack_is_proved_bottom_first_and_needs_its_order() -> None:
    below = minimal()
    above = minimal(build_id=b"\xb2" * 20, depends=b"\xa1" * 20, text=b"twice")
    stack = [("below", below.build()), ("above", above.build())]
    probe = Probe(function="xen_extra_version", kind="string", during="twice", after="original")
    assert prove(stack, IMAGE, XEN, probes=[probe]).verdict == "proved"
    report = prove(stack[::-1], IMAGE, XEN)
    assert (report.verdict, report.errno, report.step) == ("refused", 22, "dependency")
