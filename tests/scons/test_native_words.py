# SPDX-License-Identifier: Apache-2.0
"""A person's word for a fix of a project that SCons builds: by every way that a setting has."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.kit.native import FIX, IN_SRC, whole

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kit.native import Project

pytestmark = [pytest.mark.scons, pytest.mark.toolchain]

BOX = """\
struct box { unsigned long base; int count; };
struct box boxes[4];
int take(struct box *b, int n) { return n > b->count ? -1 : (b->count -= n); }
int plain(int a) { return a * 7; }
void _start(void) { for (;;) take(boxes, plain(1)); }
"""
MEMBER = {
    "src/one.c": (BOX[BOX.index("count; }") : BOX.index("?")],
                  BOX[BOX.index("count; }") : BOX.index("?")]
                  .replace("count; }", "count; int flag; }").replace("n >", "b->flag || n >")),
}  # fmt: skip
WORD = "LAYOUT:box.flag"
SECOND = (FIX % "").replace('"fix"', '"plain"').replace("#fix", "#plain")


def project(folder: Path, tail: str = "", front: str = "") -> Project:
    """Return a project whose fix asks for a word; ``plain.patch`` asks for none."""
    made = whole(folder, front + IN_SRC, tail, **{"src/one.c": BOX})
    made.patch(MEMBER)
    made.patch({"src/one.c": ("a * 7", "a * 9")}, name="plain.patch")
    return made


def edit(made: Project, old: str, new: str) -> None:
    """Change the SConstruct."""
    made.write("SConstruct", (made.folder / "SConstruct").read_text().replace(old, new))


def taken(made: Project) -> list[str]:
    """Return the words in the payload's record."""
    rows = json.loads((made.folder / "build/fix/fix.payload.json").read_text())["findings"]
    return [row["question"] for row in rows if row["severity"] == "accepted"]


def test_a_word_is_taken_from_environment_keyword_and_command_line(tmp_path: Path) -> None:
    made = project(tmp_path)
    assert f"ACCEPT={WORD} takes it on your word" in made.run("xsplice-verify", status=5).out
    made.run("xsplice", f"ACCEPT={WORD}")
    assert taken(made) == [WORD]
    for words in (f'accept="{WORD}"', f'accept=["{WORD}"]', f'accept=("{WORD}",)'):
        made.run("xsplice")
        assert taken(made) == [], "the word is gone"
        edit(made, 'release="4.17.5")', f'release="4.17.5", {words})')
        made.run("xsplice")
        assert taken(made) == [WORD], words
        edit(made, f", {words}", "")
    edit(made, "env.Xsplice(", f'env.Clone(ACCEPT="{WORD}").Xsplice(')
    assert "PROVED: fix" in made.run("xsplice-verify").out
    assert taken(made) == [WORD]


def test_a_project_may_take_all_settings_from_the_command_line(tmp_path: Path) -> None:
    made = project(tmp_path, front="variables = Variables(None, ARGUMENTS)\n"
                   "xsplice.add_variables(variables)\nvariables.Update(env)\n")  # fmt: skip
    made.run("xsplice", f"ACCEPT={WORD}", "SIGNER=none")
    assert taken(made) == [WORD]
    signed = json.loads((made.folder / "build/fix/fix.signature.json").read_text())
    assert signed["signer"] == "none"


def test_a_word_that_is_none_is_refused_by_every_way(tmp_path: Path) -> None:
    made = project(tmp_path)
    wrong = "LAYOUT:box.flg"
    assert (
        f"ACCEPT={wrong}: this fix does not ask for it; it asks for {WORD}"
        in made.run("xsplice", f"ACCEPT={wrong}", status=4).err
    )
    edit(made, 'release="4.17.5")', f'release="4.17.5", accept="{wrong}")')
    assert "does not ask for it" in made.run("xsplice", f"ACCEPT={WORD}", status=4).err
    edit(made, wrong, "flag")
    assert "ACCEPT=flag: no word is taken for it" in made.run("xsplice", status=2).err


def test_of_two_fixes_one_is_given_the_word(tmp_path: Path) -> None:
    made = project(tmp_path, SECOND)
    refused = made.run("xsplice", "-k", f"ACCEPT={WORD}", status=4)
    assert "this fix does not ask for it; it asks for nothing" in refused.err
    assert "give it to the one that asks: env.Xsplice(..., accept=)" in refused.err
    edit(made, '"#fix.patch",', f'"#fix.patch", accept="{WORD}",')
    out = made.run("xsplice-verify").out
    assert ("PROVED: fix" in out, "PROVED: plain" in out) == (True, True)
