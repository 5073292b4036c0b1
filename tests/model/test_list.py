# SPDX-License-Identifier: Apache-2.0
"""LIST and its stamp, and the gates in front of every operation."""

from __future__ import annotations

import pytest

from tests.kit.payloads import (
    Sec,
    minimal,
)
from tests.kit.tiny_xen import tiny_xen
from xsplice_plugins.hypervisor import Command, Hypervisor, prove, release
from xsplice_plugins.hypervisor.state.payload import name_bytes


def many(name: str) -> Hypervisor:
    hv = Hypervisor(tiny_xen(), release(name))
    for index in range(3):
        draft = minimal(build_id=bytes([index + 1]) * 20)
        draft.sections.append(Sec(".modinfo", b"a=b\0"))
        assert hv.upload(b"p%d\0" % index, draft.build()).code == 0
    return hv


@pytest.mark.parametrize(
    ("options", "code", "left"),
    [
        ({"nr": 1025}, -7, None),
        ({"pad": 1}, -22, None),
        ({"idx": 3}, -22, None),
        ({"idx": 2}, 1, 0),
        ({"nr": 2}, 2, 1),
        ({"nr": 0}, 0, 3),
        ({}, 3, 0),
    ],
)
def test_list(options: dict[str, int], code: int, left: int | None) -> None:
    answer, listing = many("4.17.5").list_payloads(**options)
    assert answer.code == code
    assert (listing.left if listing else None) == left
    if listing is not None and options.get("nr") == 0:
        assert (listing.name_bytes, listing.metadata_bytes) == (9, 12)


def test_list_of_nothing_accepts_any_index() -> None:
    hv = Hypervisor(tiny_xen(), release("4.17.5"))
    assert hv.list_payloads(idx=7)[0].code == 0


@pytest.mark.parametrize(("name", "code"), [("4.20.3", 3), ("4.21.0", -105)])
def test_list_looks_at_capacities_since_4_21(name: str, code: int) -> None:
    answer, listing = many(name).list_payloads(name_bytes_max=6, metadata_bytes_max=100)
    assert answer.code == code
    assert listing is not None
    assert listing.name_bytes == (6 if code < 0 else 9)


def test_the_stamp_counts_uploads_and_unloads_only() -> None:
    hv = many("4.17.5")
    assert hv.stamp == 4
    hv.action(b"p0\0", Command.APPLY)
    hv.run_pending()
    hv.action(b"p0\0", Command.REVERT)
    hv.run_pending()
    assert hv.stamp == 4
    hv.action(b"p0\0", Command.UNLOAD)
    assert hv.stamp == 5


def test_names_are_bytes() -> None:
    hv = Hypervisor(tiny_xen(), release("4.21.0"))
    raw = "é→".encode() + b"\xff"
    assert hv.upload(raw + b"\0", minimal().build()).code == 0
    assert hv.get(raw + b"\0")[0].code == 0
    assert hv.get("é→".encode() + b"\0")[0].code == -2
    _, listing = hv.list_payloads()
    assert listing is not None
    assert (name_bytes(listing.entries[0].name), listing.name_bytes) == (raw, len(raw) + 1)


@pytest.mark.parametrize(
    ("name", "verdict", "step"), [("é→", "proved", ""), ("\ud800", "refused", "name")]
)
def test_a_name_that_bytes_cannot_spell_is_refused(name: str, verdict: str, step: str) -> None:
    report = prove([(name, minimal().build())], tiny_xen(), release("4.17.5"))
    assert (report.verdict, report.step) == (verdict, step)
