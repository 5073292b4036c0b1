# SPDX-License-Identifier: Apache-2.0
"""Lists that are put in another order, and walked otherwise."""

from __future__ import annotations

import pytest

from xsplice_plugins.csource.ordering import reordered_lists

MAKE = """void make(struct d *d, struct e *new)
{
    struct e *e;
    @
}
"""
READ = """struct e *look(struct d *d, int at)
{
    struct e *e;
    list_for_each_entry ( e, &d->entries, next )
    @
    return NULL;
}
"""
ADD = "list_add(&new->next, &d->entries);"
SORTED = """list_for_each_entry ( e, &d->entries, next )
        if ( e->at > new->at )
            break;
    list_add_tail(&new->next, &e->next);"""
ANY = "if ( e->at == at ) return e;"
FIRST = "if ( e->at >= at ) return e->at == at ? e : NULL;"


def found(
    makes: tuple[str, str], reads: tuple[str, str], head: str = "entries"
) -> list[tuple[str, str]]:
    """Return what is said of a maker and a reader in two files."""
    rows = (("a.c", MAKE, makes), ("b.c", READ.replace("entries", head), reads))
    return list(
        reordered_lists(
            tuple((p, *(text.replace("@", part) for part in both)) for p, text, both in rows)
        )
    )


@pytest.mark.parametrize(
    ("makes", "reads"),
    [
        ((ADD, ADD.replace("list_add", "list_add_tail")), (ANY, FIRST)),
        ((ADD, SORTED), (ANY, "{ if ( e->at > at ) break; " + ANY + " }")),
        ((ADD, SORTED), (ANY, FIRST)),
        ((SORTED, ADD), (FIRST, ANY)),
    ],
)
def test_a_list_that_exists_has_the_old_order(
    makes: tuple[str, str], reads: tuple[str, str]
) -> None:
    first, second = found(makes, reads)
    assert (first[0], second[0]) == ("a.c", "b.c")
    assert first[1].startswith("`make` adds to a list at another place (`list_add")
    assert "and `look` walks it otherwise" in first[1]


@pytest.mark.parametrize(
    ("makes", "reads", "head"),
    [
        ((ADD, SORTED), (ANY, ANY), "entries"),  # one side alone
        ((ADD, ADD), (ANY, FIRST), "entries"),
        ((ADD, SORTED), (ANY, FIRST), "others"),  # another list
        ((ADD, ADD.replace("&d", "&p->d").replace("new->", "e->")), (ANY, FIRST), "entries"),
        ((ADD, "lock(d); " + ADD), (ANY, FIRST), "entries"),
        ((ADD, ADD.replace("list_add", "list_add_rcu")), (ANY, FIRST), "entries"),
    ],
)
def test_a_list_in_the_order_that_it_had(
    makes: tuple[str, str], reads: tuple[str, str], head: str
) -> None:
    assert found(makes, reads, head) == []


def test_what_stands_behind_the_loop_is_none_of_it() -> None:
    reads = "for_each ( n ) { run(n); } " + ANY, "for_each ( n ) { run(n); } " + ANY + " end(d);"
    assert found((ADD, SORTED), reads) == []
