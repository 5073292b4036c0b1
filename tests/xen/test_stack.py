# SPDX-License-Identifier: Apache-2.0
"""Payloads on payloads, and payloads in the place of payloads, for a built tree."""

from __future__ import annotations

import hashlib
import json
import random
from difflib import unified_diff
from pathlib import Path
from typing import Any

import pytest

from tests.kit.build import Run, scons
from tests.xen.right_payloads import addresses_of, image_of
from tests.xen.wrong_payloads import wrong_payloads
from xsplice_plugins import cli, pipeline
from xsplice_plugins.check.complete import check_payload
from xsplice_plugins.check.results import Beneath, NewObject
from xsplice_plugins.errors import XspliceError

pytestmark = pytest.mark.xen

VERSION = "xen/common/version.c"
EXTRA = "    return XEN_EXTRAVERSION;"
HEAD = "#include <xsplice.h>\n#include <xen/lib.h>\n"
CHAIN = {
    "s1": (
        "int lc_shared = 10;\nint lc_get(void);\n"
        "noinline int lc_get(void) { return lc_shared++; }\n"
        'static const char *n(void) { return lc_get() & 1 ? ".5-odd" : ".5-even"; }\n'
        'XSPLICE_REPLACE("xen_extra_version", n);\n'
    ),
    "s2": (
        "extern int lc_shared; int lc_get(void);\n"
        'static const char *n(void) { return lc_get() + lc_shared ? ".5-s2" : ""; }\n'
        'XSPLICE_REPLACE("xen_extra_version", n);\n'
    ),
    "s3": (
        "extern int lc_shared;\n"
        "static int n(void) { return lc_shared += 100; }\n"
        'XSPLICE_REPLACE("lc_get", n);\n'
    ),
    "s4": (
        "extern int lc_shared;\n"
        "static unsigned int n(void) { return lc_shared; }\n"
        'XSPLICE_REPLACE("xen_minor_version", n);\n'
    ),
}
FIRST = (
    ("const char *xen_extra_version(void)", EXTRA),
    (
        """int kp_val = 3;
int kp_get(int n);
int noinline kp_get(int n)
{
    printk("kp_get %d %d\\n", n, kp_val);
    return kp_val++;
}

const char *xen_extra_version(void)""",
        '    return kp_get(1) & 1 ? ".5-s1a" : ".5-s1b";',
    ),
)


class Bench:
    """One tree, one folder, and short ways to make payloads for it."""

    def __init__(self, tree: Path, folder: Path) -> None:
        self.tree, self.folder = tree, folder
        self.texts: dict[str, str] = {}

    def patch(
        self,
        name: str,
        old: tuple[str, ...],
        new: tuple[str, ...],
        *,
        on: str = "",
        path: str = VERSION,
    ) -> None:
        """Write a patch of one file, on top of another one."""
        before = self.texts.get(on) or (self.tree / path).read_text()
        after = before
        for was, now in zip(old, new, strict=True):
            assert after.count(was) == 1, was
            after = after.replace(was, now)
        self.texts[name] = after
        lines = unified_diff(before.splitlines(True), after.splitlines(True), path, path)  # noqa: FBT003
        (self.folder / f"{name}.patch").write_text("".join(lines).replace("--- ", "--- a/", 1)
                                                   .replace("+++ ", "+++ b/", 1))  # fmt: skip

    def payload(self, name: str) -> Path:
        """Return the path of a payload."""
        return self.folder / "b" / name / f"{name}.livepatch"

    def prove(self, name: str, *fix: str, beneath: tuple[str, ...] = (), old: str = "") -> Run:
        """Run the whole way."""
        kind = "HOTFIX" if fix[0].endswith(".c") else "PATCH"
        given = {kind: " ".join(str(self.folder / file) for file in fix)}
        if beneath:
            given["DEPENDS"] = " ".join(str(self.payload(one)) for one in beneath)
        if old:
            given["SUPERSEDES"] = str(self.payload(old))
        build = self.folder / "b"
        return scons("xsplice-verify", build, XEN=self.tree, NAME=name, **given)

    def by_hand(self, name: str, *beneath: str, old: str = "", text: str = "") -> Run:
        """Run the whole way for a hand-written payload."""
        (self.folder / f"{name}.c").write_text(HEAD + (text or CHAIN[name]))
        return self.prove(name, f"{name}.c", beneath=beneath, old=old)

    def record(self, name: str) -> Any:
        """Return the record of a payload."""
        return json.loads(self.payload(name).with_suffix(".payload.json").read_text())


