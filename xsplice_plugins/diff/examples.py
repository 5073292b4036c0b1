# SPDX-License-Identifier: Apache-2.0
"""What a refused change looks like, and the same fix as it can be applied (``xsplice explain``).

A test compiles them all: the one is refused with its code, the other is not refused.
"""

from __future__ import annotations

from msgspec import Struct


class Example(Struct, frozen=True, kw_only=True):
    """One function or datum, in three versions."""

    before: str
    refused: str
    instead: str


#: Code; what is there; behind ``-- refused`` the change, behind ``-- instead`` what does as well.
_TEXTS = """\
DATA_VALUE
unsigned int limit = 8;
int fits(unsigned int n) { return n < limit; }
-- refused
unsigned int limit = 16;
int fits(unsigned int n) { return n < limit; }
-- instead
unsigned int limit = 8;
int fits(unsigned int n) { return n < limit; }
static unsigned int limit_before;
static void raise(void) { limit_before = limit; limit = 16; }
static void lower(void) { limit = limit_before; }
LIVEPATCH_LOAD_HOOK(raise);
LIVEPATCH_UNLOAD_HOOK(lower);

DATA_SIZE
char title[8];
char *name(int n) { return title; }
-- refused
char title[32];
char *name(int n) { return title; }
-- instead
char title[8];
static char long_title[32];
char *name(int n) { return long_title; }

DATA_ALIGNMENT
static long pages[4] = { 1 };
long *area(int n) { return &pages[n]; }
-- refused
static long pages[4] __attribute__((aligned(128))) = { 1 };
long *area(int n) { return &pages[n & 3]; }
-- instead
static long pages[4] = { 1 };
static long aligned_pages[4] __attribute__((aligned(128)));
long *area(int n) { return &aligned_pages[n & 3]; }

DATA_SECTION
const int ratio = 3;
int scaled(int n) { return n * *(volatile const int *)&ratio; }
-- refused
int ratio = 3;
int scaled(int n) { return n * ratio++; }
-- instead
const int ratio = 3;
static int own_ratio = 3;
int scaled(int n) { return n * own_ratio++; }

LAYOUT
struct owner { int first; int last; };
int count(struct owner *o) { return o->last - o->first; }
-- refused
struct owner { int first; int extra; int last; };
int count(struct owner *o) { return o->last - o->first + o->extra; }
-- instead
struct owner { int first; int last; };
int *extra_of(struct owner *o); /* beside the object: see xsplice shadow */
int count(struct owner *o) { return o->last - o->first + *extra_of(o); }

PERCPU
int busy(unsigned int cpu) { return load(cpu); }
-- refused
DEFINE_PER_CPU(int, calls);
int busy(unsigned int cpu) { calls++; return load(cpu); }
-- instead
static int calls[NR_CPUS];
int busy(unsigned int cpu) { calls[cpu]++; return load(cpu); }

INIT_DATA
static int __initdata width = 4;
static int lanes;
void __init prepare(void) { lanes = load(width); }
int free_lanes(int n) { return lanes - n; }
-- refused
static int __initdata width = 8;
static int lanes;
void __init prepare(void) { lanes = load(width); }
int free_lanes(int n) { return lanes - n - 1; }
-- instead
static int __initdata width = 4;
static int lanes;
void __init prepare(void) { lanes = load(width); }
int free_lanes(int n) { return lanes - n - 1; }
static void widen(void) { lanes = 8; }
LIVEPATCH_LOAD_HOOK(widen);

INIT_CODE
static int limit;
void __init prepare(int n) { limit = n; }
int fits(int n) { return n < limit; }
-- refused
static int limit;
void __init prepare(int n) { limit = n + 8; }
int fits(int n) { return n <= limit; }
-- instead
static int limit;
void __init prepare(int n) { limit = n; }
int fits(int n) { return n <= limit; }
static void more(void) { limit += 8; }
LIVEPATCH_LOAD_HOOK(more);

REGISTRY
int press(int key) { return load(key); }
KEY_HANDLER(press);
-- refused
int press(int key) { return load(key); }
KEY_HANDLER(press);
int hold(int key) { return load(key + 1); }
KEY_HANDLER(hold);
-- instead
int press(int key) { return load(key); }
KEY_HANDLER(press);
int hold(int key) { return load(key + 1); }
static void add(void) { register_key(hold); }
LIVEPATCH_LOAD_HOOK(add);

TOO_SHORT
noinline void settle(void) { asm volatile ( "" ); }
int finish(int n) { settle(); return load(n); }
-- refused
noinline void settle(void) { asm volatile ( "nop" ); }
int finish(int n) { settle(); return load(n); }
-- instead
noinline void settle(void) { asm volatile ( "" ); }
int finish(int n) { asm volatile ( "nop" ); return load(n); }

ALIAS
int old_way(int n) { return load(n); }
int new_way(int n) __attribute__((alias("old_way")));
-- refused
int old_way(int n) { return load(n); }
int new_way(int n) { return load(n) + 1; }
-- instead
int old_way(int n) { return load(n) + 1; }
int new_way(int n) __attribute__((alias("old_way")));

ASM_LABEL
noinline int enter(int n) { int m = load(n); asm volatile ("inner: nop"); return m; }
-- refused
noinline int enter(int n) { int m = load(n) + 1; asm volatile ("inner: nop"); return m; }
-- instead
noinline int enter(int n) { int m = load(n); asm volatile ("inner: nop"); return m; }
int enter_well(int n) { return enter(n) + 1; } /* for those who call it */

AMBIGUOUS
int first(int n) { static int kept; return kept += load(n); }
int second(int n) { return load(n) * 3; }
-- refused
int first(int n) { return load(n); }
int second(int n) { static int kept; return (kept += load(n)) * 3; }
-- instead
int first(int n) { static int kept; return kept += load(n); }
int second(int n) { static int own; return (own += load(n)) * 3; }

SYMBOL_VERSION
int pass(int n) { return load(n); }
-- refused
int pass(int n) { static __thread int kept; return kept += load(n); }
-- instead
int pass(int n) { static int kept[NR_CPUS]; return kept[n] += load(n); }

GROUPED
int pass(int n) { return load(n); }
-- refused
int pass(int n) { return load(n) + 1; }
asm (".section .text.fresh, \\"axG\\", @progbits, fresh, comdat\\n"
     ".globl fresh\\n .type fresh, @function\\n fresh: ret\\n .size fresh, .-fresh\\n .previous");
-- instead
static noinline void fresh(void) { asm volatile ( "" ); }
int pass(int n) { fresh(); return load(n) + 1; }
"""


def _read(block: str) -> tuple[str, Example]:
    code, _, rest = block.partition("\n")
    before, rest = rest.split("-- refused\n")
    refused, instead = rest.split("-- instead\n")
    return code, Example(before=before, refused=refused, instead=f"{instead}\n")


EXAMPLES = dict(map(_read, _TEXTS.strip().split("\n\n")))
