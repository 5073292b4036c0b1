# SPDX-License-Identifier: Apache-2.0
"""What every subcommand does with files, plugins and the standard output."""

from __future__ import annotations

import logging
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING

from xsplice_plugins.errors import ConfigError
from xsplice_plugins.plugins import manager
from xsplice_plugins.plugins.discovery import TRACE_VARIABLE

if TYPE_CHECKING:
    from pathlib import Path

    import pluggy

    from xsplice_plugins.plugins.spec import Config

#: name, what it does, how to add its arguments, what to run
Row = tuple[str, str, Callable[[ArgumentParser], None], Callable[[Namespace], int]]


def read(path: Path) -> bytes:
    """Return a file's bytes.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def show(data: bytes | str) -> None:
    """Write an answer to the standard output."""
    sys.stdout.write(data.decode() if isinstance(data, bytes) else data)


def plugins_of(config: Config) -> pluggy.PluginManager:
    """Return the plugins of this run, with the configuration told to them."""
    if os.environ.get(TRACE_VARIABLE, "") not in {"", "0"}:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    plugins = manager.build_plugin_manager(environ=os.environ)
    manager.startup(plugins, config)
    return plugins


def record_path(payload: Path) -> Path:
    """Return where the record of a payload lies: ``fix.payload.json`` beside ``fix.livepatch``."""
    stem = payload.name.removesuffix(".unsigned").removesuffix(".livepatch")
    return payload.with_name(f"{stem}.payload.json")
