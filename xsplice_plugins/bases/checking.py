# SPDX-License-Identifier: Apache-2.0
"""Is a base what was shipped? Its objects are held against the image, one by one."""

from __future__ import annotations

import contextlib
import hashlib
import os
from typing import TYPE_CHECKING

from msgspec.structs import replace

from xsplice_plugins import pipeline
from xsplice_plugins.artefacts import BaseRecord, Boots, Likeness, read_file
from xsplice_plugins.bases import alike
from xsplice_plugins.bases import shipped as vendor
from xsplice_plugins.bases.orders import key_of, read_kept
from xsplice_plugins.bases.recipes import Recipe, ask_compiler, digest_of_programs, recipe_of
from xsplice_plugins.bases.store import KEY_FILE, PREFIX, load_base, used
from xsplice_plugins.elf.booted import boot_difference
from xsplice_plugins.elf.compiled import compiled_otherwise
from xsplice_plugins.elf.described import has_types
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.retyped import retyped
from xsplice_plugins.elf.types import STT_FILE
from xsplice_plugins.errors import (
    CaptureError,
    ConfigError,
    ElfError,
    MachineError,
    RefusedError,
)
from xsplice_plugins.kbuild.indexing import read_index
from xsplice_plugins.kbuild.listing import added_to, differing, read_list

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from xsplice_plugins.artefacts import BaseMatch, Retyped
    from xsplice_plugins.bases.shipped import Shipped
    from xsplice_plugins.elf.reader import ElfFile
    from xsplice_plugins.kbuild.tree import XenTree

#: Part of all functions and data; below it an image is another build's, not a base's.
_LIKE_MIN = 0.8
_SHOWN_MAX = 8
_BOOTS = ("xen", "xen.gz")  #: what boots, by which names make leaves it
#: Fields of a record whose names say too little.
_SAID = {
    "commands": "the commands on record (.cmd files)",
    "programs": "the programs of the compiler",
}


def compare(name: str, key: str, folder: Path, origin: tuple[str, Recipe, Shipped]) -> BaseRecord:
    """Hold the objects of a base against its image.

    Args:
        name: The base's name.
        key: Digest of what was asked for.
        folder: Of the base.
        origin: Where the sources came from, how they were built, what was shipped.

    Raises:
        CaptureError: The tree is not usable for live patches.
        ConfigError: The image cannot be compared with it.
    """
    tree, found = _matched(folder)
    _require_likeness(name, found)
    return _record(name, key, folder, origin, tree, found)


def _record(
    name: str,
    key: str,
    folder: Path,
    origin: tuple[str, Recipe, Shipped],
    tree: XenTree,
    found: BaseMatch,
) -> BaseRecord:
    source, recipe, shipped = origin
    likeness = Likeness.OWN
    if shipped.image is not None:
        is_other = (folder / "is-other").is_file()
        likeness = Likeness.MATCHED if is_other else Likeness.IDENTICAL
    elif shipped.boot is not None:
        likeness = Likeness.IDENTICAL  # what boots is, or it would be no base
    return BaseRecord(
        name=name,
        key=key,
        release=tree.release,
        machine=tree.machine,
        build_id=tree.build_id,
        image=found.image,
        source=source,
        recipe=recipe.name,
        compiler=ask_compiler(recipe.compiler, machine=recipe.machine),
        programs=digest_of_programs(recipe.compiler),
        commands=_commands(tree),
        make=recipe.make,
        environment=recipe.environment,
        likeness=likeness,
        boots=_boots(tree),
        has_files=any(symbol.type == STT_FILE and symbol.name for symbol in _image(tree).symbols),
        objects=found.objects,
        matched=found.matched,
        differs=found.differs,
        absent=found.absent,
        ambiguous=found.ambiguous,
        strangers=found.strangers,
        otherwise=_retyped(tree, found.left_out) if likeness is Likeness.MATCHED else None,
    )


