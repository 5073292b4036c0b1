# SPDX-License-Identifier: Apache-2.0
"""A type that a hand-written file defines under a name of Xen's must be Xen's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.handmade.conftest import Bench, make_tree
from xsplice_plugins import artefacts
from xsplice_plugins.artefacts import PayloadRecord, Severity, record_path

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kit.tiny_tree import TinyTree

pytestmark = pytest.mark.toolchain

HEADER = """
struct part { short low; short high; };
struct widget {
    int kind;
    union { long whole; struct part half; };
    unsigned int mode:3, armed:1;
    struct part *next;
    const char *name;
    unsigned char tail[];
};
enum state { IDLE, BUSY = 4 };
typedef struct { int count; long room; } gauge_t;
typedef int word_t;
struct told;
struct never_used { int a; };
"""
PRIVATE = """
#include <xen/shape.h>
struct hidden { long first; int flags; struct __attribute__((packed)) tight { char a; int b; } t; };
struct same { int a; };
struct named { char text[5]; long key; };
int find(struct named *n, word_t *w) { return n->text[1] + n->key + *w; }
int look(struct hidden *h, struct told *t) { return h->flags + h->t.b + !t; }
int turn(struct widget *w, enum state s, gauge_t *g)
{ return w->kind + w->half.low + w->mode + w->tail[0] + s + g->count + !w->next; }
static __attribute__((noinline, used)) int owned(struct same *s) { return s->a; }
"""
OTHER = """
struct same { long a, b; };
long other(struct same *s) { return s->b; }
"""
HIDDEN = "struct hidden { long first; int flags; struct tight { char a; int b; } %s t; };\n"
PACKED = HIDDEN % "__attribute__((packed))"
WIDGET = (
    "struct part { short low, high; };\n"
    "struct widget { int kind; union { long whole; struct part half; };"
    " unsigned int mode:3, armed:1; struct part *next; const char *name; unsigned char tail[]; };\n"
)
LOOK = (
    "struct told;\nstatic int mine(struct hidden *h, struct told *t) { return h->flags; }\n"
    'XSPLICE_REPLACE("look", mine);\n'
)
CAST = "static int mine(int a) { return %s; }\n" + 'XSPLICE_REPLACE("user", mine);\n'
ADDRESS = "(struct %s *)(unsigned long)a"

RIGHT = {
    "copy": PACKED + LOOK,
    "bytes-instead-of-members": (
        "struct hidden { char pad[8]; int flags; unsigned char rest[12]; };\n" + LOOK
    ),
    "fewer-members": (
        "struct hidden { __attribute__((aligned(8))) char pad[8]; int flags; char more[9]; };\n"
        + LOOK
    ),
    "part-without-a-name": (
        "struct hidden { long first; int flags;"
        " struct { char a; int b; } __attribute__((packed)) t; };\n" + LOOK
    ),
    "qualifiers": (
        "struct hidden { long first; const volatile int flags; struct tight { char a; int b; }"
        " __attribute__((packed)) t; };\n" + LOOK
    ),
    "whole": WIDGET + CAST % f"({ADDRESS % 'widget'})->armed",
    "header": "#include <xen/shape.h>\n" + CAST % f"({ADDRESS % 'widget'})->armed",
    "enumeration": "enum state { IDLE, BUSY = 4 };\n" + CAST % "(enum state)a == BUSY",
    "typedef": (
        "typedef struct { int count; long room; } gauge_t;\n"
        + CAST % "(int)((gauge_t *)(unsigned long)a)->room"
    ),
    "name-that-Xen-lacks": "struct mine { long a; int b; };\n" + CAST % f"({ADDRESS % 'mine'})->b",
    "one-of-several": (
        "struct same { long a, b; };\n"
        'static const char *mine(void) { return ((struct same *)100000)->b ? "a" : "b"; }\n'
        'XSPLICE_REPLACE("xen_extra_version", mine);\n'
    ),
    "the-other-of-several": "struct same { int a; };\n" + CAST % f"({ADDRESS % 'same'})->a",
    "only-named-by-Xen": "struct told { int x; };\n" + CAST % f"({ADDRESS % 'told'})->x",
}

WRONG = {
    "parameter": (
        "struct hidden { int flags; long first; };\n" + LOOK,
        "hotfix.c:2: `struct hidden`: `flags` is at 0, in Xen at 8 (common/user.o); define it",
    ),
    "called": (
        "struct hidden { int flags; long first; };\nstruct told;\n"
        "extern int look(struct hidden *h, struct told *t);\n"
        + CAST
        % "look((void *)(unsigned long)a, 0)",
        "`struct hidden`: `flags` is at 0, in Xen at 8",
    ),
    "cast": (
        WIDGET.replace("armed:1", "more:1, armed:1") + CAST % f"({ADDRESS % 'widget'})->armed",
        "`struct widget`: Xen's has no member `more`",
    ),
    "bit": (
        WIDGET.replace("mode:3, armed:1", "armed:1, mode:3")
        + CAST % f"({ADDRESS % 'widget'})->armed",
        "`struct widget`: `armed` is at 16 (bit 0, 1 bits), in Xen at 16 (bit 3, 1 bits)",
    ),
    "local": (
        "struct hidden { int first; int flags; };\n"
        + CAST % f"({{ struct hidden *p = {ADDRESS % 'hidden'}; p->flags; }})",
        "`struct hidden`: `first` is `int`, in Xen `long int`",
    ),
    "size-alone": (
        "struct hidden { int first; };\n" + CAST % "a + sizeof(struct hidden)",
        "`struct hidden`: `first` is `int`, in Xen `long int`",
    ),
    "container": (
        "struct hidden { int flags; long first; };\n"
        + CAST % "((struct hidden *)(a - __builtin_offsetof(struct hidden, first)))->flags",
        "`struct hidden`: `flags` is at 0, in Xen at 8",
    ),
    "size": (
        "struct hidden { long first; int flags; };\n" + LOOK,
        "`struct hidden`: it has 16 bytes, in Xen 24",
    ),
    "packed": (HIDDEN % "" + LOOK, "`struct tight`: `b` is at 4, in Xen at 1"),
    "bytes-too-short": (
        "struct hidden { char pad[4]; int flags; unsigned char rest[16]; };\n" + LOOK,
        "`struct hidden`: `flags` is at 4, in Xen at 8",
    ),
    "part-of-a-union": (
        WIDGET.replace("low, high", "high, low") + CAST % f"({ADDRESS % 'widget'})->half.low",
        "`struct part`: `high` is at 0, in Xen at 2",
    ),
    "enumeration": (
        "enum state { IDLE, BUSY };\n" + CAST % "(enum state)a == BUSY",
        "`enum state`: `BUSY` is 1, in Xen 4",
    ),
    "constant-that-Xen-lacks": (
        "enum state { IDLE, BUSY = 4, OFF };\n" + CAST % "(enum state)a == OFF",
        "`enum state`: Xen's has no `OFF`",
    ),
    "bytes-of-another-length": (
        "struct named { char text[8]; long key; };\n" + CAST % f"({ADDRESS % 'named'})->text[a]",
        "`struct named`: `text` is `char []`, in Xen `char []`",
    ),
    "typedef-of-a-number": (
        "typedef long word_t;\n" + CAST % "*(word_t *)(unsigned long)a",
        "`word_t` is not Xen's",
    ),
    "typedef": (
        "typedef struct { long room; int count; } gauge_t;\n"
        + CAST % "((gauge_t *)(unsigned long)a)->count",
        "`gauge_t`: a struct without a name: `room` is at 0, in Xen at 8",
    ),
    "another-of-several": (
        "struct same { long b, a; };\n" + CAST % f"({ADDRESS % 'same'})->b",
        "`struct same`: ",
    ),
    "not-that-of-its-file": (
        (
            "struct same { long a, b; };\nstatic int mine(struct same *s) { return s->b; }\n"
            'XSPLICE_REPLACE("owned", mine);\n'
        ),
        "`struct same`: `a` is `long int`, in Xen `int` (common/user.o)",
    ),
    "other-kind": (
        "union state { int x; };\n" + CAST % "((union state *)(unsigned long)a)->x",
        "`union state` is not Xen's",
    ),
}


@pytest.fixture(scope="session", params=["", "-g"], ids=["bare", "debug"])
def typed_tree(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> TinyTree:
    """Return a tree with types of its own; tests only read it."""
    tree = make_tree(tmp_path_factory.mktemp("types") / "xen")
    tree.flags += f" {request.param}"
    common = tree.root / "xen/common"
    (tree.root / "xen/include/xen/shape.h").write_text(HEADER)
    for name, text in (("user.c", PRIVATE), ("livepatch.c", OTHER)):
        (common / name).write_text((common / name).read_text() + text)
    tree.build()
    return tree


@pytest.fixture
def typed(typed_tree: TinyTree, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    """Return a way to build payloads for a tree with types of its own."""
    return Bench(typed_tree, tmp_path, capsys)


@pytest.mark.parametrize("case", WRONG)
def test_another_type_under_a_name_of_xens_is_refused(typed: Bench, case: str) -> None:
    text, message = WRONG[case]
    built = typed.build(text)
    assert built.status == 4, built.err
    assert message in built.err
    assert built.err.startswith("xsplice build: hotfix.c:")


def doubts(bench: Bench, text: str) -> list[str]:
    """Return what nobody could check about a payload."""
    built = bench.build(text)
    assert built.status == 0, built.err
    record = artefacts.load(record_path(built.path), PayloadRecord)
    return [row.text for row in record.findings if row.severity is Severity.UNCHECKED]


@pytest.mark.parametrize("case", RIGHT)
def test_a_right_copy_and_a_private_type_are_accepted(typed: Bench, case: str) -> None:
    assert doubts(typed, RIGHT[case]) == []


def test_a_type_that_no_object_knows_is_not_checked(typed: Bench) -> None:
    text = "struct never_used { long b; };\n" + CAST % f"({ADDRESS % 'never_used'})->b"
    (said,) = doubts(typed, text)
    assert said == (
        "`struct never_used` (hotfix.c:2) was not compared with that of xen/include/xen/shape.h"
    )


@pytest.mark.parametrize("folder", ["", "part/", "../beside/"])
def test_headers_of_the_author_are_asked_too(typed: Bench, folder: str) -> None:
    place = typed.sources / folder
    place.mkdir(exist_ok=True)
    (place / "mine.h").write_text("struct hidden { int flags; long first; };\n")
    built = typed.build(f'#include "{folder}mine.h"\n{LOOK}')
    assert built.status == 4, built.err
    assert "mine.h:1: `struct hidden`: `flags` is at 0, in Xen at 8" in built.err