@pytest.fixture
def bench(xen_tree: Path, tmp_path: Path) -> Bench:
    return Bench(xen_tree, tmp_path)


def test_names_of_every_payload_of_a_chain_are_known(bench: Bench) -> None:
    bench.by_hand("s1").assert_success()
    bench.by_hand("s2", "s1").assert_success()
    bench.by_hand("s3", "s1", "s2").assert_success()
    bench.by_hand("s4", "s1", "s2").assert_success()
    assert bench.record("s4")["depends"] == bench.record("s2")["build_id"]
    bench.by_hand("s4", "s1", "s2", "s3").assert_success()
    run = bench.by_hand("s4", "s2")
    assert run.status != 0
    assert "give the whole chain, bottom first" in run.text


def test_a_fix_on_a_fix_takes_from_it_what_it_brought(bench: Bench) -> None:
    bench.patch("s1", *FIRST)
    bench.patch("s2", ('".5-s1a"',), ('".5-s2a"',), on="s1")
    bench.prove("s1", "s1.patch").assert_success()
    bench.prove("s2", "s1.patch", "s2.patch", beneath=("s1",)).assert_success()
    record = bench.record("s2")
    assert [function["name"] for function in record["functions"]] == ["xen_extra_version"]
    assert "kp_get" in record["references"]
    assert not [item for item in record["new"] if item["kind"] != "string"]
    run = bench.prove("wrong", "s2.patch", "s1.patch", beneath=("s1",))
    assert run.status != 0
    assert "PATCH must begin with the patches of s1.livepatch" in run.text
    assert not bench.payload("wrong").exists()


def test_what_a_payload_beneath_changed_elsewhere_is_held_once_for_a_stack(bench: Bench) -> None:
    """The fix does not reach the object; a function of it beneath is not what its patch says."""
    dead = "    t->is_dead = 1;\n"
    bench.patch("s1", *FIRST)
    bench.patch(
        "more", (dead,), (dead + "    t->scheduled_on = 4711;\n",), path="xen/common/tasklet.c"
    )
    for name, text in (("s2", '".5-s2a"'), ("s3", '".5-s3a"')):
        bench.patch(name, ('".5-s1a"',), (text,), on="s1")
    bench.prove("s1", "s1.patch", "more.patch").assert_success()
    fixes = [(name, "s1.patch", "more.patch", f"{name}.patch") for name in ("s2", "s3")]
    first, second = (bench.prove(*fix, beneath=("s1",)).assert_success().out for fix in fixes)
    assert "untouched functions of 2 objects are what a rebuild has, on top of s1" in first
    assert (first.count("/lower-"), second.count("/lower-")) == (3, 0), "compiled once"
    path = bench.payload("s1")
    data = path.read_bytes()
    assert data.count((4711).to_bytes(4, "little")) == 1
    data = data.replace((4711).to_bytes(4, "little"), (4712).to_bytes(4, "little"))
    path.write_bytes(data)
    record = bench.record("s1")
    record["digest"] = hashlib.sha256(data[: record["size_bytes"]]).hexdigest()
    path.with_suffix(".payload.json").write_text(json.dumps(record))
    run = bench.prove(*fixes[1], beneath=("s1",))
    assert run.status == 5, run.text
    assert "tasklet_kill: not what a rebuild has" in run.text


