# SPDX-License-Identifier: Apache-2.0
"""The page that people read first names every room, with the room's own first sentence."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "xsplice_plugins"
PAGE = ROOT / "docs" / "architecture.md"


def first_sentence(module: Path) -> str:
    """Return the first sentence of a module's text, on one line."""
    text = " ".join((ast.get_docstring(ast.parse(module.read_text())) or "").split())
    found = re.match(r".+?[.?!](?=\s|$)", text)
    assert found, f"{module}: it does not begin with a sentence"
    return found.group()


def rooms_of(folder: Path) -> dict[str, str]:
    """Return the sentence of each room directly in a folder: packages, and modules of their own."""
    packages = {path.parent.name: path for path in folder.glob("*/__init__.py")}
    modules = {path.name: path for path in folder.glob("*.py") if not path.name.startswith("__")}
    return {name: first_sentence(path) for name, path in (packages | modules).items()}


def rows_of(page: str, heading: str) -> dict[str, str]:
    """Return name and sentence from the table whose first heading is given."""
    _, _, rest = page.partition(f"| {heading} | what it is |\n")
    rows = re.findall(r"\| `([^`]+)` \| (.+) \|", rest.partition("\n\n")[0])
    assert rows, f"no table of {heading}"
    return dict(rows)


def test_each_room_of_the_library_is_named_with_its_sentence() -> None:
    """Rooms that are gone must not be named either."""
    page = PAGE.read_text()
    assert rows_of(page, "room of `xsplice_plugins`") == rooms_of(LIBRARY)


def test_each_room_of_the_model_is_named_with_its_sentence() -> None:
    rooms = {
        name: sentence
        for name, sentence in rooms_of(LIBRARY / "hypervisor").items()
        if not name.endswith(".py")
    }
    assert rows_of(PAGE.read_text(), "room of `hypervisor`") == rooms


@pytest.mark.parametrize(("index", "link"), [("README.md", "docs/"), ("docs/README.md", "")])
def test_readers_are_led_to_each_page(index: str, link: str) -> None:
    """The front page names the first to read, the index of the pages all of them."""
    text = (ROOT / index).read_text()
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    wanted = pages if index == "docs/README.md" else {"architecture.md"}
    assert {name for name in wanted if f"]({link}{name})" not in text} == set()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('"""One. Two."""\n', "One."),
        ('"""One\nline more.\n\nTwo."""\n', "One line more."),
        ('"""What is it?"""\n', "What is it?"),
        ('"""See a.b for more."""\n', "See a.b for more."),
    ],
)
def test_the_first_sentence_ends_where_a_reader_ends_it(
    text: str, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "module.py").write_text(text)
    assert first_sentence(tmp_path / "module.py") == sentence
    assert rooms_of(tmp_path) == {"module.py": sentence}


def test_a_module_without_a_sentence_is_seen(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("x = 1\n")
    with pytest.raises(AssertionError, match="does not begin with a sentence"):
        rooms_of(tmp_path)
