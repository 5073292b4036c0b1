# SPDX-License-Identifier: Apache-2.0
"""Stop what was understood and cannot be live patched, by name, with a hint."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from xsplice_plugins.artefacts import BootOnly, Refusal
from xsplice_plugins.diff.alike import names_alike
from xsplice_plugins.diff.boot import is_boot_only, is_freed, needed
from xsplice_plugins.diff.parts import NEW, OLD, Key, Part, PartKind
from xsplice_plugins.diff.readers import kept_by
from xsplice_plugins.diff.refusals import REFUSALS
from xsplice_plugins.diff.skeletons import data_hook, shadow_variable
from xsplice_plugins.elf.changed import Question, layout_questions
from xsplice_plugins.elf.debuginfo import debug_info
from xsplice_plugins.elf.layouts import layouts_of
from xsplice_plugins.elf.types import SHF_GROUP, SHN_COMMON
from xsplice_plugins.elf.values import value_questions, values_of
from xsplice_plugins.target.sections import SectionClass

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xsplice_plugins.diff.canon import Canon
    from xsplice_plugins.diff.close import Closure
    from xsplice_plugins.diff.compare import Comparison
    from xsplice_plugins.diff.normalise import ObjectParts
    from xsplice_plugins.elf.types import Symbol

_PLAIN_FUNCTION_TYPES = (0, 2)  #: NOTYPE, FUNC
_PLAIN_DATA_TYPES = (0, 1)  #: NOTYPE, OBJECT
#: Classes whose every byte is reached through a table entry or a relocation, or means nothing.
_ACCOUNTED = (
    SectionClass.IGNORED,
    SectionClass.TABLE,
    SectionClass.SNIPPETS,
    SectionClass.STRINGS,
    SectionClass.CONSTANTS,
    SectionClass.HOOK,
    SectionClass.SANITIZER,  # compared with the code that refers to it
)


#: What to do about a function that boot freed and code that runs would call.
_FREED = "leave it to boot as it is, and give code that runs a function of another name"


def refusal(code: str, name: str, reason: str, *, hint: str = "", skeleton: str = "") -> Refusal:
    """Return a refusal; its hint is the code's own unless a better one is given."""
    return Refusal(
        name=name,
        reason=reason,
        code=code,
        hint=hint or REFUSALS[code].hint,
        skeleton=skeleton,
    )


def refuse(canon: Canon, comparison: Comparison, closure: Closure) -> tuple[Refusal, ...]:
    """Return everything that stops this change from being live patched.

    Args:
        canon: Both objects under their pairing.
        comparison: What differs.
        closure: What the payload would take.

    Returns:
        Refusals sorted by name; empty if the change can be live patched.
    """
    found = [
        *_functions(canon, comparison),
        *(refusal("ALIAS", name, text) for name, text in names_alike(canon)),
        *_new_parts(canon, closure),
        *_data(canon, comparison),
        *_ambiguities(canon, comparison, closure),
        *_blocked(canon, closure),
        *_names(canon, closure),
        *_commons(canon),
        *_anchors(canon),
        *(_structures(canon) if closure.taken else ()),
    ]
    unique = {(r.name, r.code): r for r in found}
    return tuple(unique[key] for key in sorted(unique))


def _functions(canon: Canon, comparison: Comparison) -> Iterator[Refusal]:
    profile = canon.new.profile
    for number in comparison.kept:
        old = canon.old.all[canon.pairing.old_of[number]]
        text = f"`{old.name}` was freed after boot; who calls it would still call the old address"
        yield refusal("INIT_CODE", old.decorated, text, hint=_FREED)
    for number, change in comparison.changed.items():
        new, old = canon.new.all[number], canon.old.all[change.old]
        name = old.decorated
        if is_boot_only(new) and is_boot_only(old):
            continue  # see `boot`
        if SectionClass.INIT in (new.section_class, old.section_class):
            yield refusal("INIT_CODE", name, f"`{old.name}` runs only at boot ({new.section_name})")
            continue
        if canon.new.file.sections[new.section].flags & SHF_GROUP:
            yield refusal("GROUPED", name, f"`{old.name}` lies in a section group")
        if old.name in profile.patching_path:
            yield refusal("PATCHING_PATH", name, f"`{old.name}` runs while code is replaced")
        odd = _odd_symbol(canon.new, new) or _odd_symbol(canon.old, old)
        if odd:
            yield refusal("SYMBOL_VERSION", name, f"`{odd}` is no plain function")
        labels = _inner_labels(canon.old, old)  # a label of the new code alone has no old entry
        if labels:
            yield refusal(
                "ASM_LABEL", name, f"`{old.name}` is also entered as {', '.join(sorted(labels))}"
            )
        yield from _short(canon, old)


