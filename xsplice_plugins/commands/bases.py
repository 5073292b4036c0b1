# SPDX-License-Identifier: Apache-2.0
"""The subcommands about bases: ``xsplice base add``, ``list``, ``check``, ``remove``."""

from __future__ import annotations

import contextlib
import os
import sys
from argparse import SUPPRESS, ArgumentTypeError
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from xsplice_plugins import artefacts
from xsplice_plugins.artefacts import BaseRecord, Boots, Likeness
from xsplice_plugins.commands.words import Row, show
from xsplice_plugins.errors import ConfigError, XspliceError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator

    from xsplice_plugins.bases.adding import Progress
    from xsplice_plugins.bases.orders import Order

_SHOWN_MAX = 12
_LIKE = {
    Likeness.IDENTICAL: "bit-identical: the build gives the shipped image byte for byte",
    Likeness.MATCHED: "matched: each function and datum was held against the shipped image",
    Likeness.OWN: "its own build: nothing shipped was given, so boot what lies in the tree",
}
_BOOTS = {
    Boots.EQUAL: "held: every byte that is loaded of what boots is that of xen-syms",
    Boots.NOTHING: "not compared: nothing that boots lies here; give it with --boot",
    None: "not compared by the earlier version that added it; `xsplice base check` compares it",
}
_NO_FILES = (
    "of no source files are in xen-syms, as after `strip -g`; statics of one name count as absent "
    "and as strangers, and fixes near them are refused: give xen-syms as it was linked, or after "
    "`strip -g --keep-file-symbols`"
)
_NO_LIST = (
    "no list of them, for an earlier version added it: of makefiles and scripts, which no object's "
    "record names, nobody can tell whether they changed; remove it and add it again to have one"
)


def _word(text: str) -> str:
    """Take the value of an option; an empty one is a variable of a shell that was never set."""
    if not text.strip():
        raise ArgumentTypeError("its value is empty; give one, or leave the option out")
    return text


def _path(text: str) -> Path:
    return Path(_word(text))


def _add_base(parser: ArgumentParser) -> None:
    deeds = parser.add_subparsers(dest="deed", required=True, metavar="DEED")
    add = deeds.add_parser("add", help="build a hypervisor that runs, and keep it by name")
    add.add_argument("name", metavar="NAME", help="how it is called in XEN=base:NAME")
    add.add_argument("--source", type=_path, help="folder, tarball, .dsc or .src.rpm; only read")
    add.add_argument("--ref", type=_word, help="a tag or commit, where the source is a git clone")
    add.add_argument("--debian", type=_word, help="a package's version, or 12: fetch all of it")
    add.add_argument("--config", type=_word, help="the running hypervisor's, or `defconfig`")
    add.add_argument("--image", type=_path, help="the shipped xen-syms")
    add.add_argument("--boot", type=_path, help="the shipped xen or xen.gz")
    add.add_argument(
        "--pristine", type=_path, action="append", default=[], help="a patch that it was built with"
    )
    add.add_argument("--make", type=_word, action="append", default=[], metavar="NAME=VALUE")
    add.add_argument("--targets", type=_word, help="more targets of make")
    add.add_argument("--cc", type=_word, help="the compiler; default: the recipe's, else gcc")
    add.add_argument("--loader", type=_word, help="a vendor's loader: xenserver")
    add.add_argument("--mirror", type=_word, help="an archive in place of the system's")
    add.add_argument(
        "--replace", action="store_true", help="make it again if it is made of something else"
    )
    add.add_argument("--jobs", "-j", type=int, default=os.cpu_count() or 1)
    for name, about in (
        ("check", "hold it against its image once more"),
        ("remove", "remove it"),
        ("path", "print the folder of its tree"),
    ):
        deeds.add_parser(name, help=about).add_argument("name", metavar="NAME")
    deeds.add_parser("list", help="say which there are")
    for deed in deeds.choices.values():
        deed.allow_abbrev = False
        deed.add_argument(
            "--json", action="store_true", default=SUPPRESS, help="print JSON for machines"
        )


def _base(arguments: Namespace) -> int:
    from xsplice_plugins.bases import adding, checking, store  # noqa: PLC0415  they are large

    deed = arguments.deed
    if deed == "add":
        with _shown_progress() as progress:
            record = adding.add_base(_order(arguments), progress=progress)
        show(artefacts.to_json(record) if arguments.json else _told(record))
    elif deed == "check":
        record = checking.check_base(arguments.name)
        show(artefacts.to_json(record) if arguments.json else _told(record))
    elif deed == "path":
        tree = str(store.tree_of(f"base:{arguments.name}"))
        said = {"name": arguments.name, "tree": artefacts.plain(tree)}
        show(artefacts.to_json(said) if arguments.json else f"{tree}\n")
    elif deed == "remove":
        store.remove_base(arguments.name, waiting=partial(_wait, arguments.name))
        show(artefacts.to_json({"name": arguments.name}) if arguments.json else "")
    else:
        return _list(is_json=arguments.json)
    return 0


