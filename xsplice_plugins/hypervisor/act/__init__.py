# SPDX-License-Identifier: Apache-2.0
"""What happens while all CPUs wait: apply, revert, replace, and the bytes that change."""
