# SPDX-License-Identifier: Apache-2.0
"""Calls that belong together: what one function takes and another one releases."""

from __future__ import annotations

import pytest

from xsplice_plugins.csource.pairs import changed_pairs

PATH = "common/a.c"
#: Functions that make, end and use an object; patches put words in their places.
TEXT = """
struct a { int users; int kind; struct list_head node; struct d *d; int n[4]; };
static int live;
@outside@
static void help(struct a *a) { put_domain(a->d); }
int make(struct a *a, bool flag)
{
    int rc = begin(a);
    if ( rc ) { @failed@ return rc; }
    @make@
    return 0;
}
int end(struct a *a, bool flag)
{
    int rc = 0;
    if ( !a->kind ) return -EINVAL;
    @end@
    finish(a);
    return rc;
}
void use(struct a *a, int what)
{
    @use@
    run(a);
}
int both(struct a *a, int what)
{
    switch ( what ) {
    case 1: @one@ break;
    case 2: @two@ break;
    }
    return 0;
}
"""


def text(**parts: str) -> str:
    """Return the source with some words in its places."""
    found = TEXT
    for name, words in parts.items():
        found = found.replace(f"@{name}@", words)
    for name in ("outside", "failed", "make", "end", "use", "one", "two"):
        found = found.replace(f"@{name}@", "")
    return found


def stale(old: str, new: str) -> str:
    """Return what is said of one file."""
    return " ".join(said for _, said in changed_pairs(((PATH, old, new),)).stale)


ACROSS = {
    "get, put": {"make": "get_knownalive_domain(a->d);", "end": "put_domain(a->d);"},
    "in a condition": {"make": "if ( !get_domain(a->d) ) return -1;", "end": "put_domain(a->d);"},
    "put where it failed too": {
        "make": "get_domain(a->d); if ( a->kind ) { put_domain(a->d); return -1; }",
        "end": "put_domain(a->d);",
    },
    "both on a condition": {"make": "if ( flag ) get_page(a);", "end": "if ( flag ) put_page(a);"},
    "pause": {"make": "domain_pause_nosync(a->d);", "end": "domain_unpause(a->d);"},
    "atomic": {"make": "atomic_inc(&a->users);", "end": "atomic_dec(&a->users);"},
    "atomic and test": {
        "make": "atomic_add(1, &a->users);",
        "end": "if ( !atomic_dec_and_test(&a->users) ) return -EBUSY;",
    },
    "a member": {"make": "a->users++;", "end": "if ( --a->users ) return -EBUSY;"},
    "a member by another operator": {"make": "a->users += 1;", "end": "a->users = a->users - 1;"},
    "a member by its address": {
        "make": "int *p = &a->users; (*p)++;",
        "end": "a->users--;",
    },
    "a member of a table": {"make": "a->n[a->kind]++;", "end": "--a->n[a->kind];"},
    "a variable": {"make": "live++;", "end": "if ( !--live ) rc = 1;"},
    "a new variable": {"outside": "static int more;", "make": "more++;", "end": "more--;"},
    "a variable of each CPU": {"make": "this_cpu(held)++;", "end": "per_cpu(held, rc)--;"},
    "a list": {"make": "list_add_tail(&a->node, &all);", "end": "list_del_init(&a->node);"},
    "a timer": {"make": "init_timer(&a->node, tick, a, 0);", "end": "kill_timer(&a->node);"},
    "new functions": {
        "outside": "static void hold(struct a *a) { get_domain(a->d); }\n"
        "static void drop(struct a *a) { put_domain(a->d); }",
        "make": "hold(a);",
        "end": "drop(a);",
    },
    "new macros": {
        "outside": "#define HOLD(a) get_domain((a)->d)\n#define DROP(a) put_domain((a)->d)",
        "make": "HOLD(a);",
        "end": "DROP(a);",
    },
    "a function that exists": {"make": "get_domain(a->d);", "end": "help(a);"},
    "two cases of one function": {"one": "get_domain(a->d);", "two": "put_domain(a->d);"},
    "two users": {"make": "get_domain(a->d);", "use": "if ( what ) put_domain(a->d);"},
}


@pytest.mark.parametrize("name", ACROSS)
def test_what_is_new_in_one_function_and_released_in_another_is_named(name: str) -> None:
    assert "objects that exist never took it" in stale(text(), text(**ACROSS[name]))


