# SPDX-License-Identifier: Apache-2.0
"""Hooks that run after the payload's functions, which may have changed its variables."""

from __future__ import annotations

import dataclasses

import pytest

from tests.kit.acting import do
from tests.kit.payloads import ALLOC, UND, WRITE, Draft, Rel, Sec, Sym, add_code, add_hook, minimal
from tests.kit.tiny_xen import TEXT_VIRT, tiny_xen
from xsplice_plugins.hypervisor import Command, Hypervisor, KnownSymbol, Unknown, release
from xsplice_plugins.hypervisor.facts.arches import ARM64, X86_64
from xsplice_plugins.hypervisor.run import worlds
from xsplice_plugins.hypervisor.run.touched import touched_by_functions

MISSING = {"xfree", "_xmalloc"}  #: of the hypervisor as the tests have it
Code = tuple[str, list[tuple[int, int, str, int]]]
ADDS: Code = ("ff0500000000c3", [(2, 2, "kept", -4)])  # kept++
READS: Code = ("8b0500000000c3", [(2, 2, "kept", -4)])
SETS: Code = ("c7050000000005000000c3", [(2, 2, "kept", -8)])  # kept = 5
#: if (kept) kept = 0
CLEARS: Code = (
    "833d0000000000740a c7050000000000000000 c3",
    [(2, 2, "kept", -5), (11, 2, "kept", -8)],
)
TAKES: Code = ("488d0500000000c3", [(3, 2, "kept", -4)])
CALLS: Code = ("e800000000c3", [(1, 4, "own", -4)])
#: BUG if kept is not zero; answer what kept holds; wait until it is zero
TRAP: Code = ("833d00000000007402 0f0b c3", [(2, 2, "kept", -5)])
ANSWER: Code = READS
WAIT: Code = ("833d000000000075f7 c3", [(2, 2, "kept", -5)])
#: while ((it = kept)) { kept = it->next; xfree(it); }
FREES: Code = (
    "53 488b3d00000000 4885ff 7411 488b07 48890500000000 e800000000 ebe3 5b c3",
    [(4, 2, "kept", -4), (19, 2, "kept", -4), (24, 4, "xfree", -4)],
)
#: while ((it = kept)) { xfree(it); kept = it->next; }
USES_FREED: Code = (
    "53 488b3d00000000 4885ff 7414 4889fb e800000000 488b03 48890500000000 ebe0 5b c3",
    [(4, 2, "kept", -4), (17, 4, "xfree", -4), (27, 2, "kept", -4)],
)
#: other = kept; kept = 0
MOVES: Code = (
    "488b0500000000 48890500000000 48c7050000000000000000 c3",
    [(3, 2, "kept", -4), (10, 2, "other", -4), (17, 2, "kept", -8)],
)
FREES_OTHER: Code = (FREES[0], [(at, kind, "other" if name == "kept" else name, more)
                                for at, kind, name, more in FREES[1]])  # fmt: skip


def draft_of(own: Code, **hooks: Code) -> Draft:
    """Draft a payload with a function beside its hooks."""
    draft = minimal()
    draft.sections.append(Sec(".data", b"\0" * 16, flags=ALLOC | WRITE, align=8))
    draft.symbols += [Sym("kept", ".data", size=8), Sym("other", ".data", value=8, size=8)]
    draft.symbols += [Sym("xfree", UND), Sym("_xmalloc", UND)]
    for name, (text, relocs) in {"own": own, **hooks}.items():
        add_code(draft, name, bytes.fromhex(text), [Rel(*row) for row in relocs])
        if name != "own":
            add_hook(draft, name, name)
    return draft


def life(draft: Draft) -> str:
    """Apply, revert and unload; say what nobody knows."""
    image = tiny_xen()
    place = TEXT_VIRT["x86_64"] + 0x600
    known = {
        name: KnownSymbol(name=name, addr_virt=addr, size_bytes=16, is_function=True)
        for name, addr in (("xfree", place), ("_xmalloc", place + 16))
    }
    image = dataclasses.replace(image, symbols={**image.symbols, **known})
    hv = Hypervisor(image, release("4.17.5"))
    assert hv.upload(b"a\0", draft.build()).code == 0
    try:
        assert [do(hv, "a", c) for c in (Command.APPLY, Command.REVERT, Command.UNLOAD)] == [0] * 3
    except Unknown as unknown:
        return unknown.reason
    return ""


