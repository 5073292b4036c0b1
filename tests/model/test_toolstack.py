# SPDX-License-Identifier: Apache-2.0
"""The toolstack in front of the model: words, exit codes, and a model that lives in a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit.payloads import ALLOC, UND, WRITE, Sec, Sym, minimal
from tests.kit.tiny_xen import tiny_xen
from xsplice_plugins.errors import ConfigError, XspliceError
from xsplice_plugins.hypervisor import SignaturePolicy, SignatureVerdict, release
from xsplice_plugins.toolstack.tool import ToolResult, run

IMAGE = tiny_xen()
B_ID = b"\xb2" * 20


class Desk:
    """A person's desk: payload files, a state file and the tool."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = "4.17.5"
        self.policy = SignaturePolicy()
        self.put("one", minimal().build())
        self.put("two", minimal(build_id=B_ID, depends=b"\xa1" * 20).build())
        dirty = minimal(build_id=b"\xc3" * 20)
        dirty.sections.append(Sec(".data", b"x", flags=ALLOC | WRITE))
        dirty.sections.append(Sec(".modinfo", b"who=me\0why=test\0"))
        self.put("dirty", dirty.build())

    def put(self, name: str, data: bytes) -> None:
        """Save a payload file."""
        (self.folder / f"{name}.livepatch").write_bytes(data)

    def __call__(self, line: str) -> ToolResult:
        """Type a line."""
        words = [word.replace("@", f"{self.folder}/") for word in line.split()]
        return run(
            words,
            self.folder / "state.json",
            IMAGE,
            release=release(self.name),
            signatures=self.policy,
        )


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Set the desk up."""
    return Desk(tmp_path)


def test_a_whole_day(desk: Desk) -> None:
    folder = desk.folder
    assert desk("list") == (0, "Nothing to list\n", "")
    assert desk("load @one.livepatch") == (
        0,
        f"Uploading {folder}/one.livepatch... completed\nApplying one... completed\n",
        "",
    )
    assert desk("list").stdout.splitlines()[2] == f"{'one':<40}| APPLIED    | "
    assert desk("apply one") == (0, "No action needed.\n", "")
    assert desk("unload one") == (
        1,
        "",
        "one is in the wrong state.\nCurrent state: APPLIED\nExpected state: CHECKED\n",
    )
    assert desk("load @two.livepatch").exit_code == 0
    refused = desk("revert one")
    assert refused.exit_code == 2
    assert refused.stdout == "Reverting one... failed\n"
    assert refused.stderr.endswith("Error 16: Device or resource busy\n")
    assert desk("revert two").stdout == "Reverting two... completed\n"
    assert desk("revert two") == (0, "No action needed.\n", "")
    assert desk("revert one").exit_code == 0
    assert desk("unload two").stdout == "Unloading two... completed\n"
    assert desk("unload one").exit_code == 0
    assert desk("list").stdout == "Nothing to list\n"


def test_re_apply_fails_with_error_22_and_is_listed(desk: Desk) -> None:
    desk("load @dirty.livepatch")
    desk("revert dirty")
    assert desk("apply dirty") == (1, "Applying dirty... failed\n", "Error 22: Invalid argument\n")
    row = f"{'dirty':<40}| CHECKED (22, Invalid argument)    | who=me;why=test"
    assert desk("list").stdout.splitlines()[2] == row


def test_replace(desk: Desk) -> None:
    desk("load @one.livepatch")
    desk("upload three @dirty.livepatch")
    result = desk("replace three")
    assert result == (0, "Replacing all live patches with three... completed\n", "")
    assert "CHECKED" in desk("list").stdout.splitlines()[2]


def test_load_takes_back_what_it_could_not_apply(desk: Desk) -> None:
    result = desk("load @two.livepatch")
    assert result.exit_code == 1
    assert "Unloading two... completed" in result.stdout
    assert result.stderr.endswith("Error 22: Invalid argument\n")
    assert desk("list").stdout == "Nothing to list\n"
    assert desk("load @two.livepatch --nodeps").exit_code == 0


def test_upload_failures_name_the_gate(desk: Desk) -> None:
    draft = minimal()
    draft.symbols.append(Sym("no_such", UND))
    desk.put("bad", draft.build())
    result = desk("upload bad @bad.livepatch")
    assert result.exit_code == 1
    assert "symbols" in result.stderr
    assert "no_such" in result.stderr
    assert result.stderr.endswith("Error 2: No such file or directory\n")


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("", 0, "Usage"),
        ("help", 0, "Usage"),
        ("frobnicate", 1, "Unrecognised command 'frobnicate'"),
        ("upload onlyname", 1, "Usage"),
        ("upload a @missing", 1, "Could not open"),
        ("upload a @empty", 1, "Could not map"),
        ("apply", 1, "Usage"),
        ("apply nobody", 1, "Failed to get status of nobody.\nError 2: No such file or directory"),
        ("apply nobody --force", 1, "Unsupported flag: --force."),
        ("revert nobody --nodeps", 1, "Unsupported flag: --nodeps."),
        ("list all", 1, "Usage"),
        ("check nobody", 1, "Error 2"),
        (f"upload {'x' * 129} @one.livepatch", 1, "ID must be no more than 128"),
        ("load", 1, "Usage"),
    ],
)
def test_words_and_exit_codes(desk: Desk, line: str, code: int, words: str) -> None:
    (desk.folder / "empty").write_bytes(b"")
    result = desk(line)
    assert result.exit_code == code
    assert words in result.stdout + result.stderr


def test_commands_were_prefixes_until_4_18(desk: Desk) -> None:
    assert desk("lo @one.livepatch").exit_code == 0
    assert desk("rev one").stdout == "Reverting one... completed\n"
    desk("unload one")
    desk.name = "4.19.0"
    (desk.folder / "state.json").unlink()
    assert desk("lo @one.livepatch").exit_code == 1
    assert desk("--force load @one.livepatch").exit_code == 0


def test_check_tells_what_the_upload_saw(desk: Desk) -> None:
    desk("upload one @one.livepatch")
    text = desk("check one").stdout
    assert text.startswith("one: CHECKED\n")
    assert "relocations: 4 performed" in text


def test_a_hazard_takes_the_host_down_until_it_is_rebooted(desk: Desk) -> None:
    draft = minimal()
    draft.sections.append(Sec(".modinfo", b""))
    desk.put("deadly", draft.build())
    result = desk("load @deadly.livepatch")
    assert result.exit_code == 1
    assert "The host went down at modinfo" in result.stderr
    assert "The host went down at modinfo" in desk("list").stderr
    assert desk("reboot").exit_code == 0
    assert desk("list") == (0, "Nothing to list\n", "")


def test_signatures_are_enforced_where_the_policy_says(desk: Desk) -> None:
    def checker(data: bytes) -> SignatureVerdict:
        is_signed = data.endswith(b"signed")
        reason = "good" if is_signed else "no signature"
        return SignatureVerdict(is_accepted=is_signed, reason=reason, payload_bytes=len(data) - 6)

    desk.policy = SignaturePolicy(checker=checker)
    refused = desk("load @one.livepatch")
    assert refused.exit_code == 1
    assert "signature: no signature" in refused.stderr
    assert refused.stderr.endswith("Error 1: Operation not permitted\n")
    desk.put("signed", minimal().build() + b"signed")
    assert desk("load @signed.livepatch").exit_code == 0


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 1}', "\udcff", "null", '"x"'])
def test_a_damaged_state_file_is_named(desk: Desk, text: str) -> None:
    (desk.folder / "state.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(XspliceError, match=r"state\.json"):
        desk("list")


def test_a_state_file_belongs_to_one_release(desk: Desk) -> None:
    desk("load @one.livepatch")
    desk.name = "4.17.4"
    with pytest.raises(ConfigError, match="another image, release"):
        desk("list")


def test_the_state_survives_and_is_deterministic(desk: Desk) -> None:
    desk("load @one.livepatch")
    first = (desk.folder / "state.json").read_bytes()
    desk("list")
    assert (desk.folder / "state.json").read_bytes() == first


def test_names_beyond_latin_1_are_kept_and_counted_in_bytes(desk: Desk) -> None:
    assert desk("upload é→ @one.livepatch").exit_code == 0
    assert "é→" in desk("list").stdout
    assert desk("apply é→").stdout == "Applying é→... completed\n"
    assert desk(f"upload {'→' * 43} @one.livepatch").stderr.startswith("ID must be no more than")
    odd = desk("upload \udcff @two.livepatch")
    assert (odd.exit_code, odd.stdout) == (1, "")
    assert "not UTF-8" in odd.stderr
