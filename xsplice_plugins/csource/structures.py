# SPDX-License-Identifier: Apache-2.0
"""Does a changed structure, union or enumeration change what lies in memory?

Objects that exist when a payload is applied have the old layout, and code that is not replaced
reads it; so a changed layout is refused. A renamed field keeps its place, an enumerator added at
the end changes no value that is stored somewhere.
"""

from __future__ import annotations

import re

from msgspec.structs import replace

from xsplice_plugins.artefacts import Refusal
from xsplice_plugins.csource.declarations import ChunkKind, Declaration, without_attributes
from xsplice_plugins.csource.inner import enumerations_in, variables_in

_DECLARATOR = re.compile(r"([A-Za-z_]\w*)\s*((?:\[[^\]]*\]\s*)*(?::\s*[^,;]+)?)$")
#: Directives that place members. Source: gcc's manual, "Structure-Layout Pragmas".
_PACKING = re.compile(r"#\s*pragma\s+(?:pack|ms_struct|scalar_storage_order)\b[^\0\n]*")
_SETTLED = ("field ", "constant ", "its type", "its value")
_HINT = (
    "keep the structure as it is and put new state into a shadow variable (livepatch hooks) or "
    "into an unused field"
)

_HINTS = {
    "it is added": "`xsplice shadow FIX --member {}` writes the fix again with the member beside "
    "each object; or use an unused field",
    "it is removed": "`xsplice shadow FIX --keep {}` writes the fix again with the member where it "
    "was",
}


def layout_refusals(
    old: tuple[Declaration, ...], new: tuple[Declaration, ...]
) -> tuple[Refusal, ...]:
    """Compare the structures that both sides define.

    Args:
        old: Declarations that only the old text has.
        new: Declarations that only the new text has.

    Returns:
        One refusal per structure whose layout changes, in the order of names.
    """
    kinds = {ChunkKind.RECORD, ChunkKind.ENUM}
    before = {item.name: item for item in old if item.kind in kinds and item.name}
    after = {item.name: item for item in new if item.kind in kinds and item.name}
    types = [
        {item.name: item.text for item in side if item.kind is ChunkKind.TYPEDEF and item.name}
        for side in (old, new)
    ]
    refusals = [
        Refusal(
            name=f"typedef {name}: its type",
            reason="every structure with a field of this type may change its layout",
            code="LAYOUT",
            hint="give the new type a name of its own",
        )
        for name in sorted(types[0].keys() & types[1].keys())
    ]
    pragmas = {
        match[0]
        for item in (*old, *new)
        if item.kind is ChunkKind.DIRECTIVE and (match := _PACKING.search(item.text))
    }
    refusals += [
        Refusal(
            name=pragma,
            reason="it is new, gone or moved, and every structure behind it may change its layout",
            code="LAYOUT",
            hint="leave the structures that exist as they are",
        )
        for pragma in sorted(pragmas)
    ]
    refusals += _gone(before, after)
    refusals += _variables(old, new)
    for name in sorted(before.keys() & after.keys()):
        what = _difference(before[name], after[name])
        if what:
            member = what[0].removeprefix("field ")
            word = f"{name.rpartition(' ')[2]}.{member}"
            hint = _HINTS.get(what[1], "").format(word) if member.isidentifier() else ""
            refusals.append(
                Refusal(
                    name=f"{name}: {what[0]}",
                    reason=f"{what[1]}, and memory that exists already has the old layout",
                    code="LAYOUT",
                    hint=hint or _HINT,
                )
            )
    return tuple(refusals)


def _gone(before: dict[str, Declaration], after: dict[str, Declaration]) -> list[Refusal]:
    """Refuse types that are gone where others are new that are not the same under another name.

    Objects of the old type may be read as one of the new type.
    """
    fresh = [after[name] for name in sorted(after.keys() - before.keys())]
    refusals = []
    for name in sorted(before.keys() - after.keys()):
        old = before[name]
        others = [
            item.name
            for item in fresh
            if item.kind is old.kind and _difference(_renamed(old, item.name), item) is not None
        ]
        is_renamed = any(
            item.kind is old.kind
            and _members(_renamed(old, item.name)) == _members(item)
            and _frame(_renamed(old, item.name)) == _frame(item)
            for item in fresh
        )
        if others and not is_renamed:
            refusals.append(
                Refusal(
                    name=f"{name}: its name",
                    reason=f"it is gone and `{others[0]}` is new, and memory that exists may be "
                    "read as the new one",
                    code="LAYOUT",
                    hint="keep the type that existing objects have, under its name",
                )
            )
    return refusals


def _renamed(item: Declaration, name: str) -> Declaration:
    """Return a declaration with its own tag exchanged for another."""
    old, new = (re.escape(item.name), name)
    return replace(item, name=name, text=re.sub(rf"(?<!\w){old}(?!\w)", new, item.text))


