# SPDX-License-Identifier: Apache-2.0
"""One payload from many deltas."""
