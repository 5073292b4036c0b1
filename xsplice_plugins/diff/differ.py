# SPDX-License-Identifier: Apache-2.0
"""The differ as a pure function: two objects in, one delta out."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from msgspec.structs import replace

from xsplice_plugins.artefacts import (
    BootOnly,
    Delta,
    Duty,
    LineOnly,
    RemovedItem,
    Severity,
    findings_about,
    findings_asked,
)
from xsplice_plugins.diff import close, refuse, standing
from xsplice_plugins.diff.boot import boot_rows
from xsplice_plugins.diff.canon import Canon
from xsplice_plugins.diff.compare import compare
from xsplice_plugins.diff.correlate import correlate
from xsplice_plugins.diff.exchanged import exchanged_names
from xsplice_plugins.diff.explain import explain
from xsplice_plugins.diff.normalise import ObjectParts
from xsplice_plugins.diff.parts import PartKind, masked
from xsplice_plugins.diff.printed import only_prints_other_texts
from xsplice_plugins.diff.renamed import keeps_state, lost_state, new_state
from xsplice_plugins.elf.described import has_types
from xsplice_plugins.elf.layouts import IN_DEBUG_INFORMATION
from xsplice_plugins.elf.reader import ElfFile, read_elf
from xsplice_plugins.elf.types import ET_REL, STT_FILE
from xsplice_plugins.elf.writer import write_object
from xsplice_plugins.errors import DiffError
from xsplice_plugins.target.known import facts_of
from xsplice_plugins.target.sections import SectionClass, profile_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from xsplice_plugins.artefacts import ChangedFunction, Finding, MovedLines, Refusal
    from xsplice_plugins.diff.compare import Comparison
    from xsplice_plugins.plugins.spec import Config

_NAMED = (
    SectionClass.TEXT,
    SectionClass.WRITABLE,
    SectionClass.RO_AFTER_INIT,
    SectionClass.PERCPU,
)
BY_USES = "by all their uses in code"  #: how tables and variables are compared
_UNLISTED = (SectionClass.IGNORED, SectionClass.HOOK)


def diff_objects(
    baseline: bytes,
    new: bytes,
    *,
    object_path: str,
    source_path: str,
    config: Config,
    is_init: bool = False,
    refused: tuple[Refusal, ...] = (),
    moved: Sequence[MovedLines] = (),
    shifted: Callable[[], bytes | None] | None = None,
    edited: Collection[str] | None = None,
    again: Collection[str] = (),
) -> Delta:
    """Say what changed in meaning between two versions of one object.

    Args:
        baseline: The object before the patch; empty if there was none.
        new: The object after it; empty if it was removed.
        object_path: How messages call the object.
        source_path: Its source file.
        config: ``profile``, and ``facts`` or ``release``, are used.
        is_init: Whether the tree renames all its sections to ``.init.*``.
        refused: What the source already shows; kept.
        moved: Lines of the sources that the patch moved and left as they are.
        shifted: Compiles the new side once more with all lines shifted; asked only if numbers
            in code may be lines. ``None``: such numbers count as changes.
        edited: Names of the object's symbols that changed pieces of the sources have; ``None``
            where no sources are known. By it, code is told from code that only absorbs.
        again: Names of read-only data that payloads beneath have brought with other content.

    Returns:
        The delta. Every difference is listed in it, or refused.

    Raises:
        ConfigError: Nothing is known of their machine, or of the release.
        DiffError: The objects are no relocatable objects of one machine, or the profile does not
            fit them.
        ElfFormatError: An object is damaged.
    """
    new_file, old_file = _read(baseline, new, object_path)
    profile = profile_of(config.profile, facts_of(config.facts, config.release, new_file.machine))
    empty = Delta(
        object_path=object_path,
        source_path=source_path,
        profile=profile.name,
        machine=new_file.machine,
        digest_new=hashlib.sha256(new).hexdigest(),
        refused=refused,
        layouts=IN_DEBUG_INFORMATION if has_types(old_file) and has_types(new_file) else "",
        data=BY_USES,
    )
    if baseline == new:
        return empty
    before = ObjectParts(old_file, profile, new_file)
    after = ObjectParts(new_file, profile, old_file)
    canon = Canon(before, after, correlate(before, after))

    def second() -> Canon | None:
        made = shifted() if shifted is not None else None
        if made is None:
            return None
        # Asking for parts adds some: leave `after` alone.
        fresh = ObjectParts(new_file, profile, old_file)
        name = f"{object_path} (lines shifted)"
        other = ObjectParts(read_elf(made, name), profile, old_file)
        return Canon(fresh, other, correlate(fresh, other))

    comparison = compare(canon, moved, second)
    closure = close.close(canon, comparison, again)
    found = {(r.name, r.code): r for r in refused}
    loose, boot = refuse.unexplained(canon, closure)
    lists = (*standing.refuse_lists(canon, comparison), *standing.refuse_again(canon, comparison))
    for row in (*refuse.refuse(canon, comparison, closure), *lists, *loose):
        found.setdefault((row.name, row.code), row)
    delta = replace(
        empty,
        changed=_changed(canon, comparison, edited or ()),
        new=close.new_items(canon, comparison, closure),
        removed=_removed(canon),
        line_only=_line_only(canon, comparison),
        refused=tuple(found[key] for key in sorted(found)),
        extents=close.extents(canon, closure),
        references=close.references(canon, comparison, closure),
        boot=(*boot_rows(canon, comparison, closure, edited), *boot),
        notes=_same_elsewhere(canon, comparison),
        findings=_findings(object_path, canon, comparison, closure),
    )
    source = source_path or _file_name(new_file, old_file)
    same = _same_results(canon, comparison) if is_init else frozenset()
    return _as_a_whole(delta, source, edited, same, is_init=is_init)


def _findings(
    object_path: str, canon: Canon, comparison: Comparison, closure: close.Closure
) -> tuple[Finding, ...]:
    """Say what nobody can tell of a change that is no refusal, and what is worth a remark."""
    asked, remarks = new_state(canon, closure.taken)
    rows = (
        (Duty.DATA, Severity.UNCHECKED, exchanged_names(canon, comparison)),
        (Duty.EFFECT, Severity.WARNING, remarks),
        (Duty.COMPLETE, Severity.UNCHECKED, refuse.without_landing(canon, comparison)),
    )
    said = tuple(
        finding
        for duty, severity, texts in rows
        for finding in findings_about(duty, "differ", severity, object_path, texts)
    )
    state = (*lost_state(canon, closure.taken), *asked)
    questions = refuse.open_questions(canon, closure)
    return (
        *said,
        *findings_asked(Duty.DATA, "differ", object_path, state),
        *findings_asked(Duty.LAYOUT, "differ", object_path, questions),
    )


def _file_name(*files: ElfFile) -> str:
    """Return the first source name that a symbol table states, or ""."""
    names = (s.name for file in files for s in file.symbols if s.type == STT_FILE and s.name)
    return next(names, "")


def _read(baseline: bytes, new: bytes, name: str) -> tuple[ElfFile, ElfFile]:
    new_file = _read_side(new, f"{name} (after the patch)")
    old_file = _read_side(baseline, f"{name} (before the patch)")
    present = new_file or old_file
    if present is None:
        raise DiffError(f"{name}: both sides are empty; there is nothing to compare")
    nothing = read_elf(write_object((), (), machine=present.machine), f"{name} (none)")
    new_file, old_file = new_file or nothing, old_file or nothing
    if new_file.machine != old_file.machine:
        raise DiffError(
            f"{name}: made for machine {old_file.machine} before and {new_file.machine} after; "
            "compile both with the same compiler"
        )
    return new_file, old_file


def _read_side(data: bytes, name: str) -> ElfFile | None:
    if not data:
        return None
    file = read_elf(data, name)
    if file.type != ET_REL:
        raise DiffError(f"{name}: it is no relocatable object; give what the compiler wrote")
    return file


def _changed(
    canon: Canon, comparison: Comparison, edited: Collection[str]
) -> tuple[ChangedFunction, ...]:
    rows = [
        explain(canon, change, edited)
        for number, change in comparison.changed.items()
        if canon.new.all[number].section_class is not SectionClass.INIT
    ]
    return tuple(sorted(rows, key=lambda row: row.name))


def _removed(canon: Canon) -> tuple[RemovedItem, ...]:
    result = []
    for part in canon.old.all:
        is_owner = canon.old.owner.get(part.number, part.number) == part.number
        if (
            part.kind in (PartKind.FUNCTION, PartKind.DATA)
            and part.number not in canon.pairing.new_of
            and part.section_class not in _UNLISTED
            and is_owner
        ):
            reason = "it is gone from the object; the running copy stays in memory, unused"
            size = part.size_bytes if keeps_state(canon.new.profile, part) else 0
            result.append(RemovedItem(name=part.decorated, reason=reason, state_bytes=size))
    return tuple(sorted(result, key=lambda r: r.name))


def _same_elsewhere(canon: Canon, comparison: Comparison) -> tuple[str, ...]:
    """Say what got another name, one more, or another section and is the same otherwise."""
    rows = []
    known = {symbol.name for symbol in canon.old.file.symbols}
    for a, b in canon.pairing.new_of.items():
        old, new = canon.old.all[a], canon.new.all[b]
        rows += [
            f"`{alias.name}` is another name of `{new.name}`, and the image does not know it"
            for alias in canon.new.aliases.get(b, ())
            if alias.value == new.offset and not alias.is_local and alias.name not in known
        ]
        if b in comparison.changed or b in comparison.data_changed or b in comparison.kept:
            continue
        sections = [
            parts.file.base_name(parts.file.sections[part.section])
            for parts, part in ((canon.old, old), (canon.new, new))
        ]
        if masked(old.name) != masked(new.name) and old.section_class in _NAMED:
            rows.append(f"`{new.name}` is `{old.name}` under another name")
        elif sections[0] != sections[1] and old.section_class in _NAMED:
            rows.append(
                f"`{old.name}` moved from {sections[0]} to {sections[1]}, its content is the same; "
                "the running one stays where it is"
            )
    return tuple(sorted(rows))


def _line_only(canon: Canon, comparison: Comparison) -> tuple[LineOnly, ...]:
    rows = [
        LineOnly(
            name=canon.old.all[change.old].decorated,
            reason=change.lines_text,
            shown_by=change.shown_by,
        )
        for change in comparison.lines.values()
    ]
    return tuple(sorted(rows, key=lambda r: r.name))


def _same_results(canon: Canon, comparison: Comparison) -> frozenset[str]:
    """Return the changed functions that leave in memory what the old ones leave."""
    return frozenset(
        canon.old.all[change.old].decorated
        for number, change in comparison.changed.items()
        if only_prints_other_texts(canon, comparison, change.old, number)
    )


def _as_a_whole(
    delta: Delta,
    source_path: str,
    edited: Collection[str] | None,
    same: frozenset[str],
    *,
    is_init: bool,
) -> Delta:
    """Take everything of an object that is assembler, or used only at boot, out of the payload."""
    is_assembler = source_path.endswith((".S", ".s"))
    if not (is_assembler or is_init):
        return delta
    names = {c.name: c.symbol_baseline for c in delta.changed}
    names |= {n.name: n.symbol for n in delta.new}
    names |= {r.name: "" for r in delta.removed}
    nothing = replace(delta, changed=(), new=(), extents=(), references=())
    if not is_assembler:
        known = {row.name for row in delta.boot}
        rows = tuple(
            BootOnly(
                name=name,
                reason=f"`{name}` belongs to an object that is used only at boot ({source_path})",
                code="INIT_CODE",
                is_own=edited is None or not symbol or symbol in edited,
                leaves_same=name in same,
            )
            for name, symbol in names.items()
            if name not in known
        )
        return replace(nothing, boot=tuple(sorted((*delta.boot, *rows), key=lambda r: r.name)))
    known = {r.name for r in delta.refused}
    extra = tuple(
        refuse.refusal("ASSEMBLER", name, f"`{name}` belongs to assembler source ({source_path})")
        for name in sorted(names.keys() - known)
    )
    return replace(
        nothing,
        refused=tuple(sorted((*delta.refused, *extra), key=lambda r: (r.name, r.code))),
    )
