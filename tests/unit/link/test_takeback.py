# SPDX-License-Identifier: Apache-2.0
"""Which hooks surely take back what a payload hands out: the very thing, on every path."""

from __future__ import annotations

import pytest

from tests.kit.link_inputs import Compiler
from tests.unit.link.hooked import ARRIVE, BODIES, HEAD, LEAVE, THINGS, fix, unchecked

pytestmark = pytest.mark.toolchain

#: What the replaced function does, the hook that takes it back, and one that does not.
PAIRS = {
    "the tasklet": (
        "tasklet_schedule(&one);",
        "tasklet_kill(&one);",
        "tasklet_kill(&two);",
    ),
    "two tasklets": (
        "tasklet_schedule(&one); tasklet_schedule(&two);",
        "tasklet_kill(&one); tasklet_kill(&two);",
        "tasklet_kill(&one);",
    ),
    "one of four": (
        "tasklet_schedule(&many[2]);",
        "tasklet_kill(&many[2]);",
        "tasklet_kill(&many[0]);",
    ),
    "a callback in a timer of its own": (
        "init_timer(&one, tick);",
        "kill_timer(&one);",
        "kill_timer(&two);",
    ),
    "in a function that the hook calls": (
        "init_timer(&two, tick);",
        "help(&two);",
        "help(&one);",
    ),
    "on every path": (
        "init_timer(&one, tick);",
        "if ( number == 7 ) kill_timer(&one); else { number = 1; kill_timer(&one); }",
        "if ( number == 7 ) kill_timer(&one);",
    ),
    "unless the timer tells": (
        "init_timer(&one, tick);",
        "if ( one.status ) kill_timer(&one);",
        "if ( !one.status ) kill_timer(&one);",
    ),
    "the timer tells of itself alone": (
        "init_timer(&one, tick);",
        "if ( !one.status ) return; kill_timer(&one);",
        "if ( !two.status ) return; kill_timer(&one);",
    ),
    "the timer tells, and something else": (
        "init_timer(&one, tick);",
        "if ( one.status ) { number = 3; kill_timer(&one); }",
        "if ( one.status ) { if ( number == 3 ) kill_timer(&one); }",
    ),
    "a key": (
        'register_keyhandler(90, tap, "a text");',
        "key_table[90].run = 0; key_table[90].text = 0;",
        "key_table[89].run = 0; key_table[89].text = 0;",
    ),
    "a key and its text": (
        'register_keyhandler(90, tap, "a text");',
        "key_table[90].text = 0; key_table[90].run = 0;",
        "key_table[90].run = 0;",
    ),
    "a field of a table": (
        "slots[2] = tick;",
        "slots[2] = 0;",
        "slots[1] = 0;",
    ),
    "two fields of a table": (
        "slots[1] = tick; slots[2] = tap;",
        "slots[1] = 0; slots[2] = 0;",
        "slots[1] = 0;",
    ),
    "a field that is only written": (
        "slots[2] = tick;",
        "slots[2] = (void *)size;",
        "number = slots[2] != 0;",
    ),
    "a field that gets nothing of its own": (
        "slots[2] = tick;",
        "slots[2] = &number;",
        "slots[2] = tap;",
    ),
    "a field that is swapped": (
        "slots[2] = tick;",
        "SWAP(&slots[2], &number);",
        "SWAP(&slots[1], &number);",
    ),
    "a field that gets something of its own by a swap": (
        "SWAP(&slots[2], tick);",
        "SWAP(&slots[2], (void *)size);",
        "SWAP(&slots[2], tap);",
    ),
    "a field that gets back what it had": (
        "static void *old; old = SWAP(&slots[2], tick);",
        "static void *found; found = (void *)size; SWAP(&slots[2], found);",
        "int half = number; SWAP((int *)&slots[2], half);",
    ),
    "a field that holds it": (
        "slots[2] = tick;",
        "if ( slots[2] == tick ) slots[2] = 0;",
        "if ( slots[2] != tick ) slots[2] = 0;",
    ),
    "a field that holds something": (
        "slots[2] = tick;",
        "if ( slots[2] ) slots[2] = 0;",
        "if ( slots[3] ) slots[2] = 0;",
    ),
    "a node of a list": (
        "if ( !node.l.next ) list_add(&node.l, &current->all);",
        "if ( node.l.next ) list_del(&node.l);",
        'printk("used %d times", node.count);',
    ),
    "a node of a list of the image": (
        "if ( list_empty(&node.l) ) list_add(&node.l, &heads[1]);",
        "list_del(&node.l);",
        "heads[1].next = 0;",
    ),
    "the same node": (
        "if ( list_empty(&node.other) ) list_add(&node.other, &current->all);",
        "list_del(&node.other);",
        "list_del(&node.l);",
    ),
    "a node that is in a list": (
        "if ( list_empty(&node.l) ) list_add(&node.l, &current->all);",
        "if ( !list_empty(&node.l) ) list_del(&node.l);",
        "if ( list_empty(&node.l) ) list_del(&node.l);",
    ),
    "a node, whatever it counts": (
        "if ( list_empty(&node.l) ) list_add(&node.l, &current->all);",
        "node.count++; list_del(&node.l);",
        "if ( node.count > 3 ) list_del(&node.l);",
    ),
    "a pointer that is no list": (
        "slots[3] = &node.l;",
        "slots[3] = 0;",
        "list_del(&node.l);",
    ),
}
ALWAYS_HELD = {
    "four in a loop": (
        "for ( int i = 0; i < 4; i++ ) tasklet_schedule(&many[i]);",
        "tasklet_kill(&many[0]);",
    ),
    "where a branch leaves the hook": (
        "init_timer(&one, tick);",
        """asm volatile("lea %0, %%rdi; cmpl $7, number(%%rip); je kill_timer"
        :: "m"(one) : "rdi", "memory");""",
    ),
    "a callback in another's timer": (
        "init_timer((struct timer *)&current->field, tick);",
        "kill_timer(&one);",
    ),
    "where a swap depends on what is there": (
        "slots[2] = tick;",
        "__sync_val_compare_and_swap(&slots[2], (void *)size, (void *)&number);",
    ),
    "swapped out of an own variable, and handed on": (
        "static void *mine = tick; slots[3] = SWAP(&mine, 0);",
        "slots[2] = 0;",
    ),
    "swapped out of the stack, and handed on": (
        "void *volatile here = tick; slots[3] = SWAP(&here, 0);",
        "slots[2] = 0;",
    ),
    "swapped in twice, and handed on": (
        "SWAP(&slots[2], tick); slots[3] = SWAP(&slots[2], tick);",
        "slots[2] = 0;",
    ),
    "a pointer of a domain": ("current->field = &node;", "list_del(&node.l);"),
    "handed out by the hook itself": ("number = 4;", "slots[2] = 0; slots[2] = tick;"),
    "handed out again by the hook": ("init_timer(&one, tick);", "kill_timer(&one); arrive();"),
}


