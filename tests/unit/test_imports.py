# SPDX-License-Identifier: Apache-2.0
"""Who may import whom: the walls between the stages, read from the sources with ``ast``.

Imports inside functions and for type checking count too; a wall with doors is none.
"""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from xsplice_plugins.plugins import builtin

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = "xsplice_plugins"

FOUNDATION = {"errors", "releases", "elf", "artefacts", "plugins"}

#: What each part of the library may import of the library: file or folder, below the package.
#: "" is the package itself, that is, the names in its ``__init__``.
ALLOWED = {
    "errors": set(),
    "elf": {"errors"},
    "releases": {"errors"},
    "artefacts": {"errors", "elf"},
    "plugins": {"errors", "elf", "artefacts"},
    "": {"plugins"},
    "target": {"errors", "releases", "elf", "artefacts"},  # the writer's facts
    "csource": {"errors", "artefacts"},
    "patch": FOUNDATION | {"csource"},
    "kbuild": FOUNDATION | {"target"},  # facts that no tree tells
    "capture": FOUNDATION | {"patch", "csource", "kbuild", "system"},  # what is patched is captured
    "diff": FOUNDATION | {"target"},
    "link": FOUNDATION | {"target"},
    "sign": FOUNDATION,
    "hypervisor": {"errors", "releases", "elf"},
    "cache": {"errors"},
    "system": {"errors"},
    "bases": FOUNDATION | {"cache", "hypervisor", "kbuild", "pipeline", "system", "target"},
    "realxen": {"errors", "cache", "system"},
    "rebuild": FOUNDATION | {"patch", "capture", "kbuild", "check", "target"},
    "verify": FOUNDATION | {"hypervisor", "realxen", "rebuild", "cache"},
    "report": FOUNDATION | {"settings", "target"},
    "settings": FOUNDATION,
    "check": {"errors", "elf", "artefacts"},  # shares nothing with what it judges
    "pipeline": FOUNDATION
    | {"cache", "settings", "patch", "capture", "kbuild", "handmade", "check", "target"},
    "handmade": FOUNDATION | {"capture", "kbuild", "link", "target"},
    "toolstack": FOUNDATION | {"hypervisor", "realxen", "pipeline", "kbuild", "verify"},
    "testing": FOUNDATION,
    "shadow": FOUNDATION | {"patch", "capture", "csource", "kbuild", "target"},
}
#: The faces of the library take what they show; nothing imports them.
FACES = {"cli", "commands", "__main__"}
STAGES = {"patch", "capture", "diff", "link", "sign", "verify", "report"}

#: Costs of tenths of a second: imported by the function that needs them.
SLOW = {
    "SCons",
    "capstone",
    "cryptography",
    "elftools",
    "lief",
    "rich",
    "unicorn",
}


