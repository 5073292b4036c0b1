# SPDX-License-Identifier: Apache-2.0
"""The differ on every object of a real Xen 4.17 tree."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.xen.differ_campaign import campaign
from tests.xen.differ_mutations import CLASSES
from tests.xen.differ_pairs import EditedTree
from xsplice_plugins.artefacts import SHIFT_LINES, MovedLines
from xsplice_plugins.diff.differ import diff_objects
from xsplice_plugins.plugins.spec import Config

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from xsplice_plugins.artefacts import Delta

pytestmark = [pytest.mark.xen, pytest.mark.toolchain]

PER_CLASS = 1
SAMPLE = 12  #: every so many C files is compiled a second time
LINKED = ("built_in.o", "prelink.o")  #: many objects in one: never compared
NO_TEST = ("test", "tools", "arch/x86/boot")


def compare(
    source: str,
    baseline: bytes,
    new: bytes,
    moved: Sequence[MovedLines] = (),
    shifted: Callable[[], bytes] | None = None,
) -> Delta:
    return diff_objects(
        baseline,
        new,
        object_path=str(Path(source).with_suffix(".o")),
        source_path=source,
        config=Config(),
        moved=moved,
        shifted=shifted,
    )


@pytest.fixture(scope="module")
def edited(xen_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> EditedTree:
    return EditedTree(xen_tree, tmp_path_factory.mktemp("edited"))


def is_quiet(delta: Delta) -> bool:
    return not (delta.changed or delta.new or delta.removed or delta.refused)


def test_every_object_equals_itself(xen_tree: Path) -> None:
    root = xen_tree / "xen"
    count = 0
    for path in sorted(root.rglob("*.o")):
        name = str(path.relative_to(root))
        data = path.read_bytes()
        if name.startswith(NO_TEST) or data[:5] != b"\x7fELF\x02" or path.name in LINKED:
            continue
        # One byte more keeps the prefilter from answering.
        delta = compare(name, data, data + b"\0")
        assert is_quiet(delta), (name, delta)
        assert not delta.line_only, name
        count += 1
    assert count > 300


def test_a_second_compile_elsewhere_and_moved_lines_change_nothing(edited: EditedTree) -> None:
    moved = 0
    for source in edited.sources()[::SAMPLE]:
        before = (edited.tree / source).with_suffix(".o").read_bytes()
        again = edited.compile(source, {})
        assert is_quiet(compare(source, before, again + b"\0")), source
        text = edited.text(source)
        delta = compare(
            source,
            before,
            edited.compile(source, {source: "\n" * 7 + text}),
            [MovedLines(old=1, new=8, count=text.count("\n"))],
            lambda source=source, text=text: edited.compile(
                source, {source: "\n" * (7 + SHIFT_LINES) + text}
            ),
        )
        assert is_quiet(delta), (source, delta)
        moved += len(delta.line_only)
    assert moved > 0


def test_edits_of_every_class_are_reported_exactly(edited: EditedTree) -> None:
    names = tuple(mutation.name for mutation in CLASSES[::3])
    outcomes = campaign(edited, PER_CLASS, names)
    assert len(outcomes) > 12
    bad = [o for o in outcomes if o.verdict in ("missed", "over")]
    assert not bad, bad


@pytest.mark.slow
def test_the_largest_function_is_compared_in_time(edited: EditedTree) -> None:
    source = "arch/x86/x86_emulate.c"
    header = "arch/x86/x86_emulate/x86_emulate.c"
    before = (edited.tree / source).with_suffix(".o").read_bytes()
    text = edited.text(header)
    old = "case 0xa8 ... 0xa9: "
    assert old in text
    edit = text.replace(old, f'{old} asm volatile ( "nop" ); ')
    after = edited.compile(source, {header: edit})
    delta = compare(source, before, after)
    assert "x86_emulate" in [c.name for c in delta.changed]
