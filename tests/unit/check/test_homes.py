# SPDX-License-Identifier: Apache-2.0
"""Is what a fix names the image's own: variables, statics, functions under another name?"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.check.building import (
    FACTS,
    FIXED_TEXT,
    HELPER,
    KNOWN,
    TEXT,
    UNIT,
    World,
    changed,
    checked,
    compiled,
    payload,
    payload_of_helper,
    size_of,
    texts,
    world,
)
from xsplice_plugins.check.complete import check_payload
from xsplice_plugins.check.results import NewObject
from xsplice_plugins.elf.reader import read_elf

pytestmark = pytest.mark.toolchain


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("{ counter += x + 1; spare_counter -= x; return counter; }", ""),
        ("{ spare_counter += x + 1; counter -= x; return spare_counter; }", "another place"),
        ("{ mine += x + 1; spare_counter -= x; return mine; }", "would start again"),
    ],
)
def test_variables_are_the_images_own(body: str, text: str, known: World, tmp_path: Path) -> None:
    new = changed(known, tmp_path, ("counter += x; spare", "counter += x + 1; spare"))
    source = KNOWN.replace("extern int helper(int)", "int unused(int)")
    source = source.replace(' asm("unit.c_helper")', "") + "static int mine = 5;\n"
    source += HELPER.replace("{body}", body).replace("fixed", "helper")
    sizes = f"{size_of(new, 'helper')}, {size_of(known.unit, 'helper')}"
    rows = f'{{"unit.c#helper", (void *)helper, 0, {sizes}, 2}}'
    record = f'struct livepatch_func r[] __attribute__((section(".livepatch.funcs"))) = {{{rows}}};'
    data = payload(known, new, source, (), record)
    found = checked(known, new, data)
    assert found.held == (not text), found
    assert text in texts(found)


def test_a_static_of_a_function_keeps_its_state_under_another_number(
    known: World, tmp_path: Path
) -> None:
    """Both are called ``calls``; the functions that use them tell which is which."""
    new = changed(known, tmp_path, ("return ++calls +", "return ++calls * 3 +"))
    body = "int count(void) { return ++%s * 3 + elsewhere(%s); }\n"
    held = {}
    for name in ("calls_0", "calls_1"):
        data = payload(known, new, KNOWN + body % (name, name), ("count",))
        held[name] = checked(known, new, data).held
    assert sorted(held.values()) == [False, True]


HITS = """
static inline void bump(int x) {
  { static volatile int hits; hits = x; }
  { static volatile int hits; hits = 7; }
}
LOCAL int once(int x) { bump(x); return x + 1; }
int ask(int x) { return once(x); }
"""


AGAIN = "LOCAL int again(int x) { bump(x); return x + 2; } int tell(int x) { return again(x); }\n"


@pytest.mark.parametrize(("more", "states"), [("", "held open"), (AGAIN, "failed held")])
def test_of_statics_that_the_same_functions_use_each_is_one(
    more: str, states: str, tmp_path: Path
) -> None:
    """Another function, which stays, may tell which is which; else it is a question."""
    own = world(tmp_path, UNIT + HITS + more)
    new = compiled(tmp_path, "unit.c", UNIT + HITS.replace("+ 1", "+ 3") + more)

    def state(first: int, second: int) -> str:
        code = f"""
        extern volatile int one asm("unit.c_hits.{first}"), two asm("unit.c_hits.{second}");
        __attribute__((noipa)) int once(int x) {{ one = x; two = 7; return x + 3; }}
        """
        sizes = f"{size_of(new, 'once')}, {size_of(own.unit, 'once')}"
        place = '__attribute__((section(".livepatch.funcs"), used, aligned(8)))'
        record = f'{{"unit.c_once", (void *)once, 0, {sizes}, 2}}'
        rows = f"struct livepatch_func own[] {place} = {{{record}}};"
        found = checked(own, new, payload(own, new, code, (), rows))
        return "failed" if not found.held else "open" if found.unchecked else "held"

    assert " ".join(sorted((state(0, 1), state(1, 0)))) == states
    assert state(1, 1) == "failed"  # one for both


MOSTLY_READ = '__attribute__((section(".data.read_mostly")))'
FLAG = (
    f"{{{{ static {{2}} {{0}} {MOSTLY_READ}; "
    "if (!{0}) {{ {0} = 1; elsewhere({1}); }} }} "
)
SAYS = "LOCAL int says(int x) {{ {0}return x + 1; }} int ask(int x) {{ return says(x); }}\n"
SAYS_TOO = "LOCAL int too(int x) {{ {0}return x - 1; }} int tell(int x) {{ return too(x); }}\n"


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize(
    ("name", "old", "new", "is_right"),
    [
        ("once_", "old", "mine", True),
        ("once_", "mine", "too", True),  # a message more
        ("state", "mine", "too", False),
        ("once_", "old", "shared", False),  # no flag at all
        ("once_", "old", "(&old)[64]", False),  # nor this
    ],
)
def test_one_flag_more_of_a_message_may_be_any_of_them(
    name: str, old: str, new: str, *, is_right: bool, is_first: bool, tmp_path: Path
) -> None:
    """They lie side by side, and what follows a field in its instruction is not read."""
    kind = "char" if name == "once_" else "int"
    first, more = FLAG.format(name, 7, kind), FLAG.format(name, 8, kind)
    own = world(tmp_path, UNIT + SAYS.format(first) + SAYS_TOO.format(FLAG.format(name, 9, kind)))
    body = more + first if is_first else first + more
    text = UNIT + SAYS.format(body) + SAYS_TOO.format(FLAG.format(name, 9, kind))
    new_object = compiled(tmp_path, "unit.c", text)
    numbers = [row.name for row in read_elf(own.unit, "unit.o").symbols if f"{name}." in row.name]
    rows = [f"if (!{old}) {{ {old} = 1; elsewhere(7); }} ",
            f"if (!{new}) {{ {new} = 1; elsewhere(8); }} "]  # fmt: skip
    code = f"""
    int elsewhere(int); extern int shared; extern {kind} old asm("unit.c_{min(numbers)}");
    static {kind} mine {MOSTLY_READ}, too {MOSTLY_READ};
    __attribute__((noipa)) int says(int x) {{
        {"".join(reversed(rows) if is_first else rows)} return x + 1; }}
    """
    sizes = f"{size_of(new_object, 'says')}, {size_of(own.unit, 'says')}"
    place = '__attribute__((section(".livepatch.funcs"), used, aligned(8)))'
    record = f'{{"unit.c_says", (void *)says, 0, {sizes}, 2}}'
    rows_text = f"struct livepatch_func own[] {place} = {{{record}}};"
    data = payload(own, new_object, code, (), rows_text)
    found = checked(own, new_object, data)
    assert (found.held and not found.unchecked) == is_right, texts(found)


@pytest.mark.parametrize(
    ("fix", "body", "is_right"),
    [
        ("counter += x + 1;", "{ counter += x + 1; spare_counter -= x; return counter; }", True),
        ("counter += x + 1;", "{ counter += x + 2; spare_counter -= x; return counter; }", False),
    ],
)
def test_a_function_that_is_specialised_otherwise_is_the_one_of_its_stem(
    fix: str, body: str, is_right: bool, known: World, tmp_path: Path
) -> None:
    head = "LOCAL int helper(int x)"
    named = f'{head} asm("helper.isra.0");\n{head}'
    new = changed(known, tmp_path, (f"{head} {{ counter += x;", f"{named} {{ {fix}"))
    sizes = f"{size_of(new, 'helper.isra.0')}, {size_of(known.unit, 'helper')}"
    place = '__attribute__((section(".livepatch.funcs"), used, aligned(8)))'
    record = f'{{"unit.c_helper", (void *)fixed, 0, {sizes}, 2}}'
    more = f"struct livepatch_func own[] {place} = {{{record}}};"
    known_data = KNOWN.replace("extern int helper(int)", "extern int unused(int)")
    data = payload(known, new, known_data + HELPER.format(body=body), (), more)
    found = checked(known, new, data)
    assert found.held == is_right, texts(found)


def test_two_functions_of_a_stem_are_not_taken_for_one(known: World, tmp_path: Path) -> None:
    """Without the pairing nobody could say which of them the image's one became."""
    head = "LOCAL int helper(int x)"
    second = 'LOCAL int other(int x) asm("helper.isra.1");\nLOCAL int other(int x) { return x; }\n'
    named = f'{second}{head} asm("helper.isra.0");\n{head}'
    new = changed(
        known, tmp_path, (head, named), ("helper(x) + limit", "helper(x) + other(x) + limit")
    )
    found = checked(known, new, payload(known, new, KNOWN, ()))
    assert not found.held


