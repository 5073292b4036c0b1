# SPDX-License-Identifier: Apache-2.0
"""Payloads with hooks for the tests: an image, things to hand out, and what the linker says."""

from __future__ import annotations

from msgspec.structs import replace

from tests.kit.link_inputs import HIDDEN, Compiler, closure_delta, link
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.types import STT_FUNC, STT_OBJECT

HEAD = f"""{HIDDEN}
struct list {{ struct list *next, *prev; }};
struct timer {{ struct list l; void (*run)(void *); long data[2]; short cpu; char status; }};
struct key {{ void (*run)(char); const char *text; long flags; }};
struct node {{ struct list l, other; int count; }};
struct domain {{ long id; struct list all; void *field; }};
extern void init_timer(struct timer *, void (*)(void *)), kill_timer(struct timer *);
extern void tasklet_schedule(struct timer *), tasklet_kill(struct timer *);
extern void set_timer(struct timer *, long);
extern void call_rcu(struct list *, void (*)(struct list *)), rcu_barrier(void);
extern void set_nmi_callback(int (*)(int)), unset_nmi_callback(void);
extern void register_keyhandler(unsigned char, void (*)(char), const char *);
extern void tasklet_init(struct timer *, void (*)(void *), void *);
extern void _spin_lock_cb(long *, void (*)(void *), void *);
extern void on_selected_cpus(const long *, void (*)(void *), void *, int);
extern void smp_call_function(void (*)(void *), void *, int);
extern int stop_machine_run(int (*)(void *), void *, unsigned int);
extern void *memcpy(void *, const void *, unsigned long);
extern int snprintf(char *, unsigned long, const char *, ...), printk(const char *, ...);
extern int copy_to_guest_pv(void *, const void *, unsigned long);
extern struct key key_table[128]; extern struct domain *current; extern struct list heads[4];
extern void *slots[4]; extern int number; extern volatile unsigned long size;
static inline void list_add(struct list *n, struct list *h)
{{ struct list *next = h->next; next->prev = n; n->next = next; n->prev = h; h->next = n; }}
static inline void list_del(struct list *n)
{{ n->next->prev = n->prev; n->prev->next = n->next; n->next = (void *)256; n->prev = 0; }}
static inline int list_empty(const struct list *n) {{ return n->next == n; }}
#define SWAP(p, v) __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST)
#define NOINLINE __attribute__((noinline))
"""
BODIES = """
struct key key_table[128]; struct domain *current; struct list heads[4]; static struct timer *first;
void *slots[4]; int number; volatile unsigned long size; static void *kept[9];
void NOINLINE init_timer(struct timer *t, void (*r)(void *)) { t->run = r; first = t; }
void NOINLINE kill_timer(struct timer *t) { if ( first == t ) first = 0; }
void NOINLINE stop_timer(struct timer *t) { if ( first == t ) first = 0; }
void NOINLINE set_timer(struct timer *t, long n) { first = t; number = n; }
void NOINLINE tasklet_schedule(struct timer *t) { kept[1] = t; }
void NOINLINE tasklet_init(struct timer *t, void (*f)(void *), void *p)
{ t->run = f; t->data[0] = (long)p; kept[7] = t; }
void NOINLINE _spin_lock_cb(long *l, void (*f)(void *), void *p) { while ( *l ) if ( f ) f(p); }
void NOINLINE tasklet_kill(struct timer *t) { if ( kept[1] == t ) kept[1] = 0; }
void NOINLINE call_rcu(struct list *l, void (*r)(struct list *)) { kept[2] = l; kept[3] = r; }
void NOINLINE rcu_barrier(void) { kept[2] = kept[3] = 0; }
void NOINLINE set_nmi_callback(int (*f)(int)) { kept[4] = f; }
void NOINLINE unset_nmi_callback(void) { kept[4] = 0; }
void NOINLINE register_keyhandler(unsigned char k, void (*f)(char), const char *s)
{ key_table[k].run = f; key_table[k].text = s; }
void NOINLINE on_selected_cpus(const long *m, void (*f)(void *), void *p, int wait)
{ kept[5] = f; kept[6] = p; if ( wait ) f(p); number = *m; }
void NOINLINE smp_call_function(void (*f)(void *), void *p, int wait)
{ kept[5] = f; kept[6] = p; if ( wait ) f(p); number = wait; }
int NOINLINE stop_machine_run(int (*f)(void *), void *p, unsigned int cpu)
{ kept[5] = f; kept[6] = p; return cpu + f(p); }
void *NOINLINE memcpy(void *d, const void *s, unsigned long n)
{ char *a = d; const char *b = s; while ( n-- ) { *a++ = *b++; asm volatile(""); } return d; }
int NOINLINE snprintf(char *s, unsigned long n, const char *f, ...) { *s = *f; return n; }
int NOINLINE printk(const char *f, ...) { return *f; }
int NOINLINE copy_to_guest_pv(void *d, const void *s, unsigned long n)
{ *(char *)d = *(const char *)s; return n; }
int entry(int x) { return x * 3 + number; }
"""
THINGS = """
static struct timer one, two, many[4]; static struct node node = { { &node.l, &node.l } };
static void NOINLINE tick(void *p) { number++; } static void NOINLINE tap(char c) { number--; }
static int NOINLINE nmi(int c) { return c + number; }
static void NOINLINE freed(struct list *l) { number += 2; }
"""
LEAVE = """
static void leave(void) { %s }
static void *__attribute__((used, section(".livepatch.hooks.%s"))) hook = leave;
"""
ARRIVE = """
static void arrive(void) { %s }
static void *__attribute__((used, section(".livepatch.hooks.%s"))) hook2 = arrive;
"""

HELPERS = """
static void NOINLINE help(struct timer *t) { number = 5; kill_timer(t); }
static void NOINLINE arrive(void) { init_timer(&one, tick); }
"""


def unchecked(
    compiler: Compiler, image: bytes, text: str, function: str = "entry"
) -> tuple[str, ...]:
    """Return what is not checked of ``text``, whose ``function`` replaces `entry`."""
    new = compiler.object("version.c", f"{HEAD}{text}", "-Wno-unused")
    elf = read_elf(new, "version.o")
    own = tuple(
        s.name
        for s in elf.symbols
        if s.type in (STT_FUNC, STT_OBJECT)
        and s.shndx
        and s.name != function
        and not elf.sections[s.shndx].name.startswith(".livepatch")
    )
    delta = closure_delta(new, "version.o", (function,), new=own)
    delta = replace(delta, changed=(replace(delta.changed[0], name="entry"),))
    return link(image, (delta, new)).record.unchecked


def fix(does: str, hook: str, kind: str = "unload") -> str:
    helpers = "".join(
        row + "\n"
        for row in HELPERS.splitlines()
        for name in ("help", "arrive")
        if f" {name}(" in row and f"{name}(" in hook
    )
    return f"{THINGS}{helpers}int entry(int x) {{ {does} return x; }}{LEAVE % (hook, kind)}"
