# SPDX-License-Identifier: Apache-2.0
"""ACME's signing plugin for xsplice."""
