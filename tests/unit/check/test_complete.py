# SPDX-License-Identifier: Apache-2.0
"""Does a payload turn the image into what a full rebuild would run? Each claim and its negation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.check.building import FACTS, UNIT, World, checked, compiled, payload, size_of, world
from xsplice_plugins.artefacts import from_json, to_json
from xsplice_plugins.check.complete import check_payload
from xsplice_plugins.check.otherwise import needed_otherwise
from xsplice_plugins.check.results import CheckReport, NewObject

pytestmark = pytest.mark.toolchain

#: How a payload names what the image has.
KNOWN = r"""
extern int counter asm("unit.c_counter"), spare_counter asm("unit.c_spare_counter");
extern int calls_0 asm("unit.c_calls.0"), calls_1 asm("unit.c_calls.1");
extern int limit, shared;
extern const int table[4] asm("unit.c_table");
extern int helper(int) asm("unit.c_helper");
int elsewhere(int);
"""
HELPER = (
    '__attribute__((noipa)) int fixed(int x) asm("unit.c_helper");\n'
    "__attribute__((noipa)) int fixed(int x) {body}\n"
)
FIXED_TEXT = 'const char *text(void) { return "the new text"; }\n'
FIXED_WORK = "int work(int x) { return helper(x) - limit; }\n"


def changed(known: World, tmp_path: Path, *edits: tuple[str, str]) -> bytes:
    source = UNIT
    for old, new in edits:
        assert old in source
        source = source.replace(old, new)
    return compiled(tmp_path, "unit.c", source)


def texts(found: CheckReport) -> str:
    return "\n".join(": ".join(row) for row in found.differences)


TEXT = ("the old text", "the new text")
WORK = ("helper(x) + limit", "helper(x) - limit")


def test_a_complete_payload_holds(known: World, tmp_path: Path) -> None:
    new = changed(known, tmp_path, TEXT, WORK)
    data = payload(known, new, KNOWN + FIXED_TEXT + FIXED_WORK, ("text", "work"))
    found = checked(known, new, data)
    assert found.held, found
    assert (found.replaced, found.unchanged) == (2, 5)
    assert found.unchecked == ()
    assert from_json(to_json(found), CheckReport, "check") == found


def test_a_function_without_a_record_is_missed_by_name(known: World, tmp_path: Path) -> None:
    new = changed(known, tmp_path, TEXT, WORK)
    data = payload(known, new, KNOWN + FIXED_TEXT + FIXED_WORK, ("text",))
    found = checked(known, new, data)
    assert not found.held
    assert [subject for subject, _ in found.differences] == ["work"]
    assert "it is not replaced, and the image differs" in texts(found)


def test_a_record_too_many_is_found(known: World, tmp_path: Path) -> None:
    """It may be right by luck, but no object of the fix asked for it."""
    new = changed(known, tmp_path, TEXT)
    source = KNOWN + FIXED_TEXT + "int more(int x) { return x * 6; }\n"
    rows = '{"more", (void *)more, 0, 4, 4, 2}'
    place = '__attribute__((section(".livepatch.funcs"), used, aligned(8)))'
    more = f"struct livepatch_func second[] {place} = {{{rows}}};"
    found = checked(known, new, payload(known, new, source, ("text",), more))
    assert "more: the payload replaces it, and no new object has it there" in texts(found)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ('const char *text(void) { return "the odd text"; }\n', "another text"),
        ("const char *text(void) { return (const char *)0; }\n", "text: "),
        ("", ""),
    ],
)
def test_another_replacement_is_found(source: str, text: str, known: World, tmp_path: Path) -> None:
    new = changed(known, tmp_path, TEXT)
    data = payload(known, new, KNOWN + (source or FIXED_TEXT), ("text",))
    found = checked(known, new, data)
    assert found.held == (not source)
    assert text in texts(found)


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


def payload_of_helper(known: World, new: bytes, code: str) -> bytes:
    """Return a payload that replaces ``helper``, which the image knows under its local name."""
    sizes = f"{size_of(new, 'helper')}, {size_of(known.unit, 'helper')}"
    place = '__attribute__((section(".livepatch.funcs"), used, aligned(8)))'
    record = f'{{"unit.c_helper", (void *)fixed, 0, {sizes}, 2}}'
    more = f"struct livepatch_func own[] {place} = {{{record}}};"
    data = KNOWN.replace("extern int helper(int)", "extern int unused(int)")
    return payload(known, new, data + code, (), more)


def test_new_functions_and_data_are_compared_by_content(known: World, tmp_path: Path) -> None:
    more = "static int fresh = 9; LOCAL int added(int x) { return fresh += x; }\n"
    edit = (
        "int work(int x) { return helper(x) + limit",
        more + "int work(int x) { return added(x)",
    )
    new = changed(known, tmp_path, edit)
    work = "int work(int x) { return added(x); }\n"
    for text, holds in (
        (more, True),
        (more.replace("fresh = 9", "fresh = 8"), False),
        (more.replace("+= x", "-= x"), False),
        (more.replace("static int fresh = 9;", 'extern int fresh asm("unit.c_counter");'), False),
    ):
        found = checked(known, new, payload(known, new, KNOWN + text + work, ("work",)))
        assert found.held == holds, found


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


def test_entries_of_special_sections_come_along(known: World, tmp_path: Path) -> None:
    """Bug frames with their lines, alternatives with their code, exception table entries."""
    edit = ("GUARDED(&shared); return shared;", "GUARDED(&shared); return shared + 2;")
    new = changed(known, tmp_path, edit)
    right = (
        'int traps(int x) { if (x) BUG(7); ALTERNATIVE("stac"); GUARDED(&shared); '
        "return shared + 2; }\n"
    )
    for old, other, text in (
        ("", "", ""),
        ("BUG(7)", "BUG(8)", "another place or line"),
        ("BUG(7)", 'asm volatile("ud2")', ".bug_frames.2 has 0 entries for it, not 1"),
        ('ALTERNATIVE("stac")', 'asm volatile("nop;nop;nop")', ".altinstructions has 0 entries"),
        ('ALTERNATIVE("stac")', 'ALTERNATIVE("clac")', "its replacement"),
        ("GUARDED(&shared)", 'asm volatile("movl (%0), %%eax" :: "r"(&shared) : "eax", "memory")',
         ".ex_table has 0 entries"),
    ):  # fmt: skip
        source = KNOWN + right.replace(old, other) if old else KNOWN + right
        found = checked(known, new, payload(known, new, source, ("traps",)))
        assert found.held == (not text), (other, found)
        assert text in texts(found), other


def test_an_entry_too_many_is_found(known: World, tmp_path: Path) -> None:
    new = changed(known, tmp_path, TEXT)
    extra = "void stray(void) { BUG(3); }\n"
    found = checked(known, new, payload(known, new, KNOWN + FIXED_TEXT + extra, ("text",)))
    assert ".bug_frames.2: its entry at 0x0 speaks of nothing that was compared" in texts(found)


def test_changed_entries_of_a_function_that_stays_are_found(known: World, tmp_path: Path) -> None:
    """The code is the same, only a line moved: with the neutral object it is no change."""
    new = changed(known, tmp_path, TEXT, ("BUG(7)", "BUG(8)"))
    data = payload(known, new, KNOWN + FIXED_TEXT, ("text",))
    found = checked(known, new, data)
    assert [subject for subject, _ in found.differences] == ["traps"]
    assert checked(known, new, data, neutral=changed(known, tmp_path, TEXT)).held


def test_changed_read_only_data_of_a_function_that_stays_is_found(
    known: World, tmp_path: Path
) -> None:
    new = changed(known, tmp_path, TEXT, ("{1, 2, 3, 4}", "{1, 2, 3, 9}"))
    found = checked(known, new, payload(known, new, KNOWN + FIXED_TEXT, ("text",)))
    assert [subject for subject, _ in found.differences] == ["look"]
    look = "static const int copied[4] = {1, 2, 3, 9};\nint look(int i) { return copied[i & 3]; }\n"
    both = payload(known, new, KNOWN + FIXED_TEXT + look, ("text", "look"))
    assert checked(known, new, both).held


def test_a_copy_of_a_table_that_did_not_change_is_found(known: World, tmp_path: Path) -> None:
    new = changed(known, tmp_path, ("table[i & 3]", "table[i & 1]"))
    look = "int look(int i) { return table[i & 1]; }\n"
    assert checked(known, new, payload(known, new, KNOWN + look, ("look",))).held
    copied = "static const int copied[4] = {1, 2, 3, 4};\n" + look.replace("table", "copied")
    found = checked(known, new, payload(known, new, KNOWN + copied, ("look",)))
    assert "another place than unit.c#table of the image" in texts(found)


def test_a_changed_first_value_is_found(known: World, tmp_path: Path) -> None:
    new = changed(known, tmp_path, TEXT, ("int limit = 3", "int limit = 4"))
    found = checked(known, new, payload(known, new, KNOWN + FIXED_TEXT, ("text",)))
    assert "limit: it is not as the image has it" in texts(found)


def test_a_variable_that_only_a_linker_script_gathers_is_found(
    known: World, tmp_path: Path
) -> None:
    row = 'static int row __attribute__((used, section(".data.schedulers"))) = 1;\nint limit = 3;'
    new = changed(known, tmp_path, TEXT, ("int limit = 3;", row))
    found = checked(known, new, payload(known, new, KNOWN + FIXED_TEXT, ("text",)))
    assert "unit.c#row: it is new and nothing refers to it" in texts(found)


LISTED = """
static const struct { int (*run)(int); int id; } row
    __attribute__((used, section(".data.rel.ro.list"))) = {work, 3};
