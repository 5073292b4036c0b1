# SPDX-License-Identifier: Apache-2.0
"""Locks that a patch takes with interrupts off where they were on, or the other way round."""

from __future__ import annotations

import pytest

from xsplice_plugins.csource.locking import relocked

OLD = """static DEFINE_SPINLOCK(map_lock);
static void add(struct area *a)
{
    unsigned long flags;

    spin_lock(&map_lock);
    a->next = first;
    spin_unlock(&map_lock);
    spin_lock_irqsave(&a->queue[2].lock, flags);
    spin_unlock_irqrestore(&a->queue[2].lock, flags);
}
static int size(void)
{
    spin_lock(&map_lock);
    spin_unlock(&map_lock);
    return 1;
}
"""


def told(*edits: tuple[str, str], old: str = OLD) -> list[str]:
    """Return what is said of the source with some edits."""
    new = old
    for was, now in edits:
        assert was in new
        new = new.replace(was, now)
    return [text for _, text in relocked((("xen/common/map.c", old, new),))]


@pytest.mark.parametrize(
    ("was", "now", "words"),
    [
        ("spin_lock(&map_lock)", "spin_lock_irqsave(&map_lock, flags)",
         "`map_lock` with interrupts off"),
        ("spin_lock(&map_lock)", "spin_lock_irq(&map_lock)", "`map_lock` with interrupts off"),
        ("spin_lock_irqsave(&a->queue[2].lock, flags)", "spin_lock(&a->queue[2].lock)",
         "`lock` with interrupts on"),
        ("    spin_lock(&map_lock)",
         "    spin_lock_irqsave(&outer, flags);\n    spin_lock(&map_lock)",
         "`map_lock` with interrupts off"),
        ("    spin_lock(&map_lock)", "    local_irq_disable();\n    spin_lock(&map_lock)",
         "`map_lock` with interrupts off"),
    ],
)  # fmt: skip
def test_a_lock_that_exists_is_taken_otherwise(was: str, now: str, words: str) -> None:
    rows = told((was, now))
    assert rows
    assert all(words in row for row in rows)
    assert all("CONFIG_DEBUG_LOCKS" in row for row in rows)


def test_each_function_that_does_so_is_named() -> None:
    rows = told(("spin_lock(&map_lock)", "spin_lock_irq(&map_lock)"))
    assert [row.split()[0] for row in rows] == ["add", "size"]


def test_a_new_function_that_takes_it_otherwise_is_named() -> None:
    more = "static void more(void)\n{\n    spin_lock_irq(&map_lock);\n}\n"
    (row,) = told(("static int size", f"{more}static int size"))
    assert row.startswith("more takes `map_lock` with interrupts off")


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ("return 1", "return 2"),
        ("spin_lock(&map_lock)", "spin_lock( &map_lock )"),
        ("spin_lock(&map_lock)", "read_lock(&map_lock)"),
        ("spin_lock(&map_lock);\n    a", "a"),
        (
            "static int size",
            "static void more(void)\n{\n    spin_lock(&map_lock);\n}\nstatic int size",
        ),
        ("    return 1", "    spin_lock_irq(&new_lock);\n    return 1"),
        (
            "    spin_lock(&map_lock)",
            "    spin_lock_irq(&outer);\n    spin_unlock_irq(&outer);\n    spin_lock(&map_lock)",
        ),
    ],
)
def test_what_takes_it_as_before_is_none(was: str, now: str) -> None:
    assert told((was, now)) == []
