# SPDX-License-Identifier: Apache-2.0
"""What changed in meaning between two versions of an object, and why.

The modules follow the work: `normalise` takes an object apart, `correlate` pairs the parts,
`compare` finds those that differ by the names that `canon` gives, `close` collects what they need,
`refuse` stops what cannot be live patched, `explain` says why. `target/sections.py` describes
sections as data.
"""
