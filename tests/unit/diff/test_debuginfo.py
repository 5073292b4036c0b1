# SPDX-License-Identifier: Apache-2.0
"""What debug information adds: source lines, structure fields, who absorbed whom."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.kit.differ_inputs import compile_c, diff, diff_c, summary
from xsplice_plugins.diff.lines import line_of
from xsplice_plugins.elf.debuginfo import Cursor, _value, debug_info
from xsplice_plugins.elf.layouts import layouts_of
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.errors import DiffError

pytestmark = pytest.mark.toolchain

TEXT = """struct s { int a; long b; unsigned x : 3; unsigned y : 5; };
int f(struct s *p) { return get(p->a) + p->b + p->y; }
static inline int h(int a)
{
    return get(a) + 3;
}
int g(struct s *p)
{
    int b = h(p->a);

    return put(b, 5);
}
"""
FLAGS = pytest.mark.parametrize("flag", ["-g", "-gdwarf-4"])


@FLAGS
def test_the_first_difference_names_its_source_line(tmp_path: Path, flag: str) -> None:
    delta = diff_c(tmp_path, TEXT, "\n\n" + TEXT.replace("put(b, 5)", "put(b, 6)"), flag)
    assert summary(delta) == (["g"], [], [], [])
    difference = delta.changed[0].difference
    assert difference is not None
    assert (difference.line_before, difference.line_after) == ("file.c:11", "file.c:13")


KEEPS = """enum e { OFF, ON }; enum e state;
int f(int a) { static unsigned short next; next += a; return state == ON ? next : get(a); }
int g(int a) { return put(a, ON); }
"""


@FLAGS
@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("static unsigned short next", "static short next", "variable next"),
        ("OFF, ON", "ON, OFF", "constant ON"),
        ("OFF, ON", "OFF = 0, ON = 1, MORE", ""),
    ],
)
def test_values_that_memory_holds_keep_their_meaning(
    tmp_path: Path, flag: str, old: str, new: str, name: str
) -> None:
    delta = diff_c(tmp_path, KEEPS, KEEPS.replace("? next", "? -next").replace(old, new), flag)
    names = [r.name for r in delta.refused if r.code == "LAYOUT"]
    assert (name in names) == bool(names) == bool(name)
    assert "f" in summary(delta)[0]


@FLAGS
@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("int a;", "int a; int z; int q;", "new field `z` at byte 4"),
        ("int a; long b;", "long b; int a;", "field `b` of `struct s` moved from byte 8 to byte 0"),
        ("unsigned y : 5;", "unsigned y : 5; long w;", "new field `w`"),
    ],
)
def test_a_changed_layout_is_refused_by_the_field(
    tmp_path: Path, flag: str, old: str, new: str, text: str
) -> None:
    after = TEXT.replace(old, new)
    delta = diff_c(tmp_path, TEXT, after.replace("+ 3", "+ 4"), flag)
    refused = [r for r in delta.refused if r.code == "LAYOUT"]
    assert [r.name for r in refused] == ["struct s"]
    assert text in refused[0].reason


@FLAGS
def test_a_field_in_a_hole_is_a_question_and_no_refusal(tmp_path: Path, flag: str) -> None:
    after = TEXT.replace("unsigned y : 5;", "unsigned y : 5; char w;").replace("+ 3", "+ 4")
    delta = diff_c(tmp_path, TEXT, after, flag)
    assert (bool(delta.changed), delta.refused) == (True, ())
    assert [text.split(":")[0] for text in delta.unchecked] == [
        "field `w` lies in a hole of `struct s`"
    ]


#: Just enough of Xen's and of Linux' headers to compile the skeletons.
SHADOW_HEADERS = r"""
#include <stddef.h>
#define cf_check
#define noinline
#define bool _Bool
typedef int livepatch_payload_t;
#define LIVEPATCH_POSTREVERT_HOOK(f) void (*hook)(livepatch_payload_t *) = f
typedef int spinlock_t;
#define DEFINE_SPINLOCK(x) spinlock_t x
#define spin_lock_irqsave(l, f) ((f) = save(l))
extern unsigned long save(spinlock_t *);
extern void spin_unlock_irqrestore(spinlock_t *, unsigned long), xfree(void *);
extern int in_irq(void), local_irq_is_enabled(void);
extern void panic(const char *, ...), *memset(void *, int, size_t), *get(size_t);
#define xmalloc(t) ((t *)get(sizeof(t)))
#define GFP_ATOMIC 0
extern void *klp_shadow_get_or_alloc(void *, unsigned long, size_t, int, void *, void *);
extern void klp_shadow_free(void *, unsigned long, void *);
struct s;
"""


@FLAGS
@pytest.mark.parametrize("profile", ["xen", "linux"])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_new_fields_come_with_a_shadow_variable_to_start_from(
    tmp_path: Path, flag: str, profile: str, compiler: str
) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed; apt-get install {compiler}")
    after = TEXT.replace("long b;", "struct s *z; unsigned int q; const char *t; long b;")
    sides = [compile_c(tmp_path, text, flag) for text in (TEXT, after)]
    (refused,) = (r for r in diff(*sides, profile=profile).refused if r.code == "LAYOUT")
    for line in ("struct s *z;", "unsigned int q;", "xsplice_s_drop"):
        assert line in refused.skeleton
    assert "TAG" not in refused.skeleton
    assert "STRUCTURE" not in refused.skeleton
    plain = "\n".join(x for x in refused.skeleton.splitlines() if not x.startswith("#include"))
    uses = "void use(struct s *p) { xsplice_s_shadow(p)->z = p; xsplice_s_drop(p); }"
    (tmp_path / "shadow.c").write_text(f"{SHADOW_HEADERS}{plain}\n{uses}\n")
    command = [compiler, "-std=gnu99", "-Wall", "-Werror", "-fsyntax-only", "shadow.c"]
    subprocess.run(command, cwd=tmp_path, check=True)


def test_a_field_that_only_moved_has_no_shadow(tmp_path: Path) -> None:
    delta = diff_c(tmp_path, TEXT, TEXT.replace("int a; long b;", "long b; int a;"), "-g")
    assert [(r.code, r.skeleton) for r in delta.refused] == [("LAYOUT", "")]


def test_a_new_function_alone_may_not_use_a_changed_layout(tmp_path: Path) -> None:
    after = TEXT.replace("unsigned y : 5;", "unsigned y : 5; long z;")
    after += "long fresh(struct s *p) { return p->z; }"
    delta = diff_c(tmp_path, TEXT, after, "-g")
    assert [c.name for c in delta.changed] == []
    assert [(r.code, r.name) for r in delta.refused] == [("LAYOUT", "struct s")]
    plain = diff_c(tmp_path, TEXT, TEXT + "long fresh(struct s *p) { return p->b; }", "-g")
    assert summary(plain) == ([], ["fresh"], [], [])


@FLAGS
def test_a_function_that_is_no_longer_inlined_is_named(tmp_path: Path, flag: str) -> None:
    delta = diff_c(tmp_path, TEXT, TEXT.replace("static inline", "static noinline"), flag)
    assert [c.reason for c in delta.changed] == ["`h` is no longer inlined into `g`"]


@FLAGS
def test_what_the_compiler_took_in_is_no_cause_where_the_function_was_edited(
    tmp_path: Path, flag: str
) -> None:
    """Only what absorbs another's change may be unchanged itself."""
    after = TEXT.replace("static inline", "static noinline")
    sides = [compile_c(tmp_path, text, flag) for text in (TEXT, after)]
    for edited, is_cause in ((["g"], False), (["h"], True), ([], True), (None, True)):
        (changed,) = diff(*sides, edited=edited).changed
        assert ("inlined into" in changed.reason) is is_cause, edited