def test_a_header_that_offsets_for_assembler_are_made_from_may_change_in_a_stack(
    bench: Bench,
) -> None:
    """They are no object, so they are judged as those of a single fix; another offset shows."""
    header, end = "xen/include/xen/multiboot2.h", "} multiboot2_tag_basic_meminfo_t;"
    bench.patch("s1", *FIRST)
    bench.patch("s2", ('".5-s1a"',), ('".5-s2a"',), on="s1")
    more = "\nstatic inline int s2_unused(void) { return 2; }\n"
    bench.patch("header", (end,), (end + more,), path=header)
    bench.prove("s1", "s1.patch").assert_success()
    run = bench.prove("s2", "s1.patch", "s2.patch", "header.patch", beneath=("s1",))
    run.assert_success()
    judged = bench.folder / "b/s2/beneath/asm-offsets.s.xsplice.pair.json"
    assert not json.loads(judged.read_text())["refused"]
    # The payload beneath has no record; the patch that is named for it moves an offset.
    fields = ("    u32 mem_lower;\n", "    u32 mem_upper;\n")
    was = "".join(fields) + end
    bench.patch("moved", (was,), ("".join(reversed(fields)) + end,), path=header)
    with (bench.folder / "s1.patch").open("a") as both:
        both.write((bench.folder / "moved.patch").read_text())
    bench.payload("s1").with_suffix(".payload.json").unlink()
    run = bench.prove("s2", "s1.patch", "s2.patch", beneath=("s1",))
    assert run.status == 5, run.text
    assert "asm-offsets.s: the patches of the payloads beneath change it" in run.text


def test_a_wrong_payload_on_another_or_beneath_is_caught(bench: Bench) -> None:
    bench.patch("s1", *FIRST)
    bench.patch("s2", ('".5-s1a"',), ('".5-s2a"',), on="s1")
    bench.prove("s1", "s1.patch").assert_success()
    bench.prove("s2", "s1.patch", "s2.patch", beneath=("s1",)).assert_success()
    objects = bench.folder / "b/s2/objects/common"
    row = NewObject(
        path="common/version.o",
        new=(objects / "version.o.xsplice.new").read_bytes(),
        baseline=(objects / "version.o.xsplice.baseline").read_bytes(),
        plain=(bench.tree / "xen/common/version.o").read_bytes(),
    )
    facts = pipeline.base_of_tree(bench.tree).facts
    assert facts is not None
    image = image_of(bench.tree, facts)
    lower, upper = (bench.payload(n).with_suffix(".livepatch.unsigned").read_bytes()
                    for n in ("s1", "s2"))  # fmt: skip

    def is_held(below: bytes, data: bytes) -> bool:
        try:
            return check_payload(image, data, [row], facts, [Beneath(name="s1", data=below)]).held
        except XspliceError:
            return False

    assert is_held(lower, upper)
    dice = random.Random(1)  # noqa: S311  # cases, not secrets
    tried = 0
    for wrong in wrong_payloads(upper, addresses_of(image), dice, 4):
        assert not is_held(lower, wrong.data), ("upper", wrong.kind, wrong.name)
        tried += 1
    for wrong in wrong_payloads(lower, addresses_of(image), dice, 4):
        assert not is_held(wrong.data, upper), ("lower", wrong.kind, wrong.name)
        tried += 1
    assert tried > 50


def test_lines_that_each_payload_moved_are_no_change(bench: Bench) -> None:
    """Both patches move the lines of functions with bug frames that the second leaves alone."""
    head, path = "#include <xen/init.h>\n", "xen/common/tasklet.c"
    moved = "/*\n * moved\n */\n" + head
    dead = "    t->is_dead = 1;\n"
    bench.patch("p1", (head, dead), (moved, dead + "    t->data = NULL;\n"), path=path)
    data = "    t->data = data;\n"
    bench.patch("p2", (head, data), (moved, data + "    t->is_dead = !func;\n"), on="p1", path=path)
    bench.prove("p1", "p1.patch").assert_success()
    bench.prove("p2", "p1.patch", "p2.patch", beneath=("p1",)).assert_success()


def test_a_fix_that_lacks_the_one_beneath_is_refused(bench: Bench) -> None:
    bench.patch("A", (EXTRA,), ('    return ".5-A";',))
    bench.patch("B", (EXTRA,), ('    return ".5-B";',))
    bench.prove("A", "A.patch").assert_success()
    run = bench.prove("B", "B.patch", beneath=("A",))
    assert run.status == 4, run.text
    assert "it would undo A.livepatch" in run.text
    assert 'PATCH="A.patch B.patch"' in run.text
    # Another function of the same file would be compiled with the old text of the first, too.
    bench.patch("C", ("    return XEN_SUBVERSION;",), ("    return 18;",))
    assert bench.prove("C", "C.patch", beneath=("A",)).status == 4


