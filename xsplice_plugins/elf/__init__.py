# SPDX-License-Identifier: Apache-2.0
"""Reading and writing ELF object files, and the structures that live patching adds to them."""
