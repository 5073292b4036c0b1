# SPDX-License-Identifier: Apache-2.0
"""Is a payload on top of others what a rebuild with all patches would run?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.check.building import FACTS, KNOWN, UNIT, World, compiled, payload, size_of
from xsplice_plugins.check.complete import check_payload
from xsplice_plugins.check.results import Beneath, CheckReport, NewObject

pytestmark = pytest.mark.toolchain

#: What the first patch brings, and what it makes of `work` and `text`.
BROUGHT = """int kept = 3;
static int hidden = 4;
LOCAL int inner(int n) { return hidden += n; }
__attribute__((noipa)) int brought(int n) { kept += inner(n); return kept; }
"""
FIRST = (
    ("int work(int x) { return helper(x) + limit", BROUGHT + "int work(int x) { return brought(x)"),
    ("the old text", "the first text"),
)
SECOND = ("{ return brought(x); }", "{ return brought(x) - kept; }")
THIRD = ("kept += inner(n)", "kept -= inner(n)")
TEXT = 'const char *text(void) { return "the first text"; }\n'
NAMES = KNOWN + "extern int kept; int brought(int);\n"
UPPER = "int work(int x) { return brought(x) - kept; }\n"
#: How a later payload reaches what the first one brought without a name for other files.
INNER = 'int inner(int) asm("inner");\n'


def edited(*edits: tuple[str, str], source: str = UNIT) -> str:
    for old, new in edits:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    return source


@dataclass(frozen=True, kw_only=True)
class Stack:
    """The tiny hypervisor with a payload on it."""

    known: World
    first: bytes  #: the object with the first patch
    second: bytes  #: with both
    lower: bytes  #: the payload of the first

    def check(  # noqa: D102
        self,
        data: bytes,
        new: bytes | None = None,
        *,
        lower: tuple[bytes, ...] = (),
        baseline: bytes | None = None,
        is_handmade: bool = False,
        stills: tuple[bytes, ...] = (),
        baseline_stills: tuple[bytes, ...] = (),
    ) -> CheckReport:
        fix = NewObject(
            path="unit.o",
            new=new or self.second,
            baseline=baseline or self.first,
            plain=self.known.unit,
            stills=stills,
            baseline_stills=baseline_stills,
        )
        beneath = [
            Beneath(name=f"s{number}.livepatch", data=row, is_handmade=is_handmade)
            for number, row in enumerate(lower or (self.lower,), 1)
        ]
        return check_payload(self.known.image, data, [fix], FACTS, beneath)


@pytest.fixture(scope="module")
def stack(known: World, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    folder = tmp_path_factory.mktemp("stack")
    first = compiled(folder, "unit.c", edited(*FIRST))
    second = compiled(folder, "unit.c", edited(*FIRST, SECOND))
    lower = payload(
        known,
        first,
        KNOWN + BROUGHT + "int work(int x) { return brought(x); }\n" + TEXT,
        ("work", "text"),
    )
    return Stack(known=known, first=first, second=second, lower=lower)


def upper(stack: Stack, source: str = UPPER, replaced: tuple[str, ...] = ("work",)) -> bytes:
    return payload(stack.known, stack.second, NAMES + source, replaced)


def texts(found: CheckReport) -> str:
    return "\n".join(": ".join(row) for row in (*found.beneath, *found.differences))


def test_a_right_payload_on_another_one_holds(stack: Stack) -> None:
    found = stack.check(upper(stack))
    assert found.held, texts(found)
    assert found.unchecked == ()
    assert found.unseen == ()
    assert found.replaced == 1


def test_without_the_one_beneath_it_does_not(stack: Stack) -> None:
    fix = NewObject(path="unit.o", new=stack.second, baseline=stack.known.unit)
    assert not check_payload(stack.known.image, upper(stack), [fix], FACTS).held


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("int work(int x) { return brought(x) + kept; }\n", "work: +"),
        # The image's variable for the lower payload's.
        ("int work(int x) { return brought(x) - limit; }\n", "another place than kept"),
        (
            "int own = 3;\nint work(int x) { return brought(x) - own; }\n",
            "start again",
        ),
        # The image's function for the lower payload's.
        ("int work(int x) { return elsewhere(x) - kept; }\n", "than brought"),
    ],
)
def test_a_wrong_one_is_found(source: str, text: str, stack: Stack) -> None:
    found = stack.check(upper(stack, source))
    assert not found.held
    assert text in texts(found)
    assert not found.beneath


def test_one_that_undoes_the_one_beneath_is_found(stack: Stack) -> None:
    """It puts back the text of the tree, which the rebuild with both patches has not."""
    source = UPPER + 'const char *text(void) { return "the old text"; }\n'
    found = stack.check(upper(stack, source, ("work", "text")))
    assert [subject for subject, _ in found.differences] == ["text"]
    again = upper(stack, UPPER + TEXT, ("work", "text"))
    assert stack.check(again).held, "needless, and right"


def test_one_that_leaves_out_its_change_is_found(stack: Stack) -> None:
    source = 'const char *text(void) { return "the first text"; }\n'
    found = stack.check(upper(stack, source, ("text",)))
    assert "work: it is not replaced, and s1.livepatch differs" in texts(found)


def test_a_lower_payload_of_other_sources_is_found_by_name(stack: Stack) -> None:
    right = KNOWN + BROUGHT + "int work(int x) { return brought(x); }\n" + TEXT
    for old, new, subject in (
        ("the first text", "the other text", "text"),
        ("return brought(x)", "return brought(x) + 1", "work"),
        ("kept = 3", "kept = 9", "kept"),
        ("hidden += n", "hidden -= n", "work"),
        ("return kept;", "return kept + 1;", "brought"),
    ):
        other = payload(
            stack.known, stack.first, edited((old, new), source=right), ("work", "text")
        )
        found = stack.check(upper(stack), lower=(other,))
        assert not found.held
        assert subject in {name for name, _ in found.beneath}, (old, found)
        assert "s1.livepatch" in texts(found)


def test_any_byte_of_the_code_beneath_counts(stack: Stack) -> None:
    from xsplice_plugins.elf.reader import read_elf  # noqa: PLC0415

    for row in read_elf(stack.lower, "lower").sections:
        if row.name.startswith(".text.") and row.size_bytes:
            data = bytearray(stack.lower)
            data[row.offset_file] ^= 1
            assert stack.check(upper(stack), lower=(bytes(data),)).beneath, row.name


def test_a_lower_payload_that_leaves_a_function_out_is_found(stack: Stack) -> None:
    source = KNOWN + BROUGHT + "int work(int x) { return brought(x); }\n"
    other = payload(stack.known, stack.first, source, ("work",))
    found = stack.check(upper(stack), lower=(other,))
    assert [subject for subject, _ in found.beneath] == ["text"]


def test_a_lower_payload_that_replaces_more_is_named(stack: Stack) -> None:
    source = KNOWN + BROUGHT + "int work(int x) { return brought(x); }\n" + TEXT
    rows = '{"more", (void *)more, 0, 4, 4, 2}'
    place = '__attribute__((section(".livepatch.funcs"), used, aligned(8)))'
    more = f"int more(int x) {{ return 1; }}\nstruct livepatch_func second[] {place} = {{{rows}}};"
    other = payload(stack.known, stack.first, source, ("work", "text"), more)
    found = stack.check(upper(stack), lower=(other,))
    assert found.unseen == (("s1.livepatch", "more"),)


def test_hooks_of_the_one_beneath_are_its_patchs_or_named(stack: Stack, tmp_path: Path) -> None:
    hook = (
        "void hook(void) { limit = %d; }\n"
        'void (*at_load)(void) __attribute__((used, section(".livepatch.hooks.load"))) = hook;\n'
    )
    first = compiled(tmp_path, "unit.c", edited(*FIRST) + hook % 8)
    second = compiled(tmp_path, "unit.c", edited(*FIRST, SECOND) + hook % 8)
    source = KNOWN + BROUGHT + "int work(int x) { return brought(x); }\n" + TEXT
    top = payload(stack.known, second, NAMES + UPPER, ("work",))
    lowers = [
        payload(stack.known, first, source + more, ("work", "text"))
        for more in (hook % 8, hook % 9, "")
    ]
    found = [stack.check(top, second, lower=(lower,), baseline=first) for lower in lowers]
    assert [row.held for row in found] == [True, False, False]
    assert [row.unseen for row in found] == [(), (("s1.livepatch", ".livepatch.hooks.load"),), ()]
    assert "no payload beneath has the hook of unit.o" in texts(found[2])
    # What runs with the one beneath is not run again, and a new one is brought.
    again = payload(stack.known, second, NAMES + UPPER + hook % 8, ("work",))
    said = texts(stack.check(again, second, lower=(lowers[0],), baseline=first))
    assert "a hook that the new objects have not, or once more" in said
    more = (hook % 5).replace("hook(", "other(").replace("= hook", "= other")
    more = more.replace("at_load", "at_load_2")
    third = compiled(tmp_path, "unit.c", edited(*FIRST, SECOND) + hook % 8 + more)
    for text, holds in ((more, True), (more.replace("= 5", "= 6"), False), ("", False)):
        own = payload(stack.known, third, NAMES + UPPER + text, ("work",))
        assert stack.check(own, third, lower=(lowers[0],), baseline=first).held == holds, text


@pytest.mark.parametrize(
    ("body", "holds"), [("kept -= inner(n)", True), ("kept += inner(n)", False)]
)
def test_a_third_replaces_what_the_first_brought(
    body: str, holds: bool, stack: Stack, tmp_path: Path
) -> None:
    new = compiled(tmp_path, "unit.c", edited(*FIRST, SECOND, THIRD))
    source = f"{NAMES}{INNER}int brought(int n) {{ {body}; return kept; }}\n"
    data = payload(stack.known, new, source, ("brought",), old=stack.second)
    found = stack.check(data, new, lower=(stack.lower, upper(stack)), baseline=stack.second)
    assert found.held == holds, texts(found)
    assert not found.beneath
    # A stack of four: all still call it by its name.
    fourth = compiled(
        tmp_path,
        "unit.c",
        edited(*FIRST, SECOND, THIRD, ("text(void) { return", "text(void) { return limit ? 0 :")),
    )
    text = 'const char *text(void) { return limit ? 0 : "the first text"; }\n'
    top = payload(stack.known, fourth, NAMES + text, ("text",))
    found = stack.check(top, fourth, lower=(stack.lower, upper(stack), data), baseline=new)
    assert found.held == holds
    assert bool(found.beneath) != holds


def test_a_gap_in_the_chain_is_found(stack: Stack, tmp_path: Path) -> None:
    new = compiled(tmp_path, "unit.c", edited(*FIRST, SECOND, THIRD))
    source = f"{NAMES}{INNER}int brought(int n) {{ kept -= inner(n); return kept; }}\n"
    data = payload(stack.known, new, source, ("brought",), old=stack.second)
    found = stack.check(data, new, baseline=stack.second)
    assert [subject for subject, _ in found.beneath] == ["work"]


def test_state_without_a_name_is_the_lower_payloads(known: World, tmp_path: Path) -> None:
    """A static of a function has no name that a later payload could use: a copy starts again."""
    one = ("return table[i & 3];", "static int seen; return table[i & 3] + ++seen;")
    two = ("+ ++seen", "- ++seen")
    first = compiled(tmp_path, "unit.c", edited(one))
    second = compiled(tmp_path, "unit.c", edited(one, two))
    look = "int look(int i) { static int seen; return table[i & 3] + ++seen; }\n"
    lower = payload(known, first, KNOWN + look, ("look",))
    stack = Stack(known=known, first=first, second=second, lower=lower)
    data = payload(known, second, KNOWN + edited(two, source=look), ("look",))
    found = stack.check(data)
    assert not found.held
    assert "would start again: the payload brings a copy" in texts(found)
    assert not found.beneath


def test_a_cold_part_beneath_belongs_to_its_function(known: World, tmp_path: Path) -> None:
    rare = "__attribute__((cold, noipa)) void rare(int x) { limit = x; }\n"
    count = "int count(void) { if (limit > 5) { rare(%d); limit = 3; } return limit; }\n"
    old = "int count(void) { static int calls; return ++calls + elsewhere(calls); }\n"
    one, two = (old, rare + count % 1), ("the old text", "the new text")
    first = compiled(tmp_path, "unit.c", edited(one))
    second = compiled(tmp_path, "unit.c", edited(one, two))
    assert b"count.cold" in first
    text = 'const char *text(void) { return "the new text"; }\n'
    data = payload(known, second, KNOWN + text, ("text",))
    for number, holds in ((1, True), (2, False)):
        lower = payload(known, first, KNOWN + rare + count % number, ("count",))
        found = Stack(known=known, first=first, second=second, lower=lower).check(data)
        assert found.held == holds, texts(found)
        assert {name for name, _ in found.beneath} == (set() if holds else {"count"})


def test_hand_written_code_beneath_is_not_judged_and_named(stack: Stack, known: World) -> None:
    source = 'const char *text(void) { return "by hand"; }\n'
    by_hand = payload(known, known.unit, KNOWN + source, (), record(known, "text"))
    second = compiled(
        known.folder, "unit.c", edited(("return table[i & 3]", "return table[i & 1]"))
    )
    look = payload(known, second, KNOWN + "int look(int i) { return table[i & 1]; }\n", ("look",))
    found = stack.check(look, second, lower=(by_hand,), baseline=known.unit, is_handmade=True)
    assert found.held, texts(found)
    assert found.unchecked == ("text: replaced by s1.livepatch, which is hand-written",)
    assert not stack.check(look, second, lower=(by_hand,), baseline=known.unit).held


def record(known: World, name: str) -> str:
    size = size_of(known.unit, name)
    place = '__attribute__((section(".livepatch.funcs"), used, aligned(8)))'
    return f'struct livepatch_func by_hand[] {place} = {{{{"{name}", (void *){name}, 0, 6, {size}, 2}}}};'  # noqa: E501


def test_bytes_expected_under_a_jump_are_found(stack: Stack) -> None:
    place = '__attribute__((section(".livepatch.funcs"), used, aligned(8)))'
    sizes = f"{size_of(stack.second, 'work')}, {size_of(stack.known.unit, 'work')}"
    rows = f'{{"work", (void *)work, 0, {sizes}, 2, {{0}}, {{0}}, {{11, 1, 2, 3, 4, 5}}}}'
    data = payload(
        stack.known,
        stack.second,
        NAMES + UPPER,
        (),
        f"struct livepatch_func r[] {place} = {{{rows}}};",
    )
    assert "where a payload beneath has put a jump" in texts(stack.check(data))


def test_lines_are_those_that_each_payload_was_compiled_with(known: World, tmp_path: Path) -> None:
    """The first patch moves lines; so does the second: what neither changes keeps its numbers."""
    change = ("GUARDED(&shared); return shared;", "GUARDED(&shared); return shared + 2;")
    text = ("the old text", "the new text")

    def at(line: int, *edits: tuple[str, str]) -> bytes:
        return compiled(tmp_path, "unit.c", edited(*edits, ("BUG(7)", f"BUG({line})")))

    first, second = at(9, change), at(12, change, text)
    source = 'int traps(int x) { if (x) BUG(9); ALTERNATIVE("stac"); GUARDED(&shared); return shared + 2; }\n'  # noqa: E501
    lower = payload(known, first, KNOWN + source, ("traps",))
    data = payload(
        known, second, KNOWN + 'const char *text(void) { return "the new text"; }', ("text",)
    )
    stack = Stack(known=known, first=first, second=second, lower=lower)
    assert [name for name, _ in stack.check(data).differences] == ["traps"]
    assert stack.check(data, stills=(at(9, change, text),)).held
    # The baseline of a third has the lines of both.
    third = compiled(
        tmp_path, "unit.c", edited(change, text, ("BUG(7)", "BUG(12)"), ("i & 3", "i & 1"))
    )
    look = payload(known, third, KNOWN + "int look(int i) { return table[i & 1]; }\n", ("look",))
    both = (lower, data)
    found = stack.check(look, third, lower=both, baseline=second)
    assert [name for name, _ in found.beneath] == ["traps"]
    found = stack.check(
        look,
        third,
        lower=both,
        baseline=second,
        baseline_stills=(at(9, change, text),),
        stills=(at(9, change, text, ("i & 3", "i & 1")),),
    )
    assert found.held, texts(found)
