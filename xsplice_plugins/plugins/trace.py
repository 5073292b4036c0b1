# SPDX-License-Identifier: Apache-2.0
"""Log hook calls without showing payloads or secrets."""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING

from msgspec import Struct

from xsplice_plugins.plugins.spec import Config

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pluggy import HookImpl, Result

log = logging.getLogger(__name__)

TEXT_MAX = 120  #: characters of one argument


def log_before(hook_name: str, impls: Sequence[HookImpl], arguments: Mapping[str, object]) -> None:
    """Log that a hook is called, with whom and with what."""
    asked = ", ".join(impl.plugin_name for impl in reversed(impls)) or "nobody"
    text = ", ".join(f"{name}={describe(value)}" for name, value in sorted(arguments.items()))
    log.info("%s(%s) asks %s", hook_name, text, asked)


def log_after(
    outcome: Result[object],
    hook_name: str,
    impls: Sequence[HookImpl],  # noqa: ARG001  # pluggy passes by position
    arguments: Mapping[str, object],  # noqa: ARG001  # as above
) -> None:
    """Log what came back; exceptions by class only, their text is shown where they end."""
    if outcome.exception is None:
        log.info("%s -> %s", hook_name, describe(outcome.get_result()))
    else:
        log.info("%s raised %s", hook_name, type(outcome.exception).__name__)


def describe(value: object) -> str:
    """Return a short text for a log line: digests instead of bytes, no values of options."""
    if isinstance(value, bytes):
        return f"<{len(value)} bytes, sha256 {hashlib.sha256(value).hexdigest()[:12]}>"
    if isinstance(value, Config):
        names = ", ".join(name for name, _ in value.options)
        return f"<Config: {value.differ}, {value.linker}, {value.signer}; options: {names or '-'}>"
    if isinstance(value, tuple | list):
        return f"<{len(value)} of {', '.join(sorted({type(v).__name__ for v in value})) or '-'}>"
    if isinstance(value, Struct):
        digest = hashlib.sha256(repr(value).encode()).hexdigest()[:12]
        return f"<{type(value).__name__} {digest}>"
    return repr(value)[:TEXT_MAX]
