# SPDX-License-Identifier: Apache-2.0
"""The core's regression hot-patches: their expectations, held against a full rebuild."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.core_machine import probe
from tests.kit.core_objects import compare

PROJECT = Path(__file__).resolve().parent / "core"
PATCHES = Path(__file__).resolve().parents[2] / "xen-patches" / "regression" / "core"
NAMES = sorted(folder.name for folder in PATCHES.iterdir())
KEYS = {"schema", "verdict", "replaced", "new", "line_only", "refused", "hooks", "effect"}
UNPATCHED = ("refused", "boot-only")
CODES = {"DATA_VALUE", "LAYOUT", "ASSEMBLER", "PERCPU"}

pytestmark = [pytest.mark.toolchain, pytest.mark.scons]


def build(root: Path) -> Path:
    """Build the core in ``root`` with SCons; return its build folder."""
    done = subprocess.run(
        [sys.executable, "-m", "SCons", "-Q", "-s", "-C", root],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return root / "build"


def expected(name: str) -> dict[str, object]:
    """Return a hot-patch's expectations."""
    return dict(json.loads((PATCHES / name / "expected.json").read_text()))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a built copy of the core."""
    root = tmp_path_factory.mktemp("pristine") / "core"
    shutil.copytree(PROJECT, root, ignore=shutil.ignore_patterns("build"))
    build(root)
    return root


@pytest.fixture
def patched(request: pytest.FixtureRequest, pristine: Path, tmp_path: Path) -> Path:
    """Return a copy of the core, patched with zero fuzz and built anew."""
    root = tmp_path / "core"
    shutil.copytree(pristine, root)
    patch = PATCHES / request.param / "fix.patch"
    subprocess.run(
        ["patch", "-p1", "-F0", "--no-backup-if-mismatch", "-d", root, "-i", patch],
        check=True,
        capture_output=True,
    )
    build(root)
    return root


def c_sources() -> list[str]:
    """Return the core's C sources relative to its root."""
    return sorted(path.relative_to(PROJECT).as_posix() for path in PROJECT.rglob("*.c"))


@pytest.mark.parametrize("name", NAMES)
def test_expectations_are_complete(name: str) -> None:
    wanted = expected(name)
    assert wanted.keys() == KEYS
    assert wanted["schema"] == 1
    assert (wanted["verdict"] == "refused") == bool(wanted["refused"])
    assert (wanted["verdict"] == "accepted") == bool(wanted["replaced"])
    assert set(wanted["refused"]) <= CODES
    assert (wanted["verdict"] == "accepted") == bool(wanted["effect"])
    for probed in wanted["effect"]:
        assert probed["before"] == probed["after"], "a revert must bring the old answer back"
    if wanted["effect"]:
        assert any(probed["before"] != probed["during"] for probed in wanted["effect"])


@pytest.mark.parametrize(
    ("name", "patched"),
    [(name, name) for name in NAMES if not name.startswith(UNPATCHED)],
    indirect=["patched"],
    ids=[name for name in NAMES if not name.startswith(UNPATCHED)],
)
def test_expectations_are_what_a_full_rebuild_shows(
    name: str, pristine: Path, patched: Path
) -> None:
    wanted = expected(name)
    change = compare(pristine / "build", patched / "build", c_sources())
    assert sorted(change.replaced) == wanted["replaced"]
    assert sorted(change.new) == wanted["new"]
    assert sorted(change.line_only) == wanted["line_only"]
    assert sorted(change.hooks) == wanted["hooks"]
    for entry in wanted["effect"]:
        question = entry["probe"], entry["args"], entry["type"]
        assert probe(pristine / "build" / "xen-syms", *question) == entry["before"], entry
        if not wanted["hooks"]:  # a hook runs in a payload, not in a rebuilt image
            assert probe(patched / "build" / "xen-syms", *question) == entry["during"], entry


@pytest.mark.parametrize(
    "patched", [name for name in NAMES if name.startswith(UNPATCHED)], indirect=True
)
def test_what_is_not_patched_does_change_the_image(pristine: Path, patched: Path) -> None:
    """It is refused, or waits for boot, for what it does; it does something, and compiles."""
    images = [loadable(root / "build" / "xen-syms") for root in (pristine, patched)]
    assert images[0] != images[1]


def loadable(image: Path) -> str:
    """Return the hex dump of what is in memory, build-id and headers aside."""
    sections = (".text", ".rodata", ".init.text", ".init.data", ".data")
    return subprocess.run(
        ["objdump", "-s", *(word for name in sections for word in ("-j", name)), image],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\n", 2)[2]
