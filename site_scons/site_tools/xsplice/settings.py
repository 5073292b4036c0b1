# SPDX-License-Identifier: Apache-2.0
"""From SCons variables to the values that the library takes."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from SCons.Errors import StopError

from xsplice_plugins.artefacts import VerifyRequest
from xsplice_plugins.plugins.discovery import TRACE_VARIABLE
from xsplice_plugins.plugins.spec import Config

if TYPE_CHECKING:
    from collections.abc import Mapping

    from SCons.Environment import Environment


def environment() -> Mapping[str, str]:
    """Return the process' environment, which switches plugins on and off (docs/hooks.md)."""
    return os.environ


def show_trace() -> None:
    """Show what plugins are asked, where ``XSPLICE_TRACE_PLUGINS`` is set."""
    if os.environ.get(TRACE_VARIABLE, "") not in {"", "0"}:
        logging.basicConfig(level=logging.INFO, format="%(message)s")


def is_on(env: Environment, name: str) -> bool:
    """Tell whether a switch is set: anything but nothing and 0."""
    return str(env.get(name, "")) not in {"", "0"}


def words(text: object) -> list[str]:
    """Split a variable that holds several values, separated by commas or white space.

    A value that itself holds white space is given as a Python list in an SConstruct.
    """
    if isinstance(text, str):
        return text.replace(",", " ").split()
    return [str(word) for word in text] if isinstance(text, (list, tuple)) else [str(text)]


def files(env: Environment, value: object, name: str) -> list[Path]:
    """Return the existing files or folders that a variable or an argument names.

    One file whose name holds blanks is understood: if the whole text names it, it is one path.

    Args:
        env: The environment; relative paths are taken from the SConscript's folder.
        value: A text, a node, or a list of them.
        name: How messages call the variable.

    Raises:
        StopError: A file does not exist.
    """
    whole = isinstance(value, str) and Path(env.Entry(value).srcnode().get_abspath()).exists()
    found = []
    for word in [value] if whole else words(value):
        path = Path(env.Entry(str(word)).srcnode().get_abspath())
        if not path.exists():
            raise StopError(f"{name}={word}: no such file; give the path of an existing file")
        found.append(path)
    return found


def _path(env: Environment, name: str) -> Path | None:
    value = env.get(name, "")
    if not value:
        return None
    path = Path(env.File(str(value)).get_abspath())
    if not path.is_file():
        raise StopError(f"{name}={value}: no such file; give the path of an existing file")
    return path


def config_from(env: Environment, *, release: str, image: Path) -> Config:
    """Return the settings of one fix.

    Args:
        env: The environment with the variables of ``add_variables``.
        release: The hypervisor's release, where ``RELEASE`` does not say otherwise.
        image: Absolute path of ``xen-syms``.

    Raises:
        StopError: A named file does not exist, or an option is not ``key=value``.
    """
    options = []
    for word in words(env.get("OPTIONS", "")):
        key, equals, value = word.partition("=")
        if not equals:
            raise StopError(f"OPTIONS: `{word}` is not key=value; separate settings by spaces")
        options.append((key, value))
    release = str(env.get("RELEASE") or release)
    return Config(
        release=release,
        profile="xen-" + ".".join(release.split(".")[:2]),
        image=image,
        differ=str(env.get("DIFFER", "semantic")),
        linker=str(env.get("LINKER", "livepatch")),
        signer=str(env.get("SIGNER", "cms")),
        verifiers=tuple(words(env.get("ON", "model"))),
        key=_path(env, "KEY"),
        certificate=_path(env, "CERT"),
        depends=_path(env, "DEPENDS"),
        options=tuple(sorted(options)),
    )


def request_from(env: Environment, config: Config) -> VerifyRequest:
    """Return what is asked of the verifiers; the paths of built files are filled in later."""
    return VerifyRequest(
        payload_path=Path(),
        image_path=config.image or Path(),
        release=config.release,
        releases_compared=tuple(words(env.get("RELEASES", ""))),
        certificate=config.certificate,
        expected=_path(env, "EXPECT"),
        beneath=(config.depends,) if config.depends else (),
    )
