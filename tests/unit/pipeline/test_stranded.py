# SPDX-License-Identifier: Apache-2.0
"""New things that only boot would have put to use: said by name, and no word answers it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from tests.kit.differ_inputs import compile_c, diff
from xsplice_plugins.artefacts import Duty, Severity
from xsplice_plugins.errors import RefusedError
from xsplice_plugins.pipeline.boot import check_boot, left_by_boot
from xsplice_plugins.pipeline.stranded import stranded
from xsplice_plugins.plugins.spec import Config

if TYPE_CHECKING:
    from pathlib import Path

    from xsplice_plugins.artefacts import Delta

pytestmark = pytest.mark.toolchain

CONFIG = Config(profile="xen", release="4.17.5")
LAZY = "noinline int lazy(int a) { return get(a) + 7; }\n"
MORE = "static noinline int more(int a) { return get(a) + 9; }\n" + LAZY.replace("get", "more")
OPS = LAZY + "typedef int fn(int); struct ops { fn *first, *second; };\n"
OPS += "const struct ops ops = {lazy, get};\n"
#: The object with boot code, and the one that brings functions.
BOOT = r"""
#pragma GCC visibility push(hidden)
typedef int fn(int);
extern int slots;
extern fn *hook, lazy, enlist;
extern const void *ops, *seen;
#pragma GCC visibility pop
__init int start(int a) { BODY return put(a, 2); }
fn *const table[2] __attribute__((section(".init.rodata"))) = {get TABLE};
"""
RUNS = "extern int (*hook)(int);\nNEW\nint f(int a) { return put(a, 3) BODY; }\n"
HOOK = """
static void on_load(void) { hook = lazy; }
static void (*const on)(void) used __attribute__((section(".livepatch.hooks.load"))) = on_load;
"""
TABLE = """
typedef int fn(int);
NEW
fn *const table[2] __attribute__((section(".init.rodata"))) = {get MORE};
int f(int a) { return put(a, 3) BODY; }
"""
ENLIST = LAZY + "int enlist(int a) { hook = lazy; return a; }"


def fix(folder: Path, new: str, body: str = "", **boot: str) -> tuple[list[Delta], list[bytes]]:
    """Return what a fix of both objects changes."""
    rows, objects = [], []
    sides = (
        ("a.c", BOOT.replace("BODY", "").replace("TABLE", ""),
         BOOT.replace("BODY", boot.get("BODY", "")).replace("TABLE", boot.get("TABLE", ""))),
        ("b.c", RUNS.replace("NEW", "").replace("BODY", ""),
         RUNS.replace("NEW", new).replace("BODY", "+ a" + body)),
    )  # fmt: skip
    for name, before, after in sides:
        (folder / name).mkdir()
        old, now = (compile_c(folder / name, text, name=name) for text in (before, after))
        rows.append(replace(diff(old, now, source_path=name), object_path=name))
        objects.append(now)
    return rows, objects


@pytest.mark.parametrize(
    ("new", "boot", "names"),
    [
        (LAZY, {"TABLE": ", lazy"}, {"lazy"}),
        (LAZY, {"BODY": "hook = lazy;"}, {"lazy"}),
        (MORE, {"TABLE": ", lazy"}, {"lazy", "more"}),
        (OPS, {"BODY": "seen = &ops;"}, {"lazy"}),
        (ENLIST, {"BODY": "a += enlist(a);"}, {"lazy"}),
    ],
)
def test_a_new_function_that_only_boot_hands_on_is_not_checked(
    new: str, boot: dict[str, str], names: set[str], tmp_path: Path
) -> None:
    deltas, objects = fix(tmp_path, new, **boot)
    idle = stranded(deltas, objects, CONFIG)
    assert {name.rpartition("#")[2] for name in idle} == names
    by = "table" if "TABLE" in boot else "start"
    assert set(idle.values()) == {(by,)}
    word = f"INIT_{'DATA' if by == 'table' else 'CODE'}:{by}"
    check_boot(deltas, (word,), idle)
    first, *asked = left_by_boot("fix", deltas, idle)
    assert (first.severity, first.obligation, first.question) == (
        Severity.UNCHECKED, Duty.DATA, "",
    )  # fmt: skip
    assert all(f"`{name}`" in first.text for name in names)
    assert f"(`{by}`)" in first.text
    assert [row.question for row in asked] == [word]


@pytest.mark.parametrize(
    ("new", "body", "boot"),
    [
        (LAZY, "+ lazy(a)", {"TABLE": ", lazy"}),
        (LAZY, "+ (hook = lazy)(a)", {"TABLE": ", lazy"}),
        (LAZY + HOOK, "", {"TABLE": ", lazy"}),
        (LAZY, "", {"BODY": "a += lazy(a);"}),
        (LAZY, "", {"BODY": "a++;"}),
        (LAZY, "", {"TABLE": ", put"}),
        (OPS, "+ ops.first(a) + (long)&ops", {"BODY": "seen = &ops;"}),
    ],
    ids=[
        "called",
        "handed on",
        "by a hook",
        "boot calls it",
        "nobody",
        "another one",
        "in a table that is used",
    ],
)
def test_a_new_function_that_runs_otherwise_is_no_doubt(
    new: str, body: str, boot: dict[str, str], tmp_path: Path
) -> None:
    deltas, objects = fix(tmp_path, new, body, **boot)
    assert stranded(deltas, objects, CONFIG) == {}


def test_a_new_function_is_not_said_to_have_run_at_boot(tmp_path: Path) -> None:
    """A static function has a row of its own: no word is asked for it, and none refused."""
    more = {"NEW": f"static {LAZY}", "MORE": ", lazy", "BODY": "+ a"}
    old = new = TABLE
    for word, text in more.items():
        old, new = old.replace(word, ""), new.replace(word, text)
    sides = [compile_c(tmp_path, side) for side in (old, new)]
    deltas, objects = [diff(*sides)], sides[1:]
    idle = stranded(deltas, objects, CONFIG)
    assert [name.rpartition("#")[2] for name in idle] == ["lazy"]
    with pytest.raises(RefusedError) as refused:
        check_boot(deltas, (), idle)
    said = "on your word, and leaves it UNPROVED: only that hands on new `lazy`"
    assert f"ACCEPT=INIT_DATA:table leaves it out {said}" in str(refused.value)
    assert "lazy: " not in str(refused.value)
    texts = [row.text for row in left_by_boot("fix", deltas, idle)]
    assert not any("`lazy` ran" in row or "`table` ran" in row for row in texts)
    assert len(texts) == 2