@FLAGS
def test_no_function_is_inlined_into_itself(tmp_path: Path, flag: str) -> None:
    """A compiler unrolls recursive calls; whether it does is no reason."""
    text = "int fib(int a) { return a < 2 ? get(a) : fib(a - 1) + fib(a - 2); }\n"
    plain = text.replace("int fib", "__attribute__((optimize(1))) int fib", 1)
    sides = [compile_c(tmp_path, each, flag, "-O2") for each in (text, plain)]
    held = [debug_info(read_elf(side, "x.o")).inlined for side in sides]
    assert held == [{"fib": frozenset({"fib"})}, {}]
    for before, after in (sides, sides[::-1]):
        (changed,) = diff(before, after).changed
        assert "inlined into" not in changed.reason


@FLAGS
def test_of_several_callers_each_names_what_it_absorbed(tmp_path: Path, flag: str) -> None:
    text = """static noinline int one(int a) { return get(a) + 3; }
static noinline int two(int a) { return get(a) ^ 5; }
int f(int a) { return one(a) + 1; }
int g(int a) { return two(a) + one(a + 1); }
int h(int a) { return get(a); }
"""
    inlined = text.replace("static noinline int one", "static inline int one")
    delta = diff_c(tmp_path, text, inlined, flag)
    reasons = {c.name: c.reason for c in delta.changed}
    assert reasons["f"] == "`one` was inlined into `f`"
    assert reasons["g"] == "`one` was inlined into `g`"
    assert set(reasons) <= {"f", "g"}