@pytest.mark.parametrize(
    ("kind", "hook", "words"),
    [
        ("unload", TRAP, "crash at"),
        ("unload", WAIT, "it does not return"),
        ("prerevert", ANSWER, "the hook answers otherwise"),
        ("unload", FREES, "memory is asked for while all CPUs wait"),
        ("prerevert", FREES, "the hook before revert frees memory"),
        ("prerevert", CLEARS, "the hook before revert changes kept"),
        ("postrevert", USES_FREED, "is used after it was given back"),
    ],
    ids=["traps", "waits", "answers", "frees too early", "frees before", "changes", "after free"],
)
def test_what_functions_change_is_not_as_at_first(kind: str, hook: Code, words: str) -> None:
    hook = (f"{hook[0][:-2]}31c0c3", hook[1]) if kind == "prerevert" and hook != ANSWER else hook
    found = life(draft_of(ADDS, **{kind: hook}))
    assert found.startswith("depends on kept, which the payload's own functions change: with ")
    assert words in found
    if kind != "prerevert" or hook == ANSWER:
        assert life(draft_of(READS, **{kind: hook})) == "", "only hooks change it"


#: it = _xmalloc(100); it->next = 0 (if there is an it)
BORROWS: Code = ("50 bf64000000 e800000000 48c70000000000 59 c3", [(7, 4, "_xmalloc", -4)])
ASKS: Code = ("50 bf64000000 e800000000 4885c0 7407 48c70000000000 59 c3", BORROWS[1])


@pytest.mark.parametrize("hook", [ASKS, BORROWS], ids=["asks", "does not"])
def test_a_hook_asks_whether_there_was_memory(hook: Code) -> None:
    words = "depends on memory: where an allocation gives NULL: crash at postapply"
    assert life(draft_of(READS, postapply=hook)).startswith(words if hook == BORROWS else "")
    assert bool(life(draft_of(READS, postapply=hook))) is (hook == BORROWS)


def allocates(*asks: bool, is_lavish: bool = False) -> Code:
    """Allocate objects and write to each; ask for each whether there was memory, or not.

    Who is lavish gets along without an object, others leave.
    """
    text, relocs = "", []
    for at, is_asked in enumerate(reversed(asks)):
        write = "48c70000000000"
        leave = len(bytes.fromhex(text)) if not is_lavish and at else 0
        test = f"4885c0 0f84{(7 + leave).to_bytes(4, 'little').hex()}" if is_asked else ""
        part = f"bf64000000 e800000000 {test} {write}"
        size = len(bytes.fromhex(part))
        relocs = [6, *(place + size for place in relocs)]
        text = f"{part} {text}"
    return f"50 {text} 59 c3", [(1 + place, 4, "_xmalloc", -4) for place in relocs]


@pytest.mark.parametrize("is_lavish", [False, True], ids=["leaves", "goes on"])
@pytest.mark.parametrize("careless", [0, 1, 2, 3])
def test_each_allocation_may_be_the_one_that_fails(careless: int, *, is_lavish: bool) -> None:
    asks = [number != careless for number in (1, 2, 3)]
    found = life(draft_of(READS, postapply=allocates(*asks, is_lavish=is_lavish)))
    # With no memory at all a hook that leaves comes no further than its first allocation.
    alone = "" if careless == 1 or is_lavish else f" (number {careless} alone)"
    words = f"depends on memory: where an allocation gives NULL{alone}: crash at postapply"
    assert found.startswith(words) if careless else found == ""


@pytest.mark.parametrize("careless", [8, 9])
def test_so_many_allocations_fail_alone(careless: int) -> None:
    hook = allocates(*(number != careless for number in range(1, 10)))
    assert ("(number 8 alone)" in life(draft_of(READS, postapply=hook))) is (careless == 8)


@pytest.mark.parametrize(
    "hooks",
    [{"postrevert": FREES}, {"unload": MOVES, "postrevert": FREES_OTHER}, {"unload": SETS}],
    ids=["a list is freed", "a list is moved first", "a variable is set"],
)
def test_a_hook_that_goes_well_whatever_functions_did_is_fine(hooks: dict[str, Code]) -> None:
    assert life(draft_of(ADDS, **hooks)) == ""


