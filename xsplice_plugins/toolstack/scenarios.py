# SPDX-License-Identifier: Apache-2.0
"""Tables of hand-written payloads with scenarios: built for any tree, played anywhere.

A table is a JSON file beside its C files. A scenario is a list of requests to a freshly booted
hypervisor, each with the answer that must come: the hypercall's error, the payload's state and
recorded result, and what the extra version reads afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from xsplice_plugins import artefacts, pipeline
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from xsplice_plugins.hypervisor import BootedImage, Release
    from xsplice_plugins.kbuild.tree import XenTree
    from xsplice_plugins.pipeline.run import Run
    from xsplice_plugins.realxen import Machine, Step
    from xsplice_plugins.realxen.results import StepResult
    from xsplice_plugins.verify.predict import Prediction

_EXTRA_CHARACTERS_MAX = 15  #: the hypercall copies 16 bytes, the last of them NUL
PLACES = ("model", "qemu")  #: where scenarios can be played


class PayloadRow(Struct, frozen=True, kw_only=True):
    """One payload of a table."""

    sources: tuple[str, ...]  #: C files beside the table
    depends: str = ""  #: the payload that it stacks on; "" for Xen
    without: str = ""  #: a section that is taken out of the finished payload


class StepRow(Struct, frozen=True, kw_only=True):
    """One request and its answer."""

    do: str  #: upload, apply, revert, replace, unload, extra
    name: str = ""
    payload: str = ""  #: for upload; default: the payload called ``name``
    flags: tuple[str, ...] = ()
    error: int = 0  #: positive error number of the hypercall
    state: str = ""  #: afterwards; "" where it is not loaded
    rc: int = 0
    extra: str | None = None  #: ``None``: as before the first step


class Scenario(Struct, frozen=True, kw_only=True):
    """Requests to one freshly booted hypervisor."""

    id: str
    what: str
    steps: tuple[StepRow, ...]


class Table(Struct, frozen=True, kw_only=True):
    """Payloads and what becomes of them."""

    schema: int
    payloads: dict[str, PayloadRow]
    scenarios: tuple[Scenario, ...]


class Played(Struct, frozen=True, kw_only=True):
    """How one scenario went in one place."""

    scenario: str
    what: str
    place: str  #: "model" or "qemu"
    differences: tuple[str, ...]  #: none: as the table says


def read_table(path: Path) -> Table:
    """Read a table.

    Raises:
        XspliceError: Unreadable, of another schema, or it names payloads that it lacks.
    """
    table = artefacts.load(path, Table)
    if table.schema != artefacts.SCHEMA:
        raise ConfigError(
            f"{path}: schema {table.schema} is not {artefacts.SCHEMA}; update xsplice"
        )
    wanted = {row.depends for row in table.payloads.values() if row.depends}
    for scenario in table.scenarios:
        wanted |= {step.payload or step.name for step in scenario.steps if step.do == "upload"}
    if unknown := sorted(wanted - table.payloads.keys()):
        raise ConfigError(f"{path}: it has no payload {', '.join(unknown)}; describe it there")
    return table


def build_table(
    run: Run, tree: XenTree, table: Table, sources: Path, out: Path
) -> dict[str, bytes]:
    """Build all payloads of a table, unsigned, and write them to a folder.

    Args:
        run: Settings and plugins.
        tree: A built tree; it is only read.
        table: The table.
        sources: Folder of its C files.
        out: Folder for ``NAME.livepatch`` and ``NAME.payload.json``.

    Raises:
        XspliceError: One of them cannot be built.
    """
    made: dict[str, bytes] = {}
    pending = dict(table.payloads)
    while pending:
        ready = [name for name, row in pending.items() if not row.depends or row.depends in made]
        if not ready:
            raise ConfigError(
                f"{', '.join(sorted(pending))}: each stacks on another; break the ring"
            )
        for name in sorted(ready):
            row = pending.pop(name)
            below = tuple(out / f"{lower}.livepatch" for lower in _chain(table, row.depends))
            files = [sources / file for file in row.sources]
            payload = pipeline.build_handmade(
                replace(run, config=replace(run.config, depends=below)), tree, files, name
            )
            data = without_section(payload.data, row.without) if row.without else payload.data
            artefacts.write_file(out / f"{name}.livepatch", data)
            artefacts.save(out / f"{name}.payload.json", payload.record)
            made[name] = data
    return made


def _chain(table: Table, name: str) -> tuple[str, ...]:
    """Return a payload of a table with all that it stacks on, bottom first."""
    return (*_chain(table, table.payloads[name].depends), name) if name else ()


def without_section(data: bytes, name: str) -> bytes:
    """Return a payload in which nobody finds a section any more: it goes by another name.

    Raises:
        ConfigError: There is no such section.
    """
    elf = read_elf(data, "payload")
    if name not in elf.section_by_name:
        raise ConfigError(
            f"{name}: the payload has no such section to leave out; correct the table"
        )
    names = next(section for section in elf.sections if section.name == ".shstrtab")
    word = name.encode() + b"\0"
    place = names.offset_file + names.data.index(b"\0" + word) + 1
    return data[:place] + b"." + b"x" * (len(word) - 2) + b"\0" + data[place + len(word) :]


def play(
    table: Table, payloads: Mapping[str, bytes], tree: XenTree, places: Sequence[str]
) -> tuple[Played, ...]:
    """Play every scenario in each place.

    Args:
        table: The table.
        payloads: Its payloads, built for this tree.
        tree: The hypervisor.
        places: Of ``PLACES``.

    Raises:
        XspliceError: The image cannot be used, or no machine can be prepared.
    """
    outcomes: tuple[Played, ...] = ()
    if "model" in places:
        from xsplice_plugins import hypervisor  # noqa: PLC0415  the model is only needed here

        release = hypervisor.release(tree.release, loader=tree.base.loader if tree.base else "")
        image = hypervisor.boot(tree.xen_syms.read_bytes(), release=release)
        outcomes += play_in_model(table, payloads, image, release)
    if "qemu" in places:
        from xsplice_plugins.realxen import Machine  # noqa: PLC0415  costs what only players pay

        line = ".".join(tree.release.split(".")[:2])
        machine = Machine.prepare(tree.build_root / "xen", release=line)
        outcomes += play_on_xen(table, payloads, machine)
    return outcomes


def play_in_model(
    table: Table, payloads: Mapping[str, bytes], image: BootedImage, release: Release
) -> tuple[Played, ...]:
    """Play every scenario in the reference hypervisor core.

    Args:
        table: The table.
        payloads: Its payloads, built for this image.
        image: The hypervisor.
        release: Its release.
    """
    from xsplice_plugins.verify.predict import predict  # noqa: PLC0415  as in play

    outcomes = []
    for scenario in table.scenarios:
        answers = predict(_steps(scenario), payloads, image=image, release=release)
        problems = [
            f"step {i}: {a.hazard or a.unknown}"
            for i, a in enumerate(answers)
            if a.hazard or a.unknown
        ]
        outcomes.append(_outcome(scenario, "model", answers, problems))
    return tuple(outcomes)


def play_on_xen(
    table: Table, payloads: Mapping[str, bytes], machine: Machine
) -> tuple[Played, ...]:
    """Play every scenario on a real hypervisor, each on a machine of its own.

    Args:
        table: The table.
        payloads: Its payloads, built for the image that boots there.
        machine: The prepared machine.
    """
    outcomes = []
    for scenario in table.scenarios:
        steps = _steps(scenario)
        used = {step.payload: payloads[step.payload] for step in steps if step.payload}
        run = machine.run(steps, used, agent="hypercall")
        problems = [
            f"step {i}: {s.outcome}" for i, s in enumerate(run.steps) if s.outcome != "done"
        ]
        problems += [run.crash] if run.crash else []
        outcomes.append(_outcome(scenario, "qemu", run.steps, problems))
    return tuple(outcomes)


def _steps(scenario: Scenario) -> tuple[Step, ...]:
    """Return a scenario's requests, behind one that asks for the extra version."""
    from xsplice_plugins.realxen import Step  # noqa: PLC0415  costs what only players pay

    rows = [
        Step(
            verb=row.do,
            name=row.name,
            payload=(row.payload or row.name) if row.do == "upload" else "",
            flags=row.flags,
        )
        for row in scenario.steps
    ]
    return (Step(verb="extra"), *rows)


def _outcome(
    scenario: Scenario,
    place: str,
    answers: Sequence[Prediction | StepResult],
    problems: Sequence[str],
) -> Played:
    differences = list(problems)
    if not problems:
        before = answers[0].extra
        for row, answer in zip(scenario.steps, answers[1:], strict=True):
            extra = before if row.extra is None else row.extra[:_EXTRA_CHARACTERS_MAX]
            pairs = (
                ("error", row.error, answer.error),
                ("state", row.state, answer.state),
                ("rc", row.rc, answer.rc),
                ("extra version", extra, answer.extra),
            )
            differences += [
                f"{row.do} {row.name}: {what} is {found!r}, the table says {wanted!r}"
                for what, wanted, found in pairs
                if wanted != found
            ]
    return Played(
        scenario=scenario.id, what=scenario.what, place=place, differences=tuple(differences)
    )
