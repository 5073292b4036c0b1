# SPDX-License-Identifier: Apache-2.0
"""Addresses that come back: by a callback, a saved value, a copy, a node, or from code itself."""

from __future__ import annotations

import pytest

from tests.kit.link_inputs import Compiler
from tests.unit.link.hooked import ARRIVE, BODIES, HEAD, LEAVE, THINGS, fix, unchecked

pytestmark = pytest.mark.toolchain

BACK = """
static long lock; static struct holder { struct node *first; } holder = { &node };
static void NOINLINE keep(void *p) { slots[1] = p; }
static void NOINLINE count(void *p) { ((struct node *)p)->count++; number++; }
static void NOINLINE store(void *p) { slots[1] = p; number++; }
static void NOINLINE further(void *p) { number++; keep(p); number--; }
static void NOINLINE link(void *p)
{ struct node *n = p; list_add(&n->l, &heads[1]); number++; }
static void NOINLINE inner(void *p) { slots[1] = ((struct holder *)p)->first; number++; }
static void NOINLINE look(void *p) { ((struct holder *)p)->first->count++; number++; }
static void NOINLINE again(void *p) { set_timer(p, 3); number++; }
static void NOINLINE freed_kept(struct list *l) { slots[1] = l; number++; }
"""
#: What is done, what the hook does, and whether that leaves nothing behind.
CALLED_BACK = {
    "counts": ("tasklet_init(&one, count, &node);", "tasklet_kill(&one);", True),
    "stores": ("tasklet_init(&one, store, &node);", "tasklet_kill(&one);", False),
    "stores, in a callee": ("tasklet_init(&one, further, &node);", "tasklet_kill(&one);", False),
    "makes it a node": ("tasklet_init(&one, link, &node);", "tasklet_kill(&one);", False),
    "stores what it leads to": (
        "tasklet_init(&one, inner, &holder);",
        "tasklet_kill(&one);",
        False,
    ),
    "looks at what it leads to": (
        "tasklet_init(&one, look, &holder);",
        "tasklet_kill(&one);",
        True,
    ),
    "stores, while somebody waits": (
        "on_selected_cpus(&current->id, store, &node, 1);",
        "number = 1;",
        False,
    ),
    "counts, while somebody waits": (
        "on_selected_cpus(&current->id, count, &node, 1);",
        "number = 1;",
        True,
    ),
    "stores, while a lock is taken": ("_spin_lock_cb(&lock, store, &node);", "number = 1;", False),
    "counts, while a lock is taken": ("_spin_lock_cb(&lock, count, &node);", "number = 1;", True),
    "nobody": ("_spin_lock_cb(&lock, 0, &node);", "number = 1;", True),
    "stores, on the stack": (
        "void *a[2] = { &node, &node }; on_selected_cpus(&current->id, inner, a, 1);",
        "number = 1;",
        False,
    ),
    "is Xen's, and keeps it": (
        "on_selected_cpus(&current->id, (void (*)(void *))tasklet_schedule, &one, 1);",
        "number = 1;",
        False,
    ),
    "is one that nobody knows": (
        "on_selected_cpus(&current->id, slots[2], &node, 1);",
        "number = 1;",
        False,
    ),
    "is changed later": (
        "tasklet_init(&one, count, &node); one.run = store;",
        "tasklet_kill(&one);",
        False,
    ),
    "is put there with its data": (
        "one.run = store; one.data[0] = (long)&node; tasklet_schedule(&one);",
        "tasklet_kill(&one);",
        False,
    ),
    "is put there with its data, and counts": (
        "one.run = count; one.data[0] = (long)&node; tasklet_schedule(&one);",
        "tasklet_kill(&one);",
        True,
    ),
    "goes on with this very timer": (
        "tasklet_init(&one, again, &one);",
        "tasklet_kill(&one); kill_timer(&one);",
        True,
    ),
    "goes on with another timer": (
        "tasklet_init(&one, again, &two);",
        "tasklet_kill(&one); kill_timer(&one);",
        False,
    ),
}


