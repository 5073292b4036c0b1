# SPDX-License-Identifier: Apache-2.0
"""Constants that live in memory: what one object made, another one reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.kit.tiny_tree import TinyTree
from tests.unit.capture.test_capture import captured
from tests.unit.capture.test_typed import delta_of
from xsplice_plugins.artefacts import Duty, Severity

if TYPE_CHECKING:
    from pathlib import Path

    from xsplice_plugins.artefacts import Finding

pytestmark = pytest.mark.toolchain

HEADER = "xen/include/xen/lib.h"
MAKER = "xen/common/livepatch.c"
READER = "xen/common/user.c"
TEXTS = {
    HEADER: """#ifndef LIB_H
#define LIB_H
#define FILE_NAME __FILE__
#define FLAG_A 1
#define FLAG_B (FLAG_A << 1)
#define LIMIT 10
#define HASH(id) ((id) & 7)
#define FLAG_C 0
#define FLAG_D (1 << FLAG_C)
#define FLAG_E 16
#define has_e(i) ((i)->flags & FLAG_E)
#define set_e(i) \\
    ((i)->flags |= FLAG_E)
struct item { int flags; int count; };
void set_bit(int bit, int *flags);
#define last_of(t) ((t)[8 - 1])
#define KIND 21
enum { OTHER_KIND = 22 };
extern struct item *item;
extern int table[];
static inline int twice(int a) { return a * 2; }
#define POISON 0xAA
void *memset(void *p, int byte, unsigned long n);
void *memchr_inv(const void *p, int byte, unsigned long n);
#endif
""",
    MAKER: """#include <xen/lib.h>
struct item *item;
int table[8];
int livepatch(void) { item->flags |= FLAG_B; table[HASH(item->count)] = 3;
 set_bit(FLAG_C, &item->flags); set_e(item); return 0; }
void set_bit(int bit, int *flags) { *flags |= 1 << bit; }
void init_timer(void *timer, void (*call)(void *), void *data, int cpu);
void tock(void *data) { struct item *i = data; i->count--; }
static void tick(void *data) { struct item *i = data; i->count++; }
void begin(struct item *i) { init_timer(table, tick, i, 0); }
void set_kind(void) { item->count = KIND; }
int has_kind(void) { return item->count == KIND; }
void give(void) { memset(table, POISON, sizeof(table)); }
int take(void) { if ( memchr_inv(table, POISON, sizeof(table)) ) return 1; return 0; }
""",
    READER: """#include <xen/lib.h>
