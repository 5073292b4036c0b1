# SPDX-License-Identifier: Apache-2.0
"""What changed in meaning between two objects, and why?"""
