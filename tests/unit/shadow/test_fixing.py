# SPDX-License-Identifier: Apache-2.0
"""A fix is written again with its new members in shadows; the tree's compiler says where."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.kit.tiny_tree import TinyTree
from xsplice_plugins import cli
from xsplice_plugins.artefacts import PatchSet
from xsplice_plugins.errors import CaptureError, ConfigError, RefusedError
from xsplice_plugins.kbuild.tree import locate_tree
from xsplice_plugins.patch import patched_files
from xsplice_plugins.shadow import Rewritten, shadow_fix

pytestmark = pytest.mark.toolchain

#: What of Xen the store asks for, as far as a compiler sees it.
HEADERS = {
    "compiler.h": "#define noinline __attribute__((noinline))\n",
    "irq.h": "int in_irq(void);\nint local_irq_is_enabled(void);\n",
    "livepatch_payload.h": "typedef struct payload livepatch_payload_t;\n"
    "#define LIVEPATCH_POSTREVERT_HOOK(f) void (*hook_##f)(livepatch_payload_t *) = f\n",
    "spinlock.h": "typedef struct { int taken; } spinlock_t;\n#define DEFINE_SPINLOCK(l) "
    "spinlock_t l\n#define spin_lock(l) take(l)\nvoid take(spinlock_t *);\n"
    "void spin_lock_init(spinlock_t *);\n"
    "#define spin_lock_irqsave(l, f) ((f) = 1, take(l))\n"
    "void spin_unlock_irqrestore(spinlock_t *, unsigned long);\n",
    "xmalloc.h": "void *_xmalloc(unsigned long);\n"
    "#define xmalloc_array(type, n) ((type *)_xmalloc((n) * sizeof(type)))\n"
    "void xfree(void *);\nvoid put(void *);\n"
    "#define xmalloc(type) ((type *)_xmalloc(sizeof(type)))\n"
    "#define XFREE(p) do { xfree(p); (p) = 0; } while (0)\n",
    "lib.h": "#define NULL ((void *)0)\n#define bool _Bool\n"
    "#define cf_check\n#define FILE_NAME __FILE__\n#define offsetof __builtin_offsetof\n"
    "void panic(const char *, ...);\nvoid *memset(void *, int, unsigned long);\n",
    "owner.h": "#include <xen/spinlock.h>\n#include <xen/lib.h>\nstruct owner\n{\n"
    "    struct owner *next;\n    int first;\n};\n"
    "static inline int first(const struct owner *o) { return o->first; }\n",
}
#: Somebody must define what the headers promise; what it does is no matter.
STUBS = """
#include <xen/irq.h>
#include <xen/owner.h>
#include <xen/xmalloc.h>
int in_irq(void) { return 0; }
int local_irq_is_enabled(void) { return 1; }
void take(spinlock_t *l) { l->taken = 1; }
void spin_lock_init(spinlock_t *l) { l->taken = 0; }
void spin_unlock_irqrestore(spinlock_t *l, unsigned long f) { l->taken = (int)f; }
void *_xmalloc(unsigned long size) { return (void *)size; }
void xfree(void *p) { (void)p; }
void put(void *p) { (void)p; }
void panic(const char *text, ...) { (void)text; }
void *memset(void *p, int c, unsigned long n) { (void)c; (void)n; return p; }
void owner_free_names(struct owner *o) { o->first = 0; }
"""
USER = """\
#include <xen/owner.h>
#include <xen/xmalloc.h>
struct owner top = { .first = 1 };
struct owner *make(void)
{
    struct owner *o = xmalloc(struct owner);