def _boots(tree: XenTree) -> Boots:
    """Hold what boots, where it lies in the tree, against the image.

    Raises:
        ConfigError: It loads other bytes, or is of a form that is not known.
    """
    image = _image(tree)
    paths = [path for name in _BOOTS if (path := tree.build_root / name).is_file()]
    for path in paths:
        if difference := boot_difference(vendor.unpacked(path), image):
            raise ConfigError(f"{path}: {difference}; remove it, and add the base again")
    return Boots.EQUAL if paths else Boots.NOTHING


def _image(tree: XenTree) -> ElfFile:
    return read_elf(tree.xen_syms.read_bytes(), "xen-syms")


def _commands(tree: XenTree) -> str:
    """Return one digest of the commands on record in the tree, and of what each object reads."""
    rows = sorted(read_index(tree).texts.items())
    text = "".join(f"{folder}\0{name}\0{text}\0" for (folder, name), text in rows)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _require_likeness(name: str, found: BaseMatch) -> None:
    """Refuse what could not be compared, and an image of other sources or settings."""
    if not found.objects:
        raise ConfigError(f"base {name}: {found.findings[0].text}")
    other = (*found.differs, *found.absent)
    if found.matched < _LIKE_MIN * (found.matched + len(other)):
        raise ConfigError(
            f"base {name}: only {found.matched} of {found.matched + len(other)} functions and data "
            f"are those of the image, so it was built of other sources or settings; "
            f"{', '.join(other[:_SHOWN_MAX])} differ"
        )


def _retyped(tree: XenTree, left_out: Collection[str]) -> Retyped | None:
    """Say which types the shipped image has otherwise, by the debug information of both.

    An object that was compiled with other options counts by its path.
    """
    image = _image(tree)
    optional = pipeline.objects_of_tree(tree).optional
    files = [read_elf(path.read_bytes(), name) for name, path in _members(tree)]
    files = linked_of(files, optional, left_out, image)
    if not (has_types(image) and any(has_types(file) for file in files)):
        return None
    return (*retyped(files, image), *compiled_otherwise(files, image))


def linked_of(
    files: Sequence[ElfFile], optional: Collection[str], left_out: Collection[str], image: ElfFile
) -> list[ElfFile]:
    """Leave out what the linker leaves in archives.

    It takes a member for a name that it defines, function or datum, and that no object outside of
    archives does. Of two members with one name that counts whose content the image holds.

    Args:
        files: Objects and members of archives.
        optional: Names of those that are members.
        left_out: Those of them of which the image holds nothing.
        image: What was linked of them.
    """
    names = {symbol.decorated for symbol in image.symbols if symbol.shndx}
    names -= {name for file in files if file.name not in optional for name in _globals(file)}
    held = {name for file in files if file.name not in left_out for name in _globals(file)}
    return [
        file
        for file in files
        if file.name not in optional
        or _globals(file) & (names - held if file.name in left_out else names)
    ]


def _globals(file: ElfFile) -> set[str]:
    return {s.name for s in file.symbols if s.shndx and not s.is_local and s.name}


def _members(tree: XenTree) -> Iterator[tuple[str, Path]]:
    for name, path in pipeline.objects_of_tree(tree).files:
        if path.is_file():
            yield name, path


def _matched(folder: Path) -> tuple[XenTree, BaseMatch]:
    """Match the tree of a base with the image that lies in it."""
    base = pipeline.base_of_tree(folder / "tree")
    assert base.tree is not None, "it was made of one"
    run = pipeline.open_run({}, base, environ=os.environ)
    image = base.tree.xen_syms.read_bytes()
    return base.tree, pipeline.match_base(run, image, pipeline.objects_of_tree(base.tree))


def keep_inputs(folder: Path) -> None:
    """Keep the digests of what a base was compiled from, before anybody can change it.

    Args:
        folder: Of the base, which is ready.
    """
    base = pipeline.base_of_tree(folder / "tree")
    assert base.tree is not None, "it was made of one"
    with contextlib.suppress(CaptureError):  # of it, who uses the base hears
        pipeline.check_inputs(base.tree)


