# SPDX-License-Identifier: Apache-2.0
"""Which addresses of its own a payload hands out, and which of them matter."""

from __future__ import annotations

import pytest

from tests.kit.link_inputs import HIDDEN, Compiler, closure_delta, link
from xsplice_plugins.link.results import without_result

pytestmark = pytest.mark.toolchain

HEAD = f"""{HIDDEN}
struct timer {{ void (*run)(void *); struct timer *next; int state; }};
extern void init_timer(struct timer *, void (*)(void *)), kill_timer(struct timer *);
extern int reads(const char *), deep(const char *), keeps(const char *);
extern int printk(const char *, ...);
extern void panic(const char *, ...), halt(void) __attribute__((noreturn));
extern const char *last; extern struct timer *first; extern int number;
const char *extra(void);
"""
IMAGE = f"""{HEAD}
const char *last; struct timer *first; int number;
void __attribute__((noinline)) init_timer(struct timer *t, void (*run)(void *))
{{ t->run = run; t->next = first; first = t; }}
void __attribute__((noinline)) kill_timer(struct timer *t) {{ if ( first == t ) first = t->next; }}
int __attribute__((noinline)) reads(const char *s) {{ int n = 0; while ( *s++ ) n++; return n; }}
int __attribute__((noinline)) deep(const char *s) {{ return reads(s + 1) + number; }}
int __attribute__((noinline)) keeps(const char *s) {{ last = s; return reads(s); }}
int __attribute__((noinline)) printk(const char *s, ...) {{ last = s; return 0; }}
void __attribute__((noinline)) panic(const char *s, ...) {{ last = s; for ( ; ; ) {{}} }}
void __attribute__((noinline)) halt(void) {{ for ( ; ; ) {{}} }}
unsigned long __attribute__((noinline)) simple_strtoul(const char *s, const char **end, int base)
{{ if ( end ) *end = s; return base; }}
const char *extra(void) {{ return "-old"; }}
int entry(int x) {{ return x * 3 + number; }}
"""
#: As the compiler leaves it behind a call that does not return: the code of another branch.
LAST_WORDS = """
int entry(int x) { asm volatile("mov %%0, %%%%rbx; mov %%%%rbx, %%%%rdi; call %s;"
    "mov %%%%rbx, last(%%%%rip)" :: "r"("hello") : "rbx", "rdi", "memory"); return x; }"""