RENAMED = ("static int counter", "static int total"), ("{ counter +=", "{ total +=")


RENAMED_HELPER = (*RENAMED, ("return counter", "return total + 1"))


RIGHT = "{ counter += x; spare_counter -= x; return counter + 1; }"


MORE = (("-= x;", "-= x; elsewhere(x); total *= x;"),)


FRESH = ("static int total", "static int fresh = 5, total"), ("-= x;", "-= x + fresh++;")


@pytest.mark.parametrize(
    ("more", "own", "body", "is_right"),
    [
        ((), "", RIGHT, True),
        # a variable that stays is exchanged for the one that was renamed
        ((), "", "{ counter += x; spare_counter -= x; return spare_counter + 1; }", False),
        ((), "", "{ spare_counter += x; counter -= x; return spare_counter + 1; }", False),
        # another one like it is new
        (FRESH, "static int fresh = 5;", RIGHT.replace("= x; r", "= x + fresh++; r"), False),
        # another first value, another kind of section, one use more
        ((("total = 5", "total = 6"),), "", RIGHT, False),
        ((("total = 5", "total"),), "", RIGHT, False),
        (MORE, "", RIGHT.replace("= x; r", "= x; elsewhere(x); counter *= x; r"), False),
        # the one is there, and a copy as well
        ((), "static int total = 5;", RIGHT.replace("counter + 1", "(total += 0) + 1"), False),
    ],
)  # fmt: skip
def test_a_variable_under_another_name_is_the_images(
    more: tuple[tuple[str, str], ...],
    own: str,
    body: str,
    is_right: bool,
    known: World,
    tmp_path: Path,
) -> None:
    new = changed(known, tmp_path, *RENAMED_HELPER, *more)
    data = payload_of_helper(known, new, own + HELPER.format(body=body))
    found = checked(known, new, data)
    assert found.held == is_right, texts(found)


