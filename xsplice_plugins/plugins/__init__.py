# SPDX-License-Identifier: Apache-2.0
"""Who takes part in a run: the hooks, finding plugins, the rules they keep, calling them."""
