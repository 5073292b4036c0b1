# SPDX-License-Identifier: Apache-2.0
"""How was this tree compiled, and what does this patch touch?"""
