# SPDX-License-Identifier: Apache-2.0
"""C text read without a compiler: what an edit means, and how line numbers can be kept."""
