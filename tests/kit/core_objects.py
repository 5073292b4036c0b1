# SPDX-License-Identifier: Apache-2.0
"""What changed between two builds of the core, as binutils see it.

A second opinion for the regression hot-patches' ``expected.json``: it knows nothing of
`xsplice_plugins` and gets by with ``-ffunction-sections`` and readelf's and objdump's text.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

HOOK_PREFIXES = ("livepatch_load_data_", "livepatch_unload_data_")
FRAME_WORD = re.compile(r"^[0-9a-f]+ R_X86_64_PC32 +(\S+?)([+-]0x[0-9a-f]+)?$", re.MULTILINE)
LINE_BITS = 24  # a bug frame's words carry the line number above their displacement


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One symbol of an object that has content."""

    name: str
    section: str
    is_function: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What two builds of all objects differ in, names decorated as in the image."""

    replaced: frozenset[str]
    new: frozenset[str]
    line_only: frozenset[str]
    hooks: frozenset[str]


def _run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _sections(path: Path) -> dict[str, str]:
    names = re.findall(r"^ +\[ *(\d+)\] (\S+)", _run("readelf", "-SW", path), re.MULTILINE)
    return dict(names)


def entries(path: Path, source: str) -> dict[str, Entry]:
    """Return an object's functions and data by decorated name."""
    sections = _sections(path)
    found = {}
    for line in _run("readelf", "-sW", path).splitlines():
        words = line.split()
        if len(words) < 8 or words[3] not in {"FUNC", "OBJECT"} or words[6] not in sections:
            continue
        name = f"{source}#{words[7]}" if words[4] == "LOCAL" else words[7]
        found[name] = Entry(name=name, section=sections[words[6]], is_function=words[3] == "FUNC")
    return found


def _meaning(path: Path, entry: Entry) -> str:
    """Return a function's code with its relocations, and its own constants."""
    stem = entry.section.removeprefix(".text.")
    own = [s for s in _sections(path).values() if re.fullmatch(rf"\.rodata\.{stem}(\.str.*)?", s)]
    code = _run("objdump", "-dr", "--no-show-raw-insn", "-j", entry.section, path)
    data = [_run("objdump", "-sr", "-j", section, path) for section in sorted(own)]
    return "".join(text.split(":", 2)[-1] for text in (code, *data))  # the file's name goes


def _frames(path: Path) -> dict[str, set[tuple[str, ...]]]:
    """Return each function section's bug frames as (type, offset, line) texts."""
    frames: dict[str, set[tuple[str, ...]]] = {}
    sections = _sections(path).values()
    for kind in range(4):
        name = f".bug_frames.{kind}"
        if name not in sections:
            continue
        found = FRAME_WORD.findall(_run("objdump", "-r", "-j", name, path))
        unit = 3 if kind == 3 else 2
        for at in range(0, len(found), unit):
            (section, loc), (_file, ptr) = found[at : at + 2]
            words = [int(text or "0", 16) % 2**32 for text in (loc, ptr)]
            line = (words[0] >> LINE_BITS << 7) + (words[1] >> LINE_BITS)
            place = words[0] % 2**LINE_BITS
            frames.setdefault(section, set()).add((str(kind), hex(place), str(line)))
    return frames


def compare(before: Path, after: Path, sources: list[str]) -> Change:
    """Compare the objects of two build folders.

    Args:
        before: Build folder of the sources as they are.
        after: Build folder of the patched sources.
        sources: The C sources, relative to the root.
    """
    replaced, new, line_only, hooks = set(), set(), set(), set()
    for source in sources:
        old_path, new_path = ((root / source).with_suffix(".o") for root in (before, after))
        if old_path.read_bytes() == new_path.read_bytes():
            continue
        old_entries, new_entries = entries(old_path, source), entries(new_path, source)
        old_frames, new_frames = _frames(old_path), _frames(new_path)
        hooks |= {s for s in _sections(new_path).values() if s.startswith(".livepatch.hooks.")}
        for name, entry in new_entries.items():
            if name not in old_entries:
                new.add(name)
            elif not entry.is_function or not entry.section.startswith(".text."):
                continue
            elif _meaning(old_path, old_entries[name]) != _meaning(new_path, entry):
                replaced.add(name)
            elif old_frames.get(entry.section) != new_frames.get(entry.section):
                line_only.add(name)
    return Change(
        replaced=frozenset(replaced),
        new=frozenset(name for name in new if not name.startswith(HOOK_PREFIXES)),
        line_only=frozenset(line_only),
        hooks=frozenset(hooks),
    )
