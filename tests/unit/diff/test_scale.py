# SPDX-License-Identifier: Apache-2.0
"""Work grows with the object, not with its square; equal objects are not even read."""

import time
from pathlib import Path

import pytest

from tests.kit.differ_inputs import compile_c, diff
from xsplice_plugins.diff import differ

pytestmark = pytest.mark.toolchain


def _text(count: int, factor: int) -> str:
    """Return functions that share strings, statics of one name, and BUG frames."""
    rows = []
    for i in range(count):
        value = i * 7 + 1 if i else factor
        rows.append(
            f"static noinline int local{i}(int a) {{ static int warn; "
            f'if (get(a) > {i}) {{ BUG(); note("text %d of {i % 40}", warn++); }} '
            f"return put(a, {value}) * {i + 3}; }}\n"
            f"int f{i}(int a) {{ static int warn; warn += a; return local{i}(a) + get({i}); }}"
        )
    return "\n".join(rows)


def test_time_grows_with_the_number_of_functions(tmp_path: Path) -> None:
    took = []
    for count in (150, 300, 600):
        before = compile_c(tmp_path, _text(count, 5), "-O1")
        after = compile_c(tmp_path, "int zero(int a) { return a; }" + _text(count, 6), "-O1")
        best = 99.0
        for _ in range(3):
            start = time.process_time()
            delta = diff(before, after)
            best = min(best, time.process_time() - start)
        assert [c.name for c in delta.changed] == ["file.c#local0"]
        took.append(best)
    # Twice the functions may take 2.6 times as long; a quadratic step would take 4 times.
    assert took[2] < 2.6 * took[1] + 0.02, took
    assert took[1] < 2.6 * took[0] + 0.02, took


def test_equal_objects_are_not_taken_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = compile_c(tmp_path, _text(2, 1))
    monkeypatch.setattr(differ, "Parts", None)
    assert diff(data, data).is_empty
