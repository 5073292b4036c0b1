# SPDX-License-Identifier: Apache-2.0
"""Small edits of real files, each of a kind that was once proved or refused wrongly.

The patches are made here, from the tree's own text. Releases other than the default tree's are
those that `tests/xen/make_xen_tree.py --version ...` left; one that is not there is skipped.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

import pytest

from tests.kit.build import scons
from tests.xen.trees import tree_like

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.xen, pytest.mark.toolchain]

VERSION, TIME = "xen/common/version.c", "xen/common/time.c"
RANDOM, IRQ = "xen/common/random.c", "xen/arch/x86/irq.c"
RANGES, EVENTS = "xen/common/rangeset.c", "xen/common/event_2l.c"
PMT, DOMCTL = "xen/arch/x86/hvm/pmtimer.c", "xen/common/domctl.c"
TAKES, PMT_OF = "PMTState *s = opaque;", "&v->domain->arch.hvm.pl_time->vpmt"
EXTRA = "    return XEN_EXTRAVERSION;"
START = "struct tm gmtime\\("  #: where new things go in time.c
BUMP = 'static void cf_check lc_say(void) { printk("said"); }\n'
DENY = 'const char *xen_deny(void)\n{\n    return "<denied>";\n}\n'
STATE = """static void cf_check lc_state(struct domain *d, const struct evtchn *e)
{
    evtchn_2l_print_state(d, e);
    printk("said");
}