@pytest.mark.parametrize("name", ACROSS)
def test_what_is_taken_away_in_both_is_named(name: str) -> None:
    assert "objects that exist took it" in stale(text(**ACROSS[name]), text())


@pytest.mark.parametrize("name", ACROSS)
def test_an_edit_beside_such_a_pair_says_nothing(name: str) -> None:
    old = text(**ACROSS[name])
    assert not stale(old, old.replace("finish(a);", "finish(a, 1);").replace("run(a)", "runs(a)"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param({}, {"use": "get_domain(a->d); run(a); put_domain(a->d);"}, id="in one"),
        pytest.param(
            {}, {"use": "if ( !get_domain(a->d) ) return; run(a); put_domain(a->d);"}, id="may fail"
        ),
        pytest.param(
            {},
            {"use": "d = get_domain_by_id(what); if ( d == NULL ) return; put_domain(d);"},
            id="may fail by what it gives",
        ),
        pytest.param(
            {},
            {"use": "struct d *d = get_domain_by_id(what); if ( d ) { run(d); put_domain(d); }"},
            id="only if it worked",
        ),
        pytest.param(
            {},
            {"use": "if ( what ) get_domain(a->d); run(a); if ( what ) put_domain(a->d);"},
            id="the same condition twice",
        ),
        pytest.param(
            {},
            {"use": "get_page(a); if ( what ) goto out; run(a); out: put_page(a);"},
            id="by a jump",
        ),
        pytest.param(
            {},
            {
                "use": "for_each_vcpu ( d, v ) vcpu_pause(v); run(a);"
                " for_each_vcpu ( d, v ) vcpu_unpause(v);"
            },
            id="in two loops",
        ),
        pytest.param(
            {"make": "get_domain(a->d);", "end": "put_domain(a->d);"},
            {
                "make": "get_domain(a->d);",
                "end": "put_domain(a->d);",
                "failed": "put_domain(a->d);",
            },
            id="a leak where it failed",
        ),
        pytest.param(
            {"make": "get_domain(a->d);"},
            {"make": "get_domain(a->d);", "end": "put_domain(a->d);"},
            id="a leak",
        ),
        pytest.param(
            {"end": "put_domain(a->d);"},
            {"make": "get_domain(a->d);", "end": "put_domain(a->d);"},
            id="a reference that was missing",
        ),
        pytest.param(
            {"make": "get_domain(a->d);", "use": "put_domain(a->d);"},
            {"make": "get_domain(a->d);", "end": "put_domain(a->d);"},
            id="a release that moved",
        ),
        pytest.param(
            {"make": "get_domain(a->d);", "end": "put_domain(a->d);"},
            {
                "outside": "static void hold(struct a *a) { get_domain(a->d); }",
                "make": "hold(a);",
                "end": "help(a);",
            },
            id="in functions of their own",
        ),
        pytest.param(
            {"outside": "static void get_a(struct a *a) { a->users++; }", "make": "get_a(a);"},
            {"outside": "static void a_hold(struct a *a) { a->users++; }", "make": "a_hold(a);"},
            id="another name",
        ),
        pytest.param(
            {}, {"make": "get_domain(a->d);", "end": "put_page(a->d);"}, id="of another kind"
        ),
        pytest.param({}, {"make": "a->users++;", "end": "a->kind--;"}, id="another member"),
        pytest.param(
            {},
            {"make": "for ( int i = 0; i < 3; i++ ) run(i);", "end": "while ( rc-- ) run(rc);"},
            id="of the function's own",
        ),
        pytest.param(
            {}, {"make": "set_bit(1, &a->kind);", "end": "clear_bit(1, &a->kind);"}, id="bit"
        ),
        pytest.param(
            {}, {"make": "spin_lock(&a->lock);", "end": "spin_unlock(&a->lock);"}, id="a lock"
        ),
    ],
)
def test_what_is_no_pair_across_functions(old: dict[str, str], new: dict[str, str]) -> None:
    assert not stale(text(**old), text(**new))


def test_what_becomes_unconditional_is_a_release_that_is_new() -> None:
    old = text(make="if ( flag ) get_domain(a->d);", end="if ( flag ) put_domain(a->d);")
    assert "never took it" in stale(old, text(make="get_domain(a->d);", end="put_domain(a->d);"))
    assert "never took it" in stale(
        text(end="if ( flag ) put_domain(a->d);"),
        text(make="get_domain(a->d);", end="put_domain(a->d);"),
    )


