# SPDX-License-Identifier: Apache-2.0
"""Whether a script of the project read a file of the patch while SCons read the scripts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from . import reading
from .asking import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

#: How much of a command a message has.
_SHOWN = 60
_FIRST = "load xsplice before it, then what it reads is seen"


def read_by_scripts(
    files: Mapping[Path, Any],
    top: Path,
    in_line: Callable[[Step], str],
    mentions: Callable[[str], str],
) -> Iterator[tuple[str, str]]:
    """Say which scripts may have read a file of the patch.

    Args:
        files: What the patch touches, by all paths that it may be read by.
        top: The project's folder.
        in_line: Says why a shell line may read one; "" if it does not.
        mentions: The same of a text.

    Yields:
        The place in a script, and what it does.
    """
    for path, who in sorted(reading.opened().items()):
        if path in files:
            yield _place(who, top), f"it reads {files[path].path} itself, and no command does"
    for one in reading.ran():
        step = Step(subject="", line=one.line, variables=one.variables, makes_image=False)
        if said := in_line(step):
            yield _place(one.who, top), f"it runs a program itself, and {said}"
    for call in reading.early(top):
        if call.line:
            said = in_line(Step(subject="", line=call.line, makes_image=False))
        else:
            said = mentions(" ".join(map(repr, call.literals)))
        said = said or mentions(call.around)
        if said:
            yield _place(call.who, top), f"it reads or runs something early, and {said}; {_FIRST}"


def _place(who: str, top: Path) -> str:
    """Return the place in a script, relative to the top."""
    return os.path.relpath(who, top)
