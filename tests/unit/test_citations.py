# SPDX-License-Identifier: Apache-2.0
"""Nothing is cited that a reader of this repository cannot open.

Facts about Xen stand in ``docs/loader.md`` or name Xen's file; what is cited of the repository's
own pages must be there, heading and all.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve()
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
CODE = sorted(
    path
    for folder in ("xsplice_plugins", "site_scons", "tests")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".c", ".h", ".md"} and path != HERE and "build" not in path.parts
)
READ = [*CODE, *PAGES, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md"))]

#: Documents that whoever wrote the code had at hand and readers do not have. Public standards (RFC,
#: DWARF, gABI) may be cited by their section.
UNKNOWN_DOCUMENTS = re.compile(
    r"""\b[Ss]pec(?:ification)?(?:'s)?\ (?:table|sections?|\d+\.\d) | \blivepatch\ spec
      | \bconventions\ \d | \(conventions\b
      | \bissue\ \#?\d | \bissue's\b | \bthe\ issue\b
      | \b201[56]\ (?:plan|design)\b | \bnotes\ on\ peers\b
      | \(sections?\ \d""",
    re.VERBOSE,
)


def unknown_citations(text: str) -> list[str]:
    """Return the lines in which a document begins to be cited that is not in the repository."""
    lines = text.splitlines()
    found = []
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        match = UNKNOWN_DOCUMENTS.search(f"{line} {following.strip()}")  # over a line's end too
        if match and match.start() <= len(line):
            found.append(line)
    return found


def anchors_of(page: str) -> set[str]:
    """Return the anchors that GitHub gives to a page's headings."""
    outside = re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#{1,6} (.+)$", outside, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(path: Path, text: str) -> list[str]:
    """Return what is cited and is not there: pages, headings, files.

    Args:
        path: The file that cites; links in pages are relative to it.
        text: Its content.
    """
    cited = [
        (ROOT / page, anchor)
        for page, anchor in re.findall(r"\b(docs/[\w-]+\.md)(?:#([\w-]+))?", text)
    ]
    if path.suffix == ".md":
        links = re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([\w-]+))?\)", text)
        cited += [(path.parent / to if to else path, anchor) for to, anchor in links]
    return [
        f"{target.relative_to(ROOT) if target.is_relative_to(ROOT) else target}#{anchor}"
        for target, anchor in cited
        if not target.exists() or (anchor and anchor not in anchors_of(target.read_text()))
    ]


def files_named(text: str) -> set[str]:
    """Return the files of this repository that a page names in code marks."""
    words = re.findall(r"(?<!`)`([\w./-]+\.(?:py|json))`(?!`)", text)
    return {word for word in words if "/" in word and not word.startswith("xen/")}


def is_there(name: str) -> bool:
    """Tell whether a named file exists, from the top or from the library's folder."""
    return any((folder / name).exists() for folder in (ROOT, ROOT / "xsplice_plugins"))


@pytest.mark.parametrize("path", READ, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_cites_what_readers_can_open(path: Path) -> None:
    text = path.read_text()
    assert unknown_citations(text) == []
    if "projects" not in path.parts and "kit" not in path.parts:
        assert broken_links(path, text) == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_names_files_that_exist(path: Path) -> None:
    assert {name for name in files_named(path.read_text()) if not is_there(name)} == set()


def test_the_page_on_the_loader_has_the_headings_that_code_cites() -> None:
    wanted = """payload symbols relocations upload special-sections actions rendezvous patching
        sysctl releases hazards signatures"""
    assert set(wanted.split()) <= anchors_of((DOCS / "loader.md").read_text())


@pytest.mark.parametrize(
    "line",
    [
        "Source: specification section 6.4.",
        "Source: livepatch specification sections 2.1, 3.1",
        "Source: livepatch specification 2.4; System V gABI",
        "the specification's table says",
        "SIGNATURES (conventions 4.3): an action",
        "a tenth of the time (issue 4's limits)",
        "see issue #12",
        "scenario by scenario (section 13).",
        "Extension: the 2015 plan's stacks",
        "handled in this order. Source: specification\nsection 7.",
    ],
)
def test_a_citation_of_an_unknown_document_is_seen(line: str) -> None:
    assert unknown_citations(line)


@pytest.mark.parametrize(
    "line",
    [
        "what RFC 5652 section 5.1 gives",
        "DWARF 5 section 6.2 (line numbers)",
        "architecture (AAELF64) section 5.7.",
        "the ELF specification asks for",
        "code of `.subsection 1` lies behind",
        "links to section 0: NULL dereference",
        "A specification has no body:",
        "Source: docs/loader.md#upload",
        "static long issue(void)",
    ],
)
def test_public_standards_and_plain_words_may_be_used(line: str) -> None:
    assert unknown_citations(line) == []


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("see docs/loader.md#upload", 0),
        ("see docs/loader.md", 0),
        ("see docs/loader.md#no-such-heading", 1),
        ("see docs/no-such-page.md", 1),
        ("[here](loader.md#special-sections) and [top](#b)", 1),
        ("[there](../README.md)", 0),
        ("[there](../nothing.md)", 1),
        ("[away](https://example.org/nothing.md)", 0),
    ],
)
def test_a_broken_link_is_seen(text: str, broken: int) -> None:
    assert len(broken_links(DOCS / "README.md", text)) == broken


def test_headings_become_anchors_as_github_makes_them() -> None:
    page = "# One two\n\n## Xen's `own`, table\n\n```\n# no heading\n```\n"
    assert anchors_of(page) == {"one-two", "xens-own-table"}


def test_a_file_that_a_page_invents_is_seen() -> None:
    assert files_named("`hypervisor/run/no.py`, `xen/common/x.py`, `plain.py`") == {
        "hypervisor/run/no.py"
    }
    assert not is_there("hypervisor/run/no.py")
    assert is_there("settings.py")