def _odd_symbol(parts: ObjectParts, part: Part) -> str:
    """Return a symbol of a part that is versioned, indirect or thread-local; "" if none is."""
    plain = _PLAIN_FUNCTION_TYPES if part.kind is PartKind.FUNCTION else _PLAIN_DATA_TYPES
    symbols = [s for s in (part.symbol, *parts.aliases.get(part.number, ())) if s is not None]
    return next((s.name for s in symbols if "@" in s.name or s.type not in plain), "")


def _inner_labels(parts: ObjectParts, part: Part) -> set[str]:
    """Return the names of entries behind a function's start; a plain alias is none."""
    return {s.name for s in parts.aliases.get(part.number, ()) if s.value != part.offset}


def _short(canon: Canon, old: Part) -> Iterator[Refusal]:
    endbr = canon.old.profile.machine.endbr
    need = canon.old.profile.jump_size_bytes
    text = f"the jump takes {need}"
    if endbr and canon.old.content(old).startswith(endbr):
        need += len(endbr)
        text = f"ENDBR64 and the jump take {need}"
    if old.stated_size_bytes < need:
        yield refusal(
            "TOO_SHORT", old.decorated, f"`{old.name}` has {old.stated_size_bytes} bytes, {text}"
        )


def _new_parts(canon: Canon, closure: Closure) -> Iterator[Refusal]:
    used = needed(canon, closure)
    for part in list(canon.new.all):
        if (
            part.kind not in (PartKind.FUNCTION, PartKind.DATA)
            or part.number in canon.pairing.old_of
        ):
            continue
        if is_boot_only(part) and part.number not in used:
            continue
        if part.section_class is SectionClass.INIT:
            code = "INIT_CODE" if part.kind is PartKind.FUNCTION else "INIT_DATA"
            yield refusal(
                code,
                part.decorated,
                f"new `{part.name}` is used only at boot ({part.section_name})",
            )
        elif part.section_class is SectionClass.PERCPU:
            yield refusal("PERCPU", part.decorated, f"new per-CPU variable `{part.name}`")
        elif _odd_symbol(canon.new, part):
            odd = _odd_symbol(canon.new, part)
            yield refusal("SYMBOL_VERSION", part.decorated, f"new `{odd}` is no plain symbol")
        elif part.section_class is SectionClass.UNKNOWN:
            yield refusal(
                "UNEXPLAINED", part.decorated, f"new `{part.name}` lies in {part.section_name}"
            )
        elif part.section_class is SectionClass.REGISTRY:
            yield refusal(
                "REGISTRY", part.decorated, f"new entry `{part.name}` of {part.section_name}"
            )
        elif canon.new.file.sections[part.section].flags & SHF_GROUP:
            yield refusal("GROUPED", part.decorated, f"new `{part.name}` lies in a section group")
    for part in canon.old.all:
        if (
            part.kind is PartKind.DATA
            and part.number not in canon.pairing.new_of
            and part.section_class in (SectionClass.INIT, SectionClass.REGISTRY)
            and not is_boot_only(part)
        ):
            code = "INIT_DATA" if part.section_class is SectionClass.INIT else "REGISTRY"
            yield refusal(code, part.decorated, f"`{part.name}` of {part.section_name} is removed")