def test_a_fix_on_one_that_only_make_can_build(bench: Bench) -> None:
    make = (bench.tree / "xen/common/Makefile").read_text()
    line = "obj-y += version.o\n"
    bench.patch("E", *FIRST)
    own = (bench.folder / "E.patch").read_text()
    lines = unified_diff(
        make.splitlines(keepends=True),
        make.replace(line, line + "obj-y += added.o\n").splitlines(keepends=True),
        "a/xen/common/Makefile",
        "b/xen/common/Makefile",
    )
    added = (
        "--- /dev/null\n+++ b/xen/common/added.c\n@@ -0,0 +1 @@\n+int added(void) { return 1; }\n"
    )
    (bench.folder / "E.patch").write_text(own + "".join(lines) + added)
    bench.patch("F", ('".5-s1a"',), ('".5-s2a"',), on="E")
    bench.prove("E", "E.patch").assert_success()
    run = bench.prove("F", "E.patch", "F.patch", beneath=("E",)).assert_success()
    assert "  MAKE " in run.out
    record = bench.record("F")
    assert [function["name"] for function in record["functions"]] == ["xen_extra_version"]
    assert not [item for item in record["new"] if item["kind"] != "string"]


def test_the_next_cumulative_payload_is_proved_as_an_upgrade(bench: Bench) -> None:
    bench.patch("n1", *FIRST)
    bench.patch("n2", ("kp_get(1)",), ("kp_get(2)",), on="n1")
    bench.prove("n1", "n1.patch").assert_success()
    run = bench.prove("n2", "n1.patch", "n2.patch", old="n1").assert_success()
    assert "uploaded beside n1, put in its place by replace; n1 unloaded" in run.out
    assert "n2 starts its own `kp_val`; the value in n1 is lost" in run.out
    notes = bench.record("n2")["notes"]
    assert any(note.startswith("`kp_get` is called `kp_get.") for note in notes)


def test_an_upgrade_that_undoes_a_fix_of_the_same_function_is_not_proved(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.patch("k1", (EXTRA,), ('    return XEN_EXTRAVERSION "-one";',))
    bench.patch("k2", (EXTRA,), ('    return XEN_EXTRAVERSION "-two";',))
    bench.prove("k1", "k1.patch").assert_success()
    run = bench.prove("k2", "k2.patch", old="k1")
    assert run.status == 5, run.text
    assert "not checked: stack: what k1 changed in `xen_extra_version` is given up" in run.text
    words = ["verify", str(bench.payload("k2")), "--supersedes", str(bench.payload("k1"))]
    words += ["--xen-syms", str(bench.tree / "xen/xen-syms"), "--signer", "none"]
    assert cli.main([*words, "--out", str(bench.folder / "k2.json")]) == 5
    assert "what k1 changed in `xen_extra_version` is given up" in capsys.readouterr().out
    hooks = "static void cf_check off(void) { }\nXSPLICE_UNLOAD_HOOK(off);\n"
    bench.by_hand("hooks", text=hooks).assert_success()
    run = bench.prove("k3", "k2.patch", old="hooks")
    assert run.status == 5, run.text
    assert "the hooks of hooks (unload) run no more" in run.text
    # Who writes a payload by hand says what it does.
    text = 'static const char *n(void) { return "by hand"; }\nXSPLICE_REPLACE("%s", n);\n'
    run = bench.by_hand("own", old="k1", text=text % "xen_extra_version").assert_success()
    assert "warning: what k1 changed in `xen_extra_version` is given up" in run.text


def test_a_replace_that_fails_leaves_the_host_unpatched_and_says_so(bench: Bench) -> None:
    good = 'static unsigned int n(void) { return 66; }\nXSPLICE_REPLACE("xen_minor_version", n);\n'
    bench.by_hand("v2", text=good).assert_success()
    bad = good + 'XSPLICE_EXPECT("xen_minor_version", 0xe9);\n'
    run = bench.by_hand("bad", old="v2", text=bad)
    assert run.status == 5, run.text
    assert "v2 reverted, bad not applied: the host is unpatched" in run.text