def test_two_files_are_read_together() -> None:
    texts = (
        ("common/a.c", text(), text(make="get_domain(a->d);")),
        (
            "common/b.c",
            "void gone(struct a *a) { }",
            "void gone(struct a *a) { put_domain(a->d); }",
        ),
    )
    said = changed_pairs(texts).stale
    assert [path for path, _ in said] == ["common/a.c", "common/b.c"]
    assert "`make`" in said[0][1]
    assert "`gone` (common/b.c)" in said[0][1]
    assert not changed_pairs(texts[1:]).stale


def test_a_take_alone_is_a_remark_where_something_releases() -> None:
    old = text(end="put_domain(a->d);")
    new = text(make="get_domain(a->d);", end="put_domain(a->d);")
    found = changed_pairs(((PATH, old, new),))
    assert not found.stale
    said = "takes what it did not take before (`get_domain`): what was made before has not taken it"
    assert found.remarks == ((PATH, f"`make` {said}"),)
    assert not changed_pairs(((PATH, text(), text(make="get_page(a);")),)).remarks
    assert not changed_pairs(((PATH, new, old),)).remarks


def test_a_question_of_the_policy_takes_nothing() -> None:
    """The policy has calls that take, too."""
    old = text(end="put_domain(a->d);")
    asks = text(make="if ( xsm_get_domain_state(a->d) ) return -1;", end="put_domain(a->d);")
    assert not changed_pairs(((PATH, old, asks),)).remarks
    taken = asks.replace("xsm_get_domain_state", "get_domain_state")
    assert changed_pairs(((PATH, old, taken),)).remarks
    both = {"make": "xsm_alloc_security_domain(a->d);", "end": "xsm_free_security_domain(a->d);"}
    assert stale(text(), text(**both))


@pytest.mark.parametrize(
    ("old", "new"), [("a->users++;", "a->users--;"), ("live -= 2;", "live += 2;")]
)
def test_a_count_that_runs_the_other_way_is_named(old: str, new: str) -> None:
    assert "does not fit" in stale(text(make=old), text(make=new))
    assert not stale(text(make=old), text(make=f"if ( rc < 9 ) {old}"))


@pytest.mark.parametrize(
    ("take", "release"),
    [
        ("atomic_add(1, &a->users);", "atomic_add(-1, &a->users);"),
        ("a->users++;", "a->users += -1;"),
        ("a->users++;", "a->users += (-1);"),
        ("a->users++;", "a->users += (int)-1;"),
        ("a->users += n;", "a->users += ((long)(-n));"),
        ("a->users++;", "a->users += ~0;"),
        ("a->users++;", "a->users = a->users + -1;"),
        ("a->users++;", "a->users = -1 + a->users;"),
        ("a->users = n + a->users;", "a->users = -n + a->users;"),
        ("a->users = 1 + a->users;", "a->users--;"),
        ("atomic_add(1, &a->users);", "atomic_add((-1), &a->users);"),
        ("add_sized(&a->users, 1);", "add_sized(&a->users, -1);"),
        ("arch_fetch_and_add(&a->users, n);", "arch_fetch_and_add(&a->users, -n);"),
    ],
)
def test_to_add_less_than_nothing_is_to_release(take: str, release: str) -> None:
    assert "objects that exist never took it" in stale(text(), text(make=take, end=release))
    assert not stale(text(), text(make=take, end=take))


def test_a_difference_is_no_negative_amount() -> None:
    for more in ("(n) - 1", "n - 1", "f(-1)"):
        take, release = f"a->users += {more};", f"a->users -= {more};"
        assert "objects that exist never took it" in stale(text(), text(make=take, end=release))


def test_a_function_that_exists_counts_only_if_it_does_that_and_nothing_else() -> None:
    helper = "static void help(struct a *a) { put_domain(a->d); }"
    old = text(make="").replace(
        helper, "static void help(struct a *a) { if ( a ) put_domain(a->d); }"
    )
    new = text(make="get_domain(a->d);", end="help(a);").replace(
        helper, "static void help(struct a *a) { if ( a ) put_domain(a->d); }"
    )
    assert not stale(old, new)
    assert stale(text(), text(make="get_domain(a->d);", end="help(a);"))