def _data(canon: Canon, comparison: Comparison) -> Iterator[Refusal]:
    for number, how in comparison.data_changed.items():
        if number in comparison.copied or number in comparison.gathered:
            continue  # of lists, see `standing`
        new = canon.new.all[number]
        old = canon.old.all[canon.pairing.old_of[number]]
        name = old.decorated
        classes = (old.section_class, new.section_class)
        if SectionClass.HOOK in classes:
            continue
        if SectionClass.UNKNOWN in classes:
            text = f"`{old.name}` of {old.section_name} changed its {how}"
            yield refusal("UNEXPLAINED", name, text)
        elif SectionClass.PERCPU in classes:
            yield refusal("PERCPU", name, f"per-CPU variable `{old.name}` changed its {how}")
        elif how == "class":
            yield refusal(
                "DATA_SECTION", name, f"`{old.name}` was {classes[0]} and would be {classes[1]}"
            )
        elif is_boot_only(old) and is_boot_only(new):
            continue
        elif SectionClass.INIT in classes:
            yield refusal("INIT_DATA", name, f"boot-time datum `{old.name}` changed its {how}")
        elif how == "size":
            text = f"`{old.name}` had {old.size_bytes} bytes and would have {new.size_bytes}"
            yield refusal("DATA_SIZE", name, text)
        elif how == "alignment":
            align = canon.new.file.sections[new.section].align_bytes
            text = f"`{old.name}` would lie at a multiple of {align} bytes, and it stays"
            yield refusal("DATA_ALIGNMENT", name, text)
        else:
            text = (
                f"`{old.name}` would {how.replace('points', 'point')}, and it is in memory already"
                if how.startswith("points")
                else f"the initial value of `{old.name}` changed; it is in memory already"
            )
            keeper = kept_by(canon, number) if new.section_class is SectionClass.READ_ONLY else ""
            text += f", and {keeper}" if keeper else ""
            yield refusal("DATA_VALUE", name, text, skeleton=data_hook(old.name, old.is_local))


def _ambiguities(canon: Canon, comparison: Comparison, closure: Closure) -> Iterator[Refusal]:
    for item in canon.pairing.ambiguous:
        needed = [n for n in item.new if n in closure.taken or n in closure.referenced]
        olds = ", ".join(f"`{canon.old.all[n].name}`" for n in item.old)
        news = ", ".join(f"`{canon.new.all[n].name}`" for n in item.new)
        if needed or set(item.new) & comparison.changed.keys():
            yield refusal(
                "AMBIGUOUS",
                canon.old.all[item.old[0]].decorated,
                f"`{item.name}` stands for {olds} before and {news} after, and nothing proves "
                "which is which",
            )


def _blocked(canon: Canon, closure: Closure) -> Iterator[Refusal]:
    for number, owner in closure.blocked.items():
        part = canon.new.all[number]
        user = canon.new.all[owner]
        if part.kind is PartKind.ANONYMOUS:
            yield refusal(
                "UNNAMED_DATA",
                part.decorated,
                f"`{user.name}` needs unnamed content of {part.section_name}",
            )


def _names(canon: Canon, closure: Closure) -> Iterator[Refusal]:
    """Refuse references by a name that the baseline object defines twice."""
    counts = Counter(p.decorated for p in canon.old.all if p.symbol is not None)
    for number in sorted(closure.referenced):
        old = canon.old.all[canon.pairing.old_of[number]]
        if counts[old.decorated] > 1:
            yield refusal(
                "AMBIGUOUS_NAME",
                old.decorated,
                f"the object defines `{old.name}` {counts[old.decorated]} times",
            )


def _commons(canon: Canon) -> Iterator[Refusal]:
    def commons(symbols: tuple[Symbol, ...]) -> set[tuple[str, int]]:
        return {(s.name, s.size_bytes) for s in symbols if s.shndx == SHN_COMMON}

    before, after = commons(canon.old.file.symbols), commons(canon.new.file.symbols)
    for name, size in sorted(after - before):
        yield refusal(
            "UNEXPLAINED",
            name,
            f"`{name}` is a common symbol of {size} bytes; the loader takes none",
            hint="compile with -fno-common",
        )


def _structures(canon: Canon) -> Iterator[Refusal]:
    """Refuse changed layouts and other meanings, where debug information shows them."""
    before, after = layouts_of(canon.old.file), layouts_of(canon.new.file)
    types = debug_info(canon.new.file).types
    for name, text in layout_questions(before, after)[0].items():
        known = {member for member, *_ in before[name].members}
        fields = tuple(
            (member, types.get((name, member), ""))
            for member, *_ in after[name].members
            if member not in known
        )
        yield refusal(
            "LAYOUT",
            name,
            f"{text}; instances in memory have the old layout",
            skeleton=shadow_variable(name, fields, canon.new.profile.name) if fields else "",
        )
    moved, _ = value_questions(values_of(canon.old.file), values_of(canon.new.file))
    for name, text in moved.items():
        yield refusal("LAYOUT", name, f"{text}; memory holds what the old code stored")