def test_a_variable_under_another_name_may_be_new(known: World, tmp_path: Path) -> None:
    """The differ says that state starts again; half of it may not."""
    new = changed(known, tmp_path, *RENAMED_HELPER)
    body = RIGHT.replace("{ counter", "{ total").replace("return counter", "return total")
    own = "static int total = 5;\n"
    assert checked(known, new, payload_of_helper(known, new, own + HELPER.format(body=body))).held
    copies = (
        own
        + 'static int again asm("total.1") = 5;\n'
        + HELPER.format(body=body.replace("return total", "return again"))
    )
    found = checked(known, new, payload_of_helper(known, new, copies))
    assert not found.held


def test_a_new_variable_is_there_once(known: World, tmp_path: Path) -> None:
    """Two functions share it; with a copy for each its state is split."""
    new = changed(
        known,
        tmp_path,
        ("static int counter", "static int fresh = 9;\nstatic int counter"),
        ("{ return helper(x) + limit; }", "{ return helper(x) + (fresh += x); }"),
        ("return table[i & 3]", "return table[i & 3] + (fresh += i)"),
    )
    code = (
        "int work(int x) { return helper(x) + (fresh += x); }\n"
        "int look(int i) { return table[i & 3] + (%s += i); }\n"
    )
    for text, wrong in (
        ("static int fresh = 9;\n" + code % "fresh", ""),
        ("static int fresh = 9, second = 9;\n" + code % "second", "its state is split"),
    ):
        found = checked(known, new, payload(known, new, KNOWN + text, ("work", "look")))
        assert found.held == (not wrong), found
        assert wrong in texts(found)


