# SPDX-License-Identifier: Apache-2.0
"""Payloads on payloads, and payloads in the place of payloads, on the embedded core."""

from __future__ import annotations

import json
import shutil
from difflib import unified_diff
from typing import TYPE_CHECKING, Any

import pytest

from tests.kit.build import ROOT, Run, scons
from tests.xen.mutations import sections_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.scons, pytest.mark.toolchain]

CORE = ROOT / "tests" / "projects" / "core"
VERSION = "common/version.c"
OLD = '    return ".0-core";'
FIRST = (
    "unsigned int xen_minor_version(void)",
    """int stack_val = 3;
int stack_get(int n);
int noinline stack_get(int n)
{
    return stack_val += n;
}

unsigned int xen_minor_version(void)""",
)


class Series:
    """Patches of the core, each on top of the ones before."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.texts = folder, {VERSION: (CORE / VERSION).read_text()}

    def add(self, name: str, *edits: tuple[str, str], path: str = VERSION) -> Path:
        """Write a patch: texts by texts, in one file of the core as the patches before left it."""
        old = new = self.texts.get(path) or (CORE / path).read_text()
        for before, after in edits:
            assert new.count(before) == 1, before
            new = new.replace(before, after)
        self.texts[path] = new
        lines = unified_diff(
            old.splitlines(keepends=True), new.splitlines(keepends=True), f"a/{path}", f"b/{path}"
        )
        file = self.folder / f"{name}.patch"
        file.write_text("".join(lines))
        return file

    def prove(self, name: str, *patches: str, beneath: tuple[str, ...] = (), old: str = "") -> Run:
        """Run the whole way; payloads are named as the fix that made them."""
        given = {}
        if beneath:
            given["DEPENDS"] = " ".join(str(self.payload(one)) for one in beneath)
        if old:
            given["SUPERSEDES"] = str(self.payload(old))
        files = " ".join(str(self.folder / f"{patch}.patch") for patch in patches)
        return scons("xsplice-verify", self.folder / "b", PATCH=files, NAME=name, **given)

    def payload(self, name: str) -> Path:
        """Return the path of a payload."""
        return self.folder / "b" / name / f"{name}.livepatch"

    def read(self, name: str, kind: str) -> Any:
        """Return a record beside a payload."""
        return json.loads((self.folder / "b" / name / f"{name}.{kind}.json").read_text())

    def replaced(self, name: str) -> list[str]:
        """Return the functions that a payload replaces."""
        return sorted(row["name"] for row in self.read(name, "payload")["functions"])


@pytest.fixture
def series(tmp_path: Path) -> Series:
    made = Series(tmp_path)
    made.add(
        "one", FIRST, ("    return 17;", "    return stack_get(1);"), (OLD, OLD[:-2] + '-one";')
    )
    made.add("two", ("return stack_get(1)", "return stack_get(2) + 5"))
    made.add("three", ("stack_val += n", "stack_val += n + 1"))
    return made


def test_a_chain_of_three_replaces_what_each_patch_changes(series: Series) -> None:
    series.prove("one", "one").assert_success()
    series.prove("two", "one", "two", beneath=("one",)).assert_success()
    assert series.replaced("two") == ["xen_minor_version"]
    record = series.read("two", "payload")
    assert {item["kind"] for item in record["new"]} <= {"string"}
    assert "stack_get" in record["references"]
    assert record["depends"] == series.read("one", "payload")["build_id"]
    assert [patch["name"] for patch in record["patches"]] == ["one.patch", "two.patch"]
    series.prove("three", "one", "two", "three", beneath=("one", "two")).assert_success()
    assert series.replaced("three") == ["stack_get"]
    # The chain is given whole.
    run = series.prove("gap", "one", "two", "three", beneath=("two",))
    assert run.status != 0
    assert "give the whole chain, bottom first" in run.text


def test_a_fix_that_would_undo_the_one_beneath_is_refused(series: Series) -> None:
    series.prove("one", "one").assert_success()
    alone = Series(series.folder)
    alone.add("alone", (OLD, '    return ".0-alone";'))
    run = series.prove("alone", "alone", beneath=("one",))
    assert run.status == 4, run.text
    assert "without the patch of one.livepatch, so it would undo one.livepatch" in run.text
    assert 'PATCH="one.patch alone.patch"' in run.text
    assert "stands for" not in run.text
    # The patch has the name of the lower one's, and is another.
    shutil.copy(series.folder / "alone.patch", series.folder / "one.patch")
    run = series.prove("alone", "one", beneath=("one",))
    digest = series.read("one", "payload")["patches"][0]["sha256"]
    assert (run.status, 'PATCH="one.patch one.patch"' in run.text) == (4, True), run.text
    assert f"made of, whose digest in its record begins with {digest[:12]}" in run.text


def test_what_meets_nowhere_stacks_as_it_is(series: Series) -> None:
    series.prove("one", "one").assert_success()
    folder = ROOT / "xen-patches/regression/core/static-local"
    shutil.copy(folder / "fix.patch", series.folder / "apart.patch")
    text = (series.folder / "apart.patch").read_text()
    assert VERSION not in text
    series.prove("apart", "apart", beneath=("one",)).assert_success()
    assert [patch["name"] for patch in series.read("apart", "payload")["patches"]] == [
        "apart.patch"
    ]


def test_a_payload_beneath_without_its_record_is_held_against_its_patch(series: Series) -> None:
    series.prove("one", "one").assert_success()
    (series.folder / "b/one/one.payload.json").unlink()
    series.prove("two", "one", "two", beneath=("one",)).assert_success()
    run = series.prove("alone", "two", beneath=("one",))
    assert run.status != 0
    assert not series.payload("alone").exists()
    # Another file under that name, made of other sources.
    other = Series(series.folder)
    first = FIRST[1].replace("val += n", "val += n + 9")
    other.add("other", (FIRST[0], first), ("    return 17;", "    return stack_get(1);"),
              (OLD, OLD[:-2] + '-one";'))  # fmt: skip
    series.prove("other", "other").assert_success()
    shutil.copy(series.payload("other"), series.payload("one"))
    run = series.prove("two", "one", "two", beneath=("one",))
    assert run.status == 5, run.text
    text = (
        "stack_get: not what a rebuild has: before the fix: it is not replaced, and one.livepatch"
    )
    assert text in run.text


def test_a_payload_of_which_the_fix_reaches_nothing_is_held_against_its_patch_too(
    series: Series,
) -> None:
    """Without a record nothing says so; the objects of both patches are compiled."""
    folder = ROOT / "xen-patches/regression/core/static-local"
    shutil.copy(folder / "fix.patch", series.folder / "apart.patch")
    series.prove("one", "one").assert_success()
    (series.folder / "b/one/one.payload.json").unlink()
    series.prove("apart", "one", "apart", beneath=("one",)).assert_success()
    damaged = bytearray(series.payload("one").read_bytes())
    [text] = [s for s in sections_of(bytes(damaged)) if s.name == ".text"]
    damaged[text.offset] ^= 1
    series.payload("one").write_bytes(damaged)
    run = series.prove("apart", "one", "apart", beneath=("one",))
    assert run.status == 5, run.text
    assert "one.livepatch" in run.text
    assert "before the fix: " in run.text


def test_the_next_cumulative_payload_is_proved_as_an_upgrade(series: Series) -> None:
    series.prove("one", "one").assert_success()
    run = series.prove("plain", "one", "two")
    run.assert_success()
    run = series.prove("next", "one", "two", old="one").assert_success()
    texts = [row["text"] for row in series.read("next", "checks")["findings"]]
    assert any(text.endswith("are what a rebuild has") for text in texts), "the image alone"
    assert not any("on top of" in text for text in texts)
    assert "uploaded beside one, put in its place by replace; one unloaded" in run.out
    assert "next starts its own `stack_val`; the value in one is lost" in run.out
    # What only the old one did ends with it, which the sources must have meant.
    alone = Series(series.folder)
    alone.add("other", ("    return 4;", "    return 5;"))
    run = series.prove("other", "other", old="one")
    assert run.status == 5, run.text
    assert "`xen_extra_version` is replaced by one only" in run.text
    # So does what both replace, in sources that were not made of the old one's.
    alone = Series(series.folder)
    alone.add("common", ("    return 17;", "    return 18;"), (OLD, OLD[:-2] + '-two";'))
    run = series.prove("common", "common", old="one")
    assert run.status == 5, run.text
    assert "what one changed in `xen_minor_version` is given up" in run.text


def test_hooks_of_the_payload_beneath_stay_its_own(series: Series) -> None:
    hook = """static void on_load(void)
{
    stack_val = 7;
}
void (*xsplice_at_load)(void) __attribute__((section(".livepatch.hooks.load"), used)) = on_load;

