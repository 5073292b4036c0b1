# SPDX-License-Identifier: Apache-2.0
"""The one table of settings: every face takes its names, defaults and help from here.

A row is a variable of ``scons xsplice`` and of ``make`` (``SIGNER=cms``), an option of the
subcommands that it names (``--signer cms``), a field of `Config` where it has one, and a line of
the reference page. A new setting is a new row.
"""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from xsplice_plugins.artefacts import check_words
from xsplice_plugins.errors import ConfigError
from xsplice_plugins.plugins.spec import Config
from xsplice_plugins.releases import parse_loader, parse_release

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Callable, Iterable, Mapping

    from xsplice_plugins.artefacts import Facts


class Takes(StrEnum):
    """What a setting's value is."""

    TEXT = "a text"
    WORDS = "words, separated by commas or blanks"
    FILE = "a file that exists"
    FILES = "files that exist, separated by commas or blanks"
    FOLDER = "a folder"
    PAIRS = "key=value, separated by blanks"
    SWITCH = "1 or 0"


class Setting(Struct, frozen=True, kw_only=True):
    """One row of the table."""

    name: str  #: as SCons and make spell it
    help: str
    takes: Takes = Takes.TEXT
    default: str = ""
    field: str = ""  #: of `Config`; "" for what only says which files a run is about
    commands: tuple[str, ...] = ()  #: subcommands of ``xsplice`` with this option
    option: str = ""  #: of the subcommands; default: ``--`` and the name
    is_variable: bool = True  #: whether SCons and make know it

    @property
    def flag(self) -> str:
        """Return the option of the subcommands."""
        return self.option or "--" + self.name.lower().replace("_", "-")


_JUDGES = ("verify", "patch")

SETTINGS = (
    Setting(
        name="XEN",
        help="a built Xen tree (its top, its xen/ folder, an O= folder), or base:NAME; only read",
        takes=Takes.FOLDER,
        commands=("patch", "shadow", "percpu", "values", "build", "play"),
    ),
    Setting(name="PATCH", help="the fix: unified diffs or a quilt series", takes=Takes.WORDS),
    Setting(name="HOTFIX", help="hand-written C files instead of a patch", takes=Takes.WORDS),
    Setting(
        name="NAME",
        help="name of the fix; default: the first file's name",
        commands=("patch", "build", "link"),
    ),
    Setting(
        name="SIGNER",
        help="the signing plugin",
        default="cms",
        field="signer",
        commands=("patch", "build", "sign", "verify"),
    ),
    Setting(
        name="KEY",
        help="PEM file of the private key; default: a development key in the build folder",
        takes=Takes.FILE,
        field="key",
        commands=("patch", "build", "sign"),
    ),
    Setting(
        name="CERT",
        help="PEM file of the certificate that the signature must fit",
        takes=Takes.FILE,
        field="certificate",
        commands=("patch", "build", "sign", "verify"),
    ),
    Setting(
        name="DEPENDS",
        help="the payloads that this one stacks on, bottom first",
        takes=Takes.FILES,
        field="depends",
        commands=("patch", "build", "link"),
    ),
    Setting(
        name="SUPERSEDES",
        help="the payloads that this one takes the place of by `replace`, bottom first",
        takes=Takes.FILES,
        field="supersedes",
        commands=("patch", "build", "link", "verify"),
    ),
    Setting(
        name="ACCEPT",
        help="what a person has looked at and takes on their word, as the report asks for it: "
        "LAYOUT:structure.member, INIT_CODE:function, INIT_DATA:name, STATE:variable, HOOK:kind",
        takes=Takes.WORDS,
        field="accept",
        commands=("patch", "build", "link"),
    ),
    Setting(
        name="RELEASE",
        help="the hypervisor's release, where neither image nor record tells it; of a tree, its "
        "Makefile or its image has to",
        field="release",
        commands=("patch", "build", "diff", "link", "verify", "model"),
    ),
    Setting(
        name="LOADER",
        help="xenserver, which takes names that exist already, or upstream; default: the base's",
        field="loader",
        commands=("patch", "build", "verify", "model"),
    ),
    Setting(
        name="RELEASES",
        help="further releases to judge the payload against",
        takes=Takes.WORDS,
        field="releases_compared",
        commands=_JUDGES,
    ),
    Setting(
        name="DIFFER",
        help="the diffing plugin",
        default="semantic",
        field="differ",
        commands=("patch", "diff"),
    ),
    Setting(
        name="PROFILE",
        help="the table of special sections: xen or linux",
        default="xen",
        field="profile",
        commands=("diff",),
        is_variable=False,
    ),
    Setting(
        name="LINKER",
        help="the linking plugin",
        default="livepatch",
        field="linker",
        commands=("patch", "build", "link"),
    ),
    Setting(
        name="ON",
        help="the verifiers: model, qemu, rebuild, or a vendor's plugin; model is always asked",
        takes=Takes.WORDS,
        default="model",
        field="verifiers",
        commands=(*_JUDGES, "play"),
    ),
    Setting(
        name="EXPECT",
        help="expected.json of a regression hot-patch to check against",
        takes=Takes.FILE,
        field="expected",
        commands=_JUDGES,
    ),
    Setting(
        name="OPTIONS",
        help="settings of vendors' plugins",
        takes=Takes.PAIRS,
        field="options",
        commands=("patch", "build", "play", "diff", "link", "sign", "verify"),
        option="--option",
    ),
    Setting(
        name="LINE_NEUTRAL",
        help="keep the line numbers of what the patch does not change",
        takes=Takes.SWITCH,
        default="0",
        commands=("patch",),
    ),
    Setting(
        name="VERBOSE",
        help="print the lines that compile, diff, link, sign and verify by hand",
        takes=Takes.SWITCH,
        default="0",
        commands=("patch",),
    ),
    Setting(
        name="BUILD",
        help="folder for all that is built, never inside XEN; of `xsplice patch` one in the cache",
        default="build",
        takes=Takes.FOLDER,
        commands=("patch",),
    ),
)

