# SPDX-License-Identifier: Apache-2.0
"""Alternatives of an arm64 payload: which are put in at load, where branches lead, and BUGs."""

from __future__ import annotations

import dataclasses
import struct

import pytest

from tests.kit.payloads import ALLOC, EXEC, UND, Draft, Rel, Sec, Sym, add_code, minimal
from tests.kit.tiny_xen import tiny_xen
from xsplice_plugins.hypervisor import Hazard, Hypervisor, Unknown, release
from xsplice_plugins.hypervisor.facts.arches import ARM64
from xsplice_plugins.hypervisor.image.alternatives import AltInstr
from xsplice_plugins.hypervisor.image.alternatives_arm import apply_alternatives_arm64
from xsplice_plugins.hypervisor.image.memory import RW, Memory, MemorySegment

SITE, REPLACEMENT, TEXT = 0x32_0000, 0x31_0000, 0x20_0000
NOP, OTHER = 0xD503201F, 0xD2800020  # nop; mov x0, #1
LIVEPATCH, ERRATUM = 4, 9


def patched(
    *words: int, feature: int = LIVEPATCH, repl_bytes: int | None = None, site: int = SITE
) -> tuple[int, ...]:
    """Apply one alternative over NOPs, and return what lies there then."""
    memory = Memory()
    for start, content in ((site, [NOP] * 1024), (REPLACEMENT, [*words])):
        data = bytearray(struct.pack(f"<{len(content)}I", *content).ljust(4096, b"\0"))
        memory.map(MemorySegment(addr_virt=start, data=data, perm=RW, name="p", owner="payload p"))
    size = 4 * len(words)
    alternative = AltInstr(
        orig_virt=site, repl_virt=REPLACEMENT, feature=feature, is_inverted=False, orig_bytes=size,
        repl_bytes=size if repl_bytes is None else repl_bytes, pad_bytes=0,
    )  # fmt: skip
    apply_alternatives_arm64(
        memory,
        [alternative],
        taken=LIVEPATCH,
        named={ERRATUM},
        is_text=lambda virt: TEXT <= virt < TEXT + 0x10_0000,
        step="alternatives",
    )
    return struct.unpack(f"<{len(words)}I", memory.read(site, size))


def branch(kind: int, bits: int, lowest: int, source: int, target: int) -> int:
    """Encode a branch."""
    return kind | (target - source >> 2 & (1 << bits) - 1) << lowest


def test_live_patching_is_a_feature_that_every_host_has() -> None:
    assert patched(OTHER, NOP) == (OTHER, NOP)


def test_what_depends_on_the_processor_stays_as_it_was() -> None:
    assert patched(OTHER, feature=ERRATUM) == (NOP,)


@pytest.mark.parametrize("kind", [0x14000000, 0x94000000], ids=["b", "bl"])
@pytest.mark.parametrize("target", [TEXT, TEXT + 0xFFFFC])
def test_a_branch_into_the_image_keeps_its_target(kind: int, target: int) -> None:
    found = patched(NOP, branch(kind, 26, 0, REPLACEMENT + 4, target))
    assert found == (NOP, branch(kind, 26, 0, SITE + 4, target))


@pytest.mark.parametrize(
    ("kind", "bits"),
    [(0xB4000000, 19), (0x35000000, 19), (0x54000001, 19), (0x37080000, 14)],
    ids=["cbz", "cbnz", "b.ne", "tbnz"],
)
def test_a_branch_within_the_replacement_stays(kind: int, bits: int) -> None:
    words = branch(kind, bits, 5, 0, 8), NOP, branch(kind, bits, 5, 8, 0)
    assert patched(*words) == words


@pytest.mark.parametrize("kind", [0x34000000, 0xB5000000, 0x54000000])
def test_a_short_branch_is_moved_as_far_as_it_reaches(kind: int) -> None:
    """Xen would cut the distance of one that does not reach, and jump anywhere."""
    target = 0x2F_0000
    word = branch(kind, 19, 5, REPLACEMENT, target)
    last = target + (1 << 20)
    assert patched(word, site=last) == (branch(kind, 19, 5, last, target),)
    with pytest.raises(Hazard, match="out of reach"):
        patched(word, site=last + 0x1000)


@pytest.mark.parametrize("target", [SITE, REPLACEMENT - 4, REPLACEMENT + 12])
def test_a_branch_elsewhere_is_a_bug(target: int) -> None:
    """To the payload's own text too: at this moment Xen does not know it as code."""
    with pytest.raises(Hazard, match=r"BUG: an alternative branches to") as stop:
        patched(NOP, branch(0x14000000, 26, 0, REPLACEMENT + 4, target))
    assert not isinstance(stop.value, Unknown)
    assert patched(NOP, branch(0x14000000, 26, 0, 4, 8))[1] == branch(0x14000000, 26, 0, 4, 8)


def test_another_length_is_a_bug() -> None:
    with pytest.raises(Hazard, match="changes the length"):
        patched(NOP, NOP, repl_bytes=4)


@pytest.mark.parametrize(("feature", "repl_bytes"), [(17, 4), (ERRATUM, 0)])
def test_what_only_the_build_knows_is_unknown(feature: int, repl_bytes: int) -> None:
    """A number that may be the one of patching functions, and such a function."""
    with pytest.raises(Unknown):
        patched(NOP, feature=feature, repl_bytes=repl_bytes)


def with_alternative(feature: int, to: str) -> Draft:
    """Give a payload with a branch as the replacement of a NOP."""
    draft = minimal(ARM64)
    draft.sec(".rodata").align = 8
    add_code(draft, "site", struct.pack("<I", NOP))
    draft.sections += [
        Sec(
            ".altinstructions",
            struct.pack("<iiHBB", 0, 0, feature, 4, 4),
            relocs=[Rel(0, 261, "site"), Rel(4, 261, "instead")],
        ),
        Sec(
            ".altinstr_replacement",
            struct.pack("<I", 0x14000000),
            flags=ALLOC | EXEC,
            relocs=[Rel(0, 282, to)],
        ),
    ]
    draft.symbols.append(Sym("instead", ".altinstr_replacement"))
    draft.symbols.append(Sym("answer", UND))
    return draft


@pytest.mark.parametrize(("feature", "is_taken"), [(LIVEPATCH, True), (ERRATUM, False)])
def test_at_upload_a_payload_gets_what_its_host_takes(feature: int, *, is_taken: bool) -> None:
    image = dataclasses.replace(tiny_xen(ARM64), features_named=frozenset({ERRATUM}))
    hv = Hypervisor(image, release("4.17.5"))
    assert hv.upload(b"p\0", with_alternative(feature, "answer").build()).code == 0
    site = next(s.addr_virt for s in hv.payloads[0].symbols if s.name == "site")
    (word,) = struct.unpack("<I", hv.memory.read(site, 4))
    target = image.symbols["answer"].addr_virt
    assert word == (branch(0x14000000, 26, 0, site, target) if is_taken else NOP)


def test_at_upload_a_branch_into_the_payload_itself_stops_the_host() -> None:
    hv = Hypervisor(tiny_xen(ARM64), release("4.17.5"))
    with pytest.raises(Hazard, match="no code in use"):
        hv.upload(b"p\0", with_alternative(LIVEPATCH, "new_function").build())
