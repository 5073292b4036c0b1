# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: PTH118, PTH120  # thousands of paths: a Path each is slow
"""A build folder's records, read once and ready for questions."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from msgspec.structs import replace

from xsplice_plugins.artefacts import CompileJob, Reach
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.types import STT_FILE
from xsplice_plugins.kbuild.records import Listing, Record, folder_of, record_text, scan
from xsplice_plugins.kbuild.tree import XenTree

_QUOTES = str.maketrans("<>\"'", "    ")
_LINK_WORD = re.compile(r"[^\s;&|<>()\"'`=]+\.(?:o|a)\b")
_RENAME = re.compile(r"--rename-section (\S+)")
_OBJCOPY = re.compile(r"(?:^|[;\s])([^\s;]*objcopy[^\s;]*) ")
_COMPILER = re.compile(r"(\S*?)(?:gcc|clang|cc)(?:-[\d.]+)?$")


@dataclass(frozen=True, kw_only=True)
class Index:
    """A build folder's records, ready for questions; links are read when the first one comes."""

    tree: XenTree
    listing: Listing
    texts: dict[tuple[str, str], str]
    canonical: dict[str, str]  #: cache of `canonical_in`

    @cached_property
    def objcopy(self) -> str:
        """Return the ``objcopy`` that the build used; "" if it used none."""
        found = (_OBJCOPY.search(text) for _, text in self._links())
        return next((match[1] for match in found if match), "")

    @cached_property
    def parts(self) -> dict[str, list[str]]:
        """Return what each linked object or archive is made of."""
        build_root = str(self.tree.build_root)
        roots = (f"{build_root}/", f"{os.path.realpath(build_root)}/")
        parts: dict[str, list[str]] = {}
        for (folder, name), text in self._links():
            base = folder_of(text, folder, name)
            parts[f"{folder}/{name}" if folder else name] = [
                _inside(word, roots) or os.path.normpath(os.path.join(base, word))
                for word in _LINK_WORD.findall(text.split(":=", 1)[-1])
            ]
        return parts

    @cached_property
    def linked(self) -> frozenset[str]:
        """Return the objects that become part of the image, relative to the build folder."""
        return _linked(self.parts, self.listing.files)

    @cached_property
    def members(self) -> dict[str, bool]:
        """Return the objects that compilers made for the image: path -> whether it may lack them.

        Of an archive the linker takes what is called; where no record tells what a folder is
        linked of, some of its objects may not be. What is made of other objects, by ``ld -r``
        or ``objcopy``, stands for them, or they for it: each function is there once.
        """
        made = {name: [p for p in self.parts.get(name, ()) if p != name] for name in self.linked}
        archived = {part for name in made if name.endswith(".a") for part in made[name]}
        return {
            name: name in archived or not self.is_told
            for name, parts in sorted(made.items())
            if name.endswith(".o")
            and init_name(name) not in self.linked
            and (not parts or name in {init_name(part) for part in parts})
        }

    @property
    def is_told(self) -> bool:
        """Tell whether records say what each archive and folder of the image is made of."""
        gathered = [name for name in self.linked if name.endswith((".a", "built_in.o"))]
        return bool(gathered) and all(name in self.parts for name in gathered)

    def _links(self) -> Iterator[tuple[tuple[str, str], str]]:
        """Return the records of what is made of objects, not of sources."""
        for key, text in self.texts.items():
            if key[1].endswith((".o", ".a")) and "\ndeps_" not in text:
                yield key, text


def read_index(tree: XenTree) -> Index:
    """Read a build folder's records.

    Raises:
        CaptureError: The folder or a record cannot be read.
    """
    build_root = str(tree.build_root)
    listing = scan(build_root)
    if tree.is_out_of_source:
        listing = replace(listing, links={**_links_of_sources(tree), **listing.links})
    texts = {
        (folder, name): record_text(build_root, folder, name) for folder, name in listing.records
    }
    return Index(tree=tree, listing=listing, texts=texts, canonical={})


