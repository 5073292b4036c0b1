# SPDX-License-Identifier: Apache-2.0
"""Releases as data: every backport of docs/loader.md#releases at its exact point release."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from xsplice_plugins.errors import ConfigError
from xsplice_plugins.hypervisor import BuildFacts, release
from xsplice_plugins.hypervisor.facts.arches import ARM32, ARM64, X86_64
from xsplice_plugins.releases import known_releases, spelled

#: Property, first releases that have it, last releases before them that do not.
CHANGES = [
    ("has_hooks_basic", ["4.8.0"], ["4.7.6"]),
    ("is_reapply_without_rw_ok", ["4.10.0"], ["4.9.4"]),
    ("checks_alignment", ["4.10.0"], ["4.9.4"]),
    ("is_empty_ex_table_ok", ["4.10.0"], ["4.9.4"]),
    ("checks_symbol_zero", ["4.7.4", "4.8.2", "4.9.1", "4.10.0"], ["4.7.3", "4.8.1", "4.9.0"]),
    ("has_v2_sections", ["4.14.0"], ["4.13.5"]),
    ("skips_empty_sections", ["4.8.0", "4.14.4", "4.15.2", "4.16.0"],
     ["4.7.6", "4.14.5", "4.15.3", "4.16.1", "4.17.0"]),
    ("flags_ignored_symbols", ["4.14.5", "4.15.3", "4.16.1", "4.17.0"],
     ["4.14.4", "4.15.2", "4.16.0", "4.13.5"]),
    ("checks_waitqueues", ["4.11.3", "4.12.2", "4.13.0"], ["4.11.2", "4.12.1", "4.10.4"]),
    ("is_idle_only", ["4.13.1", "4.14.0"], ["4.13.0", "4.12.4"]),
    ("checks_alternative_bounds", ["4.17.4", "4.18.0"], ["4.17.3", "4.16.7"]),
    ("returns_alternative_errors", ["4.18.4", "4.19.1", "4.20.0"], ["4.18.3", "4.19.0", "4.17.6"]),
    ("checks_build_id_first", ["4.18.4", "4.19.1", "4.20.0"], ["4.18.3", "4.19.0", "4.17.6"]),
    ("keeps_fstate", ["4.17.3", "4.18.1", "4.19.0"], ["4.17.2", "4.18.0", "4.16.7"]),
    ("registers_region_at_load", ["4.17.4", "4.18.1", "4.19.0"], ["4.17.3", "4.18.0", "4.16.7"]),
    ("faults_on_readonly_funcs", ["4.16.4", "4.16.7", "4.17.1", "4.17.2", "4.18.0"],
     ["4.16.3", "4.17.0", "4.17.3", "4.18.1", "4.15.5"]),
    ("remaps_rodata", ["4.17.4", "4.18.2", "4.19.0"], ["4.17.3", "4.18.1", "4.16.7"]),
    ("remaps_text", ["4.16.4", "4.17.1", "4.18.0"], ["4.16.3", "4.17.0", "4.15.5"]),
    ("has_alt_call_sites", ["4.21.0"], ["4.20.3"]),
    ("has_altcall_idiom", ["4.13.0", "4.20.3"], ["4.12.4", "4.21.0"]),
    ("has_list_capacities", ["4.21.0"], ["4.20.3"]),
    ("has_op_flags", ["4.19.0"], ["4.18.5"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "have", "lack"), CHANGES, ids=[row[0] for row in CHANGES])
def test_changes_are_where_the_table_says(name: str, have: list[str], lack: list[str]) -> None:
    assert all(getattr(release(point), name) for point in have)
    assert not any(getattr(release(point), name) for point in lack)


@pytest.mark.parametrize(
    ("name", "lp64", "ilp32", "endbr"),
    [
        ("4.7.0", 64, 52, 0),
        ("4.13.5", 64, 52, 0),
        ("4.14.0", 104, 92, 0),
        ("4.14.5", 104, 92, 1),
        ("4.16.0", 104, 92, 0),
        ("4.17.2", 104, 92, 2),
        ("4.22.0", 104, 92, 2),
    ],
)
def test_generations(name: str, lp64: int, ilp32: int, endbr: int) -> None:
    found = release(name)
    assert (found.record_bytes(X86_64), found.record_bytes(ARM32)) == (lp64, ilp32)
    assert found.endbr == endbr


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("4.7.4", 10), ("4.7.5", 11), ("4.12.4", 11), ("4.13.0", 13), ("4.14.5", 16),
        ("4.14.6", 20), ("4.15.0", 13), ("4.17.1", 18), ("4.17.5", 20), ("4.17.6", 21),
        ("4.17.9", 21), ("4.20.3", 21), ("4.21.0", 21), ("4.21.1", 22), ("4.22.0", 22),
    ],
)  # fmt: skip
def test_words_of_features_are_those_of_the_tag(name: str, words: int) -> None:
    assert release(name).feature_words == words


def test_bug_is_another_instruction_since_4_22() -> None:
    assert release("4.21.2").bug_instruction == b"\x0f\x0b"
    assert release("4.22.0").bug_instruction == b"\xd6"


FACTS = BuildFacts(
    feature_words=23,
    record_version=2,
    record_bytes=104,
    alternative_bytes=14,
    bug_instruction=b"\xf1",
)


def test_what_the_build_says_counts_more_than_the_release() -> None:
    found = release("4.17.5", FACTS)
    assert (found.feature_words, found.bug_instruction) == (23, b"\xf1")
    arm = release("4.17.5", replace(FACTS, feature_words=0, bug_instruction=b""))
    assert (arm.feature_words, arm.bug_instruction) == (20, b"\x0f\x0b")


@pytest.mark.parametrize("change", [{"record_version": 3}, {"alternative_bytes": 16}])
def test_structures_that_the_model_does_not_know_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="does not know them"):
        release("4.17.5", replace(FACTS, **change))  # type: ignore[arg-type]  # of integers


def test_a_newer_release_behaves_as_the_last_one_and_says_so() -> None:
    newer, last = release("4.23.0"), release("4.22.0")
    assert replace(newer, name=last.name) == last
    assert newer.note == "Xen 4.23.0 is newer than the last one read, judged as 4.22"
    assert [release(name).note for name in ("4.22.0", "4.17.5", "4.17.99")] == [""] * 3


def test_architectures_arrived_one_by_one() -> None:
    assert [release("4.7.0").supports(arch) for arch in (X86_64, ARM64)] == [True, False]
    assert release("4.8.0").supports(ARM64)
    assert not release("4.8.0").has_alternatives(ARM32)
    assert release("4.9.0").has_alternatives(ARM32)
    assert release("4.14.0").bug_frame_kinds(ARM64) == 3
    assert release("4.15.0").bug_frame_kinds(ARM64) == 4


@pytest.mark.parametrize("name", ["4.6.0", "5.0", "4", "4.17.x", "", "4.17.5.1", "4.-7.0"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="not a release of Xen"):
        release(name)


def test_every_known_release_is_named_as_it_is_asked_for() -> None:
    names = [spelled(version) for version in known_releases()]
    assert [release(name).name for name in names] == names
    assert release("4.17").name == "4.17.0"
