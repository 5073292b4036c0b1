# SPDX-License-Identifier: Apache-2.0
"""The regression hot-patches for 4.17 are what they claim to be, judged without our own stages.

Each patch is applied with `patch` and compiled with the tree's recorded commands in a folder of
links; the objects are compared section by section as `readelf` lists them.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.xen.trees import tree_like

FOLDER = Path(__file__).resolve().parents[2] / "xen-patches" / "regression"
#: For trees of 4.17, by machine; a name of another machine carries that one's folder.
NAMES = sorted(
    f"{path.parent.name}/{path.name}" for place in ("4.17", "arm64")
    for path in (FOLDER / place).iterdir()
)  # fmt: skip
KEYS = {
    "schema": int,
    "verdict": str,
    "objects": list,
    "replaced": list,
    "new": list,
    "line_only": list,
    "refused": list,
    "hooks": list,
    "effect": list,
}
EFFECT_KEYS = {"probe", "args", "type", "before", "during", "after"}
LISTS = ("replaced", "new", "line_only")
HOOKS = re.compile(r"^\.livepatch\.hooks\.(load|unload|(pre|post)?(apply|revert))$")


def expected_of(name: str) -> dict[str, Any]:
    expected: dict[str, Any] = json.loads((FOLDER / name / "expected.json").read_text())
    return expected


def sections_of(path: Path) -> dict[str, bytes]:
    """Return the content of each allocated section, names as `readelf` prints them."""
    listing = subprocess.run(
        ["readelf", "-SW", path], check=True, capture_output=True, text=True
    ).stdout
    data = path.read_bytes()
    found: dict[str, bytes] = {}
    for line in listing.splitlines():
        match = re.match(
            r"\s*\[\s*\d+\] (\S+)\s+(\S+)\s+[0-9a-f]{16} ([0-9a-f]+) ([0-9a-f]+) \S+\s+\w*A",
            line,
        )
        if match:
            name, kind, offset, size = match[1], match[2], int(match[3], 16), int(match[4], 16)
            content = data[offset : offset + size] if kind != "NOBITS" else bytes(size)
            found[name] = found.get(name, b"") + content
    return found


def relocations_of(path: Path) -> dict[str, list[str]]:
    """Return the relocations of each section as `readelf` words them, strings resolved roughly."""
    listing = subprocess.run(
        ["readelf", "-rW", path], check=True, capture_output=True, text=True
    ).stdout
    found: dict[str, list[str]] = {}
    section = ""
    for line in listing.splitlines():
        match = re.match(r"Relocation section '\.rela(\S+)'", line)
        if match:
            section = match[1]
        elif re.match(r"[0-9a-f]{16} ", line):
            words = line.split()
            found.setdefault(section, []).append(" ".join([words[0], words[2], *words[4:]]))
    return found


def command_of(tree: Path, object_path: str) -> str:
    """Return the recorded command of an object without its dependency output."""
    folder, _, name = object_path.rpartition("/")
    record = (tree / "xen" / folder / f".{name}.cmd").read_text()
    line = record.split("\n", 1)[0].split(" := ", 1)[1].replace("$(pound)", "#")
    line = re.sub(r"-MMD -MP -MF \S+|-MQ \S+", "", line)
    return re.sub(r" -o \S+", "", line)


@pytest.fixture(scope="module")
def farms(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Return copies of trees made of links; tests put real files in and take them out."""

    @cache
    def farm_of(tree: Path) -> Path:
        root = tmp_path_factory.mktemp("farm")
        subprocess.run(["cp", "-rs", tree / "xen", root / "xen"], check=True)
        return root

    return farm_of


