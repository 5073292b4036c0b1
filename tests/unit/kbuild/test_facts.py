# SPDX-License-Identifier: Apache-2.0
"""Facts asked of a tiny tree whose headers define them, and the list that stands in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from xsplice_plugins.artefacts import ASKED, AlternativeFields, Facts
from xsplice_plugins.elf.types import EM_AARCH64, EM_X86_64
from xsplice_plugins.errors import CaptureError
from xsplice_plugins.kbuild import facts
from xsplice_plugins.kbuild.tree import locate_tree

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.kit.tiny_tree import TinyTree

pytestmark = pytest.mark.toolchain

#: Numbers that no release has: only who asks can know them.
HEADERS = {
    "xen/types.h": (
        "#define CONFIG_X86 1\ntypedef unsigned char uint8_t;\n"
        "#define offsetof(a, b) __builtin_offsetof(a, b)\n"
    ),
    "xen/lib.h": """
#define BUG_DISP_WIDTH 24
#define FRAME(type, insn, more) asm volatile (".Lb%=: " insn "\\n.pushsection .bug_frames." #type \
    ",\\"a\\"\\n.Lf%=: .long .Lb%= - .Lf%=\\n.long .Lt%= - .Lf%=\\n" more "\\n.popsection\\n" \
    ".pushsection .rodata.str\\n.Lt%=: .asciz \\"t\\"\\n.popsection" ::)
#define WARN() FRAME(1, ".byte 0x66, 0x0f, 0xb9", "")
#define assert_failed(text) FRAME(3, "ud2", ".long 0, 0")
#define FILE_NAME __FILE__
static inline int twice(int a)
{
    return a * 2;
}
""",
    "xen/symbols.h": "#define KSYM_NAME_LEN 99\n",
    "xen/livepatch.h": "#define LIVEPATCH_MAX_SIZE 0x12345678900\n",
    "xen/alternative-call.h": "#define alternative_vcall(f) (f)()\n",
    "public/sysctl.h": """
#define LIVEPATCH_PAYLOAD_VERSION 7
#define LIVEPATCH_OPAQUE_SIZE 21
#define XEN_LIVEPATCH_NAME_SIZE 64
#define XEN_SYSCTL_INTERFACE_VERSION 0x77
typedef struct { uint8_t len; uint8_t data[23]; } livepatch_expectation_t;
struct livepatch_func { char bytes[120]; };
""",
    "asm/alternative.h": """
struct alt_instr {
    int repl_offset, orig_offset;
    short pad, cpuid;
    char repl_len, orig_len;
};
""",
    "asm/cpufeature.h": "#define NCAPINTS 33\n",
    "asm/livepatch.h": "#define ARCH_PATCH_INSN_SIZE 6\n",
    "asm/uaccess.h": "struct exception_table_entry { int a, b, c; };\n",
}
EXPECTED = Facts(
    origin=ASKED,
    release="4.17.5",
    machine=EM_X86_64,
    record_version=7,
    record_size_bytes=120,
    expect_length_max=23,
    saved_length_max=21,
    name_size_bytes=64,
    symbol_length_max=99,
    file_size_max=0x12345678900,
    sysctl_version=0x77,
    jump_size_bytes=6,
    alternative=AlternativeFields(
        size_bytes=16, site=4, replacement=0, feature=10, site_length=13, replacement_length=12
    ),
    feature_words=33,
    bug_frame_size_bytes=8,
    bug_message_frame_size_bytes=16,
    bug_displacement_bits=24,
    bug_instruction="660fb9",
    ex_entry_size_bytes=12,
    alt_call_entry_size_bytes=0,
)
CALLS = """
#define alternative_vcall(f) asm volatile ("call *%0\\n" \
    ".pushsection .alt_call_sites,\\"a\\"\\n.long 0, 0\\n.popsection" :: "m" (f))
