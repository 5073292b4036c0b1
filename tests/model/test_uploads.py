# SPDX-License-Identifier: Apache-2.0
"""Uploads that a table cannot hold: the vectors with two requests, names, and orders of checks."""

from __future__ import annotations

import pytest

from tests.kit.payloads import (
    OTHER_XEN_ID,
    STRTAB,
    UND,
    Sec,
    Sym,
    add_code,
    minimal,
    note,
    record,
)
from tests.kit.tiny_xen import tiny_xen
from xsplice_plugins.errors import ConfigError
from xsplice_plugins.hypervisor import Hazard, Hypervisor, release
from xsplice_plugins.hypervisor.facts.arches import X86_64

RET = b"\xc3"
ENOENT, EEXIST, EINVAL, ENODATA, EOPNOTSUPP = -2, -17, -22, -61, -95


def test_u1_a_good_upload_is_checked_and_stamped() -> None:
    hv = Hypervisor(tiny_xen(), release("4.17.5"))
    assert hv.upload(b"test\0", minimal().build()).code == 0
    status = hv.get(b"test\0")[1]
    assert status is not None
    assert (status.state.name, status.rc, hv.stamp) == ("CHECKED", 0, 2)


@pytest.mark.parametrize(("size", "code"), [(0, EINVAL), ((2 << 20) + 1, EINVAL), (2 << 20, 0)])
def test_u2_the_file_has_1_byte_to_2_mib(size: int, code: int) -> None:
    data = minimal().build()[:size].ljust(size, b"\0")
    assert Hypervisor(tiny_xen(), release("4.17.5")).upload(b"a\0", data).code == code


@pytest.mark.parametrize(
    ("name", "pad", "code"),
    [
        (b"", (0, 0, 0), EINVAL),
        (b"x" * 128 + b"\0", (0, 0, 0), EINVAL),
        (b"x" * 127 + b"\0", (0, 0, 0), 0),
        (b"name", (0, 0, 0), EINVAL),
        (b"name\0", (0, 1, 0), EINVAL),
        (b"\0", (0, 0, 0), 0),
    ],
)
def test_u3_names_are_terminated_and_bounded(name: bytes, pad: tuple[int, ...], code: int) -> None:
    hv = Hypervisor(tiny_xen(), release("4.17.5"))
    assert hv.upload(name, minimal().build(), name_pad=pad).code == code


def test_u3_an_embedded_nul_ends_the_name() -> None:
    hv = Hypervisor(tiny_xen(), release("4.17.5"))
    assert hv.upload(b"one\0two\0", minimal().build()).code == 0
    assert hv.get(b"one\0")[1] is not None


def test_u4_u5_names_and_build_ids_are_unique() -> None:
    hv = Hypervisor(tiny_xen(), release("4.17.5"))
    data = minimal().build()
    assert hv.upload(b"a\0", data).code == 0
    again = hv.upload(b"a\0", data)
    assert (again.code, again.step) == (EEXIST, "duplicate-name")
    twin = hv.upload(b"b\0", data)
    assert (twin.code, twin.step) == (EEXIST, "build-id")


@pytest.mark.parametrize("data", [minimal().build()[:63], b"\x7fELG" + minimal().build()[4:]])
def test_u6_a_cut_header_or_another_magic(data: bytes) -> None:
    answer = Hypervisor(tiny_xen(), release("4.17.5")).upload(b"a\0", data)
    assert (answer.code, answer.step) == (EINVAL, "header")


def test_u35_an_unknown_name_is_not_found() -> None:
    hv = Hypervisor(tiny_xen(), release("4.17.5"))
    answer = hv.upload(b"a\0", minimal(target="no_such", by_name=True).build())
    assert (answer.code, answer.step) == (ENOENT, "function-records")
    assert hv.upload(b"a\0", minimal(target="answer", by_name=True).build()).code == 0


def test_u42_the_old_order_resolves_symbols_before_it_looks_at_xens_build_id() -> None:
    draft = minimal()
    draft.sec(".livepatch.xen_depends").data = note(OTHER_XEN_ID)
    draft.symbols.append(Sym("no_such", UND))
    data = draft.build()
    old = Hypervisor(tiny_xen(), release("4.17.5")).upload(b"a\0", data)
    new = Hypervisor(tiny_xen(), release("4.20.0")).upload(b"a\0", data)
    assert (old.code, old.step) == (ENOENT, "symbols")
    assert (new.code, new.step) == (EINVAL, "xen-depends")


def test_u46_local_symbols_of_loaded_payloads_are_taken() -> None:
    hv = Hypervisor(tiny_xen(), release("4.17.5"))
    first, second = minimal(), minimal(build_id=b"\xb2" * 20)
    for draft in (first, second):
        add_code(draft, "helper", RET)
        draft.symbol("helper").info = 2
    assert hv.upload(b"a\0", first.build()).code == 0
    answer = hv.upload(b"b\0", second.build())
    assert (answer.code, answer.step) == (EEXIST, "symbol-table")
    # A vendor's loader takes them; what it does not share with others stays as it is.
    hv = Hypervisor(tiny_xen(), release("4.17.5", loader="xenserver"))
    assert hv.upload(b"a\0", first.build()).code == 0
    assert hv.upload(b"b\0", second.build()).code == 0
    assert hv.upload(b"c\0", second.build()).step == "build-id"


def test_a_loader_that_nobody_has_is_refused() -> None:
    with pytest.raises(ConfigError, match="known are upstream, xenserver"):
        release("4.17.5", loader="other")


@pytest.mark.parametrize(
    ("name", "flags", "code"),
    [("4.19.0", 2, EINVAL), ("4.19.0", 3, 0), ("4.19.0", 1, 0), ("4.18.0", 1, EINVAL)],
)
def test_u53_flags_of_the_operation(name: str, flags: int, code: int) -> None:
    hv = Hypervisor(tiny_xen(), release(name))
    assert hv.upload(b"a\0", minimal().build(), op_flags=flags).code == code


def test_a_xen_without_build_id_has_no_data() -> None:
    hv = Hypervisor(tiny_xen(build_id=None), release("4.17.5"))
    assert hv.upload(b"a\0", minimal().build()).code == ENODATA


@pytest.mark.parametrize("name", [".livepatch.funcs", ".livepatch.depends", ".note.gnu.build-id"])
def test_special_sections_that_are_not_loaded_are_a_hazard(name: str) -> None:
    draft = minimal()
    draft.sec(name).flags = 0
    with pytest.raises(Hazard):
        Hypervisor(tiny_xen(), release("4.17.5")).upload(b"a\0", draft.build())


def test_a_string_table_must_be_one() -> None:
    draft = minimal()
    draft.sections.append(Sec(".bad", b"abc", flags=0, kind=STRTAB))
    assert Hypervisor(tiny_xen(), release("4.17.5")).upload(b"a\0", draft.build()).code == 0
    draft = minimal()
    draft.header["shstrndx"] = 1
    answer = Hypervisor(tiny_xen(), release("4.17.5")).upload(b"a\0", draft.build())
    assert (answer.code, answer.step) == (EINVAL, "section-names")


def test_records_of_version_1_reach_the_version_test_only_at_a_common_multiple() -> None:
    draft = minimal()
    draft.drop(".livepatch.funcs")
    draft.sections.append(Sec(".livepatch.funcs", record(X86_64, 1, old_size=13) * 13))
    answer = Hypervisor(tiny_xen(), release("4.17.5")).upload(b"a\0", draft.build())
    assert answer.code == EOPNOTSUPP