def apply_to(farm: Path, tree: Path, patch: Path) -> list[str]:
    """Make the touched files real, as in the tree, and apply the patch; return their paths."""
    touched = re.findall(r"^\+\+\+ b/(\S+)", patch.read_text(), re.MULTILINE)
    for path in touched:
        (farm / path).unlink()
        shutil.copy(tree / path, farm / path)
    done = subprocess.run(
        ["patch", "-p1", "-F0", "--no-backup-if-mismatch", "-i", patch],
        cwd=farm,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "offset" not in done.stdout, done.stdout
    assert "fuzz" not in done.stdout, done.stdout
    return touched


def compile_object(farm: Path, tree: Path, object_path: str, output: Path) -> None:
    """Compile one object in the farm; -Werror is among the recorded words."""
    done = subprocess.run(
        ["/bin/sh", "-c", f"{command_of(tree, object_path)} -o '{output}'"],
        cwd=farm / "xen",
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_expected_outcome_is_well_formed(name: str) -> None:
    expected = expected_of(name)
    assert set(expected) == set(KEYS)
    for key, kind in KEYS.items():
        assert isinstance(expected[key], kind), key
        if kind is list and key != "effect":
            assert expected[key] == sorted(set(expected[key])), key
    assert expected["schema"] == 1
    assert expected["verdict"] in {"accepted", "unproved", "refused", "no-change", "boot-only"}
    assert (expected["verdict"] == "refused") == bool(expected["refused"])
    assert name.partition("/")[2].startswith("refused-") == (expected["verdict"] == "refused")
    if expected["verdict"] in {"accepted", "unproved"}:
        assert expected["replaced"] or expected["hooks"]
    else:
        assert not expected["replaced"] + expected["new"] + expected["hooks"] + expected["effect"]
    assert all(HOOKS.match(hook) for hook in expected["hooks"])
    assert all(re.fullmatch(r"[A-Z_]+", code) for code in expected["refused"])
    for effect in expected["effect"]:
        assert set(effect) == EFFECT_KEYS
        assert all(isinstance(arg, int) for arg in effect["args"])
        kind = {"string": str, "int": int}[effect["type"]]
        assert all(isinstance(effect[key], kind) for key in ("before", "during", "after"))
        assert effect["before"] == effect["after"]


@pytest.mark.parametrize("name", NAMES)
def test_patch_names_its_licence_and_carries_no_context(name: str) -> None:
    """Hardly a line of Xen's own text is stored: what a patch takes away, and nothing around it."""
    text = (FOLDER / name / "fix.patch").read_text()
    assert text.startswith("SPDX-License-Identifier: GPL-2.0-only\n\n")
    words, _, hunks = text.partition("\n--- a/")
    assert len(words.splitlines()) >= 3
    assert not [line for line in hunks.splitlines() if line.startswith(" ")]


@pytest.mark.xen
@pytest.mark.toolchain
@pytest.mark.parametrize("name", NAMES)
def test_patch_applies_compiles_and_changes_what_it_says(
    name: str,
    request: pytest.FixtureRequest,
    farms: Callable[[Path], Path],
    tmp_path: Path,
) -> None:
    """Only code that `replaced`, `new` or `line_only` names differs, in the named objects."""
    expected = expected_of(name)
    is_arm = name.startswith("arm64/")
    tree = tree_like("4.17", "arm64") if is_arm else request.getfixturevalue("xen_tree")
    farm = farms(tree)
    touched = apply_to(farm, tree, FOLDER / name / "fix.patch")
    try:
        sources = [path.removeprefix("xen/") for path in touched if path.endswith((".c", ".S"))]
        objects = {re.sub(r"\.[cS]$", ".o", path) for path in sources} | set(expected["objects"])
        differing = {path: difference_of(farm, tree, path, tmp_path) for path in sorted(objects)}
    finally:
        for path in touched:
            (farm / path).unlink()
            (farm / path).symlink_to(tree / path)
    assert sorted(path for path, names in differing.items() if names) == expected["objects"]
    if expected["verdict"] in {"refused", "boot-only"}:
        return
    code = {
        section for names in differing.values() for section in names if section.startswith(".text")
    }
    plain = {key: {item.split("#")[-1] for item in expected[key]} for key in LISTS}
    listed = plain["replaced"] | plain["new"] | plain["line_only"]
    assert {section.removeprefix(".text.") for section in code} <= listed
    for function in plain["replaced"]:
        assert f".text.{function}" in code, function
    sections = {section for names in differing.values() for section in names}
    assert {item for item in sections if HOOKS.match(item)} == set(expected["hooks"])


def difference_of(farm: Path, tree: Path, object_path: str, folder: Path) -> set[str]:
    """Return the sections in which the patched object differs from the unpatched one.

    Both are compiled here, by the same command. Relocations against strings carry the
    compiler's own label numbers, so only text that names something is compared.
    """
    before, after = folder / "before.o", folder / "after.o"
    compile_object(tree, tree, object_path, before)
    compile_object(farm, tree, object_path, after)
    bytes_before, bytes_after = sections_of(before), sections_of(after)
    relocs_before, relocs_after = relocations_of(before), relocations_of(after)
    found = set()
    for section in bytes_before.keys() | bytes_after.keys():
        is_moved = named(relocs_before.get(section)) != named(relocs_after.get(section))
        if is_moved or bytes_before.get(section) != bytes_after.get(section):
            found.add(section)
    strings = [item for item in found if ".str1" in item]
    for section in strings:
        owner = ".text" + section.removeprefix(".rodata").split(".str1")[0]
        if owner != ".text" and relocs_before.get(owner) and section in bytes_before:
            found.add(owner)
    return found


def named(relocations: list[str] | None) -> list[str]:
    """Drop what the compiler numbers freely."""
    return [re.sub(r"\.L\w+", ".L", line) for line in relocations or []]
