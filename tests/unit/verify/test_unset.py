# SPDX-License-Identifier: Apache-2.0
"""New variables that nobody sets on a host that runs: what reads them finds the first value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec import structs

from tests.unit.verify.effect_inputs import IMAGE, compiled, record
from xsplice_plugins.artefacts import Duty, Finding, NewVariable, Severity
from xsplice_plugins.verify.effects import effect_findings

if TYPE_CHECKING:
    from pathlib import Path


def doubts(
    folder: Path,
    writers: tuple[str, ...],
    readers: tuple[str, ...],
    boot: tuple[str, ...] = (),
) -> list[Finding]:
    """Return what is not checked of a payload with one variable."""
    variable = NewVariable(name="flag", writers=writers, readers=readers, boot=boot)
    made = structs.replace(record("shared"), variables=(variable,))
    found = effect_findings(compiled(folder, "int shared(void) { return 1; }"), made, IMAGE)
    return [finding for finding in found if finding.severity is Severity.UNCHECKED]


@pytest.mark.parametrize(
    ("writers", "when"),
    [
        (("set_up_cpu",), "when a CPU comes up or goes"),
        (("tune_vendor", "cpu_callback"), "when a CPU comes up or goes"),
        (("late",), "while the host boots"),
        (("late", "set_up_cpu"), "when a CPU comes up or goes"),
    ],
)
def test_variable_that_nobody_sets_on_this_host_is_not_checked(
    tmp_path: Path, writers: tuple[str, ...], when: str
) -> None:
    (finding,) = doubts(tmp_path, writers, ("set_up_cpu", "shared"))
    assert finding.obligation == Duty.DATA
    assert finding.text == (
        f"`flag` is new, and only {' and '.join(f'`{name}`' for name in writers)} sets it, which "
        f"runs only {when}: `shared` reads what it is at first; set it in a load hook"
    )


@pytest.mark.parametrize(
    ("writers", "readers"),
    [
        (("set_domain",), ("shared",)),
        (("set_up_cpu", "set_domain"), ("shared",)),
        (("set_up_cpu",), ("tune_vendor",)),
        (("new_function",), ("shared",)),
    ],
    ids=["at any time", "also at any time", "read there only", "whoever calls it"],
)
def test_variable_that_is_set_or_not_read_otherwise_is_no_doubt(
    tmp_path: Path, writers: tuple[str, ...], readers: tuple[str, ...]
) -> None:
    assert doubts(tmp_path, writers, readers) == []


@pytest.mark.parametrize("reader", ["shared", "set_up_cpu"])
def test_variable_that_only_boot_code_that_is_left_out_sets_is_not_checked(
    tmp_path: Path, reader: str
) -> None:
    (finding,) = doubts(tmp_path, (), (reader,), ("file.c#first",))
    assert (finding.obligation, finding.question) == (Duty.DATA, "")
    assert finding.text == (
        "`flag` is new, and only `first` sets it, which is boot code that is left out: "
        f"`{reader}` reads what it is at first; set it in a load hook"
    )


@pytest.mark.parametrize(
    ("writers", "readers", "boot"),
    [
        ((), ("shared",), ()),
        (("set_domain",), ("shared",), ("first",)),
        ((), ("late",), ("first",)),
        (("set_up_cpu",), ("tune_vendor",), ("first",)),
    ],
    ids=["set by nobody", "also at any time", "read at boot only", "and where it is read"],
)
def test_variable_that_boot_code_sets_beside_others_is_no_doubt(
    tmp_path: Path, writers: tuple[str, ...], readers: tuple[str, ...], boot: tuple[str, ...]
) -> None:
    assert doubts(tmp_path, writers, readers, boot) == []