@pytest.fixture(scope="module")
def image(compiler: Compiler) -> bytes:
    return compiler.image(version_c=HEAD + BODIES)


@pytest.mark.parametrize(("does", "right", "_wrong"), PAIRS.values(), ids=PAIRS)
def test_a_hook_that_takes_the_very_thing_back_is_believed(
    compiler: Compiler, image: bytes, does: str, right: str, _wrong: str
) -> None:
    assert unchecked(compiler, image, fix(does, right)) == ()


@pytest.mark.parametrize(("does", "_right", "wrong"), PAIRS.values(), ids=PAIRS)
def test_a_hook_that_may_not_take_it_back_is_not_believed(
    compiler: Compiler, image: bytes, does: str, _right: str, wrong: str
) -> None:
    rows = unchecked(compiler, image, fix(does, wrong))
    assert rows
    assert all("after unload it would dangle" in row for row in rows)


@pytest.mark.parametrize(("does", "hook"), ALWAYS_HELD.values(), ids=ALWAYS_HELD)
def test_what_no_hook_can_tell_is_not_believed(
    compiler: Compiler, image: bytes, does: str, hook: str
) -> None:
    assert unchecked(compiler, image, fix(does, hook))


EARLY = {
    "a tasklet, which is dead then": ("tasklet_schedule(&one);", "tasklet_kill(&one);", True),
    "a timer that is set up again": ("init_timer(&one, tick);", "kill_timer(&one);", False),
    "a timer that is only stopped": (
        "set_timer(&one, 4);",
        "extern void stop_timer(struct timer *); stop_timer(&one);",
        False,
    ),
    "a node that is added again": (
        "list_add(&node.l, &current->all);",
        "list_del(&node.l);",
        False,
    ),
    "a field that is written again": ("slots[2] = tick;", "slots[2] = 0;", False),
}