#define OWN 3
int user(int a)
{
    if ( a > LIMIT || item->count > OWN )
        return 0;
    return last_of(table) + (item->flags & FLAG_B) + (item->flags & FLAG_D) + has_e(item);
}
void tock(void *data);
void init_timer(void *timer, void (*call)(void *), void *data, int cpu) { }
void end(struct item *i) { init_timer(&item, &tock, i, 0); }
void *memset(void *p, int byte, unsigned long n) { return p; }
void *memchr_inv(const void *p, int byte, unsigned long n) { return 0; }
""",
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> TinyTree:
    """Return a tree in which one object stores a flag and another one asks for it."""
    tiny = TinyTree(tmp_path_factory.mktemp("constants") / "tree")
    for path, text in TEXTS.items():
        (tiny.root / path).write_text(text)
    tiny.build()
    return tiny


def found(tree: TinyTree, work: Path, *edits: tuple[str, str, str]) -> list[Finding]:
    """Return what is said of data and effect by the pairs that change."""
    pairs = [pair for pair in captured(tree, tree.patch(*edits), work).values() if pair.is_changed]
    assert pairs
    return [
        finding
        for pair in pairs
        for finding in delta_of(pair, work).findings
        if finding.obligation in {Duty.DATA, Duty.EFFECT} and finding.severity != Severity.HELD
    ]


def test_a_flag_that_is_another_bit_is_not_checked(tree: TinyTree, tmp_path: Path) -> None:
    """The macro that changes is used in another macro alone."""
    rows = found(tree, tmp_path, (HEADER, "FLAG_A 1", "FLAG_A 4"))
    wrong = {row.text for row in rows if row.severity is Severity.UNCHECKED}
    text = (
        "state that was made with `FLAG_B` = 2 (xen/common/livepatch.c:4) is read with 8 "
        "(xen/common/user.c:7): objects made before keep the old value"
    )
    assert wrong == {text}
    assert {row.obligation for row in rows if row.severity is Severity.UNCHECKED} == {Duty.DATA}


TAKEN = (MAKER, "item->count = KIND; }", "item->count = KIND; item->flags++; }")
RELEASED = (MAKER, "int has_kind(void) {", "int has_kind(void) { item->flags--;")


def test_what_one_function_takes_and_another_one_releases_is_not_checked(
    tree: TinyTree, tmp_path: Path
) -> None:
    rows = found(tree, tmp_path / "wrong", TAKEN, RELEASED)
    assert {(row.obligation, row.severity) for row in rows} == {(Duty.DATA, Severity.UNCHECKED)}
    text = (
        f"{MAKER}: `set_kind` takes what it did not take before (`++` of `flags`), and `has_kind` "
        f"({MAKER}) releases it (`--` of `flags`): objects that exist never took it"
    )
    assert [row.text for row in rows] == [text]
    assert found(tree, tmp_path / "right", RELEASED) == []


def test_a_new_flag_is_a_remark(tree: TinyTree, tmp_path: Path) -> None:
    stored = (MAKER, "item->count = KIND; }", "item->count = KIND; item->flags |= NEW_FLAG; }")
    asked = (MAKER, "int has_kind(void) {", "int has_kind(void) { if ( item->flags & NEW_FLAG ) ")
    defined = (MAKER, "int table[8];", "#define NEW_FLAG 64\nint table[8];")
    rows = found(tree, tmp_path, defined, stored, asked)
    assert {(row.obligation, row.severity) for row in rows} == {(Duty.EFFECT, Severity.WARNING)}
    assert "`NEW_FLAG` is new" in rows[0].text
    assert found(tree, tmp_path / "alone", defined, stored) == []


def test_a_bit_and_its_mask_are_one(tree: TinyTree, tmp_path: Path) -> None:
    """State is made with the number of the bit, and read with the mask."""
    rows = found(tree, tmp_path, (HEADER, "FLAG_C 0", "FLAG_C 6"))
    wrong = [row.text for row in rows if row.severity is Severity.UNCHECKED]
    assert len(set(wrong)) == 1
    assert wrong[0].startswith("state that was made with `FLAG_C` (xen/common/livepatch.c:5)")
    assert "is read with `FLAG_D` (xen/common/user.c:7)" in wrong[0]


def test_a_byte_that_memory_is_filled_with_is_asked_for_later(
    tree: TinyTree, tmp_path: Path
) -> None:
    rows = found(tree, tmp_path / "wrong", (HEADER, "POISON 0xAA", "POISON 0x6B"))
    wrong = {row.text for row in rows if row.severity is Severity.UNCHECKED}
    text = (
        f"state that was made with `POISON` = 170 ({MAKER}:13) is read with 107 ({MAKER}:14): "
        "objects made before keep the old value"
    )
    assert wrong == {text}
    other = (MAKER, "{ memset(table, POISON, sizeof(table)", "{ memset(table, POISON, 4")
    rows = found(tree, tmp_path / "right", other)
    assert [row for row in rows if row.severity is Severity.UNCHECKED] == []


def test_what_macros_with_arguments_make_and_read_counts(tree: TinyTree, tmp_path: Path) -> None:
    rows = found(tree, tmp_path, (HEADER, "FLAG_E 16", "FLAG_E 32"))
    wrong = {row.text for row in rows if row.severity is Severity.UNCHECKED}
    text = (
        f"state that was made with `FLAG_E` = 16 ({HEADER}:12) is read with 32 ({HEADER}:11): "
        "objects made before keep the old value"
    )
    assert wrong == {text}


def test_a_table_that_is_asked_at_another_place_is_not_checked(
    tree: TinyTree, tmp_path: Path
) -> None:
    rows = found(tree, tmp_path, (HEADER, "((id) & 7)", "(((id) >> 4) & 7)"))
    texts = [row.text for row in rows if row.severity is Severity.UNCHECKED]
    assert len(texts) == 1
    assert texts[0].startswith("the macro `HASH` leads to another place than before")


@pytest.mark.parametrize("name", ["tick", "tock"])
def test_data_that_objects_hold_and_a_function_takes_otherwise(
    tree: TinyTree, tmp_path: Path, name: str
) -> None:
    """The function's own file hands its address over, or another one does."""
    was = f"{name}(void *data) {{ struct item *i = data;"
    now = f"{name}(void *data) {{ struct item **o = data, *i = *o;"
    rows = found(tree, tmp_path / "wrong", (MAKER, was, now))
    texts = [row.text for row in rows if row.severity is Severity.UNCHECKED]
    text = f"{MAKER}: objects that exist already hold what `{name}` took before: it takes"
    assert texts == [f"{text} `item * *` where it took `item *`"]
    assert {row.obligation for row in rows} == {Duty.DATA}
    right = (MAKER, was, f"{was} if ( !i->flags ) return;")
    assert found(tree, tmp_path / "right", right) == []