    o->first = 1;
    return o;
}
void owner_free(struct owner *o)
{
    if ( o->first )
        xfree(o);
}
void owner_free_names(struct owner *o);
void end(struct owner *o, int *other)
{
    owner_free_names(o);
    owner_free(o);
    XFREE(o->next);
    xfree(other);
}
int user(struct owner *o)
{
    return o->first + first(o->next);
}
"""
FIRST = "    int first;\n"
HEADER_FILE, USER_FILE = "xen/include/xen/owner.h", "xen/common/user.c"
MEMBERS = (HEADER_FILE, FIRST, f"{FIRST}    spinlock_t lock;\n    int count;\n")
LOCK = (USER_FILE, "    o->first = 1;\n", "    o->first = 1;\n    spin_lock_init(&o->lock);\n")
USE = (
    USER_FILE,
    "    return o->first + first(o->next);\n",
    (
        "    spin_lock(&o->lock);\n    (&top)->count += o->next->count++;\n"
        "    return first(o->next) + top.count + o[o->count]\n        .count;\n"
    ),
)
INLINE = (HEADER_FILE, "return o->first;", "return o->first + o->count;")


@pytest.fixture
def tree(tmp_path: Path) -> TinyTree:
    tiny = TinyTree(tmp_path / "tree", flags="-Wall -Werror")
    for name, text in HEADERS.items():
        (tiny.root / "xen/include/xen" / name).write_text(f"#pragma once\n{text}")
    (tiny.root / USER_FILE).write_text(USER)
    with (tiny.root / "xen/common/version.c").open("a") as file:
        file.write(STUBS)
    tiny.build()
    return tiny


def made(tree: TinyTree, *edits: tuple[str, str, str], words: str = "") -> Rewritten:
    """Write a fix of some edits again."""
    located = locate_tree(tree.root)
    return shadow_fix(located, tree.patch(*edits), (words or "owner.lock owner.count").split())


def texts_of(tree: TinyTree, done: Rewritten) -> dict[str, str]:
    """Return the files that a written patch changes, as they are with it."""
    fix: PatchSet = tree.patch_text(done.text)
    files = patched_files(fix, tree.root)
    return {path: (data or b"").decode() for path, data in files.items()}


def test_every_use_is_led_to_the_shadow(tree: TinyTree) -> None:
    before = {path: path.read_bytes() for path in tree.root.rglob("*") if path.is_file()}
    done = made(tree, MEMBERS, LOCK, USE, INLINE)
    texts = texts_of(tree, done)
    assert texts[HEADER_FILE].count("struct owner\n{\n    struct owner *next;\n    int first;\n};")
    assert "    spinlock_t lock;\n    int count;\n};\n" in texts[HEADER_FILE]
    assert "return o->first + xsplice_owner_shadow(o)->count;" in texts[HEADER_FILE]
    user = texts[USER_FILE]
    assert "    spin_lock(&xsplice_owner_shadow(o)->lock);\n" in user
    assert "xsplice_owner_shadow((&top))->count += xsplice_owner_shadow(o->next)->count++" in user
    assert "xsplice_owner_shadow(&(top))->count +" in user
    assert "xsplice_owner_shadow(&(o[xsplice_owner_shadow(o)->count]))->count;" in user
    assert "    s->of = of;\n    spin_lock_init(&s->lock);\n}" in user
    assert {path: path.read_bytes() for path in before} == before
    assert any(
        "uses: 7 in xen/common/user.c, 1 in xen/include/xen/owner.h" in n for n in done.notes
    )


def test_shadows_go_where_memory_of_an_object_is_freed(tree: TinyTree) -> None:
    done = made(tree, MEMBERS, LOCK, USE)
    user = texts_of(tree, done)[USER_FILE]
    assert "        ({ xsplice_owner_drop(o); xfree(o); });\n" in user
    assert "    ({ xsplice_owner_drop(o->next); XFREE(o->next); });\n" in user
    assert "    owner_free_names(o);\n    owner_free(o);\n" in user
    assert "    xfree(other);\n" in user
    [note] = [note for note in done.notes if "objects die in" in note]
    assert "owner_free (xen/common/user.c), end (xen/common/user.c)" in note


def test_what_nobody_can_tell_is_for_a_person_to_look_at(tree: TinyTree) -> None:
    (tree.root / USER_FILE).write_text(USER.replace("xfree(o)", "put(o)").replace("XFREE", "put"))
    tree.build()
    pointer = (HEADER_FILE, FIRST, f"{FIRST}    struct owner *count;\n")
    use = (USER_FILE, "return o->first +", "return !o->count +")
    done = made(tree, pointer, use, words="owner.count")
    looks = [note for note in done.notes if note.startswith("LOOK: ")]
    assert any("`count` starts as zero" in note for note in looks)
    assert any("what `count` leads to" in note for note in looks)
    assert any("where objects of struct owner are freed was not found" in note for note in looks)


def test_where_more_may_die_is_said(tree: TinyTree) -> None:
    """A pointer that is not to be named twice, a function that may wait, objects in arrays."""
    text = USER.replace("xfree(o)", "xfree(unlinked(o))").replace("XFREE(o->next)", "later_free(o)")
    text = text.replace("xmalloc(struct owner)", "xmalloc_array(struct owner, 4)")
    more = "struct owner *unlinked(struct owner *o);\nvoid later_free(void *p);\nstruct owner *make"
    (tree.root / USER_FILE).write_text(text.replace("struct owner *make", more, 1))
    with (tree.root / "xen/common/version.c").open("a") as file:
        file.write(
            "struct owner *unlinked(struct owner *o) { return o; }\nvoid later_free(void *p)"
        )
        file.write(" { put(p); }\n")
    tree.build()
    done = made(tree, MEMBERS, USE, words="owner.lock owner.count")
    user = texts_of(tree, done)[USER_FILE]
    assert "xsplice_owner_drop(o" not in user.replace("xsplice_owner_drop(const", "")
    [doubtful] = [note for note in done.notes if "an object may die there too" in note]
    assert "user.c:16 (xfree), xen/common/user.c:23 (later_free)" in doubtful
    assert any("objects of struct owner are made in arrays" in note for note in done.notes)


def test_what_makes_more_than_itself_ready_is_not_called_again(tree: TinyTree) -> None:
    init = (USER_FILE, "    o->first = 1;\n", "    o->first = 1;\n    count_init(&o->count);\n")
    head = (
        HEADER_FILE,
        "static inline int first",
        "void count_init(int *);\nstatic inline int first",
    )
    done = made(tree, MEMBERS, head, init, USE)
    assert "    count_init(&s->count);" not in texts_of(tree, done)[USER_FILE]
    assert any("LOOK: `count` starts as zero" in note for note in done.notes)


def test_two_structures_may_have_new_members_of_one_name(tree: TinyTree) -> None:
    path, other = tree.root / HEADER_FILE, "struct other\n{\n    int a;\n};\nstatic inline"
    path.write_text(path.read_text().replace("static inline", other, 1))
    tree.build()
    two = "int two(struct other *o);\nint two(struct other *o) { return o->count; }\n"
    edits = [
        (HEADER_FILE, FIRST, f"{FIRST}    int count;\n"),
        (HEADER_FILE, "    int a;\n", "    int a;\n    int count;\n"),
        (USER_FILE, "int user(struct owner *o)", f"{two}int user(struct owner *o)"),
        (USER_FILE, "return o->first +", "return o->count +"),
    ]
    user = texts_of(tree, made(tree, *edits, words="owner.count"))[USER_FILE]
    assert "int two(struct other *o) { return o->count; }" in user
    assert "return xsplice_owner_shadow(o)->count +" in user
    with pytest.raises(RefusedError, match="name the members of one structure"):
        made(tree, *edits, words="owner.count other.count")


def test_an_initialiser_by_place_is_refused(tree: TinyTree) -> None:
    (tree.root / USER_FILE).write_text(USER.replace("{ .first = 1 }", "{ 0, 1 }"))
    tree.build()
    wide = (HEADER_FILE, "    int first;\n", "    int count;\n    int first;\n")
    use = (USER_FILE, "return o->first +", "return o->count +")
    place = (USER_FILE, "{ 0, 1 }", "{ 0, 2, 1 }")
    with pytest.raises(RefusedError, match=r"user\.c:3: an initialiser gives values by place"):
        made(tree, wide, use, place, words="owner.count")
    for text in ("{ 0 }", "{ }", "{ .first = 1 }"):
        count = "#define COUNT(p) ((p)->first)\n"
        (tree.root / USER_FILE).write_text(count + USER.replace("{ .first = 1 }", text))
        tree.build()
        macro = (USER_FILE, count, "#define COUNT(p) ((void *)(p)->count)\n")
        used = (USER_FILE, "return o->first +", "return !COUNT(o) +")
        far = (HEADER_FILE, FIRST, f"    void *count;\n{FIRST}")
        user = texts_of(tree, made(tree, far, macro, used, words="owner.count"))[USER_FILE]
        assert "#define COUNT(p) ((void *)xsplice_owner_shadow((p))->count)" in user


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (
            (USER_FILE, "return o->first", "return __builtin_offsetof(struct owner, count)"),
            "user.c:26: `count` is used there otherwise than by -> or .",
        ),
        ((USER_FILE, "{ .first = 1 }", "{ .first = 1, .count = 2 }"), "user.c:3: `count` is"),
        (
            (USER_FILE, "return o->first", "return offsetof(struct owner, count)"),
            "lib.h:6: `count` is used by a macro of that file",
        ),
        (None, "no C file of the fix uses it"),
    ],
)
def test_a_use_that_no_shadow_serves_is_refused(
    tree: TinyTree, edit: tuple[str, str, str] | None, words: str
) -> None:
    with pytest.raises((RefusedError, CaptureError), match=words):
        made(tree, *([MEMBERS, edit] if edit else [MEMBERS]), words="owner.count")


def test_a_member_that_the_fix_takes_away_may_stay(tree: TinyTree) -> None:
    gone = (HEADER_FILE, "    struct owner *next;\n", "    int count;\n")
    uses = (USER_FILE, "    XFREE(o->next);\n", "    o->count = 1;\n")
    more = (USER_FILE, "first(o->next)", "first(o)")
    words = {"words": ["owner.count"], "kept": ["owner.next"]}
    fix = tree.patch(gone, uses, more)
    done = shadow_fix(locate_tree(tree.root), fix, **words)
    header = texts_of(tree, done)[HEADER_FILE]
    assert "struct owner\n{\n    struct owner *next;\n    int first;\n};" in header
    assert done.notes[0] == "owner: `next` stays, unused by the fix"
    with pytest.raises(ConfigError, match="give --member or --keep"):
        shadow_fix(locate_tree(tree.root), fix, [])


def test_a_fix_that_does_not_compile_is_refused(tree: TinyTree) -> None:
    wrong = (USER_FILE, "return o->first", "return o->count + none")
    with pytest.raises(CaptureError, match=r"user\.c:26:.*none"):
        made(tree, MEMBERS, wrong, words="owner.count")


def test_the_command_writes_a_patch_that_the_next_one_takes(
    tree: TinyTree, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree.patch(MEMBERS, LOCK, USE)
    words = ["shadow", str(tmp_path / "fix.patch"), "--xen", str(tree.root)]
    out = tmp_path / "new.patch"
    members = ["--member", "owner.lock", "--member", "owner.count"]
    assert cli.main([*words, *members, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert said.endswith(f"written to {out}\n")
    assert "lock: made ready by spin_lock_init()" in said
    subprocess.run(["patch", "-p1", "-i", out], cwd=tree.root, check=True, stdout=subprocess.PIPE)
    tree.build()
    assert cli.main([*words, "--member", "owner.gone", "--out", str(tmp_path / "no.patch")]) != 0
    assert not (tmp_path / "no.patch").exists()
    source = tree.root / "xen/common/boot.c"
    assert cli.main([*words, *members, "--out", str(source)]) == 2
    assert source.read_text() == "int boot(void)\n{\n    return 0;\n}\n"


@pytest.mark.parametrize("length", ["", "0", " 0 "])
def test_an_array_without_a_length_is_refused(tree: TinyTree, length: str) -> None:
    member = (HEADER_FILE, FIRST, f"{FIRST}    int count[{length}];\n")
    use = (USER_FILE, "return o->first +", "return o->count[1] + o->first +")
    with pytest.raises(RefusedError, match=r"owner\.count: an array without a length"):
        made(tree, member, use, words="owner.count")


def test_files_that_may_free_what_others_make_are_said(tree: TinyTree) -> None:
    """Also where a death is known in the file that makes objects."""

    def said(path: str) -> bool:
        (row,) = (note for note in made(tree, MEMBERS, LOCK, USE).notes if "made elsewhere" in note)
        return row.startswith("LOOK: ") and path in row

    head, path = "#include <xen/owner.h>\nvoid xfree(void *);\n", "xen/common/other.c"
    for text, is_said in (
        (f"{head}void other(struct owner *o) {{ xfree(o); }}\n", True),
        ("/* struct owner */ void xfree(void *); void other(int *o) { xfree(o); }\n", False),
        ("#include <xen/owner.h>\nint other(struct owner *o) { return o->first; }\n", False),
    ):
        (tree.root / path).write_text(text)
        assert said(path) == is_said
    for path, is_said in (("xen/arch/arm/a.c", False), ("xen/arch/x86/a.c", True)):
        (tree.root / path).parent.mkdir(parents=True, exist_ok=True)
        (tree.root / path).write_text("void a(struct owner *o) { xfree(o); }\n")
        assert said(path) == is_said
