# SPDX-License-Identifier: Apache-2.0
"""The library of xsplice: build, sign and prove live patches of the Xen hypervisor.

What a vendor's plugin imports stands here; the rest is reached by module.
"""

from xsplice_plugins.plugins.spec import HOOK_API, Config, hookimpl

__all__ = ["HOOK_API", "Config", "hookimpl"]
__version__ = "0.1.0"
