# SPDX-License-Identifier: Apache-2.0
"""The ordinary kinds of edit, on what gcc and clang make of them for x86_64 and arm64."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from tests.kit.differ_inputs import (
    Compiler,
    assert_closed,
    compile_with,
    diff,
    every_compiler,
    references_of,
)
from xsplice_plugins.artefacts import Delta
from xsplice_plugins.elf.types import STT_OBJECT

pytestmark = [pytest.mark.toolchain, every_compiler()]

_OBJECTS: dict[tuple[str, str, tuple[str, ...]], bytes] = {}

BASE = r"""
#ifdef __aarch64__
#define REPLACEMENT "yield; nop; nop"
#define OTHER "nop; yield; nop"
#else
#define REPLACEMENT "pause"
#define OTHER "nop; nop"
#endif
extern void die(int) __attribute__((cold));
extern int first(int), second(int), third(int), fourth(int), fifth(int);
static int count = 3;
static noinline int helper(int a) { return get(a) + count++; }
static noinline int absorbed(int a) { return get(a) ^ get(a + 1); }
int first(int a) { if (get(a) < 0) BUG(); return helper(a) * 3; }
int second(int a) { static int seen; note("second %d", a); return seen += get(a + 1); }
int third(int a) { return get(a) ^ 0x5500; }
int fourth(int a) { return absorbed(a) + 4; }
int fifth(int a) { if (get(a) < 0) { die(1); put(a, 3); die(7); } return get(a + 1); }
int sixth(int a)
{
    switch (a)
    {
    case 0: return get(11) + 1; case 1: put(a, 5); return 2; case 2: return get(33) ^ a;
    case 3: return put(4, a); case 4: note("four"); return 9; case 5: return get(9) + get(8);
    case 6: return put(6, 6) - 1; case 7: return count; case 8: return get(get(1));
    }
    return 0;
}
int seventh(int a) { ALTERNATIVE("nop;nop;nop", REPLACEMENT, 5); return get(a) + 7; }
int gone(int a) { return get(a) * 77; }
int eighth(int a)
{
    static const int powers[] = { 1, 10, 100, 1000, 9 };
    return powers[get(a) & 3];
}
"""


class Build(Protocol):
    """Compiles a text with the compiler of the test."""

    def __call__(self, text: str, *flags: str) -> bytes:
        """Return the object."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """One edit of `BASE` and all it must lead to; new items by the name the source has."""

    old: str
    new: str
    changed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()


EDITS = {
    "nothing": Edit(old="extern void", new="extern  void"),
    "constant": Edit(old="0x5500", new="0x5600", changed=("third",)),
    "large constant": Edit(old="0x5500", new="0x12345678", changed=("third",)),
    "condition": Edit(old="if (get(a) < 0) BUG", new="if (get(a) > 0) BUG", changed=("first",)),
    "call target": Edit(old="get(a) * 77", new="put(a, a) * 77", changed=("gone",)),
    "call order": Edit(old="put(4, a)", new="put(a, 4)", changed=("sixth",)),
    "string": Edit(old="second %d", new="another %d", changed=("second",)),
    "tail of a string": Edit(old="second %d", new="econd %d", changed=("second",)),
    "static local": Edit(
        old="return get(a) ^ 0x5500",
        new="static int fresh; return fresh ^= get(a)",
        changed=("third",),
        added=("fresh",),
    ),
    "static local with a value": Edit(
        old="return get(a) ^ 0x5500",
        new="static int fresh = 5; return fresh ^= get(a)",
        changed=("third",),
        added=("fresh",),
    ),
    "static local before another": Edit(
        old="static int seen;",
        new="static int fresh; fresh ^= get(7); static int seen;",
        changed=("second",),
        added=("fresh",),
    ),
    "static local of the same name": Edit(
        old="return get(a) ^ 0x5500",
        new="static int seen; return seen ^= get(a)",
        changed=("third",),
        added=("seen",),
    ),
    "new function": Edit(
        old="int third(int a) { return get(a)",
        new="static noinline int check(int a) { return put(a, 99); }\n"
        "int third(int a) { return check(a)",
        changed=("third",),
        added=("check",),
    ),
    "new function of other objects": Edit(
        old="int gone(", new="int fresh(int a) { return get(a + 9); } int gone(", added=("fresh",)
    ),
    "new global": Edit(
        old="int third(int a) { return get(a)",
        new="int limit = 7; int third(int a) { return get(a) + limit",
        changed=("third",),
        added=("limit",),
    ),
    "removed function": Edit(
        old="int gone(int a) { return get(a) * 77; }", new="", removed=("gone",)
    ),
    "inlined callee": Edit(
        old="noinline int absorbed",
        new="inline __attribute__((always_inline)) int absorbed",
        changed=("fourth",),
        removed=("file.c#absorbed",),
    ),
    "case of a switch": Edit(old="get(33)", new="get(34)", changed=("sixth",)),
    "case more": Edit(
        old="case 8: return get(get(1));",
        new="case 8: return get(get(1)); case 9: return put(2, 2) + 1;",
        changed=("sixth",),
    ),
    "cases swapped": Edit(
        old="case 3: return put(4, a); case 4: note",
        new="case 4: return put(4, a); case 3: note",
        changed=("sixth",),
    ),
    "cold part": Edit(old="die(7)", new="die(8)", changed=("fifth",)),
    "bug frame more": Edit(
        old="return get(a) ^ 0x5500",
        new="if (get(1)) BUG(); return get(a) ^ 0x5500",
        changed=("third",),
    ),
    "bug frame less": Edit(old="BUG()", new='asm volatile ("nop")', changed=("first",)),
    "lines moved": Edit(old="\nextern void", new="\n\n\n\n\nextern void", lines=("first",)),
    "a change and moved lines behind it": Edit(
        old="int absorbed(int a) { return get(a) ^",
        new="int absorbed(int a) {\n\nreturn put(a, 1) ^",
        changed=("file.c#absorbed",),
        lines=("first",),
    ),
    "function and string more": Edit(
        old="int second(int a) { static int seen; note(",
        new="int added(int a) { return get(a + 3); }\n"
        'int second(int a) { static int seen; note("and"); note(',
        changed=("second",),
        added=("added",),
    ),
    "replacement": Edit(old=", REPLACEMENT", new=", OTHER", changed=("seventh",)),
    "feature of a replacement": Edit(
        old="REPLACEMENT, 5", new="REPLACEMENT, 6", changed=("seventh",)
    ),
    "read-only table": Edit(
        old="100, 1000", new="100, 1001", changed=("eighth",), added=("powers",)
    ),
    "initial value": Edit(
        old="count = 3", new="count = 4", refused=(("DATA_VALUE", "file.c#count"),)
    ),
    "size of data": Edit(
        old="static int count = 3;",
        new="static long count = 3;",
        changed=("file.c#helper",),  # `sixth` reads the lower half, as before
        refused=(("DATA_SIZE", "file.c#count"),),
    ),
}

_SUFFIX = re.compile(r"\.\d+$")


def source_names(names: list[str]) -> tuple[str, ...]:
    """Return names without what compilers add: ``seen.0`` of gcc, ``second.seen`` of clang."""
    return tuple(sorted({_SUFFIX.sub("", name).rsplit(".", 1)[-1] for name in names}))


@pytest.fixture
def build(compiler: Compiler, tmp_path: Path) -> Build:
    """Return the compiler as a function from text to object; each text is compiled once."""

    def run(text: str, *flags: str) -> bytes:
        key = (compiler.name, text, flags)
        if key not in _OBJECTS:
            _OBJECTS[key] = compile_with(compiler, tmp_path, text, *flags)
        return _OBJECTS[key]

    return run


def verdict(delta: Delta) -> dict[str, tuple[object, ...]]:
    """Return all five lists by name."""
    return {
        "changed": tuple(c.name for c in delta.changed),
        "added": source_names([n.symbol for n in delta.new if n.symbol]),
        "removed": tuple(r.name for r in delta.removed),
        "lines": tuple(r.name for r in delta.line_only),
        "refused": tuple((r.code, r.name) for r in delta.refused),
    }


@pytest.mark.parametrize("edit", [pytest.param(e, id=name) for name, e in EDITS.items()])
def test_an_edit_is_reported_exactly(build: Build, edit: Edit) -> None:
    assert BASE.count(edit.old) == 1
    after = build(BASE.replace(edit.old, edit.new))
    delta = diff(build(BASE), after)
    expected = {
        "changed": edit.changed,
        "added": edit.added,
        "removed": edit.removed,
        "lines": edit.lines,
        "refused": edit.refused,
    }
    assert verdict(delta) == expected
    assert_closed(delta, after)


def test_a_table_that_became_a_mergeable_constant_counts_by_value(build: Build) -> None:
    text = BASE.replace("1000, 9 }", "1000 }")  # 16 bytes: clang writes .rodata.cst16
    delta = diff(build(text), build(text.replace("100, 1000", "100, 1001")))
    assert verdict(delta)["changed"] == ("eighth",)
    assert delta.refused == ()
    neighbour = diff(build(text), build(text.replace("0x5500", "0x5501")))
    assert verdict(neighbour)["changed"] == ("third",)


def test_debug_information_names_line_field_and_inlining(build: Build) -> None:
    text = """struct s { int a; long b; };