@pytest.fixture(scope="module")
def image(compiler: Compiler) -> bytes:
    return compiler.image(version_c=HEAD + BODIES)


def _with_own(text: str) -> str:
    return text.replace(THINGS, THINGS + BACK)


@pytest.mark.parametrize(
    ("does", "hook", "is_believed"),
    CALLED_BACK.values(),
    ids=[f"who {name}" for name in CALLED_BACK],
)
def test_what_a_callback_does_with_its_data_counts(
    compiler: Compiler, image: bytes, does: str, hook: str, *, is_believed: bool
) -> None:
    assert (unchecked(compiler, image, _with_own(fix(does, hook))) == ()) is is_believed


@pytest.mark.parametrize(("callback", "is_believed"), [("freed", True), ("freed_kept", False)])
def test_a_callback_of_rcu_gets_the_head_that_was_handed_over(
    compiler: Compiler, image: bytes, callback: str, *, is_believed: bool
) -> None:
    text = _with_own(fix(f"call_rcu(&node.l, {callback});", "rcu_barrier();", "postrevert"))
    assert (unchecked(compiler, image, text) == ()) is is_believed


SAVED = """
static void *saved, *other; static struct { int a; void *two[2]; } box;
static void NOINLINE set(void) { slots[2] = tick; number++; }
static void NOINLINE copy(void **to, void **from) { *to = *from; number++; }
static void *NOINLINE get(void) { number++; return slots[2]; }
"""
SAVE = "saved = slots[2]; slots[2] = tick;"
PUT = "slots[2] = saved;"
#: What the replaced function does, the load hook, the unload hook, whether nothing is left behind.
WRITTEN_BACK = {
    "once, by a hook": ("number = 1;", SAVE, PUT, True),
    "by a hook, before others write": ("slots[2] = tick;", "saved = slots[2];", PUT, True),
    "if there is something": ("number = 1;", f"if ( slots[2] ) {{ {SAVE} }}", PUT, True),
    "where it is another one": (
        f"if ( slots[2] != tick ) {{ {SAVE} }}",
        "number = 2;",
        f"if ( slots[2] == tick ) {PUT}",
        True,
    ),
    "where it is this one": (
        "void *p = slots[2]; if ( p == tick ) { saved = p; number++; } slots[2] = tick;",
        "number = 2;",
        f"if ( slots[2] == tick ) {PUT}",
        False,
    ),
    "where it is another one, or not": (
        "void *p = slots[2]; if ( p != tick ) number++; saved = p; slots[2] = tick;",
        "number = 2;",
        f"if ( slots[2] == tick ) {PUT}",
        False,
    ),
    "where it is not the start of it": (
        "void *p = slots[2]; if ( p != &one ) { saved = p; slots[2] = &one.run; }",
        "number = 2;",
        PUT,
        False,
    ),
    "each time": (SAVE, "number = 2;", PUT, False),
    "too late": ("number = 1;", "slots[2] = tick; saved = slots[2];", PUT, False),
    "after a callee wrote": ("number = 1;", "set(); saved = slots[2];", PUT, False),
    "in a loop": (
        "number = 1;",
        f"for ( number = 0; number < 2; number++ ) {{ {SAVE} }}",
        PUT,
        False,
    ),
    "in a field": ("box.two[1] = slots[2]; slots[2] = tick;", "", "slots[2] = box.two[1];", False),
    "by way of another": (
        "other = slots[2]; saved = other; slots[2] = tick;",
        "number = 2;",
        PUT,
        False,
    ),
    "through pointers": ("copy(&saved, &slots[2]); slots[2] = tick;", "number = 2;", PUT, False),
    "by a callee": ("saved = get(); slots[2] = tick;", "number = 2;", PUT, False),
    "of another field": ("saved = slots[3]; slots[2] = tick;", "number = 2;", PUT, True),
    "into another field": (
        "number = 1;",
        "slots[2] = tick;",
        "slots[1] = slots[2]; slots[2] = 0;",
        False,
    ),
    "to another variable": ("slots[1] = slots[2];", "slots[2] = tick;", "slots[2] = 0;", False),
    "to another, which is cleared": (
        "slots[1] = slots[2];",
        "slots[2] = tick;",
        "slots[2] = 0; slots[1] = 0;",
        True,
    ),
    "of another, to another": ("slots[1] = slots[3];", "slots[2] = tick;", "slots[2] = 0;", True),
}