"""
    name = "unsigned int xen_minor_version(void)"
    other = hook.replace("on_load", "on_more").replace("at_load", "at_more")
    hooked = Series(series.folder)
    brought = FIRST[1].replace(name, hook + name)
    hooked.add("hooked", (FIRST[0], brought), ("    return 17;", "    return stack_get(1);"))
    hooked.add("upper", (OLD, OLD[:-2] + '-two";'), ("return stack_get(1)", "return stack_get(2)"))
    hooked.add("more", (name, other + name))
    hooked.prove("hooked", "hooked").assert_success()
    hooked.prove("upper", "hooked", "upper", beneath=("hooked",)).assert_success()
    assert hooked.read("upper", "payload")["hooks"] == []
    assert hooked.replaced("upper") == ["xen_extra_version", "xen_minor_version"]
    hooked.prove("more", "hooked", "upper", "more", beneath=("hooked", "upper")).assert_success()
    assert hooked.read("more", "payload")["hooks"] == [".livepatch.hooks.load"]
    # Other code in the hook of a payload beneath, which has run already.
    hooked.add(
        "edited",
        (
            "    stack_val = 7;\n}\nvoid (*xsplice_at_load",
            "    stack_val = 8;\n}\nvoid (*xsplice_at_load",
        ),
    )
    files = ("hooked", "upper", "more", "edited")
    run = hooked.prove("edited", *files, beneath=("hooked", "upper", "more"))
    assert run.status == 5, run.text
    assert "a hook that the new objects have not, or once more" in run.text


def test_what_a_payload_beneath_changed_elsewhere_is_held(series: Series) -> None:
    """Its record is right by name; in an object that the fix does not reach it has other code."""
    path, old = "common/domain.c", "d->domain_id = next_domid++ & 0x7fff;"
    series.add("far", (old, old.replace("0x7fff", "0x3fff")), path=path)
    files = ("one", "far")
    series.prove("low", *files).assert_success()
    series.prove("two", *files, "two", beneath=("low",)).assert_success()
    assert "of 2 objects are what a rebuild has, on top of low" in json.dumps(
        series.read("two", "checks")
    )
    other = Series(series.folder)
    other.add("far2", (old, old.replace("0x7fff", "0x1fff")), path=path)
    patches = series.read("low", "payload")["patches"]
    series.prove("low", "one", "far2").assert_success()
    record = series.read("low", "payload") | {"patches": patches}
    series.payload("low").with_suffix(".payload.json").write_text(json.dumps(record))
    run = series.prove("two", *files, "two", beneath=("low",))
    assert run.status == 5, run.text
    assert "it is not replaced, and low.livepatch differs" in run.text


DOMCTL = "common/domctl.c"
TABLE = "common/domctl.c#domctl_ops"
READER = "    if ( arg < domctl_ops[cmd].min_arg )\n        return -EINVAL;", DOMCTL
#: What a payload beneath may change in a table: a number, a text, a function.
CELLS = {
    "number": [('"info", 4096', '"info", 8192')],
    "text": [('"pause", 0', '"hold", 0')],
    "function": [
        ('"pause", 0, op_pause', '"pause", 0, op_unpause'),
        ('"unpause", 0, op_unpause', '"unpause", 0, op_pause'),
    ],
}


def brought(series: Series, name: str) -> dict[str, bool]:
    """Return the data that a payload brings, and whether they are there already."""
    rows = series.read(name, "payload")["new"]
    return {row["name"]: row["is_again"] for row in rows if row["kind"] == "read-only data"}


@pytest.mark.parametrize("cell", CELLS)
def test_a_table_that_a_payload_beneath_changed_is_brought_again(series: Series, cell: str) -> None:
    """By its name it is the image's, with the old content."""
    reader, path = READER
    series.add("cell", *CELLS[cell], path=path)
    series.add("reader", (reader, reader.replace("EINVAL", "ENOENT")), path=path)
    series.prove("cell", "cell")  # not proved: its texts are passed on
    assert brought(series, "cell") == {TABLE: True}
    run = series.prove("reader", "cell", "reader", beneath=("cell",))
    assert "complete   held            1 replaced" in run.out, run.text
    assert brought(series, "reader") == {TABLE: True}
    assert TABLE not in series.read("reader", "payload")["references"]
    # Nothing tells without the record: nothing is made.
    (series.folder / "b/cell/cell.payload.json").unlink()
    run = series.prove("reader", "cell", "reader", beneath=("cell",))
    assert run.status == 4, run.text
    assert f"it reads `{TABLE}`, which xen-syms has with another content" in run.text
    assert not series.payload("reader").exists()