def _links_of_sources(tree: XenTree) -> dict[str, str]:
    """Return the links among the sources of an ``O=`` build, relative to the build folder."""
    source, build = str(tree.hypervisor_source), str(tree.build_root)
    return {
        os.path.relpath(f"{source}/{link}", build): text
        for link, text in scan(source).links.items()
        if not f"{source}/{link}".startswith(f"{build}/")
    }


def _inside(word: str, roots: tuple[str, ...]) -> str:
    """Return an absolute path below the build folder as relative to it; releases up to 4.16."""
    return next((word[len(root) :] for root in roots if word.startswith(root)), "")


def _linked(parts: dict[str, list[str]], files: frozenset[str]) -> frozenset[str]:
    """Return every object from which the image is linked (host programs and tests are not).

    Args:
        parts: What each linked object or archive is made of, as far as that is on record.
        files: Every file of the build folder.
    """
    pending = [target for target in parts if PurePosixPath(target).name == "prelink.o"]
    # A tree that was moved after a build with absolute paths names what is elsewhere.
    if not any(part in files for target in pending for part in parts[target] if part != target):
        pending += [
            target
            for target in sorted(files)
            if PurePosixPath(target).name in {"built_in.o", "lib.a"}
            and not target.startswith(("test/", "tools/"))
        ]
    linked: set[str] = set()
    while pending:
        target = pending.pop()
        if target not in linked:
            linked.add(target)
            if target not in parts and PurePosixPath(target).name == "built_in.o":
                pending += _folder_parts(target, files)
            pending += parts.get(target, ())
    return frozenset(linked)


def _folder_parts(target: str, files: frozenset[str]) -> list[str]:
    """Return what a ``built_in.o`` without a record is made of, 4.14 and 4.15: its folder.

    That may be a few objects more than are linked, which does no harm: they are only compared.
    """
    folder = target.rpartition("/")[0]
    found = []
    for path in sorted(files):
        place, _, name = path.rpartition("/")
        if not name.endswith(".o") or name.startswith((".", "prelink")) or path == target:
            continue
        if name == "built_in.o":
            place = place.rpartition("/")[0]
        elif init_name(path) in files:
            continue
        # `obj-y += compat/domain.o`: a folder without a built_in.o of its own.
        while place and f"{place}/built_in.o" not in files:
            place = place.rpartition("/")[0]
        if place == folder:
            found.append(path)
    return found


def canonical_in(index: Index, folder: str, word: str) -> str:
    """Return a recorded path relative to the tree's root, links inside the tree resolved.

    Paths outside the tree's root (the compiler's own headers) come back absolute.

    Args:
        index: The build folder's records; it keeps the answers.
        folder: What the path is relative to, relative to the build folder.
        word: The path as recorded.
    """
    key = f"{folder}\0{word}"
    found = index.canonical.get(key)
    if found is None:
        found = index.canonical[key] = _canonical(index.tree, index.listing.links, folder, word)
    return found


def _canonical(tree: XenTree, links: dict[str, str], folder: str, word: str) -> str:
    build = str(tree.build_root)
    path = os.path.normpath(os.path.join(build, folder, word))
    roots = (f"{build}/", f"{tree.hypervisor_source}/")
    for _ in range(8):  # a link to a link; more would be a loop
        inside = os.path.relpath(path, build) if path.startswith(roots) else ""
        link = next((part for part in _prefixes(inside) if part in links), None) if inside else None
        if link is None:
            break
        rest = inside[len(link) :].lstrip("/")
        path = os.path.normpath(os.path.join(build, os.path.dirname(link), links[link], rest))
    root = str(tree.root)
    if root == "/":
        return path.lstrip("/")
    return path[len(root) + 1 :] if path.startswith(root + "/") else path