def _saving(does: str, load: str, unload: str) -> str:
    used = [row for row in SAVED.splitlines() if "NOINLINE" not in row]
    used += [
        row
        for row, name in zip(SAVED.splitlines()[2:], ("set(", "copy(", "get("), strict=True)
        if name in f"{does} {load}"
    ]
    text = f"{THINGS}{chr(10).join(used)}\nint entry(int x) {{ {does} return x; }}"
    return text + LEAVE % (unload, "unload") + ARRIVE % (load, "load")


@pytest.mark.parametrize(
    ("does", "load", "unload", "is_believed"), WRITTEN_BACK.values(), ids=WRITTEN_BACK
)
def test_a_value_that_is_saved_is_xens_own_if_nothing_else_was_there_before(
    compiler: Compiler, image: bytes, does: str, load: str, unload: str, *, is_believed: bool
) -> None:
    assert (unchecked(compiler, image, _saving(does, load, unload)) == ()) is is_believed


@pytest.mark.parametrize(
    ("does", "is_believed"), [("number = 1;", True), ("slots[2] = tick;", False)]
)
def test_what_a_hook_after_the_apply_saves_may_be_what_replaced_functions_wrote(
    compiler: Compiler, image: bytes, does: str, *, is_believed: bool
) -> None:
    text = f"{THINGS}{SAVED.splitlines()[1]}\nint entry(int x) {{ {does} return x; }}"
    text += LEAVE % (PUT, "postrevert") + ARRIVE % (SAVE, "postapply")
    assert (unchecked(compiler, image, text) == ()) is is_believed


ALONE = "if ( list_empty(&node.l) ) "
ADD = "list_add(&node.l, &heads[1]);"
#: What the replaced function does, the load hook, whether one `list_del` leaves nothing behind.
NODES = {
    "by a hook": ("number = 1;", ADD, True),
    "by a function that may run again": (ADD, "number = 1;", False),
    "where it is in no list": (ALONE + ADD, "number = 1;", True),
    "where another is in no list": (f"if ( list_empty(&node.other) ) {ADD}", "number = 1;", False),
    "where it is in one": (f"if ( !list_empty(&node.l) ) {ADD}", "number = 1;", False),
    "by two, each where it is in no list": (
        f"if ( x ) {{ {ALONE}{ADD} }} else {ALONE} list_add(&node.l, &heads[2]);",
        "number = 1;",
        True,
    ),
    "by a hook, and where it is in no list": (ALONE + ADD, ADD, True),
    "by a hook and a function": ("list_add(&node.l, &heads[2]);", ADD, False),
    "by a hook, twice": ("number = 1;", f"{ADD} list_add(&node.l, &heads[2]);", False),
    "by a hook, in a loop": (
        "number = 1;",
        f"for ( number = 0; number < 4; number++ ) {ADD}",
        False,
    ),
    "twice, asked once": (f"{ALONE} {{ {ADD} {ADD} }}", "number = 1;", False),
}


@pytest.mark.parametrize(("does", "load", "is_believed"), NODES.values(), ids=NODES)
def test_one_unlink_is_enough_for_a_node_that_is_in_one_list(
    compiler: Compiler, image: bytes, does: str, load: str, *, is_believed: bool
) -> None:
    text = fix(does, "list_del(&node.l);") + ARRIVE % (load, "load")
    assert (unchecked(compiler, image, text) == ()) is is_believed