@pytest.mark.parametrize(("does", "hook", "is_believed"), EARLY.values(), ids=EARLY)
def test_before_the_revert_only_what_is_final_counts(
    compiler: Compiler, image: bytes, does: str, hook: str, *, is_believed: bool
) -> None:
    rows = unchecked(compiler, image, fix(does, hook, "prerevert"))
    assert (rows == ()) is is_believed


@pytest.mark.parametrize(("does", "hook", "_is_believed"), EARLY.values(), ids=EARLY)
def test_what_a_hook_handed_out_is_taken_back_before_the_revert(
    compiler: Compiler, image: bytes, does: str, hook: str, *, _is_believed: bool
) -> None:
    text = fix("number = 1;", hook, "prerevert") + ARRIVE % (does, "load")
    assert unchecked(compiler, image, text) == ()


@pytest.mark.parametrize(("field", "is_believed"), [(2, True), (1, False)])
def test_what_xen_had_is_swapped_in_again(
    compiler: Compiler, image: bytes, field: int, *, is_believed: bool
) -> None:
    text = "static void *xens;" + fix("number = 1;", f"SWAP(&slots[{field}], xens);")
    text += ARRIVE % ("xens = slots[2]; slots[2] = tick;", "load")
    assert (unchecked(compiler, image, text) == ()) is is_believed


@pytest.mark.parametrize("kind", ["preapply", "apply"])
def test_an_apply_that_fails_runs_no_hook_that_takes_back(
    compiler: Compiler, image: bytes, kind: str
) -> None:
    texts = [
        fix("number = 1;", "slots[2] = 0;", "postrevert") + ARRIVE % ("slots[2] = tick;", when)
        for when in (kind, "load")
    ]
    assert [bool(unchecked(compiler, image, text)) for text in texts] == [True, False]


def test_beside_a_revert_hook_no_unload_hook_runs(compiler: Compiler, image: bytes) -> None:
    text = fix("slots[2] = tick;", "slots[2] = 0;")
    other = LEAVE.replace("leave", "back").replace("hook ", "hook2 ")
    assert unchecked(compiler, image, text + other % ("number = 4;", "revert"))
    assert unchecked(compiler, image, text + other % ("number = 4;", "postrevert")) == ()


#: What hands an address over, and what looks like it and does not.
HAND_OVER = {
    "a copy of a table": (
        "static void *table[3] = { tick, tick, tick };",
        "memcpy(slots, table, size);",
        "memcpy(slots, many, size);",
        "is copied by `memcpy`",
    ),
    "a copy of what is on the stack": (
        "",
        "void *a[2] = { tick, tick }; memcpy(slots, a, size);",
        'memcpy(slots, "only a text", size);',
        "is copied by `memcpy`",
    ),
    "a copy for a guest": (
        "",
        "void *a = tick; copy_to_guest_pv((void *)size, &a, 8);",
        "long a = number; copy_to_guest_pv((void *)size, &a, 8);",
        "is copied by `copy_to_guest_pv`",
    ),
    "a function's address as a text": (
        "",
        'snprintf((char *)slots, 8, "%p", tick);',
        'snprintf((char *)slots, 8, "%s", "a text");',
        "is written as text by `snprintf`",
    ),
    "a model specific register": (
        "",
        'asm volatile("wrmsr" :: "a"(tick), "c"(8), "d"((long)tick >> 32));',
        'asm volatile("wrmsr" :: "a"(number), "c"(8), "d"(0));',
        "is given to the processor",
    ),
    "a table of descriptors on the stack": (
        "",
        """struct __attribute__((packed)) { short limit; void *base; } d = { 9, &one };
        asm volatile("lidt %0" :: "m"(d));""",
        """struct __attribute__((packed)) { short limit; void *base; } d = { 9, slots };
        asm volatile("lidt %0" :: "m"(d));""",
        "is given to the processor",
    ),
    "a table of descriptors that a datum names": (
        """static struct __attribute__((packed)) { short limit; void *base; }
        desc = { 9, &one };""",
        'asm volatile("lidt %0" :: "m"(desc)); desc.limit++;',
        'asm volatile("incw %0" : "+m"(desc));',
        "is given to the processor",
    ),
    "a control register": (
        "",
        'asm volatile("mov %0, %%cr3" :: "r"(&one));',
        'asm volatile("mov %0, %%cr3" :: "r"(size));',
        "is given to the processor",
    ),
    "the way over the stack": (
        "",
        'asm volatile("push %1; pop %0" : "=m"(slots[1]) : "r"(tick));',
        'asm volatile("push %1; pop %0" : "=m"(slots[1]) : "r"(size));',
        "is stored in `slots`",
    ),
    "calls of others that go on": (
        "",
        "on_selected_cpus(&current->id, tick, 0, 0);",
        "on_selected_cpus(&current->id, tick, 0, 1);",
        "is passed to `on_selected_cpus`",
    ),
    "calls of all others that go on": (
        "",
        "smp_call_function(tick, 0, 0);",
        "smp_call_function(tick, 0, 1);",
        "is passed to `smp_call_function`",
    ),
    "a function that stores what it is given while all stop": (
        "static int NOINLINE keep(void *p) { slots[1] = p; return 0; }",
        "number = stop_machine_run(keep, &one, 0);",
        "number = stop_machine_run(keep, (void *)size, 0);",
        "is stored in `slots`",
    ),
}


