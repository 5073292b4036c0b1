# SPDX-License-Identifier: Apache-2.0
"""What boot code does with new things: it calls them, hands them on, sets them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.kit.differ_inputs import Compiler, compile_with, diff, diff_c, every_compiler

if TYPE_CHECKING:
    from pathlib import Path

    from xsplice_plugins.artefacts import Delta

pytestmark = pytest.mark.toolchain

#: Functions that boot calls, one of them for a parameter of the command line.
TEXT = r"""
#pragma GCC visibility push(hidden)
typedef int fn(int);
extern fn *hook, far;
extern int far_state;
#pragma GCC visibility pop
NEW
struct param { const char *name; int kind; fn *func; };
static __init noinline int parse(int a) { PARSE return put(a, 1); }
static const __attribute__((section(".init.setup"))) used struct param setup = {"x", 1, parse};
__init int start(int a) { BOOT return put(a, 2); }
fn *const table[2] __attribute__((section(".init.rodata"))) = {get TABLE};
int f(int a) { return put(a, 3) RUNS; }
"""
NEW = r"""
static int slots; int open_slots; static unsigned char rows[9];
static noinline int lazy(int a) { return get(a) + 7; }
static noinline void fill(int a) { slots = a; hook = lazy; }
"""


def texts(**words: str) -> tuple[str, str]:
    """Return both sides of a fix."""
    names = ("NEW", "PARSE", "BOOT", "TABLE", "RUNS")
    old = new = TEXT
    for name in names:
        old, new = old.replace(name, ""), new.replace(name, words.get(name, ""))
    return old, new.replace("put(a, 3)", "put(a, 4)")


def uses(delta: Delta, name: str) -> tuple[set[str], set[str], set[str]]:
    """Return the plain names that a row calls, hands on and sets."""
    (row,) = (row for row in delta.boot if row.name.rpartition("#")[2] == name)
    calls, hands, sets = ({n.rpartition("#")[2] for n in names} for names in
                          (row.calls, row.hands, row.sets))  # fmt: skip
    return calls - {"put", "get"}, hands - {"get"}, sets


@pytest.mark.parametrize(
    ("boot", "calls", "hands", "sets"),
    [
        ("slots = a;", set(), set(), {"slots"}),
        ("slots += a;", set(), set(), {"slots"}),
        ("open_slots = 5;", set(), set(), {"open_slots"}),
        ("far_state = a;", set(), set(), {"far_state"}),
        ("a += open_slots;", set(), set(), set()),
        ("if (open_slots > 3) a++;", set(), set(), set()),
        ("rows[a] = 2;", set(), {"rows"}, {"rows"}),
        ('note("", rows);', {"note"}, {"rows"}, {"rows"}),
        ("hook = lazy;", set(), {"lazy"}, {"hook", "lazy"}),
        ("hook = far;", set(), {"far"}, {"hook", "far"}),
        ("a = lazy(a);", {"lazy"}, set(), set()),
        ("fill(a);", {"fill"}, {"lazy"}, {"slots", "hook", "lazy"}),
    ],
)  # fmt: skip
def test_what_boot_code_does_with_new_things_is_told(
    boot: str, calls: set[str], hands: set[str], sets: set[str], tmp_path: Path
) -> None:
    old, new = texts(NEW=NEW, BOOT=boot, RUNS="+ slots + open_slots + rows[a] + lazy(a)")
    delta = diff_c(tmp_path, old, new)
    assert uses(delta, "start") == (calls, hands - {"hook"}, sets)


def test_a_boot_table_hands_on_what_it_names(tmp_path: Path) -> None:
    delta = diff_c(tmp_path, *texts(NEW=NEW, TABLE=", lazy"))
    assert uses(delta, "table") == (set(), {"lazy"}, set())


def test_what_a_parameter_of_the_command_line_sets_is_not_set_without_it(tmp_path: Path) -> None:
    """The hypervisor that booted did not know the parameter: its default is what a rebuild has."""
    words = {"NEW": NEW, "PARSE": "slots = a;", "RUNS": "+ slots"}
    assert uses(diff_c(tmp_path, *texts(**words)), "parse") == (set(), set(), set())
    called = diff_c(tmp_path, *texts(**words, BOOT="parse(a + 1);"))
    assert uses(called, "parse") == (set(), set(), {"slots"}), "boot calls it without a parameter"
    handed = diff_c(tmp_path, *texts(**words, TABLE=", parse"))
    assert uses(handed, "parse") == (set(), set(), {"slots"}), "boot may call it without one"


def test_what_the_image_has_is_no_new_thing(tmp_path: Path) -> None:
    old, new = texts(NEW=NEW, BOOT="slots = a; hook = lazy;", RUNS="+ slots")
    old = new.replace("slots = a; hook", "slots = a + 1; hook")
    assert uses(diff_c(tmp_path, old, new), "start") == (set(), set(), {"hook"})


@every_compiler()
def test_a_branch_is_told_from_an_address_on_every_machine(
    compiler: Compiler, tmp_path: Path
) -> None:
    for boot, calls, hands in (
        ("a = lazy(a);", {"lazy"}, set()),
        ("hook = lazy;", set(), {"lazy"}),
    ):
        sides = texts(NEW=NEW, BOOT=boot, RUNS="+ lazy(a)")
        delta = diff(*(compile_with(compiler, tmp_path, text) for text in sides))
        found = uses(delta, "start")
        assert (found[0], found[1] - {"hook"}) == (calls, hands)
