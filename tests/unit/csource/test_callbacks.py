# SPDX-License-Identifier: Apache-2.0
"""What a function that is called by its address takes its data for: claims and negations."""

from __future__ import annotations

import pytest

from xsplice_plugins.csource.callbacks import changed_callbacks, retyped_functions, taken_in

OLD = """
struct item { int count; };
static void tick(void *data)
{
    const struct item *i = data;

    more(i);
}
static int cmp(void *a)
{
    struct item *i = a;
    return i->count;
}
int begin(struct item *i, struct owner *o)
{
    init_timer(&o->timer, tick, i, o->cpu);
    tick(i);
    sort(o, 3, cmp);
    return 0;
}
"""
TAKES = "const struct item *i = data;"
OWNER = "struct owner *o = data; struct item *i = o->item;"
GIVES = "tick, i, o->cpu"


def edited(*edits: tuple[str, str], source: str = OLD) -> str:
    for old, new in edits:
        assert old in source
        source = source.replace(old, new)
    return source


def found(*edits: tuple[str, str], source: str = OLD) -> str:
    return "; ".join(text for _, text in changed_callbacks(source, edited(*edits, source=source)))


@pytest.mark.parametrize(
    "takes",
    [
        OWNER,
        "struct item *i = ((struct owner *)data)->item;",
        "struct owner *o; struct item *i; o = data; i = o->item;",
        "struct item *i = container_of(data, struct item, other);",
    ],
)
def test_data_that_is_taken_for_something_else(takes: str) -> None:
    """The call that registers may be given a variable of another type, under the same words."""
    text = found((TAKES, takes))
    assert text.startswith("objects that exist already hold what `tick` took before: it takes `")
    assert text.endswith("where it took `item *`")


def test_other_data_beside_a_changed_function() -> None:
    """The types are the same, and what the pointer means is not."""
    text = found((GIVES, "tick, i->next, o->cpu"), ("more(i);", "more(i->prev);"))
    assert text.endswith("`init_timer` is given `i -> next` with it where it was `i`")
    source = edited(("more(i);", "helper(i);"), ("static void tick", HELPER + "static void tick"))
    assert found((GIVES, "tick, i->next, o->cpu"), ("return 1", "return 2"), source=source)


HELPER = "static int helper(struct item *i) { return 1; }\n"


def test_a_variable_of_another_type_is_other_data() -> None:
    edits = (("struct item *i, struct owner", "struct other *i, struct owner"), ("more(i)", "go()"))
    assert "`init_timer` is given `i` with it where it was `i`" in found(*edits)


@pytest.mark.parametrize(
    "edits",
    [
        [("more(i);", "if ( i->count ) more(i);")],
        [("tick(void *data)", "tick(struct item *data)"),
         ("more(i);", "struct part *p = data->part;")],
        [("more(i);", "struct part *p = (struct part *)data[1];")],
        [("more(i);", "struct part *p = data ? part_of(i) : NULL;")],
        [(TAKES, "struct item *item = data; const struct item *i = item;")],
        [(TAKES, "struct item *i = (struct item *)data;")],
        [(GIVES, "tick, i->next, o->cpu")],
        [(GIVES, "tick, i, 0"), ("more(i);", "more(0);")],
        [("int begin(struct item *i,", "int begin(struct item *it,"),
         (GIVES, "tick, it, o->cpu"), ("tick(i);\n    sort", "tick(it);\n    sort"),
         ("more(i);", "more(0);")],
        [("int begin", "static void tock(void *data) { struct owner *o = data; }\nint begin"),
         (GIVES, "tock, o, o->cpu")],
        [("int begin", "static void tock(void *data) { struct owner *o = data; }\nint begin"),
         ("tick(i);\n    sort", "init_timer(&o->more, tock, o, 0);\n    sort"),
         ("more(i);", "more(0);")],
    ],
)  # fmt: skip
def test_right_fixes_stay(edits: list[tuple[str, str]]) -> None:
    """Another body, other data for the same body, another name, a new timer's new function."""
    assert found(*edits) == ""