#: May import slow packages as they like: only functions import these modules.
LATE = {"xsplice_plugins.sign.detached"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One import statement's target."""

    place: str  #: ``path:line``
    file: Path
    target: str  #: dotted
    is_at_import_time: bool

    @property
    def part(self) -> str | None:
        """Return the part of the library that is imported; ``None`` for other packages."""
        words = self.target.split(".")
        if words[0] != LIBRARY:
            return None
        known = words[1] if len(words) > 1 else ""
        return known if (ROOT / LIBRARY / known).exists() or _is_module(known) else ""


def _is_module(name: str) -> bool:
    return (ROOT / LIBRARY / f"{name}.py").exists()


def imports_of(path: Path) -> list[Import]:
    """Return all imports of a file; ``from package import name`` counts as ``package.name``."""
    tree = ast.parse(path.read_text())
    lazy = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
        for inner in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (f"{node.module}." if node.module else "")
            targets = [f"{base}{alias.name}" for alias in node.names]
        else:
            continue
        found += [
            Import(
                place=f"{path.relative_to(ROOT)}:{node.lineno}",
                file=path,
                target=target,
                is_at_import_time=id(node) not in lazy,
            )
            for target in targets
        ]
    return found


def dotted_name(path: Path) -> str:
    """Return a file's dotted name."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def part_of(path: Path) -> str:
    """Return the part of the library that a file belongs to."""
    words = path.relative_to(ROOT / LIBRARY).with_suffix("").parts
    return "" if words == ("__init__",) else words[0]


FILES = sorted((ROOT / LIBRARY).rglob("*.py"))
IMPORTS = [found for path in FILES for found in imports_of(path)]
PARTS = sorted({part_of(path) for path in FILES})
TOOL = sorted((ROOT / "site_scons/site_tools").rglob("*.py"))
TOOL_IMPORTS = [found for path in TOOL for found in imports_of(path)]
#: The rooms of the model; each imports itself and those before it.
ROOMS = ["facts", "image", "state", "act", "load", "run", "core", "proof"]


def file_of(found: Import) -> Path | None:
    """Return the file that an import names; ``None`` outside the library and the tool."""
    name = found.target.lstrip(".")
    level = len(found.target) - len(name)
    base = found.file.parents[level - 1] if level else ROOT
    words = name.split(".")
    for count in range(len(words), -1, -1):
        path = base.joinpath(*words[:count])
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return file
    return None


@pytest.mark.parametrize("part", PARTS)
def test_a_part_imports_only_what_lies_below_it(part: str) -> None:
    assert part in ALLOWED or part in FACES, f"{part} has no place in the layers; give it one"
    allowed = set(ALLOWED) | FACES - {"testing"} if part in FACES else ALLOWED[part]
    wrong = [
        f"{found.place} imports {found.target}"
        for found in IMPORTS
        if part_of(found.file) == part
        and found.part is not None
        and found.part not in allowed | {part, ""}
    ]
    assert wrong == []


def test_the_layers_have_no_cycle() -> None:
    """The table itself must be an order, or the test above proves nothing."""
    done: set[str] = set()
    left = {part: set(below) - {part} for part, below in ALLOWED.items()}
    while left:
        ready = sorted(part for part, below in left.items() if below <= done)
        assert ready, f"a cycle among {sorted(left)}"
        done |= set(ready)
        left = {part: below for part, below in left.items() if part not in done}


def test_no_file_imports_itself_by_a_detour() -> None:
    """Imports inside functions count: a circle that works by luck of the order is one, too."""
    below: dict[Path, set[Path]] = {file: set() for file in FILES + TOOL}
    for found in IMPORTS + TOOL_IMPORTS:
        module = file_of(found)
        if module is not None and module != found.file:
            below[found.file].add(module)
    while done := {file for file, files in below.items() if not files & below.keys()}:
        below = {file: files for file, files in below.items() if file not in done}
    while above := set(below) - set().union(*below.values()):  # these only use a circle
        below = {file: files for file, files in below.items() if file not in above}
    assert sorted(str(file.relative_to(ROOT)) for file in below) == []


def test_the_rooms_of_the_model_import_downwards_only() -> None:
    base = ROOT / LIBRARY / "hypervisor"

    def room_of(file: Path) -> str:
        return file.relative_to(base).with_suffix("").parts[0]

    inside = [(f, m) for f in IMPORTS if f.file.is_relative_to(base) and (m := file_of(f))]
    wrong = [
        f"{found.place} imports {found.target}"
        for found, module in inside
        if found.file != base / "__init__.py"
        and module.is_relative_to(base)
        and ROOMS.index(room_of(module)) > ROOMS.index(room_of(found.file))
    ]
    assert wrong == []
    assert {room_of(file) for file in FILES if file.is_relative_to(base)} == {*ROOMS, "__init__"}


def test_stages_exchange_files_not_code() -> None:
    """The table of layers cannot be widened by accident to let one stage import another."""
    doors = {
        (part, below)
        for part in STAGES
        for below in ALLOWED[part] & STAGES
        if (part, below) != ("capture", "patch")
    }
    assert doors == set()


def test_no_import_is_relative_in_the_library() -> None:
    """Relative imports would slip through this file's net."""
    assert [found.place for found in IMPORTS if found.target.startswith(".")] == []


def test_the_hypervisor_needs_records_and_to_run_code_emulator_and_decoder() -> None:
    foreign = {
        (found.file.name, found.target.split(".")[0])
        for found in IMPORTS
        if part_of(found.file) == "hypervisor"
        and found.part is None
        and found.target.split(".")[0] not in {*sys.stdlib_module_names, "msgspec"}
    }
    assert foreign == {
        ("borrowed.py", "unicorn"),
        ("branches.py", "iced_x86"),
        ("execute.py", "unicorn"),
        ("processor.py", "unicorn"),
        ("processor.py", "iced_x86"),
        ("touched.py", "iced_x86"),
        ("vectors.py", "iced_x86"),
    }


def test_only_the_tool_imports_scons() -> None:
    assert [found.place for found in IMPORTS if found.target.split(".")[0] == "SCons"] == []


def test_nothing_imports_the_scons_face() -> None:
    names = {"site_scons", "site_tools", "xsplice"}
    assert [found.place for found in IMPORTS if found.target.split(".")[0] in names] == []


def test_slow_packages_are_imported_where_they_are_needed() -> None:
    """A warm run is judged in tenths of a second; lief alone takes more than one."""
    wrong = [
        f"{found.place} imports {found.target}"
        for found in IMPORTS
        if found.is_at_import_time
        and (
            (found.target.split(".")[0] in SLOW and dotted_name(found.file) not in LATE)
            or {found.target, found.target.rpartition(".")[0]} & LATE
        )
    ]
    assert wrong == []


def test_the_plugins_of_stages_are_thin_and_only_named_by_the_room_below_them() -> None:
    """They are imported at every start, by name, which no other test of this file sees."""
    named = {place.partition(":")[0] for place in builtin.BUILT_IN}
    files = [path for path in FILES if path.name == "plugin.py"]
    assert named == {dotted_name(path) for path in files}
    wrong = [
        f"{found.place} imports {found.target}"
        for found in IMPORTS
        if found.file in files
        and found.is_at_import_time
        and not found.target.startswith(
            ("xsplice_plugins.plugins.spec.", "xsplice_plugins.errors.")
        )
        and found.target.split(".")[0] not in sys.stdlib_module_names
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "target", "is_at_import_time"),
    [
        ("import a.b\n", "a.b", True),
        ("from a import b\n", "a.b", True),
        ("def f():\n    from a import b\n", "a.b", False),
        ("if TYPE_CHECKING:\n    from a import b\n", "a.b", False),
        ("class C:\n    import a\n", "a", True),
        ("from . import b\n", ".b", True),
        ("from ..a import b\n", "..a.b", True),
    ],
)
def test_the_reader_of_imports_sees_each_form(
    text: str, target: str, is_at_import_time: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "module.py"
    path.write_text(text)
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (found,) = imports_of(path)
    assert (found.target, found.is_at_import_time) == (target, is_at_import_time)
