# SPDX-License-Identifier: Apache-2.0
"""What people and programs see of a delta."""

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.kit.differ_inputs import compile_c, diff
from xsplice_plugins.artefacts import Delta, Duty, Severity, findings_about, from_json, to_json
from xsplice_plugins.diff.refusals import REFUSALS
from xsplice_plugins.report.html import delta_page
from xsplice_plugins.report.summary import print_delta

pytestmark = pytest.mark.toolchain

BASE = r"""
int level = 3;
int f(int a) { if (get(a) > 1) BUG(); return get(a) + level; }
int g(int a) { note("<b>%d", a); return get(a) * 3; }
"""


@pytest.fixture
def pair(tmp_path: Path) -> tuple[bytes, bytes]:
    after = "\n" + BASE.replace("level = 3", "level = 4").replace("<b>", "<i>")
    return compile_c(tmp_path, BASE), compile_c(tmp_path, after)


def test_json_has_the_five_lists(pair: tuple[bytes, bytes]) -> None:
    delta = diff(*pair)
    record = json.loads(to_json(delta))
    assert record["schema"] == 2
    for key, names in (("changed", ["g"]), ("new", []), ("removed", []), ("line_only", ["f"])):
        assert [row["name"] for row in record[key]] == names
        assert all(row["reason"] for row in record[key])
    assert [(r["name"], r["code"]) for r in record["refused"]] == [("level", "DATA_VALUE")]
    assert record["refused"][0]["hint"]
    assert from_json(to_json(delta), Delta, "delta") == delta


def test_the_answer_is_the_same_each_time(pair: tuple[bytes, bytes]) -> None:
    assert to_json(diff(*pair)) == to_json(diff(*pair))


def test_text_names_each_item_with_its_reason(
    pair: tuple[bytes, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    print_delta(diff(*pair))
    text = " ".join(capsys.readouterr().out.split())
    assert "changed g" in text
    assert "a string changed" in text
    assert "f: line numbers only (line 3 became 4), not replaced" in text
    assert "[DATA_VALUE]" in text
    assert "LIVEPATCH_LOAD_HOOK" in text


def test_the_page_shows_both_sides_and_escapes_what_it_quotes(pair: tuple[bytes, bytes]) -> None:
    page = delta_page(diff(*pair), *pair)
    assert page.count("<th>before</th><th>after</th>") == 1
    assert "&lt;b&gt;%d" in page
    assert "<i>%d" not in page
    assert "DATA_VALUE" in page
    assert page == delta_page(diff(*pair), *pair)


def test_what_was_not_checked_is_shown_in_text_and_page(
    pair: tuple[bytes, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    plain = diff(*pair)
    said = findings_about(Duty.LAYOUT, "differ", Severity.UNCHECKED, "a.o", ("<s> was not seen",))
    delta = replace(plain, findings=(*plain.findings, *said))
    print_delta(delta)
    assert "not checked: <s> was not seen" in capsys.readouterr().out
    assert "not checked</td>" in delta_page(delta, *pair)
    assert "&lt;s&gt; was not seen" in delta_page(delta, *pair)
    assert "not checked" not in delta_page(plain, *pair)


def test_a_shadow_variable_is_shown_in_text_and_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "struct s { int a; long b; }; int f(struct s *p) { return get(p->a) + p->b; }"
    after = text.replace("long b;", "long b; int zed;").replace("+ p->b", "+ p->zed")
    sides = [compile_c(tmp_path, t, "-g") for t in (text, after)]
    delta = diff(*sides)
    assert [r.code for r in delta.refused] == ["LAYOUT"]
    print_delta(delta)
    shown = capsys.readouterr().out
    page = delta_page(delta, *sides)
    for line in (
        "int zed;",
        "struct xsplice_s_shadow *xsplice_s_shadow(const struct s *of)",
    ):
        assert line in shown
        assert line in page
    assert "s-&gt;of = of" in page


def test_an_equal_pair_says_so(
    pair: tuple[bytes, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    delta = diff(pair[0], pair[0])
    print_delta(delta)
    assert "no functional change" in capsys.readouterr().out
    assert "No functional change" in delta_page(delta, pair[0], pair[0])


def test_every_refusal_is_documented() -> None:
    for code, doc in REFUSALS.items():
        assert code == doc.code == code.upper()
        assert doc.title
        assert len(doc.explanation) > 40
        assert doc.hint
