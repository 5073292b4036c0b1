# SPDX-License-Identifier: Apache-2.0
"""Which settings reach a step: it is run with these alone, and made again for each of them.

What is left out here is not seen there, so no step can depend on a setting that nobody compares.
A plugin that is not ours may read every setting; then every setting reaches its step.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from xsplice_plugins import artefacts, settings
from xsplice_plugins.plugins import manager
from xsplice_plugins.plugins.spec import Config

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pluggy

_KNOWN = {"release", "facts"}  #: what the hypervisor is
_BENEATH = {"depends", "supersedes"}

#: The fields of `Config` that the library and our own plugins read, by step.
_REACHING = {
    "base": _KNOWN,
    "handmade": {*_KNOWN, *_BENEATH, "profile"},
    "diff": {*_KNOWN, "depends", "differ", "profile", "options"},
    "link": {*_KNOWN, *_BENEATH, "linker", "accept", "options"},
    "check": {*_KNOWN, "depends"},
    "sign": {"signer", "key", "certificate", "build_dir", "options"},
    "verify": set(Config.__struct_fields__),
}
#: The hooks that are called in a step.
HOOKS = {
    "diff": ("xsplice_diff_objects", "xsplice_check_delta"),
    "link": ("xsplice_link_payload",),
    "sign": ("xsplice_sign_payload", "xsplice_check_signature"),
    "verify": ("xsplice_verify_payload", "xsplice_check_signature"),
}
#: Files whose place says nothing: their content is compared, or what else is made of them.
_BY_CONTENT = {"image", "build_dir", "key", "certificate", "expected"}
_NO_INPUT = {"image", "build_dir"}  #: a source of its own, and a folder


def settings_for(step: str, config: Config, plugins: pluggy.PluginManager) -> Config:
    """Return the settings that a step is run with; the others are as if nobody had set them.

    Args:
        step: A stage.
        config: All settings of the run.
        plugins: Of the run.
    """
    if not all(manager.are_built_in(plugins, hook) for hook in HOOKS.get(step, ())):
        return config
    reaching = {name: getattr(config, name) for name in _REACHING[step]}
    return replace(settings.make_config({}, release=""), **reaching)


def told(config: Config) -> list[str]:
    """Return one text for each setting; a step is made again where one of them changes."""
    return [f"{name} = {_text(name, config)}" for name in Config.__struct_fields__]


def files(config: Config) -> Iterator[Path]:
    """Yield the files that settings name; a step is made again where their content changes."""
    for name in Config.__struct_fields__:
        value = getattr(config, name)
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, Path) and name not in _NO_INPUT:
                yield one


def _text(name: str, config: Config) -> str:
    value = getattr(config, name)
    if name == "facts" and value is not None:  # what the tree's headers define
        return hashlib.sha256(artefacts.to_json(value)).hexdigest()[:16]
    if name in _BY_CONTENT:
        return "none" if value is None else "given"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