static noinline int h(int a)
{
    return get(a) + 3;
}
int f(struct s *p)
{
    return h(p->a) ^ get(p->b);
}
"""
    before = build(text, "-g")
    edited = diff(before, build("\n" + text.replace("+ 3", "+ 4"), "-g"))
    assert [c.name for c in edited.changed] == ["file.c#h"]
    difference = edited.changed[0].difference
    assert difference is not None
    # gcc for arm64 puts the addition on the line of the closing brace.
    assert (difference.line_before, difference.line_after) in (
        ("file.c:4", "file.c:5"),
        ("file.c:5", "file.c:6"),
    )
    always = "static inline __attribute__((always_inline))"
    inlined = diff(before, build(text.replace("static noinline", always), "-g"))
    assert [c.reason for c in inlined.changed] == ["`h` was inlined into `f`"]
    grown = diff(before, build(text.replace("int a; long b", "int a; int z; int q; long b"), "-g"))
    assert [(r.code, r.name) for r in grown.refused] == [("LAYOUT", "struct s")]
    assert "new field `z`" in grown.refused[0].reason


def test_a_static_in_front_of_its_namesakes_is_the_fresh_one(build: Build) -> None:
    text = """
    int f(int a)
    {
        int r = 0;
        if (get(a) > 4) { HERE static int n; n += a; r = put(n, 1); }
        if (get(a) > 5) { static int n; n ^= a; r += put(n, 2); }
        return r;
    }
    """
    before = build(text.replace("HERE", ""))
    after = build(text.replace("HERE", "{ static int n = 7; n = n * 5 + a; r = put(n, 9); }"))
    delta = diff(before, after)
    assert [c.name for c in delta.changed] == ["f"]
    assert delta.refused == ()
    assert [n.kind for n in delta.new] == ["data"]  # the one with a value; the others are .bss
    # The first reference of the old code is to the variable that is the second now.
    order = [_targets(data) for data in (before, after)]
    names = {r.section: r.target.removeprefix("file.c#") for r in delta.references}
    assert [names[section] for section, _ in order[1][1:]] == [name for _, name in order[0]]


def _targets(data: bytes) -> list[tuple[int, str]]:
    """Return the variables that ``f`` uses, in order: their sections and names."""
    places = references_of(data)
    file = places.file
    text = file.section_by_name[".text.f"]
    rows = dict.fromkeys(
        places.target_of(text, reloc).section_index for reloc in sorted(file.relocs(text))
    )
    named = {s.shndx: s.name for s in file.symbols if s.type == STT_OBJECT}
    return [(index, named[index]) for index in rows if index is not None and index in named]