#: Ways to take an address of own code, and code that looks alike.
OWN_CODE = {
    "a label": ('asm volatile("lea 1f(%%rip), %0; 1:" : "=r"(p)); slots[1] = p;', False),
    "a label that is only read": (
        'asm volatile("lea 1f(%%rip), %0; 1:" : "=r"(p)); number = *(char *)p;',
        True,
    ),
    "what a call pushes": ('asm volatile("call 1f; 1: pop %0" : "=r"(p)); slots[1] = p;', False),
    "what a call pushed": (
        'asm volatile("call 1f; 1: nop; mov (%%rsp), %0; add $8, %%rsp" : "=r"(p)); slots[1] = p;',
        False,
    ),
    "what a call pushed, dropped": (
        'asm volatile("call 1f; 2: pause; jmp 2b; 1: add $8, %%rsp" ::: "memory"); p = 0;',
        True,
    ),
    "where a frame on the stack goes on": (
        """asm volatile("lea 1f(%%rip), %0; mov %%rsp, %%rcx; mov %%ss, %%eax; push %%rax;"
        "push %%rcx; pushf; mov %%cs, %%eax; push %%rax; push %0; wrssq %0, -8(%%rcx); iretq; 1:"
        : "=&r"(p) :: "rax", "rcx", "memory"); p = 0;""",
        True,
    ),
    "labels of a table": (
        """static void *const table[] = { &&one, &&two }; goto *table[x & 1];
        one: number++; two: number++; slots[1] = table[number & 1];""",
        False,
    ),
}


@pytest.mark.parametrize(("does", "is_believed"), OWN_CODE.values(), ids=OWN_CODE)
def test_places_in_own_code_are_addresses_as_well(
    compiler: Compiler, image: bytes, does: str, *, is_believed: bool
) -> None:
    text = f"{THINGS}int entry(int x) {{ void *p; {does} return x; }}"
    assert (unchecked(compiler, image, text) == ()) is is_believed


ALIGNED = 'int a[8] __attribute__((aligned(64))); asm volatile ("" : "=m" (a));'
#: What a function does with its return address, who calls it, and whether that leaves nothing.
RETURNS = {
    "stored": ("slots[1] = __builtin_return_address(0);", "help(); number++;", False),
    "stored, from a frame": (
        "volatile int a[9]; a[size] = 3; slots[1] = __builtin_return_address(0); number = a[1];",
        "help(); number++;",
        False,
    ),
    "stored, by whom its callee jumps to": (
        "slots[1] = __builtin_return_address(0);",
        "jump(); number++;",
        False,
    ),
    "stored, in a rare part": (
        'if ( RARE(number) ) { printk("rare"); slots[1] = __builtin_return_address(0); }',
        "help(); number++;",
        False,
    ),
    "stored, by whom a pointer leads to": (
        "slots[1] = __builtin_return_address(0);",
        "static void (*const table[])(void) = { help, help }; table[x & 1](); number++;",
        False,
    ),
    "stored, by whom a pointer of Xen may lead to": (
        "slots[1] = __builtin_return_address(0);",
        "on_selected_cpus(&current->id, (void *)help, 0, 1); ((void (*)(void))slots[3])(); size++;",
        False,
    ),
    "only read, by whom a pointer of Xen may lead to": (
        "number = *(char *)__builtin_return_address(0);",
        "on_selected_cpus(&current->id, (void *)help, 0, 1); ((void (*)(void))slots[3])(); size++;",
        True,
    ),
    "of a caller in Xen, which has a pointer": (
        "slots[1] = __builtin_return_address(0);",
        "on_selected_cpus(&current->id, (void *)help, 0, 1); number++;",
        True,
    ),
    "nobody's: what a rare part keeps": (
        (
            "void *volatile p = slots[3], *volatile q = slots[2];"
            ' if ( RARE(number) ) { printk("rare"); slots[2] = p; slots[3] = q; } number++;'
        ),
        "help(); number++;",
        True,
    ),
    "nobody's: what one that calls itself keeps": (
        "void *p = slots[3]; if ( size ) entry(5); slots[2] = p;",
        "if ( x & 8 ) help(); number++;",
        True,
    ),
    "nobody's: pushed once more, where the stack is aligned": (
        f"{ALIGNED} number += a[size & 7];",
        "help(); number++;",
        True,
    ),
    "stored, where the stack is aligned": (
        f"{ALIGNED} number += a[size & 7]; slots[1] = __builtin_return_address(0);",
        "help(); number++;",
        False,
    ),
    "printed": ('printk("%p", __builtin_return_address(0));', "help(); number++;", True),
    "only read": ("number = *(char *)__builtin_return_address(0);", "help(); number++;", True),
    "of a caller in Xen": ("slots[1] = 0;", "slots[1] = __builtin_return_address(0);", True),
    "of a caller in Xen, by a jump": (
        "slots[1] = __builtin_return_address(0);",
        'if ( size ) asm volatile("jmp help");',
        True,
    ),
    "of a caller in Xen, in a rare part": (
        "slots[1] = 0;",
        (
            "volatile int a[9]; a[size] = 3; if ( RARE(x) )"
            ' { printk("rare"); slots[1] = __builtin_return_address(0); } number += a[1];'
        ),
        True,
    ),
    "an argument from the stack": ("slots[1] = (void *)(long)number;", "help(); number++;", True),
}


