# SPDX-License-Identifier: Apache-2.0
"""Classes of source edits, applied by program to C files of a real tree.

Every edit keeps the number of lines, so that `differ_oracle` can judge. A class is a function
from a source text to edited texts, each with the name of the function it touched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_FUNCTION = re.compile(
    r"^(?P<head>(?:static |inline |always_inline |const |unsigned |struct |enum |void |bool |int "
    r"|long |u?int\d+_t |__init |cf_check |noinline )[^;{}=#]*?\b(?P<name>\w+)\([^;{}]*?\))\s*\n"
    r"\{\n(?P<body>.*?)^\}",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """One edited source text."""

    function: str  #: the function whose source was edited; "" for data
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MutationClass:
    """A kind of edit.

    ``expects`` is "functions" where the reported set must equal the oracle's, or the code of the
    refusal that must come.
    """

    name: str
    expects: str
    edits: Callable[[str], Iterator[Edit]]


def _bodies(text: str, *, is_init: bool = False) -> Iterator[re.Match[str]]:
    for match in _FUNCTION.finditer(text):
        if ("__init" in match["head"]) == is_init:
            yield match


def _replace(pattern: str, new: str, *, is_init: bool = False) -> Callable[[str], Iterator[Edit]]:
    """Replace the first match in each function's body."""

    def edits(text: str) -> Iterator[Edit]:
        for match in _bodies(text, is_init=is_init):
            body = match["body"]
            changed = re.sub(pattern, new, body, count=1)
            if changed != body and changed.count("\n") == body.count("\n"):
                start, end = match.span("body")
                yield Edit(function=match["name"], text=text[:start] + changed + text[end:])

    return edits


def _at_start(statement: str, before: str = "") -> Callable[[str], Iterator[Edit]]:
    """Put a statement in front of a body, and a definition in front of its function."""

    def edits(text: str) -> Iterator[Edit]:
        for match in _bodies(text):
            head, start = match.start(), match.start("body")
            brace = start - 1
            edited = text[:head] + before + text[head:brace] + " " + statement + text[brace:]
            yield Edit(function=match["name"], text=edited)

    return edits


def _attribute(attribute: str, wanted: str = "static ") -> Callable[[str], Iterator[Edit]]:
    def edits(text: str) -> Iterator[Edit]:
        for match in _bodies(text):
            if match["head"].startswith(wanted) and "inline" not in match["head"]:
                at = match.start()
                mark = f"__attribute__(({attribute})) "
                yield Edit(function=match["name"], text=text[:at] + mark + text[at:])

    return edits


def _file_scope(pattern: str, new: str) -> Callable[[str], Iterator[Edit]]:
    def edits(text: str) -> Iterator[Edit]:
        for match in re.finditer(pattern, text, re.MULTILINE):
            changed = match.expand(new)
            edited = text[: match.start()] + changed + text[match.end() :]
            if edited.count("\n") == text.count("\n"):
                yield Edit(function="", text=edited)

    return edits


def _swap_fields(text: str) -> Iterator[Edit]:
    for match in re.finditer(
        r"^struct \w+ \{\n(?:[^}]*?\n)??(    \w[\w ]+ \*?\w+;)\n(    \w[\w ]+ \*?\w+;)\n",
        text,
        re.MULTILINE,
    ):
        a, b = match[1], match[2]
        start, end = match.start(1), match.end(2)
        yield Edit(function="", text=f"{text[:start]}{b}\n{a}{text[end:]}")


def _functions(name: str, edits: Callable[[str], Iterator[Edit]]) -> MutationClass:
    return MutationClass(name=name, expects="functions", edits=edits)


