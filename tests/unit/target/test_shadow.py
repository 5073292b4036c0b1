# SPDX-License-Identifier: Apache-2.0
"""The store, compiled for this machine with stand-ins for Xen's headers, and run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from xsplice_plugins.target.shadow import shadow_header, shadow_store

pytestmark = pytest.mark.toolchain

MEMBERS = ("struct lock { int is_ready; } lock", "long count")
HEADERS = {
    "compiler.h": "#define noinline __attribute__((noinline))\n",
    "irq.h": "static int in_irq_now;\n#define in_irq() in_irq_now\n"
    "static int irqs = 1;\n#define local_irq_is_enabled() irqs\n",
    "lib.h": "#include <stdbool.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n"
    "#define cf_check\n#define panic(...) (printf(__VA_ARGS__), exit(3))\n",
    "livepatch_payload.h": "typedef int livepatch_payload_t;\n"
    "#define LIVEPATCH_POSTREVERT_HOOK(f) void end(void) { f(NULL); } extern int no_more\n",
    "spinlock.h": "#define DEFINE_SPINLOCK(l) int l\n"
    "#define spin_lock_irqsave(l, f) do { if ( *(l) ) abort(); *(l) = 1; (f) = irqs; irqs = 0; "
    "} while (0)\n"
    "#define spin_unlock_irqrestore(l, f) do { if ( !*(l) ) abort(); *(l) = 0; irqs = (f); "
    "} while (0)\n",
    "xmalloc.h": "static long live, left = 1000000;\n"
    "static void *get(size_t size) { void *p; if ( !irqs || in_irq_now ) abort();\n"
    "    if ( left <= 0 ) return NULL;\n"
    "    left--; live++; p = malloc(size); memset(p, 0xa5, size);\n"
    "    return p; }\n"
    "static void put(void *p) { if ( p && !irqs ) abort(); if ( p ) live--; free(p); }\n"
    "#define xmalloc(type) get(sizeof(type))\n#define xfree(p) put(p)\n",
}
READY = [("ready", "lock")]
BEFORE = (
    "#include <stddef.h>\nstruct owner { long words[9]; };\n#define ready(l) ((l)->is_ready = 1)\n"
)
MANY = "static struct owner o[5000];\nstruct xsplice_owner_shadow *s[5000];\nint i;\n"
DIFFERENT = """
for ( i = 0; i < N; i++ ) {
    s[i] = xsplice_owner_shadow(&o[i]);
    if ( s[i]->count || !s[i]->lock.is_ready ) return 4;
    s[i]->count = i + 1;
}
for ( i = 0; i < N; i++ )
    if ( xsplice_owner_shadow(&o[i]) != s[i] || s[i]->count != i + 1 ) return 5;
"""


def run(folder: Path, body: str) -> subprocess.CompletedProcess[str]:
    """Compile the store with a main function of some statements, and run it."""
    (folder / "xen").mkdir()
    for name, text in HEADERS.items():
        (folder / "xen" / name).write_text(text)
    text = shadow_header("struct owner", MEMBERS) + shadow_store("struct owner", READY)
    main = f"{MANY}int main(void)\n{{\n{body}\nreturn 0;\n}}\n"
    (folder / "a.c").write_text(BEFORE + text + main)
    flags = ["-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-Wno-misleading-indentation"]
    flags += ["-fsanitize=undefined"]
    subprocess.run(["gcc", *flags, "-I.", "a.c", "-o", "a"], cwd=folder, check=True)
    return subprocess.run(["./a"], cwd=folder, check=False, capture_output=True, text=True)


@pytest.mark.parametrize(
    "body",
    [
        # Each object has its own, ready at first, and the same whenever asked.
        DIFFERENT.replace("N", "1000"),
        # Nothing is left behind.
        DIFFERENT.replace("N", "1000") + "if ( live != 1000 ) return 6; end(); return live != 0;",
        # What died is forgotten, others are not; an address that nobody knows is no matter.
        DIFFERENT.replace("N", "500")
        + "xsplice_owner_drop(&o[7]); xsplice_owner_drop(&o[7]); xsplice_owner_drop(&o[900]);\n"
        "xsplice_owner_drop(NULL); if ( live != 499 ) return 7;\n"
        "if ( xsplice_owner_shadow(&o[7])->count ) return 8;\n"
        "return xsplice_owner_shadow(&o[8])->count != 9;",
        # Without memory, and where none may be asked for, the reserve serves; what died frees it.
        "left = 0;" + DIFFERENT.replace("N", "4096") + "xsplice_owner_drop(&o[3]);\n"
        "if ( xsplice_owner_shadow(&o[4096])->count ) return 9; end(); return live != 0;",
        "irqs = 0;" + DIFFERENT.replace("N", "4096") + "irqs = 1; end(); return live != 0;",
        "in_irq_now = 1;" + DIFFERENT.replace("N", "4096") + "return live != 0;",
        # All of the reserve dies, in another order than it came in, and serves again.
        "irqs = 0;"
        + DIFFERENT.replace("N", "4096")
        + "for ( i = 4096; i-- > 0; ) xsplice_owner_drop(&o[(i * 7) % 4096]);\n"
        + DIFFERENT.replace("N", "4096").replace("&o[i]", "&o[4999 - i]"),
        # Some have memory of Xen and some are of the reserve, and each goes where it came from.
        "left = 100;"
        + DIFFERENT.replace("N", "200")
        + "for ( i = 0; i < 200; i++ ) xsplice_owner_drop(&o[i]);\nif ( live ) return 10;\n"
        "left = 100;" + DIFFERENT.replace("N", "200") + "end(); return live != 0;",
    ],
)
def test_the_store_keeps_and_gives_back(body: str, tmp_path: Path) -> None:
    done = run(tmp_path, body)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


@pytest.mark.parametrize("why", ["left = 0;", "irqs = 0;"])
def test_the_end_of_the_reserve_is_said(why: str, tmp_path: Path) -> None:
    done = run(tmp_path, why + DIFFERENT.replace("N", "4097"))
    assert done.returncode == 3
    assert done.stdout == "xsplice: no memory for what belongs to a struct owner\n"
