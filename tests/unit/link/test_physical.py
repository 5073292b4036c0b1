# SPDX-License-Identifier: Apache-2.0
"""Physical addresses of the payload's own data: they are not counted from the image's start."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.kit.tiny_tree import TinyTree
from tests.unit.handmade.conftest import FLAGS, TWIN, USER, Bench
from xsplice_plugins import artefacts
from xsplice_plugins.artefacts import PayloadRecord, Severity, record_path

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.toolchain

#: As `__virt_to_maddr` of xen/arch/x86/include/asm/x86_64/page.h has it.
HEAD = """
typedef unsigned long ulong;
extern ulong xen_phys_start; extern int counter;
static char page[64] __attribute__((aligned(64)));
static inline ulong maddr(ulong va)
{
    if (va >= 0xffff830000000000ul) return va & 0xffffffffffffful;
    return xen_phys_start + va - 0xffff82d040000000ul;
}
"""
USERS = 'static int mine(int a) { %s return a; }\nXSPLICE_REPLACE("user", mine);\n'
INNER = "static __attribute__((noinline)) ulong inner(ulong va) { return maddr(va) + 1; }\n"

WRONG = {
    "address": HEAD + USERS % "page[a] = 1; a = maddr((ulong)page) == a;",
    "page number": HEAD + USERS % "page[a] = 1; a += maddr((ulong)page) >> 12;",
    "in the middle": HEAD + USERS % "page[a] = 1; a += maddr((ulong)&page[a]) >> 3;",
    "in a function that is called": HEAD + INNER + USERS % "page[a]++; a += inner((ulong)page);",
}
RIGHT = {
    "of the image's own": HEAD + USERS % "page[a] = 1; a += maddr((ulong)&counter);",
    "of what is given": HEAD + USERS % "page[a] = 1; a += maddr(a);",
    "an index": HEAD + USERS % "page[a * 3 + 1] = xen_phys_start;",
    "an index from there": HEAD + USERS % "a = page[a] + xen_phys_start;",
}


@pytest.fixture(scope="module")
def mapped_tree(tmp_path_factory: pytest.TempPathFactory) -> TinyTree:
    """Return a tree with functions to replace, and the variable that tells where it lies."""
    root = tmp_path_factory.mktemp("physical") / "xen"
    tree = TinyTree(root, flags=FLAGS)
    (root / "xen/common/user.c").write_text(f"unsigned long xen_phys_start;\n{USER}")
    (root / "xen/common/livepatch.c").write_text(TWIN)
    tree.build()
    return tree


@pytest.fixture
def bench(mapped_tree: TinyTree, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    """Return a way to build payloads."""
    return Bench(mapped_tree, tmp_path, capsys)


def doubts(bench: Bench, text: str) -> list[str]:
    """Return what the linker says of physical addresses."""
    built = bench.build(text)
    assert built.status == 0, built.err
    record = artefacts.load(record_path(built.path), PayloadRecord)
    rows = [row for row in record.findings if row.severity is Severity.UNCHECKED]
    return [row.text for row in rows if "physical address" in row.text]


@pytest.mark.parametrize("case", WRONG)
def test_physical_address_of_own_data_is_not_checked(bench: Bench, case: str) -> None:
    (text,) = doubts(bench, WRONG[case])
    assert "computes a physical address from `page`, which lies in the payload" in text


@pytest.mark.parametrize("case", RIGHT)
def test_other_addresses_and_indices_are_no_doubt(bench: Bench, case: str) -> None:
    assert doubts(bench, RIGHT[case]) == []
