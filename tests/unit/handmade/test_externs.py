# SPDX-License-Identifier: Apache-2.0
"""What a hand-written file declares of Xen must be what Xen has: its size, and its type."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.handmade.conftest import Bench, make_tree
from xsplice_plugins import artefacts
from xsplice_plugins.artefacts import PayloadRecord, Severity, record_path

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kit.tiny_tree import TinyTree

pytestmark = pytest.mark.toolchain

DATA = """
struct pair { int first; long second; };
struct pair pair;
unsigned char flag;
int table[8];
static __attribute__((used)) unsigned int slop = 7;
struct pair *pointer;
struct pair *pointers[2];
asm (".data; .globl bare; bare: .quad 5; .text");
int holder(int a) { return a + pair.first + flag + table[0] + slop + !pointer + !pointers[1]; }
"""
STATIC = 'XSPLICE_SYMBOL(slop, "user.c#slop");\n'
PAIR = "struct pair { int first; long second; };\n"
USE = "static unsigned long use(void) { return (unsigned long)%s; }\n"
HOOK = (
    "static void on(void) { volatile unsigned long x = use(); (void)x; }\nXSPLICE_LOAD_HOOK(on);\n"
)


@pytest.fixture(scope="session")
def data_tree(tmp_path_factory: pytest.TempPathFactory) -> TinyTree:
    """Return a tree with variables; tests only read it."""
    tree = make_tree(tmp_path_factory.mktemp("externs") / "xen")
    user = tree.root / "xen/common/user.c"
    user.write_text(user.read_text() + DATA)
    tree.build()
    return tree


@pytest.fixture
def data_bench(data_tree: TinyTree, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    """Return a way to build payloads for a tree with variables."""
    return Bench(data_tree, tmp_path, capsys)


WRONG = {
    "size": ("extern unsigned long flag;", "flag", "`flag` is `unsigned char` (1 bytes)"),
    "size-of-a-static": (
        f"extern unsigned long slop;\n{STATIC}",
        "slop",
        "hotfix.c:2: `slop` is declared as `long unsigned int` (8 bytes), and `common/user.c#slop`",
    ),
    "other-name-in-C": (
        'extern unsigned long mine asm("flag");',
        "mine",
        "`mine` is declared as `long unsigned int` (8 bytes), and `flag` is",
    ),
    "structure": (
        "struct other { long a, b; };\nextern struct other pair;",
        "pair.a",
        "declared as `struct other` (16 bytes), and `pair` is `struct pair` (16 bytes)",
    ),
    "members": (
        "struct pair { long second; int first; };\nextern struct pair pair;",
        "pair.first",
        "declared as `struct pair` (16 bytes), and `pair` is `struct pair` (16 bytes)",
    ),
    "members-behind-a-pointer": (
        "struct pair { long second; int first; };\nextern struct pair *pointer;",
        "pointer->first",
        "declared as `struct pair *` (8 bytes)",
    ),
    "pointer": ("extern long *pointer;", "*pointer", "`pointer` is `struct pair *` (8 bytes)"),
    "shorter-array": ("extern int table[4];", "table[0]", "`table` is `int []` (32 bytes)"),
    "elements": ("extern long table[];", "table[0]", "declared as `long int []`"),
    "function-as-variable": (
        "extern long user;",
        "user",
        "bytes, and `user` is declared as a variable",
    ),
    "variable-as-function": (
        "extern int table(void);",
        "table()",
        "`table` is a variable of 32 bytes, and `table` is declared as a function",
    ),
    "called-function": (
        "extern long user(long a, long b);",
        "user(1, 2)",
        "`user` is `int (int)`, and `user` is declared as `long int (long int, long int)`",
    ),
}

RIGHT = {
    "same": ("extern unsigned char flag;", "flag"),
    "sign": (f"extern int slop;\n{STATIC}", "slop"),
    "structure": (f"{PAIR}extern struct pair pair;", "pair.second"),
    "structure-that-is-only-named": ("struct pair;\nextern struct pair *pointer;", "pointer"),
    "structure-behind-a-pointer": (f"{PAIR}extern struct pair *pointer;", "pointer->second"),
    "pointer-to-anything": ("extern void *pointer;", "pointer"),
    "pointer-as-number": ("extern unsigned long pointer;", "pointer"),
    "array": ("extern int table[8];", "table[1]"),
    "open-array": ("extern int table[];", "table[1]"),
    "bytes": ("extern char pair[];", "pair[1]"),
    "address-of-a-function": ("extern char user[];", "user"),
    "linker-symbol": ("extern char _edata[];", "_edata"),
    "function": ("extern int user(int a);", "user(1)"),
    "not-used": ("extern unsigned long flag;", "0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_declaration_is_refused_by_name(data_bench: Bench, case: str) -> None:
    text, expression, message = WRONG[case]
    built = data_bench.build(f"{text}\n{USE % expression}{HOOK}")
    assert built.status == 4, built.err
    assert message in built.err
    assert built.err.startswith("xsplice build: hotfix.c:")


@pytest.mark.parametrize("case", RIGHT)
def test_right_declaration_is_accepted(data_bench: Bench, case: str) -> None:
    text, expression = RIGHT[case]
    built = data_bench.build(f"{text}\n{USE % expression}{HOOK}")
    assert built.status == 0, built.err
    assert "was not compared" not in built.out


def doubts(bench: Bench, text: str) -> list[str]:
    """Return what nobody could check about a payload."""
    built = bench.build(text)
    assert built.status == 0, built.err
    record = artefacts.load(record_path(built.path), PayloadRecord)
    return [row.text for row in record.findings if row.severity is Severity.UNCHECKED]


def test_variable_of_unknown_size_is_not_checked(data_bench: Bench) -> None:
    (text,) = doubts(data_bench, f"extern int bare;\n{USE % 'bare'}{HOOK}")
    assert text == "the size of `bare` is not known (hotfix.c:2: `int` (4 bytes))"


def test_address_of_a_variable_of_unknown_size_is_no_doubt(data_bench: Bench) -> None:
    assert doubts(data_bench, f"extern int bare[];\n{USE % '&bare'}{HOOK}") == []


@pytest.mark.parametrize(("kind", "status"), [("long", 4), ("int", 0)])
def test_other_files_of_the_payload_are_held_to_it(
    data_bench: Bench, kind: str, status: int
) -> None:
    other = data_bench.sources / "other.c"
    other.write_text("int shared;\n")
    built = data_bench.build(f"extern {kind} shared;\n{USE % 'shared'}{HOOK}", str(other))
    assert built.status == status, built.err
