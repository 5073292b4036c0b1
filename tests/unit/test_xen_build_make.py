# SPDX-License-Identifier: Apache-2.0
"""`make xsplice` in Xen's own tree: which words the tool gets, for what make was told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SERIES = sorted((Path(__file__).parents[2] / "xen-patches/xen-build").glob("*/*.patch"))
NAME = "+++ b/xen/scripts/Makefile.xsplice\n"


@pytest.fixture(params=SERIES, ids=[path.parent.name for path in SERIES])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a folder with the Makefile that the series adds, and a tool that repeats its words."""
    added = request.param.read_text().split(NAME)[1].split("\n", 1)[1].split("\n")
    lines = [line[1:] for line in added if line.startswith("+")]
    (tmp_path / "Makefile").write_text("\n".join(lines) + "\n")
    (tmp_path / "tool.py").write_text("import json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    (tmp_path / "fix.patch").write_text("")
    (tmp_path / "my own 'fix'.patch").write_text("")
    return tmp_path


def words(folder: Path, *given: str, patch: str = "fix.patch") -> tuple[list[str], list[str]]:
    """Return the patches and the options that the tool gets, without where the tree is."""
    done = subprocess.run(
        [
            *("make", "-s", "-C", folder, "xsplice", "XSPLICE_BUILD=y"),
            *(f"XSPLICE={sys.executable} tool.py", f"XSPLICE_PATCH={patch}", *given),
        ],
        env={k: v for k, v in os.environ.items() if not k.startswith("MAKE")} | {"Q": "@"},
        capture_output=True,
        text=True,
        check=True,
    )
    said = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("[")))
    start, end = said.index("--xen"), said.index("--out") + 2
    assert said[0] == "patch"
    rest = said[end:]
    if "--build" in rest:  # what 4.17 passes on is for 4.14's own build
        at = rest.index("--build")
        del rest[at : at + 2]
    return said[1:start], rest


def test_what_is_set_is_passed_on(folder: Path) -> None:
    given = ["XSPLICE_NAME=1", "XSPLICE_DEPENDS=a b", "XSPLICE_CERT=it's", "XSPLICE_LINE_NEUTRAL=1"]
    assert words(folder, *given) == (
        ["fix.patch"],
        ["--cert", "it's", "--depends", "a b", "--line-neutral", "--name", "1"],
    )


@pytest.mark.parametrize("value", ["", " "])
def test_what_is_empty_is_not(value: str, folder: Path) -> None:
    given = [f"XSPLICE_{name}={value}" for name in ("NAME", "SIGNER", "OPTIONS", "VERBOSE")]
    assert words(folder, *given) == (["fix.patch"], [])


@pytest.mark.parametrize("name", ["OPTION", "OPTIONS"])
def test_options_of_plugins_have_the_name_that_scons_gives_them(name: str, folder: Path) -> None:
    assert words(folder, f"XSPLICE_{name}=a=1 b=2")[1] == ["--option", "a=1 b=2"]


@pytest.mark.parametrize(
    ("value", "options"),
    [("yes", ["--verbose"]), ("no", []), ("0", []), ("perhaps", ["--verbose", "perhaps"])],
)
def test_a_switch_is_on_or_off_or_refused_by_the_tool(
    value: str, options: list[str], folder: Path
) -> None:
    assert words(folder, f"XSPLICE_VERBOSE={value}")[1] == options


@pytest.mark.parametrize(
    ("patch", "files"),
    [
        ("my own 'fix'.patch", ["my own 'fix'.patch"]),
        ("fix.patch other.patch", ["fix.patch", "other.patch"]),
        ("no such.patch", ["no", "such.patch"]),
    ],
)
def test_a_patch_may_have_blanks_in_its_name(patch: str, files: list[str], folder: Path) -> None:
    assert words(folder, patch=patch)[0] == files


def test_edited_sources_of_a_build_elsewhere_need_a_patch(folder: Path) -> None:
    """Only the build lies there, so nothing can be taken back in a copy."""
    done = subprocess.run(
        ["make", "-s", "-C", folder, "xsplice", "XSPLICE_BUILD=y", "XSPLICE=false"],
        env={k: v for k, v in os.environ.items() if not k.startswith("MAKE")} | {"Q": "@"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "set XSPLICE_PATCH" in done.stdout + done.stderr
    assert not (folder / ".xsplice" / "tree").exists()


def test_variables_of_git_lead_edited_sources_to_no_other_repository(
    folder: Path, tmp_path: Path
) -> None:
    """Git sets some for its hooks, and for what a rebase runs."""
    text = (folder / "Makefile").read_text()
    if ".PHONY: edited" not in text:
        pytest.skip("4.14's own build takes no edited sources")
    for name in ("one", "other"):
        place = tmp_path / name / "xen"
        place.mkdir(parents=True)
        (place / "Makefile").write_text(text)
        (place.parent / "Config.mk").write_text("# of all\n")
        (place / "lib.c").write_text(f"{name}\n")
        for deed in (["init", "-q"], ["add", "-Af"], ["commit", "-qm", "all"]):
            me = ("-c", "user.name=t", "-c", "user.email=t@example.org")
            subprocess.run(["git", *me, *deed], cwd=place.parent, check=True)
        (place / "lib.c").write_text(f"{name}, edited\n")
    subprocess.run(
        ["make", "-s", "-C", tmp_path / "one/xen", "xsplice", "XSPLICE=true"],
        env={k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
        | {"Q": "@", "GIT_DIR": str(tmp_path / "other/.git"), "GIT_DIFF_OPTS": "-u0"},
        check=True,
    )
    made = tmp_path / "one/xen/.xsplice"
    assert "+one, edited" in (made / "edited.patch").read_text()
    assert (made / "tree/xen/lib.c").read_text() == "one\n"
