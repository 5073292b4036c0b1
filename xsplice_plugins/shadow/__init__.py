# SPDX-License-Identifier: Apache-2.0
"""A fix written again, so that a member it adds lives in a shadow of each object."""

from xsplice_plugins.shadow.fixing import ShadowFix, shadow_fix

__all__ = ["ShadowFix", "shadow_fix"]
