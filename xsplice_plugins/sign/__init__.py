# SPDX-License-Identifier: Apache-2.0
"""Signatures, and checking them."""