"""
OPS = "static const struct evtchn_port_ops lc_ops = { .unmask = evtchn_2l_unmask };\n\n"
#: Uses of a variable, not members of that name.
SECONDS, NANOS = (rf"(?<!d, )(?<!\.)\bwc_{unit}\b" for unit in ("sec", "nsec"))
STARTS_AGAIN, DANGLES = "would start again", "after unload it would dangle"

Edit = tuple[str, str, str]  # file, pattern, replacement of all that it finds

CASES: dict[str, tuple[int, str, tuple[Edit, ...]]] = {
    "entry of a table that is stored": (
        4,
        "DATA_VALUE",
        (
            (
                EVENTS,
                "static const struct evtchn_port_ops ",
                STATE + "\\g<0>",
            ),
            (EVENTS, "= evtchn_2l_print_state,", "= lc_state,"),
        ),
    ),
    "order of members": (4, "LAYOUT", ((RANGES, r"(struct range \{\n)(.*\n)(.*\n)", r"\1\3\2"),)),
    "what runs when a CPU comes up": (
        0,
        "`init_intel` runs only when a CPU comes up",
        (("xen/arch/x86/cpu/intel.c", r"\tinit_intel_perf\(c\);", "\tif (c->x86 != 5)\n\t\\g<0>"),),
    ),
    "what runs in an NMI": (
        0,
        "is reached from an NMI",
        (
            (
                "xen/arch/x86/nmi.c",
                r"this_cpu\(alert_counter\)\+\+;",
                "this_cpu(alert_counter) += 2;",
            ),
        ),
    ),
    "own table is stored": (
        5,
        DANGLES,
        (
            (
                EVENTS,
                "void evtchn_2l_init",
                OPS + "\\g<0>",
            ),
            (EVENTS, "= &evtchn_port_ops_2l;", "= d->domain_id ? &lc_ops : &evtchn_port_ops_2l;"),
        ),
    ),
    "own function is stored": (
        5,
        DANGLES,
        (
            (
                VERSION,
                "const char \\*xen_compile_date",
                f"extern void (*dead_idle)(void);\n{BUMP}\\g<0>",
            ),
            (VERSION, EXTRA, f"    dead_idle = lc_say;\n{EXTRA}"),
        ),
    ),
    "own text is stored": (
        5,
        DANGLES,
        (
            (
                RANGES,
                r"    INIT_LIST_HEAD\(&r->range_list\);\n",
                '\\g<0>    *(const char **)&r->range_list.prev = "said by nobody else";\n',
            ),
        ),
    ),
    "variable of another name": (3, "", ((TIME, SECONDS, "wc_seconds"),)),
    "variable of another name and type": (
        5,
        STARTS_AGAIN,
        (
            (TIME, "static unsigned int wc_nsec;", "static uint64_t wc_nsec;"),
            (TIME, NANOS, "wc_nanos"),
        ),
    ),
    "variables that become a structure": (
        5,
        STARTS_AGAIN,
        (
            (
                TIME,
                "static uint64_t wc_sec;.*\nstatic unsigned int wc_nsec;",
                "static struct { uint64_t sec; unsigned int nsec; } wc;",
            ),
            (TIME, SECONDS, "wc.sec"),
            (TIME, NANOS, "wc.nsec"),
        ),
    ),
    "variable of another name in another file": (
        5,
        STARTS_AGAIN,
        (
            (TIME, "static uint64_t wc_sec;", "extern uint64_t wc_sec;"),
            (TIME, SECONDS, "wc_seconds"),
            (
                VERSION,
                "const char \\*xen_compile_date",
                "extern uint64_t wc_seconds;\nuint64_t wc_seconds;\n\n\\g<0>",
            ),
        ),
    ),
    "variable of one CPU that becomes everybody's": (
        5,
        STARTS_AGAIN,
        (
            (RANDOM, r"static DEFINE_PER_CPU\(unsigned int, seed\);", "static unsigned int all;"),
            (RANDOM, r"this_cpu\(seed\)", "all"),
        ),
    ),
    "new variable that is read for one that lives on": (
        5,
        "`wc_local` is new: it starts at its first value",
        (
            (TIME, "static uint64_t wc_sec;", "static uint64_t wc_local;\n\\g<0>"),
            (TIME, r"    wc_sec  = x;\n", "\\g<0>    wc_local = x;\n"),
            (TIME, r"return wc_sec \+", "return wc_local +"),
        ),
    ),
    "new variable beside all others": (
        0,
        "`lc_asked` is new: it starts at its first value",
        (
            (TIME, START, "static unsigned int lc_asked;\n\\g<0>"),
            (TIME, r"return wc_sec \+", "return lc_asked++ + wc_sec +"),
        ),
    ),
    "constant that a helper returns to be compared": (
        0,
        "`VPIC_PRIO_NONE` = 8 is now 16",
        (("xen/arch/x86/hvm/vpic.c", "define VPIC_PRIO_NONE 8", "define VPIC_PRIO_NONE 16"),),
    ),
    "name for another name's number": (
        5,
        "state that was made with `ACKTYPE_UNMASK` = 1 is read with `ACKTYPE_PIC` = 3",
        (
            (IRQ, "(?<!define )ACKTYPE_UNMASK", "ACKTYPE_PIC"),
            (IRQ, "#define ACKTYPE_EOI", "#define ACKTYPE_PIC 3\n\\g<0>"),
        ),
    ),
    "flags of an allocation": (
        0,
        "increase_reservation",
        (
            (
                "xen/common/memory.c",
                r"alloc_domheap_pages\(d, a->extent_order, a->memflags\)",
                "alloc_domheap_pages(d, a->extent_order, a->memflags | MEMF_no_scrub)",
            ),
        ),
    ),
    "variable in another file": (
        3,
        "no functional change",
        (
            ("xen/common/domain.c", "vcpu_info_t dummy_vcpu_info;\n", ""),
            (EVENTS, "#include <xen/sched.h>", "\\g<0>\n#include <xen/shared.h>"),
            (
                EVENTS,
                "static void cf_check evtchn_2l_set_p",
                "vcpu_info_t dummy_vcpu_info;\n\\g<0>",
            ),
        ),
    ),
    "function in another file": (
        0,
        "xen_deny",
        (
            (VERSION, re.escape(DENY), ""),
            (
                TIME,
                START,
                "const char *xen_deny(void);\n" + DENY.replace("denied", "DENIED") + "\n\\g<0>",
            ),
        ),
    ),
    "function that nobody calls": (
        3,
        "no functional change",
        ((TIME, START, "int lc_new(void);\nint lc_new(void) { return 1; }\n\n\\g<0>"),),
    ),
    "tail behind a label": (
        0,
        "vmx_get_interrupt_shadow",
        (
            (
                "xen/arch/x86/hvm/vmx/vmx.c",
                "    return intr_shadow;",
                "    return intr_shadow & 0xf;",
            ),
        ),
    ),
    "early end behind a bug": (
        0,
        "disable_local_APIC|lapic_suspend",
        (
            (
                "xen/arch/x86/apic.c",
                r"(    local_irq_restore\(flags\);\n)    return 0;(\n\}\n\nint lapic_resume)",
                r"\1    return 1;\2",
            ),
        ),
    ),
    "code that becomes boot code": (
        3,
        "moved from .text to .init.text",
        ((TIME, "unsigned long get_sec", "unsigned long __init get_sec"),),
    ),
    "timer that takes something else": (
        5,
        "already hold what `pmt_timer_callback` took before: it takes `vcpu \\*`",
        (
            (PMT, re.escape(TAKES), "struct vcpu *v = opaque;\n" + TAKES.replace("opaque", PMT_OF)),
            (PMT, r"pmt_timer_callback(, |\()s\b", r"pmt_timer_callback\1v"),
        ),
    ),
    "timer that changes": (
        0,
        "PROVED",
        ((PMT, "(    uint64_t time_until_flip;)", "\\1\n\n    if ( !s->vcpu )\n        return;"),),
    ),
    "static of another name in changed code": (
        0,
        "`last_domid.0` is `rover.0` under another name",
        (
            (DOMCTL, r"\brover\b", "last_domid"),
            (DOMCTL, "(op->domain;\n)(        if)", "\\1        if ( dom == 77 ) return 1;\n\\2"),
        ),
    ),
}
#: What is tried on other releases as well.
ELSEWHERE = (
    "entry of a table that is stored",
    "what runs when a CPU comes up",
    "own table is stored",
    "variable of another name and type",
    "early end behind a bug",
    "timer that takes something else",
)


def patch_of(tree: Path, edits: tuple[Edit, ...]) -> str:
    """Return the diff that the edits make of a tree's files; each must find something."""
    files: dict[str, str] = {}
    for path, pattern, text in edits:
        before = files.get(path) or (tree / path).read_text()
        files[path], count = re.subn(pattern, text, before)
        assert count, (path, pattern)
    return "".join(
        line
        for path, after in files.items()
        for line in difflib.unified_diff(
            (tree / path).read_text().splitlines(keepends=True),
            after.splitlines(keepends=True),
            f"a/{path}",
            f"b/{path}",
        )
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a place for all builds: the match of a base with its image is made once."""
    return tmp_path_factory.mktemp("edits")


def try_case(case: str, tree: Path, folder: Path) -> None:
    status, words, edits = CASES[case]
    name = case.replace(" ", "-")
    (folder / f"{name}.patch").write_text(patch_of(tree, edits))
    run = scons("xsplice-verify", folder / "b", XEN=tree, PATCH=folder / f"{name}.patch", NAME=name)
    assert run.status == status, run.text
    assert re.search(words, run.text), run.text
    assert (folder / f"b/{name}/{name}.verify.json").exists() == (status == 0)


@pytest.mark.parametrize("case", CASES)
def test_an_edit_gets_the_right_answer(case: str, xen_tree: Path, folder: Path) -> None:
    try_case(case, xen_tree, folder)


@pytest.mark.parametrize("release", ["4.20", "4.22"])
@pytest.mark.parametrize("case", ELSEWHERE)
def test_the_same_on_other_releases(case: str, release: str, folder: Path) -> None:
    place = folder / release
    place.mkdir(exist_ok=True)
    try_case(case, tree_like(release), place)