def folders_that_lead_to(index: Index, touched: set[str]) -> set[str]:
    """Find the folders from which a recorded ``..`` or a link leads to a touched file.

    In a private copy these must be real folders: the ``..`` of a linked folder is the tree's.

    Args:
        index: The build folder's records.
        touched: Paths relative to the tree's root.

    Returns:
        Folders relative to the tree's root.
    """
    tree = index.tree
    build = "" if tree.build_dir == "." else tree.build_dir + "/"
    folders = {
        os.path.dirname(os.path.normpath(build + link))
        for link in index.listing.links
        for path in [canonical_in(index, "", link)]
        if any(file == path or file.startswith(path + "/") for file in touched)
    }
    names = {PurePosixPath(path).name for path in touched}
    for (folder, name), text in index.texts.items():
        if not any(touched_name in text for touched_name in names):
            continue
        base = folder_of(text, folder, name)
        for word in _dotted(text):
            if canonical_in(index, base, word) in touched:
                parts = word.split("/")
                ups = [at for at, part in enumerate(parts) if part == ".."]
                starts = (os.path.normpath(build + base + "/" + "/".join(parts[:at])) for at in ups)
                folders |= {start for start in starts if not start.startswith(("..", "/"))}
    return folders


def _dotted(text: str) -> set[str]:
    """Return the words of a record that lead through a ``..``; a regex takes ten times as long."""
    if "../" not in text:
        return set()
    words = set(text.translate(_QUOTES).split())
    within = {word for word in words if word.find("/../", 1, len(word) - 1) >= 0}
    return within | {word for word in words if word.startswith("../") and word != "../"}


def _prefixes(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]


def init_name(target: str) -> str:
    """Return the name under which an init-only object is linked."""
    return target.removesuffix(".o") + ".init.o"


def job_of(
    index: Index, record: Record, inputs: tuple[str, ...], kind: str, *, is_direct: bool
) -> CompileJob:
    """Return how one recorded object is compiled.

    Args:
        index: The build folder's records.
        record: The object's own.
        inputs: Its inputs, canonical.
        kind: "object" for an object of the image; others have no object to be compared with.
        is_direct: Whether its source is patched, not only a header.

    Raises:
        CaptureError: The command names no output.
    """
    tree = index.tree
    source = canonical_in(index, record.folder, record.source)
    shown = source.removeprefix(tree.source_dir + "/")
    target, is_init, renames = record.target, False, ()
    if init_name(target) in index.linked:
        target, is_init = init_name(target), True
        folder, _, name = target.rpartition("/")
        renames = tuple(_RENAME.findall(index.texts.get((folder, name), "")))
    output = record.output
    is_renamed = output.endswith(".tmp")
    if is_renamed and target in index.linked:  # others may be of another machine, as boot code is
        shown = _spelled(tree.build_root / target, record, shown)
    build = "" if tree.build_dir == "." else tree.build_dir + "/"
    return CompileJob(
        object_path=target,
        source_path=shown,
        cwd=os.path.normpath(build + record.folder) if build or record.folder else "",
        command=record.command,
        output=output,
        file_symbol=(PurePosixPath(record.source).name, shown) if is_renamed else None,
        is_init=is_init,
        reach=Reach.DIRECT if is_direct else Reach.HEADER,
        inputs=tuple(sorted(set(inputs))),
        tree_object=build + target if kind == "object" else "",
        objcopy=index.objcopy or _objcopy_of(record.command),
        renames=renames,
    )


def _spelled(tree_object: Path, record: Record, shown: str) -> str:
    """Return a source's path as the tree's own object spells it.

    Some releases name a link to a source by where it leads, others by where it lies.
    """
    link = os.path.normpath(os.path.join(record.folder, record.source))
    if link == shown or not tree_object.is_file():
        return shown
    symbols = read_elf(tree_object.read_bytes(), str(tree_object)).symbols
    names = {symbol.name for symbol in symbols if symbol.type == STT_FILE}
    return link if link in names and shown not in names else shown


def _objcopy_of(command: str) -> str:
    """Derive the cross ``objcopy`` from the compiler's name."""
    for word in command.split():
        if match := _COMPILER.match(word):
            return match[1] + "objcopy"
    return "objcopy"