"""


@pytest.fixture
def asked(own_tree: TinyTree) -> TinyTree:
    """Return a tree with headers to ask."""
    for path, text in HEADERS.items():
        file = own_tree.root / "xen/include" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    source = own_tree.root / "xen/common/livepatch.c"
    source.write_text("#include <xen/symbols.h>\n" + source.read_text())
    own_tree.build()
    return own_tree


def listing(root: Path) -> dict[Path, tuple[int, int]]:
    """Return what lies in a folder."""
    return {
        path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in sorted(root.rglob("*"))
    }


def write(tree: TinyTree, header: str, text: str) -> None:
    """Change a header of the tree."""
    (tree.root / "xen/include" / header).write_text(text)


def test_the_headers_are_asked_and_the_tree_is_left_alone(asked: TinyTree) -> None:
    before = listing(asked.root)
    assert facts.ask_tree(locate_tree(asked.root), cache=None) == EXPECTED
    assert listing(asked.root) == before


def test_the_size_of_a_call_site_is_seen_where_a_call_leaves_one(asked: TinyTree) -> None:
    write(asked, "xen/alternative-call.h", CALLS)
    found = facts.ask_tree(locate_tree(asked.root), cache=None)
    assert found == replace(EXPECTED, alt_call_entry_size_bytes=8)


def test_an_answer_is_kept_and_serves_until_its_reasons_change(
    asked: TinyTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, cache = locate_tree(asked.root), tmp_path / "cache"
    facts.ask_tree(tree, cache=cache)
    (kept,) = cache.iterdir()
    assert json.loads(kept.read_text())["facts"]["symbol_length_max"] == 99
    with monkeypatch.context() as patched:
        patched.setattr(facts, "_compiled", None)  # a second compile would fail
        assert facts.ask_tree(tree, cache=cache) == EXPECTED
        with pytest.raises(TypeError):
            facts.ask_tree(replace(tree, build_id="00"), cache=cache)
    write(asked, "xen/symbols.h", "#define KSYM_NAME_LEN 98\n")
    found = facts.ask_tree(tree, cache=cache)
    assert found == replace(EXPECTED, symbol_length_max=98)
    assert len(list(cache.iterdir())) == 2


def test_a_damaged_answer_is_asked_again(asked: TinyTree, tmp_path: Path) -> None:
    tree = locate_tree(asked.root)
    facts.ask_tree(tree, cache=tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-20])
    assert facts.ask_tree(tree, cache=tmp_path / "cache") == EXPECTED
    assert kept.read_bytes() == whole


def test_an_answer_of_another_tree_is_asked_again(asked: TinyTree, tmp_path: Path) -> None:
    tree, cache = locate_tree(asked.root), tmp_path / "cache"
    facts.ask_tree(replace(tree, build_id="00"), cache=cache)
    (other,) = cache.iterdir()
    facts.ask_tree(tree, cache=cache)
    (kept,) = set(cache.iterdir()) - {other}
    kept.write_bytes(other.read_bytes())
    assert facts.ask_tree(tree, cache=cache) == EXPECTED
    assert kept.read_bytes() != other.read_bytes()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("machine", EM_AARCH64),
        ("release", "4.20.0"),
        ("origin", "hello"),
        ("record_version", 300),
        ("bug_displacement_bits", 10**9),
        ("expect_length_max", -1),
        ("feature_words", 23),
        ("symbol_length_max", 98),
    ],
)
def test_an_answer_that_was_edited_is_asked_again(
    key: str, value: object, asked: TinyTree, tmp_path: Path
) -> None:
    tree = locate_tree(asked.root)
    facts.ask_tree(tree, cache=tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    whole = kept.read_bytes()
    content = json.loads(whole)
    content["facts"][key] = value
    kept.write_text(json.dumps(content))
    assert facts.ask_tree(tree, cache=tmp_path / "cache") == EXPECTED
    assert kept.read_bytes() == whole


def _without_record(tree: TinyTree) -> None:
    (tree.root / "xen/common/.livepatch.o.cmd").unlink()


def _without_header(tree: TinyTree) -> None:
    write(tree, "xen/symbols.h", "#define OTHER 1\n")


def _without_frames(tree: TinyTree) -> None:
    write(tree, "xen/lib.h", HEADERS["xen/lib.h"].replace("FRAME(1, ", "FRAME(2, "))


def _without_compiler(tree: TinyTree) -> None:
    record = tree.root / "xen/common/.livepatch.o.cmd"
    record.write_text(record.read_text().replace(":= gcc ", ":= xsplice-no-such-gcc ", 1))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without_record, r"common/livepatch\.o: the build of Xen 4\.17\.5 recorded no command"),
        (_without_header, r"(?s)headers of Xen 4\.17\.5 do not answer.*KSYM_NAME_LEN"),
        (_without_frames, r"(?s)do not answer.*\.bug_frames\.1"),
        (_without_compiler, r"(?s)do not answer.*xsplice-no-such-gcc"),
    ],
)
def test_a_tree_that_does_not_answer_is_refused_or_takes_the_nearest_list(
    damage: Callable[[TinyTree], None],
    message: str,
    asked: TinyTree,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    damage(asked)
    tree = locate_tree(asked.root)
    with pytest.raises(facts.UnansweredError, match=message):
        facts.ask_tree(tree, cache=tmp_path)
    listed = replace(EXPECTED, origin="list of Xen 4.17.4", sysctl_version=1)
    questions = []

    def known_facts(release: str, machine: int) -> Facts:
        questions.append((release, machine))
        return listed

    monkeypatch.setattr(facts, "known_facts", known_facts)
    found = facts.facts_of_tree(tree)
    assert questions == [("4.17.5", EM_X86_64)]
    assert not found.is_asked
    assert found == replace(listed, origin=found.origin)
    assert found.origin.startswith("list of Xen 4.17.4 (")
    assert "\n" not in found.origin
    assert str(asked.root) not in found.origin  # the same in every folder


def test_a_tree_that_answers_needs_no_list(
    asked: TinyTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "known_facts", None)
    assert facts.facts_of_tree(locate_tree(asked.root)) == EXPECTED


def test_a_damaged_record_is_no_reason_to_guess(asked: TinyTree) -> None:
    record = asked.root / "xen/common/.livepatch.o.cmd"
    record.write_bytes(record.read_bytes() + b"\0")
    tree = locate_tree(asked.root)
    with pytest.raises(CaptureError, match="damaged"):
        facts.facts_of_tree(tree)
