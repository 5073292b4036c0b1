# SPDX-License-Identifier: Apache-2.0
"""Releases as data: every backport of docs/loader.md#releases at its exact point release."""

from __future__ import annotations

import pytest

from xsplice_plugins.errors import ConfigError
from xsplice_plugins.hypervisor import known_releases, release
from xsplice_plugins.hypervisor.facts.arches import ARM32, ARM64, X86_64

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
    ("name", "generation", "lp64", "ilp32", "endbr", "interface"),
    [
        ("4.7.0", "G1", 64, 52, 0, 0xD),
        ("4.13.5", "G1", 64, 52, 0, 0x12),
        ("4.14.0", "G2a", 104, 92, 0, 0x13),
        ("4.14.5", "G2b", 104, 92, 1, 0x13),
        ("4.16.0", "G2a", 104, 92, 0, 0x14),
        ("4.17.2", "G2b", 104, 92, 2, 0x15),
        ("4.17.3", "G2c", 104, 92, 2, 0x15),
        ("4.18.0", "G2b", 104, 92, 2, 0x15),
        ("4.22.0", "G2c", 104, 92, 2, 0x16),
    ],
)
def test_generations(
    name: str, generation: str, lp64: int, ilp32: int, endbr: int, interface: int
) -> None:
    found = release(name)
    assert found.record_generation == generation
    assert (found.record_bytes(X86_64), found.record_bytes(ARM32)) == (lp64, ilp32)
    assert (found.endbr, found.interface_version) == (endbr, interface)


def test_architectures_arrived_one_by_one() -> None:
    assert [release("4.7.0").supports(arch) for arch in (X86_64, ARM64)] == [True, False]
    assert release("4.8.0").supports(ARM64)
    assert not release("4.8.0").has_alternatives(ARM32)
    assert release("4.9.0").has_alternatives(ARM32)
    assert release("4.14.0").bug_frame_kinds(ARM64) == 3
    assert release("4.15.0").bug_frame_kinds(ARM64) == 4


@pytest.mark.parametrize(
    "name", ["4.6.0", "4.23.0", "5.0", "4", "4.17.x", "", "4.17.5.1", "4.-7.0"]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"release|knows"):
        release(name)


def test_known_releases_are_in_order_and_unique() -> None:
    versions = [found.version for found in known_releases()]
    assert versions == sorted(set(versions))
    assert release("4.17").name == "4.17.0"