@pytest.mark.parametrize("is_first", [True, False])
def test_a_table_that_a_payload_beneath_changed_may_be_put_back(
    series: Series, *, is_first: bool
) -> None:
    """A copy with the image's own content is right there, and only there."""
    reader, path = READER
    cell = CELLS["number"]
    series.add("cell", *cell, path=path)
    lower = ["cell"]
    if not is_first:  # one in between brings it again, under no name
        series.add("reader", (reader, reader.replace("EINVAL", "ENOENT")), path=path)
        lower.append("reader")
    series.add("back", *((new, old) for old, new in cell), path=path)
    for number, name in enumerate(lower, 1):
        series.prove(name, *lower[:number], beneath=lower[: number - 1])
    run = series.prove("back", *lower, "back", beneath=lower)
    assert "complete   held            1 replaced" in run.out, run.text
    assert brought(series, "back") == {TABLE: True}


@pytest.mark.parametrize("is_recorded", [True, False])
def test_a_table_that_no_payload_beneath_changed_stays_the_image_s(
    series: Series, *, is_recorded: bool
) -> None:
    reader, path = READER
    series.add("beside", ("    d->max_pages = pages;", "    d->max_pages = pages & ~1;"), path=path)
    series.add("reader", (reader, reader.replace("EINVAL", "ENOENT")), path=path)
    series.prove("beside", "beside").assert_success()
    if not is_recorded:
        (series.folder / "b/beside/beside.payload.json").unlink()
    series.prove("reader", "beside", "reader", beneath=("beside",)).assert_success()
    assert brought(series, "reader") == {}
    assert TABLE in series.read("reader", "payload")["references"]


