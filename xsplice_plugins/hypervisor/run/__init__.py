# SPDX-License-Identifier: Apache-2.0
"""Running the image's code: hooks and probes."""