def test_what_is_reached_from_the_data_has_a_type_of_its_own() -> None:
    """A new look at another member is no change; the same member taken for another thing is."""
    source = edited(
        ("tick(void *data)", "tick(struct item *data)"),
        (TAKES, "struct item *i = data; const struct list *l = data->priv;"),
    )
    assert found(("more(i);", "struct part *p = data->part[i->count].p;"), source=source) == ""
    assert found(("more(i);", "struct part *p = data->priv ?: i;"), source=source)
    text = found(
        ("const struct list *l = data->priv", "struct part *l = data->priv"), source=source
    )
    assert text.endswith("it takes `part *` where it took `list *`")
    assert found(("const struct list *l", "struct list *l"), source=source) == ""
    for was, now in (("data->n[j].p", "data->n[i].p"), ("data[0]", "data[0]")):
        many = edited(("data->priv", was), source=source)
        text = found((f"const struct list *l = {was}", f"struct part *l = {now}"), source=many)
        assert text.endswith("it takes `part *` where it took `list *`")


def test_what_is_called_at_once_keeps_nothing() -> None:
    edit = ("struct item *i = a;", "struct owner *o = a; struct item *i = o->item;")
    assert found(edit) == ""
    assert found(edit, source=edited(("sort(o, 3, cmp)", "later(o, 3, cmp)")))
    waits = edited(("sort(o, 3, cmp)", "on_selected_cpus(o, cmp, i, 1)"))
    assert found(edit, source=waits) == ""
    assert found(edit, source=edited(("cmp, i, 1", "cmp, i, 0"), source=waits))


def test_what_a_helper_takes_counts() -> None:
    source = edited(
        (TAKES, "helper(data);"),
        ("more(i);", ""),
        ("static void tick", HELPER + "static void tick"),
    )
    assert "`owner *`" in found(
        ("helper(struct item *i)", "helper(struct owner *i)"), source=source
    )
    assert found(("return 1", "return 2"), source=source) == ""


def test_functions_in_tables() -> None:
    """Who calls gives all arguments, so a type may change; what an open pointer is may not."""
    source = edited(("init_timer(&o->timer, tick, i, o->cpu);", ""))
    table = source + "static const struct ops ops = { .tick = tick };\n"
    assert found((TAKES, OWNER), source=source) == ""
    assert found((TAKES, OWNER), source=table)
    typed = edited(("tick(void *data)", "tick(struct item *data)"), (TAKES, ""), source=table)
    assert found(("tick(struct item *data)", "tick(struct owner *data)"), source=typed) == ""


@pytest.mark.parametrize(
    "text",
    [
        "#define INIT(t, d) \\\n    init_timer(t, tick, d, 0)\n",
        "#if 1\nstatic int stay(void) { struct hook h = { .call = tick, .data = 0 }; }\n#endif\n",
        "static int stay(struct hook *h) { h->call = h ? tick : NULL; }\n",
    ],
)
def test_other_ways_to_keep_a_function(text: str) -> None:
    source = edited((GIVES, "0, i, o->cpu"))
    assert found((TAKES, OWNER), source=source) == ""
    assert "`owner *`" in found((TAKES, OWNER), source=source + text)
    asked = "static int ask(struct hook *h) { return h->call == tick && h->tick; }\n"
    assert found((TAKES, OWNER), source=source + asked) == ""


def test_a_function_that_is_defined_twice() -> None:
    twice = "#ifdef X\nstatic void tick(void *data) { }\n#else\nstatic void tick"
    assert "`owner *`" in found(
        (TAKES, OWNER), ("static void tick", twice + "(void *data)\n{ }\n#endif\nstatic void tick")
    )


def test_functions_that_other_files_hand_over() -> None:
    source = "void tick(void *data) { struct item *i = data; }\n"
    new = edited(("struct item", "struct owner"), source=source)
    assert retyped_functions(source, new) == ("tick",)
    assert retyped_functions(source, source) == ()
    assert changed_callbacks(source, new) == ()
    assert [name for name, _ in changed_callbacks(source, new, frozenset({"tick"}))] == ["tick"]
    assert taken_in("void f(void) { t->call = tick; }", {"tick"}) == {"tick"}
    assert taken_in("void f(void) { later(&tick, 0); }", {"tick"}) == {"tick"}
    assert taken_in("void f(void) { tick(0); t.tick = 1; }", {"tick"}) == set()
