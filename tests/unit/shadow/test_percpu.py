# SPDX-License-Identifier: Apache-2.0
"""A new per-CPU variable becomes an array of the payload's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit.tiny_tree import TinyTree
from xsplice_plugins import cli
from xsplice_plugins.errors import CaptureError, ConfigError, RefusedError
from xsplice_plugins.kbuild.tree import locate_tree
from xsplice_plugins.patch import patched_files
from xsplice_plugins.shadow import Rewritten, percpu_fix

pytestmark = pytest.mark.toolchain

FILE, HEADER = "xen/common/user.c", "xen/include/xen/percpu.h"
PERCPU = """#pragma once
#define NR_CPUS 4
int smp_processor_id(void);
extern unsigned long offsets[NR_CPUS];
#define DEFINE_PER_CPU(type, name) __typeof__(type) per_cpu__##name
#define DECLARE_PER_CPU(type, name) extern __typeof__(type) per_cpu__##name
#define per_cpu(name, cpu) \\
    (*(__typeof__(&per_cpu__##name))((char *)&per_cpu__##name + offsets[cpu]))
#define this_cpu(name) per_cpu(name, smp_processor_id())
"""
USER = """#include <xen/lib.h>
#include <xen/percpu.h>
DEFINE_PER_CPU(int, known);
int user(int n)
{
    int calls = this_cpu(known);

    return twice(n) + calls;
}
"""
DEFINED = (FILE, "int user(", "static DEFINE_PER_CPU(int[2], calls);\nint user(")
USED = (
    FILE,
    "return twice(n)",
    "per_cpu(calls, n + 1)[0] = this_cpu(calls)[1];\n    return twice(n)",
)


@pytest.fixture
def tree(tmp_path: Path) -> TinyTree:
    tiny = TinyTree(tmp_path / "tree", flags="-Wall -Werror")
    (tiny.root / HEADER).write_text(PERCPU)
    (tiny.root / FILE).write_text(USER)
    with (tiny.root / "xen/common/version.c").open("a") as file:
        file.write("unsigned long offsets[4];\nint smp_processor_id(void) { return 0; }\n")
    tiny.build()
    return tiny


def made(
    tree: TinyTree, *edits: tuple[str, str, str], names: str = "calls", start: str = ""
) -> tuple[Rewritten, str]:
    """Write a fix of some edits again; return it, and the file as it is with it."""
    done = percpu_fix(locate_tree(tree.root), tree.patch(*edits), names.split(), start)
    files = patched_files(tree.patch_text(done.text), tree.root)
    return done, (files[FILE] or b"").decode()


def test_the_variable_and_its_uses_are_of_an_array(tree: TinyTree) -> None:
    before = {path: path.read_bytes() for path in tree.root.rglob("*") if path.is_file()}
    done, text = made(tree, DEFINED, USED)
    assert "static __typeof__(int[2]) xsplice_calls[NR_CPUS];\n" in text
    assert "xsplice_calls[n + 1][0] = xsplice_calls[smp_processor_id()][1];\n" in text
    assert "int calls = this_cpu(known);" in text, "a local of that name is another thing"
    assert done.notes[0].endswith("uses: 2")
    assert {path: path.read_bytes() for path in before} == before, "the tree is not touched"


def test_other_files_are_told_of_it(tree: TinyTree) -> None:
    declared = (HEADER, "#define NR_CPUS 4\n", "#define NR_CPUS 4\n")
    shared = (HEADER, "#define this_cpu", "DECLARE_PER_CPU(int, calls);\n#define this_cpu")
    define = (FILE, "int user(", "DEFINE_PER_CPU(int, calls);\nint user(")
    done, _ = made(tree, declared, shared, define)
    assert "+extern __typeof__(int) xsplice_calls[NR_CPUS];\n" in done.text


@pytest.mark.parametrize(
    ("edit", "names", "error", "words"),
    [
        (("return twice(n)", "return twice(n) + 1"), "known", RefusedError, "is there without"),
        (("return twice(n)", "return twice(n) + 1"), "calls", RefusedError, "defines no such"),
        (("return twice(n)", "return *&get_per_cpu_var(calls) + twice(n)"), "calls", RefusedError,
         "`get_per_cpu_var` names `calls`"),
        (("return twice(n)", "return per_cpu__calls[0] + twice(n)"), "calls", CaptureError,
         "does not compile"),
        (("return twice(n)", "return twice(n) + 1"), "a b", RefusedError, "defines no such"),
        (("return twice(n)", "return twice(n) + 1"), "1a", ConfigError, "no name"),
    ],
)  # fmt: skip
def test_what_no_array_can_serve_is_refused(
    tree: TinyTree, edit: tuple[str, str], names: str, error: type[Exception], words: str
) -> None:
    edits = [(FILE, *edit)]
    if "calls" in edit[1]:
        edits.insert(0, DEFINED)
    with pytest.raises(error, match=words):
        made(tree, *edits, names=names)


HOOKED = (
    HEADER,
    "#pragma once",
    """#pragma once
#define cf_check
#define for_each_online_cpu(cpu) for ((cpu) = 0; (cpu) < NR_CPUS; (cpu)++)""",
)


def _add_hook_headers(tree: TinyTree) -> None:
    (tree.root / "xen/include/xen/cpumask.h").write_text("#pragma once\n")
    (tree.root / "xen/include/xen/livepatch_payload.h").write_text(
        "#define LIVEPATCH_LOAD_HOOK(f) void (*const hook_##f)(void) = f\n"
    )


def test_cpus_that_run_start_as_a_person_says(tree: TinyTree) -> None:
    _add_hook_headers(tree)
    plain = (FILE, "int user(", "static DEFINE_PER_CPU(int, calls);\nint user(")
    done, text = made(tree, HOOKED, plain, start="per_cpu(known, cpu) + 1")
    assert "        xsplice_calls[cpu] = per_cpu(known, cpu) + 1;\n" in text
    assert text.index("LIVEPATCH_LOAD_HOOK(xsplice_calls_start);") > text.index("int user(")
    assert "ACCEPT=HOOK:load" in done.notes[1]
    assert not any("starts as zero" in note for note in done.notes)


def test_a_start_that_is_no_expression_or_of_two_is_refused(tree: TinyTree) -> None:
    _add_hook_headers(tree)
    plain = (FILE, "int user(", "static DEFINE_PER_CPU(int, calls);\nint user(")
    with pytest.raises(CaptureError, match="does not compile"):
        made(tree, HOOKED, plain, start="nobody[cpu]")
    with pytest.raises(ConfigError, match="how one variable starts"):
        made(tree, HOOKED, plain, names="calls more", start="1")


def test_the_command_writes_a_patch(tree: TinyTree, tmp_path: Path) -> None:
    tree.patch(DEFINED, USED)
    words = ["percpu", str(tmp_path / "fix.patch"), "--xen", str(tree.root), "--variable", "calls"]
    assert cli.main([*words, "--out", str(tmp_path / "new.patch")]) == 0
    assert "xsplice_calls" in (tmp_path / "new.patch").read_text()
    other = ["known" if word == "calls" else word for word in words]
    assert cli.main([*other, "--out", str(tmp_path / "no.patch")]) == 4
    assert not (tmp_path / "no.patch").exists()