_PLAIN = re.compile(r"(.*?)([A-Za-z_]\w*)\s*((?:\[[^]]*\]\s*)*)")
_POINTER = re.compile(r"(.*?(?<!typeof)(?<!typeof__)\(\s*\*[\s*]*)([A-Za-z_]\w*)(.*)")
_WORDS = {"struct", "union", "enum"}  #: what is left of a type without variables
_STORAGE = re.compile(r"\b(?:static|extern|const|volatile|register|inline)\b")


def _variables(old: tuple[Declaration, ...], new: tuple[Declaration, ...]) -> list[Refusal]:
    """Refuse variables that change their type, and constants of nameless enumerations.

    Those in functions' bodies too, of enumerations with a name as well.
    """
    types = [_types(side) for side in (old, new)]
    names = sorted(
        name for name in types[0].keys() & types[1].keys() if types[0][name] != types[1][name]
    )
    refusals = [
        Refusal(
            name=f"variable {name}: its type",
            reason="its type changes, and what it holds already has the old layout",
            code="LAYOUT",
            hint=_HINT,
        )
        for name in names
    ]
    gone_types, fresh_types = (
        {name: kind for name, kind in one.items() if name not in other}
        for one, other in (types, types[::-1])
    )
    refusals += [
        Refusal(
            name=f"variable {name}: its type",
            reason=f"it is gone and `{other}` of another type is new, which may take over what it "
            "holds",
            code="LAYOUT",
            hint=_HINT,
        )
        for name, kind in sorted(gone_types.items())
        if (other := next((n for n, k in sorted(fresh_types.items()) if k != kind), ""))
    ]
    rows = [_constants(side) for side in (old, new)]
    before, after = ({name: places for (_, name), places in side.items()} for side in rows)
    moved = {name for name in before.keys() & after.keys() if before[name] != after[name]}
    holders = {holder for holder, _ in rows[1]}
    gone = {name for holder, name in rows[0] if holder in holders and name not in after}
    refusals += [
        Refusal(
            name=f"constant {name}: its value",
            reason="its value changes, and memory that exists may hold the old one"
            if name in moved
            else "it is gone, and memory that exists may hold its value",
            code="LAYOUT",
            hint="add new constants at the end",
        )
        for name in sorted(moved | gone)
    ]
    return refusals


def _types(side: tuple[Declaration, ...]) -> dict[str, str]:
    """Return the types of the variables of each name, as their declarations spell them."""
    found: dict[str, list[str]] = {}
    for item in side:
        for text, around in variables_in(item):
            for name, kind in _declared(text):
                found.setdefault(name, []).append(f"{kind} {around}".strip())
    return {name: " | ".join(kinds) for name, kinds in found.items()}


def _declared(text: str) -> list[tuple[str, str]]:
    """Return name and type of each variable that one declaration defines."""
    body = ""
    brace = text.find("{")
    if brace >= 0 and "=" not in text[:brace] and "(" not in _bare(text[:brace]):
        body, rest = _body_and_rest(text, brace)
        text = f"{text[:brace]} {rest}"
    found: list[tuple[str, str]] = []
    base = ""
    for part in _split(_STORAGE.sub(" ", _bare(text.rstrip("; "))), ","):
        flat = f"{base} {part.partition('=')[0]}".strip()
        match = _POINTER.fullmatch(flat) or _PLAIN.fullmatch(flat)
        if match is None or not match[1].strip(" *(") + body or match[2] in _WORDS:
            break
        base = base or match[1].partition("(")[0].rstrip(" *")
        found.append((match[2], " ".join(f"{match[1]} {body} {match[3]}".split())))
    return found


def _bare(text: str) -> str:
    """Return a declaration's front without attributes."""
    return without_attributes(re.sub(r"\b__\w*(?:used|unused|read_mostly|aligned)\w*\b", " ", text))


def _constants(
    side: tuple[Declaration, ...],
) -> dict[tuple[str, str], list[tuple[int, str]]]:
    """Return places and values of constants, by the function that they lie in and their name."""
    found: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for item in side:
        for text in enumerations_in(item):
            members = _members(replace(item, kind=ChunkKind.ENUM, text=text))
            for place, (name, value) in enumerate(members):
                found.setdefault((item.name, name), []).append((place, value))
    return found


def _body_and_rest(text: str, start: int) -> tuple[str, str]:
    """Cut a text behind the brace that closes the one at ``start``."""
    depth = 0
    for at in range(start, len(text)):
        depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            return text[start : at + 1], text[at + 1 :]
    return text[start:], ""