def origin_of(folder: Path, called: str) -> str:
    """Return where the sources of a base came from.

    Args:
        folder: Of the base.
        called: How its order calls them; "" for Debian's.
    """
    return called or f"Debian {(folder / 'debian' / 'version').read_text()}"


def check_base(name: str) -> BaseRecord:
    """Make the record of a base once more, of what lies there, and compare all of it.

    Returns:
        The record, and how what boots compares now.

    Raises:
        ConfigError: There is no such base.
        MachineError: Its compiler is not there any more, or does not work.
        RefusedError: It is not any more what its record says; what differs is named.
    """
    with used(f"{PREFIX}{name}") as tree:
        return _checked(name, tree.parent)


def _checked(name: str, folder: Path) -> BaseRecord:
    record = load_base(name)
    kept = read_kept(folder)
    others = _others(name, folder, record)
    given = kept.value("image")
    shipped = vendor.find(folder, None, None)
    if given or kept.value("boot"):
        # That there was one is all that is asked.
        shipped = vendor.Shipped(image=folder if given else None, boot=folder)
    elif shipped.image is not None:
        given = hashlib.sha256(read_file(shipped.image)).hexdigest()
    try:
        recipe = recipe_of(folder / "tree", kept.values("make"), kept.value("compiler"))
        _require_compiler(name, recipe)
        tree, found = _matched(folder)
        recipe = alike.built_alike(recipe, tree.xen_syms if shipped.image else None)
        pipeline.check_inputs(tree, is_listed=False)
        origin = (origin_of(folder, kept.called), recipe, shipped)
        key = key_of(kept.rows)
        now = _record(name, key, folder, origin, tree, found)
    except (CaptureError, ConfigError, ElfError, OSError) as error:
        what = str(error).partition("; ")[0]
        raise _changed(name, ", ".join([what, *(row for row in others if row not in what)])) from (
            error
        )
    now = replace(now, loader=kept.value("loader"), files=record.files)
    if not record.programs:  # of an earlier version, which did not look
        now = replace(now, programs="", commands="")
    boots = now.boots
    if record.boots is None:
        now = replace(now, boots=None)
    if record.has_files is None:
        now = replace(now, has_files=None)
    if record.otherwise is None:  # as above; all new code is "not checked" then
        now = replace(now, otherwise=None)
    names = [name for name in now.__struct_fields__ if getattr(now, name) != getattr(record, name)]
    wrong = [_SAID.get(name, name) for name in names]
    if given and given != found.image:
        wrong.append("the shipped image")
    stamp = folder / KEY_FILE
    if not stamp.is_file() or stamp.read_bytes() != key.encode():
        wrong.append(KEY_FILE)
    wrong += others
    if wrong:
        raise _changed(name, f"{', '.join(dict.fromkeys(wrong))} changed")
    return replace(record, boots=boots)


def _require_compiler(name: str, recipe: Recipe) -> None:
    """Refuse to judge a base where its compiler does not run: that says nothing of the base."""
    try:
        ask_compiler(recipe.compiler, machine=recipe.machine)
    except (ConfigError, OSError) as error:
        raise MachineError(
            f"base {name}: cannot be checked, for its compiler does not work here now "
            f"({str(error).partition('; ')[0]}); see to that, and check it again"
        ) from error


def _others(name: str, folder: Path, record: BaseRecord) -> list[str]:
    """Return the files of the tree that are not what they were; none where no list tells."""
    if not record.files:
        return []
    try:
        listed = read_list(folder, record.files)
    except CaptureError as error:
        raise _changed(name, str(error).partition("; ")[0]) from error
    differ = differing(folder / "tree", listed)
    rows = [path if how == "changed" else f"{path} ({how})" for path, how in differ.items()]
    rows += [f"{path} (new)" for path in added_to(folder / "tree", listed)]
    more = [f"{len(rows) - _SHOWN_MAX} more files"] if len(rows) > _SHOWN_MAX else []
    return [*rows[:_SHOWN_MAX], *more]


def _changed(name: str, what: str) -> RefusedError:
    return RefusedError(
        f"base {name}: is not any more what was added ({what}); remove it and add it again"
    )
