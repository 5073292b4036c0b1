# SPDX-License-Identifier: Apache-2.0
"""The projects in this folder are inputs; a vendor's tests run where its package is installed."""

collect_ignore = ["acme/tests"]  # tests/plugins/test_acme.py installs the package and runs them
