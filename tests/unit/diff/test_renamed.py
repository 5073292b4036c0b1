# SPDX-License-Identifier: Apache-2.0
"""A variable or function under another name is the old one, or it is said that state is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.kit.differ_inputs import diff_c, summary
from xsplice_plugins.artefacts import Duty

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.toolchain

CLOCK = """
static long seconds; static int nanos; static int count;
int read_clock(int x) { return seconds + nanos + x; }
int set_clock(long s, int n) { seconds = s; nanos = n; return get(1); }
int tick(int x) { return count += put(x, 2); }
"""


def _renamed(text: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        text = text.replace(old, new)
    return text


@pytest.mark.parametrize(
    "pairs",
    [[("seconds", "secs")], [("nanos", "ns"), ("count", "number")]],
    ids=["one", "two of one size"],
)
def test_a_renamed_static_is_the_old_one(tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    delta = diff_c(tmp_path, CLOCK, _renamed(CLOCK, *pairs))
    assert [n.kind for n in delta.new if n.kind != "function"] == []
    assert delta.refused == ()
    assert delta.unchecked == ()
    assert delta.changed == ()


def test_new_code_uses_the_image_s_variable_by_its_old_name(tmp_path: Path) -> None:
    after = _renamed(CLOCK, ("seconds", "secs"), ("get(1)", "get(2)"))
    delta = diff_c(tmp_path, CLOCK, after)
    assert summary(delta)[0] == ["set_clock"]
    assert "file.c#seconds" in {r.target for r in delta.references}
    assert [n for n in delta.new if n.kind == "bss"] == []


def test_a_renamed_static_with_other_uses_is_not_taken_for_proved(tmp_path: Path) -> None:
    after = _renamed(CLOCK, ("seconds", "secs"), ("put(x, 2)", "put(x, 2) + secs"))
    delta = diff_c(tmp_path, CLOCK, after)
    assert len(delta.unchecked) == 1
    assert "state of `seconds` would start again" in delta.unchecked[0]


#: One function stays, byte for byte; another one uses the variable otherwise.
MASK = """
static int mask = 7;
int set_mask(int x) { mask |= x; return get(mask); }
int get_mask(void) { return put(mask, 1); }
"""


def test_a_renamed_static_that_changed_code_uses_as_often(tmp_path: Path) -> None:
    after = _renamed(MASK, ("mask |= x", "mask = (mask + x) & 15"), ("mask", "cache"))
    after = _renamed(after, ("set_cache", "set_mask"), ("get_cache", "get_mask"))
    delta = diff_c(tmp_path, MASK, after)
    assert summary(delta)[0] == ["set_mask"]
    assert delta.unchecked == ()
    assert delta.new == ()


@pytest.mark.parametrize(
    "pairs",
    [
        [("mask, 1", "mask, 1 + mask")],  # no function stays
        [("get(mask)", "get(mask) + mask")],  # used once more
        [("static int mask", "static int second = 7, mask"), ("15;", "15; second--;")],  # like it
    ],
)
def test_a_new_static_in_doubt_is_not_the_old_one(
    tmp_path: Path, pairs: list[tuple[str, str]]
) -> None:
    after = _renamed(MASK, ("mask |= x", "mask = (mask + x) & 15"), *pairs, ("mask", "cache"))
    after = _renamed(after, ("set_cache", "set_mask"), ("get_cache", "get_mask"))
    assert "state of `mask` would start again" in diff_c(tmp_path, MASK, after).unchecked[0]


def test_a_static_of_a_function_moves_to_the_file(tmp_path: Path) -> None:
    before = "int f(int a) { static int mine; return mine += get(a); }"
    after = "static int mine; int f(int a) { return mine += get(a); }"
    delta = diff_c(tmp_path, before, after)
    assert delta.is_empty
    assert delta.notes == ("`mine` is `mine.0` under another name",)


def test_a_renamed_static_function_keeps_its_static(tmp_path: Path) -> None:
    before = """
    static noinline int helper(int a) { static int mine; return mine += get(a); }
    int f(int a) { return helper(a) + 1; }"""
    assert diff_c(tmp_path, before, before.replace("helper", "other")).is_empty


def test_lost_state_is_said(tmp_path: Path) -> None:
    before = """
    int f(int a) { static int mine; return mine += get(a); }
    int g(int a) { return get(a) * 3; }"""
    after = """
    int f(int a) { return get(a); }
    int g(int a) { static int other; return (other += get(a)) * 3; }"""
    delta = diff_c(tmp_path, before, after)
    assert delta.refused == ()
    assert len(delta.unchecked) == 1
    assert "state of `mine.0` would start again" in delta.unchecked[0]


@pytest.mark.parametrize("retyped", ["char number", "long number", "int number[3]"])
def test_a_variable_of_another_name_and_type_starts_again(tmp_path: Path, retyped: str) -> None:
    name = "*number" if "[" in retyped else "number"
    after = _renamed(CLOCK, ("static int count", f"static {retyped}"), ("count +=", f"{name} +="))
    delta = diff_c(tmp_path, CLOCK, after)
    assert [n.symbol for n in delta.new] == ["number"]
    assert delta.unchecked == (
        (
            "state of `count` would start again: new `number` is used where it is no longer; "
            "ACCEPT=STATE:number takes it on your word"
        ),
    )


def test_a_variable_that_a_new_function_keeps_otherwise_starts_again(tmp_path: Path) -> None:
    before = "int f(int a) { static int mine; mine += get(a); return mine; }"
    after = """
    static noinline long keep(int a) { static long all; return all += get(a); }
    int f(int a) { return keep(a); }"""
    delta = diff_c(tmp_path, before, after)
    assert len(delta.unchecked) == 1
    assert "state of `mine.0` would start again: new `all.0`" in delta.unchecked[0]


def test_the_size_of_a_variable_that_is_gone_is_told_unless_nothing_was_kept(
    tmp_path: Path,
) -> None:
    before = """
    static long seconds; static const int table[2] = { 1, 2 };
    int f(int a) { static char warned; return (seconds += a) + table[a] + warned++; }"""
    delta = diff_c(tmp_path, before, "int f(int a) { return a; }")
    gone = {row.name: row.state_bytes for row in delta.removed}
    assert gone["file.c#seconds"] == 8
    assert not any(size for name, size in gone.items() if name != "file.c#seconds")


def test_another_variable_in_code_that_never_used_the_old_one_is_simply_new(tmp_path: Path) -> None:
    before = """
    int f(int a) { static int mine; return mine += get(a); }
    int g(int a) { return get(a) * 3; }"""
    after = """
    int f(int a) { return get(a); }
    int g(int a) { static char other; return (other += get(a)) * 3; }"""
    assert diff_c(tmp_path, before, after).unchecked == ()


def test_a_new_variable_beside_the_old_ones_is_simply_new(tmp_path: Path) -> None:
    after = CLOCK.replace("int tick", "static int extra; int tick").replace("put(x", "put(extra++")
    delta = diff_c(tmp_path, CLOCK, after)
    assert [n.symbol for n in delta.new] == ["extra"]
    assert delta.unchecked == ()


PER_CPU = """
static __attribute__((section(".bss.percpu"))) long per_cpu__seed;
int random(int x) { return per_cpu__seed += get(x); }
"""


def test_a_per_cpu_variable_that_becomes_a_plain_one_starts_again(tmp_path: Path) -> None:
    plain = "static long seed;\nint random(int x) { return seed += get(x); }"
    inner = "int random(int x) { static long seed; return seed += get(x); }"
    for number, after in enumerate((plain, inner)):
        work = tmp_path / str(number)
        work.mkdir()
        delta = diff_c(work, PER_CPU, after)
        seed = "seed.0" if number else "seed"
        assert [row for row in delta.unchecked if "would start again" in row] == [
            (
                "state of `per_cpu__seed` would start again: new "
                f"`{seed}` of the same size is used where it is no longer; "
                f"ACCEPT=STATE:{seed} takes it on your word"
            )
        ]


def test_a_per_cpu_variable_that_is_used_as_before_keeps_its_state(tmp_path: Path) -> None:
    delta = diff_c(tmp_path, PER_CPU, PER_CPU.replace("get(x)", "get(x + 1)"))
    assert (delta.refused, delta.unchecked) == ((), ())
    assert [row.name for row in delta.changed] == ["random"]


TWO_PER_CPU = f"""
static __attribute__((section(".bss.percpu"))) long per_cpu__last;
{PER_CPU}
int again(int x) {{ return per_cpu__last += per_cpu__seed - get(x); }}
"""


def test_a_renamed_per_cpu_variable_is_the_old_one(tmp_path: Path) -> None:
    after = _renamed(TWO_PER_CPU, ("__seed", "__grain"), ("__last", "__final"))
    delta = diff_c(tmp_path, TWO_PER_CPU, after)
    assert delta.is_empty
    assert "`per_cpu__grain` is `per_cpu__seed` under another name" in delta.notes
    work = tmp_path / "more"
    work.mkdir()
    after = _renamed(
        TWO_PER_CPU, ("+= per_cpu__seed", "+= 1 + per_cpu__seed"), ("__seed", "__grain")
    )
    delta = diff_c(work, TWO_PER_CPU, after)
    assert ([row.name for row in delta.changed], delta.refused) == (["again"], ())
    assert "file.c#per_cpu__seed" in {row.target for row in delta.references}


@pytest.mark.parametrize(
    "pairs",
    [
        [("return per_cpu__last += per_cpu__seed", "return per_cpu__seed += per_cpu__last")],
        [("long per_cpu__last", "int per_cpu__last")],
        [("+= per_cpu__seed - get(x)", "+= get(x)")],
        [("return per_cpu__last +=", "get(per_cpu__last); return per_cpu__last +=")],
        [("per_cpu__seed += get(x)", "per_cpu__seed += get(x) + per_cpu__last")],
    ],
    ids=["exchanged", "another size", "used less", "used more", "used elsewhere"],
)
def test_a_per_cpu_variable_that_may_not_be_the_old_one_is_refused(
    tmp_path: Path, pairs: list[tuple[str, str]]
) -> None:
    after = _renamed(TWO_PER_CPU, *pairs, ("__seed", "__grain"), ("__last", "__final"))
    assert "PERCPU" in {row.code for row in diff_c(tmp_path, TWO_PER_CPU, after).refused}


def test_a_plain_variable_that_becomes_per_cpu_is_refused(tmp_path: Path) -> None:
    before = "static long seed;\nint random(int x) { return seed += get(x); }"
    delta = diff_c(tmp_path, before, PER_CPU)
    assert "PERCPU" in {row.code for row in delta.refused}


TWO_READERS = CLOCK + "long since(long x) { return x - seconds; }"


def test_a_new_variable_that_stands_for_one_that_lives_on_knows_nothing(tmp_path: Path) -> None:
    after = _renamed(
        TWO_READERS,
        ("static long seconds;", "static long seconds; static long local;"),
        ("return seconds +", "return local +"),
        ("seconds = s;", "seconds = s; local = s;"),
    )
    delta = diff_c(tmp_path, TWO_READERS, after)
    assert delta.unchecked == (
        (
            "`local` is new: it starts at its first value, and what happened before is not in it; "
            "`read_clock` uses `seconds` less than before; ACCEPT=STATE:local takes it on your word"
        ),
    )
    assert [row.text for row in delta.findings if row.obligation is Duty.EFFECT] == []


def test_a_new_function_may_read_the_new_variable(tmp_path: Path) -> None:
    after = _renamed(
        TWO_READERS,
        (
            "static long seconds;",
            "static long seconds, local;\nstatic noinline long now(void) { return local; }",
        ),
        ("return seconds +", "return now() +"),
        ("seconds = s;", "seconds = s; local = s;"),
    )
    delta = diff_c(tmp_path, TWO_READERS, after)
    assert len(delta.unchecked) == 1
    assert "`local` is new: it starts at its first value" in delta.unchecked[0]


def test_a_new_variable_beside_all_old_reads_stands_for_none(tmp_path: Path) -> None:
    after = _renamed(
        TWO_READERS,
        ("static long seconds;", "static long seconds; static long local;"),
        ("return seconds +", "return local + seconds +"),
        ("seconds = s;", "seconds = s; local = s;"),
    )
    assert diff_c(tmp_path, TWO_READERS, after).unchecked == ()


def test_a_mere_new_variable_is_a_remark(tmp_path: Path) -> None:
    after = CLOCK.replace("int tick", "static int extra; int tick").replace("put(x", "put(extra++")
    delta = diff_c(tmp_path, CLOCK, after)
    assert delta.unchecked == ()
    assert [row.text for row in delta.findings if row.obligation is Duty.EFFECT] == [
        "`extra` is new: it starts at its first value, and what happened before is not in it"
    ]


def test_a_flag_of_a_message_said_once_is_no_remark(tmp_path: Path) -> None:
    after = CLOCK.replace("int tick(int x) {", "int tick(int x) { static char warned; warned = x;")
    delta = diff_c(tmp_path, CLOCK, after.replace("put(x", "put(x + 1"))
    assert [row.text for row in delta.findings if row.obligation is Duty.EFFECT] == []


THREE = """
static int first, second, third; static long apart;
void start(int x) { first = get(x); second = get(x + 1); third = get(x + 2); apart = x; }
int sum(int x) { return put(first + x, second * 3) + put(third, first) + apart; }
int tell(int x) { return first - put(x, second) * third + apart; }
"""
ROUND = (("first", "1"), ("second", "2"), ("third", "3"))


def _exchanged(text: str, to: str) -> str:
    for name, number in ROUND:
        text = text.replace(name, number + "#")
    for (name, _), number in zip(ROUND, to, strict=True):
        text = text.replace(number + "#", name)
    return text


@pytest.mark.parametrize(
    ("to", "names", "more"),
    [
        ("213", "`first`, `second` may", ("", "")),
        ("231", "`first`, `second`, `third` may", ("", "")),
        ("213", "`first`, `second` may", ("return first", "get(x); return first * first")),
        ("123", "", ("put(first + x, second * 3)", "put(second + x, first * 3)")),  # a mistake
        ("123", "", ("+ apart", "- apart")),
    ],
    ids=["two", "three", "beside another change", "in one place alone", "none"],
)
def test_variables_that_stand_in_each_other_s_place_may_be_each_other(
    tmp_path: Path, to: str, names: str, more: tuple[str, str]
) -> None:
    after = _exchanged(THREE.replace(*more, 1), to)
    delta = diff_c(tmp_path, THREE, after)
    assert delta.changed
    assert delta.refused == ()
    assert [row.split(" may")[0] + " may" for row in delta.unchecked] == ([names] if names else [])


@pytest.mark.parametrize(
    ("function", "variable", "is_asked"),
    [
        ("xsplice_owner_shadow", "xsplice_owner_shadows", False),
        ("xsplice_owner_shadow", "xsplice_other_shadows", True),
        ("xsplice_owner_shadow", "seconds_shadows", True),
        ("find", "xsplice_owner_shadows", True),
    ],
)
def test_what_a_shadow_holds_is_asked_about_as_a_member(
    tmp_path: Path, function: str, variable: str, is_asked: bool
) -> None:
    after = _renamed(
        TWO_READERS,
        (
            "static long seconds;",
            f"""static long seconds, {variable};
            noinline long {function}(void) {{ return {variable} += get(1); }}""",
        ),
        ("return seconds +", f"return {function}() +"),
    )
    asked = diff_c(tmp_path, TWO_READERS, after).unchecked
    assert bool(asked) == is_asked, asked


def test_what_is_gone_for_a_member_in_a_shadow_is_asked_about(tmp_path: Path) -> None:
    after = """
    static long xsplice_owner_shadows;
    noinline long xsplice_owner_shadow(void) { return xsplice_owner_shadows += get(1); }
    int f(int a) { return get(a) + xsplice_owner_shadow(); }"""
    before = "static long mine; int f(int a) { return get(a) + (mine += get(1)); }"
    (said,) = diff_c(tmp_path, before, after).unchecked
    assert "state of `mine` would start again: new `xsplice_owner_shadows`" in said