def frees_table(entries: int) -> Draft:
    """Draft a payload whose hook frees what each pointer of a table leads to."""
    count = entries.to_bytes(4, "little").hex()
    #: for (i = 0; i < entries; i++) xfree(kept[i])
    hook: Code = (
        f"53 31db 488d0500000000 488b3cd8 e800000000 ffc3 81fb{count} 75e6 5b c3",
        [(6, 2, "kept", -4), (15, 4, "xfree", -4)],
    )
    draft = draft_of(ADDS, postrevert=hook)
    section = next(section for section in draft.sections if section.name == ".data")
    kept, other = (next(s for s in draft.symbols if s.name == name) for name in ("kept", "other"))
    section.data = bytes(8 * entries + 8)
    kept.size = other.value = 8 * entries
    return draft


@pytest.mark.parametrize("more", [0, 1])
def test_a_table_of_pointers_is_followed_up_to_a_limit(
    more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert worlds._POINTERS_MAX >= 64, "a table with an entry for each CPU"
    monkeypatch.setattr(worlds, "_POINTERS_MAX", 16)
    found = life(frees_table(16 + more))
    assert found == more * (
        "depends on kept, which the payload's own functions change: more than 16 pointers are not "
        "followed"
    )


def test_what_one_hook_made_of_a_changed_variable_is_unknown_to_the_next() -> None:
    trap = (TRAP[0], [(2, 2, "other", -5)])
    assert "crash at" in life(draft_of(ADDS, unload=MOVES, postrevert=trap))
    assert life(draft_of(READS, unload=MOVES, postrevert=trap)) == ""


@pytest.mark.parametrize(
    ("own", "used", "changed"),
    [(ADDS, True, True), (SETS, True, True), (TAKES, True, True), (READS, True, False),
     (("c3", []), False, False)],
    ids=["adds", "sets", "takes its address", "reads", "does nothing"],
)  # fmt: skip
def test_code_tells_which_variables_it_may_change(own: Code, used: bool, changed: bool) -> None:
    hv = Hypervisor(tiny_xen(), release("4.17.5"))
    draft = draft_of(own, unload=SETS)
    draft.symbols = [symbol for symbol in draft.symbols if symbol.name not in MISSING]
    assert hv.upload(b"a\0", draft.build()).code == 0
    found = touched_by_functions(hv.payloads[-1], X86_64)
    kept = next(s.addr_virt for s in hv.payloads[-1].symbols if s.name == "kept")
    assert ((kept, kept + 8) in found.used, (kept, kept + 8) in found.changed) == (used, changed)
    assert touched_by_functions(hv.payloads[-1], ARM64).changed, "there nobody reads the code"


@pytest.mark.parametrize("is_used", [True, False])
def test_what_a_hook_lets_functions_find_may_be_changed(*, is_used: bool) -> None:
    #: other = &kept, by a hook; other->it++, by the function
    lends: Code = (
        "488d0500000000 48890500000000 c3",
        [(3, 2, "kept", -4), (10, 2, "other", -4)],
    )
    adds: Code = ("488b0500000000 ff00 c3", [(3, 2, "other", -4)])
    found = life(draft_of(adds if is_used else ("c3", []), load=lends, unload=TRAP))
    assert ("crash at" in found) is is_used


@pytest.mark.parametrize("is_called_by_hooks", [True, False])
def test_a_function_that_only_hooks_call_is_theirs(*, is_called_by_hooks: bool) -> None:
    draft = draft_of(ADDS, unload=CALLS, postrevert=TRAP)
    if not is_called_by_hooks:
        add_code(draft, "more", bytes.fromhex(CALLS[0]), [Rel(*row) for row in CALLS[1]])
    hv = Hypervisor(tiny_xen(), release("4.17.5"))
    draft.symbols = [symbol for symbol in draft.symbols if symbol.name not in MISSING]
    assert hv.upload(b"a\0", draft.build()).code == 0
    assert bool(touched_by_functions(hv.payloads[-1], X86_64).changed) != is_called_by_hooks
