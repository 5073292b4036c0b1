# SPDX-License-Identifier: Apache-2.0
"""A longer search for inputs that break the model, run by hand and guided by coverage.

``python -m tests.model.fuzz --seconds 600 --release 4.17.5`` damages payloads, keeps those that
reach new lines of the model, and damages them further. An input that raises anything but a verdict
is written to the folder given with ``--out`` and ends the run with status 1.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any, Self

from tests.kit.mutate import mutate, rich
from tests.kit.tiny_xen import allocated, tiny_xen
from xsplice_plugins import hypervisor
from xsplice_plugins.hypervisor import BootedImage, Command, Hazard, Hypervisor, Release, release
from xsplice_plugins.hypervisor.facts.arches import ARCHES

FOLDER = str(Path(hypervisor.__file__).parent)
CORPUS_MAX = 5_000


class Coverage:
    """Lines of the model that were reached, collected while an input runs."""

    def __init__(self) -> None:
        self.lines: set[tuple[str, int]] = set()

    def __enter__(self) -> Self:
        sys.settrace(self._on_call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _on_call(self, frame: FrameType, _event: str, _argument: object) -> Any:
        return self._on_line if frame.f_code.co_filename.startswith(FOLDER) else None

    def _on_line(self, frame: FrameType, event: str, _argument: object) -> Any:
        if event == "line":
            self.lines.add((frame.f_code.co_filename, frame.f_lineno))
        return self._on_line


def live(data: bytes, image: BootedImage, wanted: Release) -> None:
    """Give an input its whole life; only verdicts may come of it."""
    hv = Hypervisor(image, wanted, hook_runner=lambda *_: 0)
    before = hv.memory.digest(owner="xen", code_only=True)
    try:
        if hv.upload(b"p\0", data).code:
            assert not hv.arena.in_use(), "a refused upload leaks"
            assert not allocated(hv), "a refused upload leaks"
            return
        for command in (Command.APPLY, Command.REVERT, Command.APPLY, Command.REVERT):
            hv.action(b"p\0", command)
            hv.run_pending()
        assert hv.memory.digest(owner="xen", code_only=True) == before, "bytes did not come back"
        hv.action(b"p\0", Command.UNLOAD)
        assert not hv.arena.in_use(), "an unload leaks"
    except Hazard:
        return


def search(
    image: BootedImage, wanted: Release, rng: random.Random, seconds: float, out: Path
) -> int:
    """Search until the time is up; give the exit status."""
    corpus = [rich(image.arch, wanted).build()]
    seen: set[tuple[str, int]] = set()
    deadline = time.monotonic() + seconds
    count = 0
    while time.monotonic() < deadline:
        data = mutate(rng.choice(corpus), rng)
        count += 1
        coverage = Coverage()
        try:
            with coverage:
                live(data, image, wanted)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is what is searched for
            path = out / f"broken-{wanted.name}-{count}.livepatch"
            path.write_bytes(data)
            sys.stderr.write(f"{path}: {error!r}\n")
            return 1
        if not coverage.lines <= seen and len(corpus) < CORPUS_MAX:
            seen |= coverage.lines
            corpus.append(data)
    sys.stdout.write(f"{count} inputs, {len(corpus)} kept, {len(seen)} lines reached\n")
    return 0


def main() -> int:
    """Read the command line and search."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--release", default="4.17.5")
    parser.add_argument("--arch", default="x86_64", choices=[arch.name for arch in ARCHES])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path())
    options = parser.parse_args()
    arch = next(arch for arch in ARCHES if arch.name == options.arch)
    rng = random.Random(options.seed)  # noqa: S311  # reproducible, not secret
    return search(tiny_xen(arch), release(options.release), rng, options.seconds, options.out)


if __name__ == "__main__":
    raise SystemExit(main())