def test_a_table_of_a_payload_beneath_is_brought_again_only_where_that_was_changed(
    series: Series,
) -> None:
    """Its name leads to the first payload that brought it."""
    table = "static const char tiny[4] = { 1, 2, 3, 4 };\nint turn = 2;\n\n"
    made = Series(series.folder)
    made.add(
        "first",
        ("unsigned int xen_minor_version(void)", f"{table}unsigned int xen_minor_version(void)"),
        ("    return 17;", "    return tiny[++turn & 3];"),
    )
    made.add("same", ("& 3]", "& 3] + 1"))
    made.add("other", ("3, 4 }", "3, 9 }"))
    made.add("last", ("& 3] + 1", "& 3] + 2"))
    names = ("first", "same", "other", "last")
    for number, name in enumerate(names, 1):
        made.prove(name, *names[:number], beneath=names[: number - 1]).assert_success()
    found = [brought(made, name).get(f"{VERSION}#tiny") for name in names]
    assert found == [False, None, True, True]
    (made.folder / "b/other/other.payload.json").unlink()
    run = made.prove("last", *names, beneath=names[:-1])
    assert (run.status, "which first.livepatch has with another" in run.text) == (4, True), run.text


def test_what_a_payload_beneath_renamed_is_refused_by_the_name_that_nobody_has(
    series: Series,
) -> None:
    """The payload that renames it goes on with the old name, which a later one cannot know."""
    line = "unsigned int xen_minor_version(void)"
    made = Series(series.folder)
    made.add("first", (line, f"static int turn;\n\n{line}"), ("return 17;", "return ++turn;"))
    made.add("same", (OLD, "    return turn > 5 ? 0 : " + OLD.strip().removeprefix("return ")))
    made.add("name", ("static int turn;", "static int tour;"), ("++turn;", "++tour;"),
             ("turn > 5", "tour > 4"))  # fmt: skip
    made.add("last", ("tour > 4", "tour > 3"))
    made.prove("first", "first").assert_success()
    made.prove("same", "first", "same", beneath=("first",)).assert_success()
    names = ("first", "same", "name", "last")
    made.prove("name", *names[:3], beneath=names[:2]).assert_success()
    run = made.prove("last", *names, beneath=names[:3])
    assert run.status == 4, run.text
    assert "the sources had `common/version.c#tour` before this fix" in run.text
    assert "make one payload that takes their place, with SUPERSEDES" in run.text
    assert not made.payload("last").exists()