#: A hook takes and another one releases; a variable of Xen, then what the patch brings.
HOOKED = """
extern struct timer theirs;
static struct timer mine, *pointer;
static struct { struct list_head e; int count; } spot = { .e = { }, .count = ARRAY_SIZE(x) };
static void arm(void) { @arm@ }
LIVEPATCH_LOAD_HOOK(arm);
static void disarm(void) { @disarm@ }
LIVEPATCH_UNLOAD_HOOK(disarm);
"""


def hooked(arm: str, disarm: str, more: str = "", **parts: str) -> str:
    hooks = HOOKED.replace("@arm@", arm).replace("@disarm@", disarm)
    return text(outside=hooks + more, **parts)


OWN = [
    ("init_timer(&mine, tick, 0, 0);", "kill_timer(&mine);"),
    ("list_add(&spot.e, &all);", "list_del(&spot.e);"),
    ("spot.count++;", "--spot.count;"),
    ("spot.count = spot.count + 1;", "spot.count -= 1;"),
    ("atomic_inc(&spot.count);", "atomic_dec(&spot.count);"),
]


@pytest.mark.parametrize(("arm", "disarm"), OWN)
def test_a_hook_may_take_back_what_the_patch_brings(arm: str, disarm: str) -> None:
    found = changed_pairs(((PATH, text(), hooked(arm, disarm)),))
    assert not found.stale
    assert not found.remarks
    helped = hooked("begin();", disarm).replace("static void arm", BEGIN % arm + "static void arm")
    assert not stale(text(), helped)


BEGIN = "static void begin(void) { %s }\n"


@pytest.mark.parametrize(("arm", "disarm"), OWN)
def test_other_code_than_hooks_still_counts(arm: str, disarm: str) -> None:
    """One side in a function of objects, in a hook that others call or know, without a hook."""
    assert stale(text(), hooked(arm, "", end=disarm))
    assert stale(text(), hooked("", disarm, make=arm))
    assert stale(text(), hooked(arm, disarm, make=arm, end=disarm))
    assert stale(text(), hooked(arm, disarm, make="arm();", end="disarm();"))
    assert stale(text(), hooked(arm, disarm, use="a->begin = arm; a->end = disarm;"))
    assert stale(text(), hooked(arm, disarm, "struct ops ops = { .add = arm, .del = disarm };"))
    assert stale(text(), hooked(arm, disarm, "#define MAKE (arm)\n"))
    assert stale(text(), hooked(arm, disarm).replace("LIVEPATCH_LOAD_HOOK", "initcall"))


@pytest.mark.parametrize(
    ("arm", "disarm"),
    [
        ("domain_pause(dom0);", "domain_unpause(dom0);"),
        ("init_timer(&theirs, tick, 0, 0);", "kill_timer(&theirs);"),
        ("init_timer(pointer, tick, 0, 0);", "kill_timer(pointer);"),
        ("pointer->users++;", "pointer->users--;"),
        ("live++;", "live--;"),
        ("atomic_inc(&live);", "atomic_dec(&live);"),
        ("struct timer mine; init_timer(&mine);", "kill_timer(&mine);"),
        ("help_in(current);", "put_domain(current->d);"),
    ],
)
def test_hooks_that_take_of_objects_that_exist_are_a_question(arm: str, disarm: str) -> None:
    old = text() + "static void help_in(struct a *a) { get_domain(a->d); }\n"
    new = hooked(arm, disarm) + "static void help_in(struct a *a) { get_domain(a->d); }\n"
    assert "objects that exist never took it" in stale(old, new)


#: A counter that gets another name: how it is written before and after.
RENAMED = {
    "turned": ("live++;", "alive--;", True),
    "turned, on each CPU": ("this_cpu(live)++;", "this_cpu(alive)--;", True),
    "as before": ("live++;", "alive++;", False),
    "as before, on each CPU": ("this_cpu(live)++;", "this_cpu(alive)++;", False),
}


@pytest.mark.parametrize(("was", "now", "is_told"), RENAMED.values(), ids=RENAMED)
def test_a_counter_with_another_name_must_count_the_same_way(
    was: str, now: str, *, is_told: bool
) -> None:
    said = stale(text(use=was), text(use=now).replace("static int live", "static int alive"))
    assert ("`--` of `alive` the other way round" in said) is is_told


def test_a_counter_that_stays_is_no_other_name_of_a_new_one() -> None:
    new = text(use="alive--;", outside="static int alive;")
    assert stale(text(use="live++;"), new) == ""
