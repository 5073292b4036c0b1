# SPDX-License-Identifier: Apache-2.0
"""The tree's own objects with debug information, which say what Xen's types are.

The types of replacements are held against those of the functions that they replace.

A tree built without debug information has none; then an object's source is compiled again, with its
recorded command and ``-g``, and thrown away.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from xsplice_plugins.capture.compiling import compile_object
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.types import STT_FUNC
from xsplice_plugins.errors import CaptureError, LinkError
from xsplice_plugins.handmade.compiling import recorded_job
from xsplice_plugins.handmade.prototypes import function_type
from xsplice_plugins.handmade.shapes import DebugSide
from xsplice_plugins.kbuild.records import read_record, scan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xsplice_plugins.artefacts import ChangedFunction, Delta
    from xsplice_plugins.capture.reads import Reads
    from xsplice_plugins.kbuild.tree import XenTree


class Originals:
    """Finds the objects of one tree, and reads each once."""

    def __init__(self, tree: XenTree, reads: Reads) -> None:
        """Ask ``tree``, which is only read; ``reads`` gets the files that are read for that."""
        self.tree, self._reads = tree, reads
        self._paths: dict[tuple[str, bool], str] = {}
        self._data: dict[str, bytes | str] = {}
        self._sides: dict[str, DebugSide | str] = {}

    def object_of(self, name: str, *, is_function: bool = True) -> str:
        """Return the object that defines a function, relative to the build folder; "" if none does.

        Args:
            name: Decorated name.
            is_function: Whether only functions count, local ones too; else all that is not local.
        """
        key = (name, is_function)
        if key not in self._paths:
            self._paths[key] = _object_of(self.tree, name, is_function=is_function)
        return self._paths[key]

    def data(self, path: str) -> bytes | str:
        """Return an object with debug information, or a text: why there is none.

        ``path`` is relative to the build folder.
        """
        if path not in self._data:
            self._data[path] = _with_debug_information(self.tree, path, self._reads)
        return self._data[path]

    @property
    def opened(self) -> list[str]:
        """The objects whose debug information was asked already."""
        return sorted(path for path, side in self._sides.items() if not isinstance(side, str))

    def side(self, path: str) -> DebugSide | None:
        """Return the debug information of an object; ``None`` if there is none."""
        if path not in self._sides:
            found = self.data(path)
            self._sides[path] = found if isinstance(found, str) else DebugSide(found)
        side = self._sides[path]
        return None if isinstance(side, str) else side


def check_types(
    originals: Originals, deltas: Sequence[Delta], objects: Sequence[bytes]
) -> tuple[str, ...]:
    """Check that each replacement has its original's type; objects are compiled with ``-g``.

    Returns:
        A note for each replacement whose original's type cannot be read.

    Raises:
        LinkError: A type differs; the message has both.
    """
    notes = []
    for delta, data in zip(deltas, objects, strict=True):
        for changed in delta.changed:
            if changed.place is not None and changed.place.offset:
                continue  # it takes over in the middle: there is no call to agree with
            old = _original_type(originals, changed)
            new = function_type(data, changed.symbol)
            if old.startswith("?") or not new:
                reason = old.removeprefix("?") or "no debug information"
                notes.append(
                    f"the type of `{changed.symbol}` was not compared with that of "
                    f"`{changed.name}`: {reason}"
                )
            elif old != new:
                raise LinkError(
                    f"{changed.reason.removeprefix('declared in ')}: `{changed.name}` is "
                    f"`{old}`, its replacement `{changed.symbol}` is `{new}`; give it the same type"
                )
    return tuple(notes)


def _original_type(originals: Originals, changed: ChangedFunction) -> str:
    """Return the type of a replaced function; "?" and a reason where it cannot be told."""
    if not changed.size_before_bytes:
        return "?an earlier payload brings it"
    path = originals.object_of(changed.name)
    if not path:
        return "?no object of the tree with a recorded command defines it"
    found = originals.data(path)
    if isinstance(found, str):
        return f"?{found}"
    plain = changed.name.rpartition("#")[2]
    return function_type(found, plain) or f"?{path} has no debug information about it"


def _object_of(tree: XenTree, name: str, *, is_function: bool) -> str:
    file, _, plain = name.rpartition("#")
    if file:
        path = str(Path(file).with_suffix(".o"))
        return path if (tree.build_root / path).is_file() else ""
    word = plain.encode("utf-8", "surrogateescape") + b"\0"  # may end another name, in one place
    for folder, base in scan(str(tree.build_root)).records:
        path = f"{folder}/{base}" if folder else base
        place = tree.build_root / path
        if not base.endswith(".o") or base in {"built_in.o", "prelink.o"} or not place.is_file():
            continue
        data = place.read_bytes()
        if (
            data[:4] == b"\x7fELF"
            and word in data
            and _defines(data, path, plain, is_function=is_function)
        ):
            return path
    return ""


def _defines(data: bytes, path: str, name: str, *, is_function: bool) -> bool:
    return any(
        symbol.name == name
        and symbol.shndx
        and (symbol.type == STT_FUNC if is_function else not symbol.is_local)
        for symbol in read_elf(data, path).symbols
    )


def _with_debug_information(tree: XenTree, path: str, reads: Reads) -> bytes | str:
    data = (tree.build_root / path).read_bytes()
    if b".debug_info\0" in data:
        return data
    base = path.rpartition("/")[2]
    record = read_record(str(tree.build_root), path)
    if record is None or not record.source.endswith(".c"):
        return f"the tree has no debug information and no recorded command of {path}"
    with tempfile.TemporaryDirectory(prefix="xsplice-") as work:
        out = Path(work) / base
        try:
            job = recorded_job(tree, record, appended="-g")
            compile_object(job, tree.root, out, reads=reads)
        except CaptureError as error:
            return f"{path} does not compile again ({str(error).partition(chr(10))[0]})"
        return out.read_bytes()
