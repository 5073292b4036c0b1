# SPDX-License-Identifier: Apache-2.0
"""The store of shadows, compiled for this machine and run: objects come and go, memory is short."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from xsplice_plugins.target.shadow import shadow_header, shadow_store

pytestmark = pytest.mark.toolchain

HEADERS = {
    "compiler.h": "#define noinline __attribute__((noinline))\n#define cf_check\n",
    "irq.h": "extern int irqs_off;\n#define in_irq() 0\n"
    "#define local_irq_is_enabled() (!irqs_off)\n",
    "lib.h": "#include <stdbool.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n"
    'static void panic(const char *text) { printf("panic: %s", text); exit(3); }\n',
    "livepatch_payload.h": "typedef int livepatch_payload_t;\n"
    "#define LIVEPATCH_POSTREVERT_HOOK(f) static void (*hook)(livepatch_payload_t *) = f\n",
    "spinlock.h": "#define DEFINE_SPINLOCK(l) int l\n"
    "#define spin_lock_irqsave(l, f) ((f) = (unsigned long)*(l), *(l) = 1)\n"
    "#define spin_unlock_irqrestore(l, f) (*(l) = (int)(f))\n",
    "xmalloc.h": "extern long live, left;\n"
    "#define xmalloc(type) (left-- > 0 ? (live++, (type *)malloc(sizeof(type))) : NULL)\n"
    "#define xfree(p) do { if (p) { live--; free(p); } } while (0)\n",
}
MAIN = """
int irqs_off; long live, left;
static struct owner owners[6000];
int main(int argc, char **argv)
{
    long n = atol(argv[1]), i;
    irqs_off = argv[2][0] == 'o'; left = argv[2][0] == 'f' ? n : 0;
    for ( int round = 0; round < 3; round++ )
    {
        for ( i = 0; i < n; i++ )
            if ( xsplice_owner_shadow(&owners[i])->count++ != 7 )
                return 1;
        for ( i = 0; i < n; i++ )
            if ( xsplice_owner_shadow(&owners[i])->count != 8 )
                return 2;
        if ( live != (argv[2][0] == 'f' ? n : 0) )
            return 4;
        for ( i = n; i-- > 0; )
            xsplice_owner_drop(&owners[i]);
        xsplice_owner_drop(&owners[n]);
        if ( live )
            return 5;
        left = argv[2][0] == 'f' ? n : 0;
    }
    for ( i = 0; i < n; i++ )
        xsplice_owner_shadow(&owners[i]);
    hook(NULL);
    return live ? 6 : 0;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    (folder / "xen").mkdir()
    for name, text in HEADERS.items():
        (folder / "xen" / name).write_text(text)
    begin = "struct owner { char bytes[64]; };\nstatic void seven(int *c) { *c = 7; }\n"
    store = shadow_store("struct owner", [("seven", "count")])
    text = begin + "#include <stddef.h>\n" + shadow_header("struct owner", ["int count"]) + store
    (folder / "store.c").write_text(text + MAIN)
    line = ["gcc", "-Wall", "-Werror", "-fsanitize=address,undefined", "-I", folder, "-o"]
    subprocess.run([*line, folder / "store", folder / "store.c"], check=True)
    return folder / "store"


@pytest.mark.parametrize("how", ["free", "off", "none"])
def test_each_object_has_its_own_from_the_first_to_the_last(program: Path, how: str) -> None:
    done = subprocess.run([program, "4096", how], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("how", ["off", "none"])
def test_one_more_than_the_reserve_panics_in_words(program: Path, how: str) -> None:
    done = subprocess.run([program, "4097", how], capture_output=True, text=True, check=False)
    assert (done.returncode, "no memory for what belongs to a struct owner" in done.stdout) == (
        3,
        True,
    )


def test_with_memory_there_is_no_such_end(program: Path) -> None:
    done = subprocess.run([program, "5999", "free"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
