# SPDX-License-Identifier: Apache-2.0
"""Objects that only a header reaches: preprocess first, compile only if that can matter."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xsplice_plugins.artefacts import ObjectPair
from xsplice_plugins.capture.compiling import compile_object, preprocess
from xsplice_plugins.capture.pairing import pair_objects

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from xsplice_plugins.artefacts import CompileJob

_MARKER = re.compile(r"^#.*\n", re.MULTILINE)


def same_meaning(old_text: str, new_text: str) -> bool:
    """Tell whether two preprocessed texts are equal aside from line markers and white space."""
    return _plain(old_text) == _plain(new_text)


def _plain(text: str) -> list[str]:
    return _MARKER.sub("", text).split()


def capture_reached(
    job: CompileJob,
    *,
    pristine: Path,
    patched: Path,
    tree_object: Path | None,
    store: Path,
    dest_prefix: Path,
    env: Mapping[str, str] | None = None,
) -> ObjectPair:
    """Find out whether a header's change can reach one object; compile it if it can."""
    old, new = preprocess(job, pristine, env=env), preprocess(job, patched, env=env)
    if same_meaning(old, new):
        return ObjectPair(
            object_path=job.object_path,
            source_path=job.source_path,
            is_changed=False,
            is_init=job.is_init,
            baseline="",
            new="",
            digest_baseline="",
            digest_new="",
            compiler="",
            note="preprocessed text equal, not compiled",
        )
    return compile_pair(
        job,
        pristine=pristine,
        patched=patched,
        tree_object=tree_object,
        dest_prefix=dest_prefix,
        env=env,
    )


def compile_pair(
    job: CompileJob,
    *,
    pristine: Path,
    patched: Path,
    tree_object: Path | None,
    dest_prefix: Path,
    env: Mapping[str, str] | None = None,
) -> ObjectPair:
    """Compile both sides of an object and compare them."""
    sides = [dest_prefix.with_name(f".{dest_prefix.name}.{side}.o") for side in ("old", "now")]
    try:
        compile_object(job, pristine, sides[0], env=env)
        compile_object(job, patched, sides[1], env=env)
        return pair_objects(job, sides[0], sides[1], tree_object, dest_prefix)
    finally:
        for side in sides:
            side.unlink(missing_ok=True)
