# SPDX-License-Identifier: Apache-2.0
"""Programs of the machine we run on, and Debian's packages without installing them."""
