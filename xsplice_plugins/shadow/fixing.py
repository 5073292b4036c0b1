# SPDX-License-Identifier: Apache-2.0
"""Write a fix again, so that what it adds to a structure lives in a shadow of each object."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from xsplice_plugins.csource.places import blanked, operand_start
from xsplice_plugins.errors import CaptureError, ConfigError, RefusedError
from xsplice_plugins.shadow.asking import complaints_of, missed, patch_of, require_compiles
from xsplice_plugins.shadow.dying import deaths_of, others_that_free, text_of
from xsplice_plugins.shadow.members import Structure, moved_back, parse_words, put_back, taken_out
from xsplice_plugins.shadow.texts import Rewritten, sides_of
from xsplice_plugins.target.shadow import shadow_header, shadow_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xsplice_plugins.artefacts import PatchSet
    from xsplice_plugins.kbuild.tree import XenTree
    from xsplice_plugins.shadow.asking import Missed

_BY_NAME = "__attribute__((designated_init))"  #: gcc tells of initialisers by place
_ALL_ZERO = re.compile(r"\{\s*(?:0|NULL)?\s*\}")  #: whatever comes first
#: What is ready as zero, or by a call that takes it alone and allocates nothing.
_READY = re.compile(r"INIT_\w+|\w*(?:lock|seqcount|refcnt|waitqueue|tasklet|list)\w*_init")
#: What needs no undoing: numbers, locks, bits.
_PLAIN = re.compile(
    r"(?:(?:const|volatile|unsigned|signed|long|short|int|char|bool|_Bool|[us](?:8|16|32|64)|"
    r"u?int\d+_t|size_t|s_time_t|domid_t|mfn_t|gfn_t|atomic_t|\w*lock_t|seqcount_t|cpumask_t)\s+)+"
    r"\w+\s*(?:\[[^\]]*\]\s*)*(?::\s*\w+)?|DECLARE_BITMAP\(.*"
)
_FLEXIBLE = re.compile(r".*\[\s*0?\s*\]")
_SHOWN_MAX = 4
_ROUNDS_MAX = 40  #: of the compiler: one for each use inside another


def shadow_fix(
    tree: XenTree, fix: PatchSet, words: Sequence[str], kept: Sequence[str] = ()
) -> Rewritten:
    """Take new members out of their structures and put them into shadows.

    Args:
        tree: The built tree; it is only read.
        fix: The fix as it is.
        words: ``STRUCTURE.MEMBER`` each.
        kept: Likewise, of members that the fix takes away and that stay where they were.

    Returns:
        A patch in the place of the fix.

    Raises:
        ConfigError: A word is of another form.
        RefusedError: What it names is not a new member of a structure, or is used in a way that a
            shadow cannot serve.
        CaptureError: The result does not compile.
    """
    wanted, left = parse_words(words), parse_words(kept, "--keep")
    if not wanted and not left:
        raise ConfigError("nothing to do: give --member or --keep, as the refusal (LAYOUT) says")
    if len(wanted) > 1:
        raise RefusedError(
            f"{', '.join(sorted(wanted))}: a payload has one postrevert hook, and the shadows of "
            "each structure need one; name the members of one structure, keep the others by hand"
        )
    olds, texts = sides_of(tree, fix)
    notes, structure = [], None
    for tag in sorted(left):
        put_back(texts, olds, tag, left[tag])
        notes += [f"{tag}: `{member}` stays, unused by the fix" for member in left[tag]]
    for tag in wanted:
        structure = taken_out(texts, olds, tag, wanted[tag])
        for member, text in zip(structure.members, structure.declarations, strict=True):
            if _FLEXIBLE.fullmatch(text):
                raise RefusedError(
                    f"{tag}.{member}: an array without a length takes what memory lies behind its "
                    "object, and behind a shadow lies none; give it a length"
                )
        if moved_back(texts, olds, structure):
            notes.append(f"{structure.name}: what the fix moves within it stays where it was")
        text, end = texts[structure.path], structure.end_in(texts[structure.path])
        end = blanked(text).index(";", end) + 1
        header = shadow_header(structure.name, structure.declarations).rstrip()
        texts[structure.path] = f"{text[:end]}\n{header}{text[end:]}"
    with tempfile.TemporaryDirectory(prefix="xsplice-") as name:
        work = Path(name)
        if structure is not None:
            uses = _redirect(tree, texts, structure, work)
            _refuse_positional(tree, texts, structure, work)
            notes += _finish(tree, texts, structure, uses, work)
        require_compiles(tree, texts, work, f"{fix.name}: with the shadow")
    return Rewritten(text=patch_of(tree, texts), notes=tuple(notes))


def _redirect(
    tree: XenTree, texts: dict[str, str], structure: Structure, work: Path
) -> Counter[str]:
    """Lead every use of the members to the shadow; count them by file."""
    uses: Counter[str] = Counter()
    for _ in range(_ROUNDS_MAX):
        found = missed(tree, texts, structure.name, structure.members, work)
        if not found:
            return uses
        for path in sorted({row.path for row in found}):
            first = len(texts[path])
            for row in sorted((row for row in found if row.path == path), reverse=True):
                start = operand_start(blanked(texts[path]), row.start)
                if start < 0:
                    line = texts[path].count("\n", 0, row.start) + 1
                    raise RefusedError(
                        f"{path}:{line}: `{row.name}` is set in an initialiser, or behind what "
                        "cannot be asked for twice; write it as a statement on a named object"
                    )
                if row.end > first:
                    continue  # it holds a use that was led elsewhere: the next round asks again
                texts[path] = _led(texts[path], start, row, structure)
                uses[path] += 1
                first = start
    raise CaptureError(f"{structure.name}: used within its own uses; write it by hand")


def _refuse_positional(
    tree: XenTree, texts: dict[str, str], structure: Structure, work: Path
) -> None:
    """Refuse initialisers by place: without the member each value would go to its neighbour."""
    text = texts[structure.path]
    end = structure.end_in(text) + 1
    asked = {**texts, structure.path: f"{text[:end]} {_BY_NAME}{text[end:]}"}
    told = [
        row
        for row in complaints_of(tree, asked, work)
        if "designated-init" in row.text
        and not _ALL_ZERO.search(text_of(tree, asked, row.path).splitlines()[row.line - 1])
    ]
    if told:
        raise RefusedError(
            f"{told[0].path}:{told[0].line}: an initialiser gives values by place, and one of them "
            "is for a member that leaves the structure; name the members there"
        )


def _led(text: str, start: int, use: Missed, structure: Structure) -> str:
    """Return text with one use led to the shadow."""
    operand = text[start : use.start].rstrip()
    if text[use.start] == ".":
        operand = f"&({operand})" if not operand.startswith("(") else f"&{operand}"
    place = f"xsplice_{structure.tag}_shadow({operand})->{use.name}"
    return text[:start] + place + text[use.end :]


def _finish(
    tree: XenTree,
    texts: dict[str, str],
    structure: Structure,
    counts: Counter[str],
    work: Path,
) -> list[str]:
    """Let the shadows of dying objects go, add the store, and say what was done."""
    homes = sorted(path for path in counts if path.endswith(".c"))
    if not homes:
        raise RefusedError(
            f"{structure.tag}.{structure.members[0]}: no C file of the fix uses it, so none can "
            "hold its shadows; a member that nothing uses needs none"
        )
    inits = _inits(texts, structure)
    found, made_at = deaths_of(tree, texts, structure, work)
    deaths = [row for row in found if row.is_plain]
    doubtful = [
        f"{row.path}:{text_of(tree, texts, row.path).count(chr(10), 0, row.start) + 1} ({row.call})"
        for row in found
        if not row.is_plain
    ]
    for path in sorted({row.path for row in deaths}):
        text = text_of(tree, texts, path)
        for row in sorted((row for row in deaths if row.path == path), reverse=True):
            call = text[row.start : row.end]
            drop = f"({{ xsplice_{structure.tag}_drop({row.what}); {call}; }})"
            text = text[: row.start] + drop + text[row.end :]
        texts[path] = text
    made = {path for path, _, _ in inits}
    home = min(homes, key=lambda path: (path not in made, path))
    store = shadow_store(structure.name, [(call, member) for _, call, member in inits])
    texts[home] = texts[home].rstrip("\n") + "\n" + store
    ends = [f"{row.function} ({row.path})" for row in deaths]
    notes = _notes(structure, counts, inits, ends, home)
    if doubtful:
        notes.append(
            f"LOOK: {', '.join(doubtful)}: an object may die there too, later, or its pointer "
            f"cannot be named twice; call xsplice_{structure.tag}_drop() where its memory goes"
        )
    prefix = f"{tree.patch_root}/" if tree.patch_root else ""
    asked = {row.partition(":")[0].removeprefix(prefix) for row in made_at}
    if others := others_that_free(tree, texts, structure, asked):
        more = f" and {len(others) - _SHOWN_MAX} more" if len(others) > _SHOWN_MAX else ""
        notes.append(
            f"LOOK: {', '.join(others[:_SHOWN_MAX])}{more}: objects are made elsewhere, and may "
            f"die there too; call xsplice_{structure.tag}_drop() where one's memory goes"
        )
    if any("array" in row for row in made_at):
        notes.append(
            f"LOOK: objects of {structure.name} are made in arrays: let the shadow of each one go"
        )
    return notes


def _inits(texts: dict[str, str], structure: Structure) -> list[tuple[str, str, str]]:
    """Return what makes members ready: (file, function, member), where one function is used."""
    found = []
    for member in structure.members:
        use = re.compile(
            rf"\b(?P<call>\w*init\w*)\s*\(\s*&\s*xsplice_{structure.tag}_shadow\("
            rf"[^;]*\)->{member}\s*\)\s*;",
            re.IGNORECASE,
        )
        rows = [(path, match["call"]) for path, text in sorted(texts.items())
                for match in use.finditer(text)]  # fmt: skip
        if len({call for _, call in rows}) == 1 and _READY.fullmatch(rows[0][1]):
            found.append((rows[0][0], rows[0][1], member))
    return found


def _notes(
    structure: Structure,
    counts: Counter[str],
    inits: Sequence[tuple[str, str, str]],
    deaths: Sequence[str],
    home: str,
) -> list[str]:
    """Say what was done for one structure, and what to look at."""
    names = ", ".join(f"`{name}`" for name in structure.members)
    where = ", ".join(f"{count} in {path}" for path, count in sorted(counts.items()))
    notes = [f"{structure.name}: {names} in a shadow of each object; uses: {where}; store: {home}"]
    ready = {member: call for _, call, member in inits}
    for member in structure.members:
        if member in ready:
            notes.append(f"{member}: made ready by {ready[member]}(), for objects that exist too")
        else:
            notes.append(
                f"LOOK: `{member}` starts as zero, for objects that exist too; if another value is "
                f"right, set it in xsplice_{structure.tag}_start()"
            )
    notes += [
        f"LOOK: what `{member}` leads to is not given back: undo it before the shadow goes, in "
        f"xsplice_{structure.tag}_drop() and xsplice_{structure.tag}_end()"
        for member, text in zip(structure.members, structure.declarations, strict=True)
        if not _PLAIN.fullmatch(text)
    ]
    if deaths:
        notes.append(f"objects die in {', '.join(deaths)}: their shadows go there")
    else:
        notes.append(
            f"LOOK: where objects of {structure.name} are freed was not found: call "
            f"xsplice_{structure.tag}_drop(OBJECT) there, or another one made at the same address "
            "inherits the shadow"
        )
    notes.append(
        f"LOOK: where a {structure.name} is copied or cleared as a whole, its shadow is not"
    )
    notes.append(
        "LOOK: where nothing may be allocated (interrupts off, no memory), 4096 shadows are in "
        "reserve; one more panics"
    )
    return notes
