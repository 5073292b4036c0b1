# SPDX-License-Identifier: Apache-2.0
"""Stores into memory that is read-only after boot: none comes with a payload, but for a hook's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.kit.tiny_tree import TinyTree
from tests.unit.handmade.conftest import FLAGS, TWIN, Bench
from xsplice_plugins import artefacts
from xsplice_plugins.artefacts import Duty, PayloadRecord, Severity, record_path
from xsplice_plugins.link.sealed import _owner

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.toolchain

USER = """
#define SEALED __attribute__((section(".data.rel.ro.sealed")))
int counter;
SEALED int limit = 3, limits[8] = { 1 };
const int fixed = 5;
int user(int a) { return a * 3 + counter + limit + limits[a] + *(volatile const int *)&fixed; }
void settle(int a) { limit = a + counter; counter = a; }
void settle_one(int a) { limits[a] = counter; counter = a; }
static __attribute__((noinline, used)) void deep(int a) { limit = a; counter += a; }
void through(int a) { deep(a + counter); counter = a; }
"""
HEAD = "extern int counter, limit, limits[8]; extern const int fixed;\n"
USERS = 'static int mine(int a) { %s return a; }\nXSPLICE_REPLACE("user", mine);\n'
OTHER = 'static void other(int a) { %s counter = a + 1; }\nXSPLICE_REPLACE("%s", other);\n'
INNER = "static __attribute__((noinline)) void inner(int *p, int a) { p[a] = a; }\n"
HOOK = "static void on(void) { limit = 4; }\nXSPLICE_LOAD_HOOK(on);\n"

COPY = 'long n = a; int *to = %s, *from = %s; asm volatile ("rep movsb" : "+c" (n), '
COPY += '"+D" (to), "+S" (from) :: "memory");'

STORES = {
    "copied to": (HEAD + USERS % (COPY % ("limits", "&counter")), "limits"),
    "plain": (HEAD + USERS % "limit = a;", "limit"),
    "added to": (HEAD + USERS % "limit += a;", "limit"),
    "with an index": (HEAD + USERS % "limits[a] = 1;", "limits"),
    "with an index that is computed": (HEAD + USERS % "limits[a * 3 + counter] = a;", "limits"),
    "a constant": (HEAD + USERS % "*(volatile int *)&fixed = a;", "fixed"),
    "cleared": (HEAD + USERS % "__builtin_memset(limits, a, sizeof limits);", "limits"),
}
RIGHT = {
    "read": HEAD + USERS % "counter = limit + limits[a];",
    "copied from": HEAD + USERS % (COPY % ("&counter", "limits")),
    "another variable": HEAD + USERS % "counter = a;",
    "in memory of its own": HEAD + "static int own[8];\n" + USERS % "own[limits[a]] = a;",
    "a hook's": HEAD + HOOK + USERS % "counter = a;",
    "as before": HEAD + OTHER % ("limit = a;", "settle"),
    "as before with an index": HEAD + OTHER % ("limits[a] = 2;", "settle_one"),
    "as before in a function of its own": HEAD + OTHER % ("limit = a;", "through"),
}


@pytest.fixture(scope="module")
def sealed_tree(tmp_path_factory: pytest.TempPathFactory) -> TinyTree:
    """Return a tree with memory that is read-only after boot."""
    root = tmp_path_factory.mktemp("sealed") / "xen"
    tree = TinyTree(root, flags=FLAGS)
    (root / "xen/common/user.c").write_text(USER)
    (root / "xen/common/livepatch.c").write_text(TWIN)
    tree.build()
    return tree


@pytest.fixture
def bench(sealed_tree: TinyTree, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    """Return a way to build payloads."""
    return Bench(sealed_tree, tmp_path, capsys)


def doubts(bench: Bench, text: str) -> list[str]:
    """Return what the linker cannot hold of the obligation `loader`."""
    built = bench.build(text)
    assert built.status == 0, built.err
    record = artefacts.load(record_path(built.path), PayloadRecord)
    rows = [row for row in record.findings if row.obligation == Duty.LOADER]
    assert {row.severity for row in rows} <= {Severity.UNCHECKED}
    return [row.text for row in rows]


@pytest.mark.parametrize("case", STORES)
def test_new_store_is_not_checked(bench: Bench, case: str) -> None:
    text, name = STORES[case]
    assert doubts(bench, text) == [
        f"`user` writes `{name}`, which is read-only after boot: the host would fault"
    ]


def test_store_of_another_function_excuses_none(bench: Bench) -> None:
    (text,) = doubts(bench, HEAD + OTHER % ("limit = a;", "settle_one"))
    assert text.startswith("`settle_one` writes `limit`")


def test_store_through_an_argument_is_not_checked(bench: Bench) -> None:
    (text,) = doubts(bench, HEAD + INNER + USERS % "inner(limits, a); inner(&counter, a);")
    assert text.startswith("`inner` writes `limits`")


@pytest.mark.parametrize("case", RIGHT)
def test_store_that_faults_not_or_did_before_is_no_doubt(bench: Bench, case: str) -> None:
    assert doubts(bench, RIGHT[case]) == []


@pytest.mark.parametrize(
    "name", ["up", "arch/x86/a.c#up", "a.c#up.cold", "a.c#up.isra.0.cold.9afa"]
)
def test_part_of_a_function_is_excused_as_the_function_is(name: str) -> None:
    """A part of a global function is local: its file stands before its name."""
    assert _owner(name) == "up"
