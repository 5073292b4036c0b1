# SPDX-License-Identifier: Apache-2.0
"""Does a payload turn the image into what a full rebuild would run? Each claim and its negation."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.unit.check.building import (
    FACTS,
    FIXED_TEXT,
    FIXED_WORK,
    KNOWN,
    TEXT,
    UNIT,
    WORK,
    World,
    changed,
    checked,
    compiled,
    payload,
    texts,
    world,
)
from xsplice_plugins.artefacts import from_json, to_json
from xsplice_plugins.check.otherwise import needed_otherwise
from xsplice_plugins.check.results import CheckReport

pytestmark = pytest.mark.toolchain


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


@pytest.mark.parametrize("alias", ["a_first", "z_last"])
def test_a_new_alias_of_a_replaced_function_is_no_other_function(
    alias: str, known: World, tmp_path: Path
) -> None:
    more = f'int {alias}(int) __attribute__((alias("work")));\nint look('
    new = changed(known, tmp_path, WORK, ("int look(", more))
    right = payload(known, new, KNOWN + FIXED_WORK, ("work",))
    assert checked(known, new, right).held
    wrong = payload(known, new, KNOWN + FIXED_WORK.replace("- limit", "- shared"), ("work",))
    assert "work: " in texts(checked(known, new, wrong))


def test_a_name_that_stands_for_another_function_is_found(known: World, tmp_path: Path) -> None:
    """Objects that are not compared call `look` by its name, and find what the image has there."""
    body = "int look(int i) { return table[i & 3]; }"
    alias = 'int look(int) __attribute__((alias("work")));'
    new = changed(known, tmp_path, WORK, (body, alias))
    found = checked(known, new, payload(known, new, KNOWN + FIXED_WORK, ("work",)))
    assert not found.held
    assert "it is another name of" in texts(found)


def test_a_name_that_gets_a_body_of_its_own_is_found(tmp_path: Path) -> None:
    body = "int look(int i) { return table[i & 3]; }"
    alias = 'int look(int) __attribute__((alias("work")));'
    own = world(tmp_path, UNIT.replace(body, alias))
    new = compiled(tmp_path, "unit.c", UNIT.replace(*WORK))
    found = checked(own, new, payload(own, new, KNOWN + FIXED_WORK, ("work",)))
    assert "in the image it is one with work" in texts(found)


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


def test_a_new_function_that_nothing_calls_is_compared_with_the_one_of_its_name(
    known: World, tmp_path: Path
) -> None:
    """It may be for payloads above; its entries are no strangers."""
    more = "void added(void) { BUG(3); }\n"
    new = changed(known, tmp_path, TEXT, ("int work(", f"{more}int work("))
    for body, words in (
        (more, ""),
        (more.replace("3", "4"), "another place or line"),
        (more.replace("BUG(3)", ""), "added: "),
        (
            "static " + more.replace("void added", "__attribute__((used)) void added"),
            "its entry at",
        ),
        ("", ""),
    ):
        found = checked(known, new, payload(known, new, KNOWN + FIXED_TEXT + body, ("text",)))
        assert (found.held, words in texts(found)) == (not words, True), (body, found)


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
        (LISTED, LISTED.replace("ro.list", "ro.other"), "a list made at link time is sorted"),
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
    drifted = dataclasses.replace(
        known, unit=changed(known, tmp_path, ("x) + limit", "x) * limit"))
    )
    found = checked(drifted, new, data)
    assert not found.held
    assert "before the patch it is not the image's" in "\n".join(": ".join(r) for r in found.stale)
    known_good = checked(known, new, data)
    assert (known_good.held, known_good.stale, known_good.placed > 5) == (True, (), True)


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
    differs = {("other.o", "other.c#elsewhere.cold")}  # its caller gets there too
    assert list(needs(new, far, "work")) == ["other.c#elsewhere.cold"]
    brought = "int more(int x) { return x; }\nint work(int x) { return more(x); }\n"
    assert "brings it" in needs(new, brought, "work")["more"]