def test_a_macro_that_looks_up_at_another_place_is_not_checked(
    tree: TinyTree, tmp_path: Path
) -> None:
    rows = found(tree, tmp_path, (HEADER, "[8 - 1]", "[8 - 2]"))
    texts = [row.text for row in rows if row.severity is Severity.UNCHECKED]
    assert len(texts) == 1
    assert texts[0].startswith("the macro `last_of` leads to another place than before")


def test_another_flag_that_a_header_knew_before_is_another_number(
    tree: TinyTree, tmp_path: Path
) -> None:
    edits = [(MAKER, "= KIND", "= OTHER_KIND"), (MAKER, "== KIND", "== OTHER_KIND")]
    rows = found(tree, tmp_path, *edits)
    assert [row.text for row in rows if row.severity is Severity.UNCHECKED] == [
        (
            f"{MAKER}: state that was made with `KIND` = 21 is read with `OTHER_KIND` = 22 "
            "(`set_kind`, `has_kind`)"
        )
    ]
    rows = found(tree, tmp_path, edits[0])
    assert [row.text for row in rows if row.severity is Severity.UNCHECKED] == []


@pytest.mark.parametrize(
    ("edit", "name"),
    [((HEADER, "LIMIT 10", "LIMIT 20"), "`LIMIT` = 10"), ((READER, "OWN 3", "OWN 4"), "`OWN` = 3")],
)
def test_a_bound_is_a_remark(
    tree: TinyTree, tmp_path: Path, edit: tuple[str, str, str], name: str
) -> None:
    rows = found(tree, tmp_path, edit)
    assert [(row.severity, row.obligation) for row in rows] == [(Severity.WARNING, Duty.EFFECT)]
    assert f"the changed constant {name}" in rows[0].text


def test_a_header_that_is_read_besides_changes_no_constant(tree: TinyTree, tmp_path: Path) -> None:
    """What it defines is new in this object; macros that stand for it were there before."""
    edits = [
        (READER, "#include <xen/lib.h>\n", ""),
        (READER, "#define OWN 3", "#include <xen/lib.h>\n#include <limits.h>\n#define OWN 3"),
        (READER, "return 0;", "return 5;"),
    ]
    assert found(tree, tmp_path, *edits) == []


@pytest.mark.parametrize(
    "edit",
    [
        (HEADER, "FLAG_A 1", "FLAG_A (1 << 0)"),
        (HEADER, "#define LIMIT", "#define MORE 5\n#define LIMIT"),
        (HEADER, "#ifndef LIB_H\n#define LIB_H", "#ifndef OTHER_H\n#define OTHER_H"),
    ],
)
def test_another_spelling_beside_a_fix_says_nothing(
    tree: TinyTree, tmp_path: Path, edit: tuple[str, str, str]
) -> None:
    assert found(tree, tmp_path, edit, (READER, "return 0;", "return 5;")) == []


def test_a_constant_that_has_another_name_now_says_nothing(tree: TinyTree, tmp_path: Path) -> None:
    edits = [(READER, "define OWN", "define MINE"), (READER, "> OWN", "> MINE")]
    assert found(tree, tmp_path, *edits, (READER, "return 0;", "return 5;")) == []


@pytest.mark.parametrize(("size", "is_same"), [("short", True), ("long", False)])
def test_a_number_that_is_a_types_size_now_may_be_the_same(
    tree: TinyTree, tmp_path: Path, size: str, *, is_same: bool
) -> None:
    edits = [
        (HEADER, "#define FLAG_A 1\n#define FLAG_B (FLAG_A << 1)", "#define FLAG_B sizeof(SIZE)"),
        (HEADER, "extern int table[];", f"typedef {size} SIZE;\nextern int table[];"),
        (READER, "item->flags & FLAG_B", "(item->flags & FLAG_B)"),
        (MAKER, "int livepatch(void) {", "int livepatch(void) { item->count++;"),
    ]
    texts = [row.text for row in found(tree, tmp_path, *edits)]
    assert any("FLAG_B" in text for text in texts) is not is_same


