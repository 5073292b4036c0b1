# SPDX-License-Identifier: Apache-2.0
"""Zero-fuzz application: what fits, what does not, and what the message names."""

from __future__ import annotations

import random
import shutil
import subprocess
from difflib import unified_diff
from typing import TYPE_CHECKING

import pytest

from xsplice_plugins.errors import PatchError
from xsplice_plugins.patch.applying import apply_changes, stripped
from xsplice_plugins.patch.parsing import parse, render

if TYPE_CHECKING:
    from pathlib import Path


def applied(content: bytes, text: str) -> bytes | None:
    """Apply a diff of ``f`` to a content."""
    files: dict[str, bytes | None] = {}
    changes = [stripped(change, 1) for change in parse(text, "fix.patch")]
    apply_changes(changes, files, {"f": content}.get, "fix.patch")
    return files["f"]


def diff(old: str, new: str, context: int = 3) -> str:
    """Return a unified diff, with the mark that difflib leaves out."""
    lines = []
    for line in unified_diff(
        old.splitlines(keepends=True), new.splitlines(keepends=True), "a/f", "b/f", n=context
    ):
        end = "" if line.endswith("\n") else "\n\\ No newline at end of file\n"
        lines.append(line + end)
    return "".join(lines)


TEN = "".join(f"line {number}\n" for number in range(10))


def test_a_moved_hunk_is_applied_where_it_fits() -> None:
    text = diff(TEN, TEN.replace("line 5", "LINE 5"))
    assert (
        applied(("before\n" * 7 + TEN).encode(), text)
        == ("before\n" * 7 + TEN.replace("line 5", "LINE 5")).encode()
    )


def test_a_hunk_that_fits_twice_and_not_at_its_line_is_refused() -> None:
    """A nearest match could be the twin of the function that was meant."""
    text = diff(TEN, TEN.replace("line 5", "LINE 5"))
    with pytest.raises(PatchError, match=r"fix.patch: f: hunk 1 .* found in 2 other places"):
        applied(("before\n" + TEN + TEN).encode(), text)


def test_fuzz_is_refused_and_the_line_is_shown() -> None:
    text = diff(TEN, TEN.replace("line 5", "LINE 5"))
    with pytest.raises(
        PatchError,
        match=r"fix.patch: f: hunk 1 \(line 3\) does not apply: line 4 is `line three`, "
        r"expected `line 3`",
    ):
        applied(TEN.replace("line 3", "line three").encode(), text)


def test_the_second_hunk_is_named() -> None:
    long = "".join(f"line {number}\n" for number in range(40))
    text = diff(long, long.replace("line 5\n", "LINE 5\n").replace("line 30", "LINE 30"))
    with pytest.raises(PatchError, match=r"hunk 2 \(line 28\) does not apply: line 32 is"):
        applied(long.replace("line 31", "line thirty-one").encode(), text)


def test_the_end_of_the_file_is_named() -> None:
    text = diff(TEN, TEN.replace("line 9", "LINE 9"))
    with pytest.raises(PatchError, match="is the end of the file, expected"):
        applied(b"line 6\n", text)


def test_other_line_endings_are_named() -> None:
    text = diff(TEN, TEN.replace("line 5", "LINE 5"))
    with pytest.raises(PatchError, match="has other line endings than the patch"):
        applied(TEN.replace("\n", "\r\n").encode(), text)


def test_a_missing_final_newline_is_kept_apart() -> None:
    assert applied(b"a\nb", diff("a\nb", "a\nc")) == b"a\nc"
    assert applied(b"a\nb", diff("a\nb", "a\nb\n")) == b"a\nb\n"
    with pytest.raises(PatchError, match="hunk 1"):
        applied(b"a\nb\n", diff("a\nb", "a\nc"))


def test_an_empty_context_line_may_have_lost_its_space() -> None:
    text = diff("a\n\nb\n", "a\n\nc\n").replace("\n \n", "\n\n")
    assert applied(b"a\n\nb\n", text) == b"a\n\nc\n"


def test_deletion_must_take_every_line() -> None:
    text = "--- a/f\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n"
    assert applied(b"a\n", text) is None
    with pytest.raises(PatchError, match="lines are left over"):
        applied(b"a\nb\n", text)


@pytest.mark.parametrize("seed", range(20))
def test_random_edits_agree_with_patch(seed: int, tmp_path: Path) -> None:
    """The oracle is the program `patch` with ``--fuzz=0``."""
    program = shutil.which("patch")
    if program is None:
        pytest.skip("the program patch is not installed")
    dice = random.Random(seed)  # noqa: S311  # reproducible, not secret
    old = [f"{dice.randrange(8)}\n" for _ in range(60)]
    new = list(old)
    for _ in range(dice.randrange(1, 6)):
        place = dice.randrange(len(new))
        new[place : place + dice.randrange(3)] = [f"new {dice.randrange(8)}\n"] * dice.randrange(3)
    if new == old:
        return
    text = diff("".join(old), "".join(new), context=dice.randrange(4))
    (tmp_path / "f").write_text("".join(old))
    subprocess.run(
        [program, "-p1", "--fuzz=0", "-s"], cwd=tmp_path, input=text, text=True, check=True
    )
    assert applied("".join(old).encode(), text) == (tmp_path / "f").read_bytes()
    assert parse(render(tuple(stripped(c, 1) for c in parse(text, "a"))), "a") == parse(text, "a")