def test_small_statics_beside_each_other_are_all_used(known: World, tmp_path: Path) -> None:
    """A compare of a byte counts from behind its immediate: one may mean its neighbour."""
    flag = '__attribute__((section(".data.flags"))) static _Bool flag'
    body = "{{ if (!{0}_1) {0}_1 = 1; if (!{0}_2) {0}_2 = 1; return {1}; }}"
    fix = f"{flag}_1, flag_2;\n"
    old = 'const char *text(void) { return "the old text"; }'
    new = changed(
        known, tmp_path, (old, fix + "const char *text(void) " + body.format("flag", '"x"'))
    )
    source = KNOWN + fix + "const char *text(void) " + body.format("flag", '"x"')
    found = checked(known, new, payload(known, new, source, ("text",)))
    assert "nothing refers to it" not in texts(found)
    assert found.held, texts(found)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (("x + 1", "x + 2"), "helper"),
        (("counter += x", "spare_counter += x"), "helper"),
        (("", ""), ""),
    ],
)
def test_a_static_function_that_becomes_global_is_the_images(
    wrong: tuple[str, str], text: str, known: World, tmp_path: Path
) -> None:
    head, body = (
        "LOCAL int helper(int x)",
        "{ counter += x + 1; spare_counter -= x; return counter; }",
    )
    new = changed(
        known,
        tmp_path,
        (head, "__attribute__((noipa)) int helper(int x)"),
        ("counter += x; spare", "counter += x + 1; spare"),
    )
    sizes = f"{size_of(new, 'helper')}, {size_of(known.unit, 'helper')}"
    place = '__attribute__((section(".livepatch.funcs"), used, aligned(8)))'
    record = f'{{"unit.c_helper", (void *)fixed, 0, {sizes}, 2}}'
    names = KNOWN.replace("extern int helper(int)", "extern int unused(int)")
    source = names + HELPER.format(body=body.replace(*wrong) if text else body)
    data = payload(known, new, source, (), f"struct livepatch_func own[] {place} = {{{record}}};")
    found = checked(known, new, data)
    assert found.held == (not text), found
    assert text in texts(found)


@pytest.mark.parametrize(
    ("fixed", "is_right"),
    [("limit - 1", True), ("limit - 2", False), ("shared - 1", False)],
)
def test_a_global_variable_that_becomes_static_keeps_its_state(
    fixed: str, is_right: bool, known: World, tmp_path: Path
) -> None:
    edits = (("int limit = 3;", "static volatile int limit = 3;"), ("+ limit", "+ limit - 1"))
    new = changed(known, tmp_path, *edits)
    names = KNOWN.replace("extern int limit, shared", "extern volatile int limit, shared")
    source = names + f"int work(int x) {{ return helper(x) + {fixed}; }}\n"
    assert checked(known, new, payload(known, new, source, ("work",))).held == is_right


@pytest.mark.parametrize(("value", "is_right"), [("5", True), ("6", False)])
def test_a_static_variable_that_becomes_global_has_the_images_first_value(
    value: str, is_right: bool, known: World, tmp_path: Path
) -> None:
    new = changed(known, tmp_path, ("static int counter = 5", f"int counter = {value}"), TEXT)
    data = payload(known, new, KNOWN + FIXED_TEXT, ("text",))
    assert checked(known, new, data).held == is_right


def test_a_global_that_another_object_defines_now_is_not_both(known: World, tmp_path: Path) -> None:
    """A rebuild has two variables; the image has one place for them."""
    new = changed(known, tmp_path, ("int limit = 3;", "static volatile int limit = 3;"), TEXT)
    data = payload(known, new, KNOWN + FIXED_TEXT, ("text",))
    held = {}
    for name in ("limit", "unrelated"):
        other = compiled(tmp_path, "third.c", f"extern int {name}; int {name} = 3;")
        rows = [
            NewObject(path="unit.o", new=new, baseline=known.unit),
            NewObject(path="third.o", new=other),
        ]
        held[name] = "static on one side alone" in texts(
            check_payload(known.image, data, rows, FACTS)
        )
    assert held == {"limit": True, "unrelated": False}