CLASSES = (
    _functions("constant + 1", _replace(r"([=(,<>] )(\d+)\b(?![.x])", r"\g<1>1\2")),
    _functions("error code", _replace(r"-E(INVAL|PERM|NOENT|FAULT|NOMEM)\b", "-EXDEV")),
    _functions("hexadecimal mask", _replace(r"\b0x([0-9a-f]+)\b", r"0x1\1")),
    _functions("shift distance", _replace(r"(<<|>>) (\w+)", r"\1 (\2 + 1)")),
    _functions("plus to minus", _replace(r"(\w) \+ (\w)", r"\1 - \2")),
    _functions("and to or", _replace(r"(\w) & (\w)", r"\1 | \2")),
    _functions("less to less-or-equal", _replace(r" < (\w)", r" <= \1")),
    _functions("greater to less", _replace(r" > (\w)", r" < \1")),
    _functions("equal to unequal", _replace(r" == ", " != ")),
    _functions("logical and to or", _replace(r" && ", " || ")),
    _functions("condition negated", _replace(r"if \( !(\w+) \)", r"if ( \1 )")),
    _functions("condition dropped", _replace(r"if \( (\w+(?:->\w+)?) \)", r"if ( (\1) || 1 )")),
    _functions("branch made dead", _replace(r"if \( ([^()\n]+) \)\n", r"if ( 0 \&\& (\1) )\n")),
    _functions("call removed", _replace(r"\n( +)(\w+\([^()\n]*\));", r"\n\1;")),
    _functions("call doubled", _replace(r"\n( +)(\w+\([^()\n]*\));", r"\n\1\2; \2;")),
    _functions("call target", _replace(r"\bspin_lock\(", "spin_unlock(")),
    _functions(
        "other call target", _replace(r"\b(put_domain|rcu_unlock_domain)\(", "domain_pause(")
    ),
    _functions("argument order", _replace(r"(\w+)\((\w+), (\w+)\)", r"\1(\3, \2)")),
    _functions("argument value", _replace(r"(\w+\(\w+), (\w+)\)", r"\1, (\2) + 1)")),
    _functions("string", _replace(r'(printk\([^;]*?")(\w)', r"\1X\2")),
    _functions("string added", _at_start('printk("xsplice was here\\n");')),
    _functions("static local added", _at_start("static int xs_n; xs_n++; barrier();")),
    _functions(
        "static local with value", _at_start("static int xs_n = 5; if ( ++xs_n == 9 ) return;")
    ),
    _functions(
        "function added",
        _at_start(
            'asm volatile ( "" :: "r" (xs_new(7)) );',
            "static __attribute__((__noinline__)) int xs_new(int a) "
            '{ asm volatile ( "" ); return a * 3; } ',
        ),
    ),
    _functions("global added", _at_start("xs_global++;", "int xs_global = 3; ")),
    _functions("returns at once", _at_start("return;")),
    _functions("WARN added", _at_start("if ( get_cycles() == 1 ) WARN();")),
    _functions("BUG added", _at_start("BUG_ON(get_cycles() == 2);")),
    _functions(
        "alternative added",
        _at_start('alternative("", "lfence", X86_FEATURE_XSAVE);'),
    ),
    _functions("exception-table user", _at_start("{ uint64_t xs; rdmsr_safe(0x10, xs); }")),
    _functions("memory barrier added", _at_start('asm volatile ( "mfence" ::: "memory" );')),
    _functions("noinline", _attribute("__noinline__")),
    _functions("always inline", _attribute("__always_inline__")),
    _functions("cold", _attribute("__cold__")),
    _functions("optimised for size", _attribute('optimize("Os")')),
    _functions("switch case", _replace(r"\n( +)case (\w+):", r"\n\1case (\2) + 64:")),
    _functions("fall-through", _replace(r"\n +break;\n( +(?:case|default))", r"\n\n\1")),
    _functions("loop step", _replace(r"(\w)\+\+ \)", r"\1 += 2 )")),
    _functions("local widened", _replace(r"\n    (unsigned int) (\w+)", r"\n    unsigned long \2")),
    _functions(
        "local volatile", _replace(r"\n    (int|unsigned int|bool) (\w)", r"\n    volatile \1 \2")
    ),
    _functions("ternary swapped", _replace(r" \? ([^:?;()]+) : ([^:?;()]+);", r" ? \2 : \1;")),
    _functions("return value", _replace(r"return (\w+);", r"return (\1) + 1;")),
    _functions("goto to return", _replace(r"goto \w+;", "return;")),
    _functions("size of", _replace(r"sizeof\((\*?\w+)\)", r"(sizeof(\1) + 8)")),
    _functions("field order", _swap_fields),
    MutationClass(
        name="initial value",
        expects="DATA_VALUE",
        edits=_file_scope(
            r"^((?:static )?(?:unsigned int|int|bool|s_time_t) (?:__read_mostly )?\w+ = )(\d+);",
            r"\g<1>1\2;",
        ),
    ),
    MutationClass(
        name="per-CPU variable added",
        expects="PERCPU",
        edits=_at_start("this_cpu(xs_pc)++;", "static DEFINE_PER_CPU(int, xs_pc); "),
    ),
    MutationClass(
        name="init code",
        expects="INIT_CODE",
        edits=_replace(r"([=(,<>] )(\d+)\b(?![.x])", r"\g<1>1\2", is_init=True),
    ),
    MutationClass(
        name="table entry",
        expects="table",
        edits=_file_scope(
            r"^(static const [\w ]+ \w+(?:\[[^\]\n]*\])+ =\s*\{[^};]*?[\s{])(\w+),", r"\1\2 ^ 1,"
        ),
    ),
)