def _wait(name: str, who: str) -> None:
    sys.stderr.write(f"base {name}: {who} uses it; waiting for its end ...\n")


def _list(*, is_json: bool) -> int:
    """Show the bases that are ready, and name those that are not; a damaged one is an error."""
    from xsplice_plugins.bases import store  # noqa: PLC0415  it is large

    rows, status = [], 0
    for name in store.begun_bases():
        try:
            rows.append(store.find_base(name)[0])
        except XspliceError as error:
            # One whose making has not ended is no error of the list.
            status = max(status, 0 if isinstance(error, ConfigError) else error.exit_status)
            sys.stderr.write(f"xsplice base: {error}\n")
    text = "".join(f"{_line(row)}\n" for row in rows) or "no bases; see `xsplice base add -h`\n"
    show(artefacts.to_json(rows) if is_json else text)
    return status


def _order(arguments: Namespace) -> Order:
    from xsplice_plugins.bases.orders import Order  # noqa: PLC0415  it is large

    if arguments.jobs < 1:
        raise ConfigError(f"--jobs {arguments.jobs}: give a number from 1 on")

    def absolute(path: Path | None) -> Path | None:
        if path is None:
            return None
        return path.resolve() if ".." in path.parts else path.absolute()

    config = arguments.config or ""
    return Order(
        name=arguments.name,
        source=absolute(arguments.source),
        ref=arguments.ref or "",
        debian=arguments.debian or "",
        config=str(Path(config).absolute()) if config not in {"", "defconfig"} else config,
        image=absolute(arguments.image),
        boot=absolute(arguments.boot),
        pristine=tuple(path.absolute() for path in arguments.pristine),
        make=tuple(arguments.make),
        targets=tuple((arguments.targets or "").split()),
        compiler=arguments.cc or "",
        mirror=arguments.mirror or "",
        loader=arguments.loader or "",
        is_replaced=arguments.replace,
        jobs=arguments.jobs,
    )


def _line(record: BaseRecord) -> str:
    words = (f"Xen {record.release}", record.likeness, record.build_id, record.source)
    return "\t".join((record.name, *words))


def _told(record: BaseRecord) -> str:
    rows = [
        f"base:{record.name}: Xen {record.release}, build-id {record.build_id}",
        f"  sources   {record.source}, built the {record.recipe} way by {record.compiler}",
        f"  image     {_LIKE[record.likeness]}",
        f"  boots     {_BOOTS[record.boots]}",
        f"  matched   {record.matched} functions and data of {record.objects} objects",
    ]
    for title, names in (
        ("differ", record.differs),
        ("absent", record.absent),
        ("ambiguous", record.ambiguous),
        ("strangers", record.strangers),
    ):
        if names:
            more = len(names) - _SHOWN_MAX
            listed = ", ".join(names[:_SHOWN_MAX]) + (f" and {more} more" if more > 0 else "")
            rows.append(f"  {title:9} {len(names)}: {listed}")
    if not record.files:
        rows.append(f"  files     {_NO_LIST}")
    if record.has_files is False:
        rows.append(f"  names     {_NO_FILES}")
    if record.likeness is Likeness.MATCHED and record.otherwise is None:
        is_open = record.differs or record.absent or record.strangers
        what = "all new code is not checked" if is_open else "no code or data differs"
        rows.append(f"  types     not compared, for debug information is missing; {what}")
    elif record.otherwise:
        built = [name for name, *_ in record.otherwise if name.endswith(".o")]
        if len(record.otherwise) > len(built):
            count = len(record.otherwise) - len(built)
            rows.append(f"  types     {count} are otherwise in the shipped image")
        if built:
            rows.append(
                f"  options   {len(built)} objects were compiled otherwise: {built[0]}, ..."
            )
    return "\n".join([*rows, f"  use it as XEN=base:{record.name}", ""])


@contextlib.contextmanager
def _shown_progress() -> Iterator[Progress]:
    """Give a progress function: a bar on a terminal, a line for each step elsewhere."""
    if not sys.stderr.isatty():
        said: set[str] = set()

        def say(step: str, _done: int, _total: int) -> None:
            if step not in said:
                said.add(step)
                sys.stderr.write(f"{step} ...\n")

        yield say
        return
    from rich.console import Console  # noqa: PLC0415  # only where a person looks on
    from rich.progress import Progress as Bar  # noqa: PLC0415  # as above

    with Bar(console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, object] = {}

        def show_step(step: str, done: int, total: int) -> None:
            if step not in tasks:
                for task in tasks.values():
                    bar.update(task, total=1, completed=1)  # type: ignore[arg-type]
                tasks[step] = bar.add_task(step, total=None)
            bar.update(tasks[step], completed=done, total=total or None)  # type: ignore[arg-type]

        yield show_step


COMMANDS: tuple[Row, ...] = (
    ("base", "name the hypervisors that run: add, list, check, remove", _add_base, _base),
)