def open_questions(canon: Canon, closure: Closure) -> tuple[Question, ...]:
    """Return what layouts and values leave open, where debug information shows them."""
    if not closure.taken:
        return ()
    files = canon.old.file, canon.new.file
    _, questions = layout_questions(*(layouts_of(file) for file in files))
    _, asked = value_questions(*(values_of(file) for file in files))
    return (*questions, *asked)


def without_landing(canon: Canon, comparison: Comparison) -> tuple[str, ...]:
    """Say which functions become such as are called through pointers, with an entry that is none.

    The old entry is what everybody calls; the payload writes its jump there, and no ENDBR64.
    """
    endbr = canon.old.profile.machine.endbr
    rows = [(canon.old.all[row.old], canon.new.all[at]) for at, row in comparison.changed.items()]
    return tuple(
        f"`{old.name}` begins with ENDBR64 now, and its entry in the hypervisor does not: a call "
        "through a pointer faults where the processor enforces CET; call a new function instead"
        for old, new in sorted(rows, key=lambda row: row[0].decorated)
        if endbr and canon.new.content(new).startswith(endbr)
        if not canon.old.content(old).startswith(endbr)
    )


def _anchors(canon: Canon) -> Iterator[Refusal]:
    """Refuse rearranged data that code may reach from a neighbour.

    On arm64, without -fdata-sections, gcc addresses several variables from one anchor; the
    distance stands in an instruction without relocation, so which one it means is not visible.
    """
    if not canon.new.profile.machine.has_anchors:
        return
    for name in (".data", ".bss", ".rodata"):
        before, after = (
            [(p.name, p.offset) for p in parts.all if p.section_name == name and p.name]
            for parts in (canon.old, canon.new)
        )
        if before != after and max(len(before), len(after)) > 1:
            yield refusal(
                "UNNAMED_DATA",
                name,
                f"variables of {name} were rearranged, and code may reach one from another",
                hint="compile with -fdata-sections",
            )


_MUST_STAY = (
    SectionClass.UNKNOWN,
    SectionClass.TABLE,
    SectionClass.INIT,
    SectionClass.REGISTRY,
    SectionClass.PERCPU,
)


def unexplained(canon: Canon, closure: Closure) -> tuple[tuple[Refusal, ...], tuple[BootOnly, ...]]:
    """Refuse every difference that no item accounts for; what only boot reads waits for boot.

    Content without a symbol and table entries that point at no function are compared as wholes;
    what the payload takes is accounted for, and so is content that only the baseline has unless
    something other than this object's code finds it.
    """
    before = _loose_content(canon, OLD, frozenset())
    after = _loose_content(canon, NEW, frozenset(closure.taken))
    known = {name: bodies for (name, _), bodies in _loose_content(canon, NEW, frozenset()).items()}
    refused, boot = [], []
    for name, kind in sorted(before.keys() | after.keys()):
        old = before.get((name, kind), Counter())
        added = after.get((name, kind), Counter()) - old
        removed = old - known.get(name, Counter())
        if added or (removed and kind in _MUST_STAY):
            text = f"{name} differs in content that belongs to no function or variable"
            if is_freed(name, kind):
                boot.append(BootOnly(name=name, reason=text, code="INIT_DATA", is_own=True))
            else:
                refused.append(refusal("UNEXPLAINED", name, text))
    return tuple(refused), tuple(boot)


def _loose_content(
    canon: Canon, is_new: bool, taken: frozenset[int]
) -> dict[tuple[str, SectionClass], Counter[Key]]:
    parts = canon.parts(is_new)
    result: dict[tuple[str, SectionClass], Counter[Key]] = {}

    def add(part: Part) -> None:
        if part.number not in taken:
            key = (part.section_name, part.section_class)
            result.setdefault(key, Counter())[canon.body(is_new, part)] += 1

    for section, kind in zip(parts.file.sections, parts.classes, strict=True):
        if kind not in _ACCOUNTED:
            for part in parts.unnamed_ranges(section):
                add(part)
    for entry in parts.orphans:
        add(parts.all[entry.part])
    return result
