# SPDX-License-Identifier: Apache-2.0
"""What a person takes on their word: only what is asked, and it is said wherever it counts."""

import hashlib

import pytest
from msgspec.structs import replace

from xsplice_plugins.artefacts import (
    Duty,
    Finding,
    PayloadRecord,
    Severity,
    State,
    Verdict,
    findings_asked,
)
from xsplice_plugins.elf.changed import Question
from xsplice_plugins.errors import ConfigError, RefusedError
from xsplice_plugins.pipeline import conclude
from xsplice_plugins.pipeline.accepting import take_word, told_by_host
from xsplice_plugins.pipeline.obligations import weigh
from xsplice_plugins.report.verdict import verdict_text
from xsplice_plugins.settings import make_config

WORD = "LAYOUT:domain.extra"
ASKED = findings_asked(
    Duty.LAYOUT, "differ", "a.o", [Question(WORD, "struct domain", "`extra` lies in a hole")]
)
HELD = Finding(check="differ", severity=Severity.HELD, subject="fix", text="compared",
               obligation=Duty.LAYOUT)  # fmt: skip
DATA = b"payload"


def layout(*findings: Finding) -> tuple[State, str]:
    (row,) = (row for row in weigh(findings) if row.name is Duty.LAYOUT)
    return row.state, row.text


def record(*findings: Finding, hooks: tuple[str, ...] = ()) -> PayloadRecord:
    return PayloadRecord(
        name="fix",
        release="4.20.0",
        machine=62,
        build_id="",
        depends="",
        xen_depends="",
        digest=hashlib.sha256(DATA).hexdigest(),
        size_bytes=len(DATA),
        functions=(),
        new=(),
        hooks=hooks,
        references=(),
        findings=findings,
    )


def test_an_open_question_says_how_it_is_answered() -> None:
    state, text = layout(HELD, *ASKED)
    assert state is State.UNCHECKED
    assert f"ACCEPT={WORD} takes it on your word" in text


def test_a_word_is_taken_and_said() -> None:
    taken = take_word((WORD,), (HELD, *ASKED))
    state, text = layout(*taken)
    assert (state, text.startswith(f"on a person's word {WORD}")) == (State.HELD, True)
    report = conclude(DATA, record(*taken), "4.20.0", ())
    lines = verdict_text(report).splitlines()
    assert any(line.startswith(f"  on a person's word: {WORD}: `extra`") for line in lines)
    assert record(*taken).accepted == (f"{WORD}: `extra` lies in a hole",)
    assert record(*taken).unchecked == ()


def test_all_that_a_word_was_taken_for_is_said() -> None:
    """Two files may have a structure of one name: the word is one, the things are two."""
    others = [replace(ASKED[0], subject=f"{n}.o") for n in range(5)]
    for rows, end in ((ASKED, "hole"), ((*ASKED, others[0]), "hole (a.o, 0.o)"),
                      ((*ASKED, *others), "hole (a.o, 0.o, 1.o, 2.o and 2 more)")):  # fmt: skip
        report = conclude(DATA, record(*take_word((WORD,), (HELD, *rows))), "4.20.0", ())
        (line,) = (row for row in verdict_text(report).splitlines() if "person's word: " in row)
        assert line.endswith(end)


def test_a_word_establishes_nothing() -> None:
    """Without the check that must speak of it, the obligation is not held."""
    state, text = layout(*take_word((WORD,), ASKED))
    assert (state, "nothing was said of it by the check differ" in text) == (State.UNCHECKED, True)


def test_a_word_for_one_thing_is_none_for_another() -> None:
    other = findings_asked(Duty.LAYOUT, "differ", "a.o", [Question("LAYOUT:vcpu.x", "", "x")])
    taken = take_word((WORD,), (HELD, *ASKED, *other))
    assert layout(*taken)[0] is State.UNCHECKED
    assert conclude(DATA, record(*taken), "4.20.0", ()).verdict is Verdict.UNPROVED


@pytest.mark.parametrize("word", ["LAYOUT:domain.other", "LAYOUT:extra", "INIT_CODE:domain.extra"])
def test_a_word_that_nobody_asks_for_is_refused(word: str) -> None:
    with pytest.raises(RefusedError, match=rf"ACCEPT={word}: .* it asks for {WORD}"):
        take_word((word,), (HELD, *ASKED))


def test_no_word_is_taken_for_what_is_wrong() -> None:
    wrong = Finding(check="differ", severity=Severity.ERROR, subject="a.o", text="it moved",
                    obligation=Duty.LAYOUT, question=WORD)  # fmt: skip
    assert take_word((WORD,), (wrong,)) == (wrong,)


