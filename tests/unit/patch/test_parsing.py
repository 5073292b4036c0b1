# SPDX-License-Identifier: Apache-2.0
"""Headers of unified diffs as different programs write them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from xsplice_plugins.errors import PatchError
from xsplice_plugins.patch.applying import stripped
from xsplice_plugins.patch.parsing import parse, render


@pytest.mark.parametrize(
    "stamp", ["1970-01-01 00:00:00.000000000 +0000", "1969-12-31 19:00:00 -0500"]
)
def test_epoch_stamps_of_diff_n_mean_that_a_file_is_not_there(stamp: str) -> None:
    text = f"--- a/new.c\t{stamp}\n+++ b/new.c\t2026-01-02 03:04:05 +0000\n@@ -0,0 +1 @@\n+int x;\n"
    (change,) = parse(text, "fix.patch")
    assert change.path_old is None
    assert change.path_new == "b/new.c"
    text = f"--- a/old.c\t2026-01-02 03:04:05 +0000\n+++ b/old.c\t{stamp}\n@@ -1 +0,0 @@\n-int x;\n"
    (change,) = parse(text, "fix.patch")
    assert change.path_old == "a/old.c"
    assert change.path_new is None


HUNK = "@@ -1 +1 @@\n-int x;\n+int y;\n"
MAIL = f"""\
From 0123456789012345678901234567890123456789 Mon Sep 17 00:00:00 2001
From: dev@example.org
Subject: [PATCH v2 1/1] xen: say
 something --- with dashes

--- not a file
+++ also not a file
This is a message with
diff --git a/foo b/foo
mentioned in it.

---
Changes since v1:
 - none
---
 x.c | 2 +-

diff --git a/x.c b/x.c
index d320135208..c1b2b2b2b2 100644
--- a/x.c\t2026-11-25 16:42:56.310151186 +0000
+++ b/x.c\t2026-11-25 16:42:56.312892896 +0000
{HUNK}-- \n2.39.2

"""
FORMS = {
    "mail": (MAIL, "x.c"),
    "quoted": (f'--- "a/x.c"\n+++ "b/x.c"\n{HUNK}', "x.c"),
    "octal": (f'--- "a/\\303\\244.c"\n+++ "b/\\303\\244.c"\n{HUNK}', "ä.c"),
    "escapes": (f'--- "a/q\\"b\\\\.c"\n+++ "b/q\\"b\\\\.c"\n{HUNK}', 'q"b\\.c'),
    "space": (f"--- a/a b.c\t\n+++ b/a b.c\t\n{HUNK}", "a b.c"),
}


@pytest.mark.parametrize("form", FORMS)
def test_names_and_mails_are_read_as_git_reads_them(form: str, tmp_path: Path) -> None:
    text, name = FORMS[form]
    (change,) = parse(text, "fix.patch")
    assert (change.path_old, change.path_new) == (f"a/{name}", f"b/{name}")
    assert len(change.hunks) == 1
    canonical = render((stripped(change, 1),))
    assert parse(canonical, "again") == (change,)
    # git itself stumbles over the mail's "diff --git" line, `git am` cuts the text off before.
    for patch in (canonical,) if form == "mail" else (text, canonical):
        (tmp_path / name).write_text("int x;\n")
        subprocess.run(["git", "apply", "-"], input=patch.encode(), cwd=tmp_path, check=True)
        assert (tmp_path / name).read_text() == "int y;\n"


@pytest.mark.parametrize("names", ["a/x.c b/x.c", 'a/"x.c b/"x.c', "a/a b.c b/a b.c"])
def test_a_change_of_the_mode_alone_names_its_file_and_changes_no_text(names: str) -> None:
    (change,) = parse(f"diff --git {names}\nold mode 100644\nnew mode 100755\n", "fix.patch")
    assert change.path_old == names[: len(names) // 2]
    assert change.path_new == names[len(names) // 2 + 1 :]
    assert change.hunks == ()


def test_a_rename_is_read_with_quoted_names() -> None:
    text = 'diff --git a/x b/y\nsimilarity index 100%\nrename from x\nrename to "\\303\\244"\n'
    (change,) = parse(text, "fix.patch")
    assert (change.path_old, change.path_new, change.is_copy) == ("a/x", "b/ä", False)


GIT = "diff --git a/x b/x\n"
LONG = "9" * 5000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{GIT}rename to y\n", "one of `rename from` and `rename to` is missing"),
        (f"{GIT}rename from y\n", "one of `rename from` and `rename to` is missing"),
        (f"{GIT}copy to y\n", "one of `copy from` and `copy to` is missing"),
        ("diff --git a/x b/yy\nold mode 1\nnew mode 2\n", "does not name one file twice"),
        (f"--- a/x\n+++ b/x\n@@ -{LONG} +1 @@\n-a\n+b\n", "without a hunk"),
        (f"--- a/x\n+++ b/x\n{HUNK}@@ -1,{LONG} +1 @@\n-a\n", "no readable hunk header"),
        (f"--- a/x\n+++ b/x\n{HUNK}@@ -x +1 @@\n-a\n+b\n", "no readable hunk header"),
        (f"--- a/x\n+++ b/x\n--- a/y\n+++ b/y\n{HUNK}", "a/x|b/x: a file header without a hunk"),
        (f"{GIT}index 1..2\n--- a/x\n+++ b/x\ntext\n", "without a hunk"),
        (f'--- "a/x\\n"\n+++ "b/x\\n"\n{HUNK}', "quoted file name"),
        (f'--- "a/x\n+++ "b/x\n{HUNK}', "quoted file name"),
        (f'--- "\n+++ "b/x"\n{HUNK}', "quoted file name"),
    ],
)
def test_damaged_headers_are_refused(text: str, message: str) -> None:
    with pytest.raises(PatchError, match=message):
        parse(text, "fix.patch")
