# SPDX-License-Identifier: Apache-2.0
"""A built Xen tree, and what its build recorded beside each object."""