@pytest.mark.parametrize(("helps", "does", "is_believed"), RETURNS.values(), ids=RETURNS)
def test_a_return_address_is_the_callers(
    compiler: Compiler, image: bytes, helps: str, does: str, *, is_believed: bool
) -> None:
    text = f"{COLD}extern int entry(int);\n"
    text += f"static void __attribute__((noipa, used)) help(void) {{ {helps} }}\n"
    text += JUMP if "jump()" in does else ""
    text += f"int entry(int x) {{ {does} return x; }}"
    assert (unchecked(compiler, image, text) == ()) is is_believed


JUMP = """asm(".section .text.jump; .type jump, @function; jump: jmp help; .size jump, .-jump;"
" .previous"); extern void jump(void);
"""
COLD = """extern int __attribute__((cold)) printk(const char *, ...);
#define RARE(what) __builtin_expect((what) == 7, 0)
"""
#: What a rare part of a function does with what is on the stack; whether that leaves nothing.
RARELY = {
    "keeps a value over a call": (
        'void *p = slots[x]; RARELY(printk("rare")); slots[2] = p;',
        True,
    ),
    "keeps two over a call": (
        (
            "void *volatile p = slots[3], *volatile q = slots[2];"
            ' RARELY(printk("rare"); slots[2] = p; slots[3] = q); number++;'
        ),
        True,
    ),
    "keeps an address over a call": (
        'void *p = &node; if ( x == 3 ) p = slots[1]; RARELY(printk("rare")); slots[2] = p;',
        False,
    ),
    "stores what the common part left": (
        'void *volatile p = &node; RARELY(printk("rare"); slots[2] = p); number++;',
        False,
    ),
    "stores what lies beside it": (
        (
            "void *volatile p = &node; void *volatile q = slots[3]; size = (long)*(char *)p;"
            ' RARELY(printk("rare"); slots[2] = q); number++;'
        ),
        True,
    ),
}


@pytest.mark.parametrize("name", ["entry", "known"])
@pytest.mark.parametrize(("does", "is_believed"), RARELY.values(), ids=RARELY)
def test_a_rare_part_has_the_frame_of_its_function(
    compiler: Compiler, image: bytes, does: str, name: str, *, is_believed: bool
) -> None:
    text = f"{THINGS}{COLD}\n#define RARELY(what) if ( RARE(x) ) {{ what; }}\n"
    text += f"int NOINLINE {name}(int x) {{ {does} return x; }}"
    text += f"static int __attribute__((used)) calls(int x) {{ return {name}(x) + 1; }}"
    assert (unchecked(compiler, image, text, name) == ()) is is_believed