@pytest.mark.parametrize("word", ["extra", "LAYOUT", "LAYOUT:", "DATA_VALUE:x", "layout:a.b", ":x"])
def test_a_word_has_a_code_and_a_name(word: str) -> None:
    with pytest.raises(ConfigError, match="no word is taken for it"):
        make_config({"ACCEPT": word}, release="4.20.0")
    assert make_config({"ACCEPT": f"{WORD},INIT_CODE:f"}, release="4.20.0").accept == (
        WORD,
        "INIT_CODE:f",
    )


HOOKS = (".livepatch.hooks.load", ".livepatch.hooks.postrevert")
WHY = "depends on nr_cpu_ids, which only a running host knows"
UNTOLD = Finding(check="model", severity=Severity.UNCHECKED, subject="fix", step="load-hook",
                 text=f"cannot be told at load-hook: {WHY}",
                 evidence={"verdict": "unknown", "asks": "fix", "vouched": []})  # fmt: skip
TAKEN = replace(UNTOLD, step="", text=f"loads; on a person's word, the load hook of fix {WHY}",
                evidence={"verdict": "proved", "asks": "", "vouched": [["fix", "load", WHY]]}
                )  # fmt: skip
GOOD = replace(TAKEN, severity=Severity.HELD, evidence={"verdict": "proved", "vouched": []})
RAN = Finding(check="qemu", severity=Severity.HELD, subject="fix", text="real Xen did")


def loader(words: str, *answers: Finding) -> tuple[State, str, list[str]]:
    made = record(*take_word(tuple(words.split()), (), HOOKS), hooks=HOOKS)
    findings = (*made.findings, *told_by_host(answers, made))
    (row,) = (row for row in weigh(findings) if row.name is Duty.LOADER)
    return row.state, row.text, [f.text for f in findings if f.severity is Severity.WARNING]


def test_a_real_xen_answers_for_hooks_if_a_person_says_so() -> None:
    state, text, more = loader("HOOK:load", TAKEN, RAN)
    assert (state, more) == (State.HELD, [])
    assert text.startswith("on a person's word HOOK:load; loads; on a person's word, the load hook")
    assert "nr_cpu_ids, which only a running host knows; a real Xen ran it" in text


@pytest.mark.parametrize(
    ("words", "answers", "said"),
    [
        ("", (UNTOLD, RAN), "ACCEPT=HOOK:load takes it on your word, and a real Xen has to run it"),
        ("HOOK:load", (UNTOLD,), "; a real Xen has to run it (ON=model,qemu)"),
        ("HOOK:load", (TAKEN,), "; a real Xen has to run it (ON=model,qemu)"),
        ("HOOK:load", (TAKEN, replace(RAN, check="qemu.memory")), "a real Xen has to run it"),
        ("HOOK:load", (TAKEN, replace(RAN, severity=Severity.INFO)), "a real Xen has to run it"),
        ("HOOK:load", (replace(UNTOLD, evidence={"asks": "beneath"}), RAN), "cannot be told"),
        ("HOOK:load", (replace(UNTOLD, evidence={"asks": ""}), RAN), "cannot be told"),
        ("HOOK:load", (replace(TAKEN, check="differ", obligation=Duty.LOADER), RAN), "loads"),
    ],
)
def test_less_does_not_answer_for_hooks(
    words: str, answers: tuple[Finding, ...], said: str
) -> None:
    state, text, _ = loader(words, *answers)
    assert (state, said in text) == (State.UNCHECKED, True), text


def test_no_word_makes_a_hazard_in_a_hook_good() -> None:
    bad = replace(UNTOLD, severity=Severity.HAZARD)
    assert loader("HOOK:load HOOK:postrevert", bad, RAN)[0] is State.FAILED


def test_a_word_that_the_model_does_not_need_is_said() -> None:
    for answer, words in ((GOOD, "HOOK:load"), (TAKEN, "HOOK:load HOOK:postrevert")):
        state, _, more = loader(words, answer, RAN)
        kind = words.rpartition(":")[2]
        wanted = f"ACCEPT=HOOK:{kind} was not needed: the model can tell what the {kind} hook does"
        assert (state, more) == (State.HELD, [wanted])


@pytest.mark.parametrize("word", ["HOOK:unload", "HOOK:x"])
def test_a_word_for_a_hook_that_is_not_there_is_refused(word: str) -> None:
    with pytest.raises(RefusedError, match="it asks for HOOK:load, HOOK:postrevert"):
        take_word((word,), (), HOOKS)