FLAGGED = (
    "unsigned int xen_minor_version(void)",
    """#define STACK_LATE 4
int stack_get(int *flags);
int noinline stack_get(int *flags)
{
    *flags |= STACK_LATE;
    return 1;
}
int stack_late(const int *flags);
int noinline stack_late(const int *flags)
{
    return *flags & STACK_LATE;
}

unsigned int xen_minor_version(void)""",
)


def test_what_the_superseded_one_stored_is_read_as_it_was_made(tmp_path: Path) -> None:
    """Nothing of the hypervisor has the flag: only objects that the old payload's functions met."""
    made = Series(tmp_path)
    made.add("one", FLAGGED, ("    return 17;", "    return 17 + !!stack_late(NULL);"))
    made.add("text", (OLD, OLD[:-2] + '-two";'))
    made.add("bit", ("STACK_LATE 4", "STACK_LATE 8"))
    made.prove("one", "one").assert_success()
    made.prove("next", "one", "text", old="one").assert_success()
    run = made.prove("last", "one", "text", "bit", old="one")
    assert run.status == 5, run.text
    assert "state that was made with `STACK_LATE` = 4" in run.text
    made.prove("alone", "one", "text", "bit").assert_success()


def test_objects_are_older_than_the_payloads_beneath(tmp_path: Path) -> None:
    """What one part of a series makes otherwise and a later one reads is no safer in two parts."""
    made = Series(tmp_path)
    path = "common/domain.c"
    made.add("maker", ("next_domid++ & 0x7fff;", "(next_domid++ & 0x7fff) + 1;"), path=path)
    made.add("text", (OLD, OLD[:-2] + '-two";'))
    made.add("reader", ("d->domain_id == domid )", "d->domain_id == domid + 1 )"), path=path)
    made.prove("maker", "maker").assert_success()
    run = made.prove("both", "maker", "reader")
    assert (run.status, "`domain_id` is made otherwise" in run.text) == (5, True), run.text
    made.prove("text", "maker", "text", beneath=("maker",)).assert_success()
    for name, beneath in (("second", ("maker",)), ("third", ("maker", "text"))):
        patches = [*beneath, "reader"]
        run = made.prove(name, *patches, beneath=beneath)
        assert run.status == 5, run.text
        assert "from before the payloads beneath: common/domain.c: `domain_id`" in run.text


def test_a_verdict_ends_with_the_record_of_what_is_superseded(series: Series) -> None:
    series.prove("one", "one").assert_success()
    series.prove("next", "one", "two", old="one").assert_success()
    record = series.folder / "b/one/one.payload.json"
    kept = record.read_bytes()
    record.unlink()
    run = series.prove("next", "one", "two", old="one")
    assert (run.status, "has no record" in run.text) == (5, True), run.text
    record.write_bytes(kept)
    series.prove("next", "one", "two", old="one").assert_success()