@FLAGS
def test_a_renamed_type_of_a_field_is_no_layout_change(tmp_path: Path, flag: str) -> None:
    after = TEXT.replace("int a;", "unsigned int a;").replace("+ 3", "+ 4")
    assert diff_c(tmp_path, TEXT, after, flag).refused == ()


@FLAGS
def test_inlining_is_explained_by_name(tmp_path: Path, flag: str) -> None:
    delta = diff_c(tmp_path, TEXT.replace("static inline", "static noinline"), TEXT, flag)
    assert [c.reason for c in delta.changed] == ["`h` was inlined into `g`"]


@FLAGS
def test_lines_agree_with_addr2line(tmp_path: Path, flag: str) -> None:
    data = compile_c(tmp_path, TEXT, flag)
    (tmp_path / "a.o").write_bytes(data)
    file = read_elf(data, "a.o")
    section = file.section_by_name[".text.g"]
    for offset in range(section.size_bytes):
        command = ["addr2line", "-s", "-j", ".text.g", "-e", str(tmp_path / "a.o"), hex(offset)]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
        assert line_of(file, section.index, offset) == told


def test_an_object_without_debug_information_says_nothing(tmp_path: Path) -> None:
    file = read_elf(compile_c(tmp_path, TEXT), "a.o")
    assert layouts_of(file) == {}
    assert line_of(file, 1, 0) == ""


@FLAGS
@pytest.mark.parametrize("section", [".debug_info", ".debug_abbrev", ".debug_line"])
def test_damaged_debug_information_is_refused_by_name(
    tmp_path: Path, flag: str, section: str
) -> None:
    data = bytearray(compile_c(tmp_path, TEXT, flag))
    found = read_elf(bytes(data), "a.o").section_by_name[section]
    told = []
    for at in range(found.size_bytes):
        damaged = bytearray(data)
        damaged[found.offset_file + at] ^= 0xFF
        file = read_elf(bytes(damaged), "a.o")
        try:  # whatever byte is wrong: an answer or a sentence, never a traceback
            debug_info(file)
            line_of(file, 1, 0)
        except DiffError as error:
            told.append(str(error))
    assert told
    assert all(text.startswith("a.o: ") for text in told)


@pytest.mark.parametrize(("form", "head"), [(0x0A, b"\2"), (0x03, b"\2\0"), (0x09, b"\2")])
def test_a_block_in_debug_information_is_passed_over_whole(form: int, head: bytes) -> None:
    cursor = Cursor(head + b"ab\7")
    _value(cursor, form, {}, 0, "file.o")
    assert cursor.number(1) == 7