HARMLESS = {
    "a text for printk": 'int entry(int x) { return printk("hello %d", x); }',
    "a text that is read": 'int entry(int x) { return reads("hello") + x; }',
    "a text that a callee reads": 'int entry(int x) { return deep("hello") + x; }',
    "a text that is returned": 'const char *extra(void) { return "-new"; }',
    "own data, used": "static int own; int entry(int x) { return own += x; }",
    "own data in own data": """
    static struct timer one, two; int entry(int x) { one.next = &two; return one.state + x; }""",
    "a table of texts": """
    static const char *const names[] = { "one", "two", "three" };
    int entry(int x) { return reads(names[x & 1]); }""",
    "the note that nobody holds a lock": """
    int entry(int x) { *(const char **)(long)x = "nobody"; return x; }""",
    "the note of who holds a lock": """
    int entry(int x) { *(const char **)(long)x = "entry"; return x; }""",
    "the note of a function inlined beside the unlock": """
    int entry(int x) { const char **l = (void *)(long)x; *l = "reads"; number++; *l = "nobody";
        return x; }""",
    "a text that is a number": """
    unsigned long simple_strtoul(const char *s, const char **end, int base);
    int entry(int x) { return simple_strtoul("17", 0, 10) + x; }""",
    "a text in use where nothing comes back": """
    int entry(int x) { const char *s = x & 1 ? "hello" : "other";
        reads(s); reads(s); halt(); }""",
    "a text before code that nobody reaches": LAST_WORDS % "panic",
    "what is left in the register of a second word": """
    static int own[8]; int entry(int x) { return own[x & 7]++; }""",
    "the second word of a result that is read": """
    struct pair { long word; const char *more; };
    static struct pair __attribute__((noipa)) name(int x) { return (struct pair){ x, "hello" }; }
    int entry(int x) { struct pair row = name(x); return row.word ? reads(row.more) : 0; }""",
    "an old function": "int entry(int x) { return reads((const char *)reads) + x; }",
}
HELD = {
    "a text that is some function's name, without a lock's note": (
        'int entry(int x) { *(const char **)(long)x = "reads"; return x; }',
        ("the text 'reads' is stored through a pointer in `entry`",),
    ),
    "the end of a number": (
        """unsigned long simple_strtoul(const char *s, const char **end, int base);
        static char own[] = "77"; int entry(int x) { return simple_strtoul(own, &last, x); }""",
        ("new `own`",),
    ),
    "a callback": (
        """static struct timer t; static void __attribute__((noinline)) tick(void *p)
        { number++; } int entry(int x) { init_timer(&t, tick); return x; }""",
        ("new `tick` is passed to `init_timer` in `entry`", "new `t` is passed to `init_timer`"),
    ),
    "a text": (
        'int entry(int x) { return keeps("hello") + x; }',
        ("the text 'hello' is passed to `keeps` in `entry`",),
    ),
    "a text in a variable": (
        'int entry(int x) { last = "hello"; return x; }',
        ("the text 'hello' is stored in `last` in `entry`",),
    ),
    "a text, before what does not come back": (
        """int entry(int x) { const char *s = x & 1 ? "hello" : "other";
        reads(s); keeps(s); halt(); }""",
        ("the text 'hello' is passed to `keeps` in `entry`",),
    ),
    "a text before code that somebody reaches": (
        LAST_WORDS % "reads",
        ("the text 'hello' is stored in `last` in `entry`",),
    ),
    "through a pointer": (
        "static int own; int entry(int x) { *(int **)(long)x = &own; return x; }",
        ("new `own` is stored through a pointer in `entry`",),
    ),
    "a word through a pointer": (
        'int entry(int x) { *(const char **)(long)x = "unknown"; return x; }',
        ("the text 'unknown' is stored through a pointer in `entry`",),
    ),
    "what a callback returns": (
        """static int own; static const void *__attribute__((noinline)) tick(void *p)
        { return &own; } int entry(int x) { *(void **)(long)x = tick; return x; }""",
        ("new `own` is returned by `tick`", "new `tick` is stored through a pointer"),
    ),
    "from a table": (
        """static const char *const names[] = { "one", "two", "three" };
        int entry(int x) { return keeps(names[x & 1]); }""",
        ("the text 'one' is passed to `keeps` in `entry`",),
    ),
    "returned data": (
        "static const char own[64] = { 1, 2, 3 }; const char *extra(void) { return own; }",
        ("is returned by `extra`",),
    ),
    "the second word of a result": (
        """struct pair { long word; const char *more; };
        static struct pair __attribute__((noipa)) name(int x)
        { return x > 9 ? (struct pair){ x, 0 } : (struct pair){ 0, "hello" }; }
        int entry(int x)
        { struct pair row = name(x); if ( !row.word ) last = row.more; return x; }""",
        ("the text 'hello' is stored in `last` in `entry`",),
    ),
    "the second word of a result that Xen gets": (
        """struct pair { long word; int *more; }; static int own;
        static struct pair __attribute__((noipa)) tick(int x) { return (struct pair){ x, &own }; }
        int entry(int x) { *(void **)(long)x = tick; return x; }""",
        ("new `own` is returned by `tick`",),
    ),
    "by way of a callee": (
        """static const char *__attribute__((noinline)) name(int x) { return x ? "a" : "bc"; }
        int entry(int x) { return keeps(name(x)); }""",
        ("the text 'bc' is passed to `keeps` in `entry`",),
    ),
}
HOOK = """
static void leave(void) { %s }
static void *__attribute__((used, section(".livepatch.hooks.unload"))) hook = leave;
"""


@pytest.fixture(scope="module")
def image(compiler: Compiler) -> bytes:
    return compiler.image(version_c=IMAGE)


