# SPDX-License-Identifier: Apache-2.0
"""How C text uses a constant: does it make state with it, does it read state by it?

State is *made* where a constant is assigned, returned or passed; it is *read* where a value is
masked with it, compared for equality, scaled by it, or looked up by it. A comparison with ``<`` is
a bound. A call that compares by its name (``mfn_eq``, ``memcmp``) reads; any other call makes state
with what it is given, and one whose answer is asked at once may read by it as well.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    Sizers = Mapping[str, Collection[int]]  #: which arguments of a function are sizes, from 0

_TOKEN = re.compile(
    r"(?P<gap>/\*.*?\*/|//[^\n]*|\s+|\\\n)|(?P<directive>^[ \t]*\#(?:/\*.*?\*/|\\\n|[^\n])*)"
    r'|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|\w+|<<=|>>=|\.\.\.|->|\+\+|--|<<|>>|[<>=!&|^*/%+-]=|'
    r"&&|\|\||##|.",
    re.MULTILINE | re.DOTALL,
)
_STORES = {"=", "|=", "&=", "^=", "+=", "-=", "*=", "/=", "%=", "<<=", ">>="}
_BOUNDS = {"<", ">", "<=", ">="}
_EQUALS = {"==", "!="}
_TRUTHS = {*_BOUNDS, *_EQUALS, "&&", "||", "?"}  #: what is asked, and not kept
_ENDS = {"(", "[", "{", ")", "]", "}", ",", ";", "?", ":", "&", "&&", "||", "%", "return", "case"}
_DELIMITERS = _ENDS | _STORES | _BOUNDS | _EQUALS
_OPENING, _CLOSING = {"(", "[", "{"}, {")", "]", "}"}
_NO_CALLS = {"if", "while", "switch", "for", "sizeof", "typeof", "__typeof__", "return", "case"}
_NO_TYPES = {"return", "case", "else", "sizeof", "goto", "do"}
_TESTING = re.compile(
    r"test|has_|_has\b|is_|_is|check|match|_eq(ual)?s?\b|cmp\b|compare|"
    r"\b_*(mem|str)(r|n|case|ncase)?(cmp|chr|str|spn|cspn|pbrk)(_inv|nul)?\b",
    re.IGNORECASE,
)
_FINDING = re.compile(r"find|lookup|search", re.IGNORECASE)  #: may read by what it is given
_TESTED_AND_SET = re.compile(r"test_and_|cmpxchg")
_LENGTHS = re.compile(r"(mem|strn)cmp|mem(cpy|set|move)")  #: the last says how much of memory
_LENGTH = 2  #: where it does, from 0
_ASKING = {"if", "while", "switch"}
_WRAPPING = re.compile(r"[A-Z_0-9]+|(un)?likely|array_index_nospec|get_order_from_\w+|_[a-z]fn")
_ASSERTING = re.compile(r"ASSERT|(BUG|WARN)_ON|CHECK")  #: the first statement of a block
_EXTRACTING = re.compile(r"MASK_EXTR|FIELD_GET")
_SCALES = {"/", ">>", "-"}
#: Which arguments of a call say how large memory is, from 0; a type does so as well.
_ALLOCATORS = (
    (re.compile(r"_?xv?[mz]alloc(_bytes)?|v[mz]alloc(_xen|_type)?|k[mz]alloc"), {0}),
    (
        re.compile(
            r"alloc_(xenheap|boot)_pages|xmem_pool_alloc|alloc_pgtable_maddr|hypfs_alloc_dyndata"
        ),
        {0},
    ),
    (re.compile(r"xv?[mz]alloc_array|kcalloc"), {0, 1}),
    (re.compile(r"_xv?[mz]alloc_array"), {0, 2}),
    (re.compile(r"xv?[mz]alloc_flex_struct"), {0, 1, 2}),
    (re.compile(r"_xv?realloc|alloc_domheap_pages|devm_k[mz]alloc|xmemdup_bytes"), {1}),
    (re.compile(r"xv?realloc_(flex_struct|array)"), {1, 2}),
    (re.compile(r"alloc_heap_pages"), {2}),
)
_WORD = re.compile(r"[A-Za-z_]\w*")
_STEPS_MAX = 40  #: expressions around one use


class Token(NamedTuple):
    """One word, number, literal or operator."""

    text: str
    line: int


class Use(NamedTuple):
    """One place where a constant stands."""

    name: str
    line: int
    makes: bool  #: state is made with it
    reads: bool  #: state is read by it
    indexes: bool  #: it says where in a table something lies, or how large memory is
    scales: bool = False  #: it reads as what is divided by, shifted out or taken away
    is_returned: bool = False  #: state is made with it only if the caller keeps what it gets
    callee: str = ""  #: what makes state with it, if a call does
    is_asked: bool = False  #: that call's answer is asked: it may read state by it, and make none

    @property
    def kinds(self) -> tuple[bool, ...]:
        """Return what it does, whatever name it has and whoever does it."""
        return self.makes, self.reads, self.indexes, self.scales, self.is_returned


def tokens(text: str) -> list[Token]:
    """Cut C text into tokens, without comments and directives.

    Args:
        text: C before the preprocessor.
    """
    starts = [match.end() for match in re.finditer("\n", text)]
    return [
        Token(match[0], 1 + bisect_right(starts, match.start()))
        for match in _TOKEN.finditer(text)
        if not match.lastgroup
    ]


def uses_in(text: str, names: Collection[str]) -> Iterator[Use]:
    """Give each use of some names.

    Args:
        text: C before the preprocessor; definitions of macros are no uses.
        names: What to look for.
    """
    row = tokens(text)
    for at, token in enumerate(row):
        if token.text in names:
            yield use_at(row, at)


def use_at(row: Sequence[Token], at: int) -> Use:
    """Say how the token at a place is used; of other tokens than names and numbers, nothing."""
    makes = reads = indexes = scales = is_returned = False
    low = high = at
    through: set[str] = set()
    is_negated = is_asked = False
    caller = ""
    for _ in range(_STEPS_MAX):
        if low and row[low - 1].text in _SCALES and _is_operand(row, low - 2):
            reads = scales = True
        low, high = _expression(row, low, high, through)
        is_negated |= row[low].text == "~"
        left = row[low - 1].text if low else ";"
        right = row[high + 1].text if high + 1 < len(row) else ";"
        if {left, right} & _EQUALS or left == "case":
            reads = True
        if left == "%":
            makes = reads = indexes = True
        is_masked = right == "&" or (left == "&" and _is_operand(row, low - 2))
        if is_masked:
            reads = True
            if not is_negated:
                break
        if (left in _STORES or left == "return") and right not in _TRUTHS:
            makes, is_returned = True, left == "return" and not makes
        if left in _STORES | _EQUALS | {"return", "case", "%", "&&", "||", ";", "}"}:
            break
        if right == "?" or left in _BOUNDS or right in _BOUNDS | _EQUALS:
            break
        if is_masked or left in {"?", ":"}:
            through |= {"&", "?", ":"}
            if _is_statement(row, low - 1):
                break
            low -= left in through
            continue
        opening = opening_before(row, low - 1)
        if opening < 0:
            break
        callee = row[opening - 1].text if opening else ""
        if row[opening].text == "[":
            dimension = _is_dimension(row, opening)
            if not dimension:
                makes = reads = indexes = True
            break
        if row[opening].text == "{":
            is_asserted = right == ";" and not reads and bool(_ASSERTING.search(row[low].text))
            makes = makes or (left in {",", "{"} and not is_asserted)
            break
        low, high = opening, closing_of(row, opening)
        if not _WORD.fullmatch(callee) or callee in _NO_CALLS:
            if callee in _NO_CALLS - {"return", "case"}:
                break
            continue
        if "alloc" in callee:
            makes = True
            if is_size(row, opening, at) is not False:
                reads = indexes = True
        elif _EXTRACTING.fullmatch(callee):
            reads = True
            break
        elif _LENGTHS.fullmatch(callee) and _argument(row, opening, at) == _LENGTH:
            pass
        elif _TESTED_AND_SET.search(callee):
            makes = reads = True
        elif _TESTING.search(callee):
            reads = True
        elif not _WRAPPING.fullmatch(callee):
            makes, caller = True, callee
            is_place = row[at - 1].text == "&" and not _is_operand(row, at - 2)
            is_asking = bool(_FINDING.search(callee)) or _is_asked(row, low - 1, high)
            is_asked = is_asking and not is_place
        if not _WRAPPING.fullmatch(callee):
            break
        low -= 1
    kinds = (makes, reads, indexes, scales, is_returned)
    return Use(row[at].text, row[at].line, *kinds, caller, is_asked)


def decided(uses: Iterable[Use]) -> list[Use]:
    """Say of calls whose answer is asked whether they read, by what else makes state.

    Args:
        uses: All of one constant.

    Returns:
        The same, in their order. Such a call reads where something else than this function makes
        state; alone it does one of both, and does it on either side.
    """
    found = list(uses)
    makers = {use.callee for use in found if use.makes}
    return [
        use._replace(reads=True) if use.is_asked and makers - {use.callee} else use for use in found
    ]


def is_read_otherwise(uses: Iterable[Use]) -> bool:
    """Tell whether state is made and read by some uses: what was made before does not fit.

    Args:
        uses: All of one constant. One that stores a quotient both makes and scales; such uses
            alone are none that read what others made.
    """
    found = [use for use in decided(uses) if use.makes or use.reads]
    is_both = any(use.makes for use in found) and any(use.reads for use in found)
    return is_both and not all(use.scales and not use.indexes for use in found)


def is_size(
    row: Sequence[Token], opening: int, at: int, sizers: Sizers | None = None
) -> bool | None:
    """Tell whether a token is in an argument that is a size; ``None`` of unknown functions."""
    callee = row[opening - 1].text if opening else ""
    places: Collection[int] | None = next(
        (places for name, places in _ALLOCATORS if name.fullmatch(callee)),
        (sizers or {}).get(callee),
    )
    return None if places is None else _argument(row, opening, at) in places


def _argument(row: Sequence[Token], opening: int, at: int) -> int:
    """Return in which argument of a call a token stands, from 0."""
    depth = argument = 0
    for token in row[opening + 1 : at]:
        depth += (token.text in _OPENING) - (token.text in _CLOSING)
        argument += token.text == "," and depth == 0
    return argument


def _is_asked(row: Sequence[Token], low: int, high: int) -> bool:
    """Tell whether what a call returns is a condition, or compared with something."""
    while low and high + 1 < len(row):
        left, right = row[low - 1].text, row[high + 1].text
        if left in {"!", "&&", "||", *_EQUALS, *_BOUNDS} or right in _TRUTHS:
            return True
        if left != "(" or right != ")":
            return False
        callee = row[low - 2].text if low > 1 else ""
        if callee in _ASKING:
            return True
        is_plain = not _WORD.fullmatch(callee)
        if not is_plain and not _WRAPPING.fullmatch(callee):
            return False
        low, high = low - (1 if is_plain else 2), high + 1
        if not is_plain and row[low - 1].text in {";", "{", "}"}:
            return True  # such as ``ASSERT``
    return False


def _expression(
    row: Sequence[Token], low: int, high: int, through: Collection[str]
) -> tuple[int, int]:
    """Widen a range to the operands that are added, shifted or joined with it."""
    stops = _DELIMITERS - set(through)
    while low and row[low - 1].text not in stops - _CLOSING:
        low -= 1
        if row[low].text in _CLOSING:
            low = max(opening_before(row, low), 0)
    while high + 1 < len(row) and row[high + 1].text not in stops - _OPENING:
        high += 1
        if row[high].text in _OPENING:
            high = closing_of(row, high)
    return low, high


def is_type(row: Sequence[Token], at: int) -> bool:
    """Tell whether a word stands at a place behind which something is declared."""
    text = row[at].text
    return bool(_WORD.fullmatch(text)) and text not in _NO_TYPES


def opening_before(row: Sequence[Token], at: int) -> int:
    """Return the bracket that is open before a place (or that the one there closes), or -1."""
    depth = 1 if at < 0 or row[at].text not in _CLOSING else 0
    while at >= 0:
        text = row[at].text
        depth += (text in _CLOSING) - (text in _OPENING)
        if depth == 0 or (text == ";" and depth == 1):
            return at if text in _OPENING else -1
        at -= 1
    return -1


def closing_of(row: Sequence[Token], at: int) -> int:
    """Return the bracket that closes the one at a place."""
    depth = 0
    for place in range(at, len(row)):
        depth += (row[place].text in _OPENING) - (row[place].text in _CLOSING)
        if depth == 0:
            return place
    return len(row) - 1


def _is_operand(row: Sequence[Token], at: int) -> bool:
    """Tell whether a value ends at a place, so that ``&`` behind it joins two."""
    text = row[at].text if at >= 0 else ""
    return text in {")", "]"} or (bool(re.fullmatch(r"\w+", text)) and text not in _NO_TYPES)


def _is_statement(row: Sequence[Token], at: int) -> bool:
    """Tell whether a colon ends a label, so that a statement begins behind it."""
    if row[at].text != ":":
        return False
    while at > 0 and row[at - 1].text not in {";", "{", "}", "?"}:
        at -= 1
    return at == 0 or row[at - 1].text != "?"


def _is_dimension(row: Sequence[Token], opening: int) -> bool:
    """Tell whether brackets give a declared array's size; in doubt they look something up."""
    before = row[opening - 2].text if opening > 1 else ""
    if opening and row[opening - 1].text == ")":
        return row[opening_before(row, opening - 1) + 1].text == "*"
    if before == "*":
        return row[opening - 4].text in {";", "{", "}", "struct", "const", "static"}
    return bool(_WORD.fullmatch(before)) and before not in _NO_TYPES