def _entry(own: str, does: str) -> str:
    return f"{THINGS}{own}\nint entry(int x) {{ {does} return x; }}"


@pytest.mark.parametrize(("own", "does", "_other", "found"), HAND_OVER.values(), ids=HAND_OVER)
def test_what_leaves_the_payload_is_named(
    compiler: Compiler, image: bytes, own: str, does: str, _other: str, found: str
) -> None:
    rows = unchecked(compiler, image, _entry(own, does))
    assert any(found in row for row in rows), rows


@pytest.mark.parametrize(("own", "_does", "other", "_found"), HAND_OVER.values(), ids=HAND_OVER)
def test_what_only_looks_like_it_is_not(
    compiler: Compiler, image: bytes, own: str, _does: str, other: str, _found: str
) -> None:
    assert unchecked(compiler, image, _entry(own, other)) == ()


@pytest.mark.parametrize(
    ("come", "leave", "is_believed"),
    [
        ("load", "unload", True),
        ("postapply", "postrevert", True),
        ("postapply", "prerevert", True),
        ("postapply", "unload", False),  # the revert puts back what it found before the hook
    ],
)
def test_a_callback_of_nmis_is_taken_back_where_nothing_restores_it(
    compiler: Compiler, image: bytes, come: str, leave: str, *, is_believed: bool
) -> None:
    text = fix("number = 1;", "unset_nmi_callback();", leave)
    text += ARRIVE % ("set_nmi_callback(nmi);", come)
    assert (unchecked(compiler, image, text) == ()) is is_believed


def test_a_callback_of_nmis_that_a_replaced_function_sets_outlives_an_unload_hook(
    compiler: Compiler, image: bytes
) -> None:
    does = "set_nmi_callback(nmi);"
    assert unchecked(compiler, image, fix(does, "unset_nmi_callback();"))
    assert unchecked(compiler, image, fix(does, "unset_nmi_callback();", "postrevert")) == ()
    some = "if ( number ) unset_nmi_callback();"
    assert unchecked(compiler, image, fix(does, some, "postrevert"))


AGAIN = """
static void NOINLINE freed_again(struct list *l) { number += 2; call_rcu(l, freed_again); }
"""


@pytest.mark.parametrize(
    ("kind", "callback", "hook", "is_believed"),
    [
        ("postrevert", "freed", "rcu_barrier();", True),
        ("postrevert", "freed", "if ( number > 100 ) rcu_barrier();", False),
        ("postrevert", "freed_again", "rcu_barrier();", False),  # it comes back each time
        ("unload", "freed", "rcu_barrier();", False),  # all other CPUs wait: it would hang
        ("revert", "freed", "rcu_barrier();", False),
    ],
)
def test_who_waits_for_calls_of_freed_memory_outlives_them(
    compiler: Compiler, image: bytes, kind: str, callback: str, hook: str, *, is_believed: bool
) -> None:
    text = fix(f"call_rcu((struct list *)size, {callback});", hook, kind)
    text = text.replace("int entry", f"{AGAIN if callback != 'freed' else ''}int entry", 1)
    assert (unchecked(compiler, image, text) == ()) is is_believed
