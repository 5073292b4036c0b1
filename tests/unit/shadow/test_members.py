# SPDX-License-Identifier: Apache-2.0
"""New members are found where they are declared, and taken out of the text."""

from __future__ import annotations

import pytest

from xsplice_plugins.errors import ConfigError, RefusedError
from xsplice_plugins.shadow.members import moved_back, parse_words, put_back, taken_out

OLD = """\
struct other { int lock; };
struct __packed owner
{
    int first; /* lock; */
    struct { int lock; } inner;
    int last;
} __aligned;
int after;
"""


@pytest.mark.parametrize(
    ("declaration", "shown"),
    [
        ("    spinlock_t   lock;\n", "spinlock_t lock"),
        ("    /* Why. */ struct list *lock[2][3]; /* what */\n", "struct list *lock[2][3]"),
        ("    unsigned int lock : 3;\n", "unsigned int lock : 3"),
        ("    DECLARE_BITMAP(lock,\n        8);\n", "DECLARE_BITMAP(lock, 8)"),
        ("#ifdef A\n    bool lock;\n#endif\n", "bool lock"),
    ],
)
def test_a_new_member_is_taken_out(declaration: str, shown: str) -> None:
    texts = {"a.h": OLD.replace("    int last;\n", f"{declaration}    int last;\n")}
    structure = taken_out(texts, {"a.h": OLD}, "owner", ["lock"])
    assert structure.declarations == (shown,)
    assert (structure.name, structure.path) == ("struct owner", "a.h")
    assert texts["a.h"][structure.end_in(texts["a.h"]) :].startswith("} __aligned;\nint after;")
    left = [line for line in texts["a.h"].splitlines() if line not in OLD.splitlines()]
    assert not any("lock" in line for line in left), left


def test_several_members_of_one_structure() -> None:
    texts = {"a.h": OLD.replace("    int last;\n", "    int last;\n    int x;\n    long y;\n")}
    structure = taken_out(texts, {"a.h": OLD}, "owner", ["y", "x"])
    assert structure.declarations == ("long y", "int x")
    assert texts["a.h"] == OLD


@pytest.mark.parametrize(
    ("tag", "member", "words"),
    [
        ("owner", "first", "a member already"),
        ("owner", "gone", "no such member of struct owner itself"),
        ("owner", "a", "no such member of struct owner itself"),  # declared with another one
        ("nobody", "x", "in no patched file"),
    ],
)
def test_what_is_no_new_member_is_refused(tag: str, member: str, words: str) -> None:
    texts = {"a.h": OLD.replace("    int last;\n", "    int last;\n    int a, b;\n")}
    with pytest.raises(RefusedError, match=words):
        taken_out(texts, {"a.h": OLD}, tag, [member])


def test_words_name_a_structure_and_a_member() -> None:
    words = ["domain.lock", "struct domain.count", "vcpu.x", "domain.lock"]
    assert parse_words(words) == {"domain": ["lock", "count"], "vcpu": ["x"]}
    for word in ("domain", "domain.a.b", "", "enum e.x", ".x"):
        with pytest.raises(ConfigError, match=r"is not STRUCTURE\.MEMBER"):
            parse_words([word])


@pytest.mark.parametrize(
    ("gone", "member"),
    [
        ("    int first; /* lock; */\n", "first"),
        ("    int last;\n", "last"),
    ],
)
def test_a_member_that_was_taken_away_goes_back_to_its_place(gone: str, member: str) -> None:
    assert gone in OLD
    texts = {"a.h": OLD.replace(gone, "")}
    put_back(texts, {"a.h": OLD}, "owner", [member])
    kept = [" ".join(line.split("/*")[0].split()) for line in texts["a.h"].splitlines()]
    assert list(filter(None, kept)) == [
        " ".join(x.split("/*")[0].split()) for x in OLD.splitlines()
    ]


@pytest.mark.parametrize(
    ("new", "tag", "member", "words"),
    [
        (OLD, "owner", "first", "takes no such member away"),
        (OLD.replace("    int last;\n", ""), "owner", "gone", "takes no such member away"),
        (OLD.replace("    int last;\n", ""), "nobody", "last", "takes no such member away"),
        (
            OLD.replace("    int last;\n", "").replace("} inner;", "} inside;"),
            "owner",
            "last",
            "what stood before it",
        ),
    ],
)
def test_what_cannot_be_put_back_is_refused(new: str, tag: str, member: str, words: str) -> None:
    texts = {"a.h": new}
    with pytest.raises(RefusedError, match=words):
        put_back(texts, {"a.h": OLD}, tag, [member])
    assert texts == {"a.h": new}


def test_what_is_declared_twice_and_members_of_unions_are_refused() -> None:
    twice = "#ifdef A\n    int lock;\n#else\n    long lock;\n#endif\n    int last;\n"
    for old, new, words in (
        (OLD, OLD.replace("    int last;\n", twice), "more than once"),
        (
            OLD.replace("struct __packed owner", "union __packed owner"),
            OLD.replace("struct __packed owner", "union __packed owner").replace(
                "    int last;\n", "    int lock;\n    int last;\n"
            ),
            "members of a union share memory",
        ),
    ):
        with pytest.raises(RefusedError, match=words):
            taken_out({"a.h": new}, {"a.h": old}, "owner", ["lock"])


MOVED = OLD.replace("    int first; /* lock; */\n", "").replace(
    "    int last;\n", "    int last;\n    int   first; /* moved */\n    int lock;\n"
)


@pytest.mark.parametrize(
    ("edit", "is_put_back"),
    [
        (("", ""), True),
        (("int   first", "long first"), False),
        (("int   first; /* moved */", ""), False),
        (("    int last;", "#ifdef A\n    int last;\n#endif"), False),
        (("int after", "int another"), True),
        (("struct { int lock; } inner;", "struct { int lock; int last; } inner;"), False),
        (("int   first; /* moved */", "#ifdef A\n    int first;\n#endif"), False),
    ],
    ids=[
        "moved",
        "another type",
        "gone",
        "another condition",
        "an edit elsewhere",
        "into another",
        "into a condition",
    ],
)
def test_what_only_moves_is_put_back(edit: tuple[str, str], is_put_back: bool) -> None:
    texts = {"a.h": MOVED.replace(*edit) if edit[0] else MOVED}
    structure = taken_out(texts, {"a.h": OLD}, "owner", ["lock"])
    left = texts["a.h"]
    assert moved_back(texts, {"a.h": OLD}, structure) == is_put_back
    wanted = OLD.replace(*edit) if edit[0] else OLD
    assert texts["a.h"] == (wanted if is_put_back else left)


def test_nothing_that_stands_where_it_was_is_touched() -> None:
    texts = {"a.h": OLD.replace("    int last;\n", "    int last; /* new words */\n    int x;\n")}
    structure = taken_out(texts, {"a.h": OLD}, "owner", ["x"])
    assert not moved_back(texts, {"a.h": OLD}, structure)
    assert "new words" in texts["a.h"]


def test_what_leaves_a_union_is_no_move() -> None:
    text = "struct owner\n{{\n    union {{\n    int a;\n{0}    }};\n{1}    int c;\n}};\n"
    old, new = text.format("    int b;\n", ""), text.format("", "    int b;\n    int x;\n")
    texts = {"a.h": new}
    structure = taken_out(texts, {"a.h": old}, "owner", ["x"])
    assert not moved_back(texts, {"a.h": old}, structure)
