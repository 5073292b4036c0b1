# SPDX-License-Identifier: Apache-2.0
"""Boot code of a fix, over all its objects: its own verdict, a note, or a refusal."""

import pytest
from msgspec.structs import replace

from tests.unit.pipeline.test_accepting import record
from xsplice_plugins.artefacts import (
    BootOnly,
    Cause,
    ChangedFunction,
    Delta,
    Duty,
    NewItem,
    NewVariable,
    NoppedRange,
    OldPlace,
    Refusal,
    Severity,
)
from xsplice_plugins.errors import NoFunctionalChangeError, RefusedError
from xsplice_plugins.pipeline import refusal_text
from xsplice_plugins.pipeline.boot import check_boot, left_by_boot, set_by_boot

FUNCTION = ChangedFunction(
    name="run",
    reason="its instructions changed",
    cause=Cause.SOURCE,
    symbol="run",
    symbol_baseline="run",
    section=".text.run",
    size_before_bytes=16,
    size_after_bytes=16,
)
NOPS = NoppedRange(name="run", place=OldPlace(symbol="run"), size_bytes=5, reason="asked for")


def delta(path: str = "a.o", **fields: object) -> Delta:
    return Delta(
        object_path=path,
        source_path="a.c",
        profile="xen",
        machine=62,
        digest_new="x",
        **fields,  # type: ignore[arg-type]  # fields of a delta
    )


def boot(*, is_own: bool, needs: tuple[str, ...] = (), leaves_same: bool = False) -> BootOnly:
    return BootOnly(
        name="start",
        reason="`start` runs only at boot (.init.text)",
        code="INIT_CODE",
        is_own=is_own,
        needs=needs,
        leaves_same=leaves_same,
    )


def item(kind: str, symbol: str = "state") -> NewItem:
    return NewItem(name=symbol, reason="new", kind=kind, symbol=symbol, section=".bss")


@pytest.mark.parametrize("is_own", [True, False])
def test_boot_code_alone_has_a_verdict_of_its_own(is_own: bool) -> None:
    rows = [delta(boot=(boot(is_own=is_own),)), delta("b.o", new=(item("bss"),))]
    with pytest.raises(NoFunctionalChangeError, match=r"boot only: .*\(`start`\); .* next boot"):
        check_boot(rows)


def test_what_boot_hands_on_is_no_matter_of_boot_alone() -> None:
    """Nothing that runs was changed, and yet the rebuilt hypervisor runs something else."""
    row = replace(boot(is_own=True), name="ops", code="INIT_DATA", outlives=True)
    with pytest.raises(RefusedError, match=r"a\.o: ops: .* keeps what it was given \[INIT_DATA\]"):
        check_boot([delta(boot=(row, boot(is_own=True)))])


def test_what_absorbs_is_a_note_and_what_was_edited_is_refused() -> None:
    runs = delta("b.o", changed=(FUNCTION,))
    (note,) = check_boot([delta(boot=(boot(is_own=False),)), runs])
    assert note.startswith("`start` runs only at boot")
    with pytest.raises(RefusedError, match=r"a\.o: start: .*\[INIT_CODE\]"):
        check_boot([delta(boot=(boot(is_own=True),)), runs])


@pytest.mark.parametrize("kind", ["bss", "data"])
def test_state_that_another_object_brings_would_not_have_been_made(kind: str) -> None:
    row = boot(is_own=False, needs=("state",))
    runs = delta("b.o", changed=(FUNCTION,), new=(item(kind),))
    with pytest.raises(RefusedError, match="uses new `state`"):
        check_boot([delta(boot=(row,)), runs])
    other = delta("b.o", changed=(FUNCTION,), new=(item(kind, "other"),))
    assert len(check_boot([delta(boot=(row,)), other])) == 1


@pytest.mark.parametrize("fields", [{"nopped": (NOPS,)}, {"new": (item("hook", "h"),)}])
def test_hooks_and_nops_run_too(fields: dict[str, object]) -> None:
    assert len(check_boot([delta(boot=(boot(is_own=False),)), delta("b.o", **fields)])) == 1


def test_what_boot_left_is_not_checked_unless_it_is_shown_to_be_the_same() -> None:
    runs = delta("b.o", changed=(FUNCTION,))
    (finding,) = left_by_boot("fix", [delta(boot=(boot(is_own=False),)), runs], {})
    assert (finding.severity, finding.obligation) == (Severity.UNCHECKED, Duty.DATA)
    assert finding.text.startswith(
        "a.o: `start` runs only at boot (.init.text); boot ran with the old code"
    )
    assert (
        left_by_boot("fix", [delta(boot=(boot(is_own=False, leaves_same=True),)), runs], {}) == ()
    )


def test_edited_boot_code_is_left_out_on_a_persons_word() -> None:
    rows = [delta(boot=(boot(is_own=True),)), delta("b.o", changed=(FUNCTION,))]
    with pytest.raises(RefusedError, match=r"ACCEPT=INIT_CODE:start leaves it out on your word"):
        check_boot(rows, ("INIT_CODE:other",))
    assert check_boot(rows, ("INIT_CODE:start",)) == ()
    (finding,) = left_by_boot("fix", rows, {})
    assert (finding.severity, finding.question) == (Severity.UNCHECKED, "INIT_CODE:start")


def test_a_word_makes_no_payload_of_boot_code_alone() -> None:
    with pytest.raises(NoFunctionalChangeError):
        check_boot([delta(boot=(boot(is_own=True),))], ("INIT_CODE:start",))


def test_without_boot_code_there_is_nothing_to_say() -> None:
    assert check_boot([delta(changed=(FUNCTION,)), delta("b.o")]) == ()


def test_a_layout_is_counted_in_every_object_if_one_is_refused_for_it() -> None:
    row = Refusal(name="struct s: field a", reason="it moves", code="LAYOUT", hint="leave it")
    assert not refusal_text([delta(moot=(row,)), delta("b.o", moot=(row,))])
    text = refusal_text([delta(moot=(row,)), delta("b.o", refused=(row,))])
    assert text.startswith("a.o and 1 more: struct s: field a")


def test_who_would_have_set_a_new_variable_at_boot_is_recorded() -> None:
    """Whether a word was given for the boot code is no matter: nobody sets it on this host."""
    rows = [delta(boot=(replace(boot(is_own=True), sets=("a.c#slots", "other")),))]
    found = set_by_boot(
        replace(
            record(),
            variables=tuple(
                NewVariable(name=name, writers=(), readers=("run",))
                for name in ("a.c#slots", "b.c#slots", "more")
            ),
        ),
        rows,
    )
    assert [row.boot for row in found.variables] == [("start",), (), ()]


@pytest.mark.parametrize(("calls", "by"), [(("fill",), ("start",)), (("others",), ())])
def test_boot_code_sets_what_new_functions_set_that_it_calls(
    calls: tuple[str, ...], by: tuple[str, ...]
) -> None:
    variable = NewVariable(name="slots", writers=(), readers=("run",), idle=("fill",))
    rows = [delta(boot=(replace(boot(is_own=True), calls=calls),))]
    (found,) = set_by_boot(replace(record(), variables=(variable,)), rows).variables
    assert found.boot == by
