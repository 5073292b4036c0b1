# SPDX-License-Identifier: Apache-2.0
"""Work grows with the object, not with its square; equal objects are not even read."""

import cProfile
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


def test_work_grows_with_the_number_of_functions(tmp_path: Path) -> None:
    calls, times = [], []
    for count in (100, 200, 400):
        before = compile_c(tmp_path, _text(count, 5), "-O1")
        after = compile_c(tmp_path, "int zero(int a) { return a; }" + _text(count, 6), "-O1")
        profile = cProfile.Profile()
        delta = profile.runcall(diff, before, after)
        assert [c.name for c in delta.changed] == ["file.c#local0"]
        calls.append(sum(row.callcount for row in profile.getstats()))
        times.append(min(_seconds(before, after) for _ in range(5)))
    # Twice the functions take twice the calls; a quadratic step takes four times.
    assert calls[1] < 2.2 * calls[0], calls
    assert calls[2] < 2.2 * calls[1], calls
    # The clock is less exact on a busy machine, but sees what is no call.
    assert times[2] < 3.4 * times[1] + 0.02, times


def _seconds(before: bytes, after: bytes) -> float:
    start = time.process_time()
    diff(before, after)
    return time.process_time() - start


def test_equal_objects_are_not_taken_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = compile_c(tmp_path, _text(2, 1))
    monkeypatch.setattr(differ, "ObjectParts", None)
    assert diff(data, data).is_empty