def test_another_bit_in_two_files_is_not_checked(tree: TinyTree, tmp_path: Path) -> None:
    """The maker's file names the bit, the reader's its mask."""
    names = "#define FLAG_F 5\n#define FLAG_G (1 << FLAG_F)\n#define FLAG_E 16"
    edits = [
        (HEADER, "#define FLAG_E 16", names),
        (MAKER, "set_bit(FLAG_C", "set_bit(FLAG_F"),
        (READER, "flags & FLAG_D", "flags & FLAG_G"),
    ]
    rows = found(tree, tmp_path / "wrong", *edits)
    texts = {row.text for row in rows if row.severity is Severity.UNCHECKED}
    text = "state that was made with `FLAG_C` = 0 is read with `FLAG_G` = 32"
    assert texts == {
        f"{MAKER}: {text} (`livepatch`, `user`)",
        f"{READER}: {text} (`user`, `livepatch`)",
    }
    rows = found(tree, tmp_path / "alone", *edits[:2])
    assert not [row for row in rows if row.severity is Severity.UNCHECKED]


STAGE_ONE, STAGE_TWO = ("case ONE: item->flags = TWO;", "case TWO: item->flags = ONE;")
LISTS = """#define for_each(i, t) for ( ; (i)->count; (i)++ )
#define ONE 1
#define TWO 2
void list_add(void *a, void *b) { table[1] = a < b; }
void list_add_tail(void *a, void *b) { table[2] = a < b; }
void add(void) { list_add(&item->flags, table); }
int walk(void)
{
    static int known;
    if ( !known ) known = twice(item->count);
    switch ( item->flags ) { @ }
    for_each(item, table) known++;
    return known;
}
""".replace("@", f"{STAGE_ONE} {STAGE_TWO}")


def test_lists_stages_and_what_is_remembered_are_asked_for(tree: TinyTree, tmp_path: Path) -> None:
    """Each has its own tests; here that a finding of the pair says it."""
    other = TinyTree(tmp_path / "tree")
    for path, text in TEXTS.items():
        (other.root / path).write_text(text + (LISTS if path == MAKER else ""))
    other.build()
    edits = [
        (MAKER, "list_add(&", "list_add_tail(&"),
        (MAKER, "table) known++", "table) known += 2"),
        (MAKER, f"{STAGE_ONE} {STAGE_TWO}", f"{STAGE_TWO} {STAGE_ONE}"),
    ]
    texts = [row.text for row in found(other, tmp_path, *edits)]
    for part in ("adds to a list at another place", "have another order", "in `known`"):
        assert len([text for text in texts if part in text]) == 1


@pytest.mark.parametrize("name", ["XEN_SYSCTL_INTERFACE_VERSION", "SYSCTL_LIMIT"])
def test_the_version_of_an_interface_is_what_tools_that_run_give(tmp_path: Path, name: str) -> None:
    tree = TinyTree(tmp_path / "tree")
    for path, text in ((HEADER, f"#define {name} 21\n"), (READER, "")):
        file = tree.root / path
        file.write_text(file.read_text().replace("#define FILE_NAME", f"{text}#define FILE_NAME"))
    source = tree.root / READER
    source.write_text(
        f"#include <xen/lib.h>\nint user(int *op) {{ return *op != {name} ? -13 : twice(*op); }}\n"
    )
    tree.build()
    rows = found(tree, tmp_path, (HEADER, f"{name} 21", f"{name} 22"))
    wrong = [row.text for row in rows if row.severity is Severity.UNCHECKED]
    assert len(wrong) == ("INTERFACE" in name)
    assert all("tools that run on the host give the old version" in text for text in wrong)


@pytest.mark.parametrize("is_checked", [True, False])
def test_a_lock_that_is_taken_otherwise_stops_builds_that_check_locks(
    tmp_path: Path, *, is_checked: bool
) -> None:
    flags = "-DCONFIG_DEBUG_LOCKS=1" if is_checked else ""
    tree = TinyTree(tmp_path / "tree", flags=flags)
    source = tree.root / MAKER
    source.write_text(
        "void spin_lock(int *l) { *l = 1; }\nvoid spin_lock_irq(int *l) { *l = 2; }\n"
        "static int lock;\nint livepatch(void) { spin_lock(&lock); return lock; }\n"
    )
    tree.build()
    rows = found(tree, tmp_path, (MAKER, "spin_lock(&lock)", "spin_lock_irq(&lock)"))
    wrong = [row for row in rows if row.severity is Severity.UNCHECKED]
    assert [row.obligation for row in wrong] == [Duty.DATA] * is_checked
    assert all("livepatch takes `lock` with interrupts off" in row.text for row in wrong)
