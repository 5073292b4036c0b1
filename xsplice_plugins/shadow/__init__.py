# SPDX-License-Identifier: Apache-2.0
"""A fix written again for what is in memory already: new members in shadows, values in hooks."""

from xsplice_plugins.shadow.fixing import shadow_fix
from xsplice_plugins.shadow.percpu import percpu_fix
from xsplice_plugins.shadow.texts import Rewritten
from xsplice_plugins.shadow.values import value_fix

__all__ = ["Rewritten", "percpu_fix", "shadow_fix", "value_fix"]