"""


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        ("", LISTED, "row: it is new and nothing refers to it"),
        (LISTED, LISTED.replace("3", "4"), "row: it is not as the image has it"),
        (LISTED, LISTED.replace("work", "look"), "row: it is not as the image has it"),
        (LISTED, "", "row: it is gone, and a list made at link time still has it"),
        (LISTED, LISTED, ""),
    ],
)
def test_a_constant_that_only_a_linker_script_gathers_is_found(
    before: str, after: str, text: str, tmp_path: Path
) -> None:
    own = world(tmp_path, UNIT + before)
    new = compiled(tmp_path, "unit.c", UNIT.replace(*TEXT) + after)
    found = checked(own, new, payload(own, new, KNOWN + FIXED_TEXT, ("text",)))
    assert found.held == (not text), texts(found)
    assert text in texts(found)


@pytest.mark.parametrize(("place", "is_open"), [("list", True), ("row", False)])
def test_a_new_name_that_nobody_uses_may_be_an_entry(
    place: str, is_open: bool, known: World, tmp_path: Path
) -> None:
    row = f'const int row __attribute__((section(".rodata.{place}"))) = 3;\n'
    new = compiled(tmp_path, "unit.c", UNIT.replace(*TEXT) + row)
    found = checked(known, new, payload(known, new, KNOWN + FIXED_TEXT, ("text",)))
    assert (found.held, bool(found.unchecked)) == (True, is_open)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("int counter", "int MANY counter", "unit.c#counter: it is not as the image has it"),
        ("int limit", "int MANY limit", "limit: it is not as the image has it"),
        ("const int table", "const int MANY table", "no multiple of 4096"),
        ("int counter", "int FEW counter", ""),
    ],
)
def test_what_must_be_aligned_more_than_the_image_has_it_is_found(
    old: str, new: str, text: str, known: World, tmp_path: Path
) -> None:
    macros = "".join(
        f"#define {name} __attribute__((aligned({count})))\n"
        for name, count in (("MANY", 4096), ("FEW", 4))
    )
    source = macros + UNIT.replace(*TEXT).replace(old, new, 1)
    fixed = compiled(tmp_path, "unit.c", source)
    found = checked(known, fixed, payload(known, fixed, KNOWN + FIXED_TEXT, ("text",)))
    assert found.held == (not text), texts(found)
    assert text in texts(found)
    assert found.unchecked == ()


@pytest.mark.parametrize("is_open", [False, True])
def test_which_variable_of_a_section_must_be_aligned_more_is_not_known(
    is_open: bool, tmp_path: Path
) -> None:
    macros = '#define IN __attribute__((section(".data.mostly")))\n'
    some = "int near IN = 1, far IN = 2;\n"
    own = world(tmp_path, macros + some + UNIT)
    fixed = some.replace("near IN", "near IN __attribute__((aligned(4096)))") if is_open else some
    new = compiled(tmp_path, "unit.c", macros + fixed + UNIT.replace(*TEXT))
    found = checked(own, new, payload(own, new, KNOWN + FIXED_TEXT, ("text",)))
    assert found.held, texts(found)
    assert any("a multiple of 4096" in row for row in found.unchecked) == is_open


def test_boot_only_code_is_named_and_holds_nothing_up(known: World, tmp_path: Path) -> None:
    new = changed(known, tmp_path, TEXT, ("start(void) { return 1", "start(void) { return 2"))
    found = checked(known, new, payload(known, new, KNOWN + FIXED_TEXT, ("text",)))
    assert found.held
    assert (found.boot_only, found.unchecked) == (("start",), ())


def test_a_baseline_that_is_not_the_images_is_found(known: World, tmp_path: Path) -> None:
    new = changed(known, tmp_path, TEXT)
    data = payload(known, new, KNOWN + FIXED_TEXT, ("text",))
    drifted = replace(known, unit=changed(known, tmp_path, ("x) + limit", "x) * limit")))
    found = checked(drifted, new, data)
    assert not found.held
    assert "before the patch it is not the image's" in "\n".join(": ".join(r) for r in found.stale)
    known_good = checked(known, new, data)
    assert (known_good.held, known_good.stale, known_good.placed > 5) == (True, (), True)


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


def test_hooks_are_compared(known: World, tmp_path: Path) -> None:
    hook = (
        "void hook(void) { limit = %d; }\n"
        'void (*at_load)(void) __attribute__((used, section(".livepatch.hooks.load"))) = hook;\n'
    )
    new = compiled(tmp_path, "unit.c", UNIT.replace(*TEXT) + hook % 8)
    for number, holds in ((8, True), (9, False)):
        data = payload(known, new, KNOWN + FIXED_TEXT + hook % number, ("text",))
        assert checked(known, new, data).held == holds
    assert not checked(known, new, payload(known, new, KNOWN + FIXED_TEXT, ("text",))).held
    plain = changed(known, tmp_path, TEXT)
    extra = payload(known, plain, KNOWN + FIXED_TEXT + hook % 8, ("text",))
    assert "a hook that the new objects have not" in texts(checked(known, plain, extra))


def test_what_a_matched_base_has_otherwise_is_named_where_the_payload_needs_it(
    known: World, tmp_path: Path
) -> None:
    differs, strangers = {("unit.o", "unit.c#helper"), ("other.o", "elsewhere")}, ("more",)

    def needs(new: bytes, source: str, *replaced: str) -> dict[str, str]:
        data = payload(known, new, KNOWN + source, replaced)
        return dict(needed_otherwise(known.image, data, FACTS, differs, strangers))

    new = changed(known, tmp_path, TEXT)
    assert needs(new, FIXED_TEXT, "text") == {}
    new = changed(known, tmp_path, WORK)
    assert list(needs(new, FIXED_WORK, "work")) == ["unit.c#helper"]
    far = "int work(int x) { return elsewhere(x); }\n"
    assert "uses it" in needs(new, far, "work")["elsewhere"]
    brought = "int more(int x) { return x; }\nint work(int x) { return more(x); }\n"
    assert "brings it" in needs(new, brought, "work")["more"]


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