def subject_of(refusal: Refusal) -> str:
    """Return what a refusal of `layout_refusals` is about, if debug information may settle it.

    Returns:
        The structure, union or enumeration with its tag, "variable NAME", "constant NAME" or
        "typedef NAME"; "" for attributes, packing and types that are gone.
    """
    name, _, what = refusal.name.partition(": ")
    return name if what.startswith(_SETTLED) else ""


def packed(declarations: list[Declaration]) -> list[Declaration]:
    """Return declarations with the packing directive that each record stands under as its part.

    A structure that moves behind ``#pragma pack`` has another layout though its text is the same.
    """
    result, active = [], ""
    for item in declarations:
        match = _PACKING.search(item.text) if item.kind is ChunkKind.DIRECTIVE else None
        active = match[0] if match else active
        is_record = active and item.kind is ChunkKind.RECORD
        result.append(replace(item, text=f"{active} {item.text}") if is_record else item)
    return result


def added_constants(old: Declaration, new: Declaration) -> set[str] | None:
    """Return the constants that an enumeration gains at its end; ``None`` if it is not that."""
    before, after = _members(old), _members(new)
    gained = after[len(before) :]
    if after[: len(before)] != before or any(value for _, value in gained):
        return None
    if not gained or _frame(old) != _frame(new):
        return None  # its text differs otherwise: in attributes, for example
    return {name for name, _ in gained}


def _difference(old: Declaration, new: Declaration) -> tuple[str, str] | None:
    """Return (which field, what about it); ``None`` if the layout is the same."""
    before, after = _members(old), _members(new)
    word = "constant" if old.kind is ChunkKind.ENUM else "field"
    if _frame(old) != _frame(new):
        return "attributes", "its attributes change"
    if old.kind is ChunkKind.ENUM and after[: len(before)] == before:
        # It may grow at its end: no constant changes its value.
        wide = next((name for name, value in after[len(before) :] if not _is_small(value)), "")
        return (f"constant {wide}", "its value may take a wider type") if wide else None
    names_before, names_after = ([name for name, _ in side] for side in (before, after))
    renamed: set[str] = set()
    for index, (name, shape) in enumerate(before):
        if index < len(after) and after[index] == (name, shape):
            continue
        if index < len(after) and after[index][0] == name:
            return f"{word} {name}", f"its {'value' if word == 'constant' else 'type'} changes"
        if name not in names_after:
            other = after[index] if index < len(after) else None
            is_renamed = (
                other is not None
                and other[1] == shape
                and other[0] not in names_before
                and word == "field"
            )
            if is_renamed and shape not in renamed:
                renamed.add(shape)  # a second one may have changed places with it
                continue
            return f"{word} {name}", "it is removed"
        if index < len(after) and after[index][0] not in names_before:
            return f"{word} {after[index][0]}", "it is added"
        return f"{word} {name}", "it moves"
    if len(after) > len(before):
        return f"{word} {after[len(before)][0]}", "it is added"
    return None


def _is_small(value: str) -> bool:
    """Tell whether a constant's value surely leaves the size and sign of its enumeration."""
    return not value or (re.fullmatch(r"0|[1-9]\d{0,8}|0[xX][0-9a-fA-F]{1,7}", value) is not None)


def _frame(item: Declaration) -> tuple[str, str]:
    """Return what stands around the members: storage, tag and attributes."""
    text = item.text
    return text[: text.find("{")].strip(), text[text.rfind("}") + 1 :].strip()


def _members(item: Declaration) -> list[tuple[str, str]]:
    """Return (name, type with everything else) of each member; nested ones stay whole."""
    body = item.text[item.text.find("{") + 1 : item.text.rfind("}")]
    mark = "," if item.kind is ChunkKind.ENUM else ";"
    members = []
    for part in _split(body, mark):
        if item.kind is ChunkKind.ENUM:
            name, _, value = part.partition("=")
            members.append((name.strip(), value.strip()))
            continue
        flat = part.strip()
        match = _DECLARATOR.search(flat)
        if match is None or "{" in flat or "," in flat:
            # Several declarators, a nested or nameless structure, a function pointer: as a whole.
            members.append((_shown(flat), flat))
        else:
            shape = f"{flat[: match.start()]}@{match[2]}"
            members.append((match[1], " ".join(shape.split())))
    return members


def _shown(text: str) -> str:
    names = re.findall(r"\(\s*\*\s*(\w+)\s*\)", text) or re.findall(r"\w+", text)
    return names[-1] if names and "{" not in text else (names[0] if names else "member")


def _split(body: str, mark: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for index, letter in enumerate(body):
        if letter in "{([":
            depth += 1
        elif letter in "})]":
            depth -= 1
        elif letter == mark and depth == 0:
            parts.append(body[start:index])
            start = index + 1
    parts.append(body[start:])
    return [part for part in parts if part.strip()]
