# SPDX-License-Identifier: Apache-2.0
"""The plugins that come with xsplice: ordinary plugins, each in the room of its stage."""

from __future__ import annotations

from importlib import import_module

#: ``module:class``, in order of registration. Pluggy asks the last registered first, so vendors'
#: plugins, which come later, are asked before these.
BUILT_IN = (
    "xsplice_plugins.diff.plugin:SemanticDiffer",
    "xsplice_plugins.link.plugin:LivepatchLinker",
    "xsplice_plugins.sign.plugin:CmsSigner",
    "xsplice_plugins.sign.plugin:NoneSigner",
    "xsplice_plugins.verify.plugin:ModelVerifier",
    "xsplice_plugins.verify.plugin:QemuVerifier",
    "xsplice_plugins.verify.plugin:RebuildVerifier",
)

ORIGIN_BUILT_IN = "xsplice"

#: A run without the built-in verifier would call payloads good that nobody looked at.
ALWAYS_ASKED = "model"


def built_in_plugins() -> dict[str, object]:
    """Return a new instance of each built-in plugin by its name, in order of registration."""
    plugins = {}
    for place in BUILT_IN:
        module, _, name = place.partition(":")
        plugin = getattr(import_module(module), name)()
        plugins[plugin.xsplice_name] = plugin
    return plugins