#: What the environment says, on every face.
ENVIRONMENT = {
    "XSPLICE_PLUGINS": "more plugins: modules, or name=/path/file.py, separated by commas",
    "XSPLICE_DISABLE_PLUGINS": "plugins to leave out; * for all that are installed",
    "XSPLICE_TRACE_PLUGINS": "1: log every call of a plugin",
    "XSPLICE_KEY_PASSPHRASE": "opens an encrypted KEY",
    "XSPLICE_CACHE": "folder for Xen trees, packages and saved machines; default: ~/.cache/xsplice",
}
#: A file beside the SConstruct with variables, as Python: ``SIGNER = "acme"``.
SETTINGS_FILE = "xsplice.conf.py"
_BY_NAME = {setting.name: setting for setting in SETTINGS}


def add_options(parser: ArgumentParser, command: str, *, required: Iterable[str] = ()) -> None:
    """Add a subcommand's options.

    Args:
        parser: The subcommand's parser.
        command: The subcommand, as the rows name it.
        required: Names of settings that must be given.
    """
    for setting in SETTINGS:
        if command not in setting.commands:
            continue
        words: dict[str, Any] = {"dest": setting.name, "help": setting.help}
        if setting.takes is Takes.SWITCH:
            words |= {"action": "store_const", "const": "1", "default": setting.default}
        elif setting.takes in {Takes.PAIRS, Takes.WORDS, Takes.FILES}:
            is_pair = setting.takes is Takes.PAIRS
            words |= {"action": "append", "metavar": "KEY=VALUE" if is_pair else setting.takes.name}
        else:
            default = None if setting.name in required else setting.default
            words |= {"default": default, "required": setting.name in required}
            words["metavar"] = setting.takes.name
        parser.add_argument(setting.flag, **words)


def split_words(value: object) -> tuple[str, ...]:
    """Return the words of a value; one that holds blanks itself is given as a list."""
    if isinstance(value, str):
        return tuple(value.replace(",", " ").split())
    return tuple(map(str, value)) if isinstance(value, list | tuple) else (str(value),)


def split_files(value: object, resolve: Callable[[str], Path]) -> tuple[str, ...]:
    """Return the paths of a value; one that names a file as it stands may hold blanks."""
    words = value if isinstance(value, list | tuple) else [value]
    return tuple(
        path
        for word in map(str, words)
        # Unlike a Path, it says no to what is too long to be one.
        for path in ([word] if os.path.isfile(resolve(word)) else split_words(word))  # noqa: PTH113
    )


_ON, _OFF = {"1", "y", "yes", "on", "true"}, {"", "0", "n", "no", "off", "false", "none"}


