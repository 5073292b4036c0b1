# SPDX-License-Identifier: Apache-2.0
"""Which exit status an error leads to, and that a lacking machine is told from bad input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from xsplice_plugins import errors
from xsplice_plugins.errors import CaptureError, MachineError, XspliceError
from xsplice_plugins.kbuild import commands

if TYPE_CHECKING:
    from pathlib import Path

#: All others are wrong use or unreadable input.
NOT_TWO = {
    "NoFunctionalChangeError": 3,
    "RefusedError": 4,
    "VerifyError": 5,
    "MachineError": 6,
}


def test_every_class_has_the_exit_status_that_is_documented() -> None:
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert classes[0] is XspliceError
    for kind in classes:
        assert issubclass(kind, XspliceError)
        assert kind.exit_status == NOT_TWO.get(kind.__name__, 2), kind
        assert kind.exit_status in errors.STATUSES


@pytest.mark.parametrize(
    ("command", "kind", "said"),
    [
        ("no-such-compiler -c a.c", MachineError, "no-such-compiler: .*not found; install"),
        ("echo a.s: No space left on device >&2; exit 1", MachineError, "the disk is full"),
        ("echo a.c:1: error >&2; exit 1", CaptureError, "does not compile.*\na.c:1: error"),
    ],
    ids=["no program", "full disk", "bad source"],
)
def test_a_failed_compile_is_the_machines_or_the_sources_fault(
    command: str, kind: type[XspliceError], said: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=f"a.o: .*{said}"):
        commands.run(command, tmp_path, env=None, subject="a.o")
    assert commands.run("echo done", tmp_path, env=None, subject="a.o") == b"done\n"
