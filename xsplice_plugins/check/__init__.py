# SPDX-License-Identifier: Apache-2.0
"""An independent check: do tree and image agree, and is a payload what a full rebuild would run?

It works on sections, symbols, relocations and bytes; nothing is decoded but relocated fields. It
shares no code with differ, linker and model, so that none of their mistakes can be its own.
"""
