# SPDX-License-Identifier: Apache-2.0
"""Hypervisors that run, by name: built once from what a vendor keeps, and held against the image.

A base is a folder of the user's cache: the sources, built, with the image that was shipped in the
place of the build's own, and ``base.json``, which says what it was made of and how both compare.
`orders` says what is asked for, `adding` makes it, `checking` compares it, `store` finds it by
name.
"""