def is_on(value: object) -> bool:
    """Tell whether a switch is set.

    Raises:
        ConfigError: It says neither yes nor no.
    """
    word = str(value).lower()
    if word not in _ON | _OFF:
        raise ConfigError(f"{value}: neither yes nor no; give 1 or 0")
    return word in _ON


def make_config(
    given: Mapping[str, object],
    *,
    release: str,
    image: Path | None = None,
    facts: Facts | None = None,
    loader: str = "",
    build_dir: Path | None = None,
    resolve: Callable[[str], Path] = Path,
) -> Config:
    """Make the settings of one run: the only place that does.

    Args:
        given: Values by setting's name; what is missing or "" has its default.
        release: The hypervisor's release as tree, image or record tell it; "" if none does.
        image: ``xen-syms``.
        facts: What the tree's headers define; ``None`` if no tree could be asked.
        loader: A vendor's loader, as the base names it.
        build_dir: Where a development key may be made.
        resolve: Turns a path as it was given into one that can be opened.

    Raises:
        ConfigError: A file is missing, a pair is none, a name is not in the table, there is no such
            loader, or RELEASE contradicts what the hypervisor says of itself.
    """
    fields: dict[str, Any] = {}
    for name, raw in given.items():
        setting = _BY_NAME.get(name)
        if setting is None:
            known = ", ".join(sorted(_BY_NAME))
            raise ConfigError(f"{name}: there is no such setting; known are {known}")
        if setting.field and raw not in (None, "", [], ()):
            fields[setting.field] = _value(setting, raw, resolve)
    check_words(fields.get("accept", ()))
    for name in fields.get("releases_compared", ()):
        parse_release(name)
    said = fields.pop("release", "")
    check_release(said, release, "RELEASE", "what tree, image or record say")
    fields.setdefault("loader", loader)
    fields["loader"] = parse_loader(fields["loader"])
    if release or said:
        parse_release(release or said)
    if fields.get("depends") and fields.get("supersedes"):
        raise ConfigError(
            "DEPENDS and SUPERSEDES: `replace` takes all other payloads away, so what it applies "
            "stacks on none; give one of the two"
        )
    return Config(
        release=release or said,
        image=image,
        facts=facts,
        build_dir=build_dir,
        **fields,
    )


def options_of(config: Config, *names: str) -> list[str]:
    """Return the options of the command line for what was set otherwise than by default.

    Args:
        config: Settings of a run.
        names: Of the settings that are wanted.
    """
    usual = Config()
    words: list[str] = []
    for row in SETTINGS:
        if row.name not in names or getattr(config, row.field) == getattr(usual, row.field):
            continue
        value = getattr(config, row.field)
        for one in value if isinstance(value, tuple) else (value,):
            words += [row.flag, "=".join(one) if isinstance(one, tuple) else str(one)]
    return words


def check_release(said: str, known: str, who: str, whose: str) -> None:
    """Refuse a release that contradicts what is known; one that is not stated contradicts nothing.

    Args:
        said: A release, or "".
        known: The release that is known, or "".
        who: Who says ``said``.
        whose: Where ``known`` comes from.

    Raises:
        ConfigError: They are different releases, or ``said`` is none.
    """
    if said and (not known or parse_release(said) != parse_release(known)):
        parse_release(said)
        if known:
            raise ConfigError(
                f"{who} says Xen {said}, and {whose} is Xen {known}; "
                "give what belongs together, or leave the release away"
            )


def _value(setting: Setting, raw: object, resolve: Callable[[str], Path]) -> object:
    if setting.takes is Takes.FILE:
        return _file(setting, str(raw), resolve)
    if setting.takes is Takes.FILES:
        return tuple(_file(setting, word, resolve) for word in split_files(raw, resolve))
    if setting.takes is Takes.WORDS:
        return tuple(word for part in split_words(raw) for word in split_words(part))
    if setting.takes is Takes.PAIRS:
        return tuple(sorted(_pair(word) for word in split_words(raw)))
    return str(raw)


def _file(setting: Setting, word: str, resolve: Callable[[str], Path]) -> Path:
    path = resolve(word)
    if not path.is_file():
        raise ConfigError(f"{setting.name}={word}: no such file; give the path of an existing file")
    return path


def _pair(word: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not (key and equals):
        raise ConfigError(f"OPTIONS: `{word}` is not key=value; separate settings by blanks")
    return key, value