def _unchecked(compiler: Compiler, image: bytes, text: str) -> tuple[str, ...]:
    new = compiler.object("version.c", f"{HEAD}{text}")
    changed = ("extra",) if "*extra(" in text else ("entry",)
    own = [n for n in ("own", "one", "two", "t", "tick", "name", "names", "leave") if _has(text, n)]
    delta = closure_delta(new, "version.o", changed, new=tuple(own))
    return link(image, (delta, new)).record.unchecked


def _has(text: str, name: str) -> bool:
    words = text.replace("*", " ").replace("(", " ").replace(";", " ").replace("[", " ")
    return any(name == word.rstrip(",") for word in words.split())


@pytest.mark.parametrize("text", HARMLESS.values(), ids=HARMLESS)
def test_what_nobody_keeps_is_not_spoken_of(compiler: Compiler, image: bytes, text: str) -> None:
    assert _unchecked(compiler, image, text) == ()


@pytest.mark.parametrize(("text", "found"), HELD.values(), ids=HELD)
def test_what_somebody_keeps_is_named(
    compiler: Compiler, image: bytes, text: str, found: tuple[str, ...]
) -> None:
    rows = _unchecked(compiler, image, text)
    for part in found:
        assert any(part in row for row in rows), rows
    assert all("after unload it would dangle" in row for row in rows)


def test_a_timer_that_a_hook_kills_is_taken_back(compiler: Compiler, image: bytes) -> None:
    text, _ = HELD["a callback"]
    assert _unchecked(compiler, image, text + HOOK % "kill_timer(&t);") == ()


def test_a_hook_that_kills_no_timer_takes_none_back(compiler: Compiler, image: bytes) -> None:
    text, _ = HELD["a callback"]
    assert len(_unchecked(compiler, image, text + HOOK % "number = 0;")) == 2


def test_a_variable_that_a_hook_sets_back_holds_nothing(compiler: Compiler, image: bytes) -> None:
    text, _ = HELD["a text in a variable"]
    assert _unchecked(compiler, image, text + HOOK % "last = 0;") == ()


LEFT = """
static int own;
%s kill_timer(struct timer *t)
{
    int *at = &own;
    asm volatile ( "" : "+a" (at) );
    number += at == (int *)t;
    asm volatile ( "" :: "a" (at) );
    %s
}
"""


@pytest.mark.parametrize(
    ("kind", "end", "flag", "more", "is_held"),
    [
        ("void", "", "-g", "", False),
        ("void", "", "-g0", "", True),
        ("int *", "return at;", "-g", "", True),
        ("void", "", "-g", "static __attribute__((used)) int call(int kill_timer(void *)) ", False),
    ],
    ids=["void", "nobody tells", "a result", "a parameter of that name"],
)
def test_what_is_left_where_a_result_would_be_is_none_of_a_void_function(
    compiler: Compiler, image: bytes, kind: str, end: str, flag: str, more: str, is_held: bool
) -> None:
    head = HEAD.replace(", kill_timer(struct timer *)", "")
    more += "{ return 0; }" if more else ""
    new = compiler.object("version.c", head + more + LEFT % (kind, end), flag)
    delta = closure_delta(new, "version.o", ("kill_timer",), new=("own",))
    rows = link(image, (delta, new)).record.unchecked
    assert any("new `own` is returned by `kill_timer`" in row for row in rows) == is_held, rows


def test_a_function_that_debug_information_does_not_know_may_have_a_result(
    compiler: Compiler, image: bytes
) -> None:
    """Another object's function of that name has none; of assembler nobody tells."""
    text = """asm (".type kill_timer, @function; kill_timer: ret; .size kill_timer, 1");
    int entry(int x) { return x * 3 + number; }
    """
    head = HEAD.replace(", kill_timer(struct timer *)", "")
    new = compiler.object("version.c", head + text, "-g")
    other = compiler.object("other.c", "void kill_timer(void *p) {}\n", "-g")
    assert "kill_timer" in without_result([other])
    assert "kill_timer" not in without_result([new, other])
