# SPDX-License-Identifier: Apache-2.0
"""What is known of releases, and that writer and model, who know it apart, say the same."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from xsplice_plugins.artefacts import ASKED
from xsplice_plugins.elf.types import EM_AARCH64, EM_X86_64
from xsplice_plugins.errors import ConfigError, DiffError
from xsplice_plugins.hypervisor.facts import arches, releases
from xsplice_plugins.releases import known_releases, spelled
from xsplice_plugins.target.abi import abi_of
from xsplice_plugins.target.known import facts_of, known_facts
from xsplice_plugins.target.machines import machine_of
from xsplice_plugins.target.sections import profile_of

PAIRS = {EM_X86_64: arches.X86_64, EM_AARCH64: arches.ARM64}
RELEASES = [spelled(version) for version in known_releases()]


@pytest.mark.parametrize("name", RELEASES)
@pytest.mark.parametrize("machine", PAIRS, ids=[arch.name for arch in PAIRS.values()])
def test_writer_and_model_state_the_same_facts(name: str, machine: int) -> None:
    model, arch = releases.release(name), PAIRS[machine]
    if not model.supports(arch):
        with pytest.raises(ConfigError, match=f"Xen {name}: it has no live patching on"):
            known_facts(name, machine)
        return
    facts = known_facts(name, machine)
    abi = abi_of(facts)
    tables = {row.pattern.replace("\\", ""): row for row in abi.profile.tables}
    is_x86 = arch == arches.X86_64
    rows = {
        "record version": (facts.record_version, model.payload_version),
        "record size": (facts.record_size_bytes, model.record_bytes(arch)),
        "feature words": (facts.feature_words, model.feature_words if is_x86 else 0),
        "BUG": (facts.bug_instruction if is_x86 else "", model.bug_instruction.hex() * is_x86),
        "jump size": (facts.jump_size_bytes, arch.insn_size_bytes),
        "jump range": (abi.machine.jump_range_bytes, arch.range_bytes),
        "alternative": (facts.alternative.size_bytes, model.alt_entry_bytes if is_x86 else 12),
        "bug frames": (
            sum(1 for name in tables if name[:12] == ".bug_frames." and name[12:].isdigit()),
            model.bug_frame_kinds(arch),
        ),
        "exception table": (bool(tables[".ex_table"].entry_size_bytes), arch.has_ex_table),
        "alternative calls": (
            bool(tables[".alt_call_sites"].entry_size_bytes),
            model.has_alt_call_sites and arch.has_alternative_calls,
        ),
        "hooks": (bool(abi.hooks), model.has_hooks_basic),
        "NOPs": (abi.has_nops, model.has_hooks_basic),
        "modinfo": (abi.is_v2, model.has_v2_sections),
        "expectations": (abi.has_expectations, model.has_v2_sections),
        "ENDBR64": (abi.is_endbr_aware, bool(model.endbr) and is_x86),
    }
    assert {key: ours for key, (ours, _) in rows.items()} == {
        key: theirs for key, (_, theirs) in rows.items()
    }
    if model.faults_on_readonly_funcs:
        assert abi.is_funcs_writable


@pytest.mark.parametrize(
    ("release", "words", "bug", "sysctl"),
    [
        ("4.7.0", 10, "0f0b", 0xD),
        ("4.13.5", 13, "0f0b", 0x12),
        ("4.17.0", 16, "0f0b", 0x15),
        ("4.17.5", 20, "0f0b", 0x15),
        ("4.17.6", 21, "0f0b", 0x15),
        ("4.21.0", 21, "0f0b", 0x16),
        ("4.21.1", 22, "0f0b", 0x16),
        ("4.22.0", 22, "d6", 0x16),
    ],
)
def test_facts_are_those_of_the_tag(release: str, words: int, bug: str, sysctl: int) -> None:
    """Counted in Xen's history: FEATURESET_NR_ENTRIES, X86_NR_SYNTH and X86_NR_BUG; BUG_INSTR.

    xen/tools/gen-cpuid.py counts the headings of the words, also of one without a feature yet.
    """
    facts = known_facts(release, EM_X86_64)
    found = (facts.feature_words, facts.bug_instruction, facts.sysctl_version)
    assert found == (words, bug, sysctl)


def test_a_list_says_that_the_tree_was_not_asked() -> None:
    facts = known_facts("4.17", EM_X86_64)
    assert facts.origin == "the list of Xen 4.17.0: the tree was not asked"
    assert not facts.is_asked


def test_a_newer_release_gets_the_last_list_and_says_so() -> None:
    facts, last = known_facts("4.23", EM_X86_64), known_facts("4.22.0", EM_X86_64)
    assert "the list of Xen 4.22, for 4.23 is not known" in facts.origin
    assert replace(facts, origin=last.origin, release=last.release) == last
    assert abi_of(facts).hooks == abi_of(last).hooks


@pytest.mark.parametrize("release", ["4.6.5", "5.0", "xen-4.17", ""])
def test_what_is_no_release_is_refused(release: str) -> None:
    with pytest.raises(ConfigError, match="not a release of Xen with live patching"):
        known_facts(release, EM_X86_64)


def test_a_machine_without_payloads_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"machine 40 \(EM_ARM\): payloads are made for x86_64"):
        known_facts("4.17.5", 40)  # EM_ARM


def test_what_the_tree_said_comes_before_the_list() -> None:
    asked = replace(known_facts("4.17.5", EM_X86_64), origin=ASKED, feature_words=21)
    assert facts_of(asked, "4.17.5", EM_X86_64) is asked
    assert facts_of(None, "4.17.5", EM_X86_64).feature_words == 20
    with pytest.raises(ConfigError, match="facts are of a tree for machine 62"):
        facts_of(asked, "4.17.5", EM_AARCH64)


def test_one_profile_stands_for_every_release_of_xen() -> None:
    assert profile_of("xen", known_facts("4.14", EM_X86_64)).name == "xen"
    with pytest.raises(DiffError, match=r"profile xen-4\.17: it is not known; choose one of xen"):
        profile_of("xen-4.17", known_facts("4.17", EM_X86_64))


def test_the_tables_follow_the_facts() -> None:
    facts = known_facts("4.17.5", EM_X86_64)
    wider = replace(facts, alternative=replace(facts.alternative, size_bytes=20, site=4))
    row = profile_of("xen", wider).table(".altinstructions")
    assert row is not None
    assert (row.entry_size_bytes, row.owner_field) == (20, 4)


def test_every_machine_can_write_addresses() -> None:
    for number in PAIRS:
        machine = machine_of(number)
        assert not machine.relocation_sizes.keys() & machine.none_types
        assert machine.relocation_sizes[machine.absolute_type] == 8
